"""Answers by concurrent calls: one text a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from pandas_llm.core.answers import values_of
from pandas_llm.core.errors import ApiError, LLMError, SchemaMismatchError
from pandas_llm.core.tokens import admission_tokens
from pandas_llm.core.types import Misfit, Reply, Request, Result, Usage, Values
from pandas_llm.core.wire import Manner, Message, Wire, make_wire, read_message
from pandas_llm.dispatch.asking import Asking, Source, Watcher
from pandas_llm.dispatch.gate import Gate
from pandas_llm.dispatch.workers import Tries, Worker, Workers

_UNREPAIRED = "The reply didn't fit, and the run stopped before it was asked for a better one."


@dataclass(slots=True)
class _Spent(Tries):
    """What one request used up so far."""

    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    latency: float = 0.0
    replies: list[bytes] = field(default_factory=list)
    message: Message | None = None
    tier: str | None = None
    """That was asked for last: what a reply that names none is billed at."""


class Concurrent(Workers[_Spent, Message]):
    """Requests in, exactly one Result out for each, in any order, as each is ready.

    Parameters
    ----------
    asking
        What is asked, where, and how long.
    manner
        What of the API the endpoint understands, as far as it is known.
    gate
        Lets a request pass when limits allow.
    alone_first
        Whether the first request has something to settle for the others: a format that hasn't been seen to
        work here, or a prompt cache to warm. It costs them a round trip.
    """

    def __init__(
        self, asking: Asking, manner: Manner, gate: Gate, watcher: Watcher, *, alone_first: bool
    ) -> None:
        super().__init__(asking, manner, gate, watcher, alone_first=alone_first)
        self._wire: Wire = make_wire(asking.question, manner)

    async def _serve(self, source: Source, worker: Worker) -> bool:
        request = await source.take()
        if request is None:
            return False
        spent = _Spent(worker=worker) if request.misfit is None else _spent_on(request.misfit, worker)
        try:
            result = await self._ask(request, spent)
        except BaseException:
            # What a batch billed stays in its files and comes again.
            if spent.replies and request.misfit is None:
                # A billed reply whose repair will not be sent: dropped, it would be missing on the bill.
                self._has(_result(request, spent, error=LLMError(_UNREPAIRED)), source)
            else:
                source.drop(request)
            raise
        self._has(result, source)
        return True

    async def _ask(self, request: Request, spent: _Spent) -> Result:
        """One request until it has its result: retries, other manners of asking, one repair."""
        misfit = request.misfit
        repair = None if misfit is None else self._asked_for(misfit.content, misfit.problem)
        while True:
            manner, wire = self._manner, self._wire
            body = wire.body(request.text) if repair is None else wire.repair(request.text, *repair)
            successes, spent.tier = self._gate.successes, manner.service_tier
            try:
                message = await self._exchange(body, self._asking.tokens_of(request.text), spent)
            except ApiError as error:
                if not self._other_manner(error, manner):
                    final = await self._after(error, spent, successes)
                    if final is not None:
                        return _result(request, spent, error=final)
                continue
            if message.problem is not None:
                return _result(request, spent, error=message.problem)
            try:
                return _result(request, spent, output=values_of(message, self._asking.task))
            except SchemaMismatchError as mismatch:
                if repair is not None:
                    return _result(request, spent, error=mismatch)
                repair = self._asked_for(message.content, str(mismatch))

    def _asked_for(self, content: str, problem: str) -> tuple[str, str]:
        """A reply that didn't fit, and what it is answered with."""
        return content, f"{problem}\n{self._asking.task.allowed}".strip()

    def _read(self, reply: Reply, tries: _Spent) -> tuple[Message, float | None]:
        message = read_message(reply)
        usage, price = message.usage, self._asking.price_of(message.service_tier or tries.tier)
        tries.message = message
        tries.replies.append(reply.body)
        tries.latency = reply.seconds
        tries.usage = tries.usage + (usage or Usage())
        tries.cost += price.cost(usage) if price is not None and usage is not None else float("nan")
        # A cap on the output counts in full against the provider's limit, however short the answer is.
        params = self._asking.question.params
        return message, admission_tokens(usage.input, params, usage.output) if usage else None

    def _adopt(self, manner: Manner) -> None:
        super()._adopt(manner)
        self._wire = make_wire(self._asking.question, manner)


def _spent_on(misfit: Misfit, worker: Worker) -> _Spent:
    """What a request used up in a batch, before its repair."""
    done = misfit.result
    spent = _Spent(sent=done.attempts, worker=worker, usage=done.usage, cost=done.cost)
    spent.replies += done.replies
    return spent


def _result(
    request: Request, spent: _Spent, *, output: Values | None = None, error: LLMError | None = None
) -> Result:
    message = spent.message
    return Result(
        key=request.key,
        output=output,
        error=error,
        usage=spent.usage,
        cost=spent.cost,
        model=message.model if message else None,
        service_tier=message.service_tier if message else None,
        finish_reason=message.finish_reason if message else None,
        request_id=message.request_id if message else getattr(error, "request_id", None),
        latency=spent.latency,
        attempts=spent.sent,
        in_doubt=spent.in_doubt,
        replies=tuple(spent.replies),
        batch=request.misfit is not None,
    )
