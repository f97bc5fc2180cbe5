"""The panel's little pictures: a sparkline, a histogram, a meter; each says in words what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 120, 26
_BINS = 16


def sparkline(values: Sequence[float], colour: str, shows: str) -> str:
    """A line over its area, from 0 to the highest value; nothing for fewer than two values."""
    top = max(values, default=0.0)
    if len(values) < 2 or top <= 0:
        return ""
    step = _WIDTH / (len(values) - 1)
    points = " ".join(f"{i * step:.1f},{_y(value / top):.1f}" for i, value in enumerate(values))
    area = f"0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}"
    return _svg(
        f'<polygon points="{area}" fill="{colour}" opacity=".18"/>'
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5" '
        'vector-effect="non-scaling-stroke"/>',
        shows,
    )


def smooth(values: Sequence[float], over: int = 4) -> list[float]:
    """Means of the last few: answers that leave together come back together, in waves.

    >>> smooth([0.0, 8.0, 0.0, 8.0, 0.0])
    [0.0, 4.0, 2.6666666666666665, 4.0, 4.0]
    """
    few = [values[max(0, i + 1 - over) : i + 1] for i in range(len(values))]
    return [sum(each) / len(each) for each in few]


def histogram(values: Sequence[float], colour: str, shows: str) -> str:
    """How often values were how large; the last bin has the largest 1 %, too."""
    ordered = sorted(filter(math.isfinite, values))
    if not ordered:
        return ""
    low, high = ordered[0], ordered[math.ceil(0.99 * len(ordered)) - 1]
    if high <= low:
        return ""
    counts = [0] * _BINS
    for value in ordered:
        counts[min(_BINS - 1, int((value - low) / (high - low) * _BINS))] += 1
    size = _WIDTH / _BINS
    bars = "".join(
        f'<rect x="{i * size + 0.5:.1f}" y="{_y(n / max(counts)):.1f}" width="{size - 1:.1f}" '
        f'height="{_HEIGHT - _y(n / max(counts)):.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    return _svg(f'<g fill="{colour}" opacity=".7">{bars}</g>', shows)


def meter(share: float, colour: str, shows: str) -> str:
    """How much of a limit is in use."""
    percent = 100 * min(1.0, max(0.0, share))
    return (
        f'<div role="meter" aria-label="{shows}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}" style="height:5px;border-radius:3px;margin-top:6px;'
        f'background:linear-gradient(90deg,{colour} {percent:.1f}%,var(--pl-track) 0)"></div>'
    )


def _y(share: float) -> float:
    return _HEIGHT - 1 - share * (_HEIGHT - 3)


def _svg(inner: str, shows: str) -> str:
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
    return f'<svg {box} role="img" aria-label="{shows}">{inner}</svg>'
