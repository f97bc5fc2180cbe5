"""Answers by concurrent calls: a fixed pool of workers pulls requests, never one task per row."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pandas_llm.core.advice import advised
from pandas_llm.core.confidence import confidence
from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    ContentFilterError,
    EndpointError,
    LLMError,
    RateLimitError,
    SchemaMismatchError,
    ServerError,
)
from pandas_llm.core.pace import Sent
from pandas_llm.core.prices import Price
from pandas_llm.core.retry import Limits, parse_limits, parse_retry_after, wait_before_retry
from pandas_llm.core.tokens import admission_tokens
from pandas_llm.core.types import Endpoint, Question, Reply, Request, Result, Task, Usage, Values
from pandas_llm.core.wire import (
    Manner,
    Message,
    Wire,
    error_of,
    lesser_manner,
    make_wire,
    read_message,
)
from pandas_llm.dispatch.gate import Gate

UNREACHABLE_TRIES = 3
"""Connections refused before a first success that say: nobody is there."""
_UNREPAIRED = "The reply didn't fit, and the run stopped before it was asked for a better one."


_Worker = asyncio.Task[Any] | None
"""The task that serves a request; asking for it again at each request costs 1.4 % of a run."""


class Source(Protocol):
    """Where workers get requests from."""

    async def take(self) -> Request | None:
        """The next request, None when there is no more."""
        ...

    def drop(self, request: Request) -> None:
        """Give back a request that got no final answer."""
        ...

    def settle(self, result: Result) -> None:
        """Take note of what a request cost, before the next one is taken."""
        ...


class Watcher(Protocol):
    """Who is told of what happens between a request and its result."""

    def sent(self) -> None:
        """A request left."""
        ...

    def back(self) -> None:
        """Its reply, or its failure, is here."""
        ...

    def retried(self, error: LLMError) -> None:
        """It will be sent again."""
        ...

    def manner(self, manner: Manner) -> None:
        """The endpoint understands less than was assumed, or has shown that it understands this much."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """What a dispatcher needs to know about a call."""

    question: Question
    task: Task
    endpoint: Endpoint
    price_of: Callable[[str | None], Price | None]
    """The price of the service tier a reply says it was billed at."""
    seconds: float
    """For a whole answer."""
    max_retries: int
    max_concurrency: int
    tokens_of: Callable[[str], int]
    """What a text's request counts against a token limit."""


@dataclass(slots=True)
class _Spent:
    """What one request used up so far."""

    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    sent: int = 0
    in_doubt: int = 0
    latency: float = 0.0
    failures: int = 0
    """Tries that count against `max_retries`."""
    replies: list[bytes] = field(default_factory=list)
    message: Message | None = None
    worker: _Worker = None


class _StoppedError(Exception):
    """Nothing more may be sent."""


class Concurrent:
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
        self._asking = asking
        self._manner = manner
        self._wire: Wire = make_wire(asking.question, manner)
        self._gate = gate
        self._successes_before = gate.successes
        self._watcher = watcher
        self._settled = asyncio.Event()
        if not alone_first:
            self._settled.set()
        self._confirmed = False
        self._done: deque[Result] = deque()
        self._news = asyncio.Event()
        self._flying: set[_Worker] = set()
        self._workers: list[asyncio.Task[None]] = []
        self.stopping = False
        self.fatal: LLMError | None = None

    async def answer(self, source: Source) -> AsyncGenerator[Result, None]:
        """A result for each request of `source`; after `stop`, for those that were in flight.

        Raises
        ------
        LLMError
            What makes every further request pointless, after the results that came before it.
        """
        places = range(self._asking.max_concurrency)
        self._workers = [asyncio.create_task(self._work(source, first=n == 0)) for n in places]
        ended = asyncio.gather(*self._workers, return_exceptions=True)
        ended.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._done:
                    yield self._done.popleft()
                if ended.done():
                    break
                self._news.clear()
                await self._news.wait()
        except asyncio.CancelledError:
            # What came back is paid for: it is handed over before the cancellation goes on.
            await self._end()
            while self._done:
                yield self._done.popleft()
            raise
        finally:
            await self._end()
        for outcome in ended.result():
            if isinstance(outcome, Exception) and self.fatal is None:
                raise outcome
        if self.fatal is not None:
            raise self.fatal

    def stop(self, error: LLMError | None = None) -> None:
        """Send nothing more; what is in flight may come back. To be called on the loop."""
        if error is not None and self.fatal is None:
            self.fatal = error
        if not self.stopping:
            self.stopping = True
            for worker in self._workers:
                if worker not in self._flying:
                    worker.cancel()

    async def _end(self) -> None:
        self.stopping = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, source: Source, *, first: bool) -> None:
        worker = asyncio.current_task()
        if not first:
            await self._settled.wait()
        try:
            while not self.stopping and (request := await source.take()) is not None:
                await self._answer_one(request, source, worker)
                self._settled.set()
        except _StoppedError:
            pass
        except Exception as error:
            self.stop(error if isinstance(error, LLMError) else None)
            raise
        finally:
            self._settled.set()

    async def _answer_one(self, request: Request, source: Source, worker: _Worker) -> None:
        spent = _Spent(worker=worker)
        try:
            result = await self._ask(request, spent)
        except BaseException:
            if spent.replies:
                # A billed reply whose repair will not be sent: dropped, it would be missing on the bill.
                self._has(_result(request, spent, error=LLMError(_UNREPAIRED)), source)
            else:
                source.drop(request)
            raise
        self._has(result, source)

    def _has(self, result: Result, source: Source) -> None:
        # Here and not when it is saved: until then this worker could spend the same money twice.
        source.settle(result)
        self._done.append(result)
        self._news.set()

    async def _ask(self, request: Request, spent: _Spent) -> Result:
        """One request until it has its result: retries, other manners of asking, one repair."""
        repair: tuple[str, str] | None = None
        while True:
            manner, wire = self._manner, self._wire
            body = wire.body(request.text) if repair is None else wire.repair(request.text, *repair)
            successes = self._gate.successes
            try:
                message = await self._exchange(body, request, spent)
            except ApiError as error:
                if not self._other_manner(error, manner):
                    failed = await self._after(error, request, spent, successes)
                    if failed is not None:
                        return failed
                continue
            if message.problem is not None:
                return _result(request, spent, error=message.problem)
            try:
                return _result(request, spent, output=self._read(message))
            except SchemaMismatchError as mismatch:
                if repair is not None:
                    return _result(request, spent, error=mismatch)
                repair = (message.content, f"{mismatch}\n{self._asking.task.allowed}".strip())

    def _read(self, message: Message) -> Values:
        task = self._asking.task
        values = task.read(message.content)
        if task.confidence:
            # The answer is the first field; its probability is the last.
            values = [*values, confidence(message.content, message.logprobs, task.labels, values[0])]
        return values

    async def _exchange(self, body: bytes, request: Request, spent: _Spent) -> Message:
        """One request sent and its message read; billed where it was."""
        if self.stopping:
            raise _StoppedError
        sent = await self._gate.enter(self._asking.tokens_of(request.text), first=spent.sent == 0)
        try:
            if self.stopping:
                raise _StoppedError
            return self._read_reply(await self._send(body, sent, spent), sent, spent)
        finally:
            # Not before the reply is read: a 429 must hold whom this place would let in.
            self._gate.leave()

    async def _send(self, body: bytes, sent: Sent, spent: _Spent) -> Reply:
        asking = self._asking
        self._flying.add(spent.worker)
        self._watcher.sent()
        spent.sent += 1
        try:
            return await asking.endpoint.send(asking.question.path, body, asking.seconds)
        except ApiError as error:
            if error.code == "timeout":
                spent.in_doubt += 1
                self._gate.timed_out(sent)
            raise
        finally:
            self._flying.discard(spent.worker)
            self._watcher.back()

    def _read_reply(self, reply: Reply, sent: Sent, spent: _Spent) -> Message:
        limits = parse_limits(reply.headers)
        if reply.status != 200:
            raise self._refused(reply, sent, limits)
        message = read_message(reply)
        usage, price = message.usage, self._asking.price_of(message.service_tier)
        spent.message = message
        spent.replies.append(reply.body)
        spent.latency = reply.seconds
        spent.usage = spent.usage + (usage or Usage())
        spent.cost += price.cost(usage) if price is not None and usage is not None else float("nan")
        # A cap on the output counts in full against the provider's limit, however short the answer is.
        params = self._asking.question.params
        used = admission_tokens(usage.input, params, usage.output) if usage else None
        self._gate.succeeded(sent, limits, used)
        self._confirm()
        return message

    def _refused(self, reply: Reply, sent: Sent, limits: Limits | None) -> ApiError:
        error = error_of(reply, retry_after=parse_retry_after(reply.headers, time.time()))
        if isinstance(error, RateLimitError):
            self._gate.refused(sent, error.retry_after, limits)
        if error.status == 403 and isinstance(error, AuthError) and self._gate.successes:
            return ContentFilterError(str(error), status=403, code=error.code, request_id=error.request_id)
        return error

    async def _after(self, error: ApiError, request: Request, spent: _Spent, successes: int) -> Result | None:
        """The failed result, or None once the time to try again has come."""
        if self.stopping:
            raise _StoppedError
        if isinstance(error, EndpointError):
            error = self._unreachable(error, spent)
        if error.stops_run:
            self.stop(advised(error, self._asking.question))
            raise _StoppedError
        limited = isinstance(error, RateLimitError)
        if not limited or self._gate.successes == successes:
            # Somebody else's success since this row's last try says: the limit is real, the row is fine.
            spent.failures += 1
        wait = wait_before_retry(
            error,
            spent.failures,
            max_retries=self._asking.max_retries,
            jitter=random.random(),  # noqa: S311 — spreads retries, guards nothing
            timeouts=spent.in_doubt,
        )
        if wait is None or spent.failures > self._asking.max_retries:
            return _result(request, spent, error=error)
        self._watcher.retried(error)
        if not limited:  # the gate holds everybody for a limit, this request among them
            await asyncio.sleep(wait)
        return None

    def _unreachable(self, error: EndpointError, spent: _Spent) -> ApiError:
        """What a refused connection means: nobody is there, or somebody went away for a while."""
        soon = error.status is None and spent.failures + 1 < UNREACHABLE_TRIES
        # Where something was answered in this run, it passes; it is tried as often as any other trouble.
        reached = self._gate.successes > self._successes_before
        return ServerError(str(error), code=error.code) if soon or reached else error

    def _other_manner(self, error: ApiError, used: Manner) -> bool:
        """Whether a 400 is about how was asked, and the next try will ask in another way."""
        manner = lesser_manner(error, used, self._asking.question)
        if manner is None:
            return False
        if used is self._manner:  # else somebody else's request has found it out already
            self._manner = manner
            self._wire = make_wire(self._asking.question, manner)
            self._confirmed = False
        return True

    def _confirm(self) -> None:
        if not self._confirmed:
            self._confirmed = True
            self._watcher.manner(self._manner)


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
    )
