"""What became of a plan, in columns: 60 bytes a result where the object is 500."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from pandas_llm.core.types import Key, Record, Result

Words = tuple[str | None, str | None, str | None]
Count = Literal[
    "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "attempts"
]
Word = Literal["model", "service_tier", "finish_reason", "request_id"]

COUNTS: tuple[Count, ...] = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "attempts",
)
WORDS: tuple[Word, ...] = ("model", "service_tier", "finish_reason", "request_id")


class Results:
    """The results of a run, as far as columns need them; entry n of each column is about `codes[n]`.

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

    @classmethod
    def of(cls, results: Mapping[int, Result]) -> Self:
        """These results by code, with all details."""
        made = cls(details=True)
        for code, result in results.items():
            made.add(code, result)
        return made

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

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """The codes, in the order in which they ended."""
        return np.array(self._codes, dtype=np.int32)

    def counts(self, name: Count) -> npt.NDArray[np.int64]:
        """Tokens billed, or requests sent."""
        return np.array(self._counts, dtype=np.int64)[COUNTS.index(name) :: len(COUNTS)]

    @property
    def costs(self) -> npt.NDArray[np.float64]:
        """USD; NaN where a price is unknown."""
        return np.array(self._amounts, dtype=np.float64)[0::2]

    @property
    def latencies(self) -> npt.NDArray[np.float64]:
        """Seconds of the last attempt."""
        return np.array(self._amounts, dtype=np.float64)[1::2]

    def words(self, name: Word) -> Iterator[str | None]:
        """What the responses say of themselves."""
        place = WORDS.index(name)
        if place == len(WORDS) - 1:
            return iter(self._request_ids or [None] * len(self))
        said = [words[place] for words in self._words]
        return (said[number] for number in self._said)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that answered, as responses name them."""
        return tuple(sorted({model for model, _, _ in self._words if model is not None}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What became of a plan, in columns: one entry a code everywhere, in the plan's order."""

    fields: tuple[list[Any], ...]
    """One list a field of the task: the JSON value, None where there is no answer or it is null."""
    sources: list[str]
    """`api`, `batch`, `cache`, `failed` or `pending`."""
    errors: dict[int, str] = field(default_factory=dict)
    """By code, where there is no answer: `RefusalError: …`, `Pending: max_cost reached`."""
    results: Results = field(default_factory=lambda: Results(details=False))
    """By code, what was asked in this run; all other codes were billed nothing."""
    records: dict[int, Record] = field(default_factory=dict)
    """By code, what the store said; filled only for `details="all"`."""
    similar: dict[int, tuple[Key, float]] = field(default_factory=dict)
    """By code, whose answer it took, and how near that text is."""
