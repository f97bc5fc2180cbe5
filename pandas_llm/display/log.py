"""A run in a log: few, full lines, no control characters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TextIO

from pandas_llm.core.types import Progress
from pandas_llm.display import words
from pandas_llm.display.ink import ink_for

_EVERY = 10.0
"""Seconds after which a line is due whatever happened."""
_AT_LEAST = 2.0
"""Seconds between lines that are due to progress."""
_STEP = 0.1
"""Share of the rows that makes a line due."""


class Log:
    """One line at the start, one every 10 s or 10 % of the rows, the account at the end."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._ink = ink_for(stream, colour=False)
        self._said_at = -math.inf
        self._said_share = 0.0

    def say(self, line: str) -> None:
        """A line of its own."""
        self._write(line)

    def open(self, p: Progress) -> None:
        """The line at the start."""
        self._mark(p)
        self._write(
            f"{words.title(p)}: {words.number(p.rows, 'row')}, {words.number(p.asked, 'request')} to send"
        )

    def paint(self, p: Progress) -> None:
        """A line where one is due."""
        waited = self._clock() - self._said_at
        far = _share(p) >= self._said_share + _STEP - 1e-9
        if waited >= _EVERY or (far and waited >= _AT_LEAST):
            self._mark(p)
            said = (f"{words.rows(p)} ({words.percent(p)})", *(figure.full for figure in words.figures(p)))
            self._write(f"{words.title(p)}: {' · '.join(said)}")

    def close(self, p: Progress) -> None:
        """The account, on one line."""
        self._write(" · ".join(words.report(p)))

    def _mark(self, p: Progress) -> None:
        self._said_at, self._said_share = self._clock(), _share(p)

    def _write(self, line: str) -> None:
        self._stream.write(self._ink.text(words.plain(line)) + "\n")
        self._stream.flush()


def _share(p: Progress) -> float:
    return words.finished(p) / p.rows if p.rows else 1.0
