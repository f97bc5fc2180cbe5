"""What is asked by which route, in which order: what waits for an audit goes last."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pandas_llm.core.errors import LLMError
from pandas_llm.core.types import Result
from pandas_llm.run.outfit import Leg, Outfit, pilot_failure

if TYPE_CHECKING:
    from pandas_llm.run.story import Run


class Journey:
    """One run's requests on their way."""

    def __init__(self, run: Run, outfit: Outfit) -> None:
        self._run = run
        self._outfit = outfit
        self._adopts: Leg | None = None
        """The leg that follows what others submitted."""
        self._piloted = False

    async def go(self, codes: Sequence[int]) -> None:
        """Ask for these codes by their routes; the near-equal ones among them share answers."""
        mode, reuse = self._run.call.options.mode, self._run.reuse
        legs = self._run.legs or ([Leg("batch" if mode == "batch" else "concurrent", codes)] if codes else [])
        if self._run.in_batches and mode != "concurrent" and not any(leg.route == "batch" for leg in legs):
            legs = [*legs, Leg("batch", ())]
        self._adopts = next((leg for leg in legs if leg.route == "batch"), None)
        if reuse is None or not codes:
            await self._all(legs)
            return
        await self._all(self._of(legs, await reuse.begin(codes)))
        await self._run.saved()
        await reuse.end(self._audit, lambda codes: self._all(self._of(legs, codes)))

    async def _audit(self, codes: Sequence[int]) -> None:
        """Ask for a few at once, whatever their route: the verdict waits for them."""
        await self._concurrently(Leg("concurrent", codes))
        await self._run.saved()

    async def _all(self, legs: Sequence[Leg]) -> None:
        if len(legs) == 1:
            await self._go_one(legs[0])
            return
        went = await asyncio.gather(*(self._go_one(leg) for leg in legs), return_exceptions=True)
        for outcome in went:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _go_one(self, leg: Leg) -> None:
        try:
            await (self._by_batch(leg) if leg.route == "batch" else self._concurrently(leg))
        except LLMError:
            # What makes one route pointless (no key, no money) makes the others so.
            self._run.stop_sending()
            raise

    async def _concurrently(self, leg: Leg) -> list[Result]:
        if not leg.codes:
            return []
        return await self._run.take(self._outfit.concurrently(leg), leg.route, len(leg.codes))

    async def _by_batch(self, leg: Leg) -> None:
        """A few requests at once, whose errors would cost a day later; then files, then what they lost."""
        fresh = leg.codes
        if fresh and not self._piloted:
            self._piloted = True
            pilot = fresh[: self._run.call.options.batches.pilot]
            failure = pilot_failure(await self._pilot(pilot))
            if failure is not None:
                raise failure
            fresh = array("i", (code for code in fresh[len(pilot) :] if not self._run.sheet.sources[code]))
        # Several parts may go by batches: what others submitted is followed by the first, once.
        adopted = self._run.in_batches if self._adopts is not None else {}
        self._adopts = None
        batch = self._outfit.by_batch(replace(leg, codes=fresh), adopted)
        await self._run.take(batch, "batch", len(fresh))
        if batch.left and not self._run.interrupted:
            await self._concurrently(Leg("concurrent", batch.left))

    async def _pilot(self, codes: Sequence[int]) -> list[Result]:
        results = await self._concurrently(Leg("concurrent", codes))
        await self._run.saved()
        return results

    def _of(self, legs: Sequence[Leg], codes: Sequence[int]) -> list[Leg]:
        """These codes, each by its leg; too few for a batch are asked at once, and open ones are followed."""
        wanted, parts = set(codes), []
        for leg in legs:
            mine = [code for code in leg.codes if code in wanted]
            few = leg.route == "batch" and len(mine) < self._run.call.options.batches.min_requests
            if leg is self._adopts and (few or not mine):
                parts.append(replace(leg, codes=()))
            if mine:
                parts.append(replace(leg, codes=mine, route="concurrent" if few else leg.route))
        return parts
