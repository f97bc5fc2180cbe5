"""Vectors by concurrent calls: thousands of texts a request, each with an outcome and a bill of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import orjson

from pandas_llm.core import vectors
from pandas_llm.core.errors import ApiError, BadRequestError, EmptyOutputError, LLMError, ServerError
from pandas_llm.core.foreign import word
from pandas_llm.core.types import Reply, Request, Result, Usage
from pandas_llm.core.wire import Manner, read_body, request_id_of, usage_of
from pandas_llm.dispatch.asking import Asking, Source, Watcher
from pandas_llm.dispatch.gate import Gate
from pandas_llm.dispatch.workers import Tries, Worker, Workers

PACKS = 8
"""Requests in flight at most: the reply to one takes 17 MB, 2,048 vectors of 1,536 numbers."""
PACKS_HERE, INPUTS_HERE = 2, 256
"""The same, and the texts in one, where they are answered in this process: one is done while one waits."""
_MISSING = "The reply has no vector for this text, nor has a second one that was about it alone."
_UNASKED = "The reply has no vector for this text, and the run stopped before it was asked for again."

Tell: TypeAlias = Callable[[Result], None]


@dataclass(slots=True)
class _Pack(Tries):
    """Texts that are asked together, and what that took."""

    requests: Sequence[Request] = ()
    tokens: Sequence[int] = ()
    """One a request, estimated."""
    billed: Result | None = None
    """What the only request came to before: a bill without a vector."""

    def __len__(self) -> int:
        return len(self.requests)

    def part(self, start: int, end: int, failures: int) -> _Pack:
        """Some of it, after the same tries but for those that failed."""
        # A try that timed out is told of once: by the first of those it was about.
        return replace(
            self,
            requests=self.requests[start:end],
            tokens=self.tokens[start:end],
            in_doubt=0 if start else self.in_doubt,
            failures=failures,
        )


@dataclass(frozen=True, slots=True)
class _Vectors:
    """What a reply says of a pack, by place."""

    found: list[str | None]
    """The vector as the store keeps it."""
    tokens: list[int]
    costs: list[float]
    parts: list[bytes]
    """What of the reply is about this text alone; not the vector, which is the answer itself."""
    model: str | None
    request_id: str | None
    seconds: float


class Packed(Workers[_Pack, _Vectors]):
    """Requests in, exactly one Result out for each, in any order, as each is ready.

    A request that is refused for one of its texts is cut in two until that text stands alone; the others
    are answered and paid once.
    """

    def __init__(self, asking: Asking, manner: Manner, gate: Gate, watcher: Watcher) -> None:
        super().__init__(asking, manner, gate, watcher, alone_first=False)
        here = asking.question.in_process
        self._most = INPUTS_HERE if here else vectors.MOST_INPUTS
        self._places = min(asking.max_concurrency, PACKS_HERE if here else PACKS)
        # One at a time, or every worker would get a few texts of what fits into one request.
        self._packing = asyncio.Lock()

    async def _serve(self, source: Source, worker: Worker) -> bool:
        async with self._packing:
            pack = await self._pack(source, worker)
        left = {request.key: request for request in pack.requests}

        def tell(result: Result) -> None:
            del left[result.key]
            self._has(result, source)

        try:
            if len(pack):
                await self._ask(pack, tell)
        finally:
            for request in left.values():
                source.drop(request)
        return len(pack) > 0

    async def _pack(self, source: Source, worker: Worker) -> _Pack:
        """The next texts that fit into one request; none where there are no more."""
        requests: list[Request] = []
        tokens: list[int] = []
        try:
            while len(requests) < self._most:
                request = await source.take(at_once=bool(requests))
                if request is None:
                    break
                size = self._asking.tokens_of(request.text)
                # Empty or too long, it may be refused, and all that is with it would be sent once more.
                alone = not 0 < size <= vectors.TEXT_TOKENS
                if requests and (alone or sum(tokens) + size > vectors.MOST_TOKENS):
                    source.put_back(request)
                    break
                requests.append(request)
                tokens.append(size)
                if alone:
                    break
        except BaseException:
            for request in requests:
                source.drop(request)
            raise
        return _Pack(worker=worker, requests=requests, tokens=tokens)

    async def _ask(self, pack: _Pack, tell: Tell) -> bool:
        """Tell what became of each text of a pack; whether all have their vectors."""
        texts = [request.text for request in pack.requests]
        while True:
            manner, successes = self._manner, self._gate.successes
            body = vectors.body(self._asking.question, texts, base64=manner.base64)
            try:
                said = await self._exchange(body, sum(pack.tokens), pack)
            except ApiError as error:
                if self._other_manner(error, manner):
                    continue
                final = await self._after(error, pack, successes)
                if final is None:
                    continue
                if len(pack) > 1 and _one_may_be_why(final):
                    return await self._cut(pack, final, tell)
                for place in range(len(pack)):
                    tell(_failed(pack, place, final))
                return False
            return await self._take(pack, said, tell)

    async def _cut(self, pack: _Pack, why: ApiError, tell: Tell) -> bool:
        """Ask the halves of a pack that was refused."""
        refused = isinstance(why, BadRequestError)
        size = min(self._most, (len(pack) + 1) // 2)
        # A refusal is no failed try; what was tried for long is tried once more, to see which text is why.
        failures = 0 if refused else self._asking.max_retries
        parts = [pack.part(at, at + size, failures) for at in range(0, len(pack), size)]
        fine = all([await self._ask(part, tell) for part in parts])
        if fine and refused:
            # Nothing in it was bad: this server takes fewer texts at once.
            self._most = min(self._most, size)
        return fine

    async def _take(self, pack: _Pack, said: _Vectors, tell: Tell) -> bool:
        """Tell of the texts that have their vectors, then ask once more, alone, for those that haven't."""
        missing = []
        for place, vector in enumerate(said.found):
            result = _result(pack, place, said)
            if vector is None and pack.billed is None:
                missing.append((place, result))
            else:
                tell(result)
        for number, (place, billed) in enumerate(missing):
            again = replace(pack.part(place, place + 1, 0), billed=billed)
            try:
                await self._ask(again, tell)
            except BaseException:
                # Dropped, what was billed for them would be missing on the bill.
                for _, each in missing[number:]:
                    tell(replace(each, error=LLMError(_UNASKED)))
                raise
        return not missing and pack.billed is None

    def _read(self, reply: Reply, tries: _Pack) -> tuple[_Vectors, float | None]:
        body = read_body(reply)
        count, usage = len(tries), usage_of(body.get("usage"))
        found, price = vectors.vectors_of(body, count), self._asking.price_of(None)
        if tries.billed is None and not any(found):
            raise ServerError("The response has no embeddings.", status=200, request_id=request_id_of(reply))
        # An empty text counts, too: what nobody was billed for can't be shared.
        tokens = vectors.shares(usage.input if usage else 0, [max(1, each) for each in tries.tokens])
        cost = price.cost(usage) if price is not None and usage is not None else float("nan")
        whole = sum(tokens)
        said = _Vectors(
            found=found,
            tokens=tokens,
            costs=[cost * each / whole if whole else cost / count for each in tokens],
            parts=_parts(body, count),
            model=word(body.get("model")),
            request_id=request_id_of(reply),
            seconds=reply.seconds,
        )
        return said, usage.input if usage else None


def _one_may_be_why(error: ApiError) -> bool:
    """Whether a request may have failed for one of its texts, and the others needn't."""
    # No answer in time may be billed: it isn't sent in parts, too.
    return isinstance(error, BadRequestError) or (
        isinstance(error, ServerError) and error.status is not None and error.status >= 500
    )


def _parts(body: Mapping[str, Any], count: int) -> list[bytes]:
    own = ({**body, "data": [entry] if entry else []} for entry in vectors.entries_of(body, count))
    return [orjson.dumps(vectors.without_vectors(part)) for part in own]


def _result(pack: _Pack, place: int, said: _Vectors) -> Result:
    vector, before = said.found[place], pack.billed
    return Result(
        key=pack.requests[place].key,
        output=None if vector is None else [vector],
        error=EmptyOutputError(_MISSING) if vector is None else None,
        usage=Usage(said.tokens[place]) + (before.usage if before else Usage()),
        cost=said.costs[place] + (before.cost if before else 0.0),
        model=said.model,
        request_id=said.request_id,
        latency=said.seconds,
        attempts=pack.sent,
        in_doubt=0 if place else pack.in_doubt,
        replies=(*(before.replies if before else ()), said.parts[place]),
    )


def _failed(pack: _Pack, place: int, error: ApiError) -> Result:
    before = pack.billed
    return Result(
        key=pack.requests[place].key,
        error=error,
        usage=before.usage if before else Usage(),
        cost=before.cost if before else 0.0,
        request_id=error.request_id,
        attempts=pack.sent,
        in_doubt=0 if place else pack.in_doubt,
        replies=before.replies if before else (),
    )
