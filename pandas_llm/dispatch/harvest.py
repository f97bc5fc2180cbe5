"""A shard's files become results: each line on its own, whatever its neighbours and the counts say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import orjson

from pandas_llm.core.answers import values_of
from pandas_llm.core.batches import PERMANENT, Problem, rows_blamed
from pandas_llm.core.errors import (
    AuthError,
    BatchError,
    ContentFilterError,
    LLMError,
    SchemaMismatchError,
    ServerError,
)
from pandas_llm.core.lines import Line, is_retryable, problem_of, read_line
from pandas_llm.core.plan import KeyIndex
from pandas_llm.core.prices import Price
from pandas_llm.core.types import Key, Misfit, Record, Result, Task, Usage
from pandas_llm.core.vectors import without_vectors
from pandas_llm.core.wire import Message, message_of
from pandas_llm.io.records import UNREAD, Kept
from pandas_llm.io.shards import Shard

_BLOCK = 1 << 18


def lines_in(file: IO[bytes]) -> Iterator[bytes]:
    r"""The lines of a file, split on `\n` alone: a text may hold U+2028, U+2029 or U+0085 as they are."""
    file.seek(0)
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def lost(shard: Shard) -> str:
    """What is said of a request that is in neither of a batch's files."""
    problems = shard.facts.get("problems")
    if problems:
        code, message, _ = problems[0]
        return f"{shard.name} failed as a whole: {message or code}"
    return f"{shard.name} {shard.facts.get('status')} without this request: it is in neither of its files."


def blamed_in(shard: Shard, keys: Sequence[Key]) -> dict[Key, BatchError]:
    """The requests that another try wouldn't help, of a batch that was refused as a whole."""
    problems = [Problem(*each) for each in shard.facts["problems"]]
    permanent = [each for each in problems if each.code in PERMANENT]
    if not permanent:
        return {}
    error = BatchError(lost(shard))
    lines = rows_blamed(permanent)
    # Where no line is named, all of them are meant.
    return {key: error for at, key in enumerate(keys) if at in lines or not lines}


class Harvest:
    """What the files of one shard say of its requests.

    Parameters
    ----------
    keys, codes
        The requests of this call that are in the shard: keys end to end, and one code a key.
    strays
        Keys in the shard that this call doesn't ask: their answers are paid for, and kept unread.
    run
        Who submitted them.
    """

    def __init__(
        self, keys: bytes, codes: Sequence[int], strays: set[Key], task: Task, price: Price | None, run: int
    ) -> None:
        self.misfits: dict[int, Misfit] = {}
        """By code, replies that are to be repaired."""
        self._codes = codes
        self._index = KeyIndex(keys, codes)
        self._strays = strays
        self._task = task
        self._price = price
        self._run = run
        self._answered = bytearray(max(codes, default=-1) + 1)
        self._failures: dict[int, tuple[Key, LLMError]] = {}

    def take(self, lines: Iterable[bytes]) -> tuple[dict[int, Result], list[Kept]]:
        """The answers in these lines by code, and those that nobody here asked for; failures wait for `rest`.

        The first success of a doubled id counts. An error line counts only where no line is a success.
        """
        results: dict[int, Result] = {}
        kept: list[Kept] = []
        ours = [line for line in map(read_line, lines) if line.key is not None]
        keys = [line.key for line in ours if line.key is not None]
        for code, key, line in zip(self._index.find(keys), keys, ours, strict=True):
            if code < 0:
                if key in self._strays:
                    kept += self._stray(key, line)
                continue
            if self._answered[code]:  # by a line before this one
                continue
            message = self._message(line)
            if isinstance(message, LLMError):
                self._failures.setdefault(code, (key, message))
                continue
            self._answered[code] = True
            result = self._result(code, key, message, _bytes(without_vectors(line.body or {})))
            if result is not None:
                results[code] = result
        return results, kept

    def read_reply(self, key: Key, reply: bytes) -> Result:
        """What a reply says that was kept unread; a misfit has failed, and isn't asked again."""
        message = message_of(orjson.loads(reply), request_id=None)
        code = self._index.find([key])[0]
        return self._result(code, key, message, reply) or self.misfits.pop(code).result

    def rest(self, why: str) -> tuple[dict[int, Result], dict[int, LLMError]]:
        """Once both files are read, by code: the failures that are final, and what may be asked again.

        `why`: what is said of a request that is in neither file.
        """
        final: dict[int, Result] = {}
        again: dict[int, LLMError] = {}
        for code in self._codes:
            if self._answered[code]:
                continue
            key, error = self._failures.get(code, (b"", None))
            if error is None or is_retryable(error) or error.stops_run:
                again[code] = error or BatchError(why)
            else:
                final[code] = Result(key=key, error=error, attempts=1, batch=True)
        return final, again

    def _stray(self, key: Key, line: Line) -> list[Kept]:
        message = self._message(line)
        if isinstance(message, LLMError):
            return []
        self._strays.remove(key)
        return [Kept(key, _unread(message), (_bytes(line.body),), self._run)]

    def _message(self, line: Line) -> Message | LLMError:
        problem: LLMError | None = problem_of(line)
        if problem is None:
            assert line.body is not None, "without a body there is a problem"
            try:
                return message_of(line.body, request_id=line.request_id)
            except ServerError as error:
                return error
        if isinstance(problem, AuthError):
            # The key was good for the batch: what is refused is this request.
            return (ContentFilterError if problem.status == 403 else BatchError)(str(problem))
        return problem

    def _result(self, code: int, key: Key, message: Message, reply: bytes) -> Result | None:
        if message.problem is not None:
            return self._of(key, message, reply, error=message.problem)
        try:
            return self._of(key, message, reply, output=values_of(message, self._task))
        except SchemaMismatchError as mismatch:
            failed = self._of(key, message, reply, error=mismatch)
            self.misfits[code] = Misfit(message.content, str(mismatch), failed)
            return None

    def _of(
        self,
        key: Key,
        message: Message,
        reply: bytes,
        *,
        output: list[object] | None = None,
        error: LLMError | None = None,
    ) -> Result:
        usage, price = message.usage, self._price
        return Result(
            key=key,
            output=output,
            error=error,
            usage=usage or Usage(),
            cost=price.cost(usage) if price is not None and usage is not None else float("nan"),
            model=message.model,
            service_tier=message.service_tier,
            finish_reason=message.finish_reason,
            request_id=message.request_id,
            latency=float("nan"),
            attempts=1,
            replies=(reply,),
            batch=True,
        )


def _bytes(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # nested deeper, or longer numbers, than orjson writes
        return json.dumps(body).encode()


def _unread(message: Message) -> Record:
    return Record(
        None,
        (UNREAD, ""),
        message.usage or Usage(),
        message.model,
        message.service_tier,
        message.finish_reason,
        message.request_id,
        batch=True,
    )
