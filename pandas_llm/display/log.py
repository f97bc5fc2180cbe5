"""A run in a log: few, full lines, no control characters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from pandas_llm.core.types import BatchProgress, Progress
from pandas_llm.display import batches, words
from pandas_llm.display.ink import ink_for

_EVERY = 10.0
"""Seconds after which a line is due whatever happened."""
_EVERY_OF_BATCHES = 600.0
"""The same while all there is to do is to wait for batches, which take hours."""
_AT_LEAST = 2.0
"""Seconds between lines that are due to progress."""
_STEP = 0.1
"""Share of the rows that makes a line due."""


class Log:
    """One line at the start, one every 10 s or 10 % of the rows, the account at the end.

    Batches have a line at each change of their status, besides one every 10 min or 10 % of their requests.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._ink = ink_for(stream, colour=False)
        self._said_at = -math.inf
        self._said_share = 0.0
        self._told: Sequence[BatchProgress] = ()

    def say(self, line: str) -> None:
        """A line of its own."""
        self._write(line)

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:  # noqa: ARG002 — Ctrl-C is the button
        """The line at the start."""
        self._mark(p)
        self._write(
            f"{words.title(p)}: {words.number(p.rows, 'row')}, {words.number(p.asked, 'request')} to send"
        )

    def paint(self, p: Progress) -> None:
        """A line where one is due."""
        news = batches.news(p, self._told)
        self._told = p.batches
        for line in news:
            self._mark(p)
            self._write(f"{words.title(p)}: {line}")
        waited = self._clock() - self._said_at
        far = _share(p) >= self._said_share + _STEP - 1e-9
        every = _EVERY_OF_BATCHES if _only_waits(p) else _EVERY
        if waited >= every or (far and waited >= _AT_LEAST):
            self._mark(p)
            figures = (*batches.figures(p), *words.figures(p))
            said = (f"{words.rows(p)} ({words.percent(p)})", *(figure.full for figure in figures))
            self._write(f"{words.title(p)}: {' · '.join(said)}")

    def close(self, p: Progress) -> None:
        """The account, on one line."""
        waited_for = batches.lines(p) if len(p.batches) == 1 else [batches.summed(p.batches)]
        self._write(" · ".join(part for part in (*words.report(p), *waited_for) if part))

    def _mark(self, p: Progress) -> None:
        self._said_at, self._said_share = self._clock(), _share(p)

    def _write(self, line: str) -> None:
        self._stream.write(self._ink.text(words.plain(line)) + "\n")
        self._stream.flush()


def _only_waits(p: Progress) -> bool:
    return bool(batches.open_batches(p)) and not p.in_flight


def _share(p: Progress) -> float:
    if _only_waits(p):
        return sum(batch.completed for batch in p.batches) / (sum(b.requests for b in p.batches) or 1)
    return words.finished(p) / p.rows if p.rows else 1.0
