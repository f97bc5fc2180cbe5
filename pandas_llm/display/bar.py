"""The bar, segmented by source: how many cells each one gets, and how it is drawn in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pandas_llm.core.types import Progress
from pandas_llm.display import words
from pandas_llm.display.ink import COMING, Ink


def cells(parts: Sequence[int], width: int) -> list[int]:
    """`width` cells shared out by largest remainder; what isn't zero gets at least one, so 1 failure shows.

    >>> cells([1000, 1, 0], 10)
    [9, 1, 0]
    """
    total = sum(parts)
    if not total:
        return [0] * len(parts)
    shared = [max(1, n * width // total) if n else 0 for n in parts]
    while sum(shared) > width:
        shared[shared.index(max(shared))] -= 1
    spare = width - sum(shared)
    for i in sorted(range(len(parts)), key=lambda i: -(parts[i] * width % total))[:spare]:
        shared[i] += 1
    return shared


def segments(p: Progress, width: int) -> list[tuple[str, int, int]]:
    """Source, rows and cells of each segment; what is to come is the last one."""
    shown = [*words.by_source(p), (COMING, max(0, p.rows - p.done))]
    return [
        (source, n, size)
        for (source, n), size in zip(shown, cells([n for _, n in shown], width), strict=True)
        if size
    ]


def bar(p: Progress, width: int, ink: Ink) -> str:
    """The bar, exactly `width` cells."""
    drawn = segments(p, width) or [(COMING, 0, width)]
    return "".join(ink.tint(ink.glyph(source) * size, source) for source, _, size in drawn)


def legend(p: Progress, ink: Ink) -> list[str]:
    """One entry a source: `█ 1,598 api`."""
    return [f"{ink.tint(ink.glyph(source), source)} {n:,} {source}" for source, n in words.by_source(p)]
