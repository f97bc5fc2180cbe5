"""What was billed in a run, in columns: 60 bytes a result where the object is 500."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from pandas_llm.core.types import Result, Usage

Words = tuple[str | None, str | None, str | None]


class Billed(NamedTuple):
    """What a row's side columns say of its result."""

    usage: Usage
    cost: float
    latency: float
    attempts: int
    model: str | None
    service_tier: str | None
    finish_reason: str | None
    request_id: str | None


class Results:
    """The results of a run by code, as far as columns need them.

    Parameters
    ----------
    details
        Whether request ids are kept: each is another text, and few ask for them.
    """

    def __init__(self, *, details: bool) -> None:
        self._codes = array("i")
        self._counts = array("i")
        self._amounts = array("d")
        self._words: dict[Words, int] = {}
        self._said = array("i")
        self._request_ids: list[str | None] | None = [] if details else None

    def add(self, code: int, result: Result) -> None:
        """Note what became of a code."""
        usage = result.usage
        self._codes.append(code)
        self._counts.extend(
            (
                usage.input,
                usage.output,
                usage.cached,
                usage.cache_written,
                usage.reasoning,
                result.attempts,
            )
        )
        self._amounts.extend((result.cost, result.latency))
        # A handful of models, tiers and reasons in a million rows: each combination is kept once.
        words = (result.model, result.service_tier, result.finish_reason)
        self._said.append(self._words.setdefault(words, len(self._words)))
        if self._request_ids is not None:
            self._request_ids.append(result.request_id)

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._codes)

    def values(self) -> Iterator[Billed]:
        """What was billed, in the order in which it ended."""
        words = list(self._words)
        for place, said in enumerate(self._said):
            *usage, attempts = self._counts[6 * place : 6 * place + 6]
            cost, latency = self._amounts[2 * place : 2 * place + 2]
            request_id = None if self._request_ids is None else self._request_ids[place]
            yield Billed(Usage(*usage), cost, latency, attempts, *words[said], request_id)

    def items(self) -> Iterator[tuple[int, Billed]]:
        """The same with their codes."""
        return zip(self._codes, self.values(), strict=True)
