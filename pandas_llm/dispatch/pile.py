"""What is still to be submitted: cut into files, and paid for out of a budget."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pandas_llm.core.errors import ContextLengthError
from pandas_llm.core.lines import Limits, cut
from pandas_llm.dispatch.lot import Filing


@dataclass(frozen=True, slots=True)
class Group:
    """Requests for one file."""

    codes: Sequence[int]
    tokens: int
    """What they count against the enqueued-token limit, estimated."""
    too_big: Sequence[int]
    """Codes met on the way that fit into no file."""


class Pile:
    """Codes that wait for a batch, in order."""

    def __init__(self, filing: Filing, codes: Iterable[int]) -> None:
        self.most_tokens = math.inf
        """In one file: the enqueued-token limit, as far as it is known."""
        self.most_requests = filing.settings.max_requests
        self.out_of_money = False
        self._filing = filing
        self._codes = array("i", codes)
        self._reserved: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, codes: Iterable[int]) -> None:
        """Put codes at the end."""
        self._codes.extend(codes)

    def clear(self) -> Sequence[int]:
        """Take all of them away."""
        codes, self._codes = self._codes, array("i")
        return codes

    def take(self) -> Group:
        """The next codes that fit into one file by today's limits.

        None where nothing is left, or no money for it. It renders each request to know its size: call it in
        a thread.
        """
        too_big: list[int] = []
        limits = Limits(self.most_requests, self._filing.settings.max_bytes, self.most_tokens)
        group = next(cut(self._sizes(), limits, too_big.append), [])
        if self.out_of_money and not group and not too_big:
            self.clear()
        del self._codes[: len(group) + len(too_big)]  # what `cut` looked at beyond them is still there
        return Group(array("i", group), sum(map(self._tokens_of, group)), too_big)

    def too_big(self, code: int) -> ContextLengthError:
        """Why a request is in no file."""
        size, most = len(self._filing.line(code)), self._filing.settings.max_bytes
        return ContextLengthError(
            f"The request has {size:,} bytes, a batch file takes {most:,}: shorten the text."
        )

    def settle(self, code: int, cost: float) -> None:
        """Put what a request came to in place of what was set aside for it."""
        reserved = self._reserved.pop(code, None)
        if reserved is not None and self._filing.budget is not None:
            self._filing.budget.settle(reserved, cost)

    def _sizes(self) -> Iterator[tuple[int, int, int]]:
        for code in self._codes:
            if not self._afford(code):
                return
            yield code, len(self._filing.line(code)) + 1, self._tokens_of(code)

    def _tokens_of(self, code: int) -> int:
        return self._filing.tokens_of(self._filing.plan.texts[code])

    def _afford(self, code: int) -> bool:
        budget = self._filing.budget
        if budget is None or code in self._reserved:
            return True
        estimate = self._filing.estimate(self._filing.plan.texts[code])
        if budget.reserve(estimate):
            self._reserved[code] = estimate
            return True
        self.out_of_money = True
        return False
