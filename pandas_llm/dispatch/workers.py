"""A fixed pool of workers: each takes requests, sends them through the gate, and again where that helps."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pandas_llm.core.advice import advised
from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    ContentFilterError,
    EndpointError,
    LLMError,
    RateLimitError,
    ServerError,
)
from pandas_llm.core.pace import Sent
from pandas_llm.core.retry import Limits, parse_limits, parse_retry_after, wait_before_retry
from pandas_llm.core.types import Reply, Result
from pandas_llm.core.wire import Manner, error_of, lesser_manner
from pandas_llm.dispatch.asking import Asking, Source, Watcher
from pandas_llm.dispatch.gate import Gate

UNREACHABLE_TRIES = 3
"""Connections refused before a first success that say: nobody is there."""
FLEX_IS_FULL = "resource_unavailable"

Worker = asyncio.Task[Any] | None
"""The task that serves a request; asking for it again at each request costs 1.4 % of a run."""


@dataclass(slots=True)
class Tries:
    """What was tried so far for what is asked in one body."""

    sent: int = 0
    in_doubt: int = 0
    failures: int = 0
    """Tries that count against `max_retries`."""
    worker: Worker = None


T = TypeVar("T", bound=Tries)
R = TypeVar("R")


class StoppedError(Exception):
    """Nothing more may be sent."""


class Workers(ABC, Generic[T, R]):
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
        Whether the first worker has something to settle for the others.
    """

    def __init__(
        self, asking: Asking, manner: Manner, gate: Gate, watcher: Watcher, *, alone_first: bool
    ) -> None:
        self._asking = asking
        self._manner = manner
        self._gate = gate
        self._successes_before = gate.successes
        self._watcher = watcher
        self._places = asking.max_concurrency
        self._settled = asyncio.Event()
        if not alone_first:
            self._settled.set()
        self._confirmed = False
        self._done: deque[Result] = deque()
        self._news = asyncio.Event()
        self._flying: set[Worker] = set()
        self._workers: list[asyncio.Task[None]] = []
        self.stopping = False
        self.fatal: LLMError | None = None

    @abstractmethod
    async def _serve(self, source: Source, worker: Worker) -> bool:
        """Take from the source and answer what was taken; False where there is no more."""

    @abstractmethod
    def _read(self, reply: Reply, tries: T) -> tuple[R, float | None]:
        """What a reply with status 200 says, and the tokens it took; `ServerError` where it says nothing."""

    async def answer(self, source: Source) -> AsyncGenerator[Result, None]:
        """A result for each request of `source`; after `stop`, for those that were in flight.

        Raises
        ------
        LLMError
            What makes every further request pointless, after the results that came before it.
        """
        places = range(self._places)
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
            while not self.stopping and await self._serve(source, worker):
                self._settled.set()
        except StoppedError:
            pass
        except Exception as error:
            self.stop(error if isinstance(error, LLMError) else None)
            raise
        finally:
            self._settled.set()

    def _has(self, result: Result, source: Source) -> None:
        # Here and not when it is saved: until then this worker could spend the same money twice.
        source.settle(result)
        self._done.append(result)
        self._news.set()

    # One request ------------------------------------------------------------------------------------

    async def _exchange(self, body: bytes, tokens: float, tries: T) -> R:
        """One request sent and its reply read; billed where it was."""
        if self.stopping:
            raise StoppedError
        sent = await self._gate.enter(tokens, first=tries.sent == 0)
        try:
            if self.stopping:
                raise StoppedError
            reply = await self._send(body, sent, tries)
            limits = parse_limits(reply.headers)
            if reply.status != 200:
                raise self._refused(reply, sent, limits)
            found, used = self._read(reply, tries)
            self._gate.succeeded(sent, limits, used)
            self._confirm()
            return found
        finally:
            # Not before the reply is read: a 429 must hold whom this place would let in.
            self._gate.leave()

    async def _send(self, body: bytes, sent: Sent, tries: T) -> Reply:
        asking = self._asking
        self._flying.add(tries.worker)
        self._watcher.sent()
        tries.sent += 1
        try:
            return await asking.endpoint.send(asking.question.path, body, asking.seconds)
        except ApiError as error:
            if error.code == "timeout":
                tries.in_doubt += 1
                self._gate.timed_out(sent)
            raise
        except asyncio.CancelledError:
            self._watcher.dropped()
            raise
        finally:
            self._flying.discard(tries.worker)
            self._watcher.back()

    def _refused(self, reply: Reply, sent: Sent, limits: Limits | None) -> ApiError:
        error = error_of(reply, retry_after=parse_retry_after(reply.headers, time.time()))
        if isinstance(error, RateLimitError) and not self._could_be_standard(error):
            self._gate.refused(sent, error.retry_after, limits)
        if error.status == 403 and isinstance(error, AuthError) and self._gate.successes:
            return ContentFilterError(str(error), status=403, code=error.code, request_id=error.request_id)
        return error

    async def _after(self, error: ApiError, tries: T, successes: int) -> ApiError | None:
        """The error that is final, or None once the time to try again has come.

        `successes`: replies that had come from this endpoint when the request left.
        """
        if self.stopping:
            raise StoppedError
        if isinstance(error, EndpointError):
            error = self._unreachable(error, tries)
        if error.stops_run:
            self.stop(advised(error, self._asking.question))
            raise StoppedError
        limited = isinstance(error, RateLimitError)
        if not limited or self._gate.successes == successes:
            # Somebody else's success since this row's last try says: the limit is real, the row is fine.
            tries.failures += 1
        wait = wait_before_retry(
            error,
            tries.failures,
            max_retries=self._asking.max_retries,
            jitter=random.random(),  # noqa: S311 — spreads retries, guards nothing
            timeouts=tries.in_doubt,
        )
        if wait is None or tries.failures > self._asking.max_retries:
            return error
        self._watcher.retried(error)
        if not limited:  # the gate holds everybody for a limit, this request among them
            await asyncio.sleep(wait)
        return None

    def _unreachable(self, error: EndpointError, tries: T) -> ApiError:
        """What a refused connection means: nobody is there, or somebody went away for a while."""
        soon = error.status is None and tries.failures + 1 < UNREACHABLE_TRIES
        # Where something was answered in this run, it passes; it is tried as often as any other trouble.
        reached = self._gate.successes > self._successes_before
        return ServerError(str(error), code=error.code) if soon or reached else error

    # What of the API is understood ------------------------------------------------------------------

    def _other_manner(self, error: ApiError, used: Manner) -> bool:
        """Whether a 400 is about how was asked, and the next try will ask in another way."""
        manner = lesser_manner(error, used, self._asking.question)
        if self._could_be_standard(error):
            manner = replace(used, service_tier=None)
        if manner is None:
            return False
        if used is self._manner:  # else somebody else's request has found it out already
            if manner.service_tier != used.service_tier:
                self._watcher.note(
                    "The flex tier had no room: what was left was asked at the standard price."
                )
            self._adopt(manner)
            self._confirmed = False
        return True

    def _adopt(self, manner: Manner) -> None:
        self._manner = manner

    def _could_be_standard(self, error: ApiError) -> bool:
        """Whether the flex tier has no room, which isn't billed, and the standard tier will do."""
        return self._asking.flex_or_standard and error.code == FLEX_IS_FULL

    def _confirm(self) -> None:
        if not self._confirmed:
            self._confirmed = True
            self._watcher.manner(self._manner)
