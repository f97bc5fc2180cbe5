"""Answers by the Batch API: requests become shards, shards become batches, their files become results."""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import chain

from pandas_llm.core.batches import sketch
from pandas_llm.core.errors import ApiError, BatchError, LLMError
from pandas_llm.core.types import BatchProgress, Result
from pandas_llm.dispatch.aside import aside
from pandas_llm.dispatch.courier import advised_about_batches
from pandas_llm.dispatch.desk import Desk, StoppedError, taken
from pandas_llm.dispatch.follow import Follower
from pandas_llm.dispatch.lot import Collector, Filing, Lot
from pandas_llm.dispatch.pile import Group
from pandas_llm.io.provider import Provider
from pandas_llm.io.shards import Shard


class Batch:
    """Requests in, exactly one Result out for each that batches answer, in any order, as each is ready.

    What has no Result is pending, is in `left`, or has been found in the store meanwhile. Leaving it early
    stops the watching, never a batch: whoever asks the same comes back to it.

    Parameters
    ----------
    filing
        What is asked, and how it is cut and watched.
    provider
        Where files and batches live.
    codes
        The requests to submit.
    adopted
        By the number of an open shard, the codes that it is about to answer.
    collector
        Who is told what becomes of codes beside their results.
    """

    def __init__(
        self,
        filing: Filing,
        provider: Provider,
        codes: Sequence[int],
        adopted: Mapping[int, Sequence[int]],
        collector: Collector,
    ) -> None:
        self.fatal: BaseException | None = None
        self._filing = filing
        self._desk = Desk(filing, provider, codes, collector)
        self._adopted = adopted
        self._following: set[asyncio.Task[None]] = set()
        self.arrived = self._desk.arrived

    # As a way of getting answers ----------------------------------------------------------------------

    async def results(self) -> AsyncGenerator[Sequence[Result]]:
        """The results as files are read, many at a time."""
        desk, work = self._desk, asyncio.create_task(self._work())
        work.add_done_callback(lambda _: desk.news.set())
        try:
            while True:
                if desk.done:
                    results = list(desk.done)
                    desk.done.clear()
                    yield results
                    continue
                if work.done():
                    break
                desk.news.clear()
                await desk.news.wait()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        work.result()
        if self.fatal is not None:
            raise self.fatal

    @property
    def left(self) -> Sequence[int]:
        """Codes that are to be asked concurrently now."""
        return self._desk.left

    @property
    def lots(self) -> Sequence[Lot]:
        """The shards of this call."""
        return self._desk.lots

    @property
    def out_of_money(self) -> bool:
        """Whether something wasn't submitted for want of money."""
        return self._desk.pile.out_of_money

    def handed_over(self) -> None:
        """Nobody waits for it."""

    def stop(self, error: LLMError | None = None) -> None:
        """Submit and watch nothing more; what is being read is read to its end."""
        if error is not None and self.fatal is None:
            self.fatal = error
        self._desk.stopping = True
        self._desk.ring()

    def cancel(self) -> None:
        """Let the provider stop the batches, and collect what they have answered."""
        self._desk.cancelling = True
        self._desk.ring()

    def waiting(self) -> tuple[float, str]:
        """Batches say for themselves what they wait for."""
        return 0.0, ""

    def progress(self, now: float) -> tuple[BatchProgress, ...]:
        """The batches of this call."""
        return tuple(lot.progress(now) for lot in list(self._desk.lots))

    # The work -----------------------------------------------------------------------------------------

    async def _work(self) -> None:
        desk = self._desk
        # Who only watches saves nothing for hours, and mustn't be taken for hung.
        self._filing.journal.begin()
        try:
            for number, codes in self._adopted.items():
                self._adopt(number, codes)
            while not desk.stopping and (desk.pile or self._following or desk.others):
                if desk.pile and desk.cancelling:
                    desk.pend(desk.pile.clear(), "cancelled")
                elif desk.pile:
                    with contextlib.suppress(StoppedError):
                        await self._submit()
                elif self._following:
                    await self._until_one_ends()
                else:
                    await self._look_after_others()
            while self._following:  # a file that is being read is read to its end
                await self._until_one_ends()
        finally:
            for task in self._following:
                task.cancel()
            await asyncio.gather(*self._following, return_exceptions=True)
            for lot in desk.lots:
                if not lot.over:
                    desk.collector.pend(lot.codes, f"{lot.shard.name} {lot.status}")

    async def _until_one_ends(self) -> None:
        _, self._following = await asyncio.wait(self._following, return_when=asyncio.FIRST_COMPLETED)

    def _follow(self, lot: Lot) -> None:
        task = asyncio.create_task(Follower(self._desk, lot).follow())
        task.add_done_callback(self._stop_if_failed)
        self._following.add(task)

    def _stop_if_failed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fatal = self.fatal or error
            self.stop()  # also those who wait for the room of a batch that nobody watches any more

    def _adopt(self, number: int, codes: Sequence[int]) -> None:
        """Follow a shard that another call, or another process, has planned."""
        shard = self._desk.shards.get(number)
        if shard is None or shard.state == "harvested":
            self._desk.others += codes
            return
        lot = Lot(shard, codes)
        self._desk.lots.append(lot)
        self._follow(lot)

    # Submitting ---------------------------------------------------------------------------------------

    async def _submit(self) -> None:
        """Hand in one shard after the other, each when the provider has room for it."""
        desk = self._desk
        while desk.pile and not desk.stopping and not desk.cancelling:
            async with desk.reading:
                group = await aside(desk.pile.take)
            for code in group.too_big:
                desk.fail(code, desk.pile.too_big(code))
            if group.codes and not await desk.has_room(group.tokens):
                full = f"the enqueued-token limit ({desk.pile.most_tokens:,.0f}) leaves no room yet"
                rest = [*group.codes, *desk.pile.clear()]
                desk.pend(rest, f"{full}; run the same line again later")
            elif desk.is_late(len(group.codes)):
                desk.leave([*group.codes, *desk.pile.clear()])
            elif group.codes:
                await self._hand_in(group)

    def _planned(self, group: Group) -> tuple[Shard | None, Sequence[int], Sequence[int]]:
        """A new shard in the store, the codes it got, and those that another call has."""
        filing, plan = self._filing, self._filing.plan
        shard, granted = self._desk.shards.plan(
            [plan.key(code) for code in group.codes],
            filing.run,
            timeout=filing.seconds,
            replace=filing.replace,
            requests=len(group.codes),
            tokens=group.tokens,
            url=filing.url,
            max_requests=filing.settings.max_requests,
            max_bytes=filing.settings.max_bytes,
            sketch=sketch(plan.texts[code] for code in group.codes),
            **filing.facts,
        )
        if len(granted) == len(group.codes):
            return shard, group.codes, ()
        got = set(granted)
        return (
            shard,
            array("i", (code for code in group.codes if plan.key(code) in got)),
            [code for code in group.codes if plan.key(code) not in got],
        )

    def _unplanned(self, planned: tuple[Shard | None, Sequence[int], Sequence[int]]) -> None:
        if planned[0] is not None:
            self._desk.shards.dissolve(planned[0])

    async def _hand_in(self, group: Group) -> None:
        """Plan a shard, upload its file, create its batch; then follow it."""
        desk, filing = self._desk, self._filing
        if desk.cancelling:  # since the group was taken
            desk.pend(group.codes, "cancelled")
            return
        async with desk.reading:
            shard, mine, others = await taken(lambda: self._planned(group), self._unplanned)
        desk.others += others
        if shard is None:
            return
        lot = Lot(shard, mine)
        desk.lots.append(lot)
        try:
            lot.shard = await desk.courier.upload(shard, lambda: filing.lines(mine), desk.reading)
            if desk.stopping:
                return  # whoever comes next finds the file, and goes on
            if not desk.cancelling:
                lot.shard = await desk.courier.create(lot.shard)
        except (ApiError, BatchError) as error:
            await self._give_up(lot)
            raise advised_about_batches(error) from None
        finally:
            await aside(desk.shards.leave, lot.shard)
        self._follow(lot)

    async def _give_up(self, lot: Lot) -> None:
        """Free the requests of a shard for which there is no batch for sure."""
        shard = await aside(self._desk.shards.get, lot.shard.id)
        if shard is not None and shard.state in ("planned", "uploading", "uploaded"):
            lot.over = True
            await aside(self._desk.shards.dissolve, shard)

    # What other calls do ------------------------------------------------------------------------------

    async def _look_after_others(self) -> None:
        """Codes that another call answered, submitted, is asking for, or gave up."""
        desk, filing, store = self._desk, self._filing, self._filing.store
        codes = {filing.plan.key(code): code for code in desk.others}
        desk.others = []
        for key, payload in await aside(lambda: list(chain(*store.known_payloads(list(codes))))):
            code = codes.pop(key)
            if desk.collector.found(code, payload):
                desk.pile.settle(code, 0.0)
            else:
                desk.pile.add((code,))
        if desk.cancelling:
            desk.pend(codes.values(), "cancelled")
            return
        keys = list(codes)
        held_in = await aside(desk.shards.holding, b"".join(keys)) if keys else {}
        for number, places in held_in.items():
            self._adopt(number, [codes.pop(keys[place]) for place in places])
        held = await aside(store.held, list(codes), timeout=filing.seconds) if codes else {}
        desk.pile.add(code for key, code in codes.items() if key not in held)
        asked = [code for key, code in codes.items() if key in held]
        if not filing.wait:
            desk.pend(asked, "another call is asking for it")
        else:
            desk.others += asked
            if asked and not desk.pile and not self._following:
                await desk.sleep(0.25)
