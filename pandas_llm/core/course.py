"""How a run went: answers, cost and latency over its time, in as little memory as a plot needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST = 240
"""Intervals; at one more, two become one and each is twice as long."""
STEPS = 20
"""Bins of the latency in each power of ten: 12 % wide."""


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a run, as it was at one moment."""

    interval: float = 0.25
    """Seconds."""
    ended: tuple[int, ...] = ()
    """Requests that ended in each interval, well or not, the first one first."""
    cost: tuple[float, ...] = ()
    """USD billed for them; NaN where a price is unknown."""
    latencies: Mapping[int, int] = field(default_factory=dict)
    """Replies by bin: number `n` begins at `10 ** (n / STEPS)` seconds."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """USD by source: `api`, `batch`, `failed`."""


class Recorder:
    """Records a course as it goes on."""

    def __init__(self) -> None:
        self._interval = Course().interval
        self._ended: list[int] = []
        self._cost: list[float] = []
        self._latencies: Counter[int] = Counter()
        self.costs: dict[str, float] = {}
        """USD by source."""

    def add(self, seconds: float, source: str, cost: float) -> None:
        """Note that a request ended so many seconds after the start."""
        place = int(seconds / self._interval)
        while place >= MOST:
            self._interval *= 2
            self._ended = [sum(self._ended[i : i + 2]) for i in range(0, len(self._ended), 2)]
            self._cost = [sum(self._cost[i : i + 2]) for i in range(0, len(self._cost), 2)]
            place = int(seconds / self._interval)
        missing = place + 1 - len(self._ended)
        if missing > 0:
            self._ended += [0] * missing
            self._cost += [0.0] * missing
        self._ended[place] += 1
        self._cost[place] += cost
        self.costs[source] = self.costs.get(source, 0.0) + cost

    def replied(self, latency: float) -> None:
        """Note how long a reply took."""
        if latency > 0.0:
            self._latencies[math.floor(STEPS * math.log10(latency))] += 1

    def speeds(self, seconds: float) -> tuple[float, ...]:
        """Requests ended per second in each interval that is over by now, the first one first."""
        ended, interval = list(self._ended), self._interval
        over = min(int(seconds / interval), MOST)
        return tuple(n / interval for n in (*ended, *[0] * (over - len(ended)))[:over])

    def course(self) -> Course:
        """The course so far."""
        return Course(
            self._interval,
            tuple(self._ended),
            tuple(self._cost),
            dict(sorted(self._latencies.items())),
            dict(self.costs),
        )
