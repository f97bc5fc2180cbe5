"""A shard from where it is to its end: created, watched, collected, each step as the journal says."""

from __future__ import annotations

import asyncio
import math
import random
import tempfile
from array import array
from itertools import chain, islice
from typing import BinaryIO, cast

from pandas_llm.core.batches import STATUSES, BatchInfo, enqueued_limit, next_gap
from pandas_llm.core.errors import ApiError, BatchError, ContextLengthError, LLMError
from pandas_llm.core.plan import split
from pandas_llm.core.types import Result
from pandas_llm.dispatch.aside import aside
from pandas_llm.dispatch.desk import Desk, StoppedError, taken
from pandas_llm.dispatch.harvest import Harvest, blamed_in, lines_in, lost
from pandas_llm.dispatch.lot import Lot
from pandas_llm.io.shards import Shard, ShardTakenError

_SLICE = 64
"""Lines read between two turns of the event loop: a millisecond."""
_UNSAVED = 512
"""Answers read from files that may wait to be committed."""


class Follower:
    """Follows one lot as its only driver; another call's lot is waited for."""

    def __init__(self, desk: Desk, lot: Lot) -> None:
        self._desk = desk
        self._lot = lot

    async def follow(self) -> None:
        """The shard from where it is to its end, as its only driver."""
        desk, lot = self._desk, self._lot
        while not lot.over and await self._drive():
            try:
                while not lot.over:
                    await self._step()
            except StoppedError:
                return
            except ShardTakenError:
                # What is read half-way can't be handed over; and what is gone, somebody cleared.
                is_there = await aside(desk.shards.get, lot.shard.id) is not None
                if not is_there or lot.shard.state == "ended":
                    raise
            finally:
                await aside(desk.shards.leave, lot.shard)

    async def _drive(self) -> bool:
        """Whether this call is the shard's driver now; while another one is, its answers are waited for."""
        desk, lot = self._desk, self._lot
        gap = 0.0
        while True:
            shard = await taken(
                lambda: desk.shards.take(lot.shard, timeout=desk.filing.seconds), self._give_back
            )
            if shard is not None:
                lot.shard = shard
                if shard.state == "ended" and not desk.filing.replace:
                    await self._look_up()
                return True
            shard = await aside(desk.shards.get, lot.shard.id)
            if shard is None or shard.state == "harvested":
                await self._looked_after(shard)
                return False
            lot.shard = shard
            await self._cancel_beside_driver()
            if desk.stopping or not desk.filing.wait:
                return False
            gap = next_gap(gap, (0.05, desk.filing.settings.poll[0]), False, random.random())  # noqa: S311
            await desk.sleep(gap)

    def _give_back(self, shard: Shard | None) -> None:
        if shard is not None:
            self._desk.shards.leave(shard)

    async def _looked_after(self, shard: Shard | None) -> None:
        """Take what another call has read; what a cancelled batch left nobody asks again unasked."""
        desk, lot = self._desk, self._lot
        lot.over, lot.shard = True, shard or lot.shard
        if lot.status == "cancelled":
            await self._look_up()
            desk.pend(lot.codes, f"{lot.shard.name} cancelled")
        else:
            desk.others += lot.codes

    async def _look_up(self) -> None:
        """Take what another driver read before it left: it was counted there."""
        desk, lot = self._desk, self._lot
        codes = {desk.filing.plan.key(code): code for code in lot.codes}
        known = desk.filing.store.known_payloads
        found = await aside(lambda: list(chain(*known(list(codes)))))
        known_now = {codes[key] for key, payload in found if desk.collector.found(codes[key], payload)}
        lot.codes = array("i", (code for code in lot.codes if code not in known_now))

    async def _cancel_beside_driver(self) -> None:
        """Have a batch cancelled that another call watches: that one will see it, and collect."""
        desk, lot = self._desk, self._lot
        if lot.cancelling or not lot.shard.facts.get("batch_id"):
            return
        if desk.cancelling or desk.is_late():
            lot.cancelling = True
            await desk.courier.ask_to_cancel(lot.shard)

    async def _step(self) -> None:
        """Take the next step of a shard by its state in the journal."""
        desk, lot = self._desk, self._lot
        match lot.shard.state:
            case "planned" | "uploading":
                # A process died before there was a batch: its requests are free, and planned anew.
                await self._dissolve()
            case "uploaded" if desk.cancelling or desk.is_late():
                await self._dissolve()
            case "creating" if desk.cancelling:
                lot.shard = await desk.courier.find_only(lot.shard)
            case "uploaded" | "creating":
                lot.shard = await desk.courier.create(lot.shard)
            case "created":
                await self._watch()
            case "ended":
                await self._collect()

    async def _dissolve(self) -> None:
        """Free the requests of a shard that has no batch; they go into another one."""
        desk, lot = self._desk, self._lot
        await aside(desk.shards.dissolve, lot.shard)
        lot.over = True
        if desk.is_late(len(lot.codes)):
            desk.leave(lot.codes)
        elif desk.cancelling:
            desk.pend(lot.codes, "cancelled")
        else:
            desk.pile.add(lot.codes)
        desk.ring()

    async def _watch(self) -> None:
        """Poll a batch until it is over, or nobody waits any more."""
        desk, lot = self._desk, self._lot
        gap = 0.0
        while True:
            before = lot.shard
            info = await self._polled()
            if info is not None and info.over:
                await self._ended(info)
                return
            if await self._cancel_if_asked():
                continue  # it may have ended meanwhile
            if desk.stopping or not (desk.filing.wait or lot.cancelling):
                raise StoppedError
            changed = lot.shard is not before
            gap = next_gap(gap, desk.filing.settings.poll, changed, random.random())  # noqa: S311
            await desk.sleep(gap)

    async def _polled(self) -> BatchInfo | None:
        """What the provider says of a batch; None where it says nothing just now."""
        desk, lot = self._desk, self._lot
        try:
            lot.shard, info = await desk.courier.poll(lot.shard)
        except ApiError as error:
            if error.status in (400, 404):
                raise BatchError(
                    f"{lot.shard.name} isn't known at {desk.filing.plan.question.base_url} ({error}). Is "
                    "this the key of another project? Its answers can be collected with the right one; "
                    f"pandas_llm.clear_cache(run='r_{lot.shard.run}') gives them up."
                ) from None
            if error.stops_run and error.status is not None:
                raise
            lot.note = f"no status: {error}"
            return None
        lot.note = ""
        if info.status not in STATUSES:
            desk.collector.note(f"{info.id} has a status nobody knows here, {info.status!r}: polled on.")
        return info

    async def _cancel_if_asked(self) -> bool:
        """Whether it has just been told to cancel the batch."""
        desk, lot = self._desk, self._lot
        if lot.cancelling:
            return False
        lot.late = desk.is_late()
        if desk.cancelling or lot.late:
            lot.cancelling = True
            lot.shard = await desk.courier.cancel(lot.shard)
        return lot.cancelling

    async def _ended(self, info: BatchInfo) -> None:
        desk, lot = self._desk, self._lot
        if info.status == "failed":
            limits = [limit for each in info.problems if (limit := enqueued_limit(each)) is not None]
            if limits and not desk.cancelling:
                await self._make_room(min(limits))
                return
        empty = info.status == "completed" and not (info.output_file_id or info.error_file_id)
        if empty and not lot.looked_again:
            # Taken at its word, all of it would be asked, and paid, again: its files may come a moment later.
            lot.looked_again = True
            await desk.sleep(desk.filing.settings.poll[0])
            return
        problems = [[each.code, each.message, each.line] for each in info.problems]
        lot.shard = await desk.courier.note(lot.shard, "ended", problems=problems)

    async def _make_room(self, limit: float) -> None:
        """Learn the enqueued-token limit from a refusal; split what is too big for it, else wait."""
        desk, lot = self._desk, self._lot
        lot.refused += 1
        if limit < math.inf:
            desk.pile.most_tokens = limit
            desk.filing.store.put_fact(desk.filing.scope, "enqueued_tokens", limit)
        lot.shard = await desk.courier.forget_batch(lot.shard)
        others = [each for each in desk.lots if each is not lot and not each.over]
        alone = not any(each.shard.state == "created" for each in others)
        # Tokens are only estimated here: refused alone and twice, it is too big whatever was estimated.
        too_big = lot.tokens > desk.pile.most_tokens or (alone and lot.refused > 1)
        if too_big and (lot.shard.facts.get("requests") or len(lot.codes)) > 1:
            if lot.tokens <= desk.pile.most_tokens:
                desk.pile.most_tokens = lot.tokens / 2
            await self._dissolve()
        elif lot.tokens > limit and alone and lot.refused > 1:
            await self._give_up(limit)
        else:
            lot.note = "enqueued-token limit" + (f" ({limit:,.0f})" if limit < math.inf else "")
            await self._wait_for_room()

    async def _give_up(self, limit: float) -> None:
        """One request that is above the limit all by itself has failed."""
        desk, lot = self._desk, self._lot
        await aside(desk.shards.dissolve, lot.shard)
        lot.over = True
        why = ContextLengthError(
            f"The request has about {lot.tokens:,} tokens, all of a model's batches together {limit:,.0f} at "
            'most: shorten the text, or ask it with mode="concurrent".'
        )
        for code in lot.codes:
            desk.fail(code, why)

    async def _wait_for_room(self) -> None:
        """Until a batch of this call has ended; for a while, where others fill the limit."""
        desk, lot = self._desk, self._lot
        if not desk.filing.wait:
            raise StoppedError
        shortest, longest = desk.filing.settings.poll
        wait = min(12 * shortest * 2.0 ** (lot.refused - 1), 30 * longest)
        # Also where by our count there is room at once: each try costs a creation, of 2,000 an hour.
        await desk.sleep(wait * (0.5 + random.random() / 2))  # noqa: S311
        await desk.has_room(lot.tokens)

    # Collecting ---------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """Read what a batch left behind, keep it, and only then close the shard."""
        desk, lot = self._desk, self._lot
        async with desk.reading:
            again = await self._harvest()
            await desk.saved()
        await aside(desk.shards.close, lot.shard)
        lot.over = True
        desk.ring()
        if desk.filing.settings.delete_files:
            await desk.courier.delete_files(lot.shard)
        desk.ask_again(lot, again)

    async def _harvest(self) -> dict[int, LLMError]:
        """Hand over what the files say; by code, what may be asked again."""
        desk, lot = self._desk, self._lot
        filing, shard = desk.filing, lot.shard
        keys = await aside(desk.shards.keys, shard.id)
        harvest = await aside(self._harvest_of, keys)
        for name in ("output_file_id", "error_file_id"):
            if shard.facts.get(name):
                await self._read(harvest, shard, shard.facts[name])
        final, again = harvest.rest(lost(shard))
        if shard.facts.get("problems"):
            blamed = blamed_in(shard, list(split(keys)))
            for code in again:
                key = filing.plan.key(code)
                if key in blamed:
                    final[code] = Result(key=key, error=blamed[key], batch=True)
        desk.emit(final)
        for code, misfit in harvest.misfits.items():
            desk.pile.settle(code, misfit.result.cost)
        if harvest.misfits:
            await desk.saved()  # after what has failed so far, nothing more may be sent
            if desk.stopping or not await filing.repair(harvest.misfits):
                raise StoppedError  # whoever comes next reads the files again
        return {code: why for code, why in again.items() if code not in final}

    def _harvest_of(self, shard_keys: bytes) -> Harvest:
        filing, lot = self._desk.filing, self._lot
        keys = b"".join(map(filing.plan.key, lot.codes))
        strays = set(split(shard_keys)) - set(split(keys)) if len(keys) != len(shard_keys) else set()
        return Harvest(keys, lot.codes, strays, filing.task, filing.price, lot.shard.run)

    async def _read(self, harvest: Harvest, shard: Shard, file_id: str) -> None:
        """Read a file in slices, so that the event loop goes on."""
        desk = self._desk
        journal = desk.filing.journal
        with tempfile.TemporaryFile() as file:
            spool = cast("BinaryIO", file)
            try:
                await desk.courier.fetch(file_id, spool)
            except ApiError as error:
                # With the key of another project every file is unknown: asked again, all would be paid twice.
                if error.status not in (404, 410) or await self._polled() is None:
                    raise
                said = f"{shard.name}: one of its files is gone ({error}); what was in it is asked again."
                desk.collector.note(said)
                return
            lines = lines_in(spool)
            while part := list(islice(lines, _SLICE)):
                results, kept = harvest.take(part)
                desk.emit(results)
                if kept:
                    journal.keep(kept, _nothing)
                await asyncio.sleep(0)
                await journal.slack(_UNSAVED)


def _nothing() -> None:
    """Nobody waits for it."""
