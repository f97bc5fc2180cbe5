"""An evaluation as a figure: the confusion matrix and, where there is a confidence, the reliability curve."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pandas_llm.display.summary import BLUE
from pandas_llm.display.words import tokens
from pandas_llm.evaluate.report import accuracy_of, name_of
from pandas_llm.reports.figure import INK, LINE, PALE, Drawing, PowerNorm, dress, literal, say

if TYPE_CHECKING:
    import pandas as pd

    from pandas_llm.evaluate import Evaluation

_MOST_LABELS = 100
"""More rows of words can't be told apart."""
_MOST_NUMBERS = 25
"""Labels of a matrix whose cells have room for a number."""
_LETTERS = 26
"""Of a label."""
_MARKS = (0.0, 0.05, 0.25, 0.5, 1.0)
_CURVE_INCHES = 4.6


class _Matrix(NamedTuple):
    labels: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]
    """Of all rows with this gold, drawn or not."""

    @property
    def names(self) -> list[str]:
        """The labels, cut in their middle: they may differ at either end."""
        said = (" ".join(label.split()) for label in self.labels)
        return [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 10]}…{name[-9:]}" for name in said]


def draw(result: Evaluation) -> Drawing:
    """The evaluation's figure."""
    matrix, curve = _matrix(result), result.reliability
    n, size = len(matrix.labels), _size(len(matrix.labels))
    side = _side(n)
    # A letter is 0.6 of its size wide, and 72 points are an inch.
    words = max(map(len, matrix.names), default=0) * 0.6 * size / 72
    widths = (max(side + words + 1.4, 5.2), *((_CURVE_INCHES,) if curve is not None else ()))
    figure = Drawing(sum(widths), side + (words if n > 12 else 0.7 * words) + 1.5)
    title = literal(f"{name_of(result)}\n{accuracy_of(result)}")
    figure.suptitle(title, x=0.1 / sum(widths), ha="left", fontsize=11, color=INK)
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _confusion(panels[0], result, matrix)
    if curve is not None:
        _reliability(panels[1], curve, result.ece)
    return figure.finished()


def _side(n: int) -> float:
    """Inches of a matrix of so many labels."""
    return max(3.0, 0.42 * n if n <= _MOST_NUMBERS else 0.115 * n)


# Confusion -----------------------------------------------------------------------------------------------


def _matrix(result: Evaluation) -> _Matrix:
    """Rows by gold and answer; of very many labels, those that occur most."""
    seen: Counter[str] = Counter()
    of_gold: Counter[str] = Counter()
    for (gold, answer), count in result.pairs.items():
        seen.update({gold: count})
        seen.update({answer: count})
        of_gold[gold] += count
    most = {label for label, _ in seen.most_common(_MOST_LABELS)}
    is_whole = len(result.order) <= _MOST_LABELS
    labels = tuple(label for label in result.order if is_whole or label in most)
    pairs = [[result.pairs.get((gold, answer), 0) for answer in labels] for gold in labels]
    rows = np.array(pairs, dtype=np.int64).reshape(len(labels), len(labels))
    return _Matrix(
        labels, rows, rows / np.array([[max(of_gold[label], 1)] for label in labels]).reshape(-1, 1)
    )


def _confusion(axes: Any, result: Evaluation, matrix: _Matrix) -> None:
    n = len(matrix.labels)
    left_out = "" if n == len(result.order) else f": the {n} most frequent of {len(result.order):,} labels"
    more = "" if result.reliability is not None else " confidence=True adds a reliability curve."
    dress(axes, f"Confusion{left_out}", f"Rows by gold and answer.{more}")
    if not result.n:
        say(axes, "No row has both gold and an answer.")
        return
    # By the square root: an error in 5 % of the rows is to be seen.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(matrix.shares, cmap="Blues", norm=norm)
    if n <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(matrix.rows):
            colour = "white" if norm(matrix.shares[row, column]) > 0.55 else INK if count else PALE
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=_size(n), color=colour)
    _name(axes, matrix.names)
    # In inches, beside the matrix whatever size that gets.
    side = _side(n)
    bar = axes.figure.colorbar(image, cax=axes.inset_axes([1 + 0.1 / side, 0, 0.13 / side, min(1, 3 / side)]))
    bar.set_ticks(_MARKS, labels=[f"{mark:.0%}" for mark in _MARKS])
    bar.ax.tick_params(colors=INK, labelsize=8, length=2)
    bar.set_label("share of the gold label's rows", fontsize=8.5, color=PALE)
    bar.outline.set_edgecolor(LINE)


def _size(n: int) -> float:
    """Points of the letters at so many labels."""
    return 8.5 if n <= 12 else 7.5 if n <= _MOST_NUMBERS else 5.5


def _name(axes: Any, names: list[str]) -> None:
    """Labels at both sides of the matrix; below it they lie, lean or stand, as there is room."""
    places, shown, size = range(len(names)), list(map(literal, names)), _size(len(names))
    axes.set_yticks(places, shown, fontsize=size)
    axes.set_xticks(places, shown, fontsize=size)
    if len(names) > 12:
        axes.tick_params(axis="x", rotation=90)
    elif max(map(len, names)) * len(names) > 40:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0 if len(names) > _MOST_NUMBERS else 2)
    axes.set(anchor="N")
    axes.set_ylabel("gold", fontsize=9, color=PALE)
    axes.set_xlabel("answer", fontsize=9, color=PALE)


# Reliability ---------------------------------------------------------------------------------------------


def _reliability(axes: Any, curve: pd.DataFrame, ece: float) -> None:
    dress(
        axes,
        f"Reliability: ECE {ece:.3f}",
        f"{curve['rows'].sum():,} rows; how many in each bin stands at its foot.",
    )
    filled = curve[curve["rows"] > 0]
    left = np.flatnonzero(curve["rows"]) / len(curve)
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, linestyle=(0, (4, 3)))
    axes.bar(left, filled["accuracy"], width=0.1, align="edge", color=BLUE, alpha=0.18, edgecolor="white")
    axes.plot(
        filled["confidence"], filled["accuracy"], color=BLUE, linewidth=2, marker="o", markersize=5,
        markeredgecolor="white", clip_on=False,
    )  # fmt: skip
    for start, rows in zip(left, filled["rows"], strict=True):
        said = f"{rows:,}" if rows < 10_000 else tokens(rows)
        axes.text(start + 0.05, 0.012, said, ha="center", va="bottom", fontsize=7, color=INK)
    marks = np.arange(0, 1.01, 0.2)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=marks, yticks=marks, box_aspect=1, anchor="N")
    axes.set_xlabel("confidence", fontsize=9, color=PALE)
    axes.set_ylabel("accuracy", fontsize=9, color=PALE)
