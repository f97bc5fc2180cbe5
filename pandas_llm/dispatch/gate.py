"""The gate before the network: one FIFO of waiters, one timer at its head, one pace for the process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pandas_llm.core.pace import Pace, Sent
from pandas_llm.core.retry import Limits
from pandas_llm.core.types import Allowed

Waiter = tuple["asyncio.Future[Sent]", float]


@dataclass(slots=True)
class Traffic:
    """What the process knows of one endpoint and model, shared by all its calls."""

    pace: Pace
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: int = 0
    """Gates that are open."""
    successes: int = 0
    """Replies that came, ever: a 403 after one is about a text, not about the key."""


_traffic: dict[tuple[str, str], Traffic] = {}
_traffic_lock = threading.Lock()


def traffic_to(base_url: str, model: str) -> Traffic:
    """The traffic of an endpoint and model."""
    with _traffic_lock:
        return _traffic.setdefault((base_url, model), Traffic(Pace()))


def _leave_behind() -> None:
    """Renew the locks in a forked child, whose parent may have held them; its open gates stay there.

    What is known of the limits is as true for the child.
    """
    global _traffic_lock  # noqa: PLW0603 — a lock can't be taken from a thread that doesn't exist here
    _traffic_lock = threading.Lock()
    for traffic in _traffic.values():
        traffic.lock, traffic.calls = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


class Gate:
    """Lets one call's requests pass when a place, a request and enough tokens are free.

    Waiters stand in one queue with one timer at its head. A slot is taken when it is free, never reserved
    ahead: a level that a reply's headers correct must move those who already wait.
    """

    def __init__(
        self,
        traffic: Traffic,
        most: int,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._traffic = traffic
        self._pace = traffic.pace
        self._most = most
        self._clock = clock
        self._in_flight = 0
        self._waiters: deque[Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        with traffic.lock:
            # A call beside others mustn't lower what they may have in flight.
            ceiling = max(most, self._pace.limit) if traffic.calls else most
            traffic.calls += 1
            self._pace.declare(clock(), rpm=rpm, tpm=tpm, max_concurrency=ceiling)

    @property
    def successes(self) -> int:
        """Replies that ever came from here."""
        return self._traffic.successes

    @property
    def in_flight(self) -> int:
        """Requests of this call that have left and aren't back."""
        return self._in_flight

    @property
    def allowed(self) -> Allowed:
        """What the endpoint allows of this call; its own ceiling may be lower than that of others."""
        with self._traffic.lock:
            allowed = self._pace.allowed
        return replace(allowed, in_flight=min(self._most, self._pace.limit))

    async def enter(self, tokens: float, *, first: bool = True) -> Sent:
        """Wait for a place; a request that was refused before (`first=False`) waits at the head."""
        if not self._waiters and self._has_place():
            sent = self._take(tokens)
            if sent is not None:
                return sent
        future: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        waiter = (future, tokens)
        self._waiters.append(waiter) if first else self._waiters.appendleft(waiter)
        self._let_in()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def leave(self) -> None:
        """Give back a place."""
        self._in_flight -= 1
        self._let_in()

    def succeeded(self, sent: Sent, limits: Limits | None, used_tokens: float | None) -> None:
        """A reply came."""
        with self._traffic.lock:
            self._traffic.successes += 1
            self._pace.succeeded(self._clock(), sent, limits, used_tokens)

    def refused(self, sent: Sent, retry_after: float | None, limits: Limits | None) -> None:
        """A 429 came: everybody waits."""
        with self._traffic.lock:
            self._pace.refused(self._clock(), sent, retry_after, limits)

    def timed_out(self, sent: Sent) -> None:
        """No answer came in time."""
        with self._traffic.lock:
            self._pace.timed_out(self._clock(), sent)

    def waiting(self) -> tuple[float, str]:
        """Seconds until something can leave, and why; nobody waits where the reason is empty."""
        if not self._waiters:
            return 0.0, ""
        with self._traffic.lock:
            return self._pace.waiting(self._clock())

    def close(self) -> None:
        """Nobody enters any more."""
        if self._timer is not None:
            self._timer.cancel()
        with self._traffic.lock:
            self._traffic.calls -= 1
            if not self._traffic.calls:
                self._pace.idle()

    def _has_place(self) -> bool:
        return self._in_flight < min(self._most, self._pace.limit)

    def _take(self, tokens: float) -> Sent | None:
        """A slot taken now; None, with the timer set, where there is none."""
        with self._traffic.lock:
            now = self._clock()
            wait = self._pace.take(now, tokens)
            sent = self._pace.sent(now, tokens) if wait == 0.0 else None
        if sent is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(wait, self._let_in)
            return None
        self._in_flight += 1
        return sent

    def _let_in(self) -> None:
        while self._waiters and self._has_place():
            future, tokens = self._waiters[0]
            if future.done():  # cancelled while it stood here
                self._waiters.popleft()
                continue
            sent = self._take(tokens)
            if sent is None:
                return
            self._waiters.popleft()
            future.set_result(sent)
