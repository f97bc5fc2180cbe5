"""A run on a terminal: two lines on stderr, painted over themselves; at the end the account stays.

Between two paints the cursor rests at the first cell of the first line, visible. So nothing has to be
restored whatever happens, a line printed by somebody else stays readable, and a window made narrower, which
folds our lines, is still cleared whole by one "erase below".
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from pandas_llm.core.types import Progress
from pandas_llm.display import batches, words
from pandas_llm.display.bar import bar, legend
from pandas_llm.display.ink import Ink, fold, ink_for, width
from pandas_llm.display.words import Figure

_EVERY = 1 / 8
"""Seconds between paints."""
_BAR = 10
"""Cells below which a bar tells less than the title it takes the room from."""
_FINAL_BAR = 40
_NARROWEST = 20
"""Columns for which lines are made even where there are fewer."""
_REST = "\r\x1b[1A"
_BELOW = "\x1b[J"
_TO_THE_END = "\x1b[K"


class Terminal:
    """The two-line bar."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._ink = ink_for(stream, colour=True)
        self._painted_at = -math.inf

    def say(self, line: str) -> None:
        """A line that stays, above the bar. It is a sentence: the terminal may fold it."""
        self._painted_at = -math.inf
        self._write(f"\r{_BELOW}{self._ink.text(words.plain(line))}\n")

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:  # noqa: ARG002 — Ctrl-C is the button
        """The first paint."""
        self.paint(p)

    def paint(self, p: Progress) -> None:
        """The bar, painted over the last one, 8 times a second at most."""
        now = self._clock()
        if now - self._painted_at < _EVERY:
            return
        self._painted_at = now
        room = columns(self._stream) - 2
        first, second = top_line(p, room, self._ink), figures_line(p, room, self._ink)
        self._write(f"\r {first}{_TO_THE_END}\n {second}{_BELOW}{_REST}")

    def close(self, p: Progress) -> None:
        """The account in place of the bar."""
        lines = account(p, columns(self._stream) - 1, self._ink)
        self._write(f"\r{_BELOW}" + "".join(f"{line}\n" for line in lines))

    def _write(self, text: str) -> None:
        # One write a paint: half a frame is what flickers.
        self._stream.write(text)
        self._stream.flush()


def columns(stream: TextIO) -> int:
    """How wide the terminal is just now; the standard output may be another one, or a file."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        found = 0
    return max(_NARROWEST, found or shutil.get_terminal_size().columns)


def top_line(p: Progress, room: int, ink: Ink) -> str:
    """Title, bar, done/total and percent in at most `room` cells; the title gives way first, then the bar."""
    total = f"{p.rows:,}"
    right = f"{words.finished(p):,}".rjust(len(total)) + f"/{total} {words.percent(p):>5}"
    left = ink.clip(ink.text(words.title(p)), room * 2 // 5)
    if room - width(left) - len(right) - 2 < _BAR:
        left = ""
    size = room - len(right) - 1 - (width(left) + 1 if left else 0)
    if size < 1:
        return ink.clip(right, room)
    drawn = bar(p, size, ink)
    return " ".join(part for part in (ink.tint(left, "bold"), drawn, right) if part)


def figures_line(p: Progress, room: int, ink: Ink) -> str:
    """What fits of the live figures, and the bar's legend at the right where there is room left."""
    line = ink.text(" · ").join(
        ink.tint(ink.clip(text, room), tone)
        for text, tone in fitting([*batches.figures(p), *words.figures(p)], room, ink)
    )
    beside = "  ".join(legend(p, ink))
    gap = room - width(line) - width(beside)
    return f"{line}{' ' * gap}{beside}" if beside and gap >= 3 else line


def fitting(figures: Sequence[Figure], room: int, ink: Ink) -> list[tuple[str, str]]:
    """Texts and tones of what fits, in reading order, taken by rank; the first by rank always stays."""
    steps = [(f.rank, i, f.text) for i, f in enumerate(figures)]
    steps += [(f.longer_rank, i, f.longer) for i, f in enumerate(figures) if f.longer]
    between = width(ink.text(" · "))
    taken: dict[int, str] = {}
    for _, i, text in sorted(steps):
        tried = {**taken, i: ink.text(text)}
        if not taken or sum(map(width, tried.values())) + between * (len(tried) - 1) <= room:
            taken = tried
    return [(taken[i], figures[i].tone) for i in sorted(taken)]


def account(p: Progress, room: int, ink: Ink) -> list[str]:
    """What stays: a line with the bar, one with counts and bill, then batches, failures and note, if any."""

    def folded(pieces: Sequence[str], between: str) -> list[str]:
        return fold([ink.clip(ink.text(piece), room) for piece in pieces], ink.text(between), room)

    counted = fold(legend(p, ink), "  ", room)
    billed = folded(words.bill(p), " · ")
    beside = "   ".join([*counted, *billed])
    second = [beside] if width(beside) <= room else [*counted, *billed]
    waited_for = [line for said in batches.lines(p) for line in folded(said.split(), " ")]
    failures = [ink.tint(line, "bad") for line in folded(words.trouble(p).split(), " ")]
    return [_head(p, room, ink), *second, *waited_for, *failures, *folded(words.plain(p.note).split(), " ")]


def _head(p: Progress, room: int, ink: Ink) -> str:
    said = ink.clip(ink.text(words.headline(p)), room)
    title = ink.clip(ink.text(words.title(p)), max(room - width(said) - 1, 0))
    size = min(room - width(said) - width(title) - 2, _FINAL_BAR)
    drawn = bar(p, size, ink) if size >= _BAR and p.rows else ""
    tone = {"stopped": "warn", "failed": "bad"}.get(words.ended(p), "")
    return " ".join(part for part in (ink.tint(title, "bold"), drawn, ink.tint(said, tone)) if part)
