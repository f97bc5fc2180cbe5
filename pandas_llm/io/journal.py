"""The store as an event loop uses it: one writer thread commits whatever gathered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from pandas_llm.core.errors import StoreError
from pandas_llm.core.types import Key
from pandas_llm.io.owners import BEAT
from pandas_llm.io.records import Kept
from pandas_llm.io.store import Store

_GROUP = 1_024
"""Most things one commit takes: 1,024 answers hold the file's lock for some 25 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    kept: Sequence[Kept]
    tell: Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    keys: Sequence[Key]
    again: bool
    granted: asyncio.Future[list[Key]]


@dataclass(frozen=True, slots=True, eq=False)
class _Release:
    keys: Sequence[Key]


_Thing: TypeAlias = _Rows | _Claim | _Release


@dataclass(frozen=True, slots=True)
class _Group:
    """What became of the things of one commit."""

    saved: Sequence[_Rows]
    claims: Sequence[tuple[_Claim, list[Key]]]
    error: StoreError | None
    last: bool


class Journal:
    """Claims and answers of one run on one event loop; each commit takes what came while the last one ran.

    A timer that gathers would bunch the workers (2–10 ms cost 5 % of the throughput). What was given to
    `keep` is with the writer at once: neither a cancelled caller nor a closed loop can lose it.
    """

    def __init__(self, store: Store, run: int, *, timeout: float = 600.0, replace: bool = False) -> None:
        self.broken: StoreError | None = None
        """Why nothing more is saved."""
        self.unsaved = 0
        """Rows given to `keep` that no commit holds yet."""
        self.timeout = timeout
        self._writer = _Writer(store, run, timeout=timeout, replace=replace)
        self._ended: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None
        # A run that never closes its journal mustn't leave claims behind that its own process waits for.
        self._stop = weakref.finalize(self, self._writer.stop)

    async def claim(self, keys: Sequence[Key]) -> list[Key]:
        """Those of the keys that are ours to ask, committed as sent; see `Store.claim`."""
        return await self._claimed(keys, again=False)

    async def reclaim(self, keys: Sequence[Key]) -> list[Key]:
        """Those of our claims that nobody took while we seemed hung; ask when `is_late` says so."""
        return await self._claimed(keys, again=True)

    def is_late(self, key: Key) -> bool:
        """Whether others may have taken our claim of this key, because this process seemed to hang."""
        since = self._writer.claims.get(key)
        return since is not None and self._writer.store.beat_is_late(self.timeout, since)

    def release(self, keys: Sequence[Key]) -> None:
        """Give back claims that will not be answered."""
        if not self._writer.stopped:  # else it has given back all of them
            self._put(_Release(keys))

    def keep(self, kept: Sequence[Kept], tell: Callable[[], None]) -> None:
        """Save answers; `tell` is called on the loop once they are committed, together."""
        self._put(_Rows(kept, tell))
        self.unsaved += len(kept)

    async def slack(self, limit: int) -> None:
        """Return when fewer than `limit` rows are unsaved; `StoreError` if saving has failed."""
        while self.unsaved >= limit and not self.broken:
            await self._commit()
        if self.broken:
            raise self.broken

    async def drain(self) -> None:
        """Return when everything given so far is committed and told."""
        await self.slack(1)
        await asyncio.sleep(0)  # what is committed is told in this turn of the loop

    async def close(self) -> None:
        """Commit what was given, give back the claims that weren't answered, end the thread."""
        if self._writer.running:
            self._ended = self._ended or asyncio.get_running_loop().create_future()
            self._stop()
            # The writer has all it needs: whoever cancels this only doesn't wait for it.
            await asyncio.shield(self._ended)
            self._writer.join()
        if self.unsaved and self.broken:
            raise self.broken

    def abandon(self) -> None:
        """Do what `close` does where somebody closed the loop under the run; it blocks. From any thread.

        The claims are this process's, and it lives: its next call would wait for itself.
        """
        self._stop()
        self._writer.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _claimed(self, keys: Sequence[Key], *, again: bool) -> list[Key]:
        if self.broken:
            raise self.broken
        granted = asyncio.get_running_loop().create_future()
        self._put(_Claim(keys, again, granted))
        found: list[Key] = await granted
        return found

    async def _commit(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        # One future for all who wait: cancelling one of them mustn't cancel the others'.
        await asyncio.shield(self._next)

    def begin(self) -> None:
        """Say from now on that this process lives, though there is nothing to save yet."""
        if not self._writer.running:
            # Weakly, both: a loop that somebody closed, and all that hangs on it, must be free to go.
            running, done = weakref.ref(asyncio.get_running_loop()), weakref.WeakMethod(self._done)

            def report(group: _Group) -> None:
                loop = running()
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                    if loop is not None:
                        loop.call_soon_threadsafe(lambda: (told := done()) and told(group))

            self._writer.start(report)

    def _put(self, thing: _Thing) -> None:
        self.begin()
        self._writer.put(thing)

    def _done(self, group: _Group) -> None:
        if group.error is not None:
            self.broken = self.broken or group.error
        for rows in group.saved:
            self.unsaved -= len(rows.kept)
            # Not here and now: one that raises would keep the others from being told.
            asyncio.get_running_loop().call_soon(rows.tell)
        for claim, granted in group.claims:
            self._grant(claim, granted, group.error)
        if self._next is not None:
            self._next.set_result(None)
            self._next = None
        if group.last and self._ended is not None:
            self._ended.set_result(None)

    def _grant(self, claim: _Claim, granted: list[Key], error: StoreError | None) -> None:
        if claim.granted.cancelled():  # who asked is gone: nobody will send these
            if granted:
                self.release(granted)
        elif error is not None:
            claim.granted.set_exception(error)
        else:
            claim.granted.set_result(granted)


class _Writer:
    """The thread that commits. It doesn't know its journal, so that an abandoned one can be collected."""

    def __init__(self, store: Store, run: int, *, timeout: float, replace: bool) -> None:
        self.store = store
        self.run = run
        self.timeout = timeout
        self.replace = replace
        self.claims: dict[Key, float] = {}
        """Open claims, and when they were committed."""
        self.running = False
        self.stopped = False
        self._failed: list[_Rows] = []
        self._things: queue.SimpleQueue[_Thing | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, report: Callable[[_Group], None]) -> None:
        """Begin to take things; `report` is called in this thread after each commit."""
        if self.stopped:
            raise StoreError("The journal of this run is closed: nothing more can be saved through it.")
        self.running = True
        self._thread = threading.Thread(
            target=self._work, args=(report,), name="pandas_llm journal", daemon=True
        )
        self._thread.start()

    def put(self, thing: _Thing) -> None:
        """Hand something over, to be committed in this order."""
        if self.stopped:
            raise StoreError("The journal of this run is closed: nothing more can be saved through it.")
        self._things.put(thing)

    def stop(self) -> None:
        """End the thread once all that was handed over is committed."""
        self.stopped = True
        self._things.put(None)

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread is not None:
            self._thread.join()
        self.running = False

    def _work(self, report: Callable[[_Group], None]) -> None:
        while self._turn(report):
            pass
        # Answers that are paid for get a second chance: whoever held the lock or filled the disk may be gone.
        ended = self._commit([*self._failed, _Release(list(self.claims))], last=True)
        self.store.disown(self.claims)  # where even that failed
        report(ended)

    def _turn(self, report: Callable[[_Group], None]) -> bool:
        # Its own function: the names of a loop would hold the last things, and through them a closed loop.
        things, more = self._gather()
        if things:
            report(self._commit(things))
        elif more:
            with contextlib.suppress(StoreError):  # who waits for something will hear of it
                self.store.beat()
        return more

    def _gather(self) -> tuple[list[_Thing], bool]:
        things: list[_Thing] = []
        try:
            thing = self._things.get(timeout=BEAT)
            while thing is not None:
                things.append(thing)
                if len(things) == _GROUP:
                    return things, True
                thing = self._things.get_nowait()
        except queue.Empty:
            return things, True
        return things, False

    def _commit(self, things: Sequence[_Thing], *, last: bool = False) -> _Group:
        rows = [thing for thing in things if isinstance(thing, _Rows)]
        kept = [each for thing in rows for each in thing.kept]
        claims = [thing for thing in things if isinstance(thing, _Claim)]
        released = [key for thing in things if isinstance(thing, _Release) for key in thing.keys]

        def work() -> list[list[Key]]:
            if released:
                self.store.release(released)
            if kept:
                self.store.keep(kept, replace=self.replace)
            return [self._claim(claim) for claim in claims]

        try:
            granted = self.store.together(work)
        except Exception as error:  # noqa: BLE001 -- a thread that dies leaves everybody waiting
            self._failed += rows
            why = error if isinstance(error, StoreError) else StoreError(f"Answers can't be saved: {error!r}")
            return _Group([], [(claim, []) for claim in claims], why, last)
        self.store.disown(each.key for each in kept)
        now = self.store.clock()
        asked = (key for claim in claims for key in claim.keys)
        for key in (*released, *(each.key for each in kept), *asked):
            self.claims.pop(key, None)
        self.claims.update((key, now) for keys in granted for key in keys)
        return _Group(rows, list(zip(claims, granted, strict=True)), None, last)

    def _claim(self, claim: _Claim) -> list[Key]:
        ask = self.store.reclaim if claim.again else self.store.claim
        return ask(claim.keys, self.run, timeout=self.timeout, replace=self.replace)


class NoJournal:
    """What stands in for a journal under `cache=False`."""

    broken: StoreError | None = None
    unsaved = 0

    async def claim(self, keys: Sequence[Key]) -> list[Key]:
        """All of them."""
        return list(keys)

    reclaim = claim

    def is_late(self, key: Key) -> bool:  # noqa: ARG002
        """Nobody else is seen."""
        return False

    def release(self, keys: Sequence[Key]) -> None:
        """Nothing is claimed."""

    def keep(self, kept: Sequence[Kept], tell: Callable[[], None]) -> None:  # noqa: ARG002
        """Nothing is kept; `tell` is called on the loop."""
        asyncio.get_running_loop().call_soon(tell)

    async def slack(self, limit: int) -> None:
        """Nobody waits."""

    async def drain(self) -> None:
        """Return when everything given so far is told."""
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Return when everything given so far is told."""
        await asyncio.sleep(0)

    def abandon(self) -> None:
        """Nothing is claimed."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
