"""Where workers get requests: claimed in blocks ahead, paid for out of a budget, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pandas_llm.core.budget import Budget
from pandas_llm.core.plan import Plan
from pandas_llm.core.types import Key, Request, Result
from pandas_llm.io.journal import Journal, NoJournal
from pandas_llm.io.store import NoStore, Store

BLOCK = 64
"""Requests claimed together, at least; more would only be claimed longer before they are sent."""
RECLAIM_SECONDS = 1.0
"""How often claims of others are looked at although nothing changed: their owner may be dead."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What a queue draws on."""

    plan: Plan
    store: Store | NoStore
    journal: Journal | NoJournal
    unsaved: int
    """Answers that may wait to be committed before no further request leaves."""
    budget: Budget | None
    estimate: Callable[[str], float]
    """USD that a text's request is expected to cost."""
    found: Callable[[int, list[Any]], bool]
    """Told of an answer that another call paid for; False where it isn't one to us."""
    in_batch: Callable[[Sequence[int], int], None]
    """Told of codes that a batch is about to answer, and the number of its shard."""
    places: int = BLOCK
    """Requests in flight at most: the first block serves them all, or a start would wait for several."""
    seconds: float = 600.0
    """For one answer; whoever gave no sign of life for twice that long is taken for hung."""


class Queue:
    """The codes of a plan that are to be asked, each handed out once."""

    def __init__(self, supply: Supply, codes: Sequence[int]) -> None:
        self._supply = supply
        self._block = max(BLOCK, supply.places)
        self._todo: Iterator[int] = iter(codes)
        self._ready: deque[int] = deque()
        self._others: dict[Key, int] = {}
        self._more = True
        self._fill: asyncio.Task[None] | None = None
        self._for_others = False  # whether that waits for other calls
        self._broken: BaseException | None = None
        self._reserved: dict[Key, float] = {}
        self._out: dict[Key, int] = {}
        self._arriving = 0
        self._settled = asyncio.Event()
        self.out_of_money = False

    async def take(self, *, at_once: bool = False) -> Request | None:
        """The next request that is ours to send, None when there is none or no money for it.

        With `at_once` also where it would have to be waited for: for other calls, or for money to come back.
        """
        # A reply is given to the journal a turn of the loop after it came; unsaved it is all the same.
        while self._arriving >= self._supply.unsaved:  # noqa: ASYNC110 — one turn is all it takes
            await asyncio.sleep(0)
        await self._supply.journal.slack(self._supply.unsaved - self._arriving)
        code = await self._next(at_once)
        while code is not None and not await self._is_still_ours(code):
            code = await self._next(at_once)
        if code is None:
            return None
        request = Request(self._supply.plan.key(code), self._supply.plan.texts[code])
        if not await self._afford(request, at_once):
            if at_once and not self.out_of_money:
                self._ready.appendleft(code)
            else:
                self._supply.journal.release([request.key])
            return None
        self._out[request.key] = code
        return request

    def arrived(self, key: Key) -> int:
        """The code of a request that was handed out, now that its result is told."""
        # Only what is out is held here: all keys of a run as objects would be 150 bytes a row.
        return self._out.pop(key)

    def put_back(self, request: Request) -> None:
        """Let a request that wasn't sent be taken again: its claim stays, its money doesn't."""
        self._pay(request.key, 0.0)
        self._ready.appendleft(self._out.pop(request.key))

    def drop(self, request: Request) -> None:
        """Give back the claim and the money of a request without a final answer."""
        self._pay(request.key, 0.0)
        self._out.pop(request.key, None)
        self._supply.journal.release([request.key])

    def settle(self, result: Result) -> None:
        """Put what a request came to in place of what was set aside for it."""
        self._arriving += 1
        self._pay(result.key, result.cost)

    def handed_over(self) -> None:
        """A result that was settled is with the journal now."""
        self._arriving -= 1

    @property
    def held_by_others(self) -> int:
        """Requests that other calls claimed before this one and haven't answered yet, as far as is known."""
        return len(self._others)

    async def close(self) -> None:
        """Claim nothing more."""
        if self._fill is not None:
            self._fill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fill

    async def _next(self, at_once: bool) -> int | None:
        while True:
            if self._broken is not None:
                raise self._broken
            if len(self._ready) < self._block:
                self._refill()
            if self._ready:
                return self._ready.popleft()
            if self._fill is None or (at_once and self._for_others):
                return None
            # Shielded: one worker that is cancelled mustn't cancel the claim for all of them.
            await asyncio.shield(self._fill)

    def _refill(self) -> None:
        if self._fill is None and (self._more or (self._others and not self._ready)):
            self._for_others = not self._more
            self._fill = asyncio.get_running_loop().create_task(self._fill_up())

    async def _fill_up(self) -> None:
        try:
            await (self._claim_block() if self._more else self._wait_for_others())
        except Exception as error:  # noqa: BLE001 — every worker hears of it
            self._broken = error
        finally:
            # Here and not in a callback: whoever awaits a task that is done doesn't let callbacks run.
            self._fill = None

    async def _claim_block(self) -> None:
        supply = self._supply
        block = list(islice(self._todo, self._block))
        self._more = len(block) == self._block
        claims = {supply.plan.key(code): code for code in block}
        mine = set(await supply.journal.claim(list(claims))) if claims else set()
        for key, code in claims.items():
            if key in mine:
                self._ready.append(code)
            else:
                self._others[key] = code

    async def _is_still_ours(self, code: int) -> bool:
        """Whether a claim stands that this process, asleep for long, may have lost to another."""
        key = self._supply.plan.key(code)
        if not self._supply.journal.is_late(key) or await self._supply.journal.reclaim([key]):
            return True
        self._others[key] = code
        return False

    async def _wait_for_others(self) -> None:
        """Wait until another call answered, failed or died; what it answered is paid for."""
        loop, store = asyncio.get_running_loop(), self._supply.store
        pause, looked, seen = 0.01, -math.inf, -1
        while self._others:
            changed = store.changed()
            # A death changes nothing in the file.
            if changed != seen or loop.time() - looked >= RECLAIM_SECONDS:
                seen, looked = changed, loop.time()
                self._take_answers_of_others()
                await self._claim_what_nobody_holds()
            if self._ready:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.6, 0.25)

    def _take_answers_of_others(self) -> None:
        for found in self._supply.store.known_payloads(b"".join(self._others)):
            for key, payload in found:
                code = self._others.pop(key)
                if not self._supply.found(code, payload):
                    self._ready.append(code)

    async def _claim_what_nobody_holds(self) -> None:
        # Looked at before it is claimed: who only waits mustn't keep others from writing.
        held = self._supply.store.held(list(self._others), timeout=self._supply.seconds)
        for key, owner in held.items():
            if owner < 0:  # a shard's: that may take a day
                self._supply.in_batch([self._others.pop(key)], -owner)
        free = [key for key in self._others if key not in held]
        for key in await self._supply.journal.claim(free) if free else ():
            self._ready.append(self._others.pop(key))

    async def _afford(self, request: Request, at_once: bool) -> bool:
        budget = self._supply.budget
        if budget is None:
            return True
        estimate = self._supply.estimate(request.text)
        while not self.out_of_money:
            if budget.reserve(estimate):
                self._reserved[request.key] = estimate
                return True
            if not self._reserved:
                self.out_of_money = True
                break
            if at_once:
                break
            # What is in flight may come cheaper than what was set aside for it.
            self._settled.clear()
            await self._settled.wait()
        return False

    def _pay(self, key: Key, spent: float) -> None:
        budget = self._supply.budget
        if budget is not None and key in self._reserved:
            budget.settle(self._reserved.pop(key), spent)
        self._settled.set()
