"""A run as a figure of four panels: progress and speed, latency, cost by source, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pandas_llm.core.course import STEPS
from pandas_llm.display.summary import BLUE, COLOURS, RED
from pandas_llm.display.words import by_class, clipped, duration, money, number
from pandas_llm.history.tables import counts
from pandas_llm.reports.figure import INK, PALE, Drawing, dress, literal, say

if TYPE_CHECKING:
    from pandas_llm.history.ended import LastRun

_SPEED = "#e4e6ea"
_BARS = 60
"""Of the speed, at most: finer ones are noise."""
_UNITS = ((7_200.0, 3_600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""Of the time, from so many seconds on."""
_MOST_ERRORS = 7


def draw(run: LastRun) -> Drawing:
    """The run's figure."""
    figure = Drawing(10, 6.4)
    (progress, latency), (cost, errors) = figure.subplots(2, 2)
    title = f"{run.id} {run.status} · {run.verb} · {run.model} · {number(run.rows, 'row')}"
    figure.suptitle(literal(clipped(title, 90)), x=0.012, ha="left", fontsize=12, color=INK)
    _progress(progress, run)
    _latency(latency, run)
    _cost(cost, run)
    _errors(errors, run)
    return figure.finished()


# Progress and speed --------------------------------------------------------------------------------------


def _progress(axes: Any, run: LastRun) -> None:
    course, seconds = run.course, run.seconds
    total = sum(course.ended)
    if not total:
        dress(axes, "Progress")
        say(
            axes,
            f"No request ended in this run.\n{number(run.rows, 'row')}: {counts(run.sources) or 'none'}.",
        )
        return
    remark = "Line: requests that ended. Grey: how many at which time."
    dress(axes, f"{number(total, 'request')} ended in {duration(seconds)}", remark)
    end = max(seconds, course.interval * (len(course.ended) - 1))
    _, unit, name = next(each for each in _UNITS if end >= each[0])
    # The last interval is cut where the run ends.
    ends = np.minimum(np.arange(1, len(course.ended) + 1) * course.interval, end)
    times, done = np.concatenate([[0.0], ends]) / unit, np.concatenate([[0], np.cumsum(course.ended)])
    speed = axes.twinx()
    _speed(speed, times, done, unit)
    axes.plot(times, done, color=BLUE, linewidth=2, solid_capstyle="round")
    # The line over the bars: a twin is drawn on top otherwise.
    axes.set_zorder(speed.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set(xlim=(0, end / unit), ylim=(0, total * 1.05))
    axes.set_xlabel(name, fontsize=8.5, color=PALE)
    axes.set_ylabel("requests ended", fontsize=8.5, color=BLUE)
    axes.locator_params(axis="y", integer=True, nbins=6)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _speed(axes: Any, times: Any, done: Any, unit: float) -> None:
    """Requests per second, or minute where they are fewer, as grey steps; few enough to be read."""
    step = math.ceil((len(times) - 1) / _BARS)
    places = np.unique(np.append(np.arange(0, len(times), step), len(times) - 1))
    widths = np.diff(times[places])
    # A sliver at the end would show a speed that there never was.
    if len(widths) > 1 and widths[-1] < widths[0] / 2:
        places = np.delete(places, -2)
    edges = times[places]
    rates = np.diff(done[places]) / np.maximum(np.diff(edges), 1e-9) / unit
    per, name = (1.0, "second") if rates.max() >= 1 else (60.0, "minute")
    dress(axes, "")
    axes.stairs(rates * per, edges, fill=True, color=_SPEED)
    axes.set_ylim(0, rates.max() * per * 1.05)
    axes.set_ylabel(f"per {name}", fontsize=8.5, color=PALE)
    axes.locator_params(axis="y", nbins=6)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


# Latency -------------------------------------------------------------------------------------------------


def _latency(axes: Any, run: LastRun) -> None:
    bins = dict(sorted(run.course.latencies.items()))
    batch = run.sources.get("batch", 0)
    by_batch = f"{number(batch, 'answer')} came by batch, which has no latency." if batch else ""
    remark = by_batch or "Single replies, from the request to the last byte."
    if not bins:
        dress(axes, "Latency")
        say(axes, by_batch or "No reply of this run was timed.")
        return
    dress(axes, f"Latency of {number(sum(bins.values()), 'reply', 'replies')}", remark)
    first, last = min(bins), max(bins)
    edges = 10.0 ** (np.arange(first, last + 2) / STEPS)
    axes.stairs([bins.get(n, 0) for n in range(first, last + 1)], edges, fill=True, color=BLUE, alpha=0.85)
    axes.set_xscale("log")
    # To the right there is room for what p95 says.
    _seconds_axis(axes, edges[0] / 1.6, edges[-1] * 1.6 * (edges[-1] / edges[0]) ** 0.25)
    axes.set_ylim(0, max(bins.values()) * 1.18)
    for share, side in ((0.5, "right"), (0.95, "left")):
        at = quantile(bins, share)
        axes.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"p{share * 100:.0f} {_latency_words(at)}", (at, 1), (-4 if side == "right" else 4, -2),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=side, va="top", fontsize=8.5, color=INK,
        )  # fmt: skip
    axes.set_ylabel("replies", fontsize=8.5, color=PALE)
    axes.locator_params(axis="y", integer=True, nbins=6)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def quantile(bins: Mapping[int, int], share: float) -> float:
    """Seconds within which this share of the replies came (nearest rank): the middle of their bin.

    >>> round(quantile({0: 1, 20: 2, 40: 1}, 0.5), 1)
    10.6
    """
    missing = math.ceil(share * sum(bins.values()))
    for place, n in sorted(bins.items()):
        missing -= n
        if missing <= 0:
            return float(10 ** ((place + 0.5) / STEPS))
    raise AssertionError("a share is at most all")


def _seconds_axis(axes: Any, low: float, high: float) -> None:
    """Marks in each power of ten, as many as don't touch."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = math.log10(high / low)
    digits = (1, 2, 5) if decades < 1.7 else (1, 3) if decades < 3 else (1,)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [_latency_words(tick) for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def _latency_words(seconds: float) -> str:
    """`345 ms`, `1.2 s`, `100 s`, `17 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1_000:.3g} ms"
    return (
        f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 600 else duration(seconds)
    )


# Cost ----------------------------------------------------------------------------------------------------


class _Sum(NamedTuple):
    source: str
    rows: int
    usd: float
    spent: bool


def _cost(axes: Any, run: LastRun) -> None:
    sums = _sums(run)
    if not any(each.spent for each in sums):
        dress(axes, "Cost")
        say(axes, "No row was asked, so nothing was spent.")
        return
    _title_of_cost(axes, run, sums)
    widths = [each.usd if each.usd > 0 else 0.0 for each in sums]
    longest = max(widths) or 1.0
    for place, (each, width) in enumerate(zip(sums, widths, strict=True)):
        colour = COLOURS[each.source]
        look = (
            {"color": colour} if each.spent else {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
        )
        axes.barh(place, width, height=0.62, **look)
        axes.annotate(
            literal(_said(each)), (width, place), (5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=INK if each.spent else PALE,
        )  # fmt: skip
    axes.set_yticks(range(len(sums)), [f"{each.source} ({each.rows:,})" for each in sums])
    axes.set_ylim(max(len(sums), 4) - 0.4, -0.6)
    # Room for the words behind the longest bar.
    axes.set_xlim(0, longest * 1.6)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _title_of_cost(axes: Any, run: LastRun, sums: Sequence[_Sum]) -> None:
    if math.isnan(run.cost):
        dress(axes, "Cost by source: price unknown", "prices={…} says what a model costs.")
        return
    is_hatched = any(each.usd > 0 and not each.spent for each in sums)
    hatched = "Hatched: not spent, about what these rows would have cost."
    dress(axes, f"Cost by source: {money(run.cost)}", hatched if is_hatched else "Billed in this run.")


def _sums(run: LastRun) -> list[_Sum]:
    """What was spent by source, and what wasn't."""
    costs, rows = run.course.costs, run.sources
    spent = [
        _Sum(name, rows.get(name, 0), costs[name], True)
        for name in ("api", "batch", "failed")
        if name in costs
    ]
    answers = [each for each in spent if each.source != "failed"]
    n = sum(each.rows for each in answers)
    mean = sum(each.usd for each in answers) / n if n else math.nan
    not_spent = [
        _Sum(
            name,
            rows[name],
            run.saved if name == "similar" and run.reuse is not None else mean * rows[name],
            False,
        )
        for name in ("cache", "duplicate", "similar")
        if rows.get(name)
    ]
    return spent + not_spent


def _said(each: _Sum) -> str:
    if math.isnan(each.usd):
        return "price unknown" if each.spent else "not spent (price unknown)"
    if each.spent:
        return money(each.usd)
    if each.usd < 0:
        return f"vectors took {money(-each.usd)} more than this saved (≈)"
    return f"{money(each.usd)} not spent (≈)"


# Errors --------------------------------------------------------------------------------------------------


def _errors(axes: Any, run: LastRun) -> None:
    kinds = by_class(run.errors)
    if not kinds:
        dress(axes, "Errors")
        say(axes, "No errors.")
        return
    dress(axes, f"{number(sum(n for _, n in kinds), 'row')} failed", "By error.")
    if len(kinds) > _MOST_ERRORS:
        others = kinds[_MOST_ERRORS - 1 :]
        kinds = [*kinds[: _MOST_ERRORS - 1], (f"{len(others)} other kinds", sum(n for _, n in others))]
    axes.barh(range(len(kinds)), [n for _, n in kinds], height=0.62, color=RED)
    for place, (_, n) in enumerate(kinds):
        axes.annotate(
            f"{n:,}", (n, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK
        )
    axes.set_yticks(range(len(kinds)), [literal(clipped(name, 28)) for name, _ in kinds])
    axes.set_ylim(max(len(kinds), 4) - 0.4, -0.6)
    axes.set_xlim(0, max(n for _, n in kinds) * 1.2)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
