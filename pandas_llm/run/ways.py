"""The ways by which a run gets answers: each yields Results and knows which code a Result belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import LLMError
from pandas_llm.core.types import Allowed, Key, Misfit, Request, Result
from pandas_llm.dispatch.gate import Gate
from pandas_llm.dispatch.queue import Queue
from pandas_llm.dispatch.workers import Workers


class Way(Protocol):
    """What a run needs of whoever gets it answers."""

    def results(self) -> AsyncGenerator[Sequence[Result]]:
        """One for each request, in any order, as they are ready."""
        ...

    def arrived(self, key: Key) -> int:
        """The code of a request whose result is told."""
        ...

    def handed_over(self) -> None:
        """A result is with the journal now."""
        ...

    def stop(self, error: LLMError | None = None) -> None:
        """Send nothing more."""
        ...

    def waiting(self) -> tuple[float, str]:
        """Seconds until something can leave, and why; the reason is empty where nobody waits."""
        ...

    @property
    def out_of_money(self) -> bool:
        """Whether something wasn't asked for want of money."""
        ...


class Repairs:
    """Where workers get batched replies that didn't fit: each is asked once more, concurrently."""

    held_by_others = 0

    def __init__(
        self,
        misfits: Mapping[int, Misfit],
        text_of: Callable[[int], str],
        budget: Budget | None,
        estimate: Callable[[str], float],
    ) -> None:
        self.left = dict(misfits)
        """By code, those that weren't taken."""
        self.out_of_money = False
        self._text_of = text_of
        self._budget = budget
        self._estimate = estimate
        self._out: dict[Key, tuple[int, float, float]] = {}
        """By key, the code, what was set aside, and what the batch took already."""

    async def take(self, *, at_once: bool = False) -> Request | None:  # noqa: ARG002 — nobody waits here
        """The next one, None when there is none or no money for it."""
        if not self.left or self.out_of_money:
            return None
        code = next(iter(self.left))
        text, reserved = self._text_of(code), 0.0
        if self._budget is not None:
            reserved = self._estimate(text)
            if not self._budget.reserve(reserved):
                self.out_of_money = True
                return None
        misfit = self.left.pop(code)
        self._out[misfit.result.key] = (code, reserved, misfit.result.cost)
        return Request(misfit.result.key, text, misfit)

    def drop(self, request: Request) -> None:
        """Put back one that wasn't answered: while it is left its shard stays open, and gives it again."""
        assert request.misfit is not None, "it was made of one"
        self._settle(request.key, self._out[request.key][2])
        self.left[self._out.pop(request.key)[0]] = request.misfit

    put_back = drop

    def settle(self, result: Result) -> None:
        """Put what a repair came to in place of what was set aside for it."""
        self._settle(result.key, result.cost)

    def handed_over(self) -> None:
        """Nobody waits for it."""

    def arrived(self, key: Key) -> int:
        """The code of a repair that is told."""
        return self._out.pop(key)[0]

    def unrepaired(self) -> list[Result]:
        """What is left, as it is: there is no money for more."""
        results = [misfit.result for misfit in self.left.values()]
        self._out |= {misfit.result.key: (code, 0.0, 0.0) for code, misfit in self.left.items()}
        self.left.clear()
        return results

    async def close(self) -> None:
        """Nothing is claimed here."""

    def _settle(self, key: Key, cost: float) -> None:
        if self._budget is not None:
            _, reserved, before = self._out[key]
            self._budget.settle(reserved, cost - before)


class Concurrently:
    """Requests by concurrent calls."""

    def __init__(self, dispatcher: Workers[Any, Any], gate: Gate, source: Queue | Repairs) -> None:
        self._dispatcher = dispatcher
        self._gate = gate
        self._source = source
        self.arrived = source.arrived
        self.handed_over = source.handed_over
        self.stop = dispatcher.stop

    async def results(self) -> AsyncGenerator[Sequence[Result]]:
        """One for each request, as each is ready."""
        try:
            async with contextlib.aclosing(self._dispatcher.answer(self._source)) as results:
                async for result in results:
                    yield (result,)
        finally:
            await self._source.close()

    @property
    def allowed(self) -> Allowed:
        """What the endpoint allows just now."""
        return self._gate.allowed

    def waiting(self) -> tuple[float, str]:
        """Seconds until something can leave, and why."""
        seconds, reason = self._gate.waiting()
        others = self._source.held_by_others
        if seconds < 1 and others and not self._gate.in_flight:
            return 0.0, f"another call is asking for {others:,} of these texts"
        return seconds, reason

    @property
    def out_of_money(self) -> bool:
        """Whether something wasn't asked for want of money."""
        return self._source.out_of_money


class Stoppable(Protocol):
    """A run that another one waits for."""

    def stop(self) -> None:
        """Send nothing more."""
        ...

    def stop_sending(self, error: LLMError | None = None) -> None:
        """The same, on the loop."""
        ...

    def let_go_if_orphaned(self) -> None:
        """Give back its claims where somebody closed the loop under it."""
        ...


class Inner:
    """A run within a run, such as the one that embeds: what stops the outer one stops it."""

    def __init__(self, run: Stoppable, texts: int) -> None:
        self.let_go_if_orphaned = run.let_go_if_orphaned
        self._run = run
        self._texts = texts

    def stop(self, error: LLMError | None = None) -> None:
        """Send nothing more."""
        self._run.stop()
        self._run.stop_sending(error)

    def waiting(self) -> tuple[float, str]:
        """The reason why nothing else is sent."""
        return 0.0, f"comparing {self._texts:,} texts"


def why_waiting(ways: Sequence[Way | Inner]) -> str:
    """Why nothing is sent just now, and for how long; empty where something is."""
    for way in ways:
        seconds, reason = way.waiting()
        # Pacing holds requests for moments all the time; only a wait that people notice is told.
        if seconds >= 1:
            return f"{reason}, {seconds:,.0f} s"
        if reason and not seconds:
            return reason
    return ""
