"""Counting a run: what happened goes in, a frozen Progress comes out. Time is given."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Literal

from pandas_llm.core.course import Course, Recorder
from pandas_llm.core.types import Allowed, BatchProgress, Failure, Progress, Result, Usage

State = Literal["running", "done", "stopped", "failed"]
RATE_SECONDS = 10
"""The rate is that of so many seconds, or of two latencies: answers that left together come in waves."""
LONGEST_RATE_SECONDS = 180
FEW_ROWS = 4
"""Rows of an error class that are named."""
UNKNOWN = Allowed()


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
        self._sending_since: float | None = None
        self.last_error = ""
        self.state: State = "running"
        self.note = ""
        self._failures: dict[str, Failure] = {}
        self._recorder = Recorder()
        self._seconds: deque[tuple[int, int]] = deque(maxlen=LONGEST_RATE_SECONDS + 1)
        self._latencies: deque[float] = deque(maxlen=512)

    def sent(self, now: float) -> None:
        """A request left."""
        self.in_flight += 1
        if self._sending_since is None:
            self._sending_since = now

    def told(self, result: Result, rows: int, now: float) -> None:
        """A request ended; `rows` rows share what came of it."""
        self.answered += 1
        self.in_doubt += result.in_doubt
        self.paid += len(result.replies)
        self.usage = self.usage + result.usage
        self.cost += result.cost
        source = "failed" if result.error is not None else "batch" if result.batch else "api"
        if result.error is not None:
            self.sources["failed"] += rows
        else:
            self.sources[source] += 1
            self.sources["duplicate"] += rows - 1
            if not result.batch:
                self._latencies.append(result.latency)
                self._recorder.replied(result.latency)
        self._recorder.add(now - self.started, source, result.cost)
        second = int(now - self.started)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))

    def failed(self, kind: str, message: str, rows: Iterable[int] = (), n: int = 1) -> None:
        """`n` rows failed in one way, for the list of errors: the latest message, and rows to look at."""
        self.errors[kind] += n
        self.last_error = f"{kind}: {message}"
        named = self._failures.get(kind, Failure()).rows
        if len(named) < FEW_ROWS:
            named = (*named, *itertools.islice(rows, FEW_ROWS - len(named)))
        self._failures[kind] = Failure(named, message)

    def course(self) -> Course:
        """How it went so far."""
        return self._recorder.course()

    def snapshot(
        self,
        now: float,
        *,
        waiting: str = "",
        allowed: Allowed = UNKNOWN,
        batches: Sequence[BatchProgress] = (),
    ) -> Progress:
        """The run at this moment."""
        elapsed = max(now - self.started, 1e-9)
        rate = self._rate(now)
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
            projected=self._projected(to_come, by_batch=bool(batches)),
            max_cost=self.max_cost,
            errors=dict(self.errors),
            last_error=self.last_error,
            failures=dict(self._failures),
            retries=self.retries,
            in_flight=self.in_flight,
            rate=rate,
            speeds=self._recorder.speeds(elapsed),
            # When a batch ends is the provider's affair, and who waits doesn't go at any rate.
            eta=to_come / rate if rate and self.state == "running" and not batches and not waiting else None,
            waiting=waiting,
            allowed=allowed,
            batches=batches,
            latencies=tuple(self._latencies),
            seconds=elapsed,
            state=self.state,
            note=self.note,
        )

    def _rate(self, now: float) -> float:
        """Requests that ended a second, lately."""
        slowest = max(list(self._latencies)[-64:], default=0.0)
        window = min(LONGEST_RATE_SECONDS, max(RATE_SECONDS, 2 * slowest))
        elapsed, since = now - self.started, self._sending_since or self.started
        recent = sum(n for second, n in list(self._seconds) if second > elapsed - window)
        return recent / max(min(now - since, window), 1e-9)

    def _projected(self, to_come: int, *, by_batch: bool) -> float:
        if self.state != "running" or not to_come:
            return self.cost
        if by_batch:  # at its own price, once one has told it
            told = self.sources["batch"]
            return self.cost + to_come * self._recorder.costs.get("batch", 0.0) / told if told else math.nan
        return self.cost + to_come * self.cost / self.answered if self.answered else math.nan
