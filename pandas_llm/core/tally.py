"""Counting a run: what happened goes in, a frozen Progress comes out. Time is given."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

from pandas_llm.core.types import BatchProgress, Progress, Result, Usage

State = Literal["running", "done", "stopped", "failed"]
RATE_SECONDS = 10


class Tally:
    """The counts of one run. One thread writes; snapshots may be taken from another."""

    def __init__(self, *, run: str, title: str, rows: int, now: float, max_cost: float | None = None) -> None:
        self.run = run
        self.title = title
        self.rows = rows
        self.max_cost = max_cost
        self.started = now
        self.sources: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.asked = 0
        self.answered = 0
        self.paid = 0
        """Requests that were billed."""
        self.in_doubt = 0
        self.usage = Usage()
        self.cost = 0.0
        self.retries = 0
        self.in_flight = 0
        self.last_error = ""
        self.state: State = "running"
        self.note = ""
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_SECONDS + 1)
        self._latencies: deque[float] = deque(maxlen=512)

    def told(self, result: Result, rows: int, now: float) -> None:
        """A request ended; `rows` rows share what came of it."""
        self.answered += 1
        self.in_doubt += result.in_doubt
        self.paid += len(result.replies)
        self.usage = self.usage + result.usage
        self.cost += result.cost
        if result.error is not None:
            self.sources["failed"] += rows
            self.failed(type(result.error).__name__, str(result.error))
        else:
            self.sources["batch" if result.batch else "api"] += 1
            self.sources["duplicate"] += rows - 1
            if not result.batch:
                self._latencies.append(result.latency)
        second = int(now - self.started)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))

    def failed(self, kind: str, message: str) -> None:
        """A failure, for the list of errors."""
        self.errors[kind] += 1
        self.last_error = f"{kind}: {message}"

    def snapshot(self, now: float, *, waiting: str = "", batches: Sequence[BatchProgress] = ()) -> Progress:
        """The run at this moment."""
        elapsed = max(now - self.started, 1e-9)
        recent = sum(n for second, n in list(self._seconds) if second > elapsed - RATE_SECONDS)
        rate = recent / min(elapsed, RATE_SECONDS)
        to_come = self.asked - self.answered
        return Progress(
            run=self.run,
            title=self.title,
            rows=self.rows,
            sources={name: n for name, n in dict(self.sources).items() if n},
            asked=self.asked,
            answered=self.answered,
            usage=self.usage,
            cost=self.cost,
            projected=self._projected(to_come),
            max_cost=self.max_cost,
            errors=dict(self.errors),
            last_error=self.last_error,
            retries=self.retries,
            in_flight=self.in_flight,
            rate=rate,
            eta=to_come / rate if rate and self.state == "running" else None,
            waiting=waiting,
            batches=batches,
            latencies=tuple(self._latencies),
            seconds=elapsed,
            state=self.state,
            note=self.note,
        )

    def _projected(self, to_come: int) -> float:
        if self.state != "running" or not to_come:
            return self.cost
        return self.cost + to_come * self.cost / self.answered if self.answered else math.nan
