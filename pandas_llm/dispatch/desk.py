"""What the parts of a batch dispatcher share: what waits, what is on its way, what has come back."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pandas_llm.core.batches import next_gap
from pandas_llm.core.errors import BatchError, LLMError
from pandas_llm.core.types import Key, Result
from pandas_llm.dispatch.aside import aside
from pandas_llm.dispatch.courier import Courier
from pandas_llm.dispatch.lot import Collector, Filing, Lot
from pandas_llm.dispatch.pile import Pile
from pandas_llm.io.provider import Provider

T = TypeVar("T")

MOST_TRIES = 2
"""How often a request that batches lost is planned again."""
_LOOK = 1.0
"""Seconds between two looks at the deadline: polls are up to a minute apart."""


class StoppedError(Exception):
    """Nothing more may be sent or watched; batches go on."""


async def taken(take: Callable[[], T], give_back: Callable[[T], None]) -> T:
    """What `take` takes, in a thread; given back where it comes when nobody waits for it any more."""
    taking = asyncio.ensure_future(aside(take))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        # Else this process would be its driver for ever, and nobody in it watch.
        await aside(give_back, await taking)
        raise


class Desk:
    """One call's batches: what is to be submitted, the lots on their way, and the results on theirs."""

    def __init__(
        self, filing: Filing, provider: Provider, codes: Sequence[int], collector: Collector
    ) -> None:
        self.filing = filing
        self.collector = collector
        self.shards = filing.store.shards
        self.courier = Courier(
            self.shards, provider, max_retries=filing.max_retries, settles=2 * filing.settings.poll[0]
        )
        self.pile = Pile(filing, codes)
        self.pile.most_tokens = float(filing.store.fact(filing.scope, "enqueued_tokens") or math.inf)
        self.lots: list[Lot] = []
        self.others: list[int] = []
        """Codes that another call answers, or has given up: to be looked after."""
        self.left: list[int] = []
        """Codes that are to be asked concurrently now."""
        self.stopping = False
        self.cancelling = False
        self.done: deque[Result] = deque()
        self.news = asyncio.Event()
        self._tries: Counter[int] = Counter()
        self._codes: dict[Key, int] = {}
        """Of results that aren't told yet: a dict of all keys of a run would be 150 bytes a row."""
        self.reading = asyncio.Lock()
        """Held by who cuts, plans, writes or reads a file: one at a time, each takes memory."""
        self._bell = asyncio.Event()

    # Results ------------------------------------------------------------------------------------------

    def emit(self, results: Mapping[int, Result]) -> None:
        """Hand results over, given by code."""
        for code, result in results.items():
            self.pile.settle(code, result.cost)
            self._codes[result.key] = code
        self.done.extend(results.values())
        self.news.set()

    def fail(self, code: int, error: LLMError) -> None:
        """Hand over what no batch answered."""
        self.emit({code: Result(key=self.filing.plan.key(code), error=error, batch=True)})

    def arrived(self, key: Key) -> int:
        """The code of a result that is told."""
        return self._codes.pop(key)

    async def saved(self) -> None:
        """Return when every result so far is committed."""
        while self.done:  # noqa: ASYNC110 — one turn is all it takes
            await asyncio.sleep(0)
        await self.filing.journal.drain()

    def ask_again(self, lot: Lot, again: Mapping[int, LLMError]) -> None:
        """Plan what a batch lost anew, at most twice; then it is asked concurrently, or it has failed."""
        for code, why in again.items():
            if why.stops_run:
                raise why
            if lot.late:
                self.leave([code])
            elif lot.status == "cancelled" or self.cancelling:
                self.pend([code], f"{lot.shard.name} cancelled")
            elif self._tries[code] < MOST_TRIES:
                self._tries[code] += 1
                self.pile.add((code,))
            elif self.filing.concurrent_at_last:
                self.leave([code])
            else:
                self.fail(code, BatchError(f"{MOST_TRIES + 1} batches lost this request. The last: {why}"))

    def pend(self, codes: Iterable[int], reason: str) -> None:
        """Leave codes unanswered, and the money set aside for them to others."""
        codes = list(codes)
        for code in codes:
            self.pile.settle(code, 0.0)
        self.collector.pend(codes, reason)

    def leave(self, codes: Iterable[int]) -> None:
        """Leave codes to concurrent calls, which set money aside for themselves."""
        for code in codes:
            self.pile.settle(code, 0.0)
            self.left.append(code)

    # Waiting ------------------------------------------------------------------------------------------

    def is_late(self, more: int = 0) -> bool:
        """Whether all that batches haven't answered, and `more`, must be asked concurrently now."""
        missing = sum(len(lot.codes) for lot in self.lots if not lot.over)
        return self.filing.is_late(missing + len(self.pile) + len(self.others) + len(self.left) + more)

    async def has_room(self, tokens: int) -> bool:
        """Wait until our open batches leave room under the enqueued-token limit; False where nobody waits."""
        gap = 0.0
        while not self.stopping:
            used = sum(lot.tokens for lot in self.lots if not lot.over and lot.shard.state == "created")
            room = not used or used + tokens <= self.pile.most_tokens
            if room or self.cancelling or self.is_late():
                return True
            if not self.filing.wait:
                return False
            gap = next_gap(gap, self.filing.settings.poll, False, random.random())  # noqa: S311
            await self.sleep(gap)
        raise StoppedError

    async def sleep(self, seconds: float) -> None:
        """Wait, unless something happens that somebody waits for, or the deadline comes too near."""
        bell, end, late = self._bell, time.monotonic() + seconds, self.is_late()
        while not self.stopping and not bell.is_set() and late == self.is_late():
            left = end - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), min(left, _LOOK))

    def ring(self) -> None:
        """Wake all who sleep."""
        self._bell.set()
        # A new one, for whoever sleeps next: cleared, it could miss a ring between two looks.
        self._bell = asyncio.Event()
