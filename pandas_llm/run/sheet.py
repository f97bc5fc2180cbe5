"""What became of a plan so far: one place a code, filled as answers come from the store and from outside."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pandas_llm.core.options import Options
from pandas_llm.core.plan import Plan
from pandas_llm.core.results import Answers, Results
from pandas_llm.core.tally import FEW_ROWS, Tally
from pandas_llm.core.types import Key, Record, Result, Task, Values
from pandas_llm.io.records import UNREAD, record_of
from pandas_llm.io.store import Payload


class Sheet:
    """The answers of a plan as they come; each is counted in the tally when it is written down."""

    def __init__(self, plan: Plan, task: Task, options: Options, tally: Tally) -> None:
        n = len(plan)
        self.fields: tuple[list[Any], ...] = tuple([None] * n for _ in task.fields)
        self.sources = [""] * n
        self.errors: dict[int, str] = {}
        self.results = Results(details=options.details == "all")
        self.records: dict[int, Record] = {}
        self.similar: dict[int, tuple[Key, float]] = {}
        """By code, whose answer it took, and how near that text is."""
        self.unread: list[int] = []
        """Codes whose answer is in the store and was never read."""
        self._plan = plan
        asks = plan.codes >= 0
        self._rows_of = np.bincount(plan.codes[asks], minlength=n) if n else np.zeros(0, dtype=np.int64)
        self._confidence = task.confidence
        self._all = options.details == "all"
        self._retry_failed = options.retry_failed
        self._tally = tally

    def rows_of(self, code: int) -> int:
        """How many rows ask this."""
        return int(self._rows_of[code])

    def unknown(self) -> array[int]:
        """The codes without an answer, in the plan's order; a list of them would be 36 bytes a row."""
        return array("i", (code for code, source in enumerate(self.sources) if not source))

    def answered_before(self, found: list[tuple[Key, Payload]], at: dict[Key, int]) -> None:
        """Take a chunk of stored payloads: the plain answers here, without a call a row."""
        column, sources = self.fields[0], self.sources
        plain: list[int] = []
        one_field = len(self.fields) == 1 and not self._all
        for key, payload in found:
            output, code = payload[0], at[key]
            if one_field and output is not None:
                column[code] = output[0]
                sources[code] = "cache"
                plain.append(code)
            else:
                self.known(code, payload)
        self._tally.sources["cache"] += int(self._rows_of[plain].sum())

    def known(self, code: int, payload: Payload) -> bool:
        """Take one stored payload as the answer of a code; False where it is to be bought again."""
        output, error = payload[0], payload[1]
        if output is None and error[0] == UNREAD:
            self.sources[code] = "batch"
            self.unread.append(code)
            return True
        if output is None and self._retry_failed:
            return False
        self._take_back(code)
        if output is None:
            self.sources[code] = "failed"
            self.errors[code] = f"{error[0]}: {error[1]}"
            self._tally.sources["failed"] += self.rows_of(code)
            self._tally.failed(error[0], error[1], self._rows_that_ask(code), self.rows_of(code))
        else:
            for column, value in zip(self.fields, output, strict=True):
                column[code] = value
            self.sources[code] = "cache"
            self._tally.sources["cache"] += self.rows_of(code)
        if self._all:
            self.records[code] = record_of(payload)
        return True

    def told(self, code: int, result: Result, now: float) -> None:
        """Write down what a request came to in this run."""
        self._take_back(code)
        if result.output is None:
            self.sources[code] = "failed"
            kind, said = type(result.error).__name__, str(result.error)
            self.errors[code] = f"{kind}: {said}"
            self._tally.failed(kind, said, self._rows_that_ask(code), self.rows_of(code))
        else:
            self.sources[code] = "batch" if result.batch else "api"
            for column, value in zip(self.fields, result.output, strict=True):
                column[code] = value
        self._tally.told(result, self.rows_of(code), now)
        self.results.add(code, result)

    def share(self, code: int, key: Key, answer: Values, similarity: float) -> None:
        """Write down the answer of a near-equal text."""
        self._take_back(code)
        for column, value in zip(self.fields, answer, strict=True):
            column[code] = value
        self.sources[code] = "similar"
        self.similar[code] = (key, similarity)
        self._tally.sources["similar"] += self.rows_of(code)
        self._tally.asked -= 1

    def pend(self, codes: Iterable[int], reason: str) -> None:
        """No answer in this run, and why; a later reason replaces an earlier one, and none what is told."""
        said = f"Pending: {reason}"
        for code in codes:
            if not self.sources[code]:
                self.sources[code] = "pending"
                self._tally.sources["pending"] += self.rows_of(code)
            if self.sources[code] == "pending":
                self.errors[code] = said

    def answers(self) -> Answers:
        """All of it, as columns are made from."""
        return Answers(
            fields=self.fields,
            sources=self.sources,
            errors=self.errors,
            results=self.results,
            records=self.records,
            similar=self.similar,
        )

    @property
    def lacks_confidence(self) -> bool:
        """Whether a confidence was asked for and not one reply had log-probabilities."""
        asked = self.fields[-1] if self._confidence else []
        now = [
            value for value, source in zip(asked, self.sources, strict=False) if source in ("api", "batch")
        ]
        return bool(now) and all(value is None for value in now)

    def _rows_that_ask(self, code: int) -> Iterator[int]:
        """Rows of a code, looked for when they are wanted: of the first failures only."""
        yield from map(int, np.flatnonzero(self._plan.codes == code)[:FEW_ROWS])

    def _take_back(self, code: int) -> None:
        """What is answered now isn't pending any more."""
        if self.sources[code] == "pending":
            self._tally.sources["pending"] -= self.rows_of(code)
            del self.errors[code]


def record_of_result(result: Result) -> Record:
    """What the store keeps of a result that was billed."""
    error = None if result.error is None else (type(result.error).__name__, str(result.error))
    return Record(
        result.output,
        error,
        result.usage,
        result.model,
        result.service_tier,
        result.finish_reason,
        result.request_id,
        0.0 if result.batch else result.latency,  # a batch has none, and NaN is no JSON
        result.attempts,
        result.batch,
    )
