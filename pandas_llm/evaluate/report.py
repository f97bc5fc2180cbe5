"""An evaluation as a person reads it: in a terminal, and as HTML in a notebook, light or dark."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pandas_llm.reports import page

if TYPE_CHECKING:
    from pandas_llm.evaluate import Evaluation

_MOST_LABELS = 12  # a wider confusion table isn't read
_MOST_LINES = 20
_TERMINAL = 100
_CORNER = "gold \\ answer"


def as_text(result: Evaluation) -> str:
    """The report in aligned lines."""
    parts = ["\n".join(_columns([[f"  {name}", value] for name, value in _facts(result)], numbers=False))]
    for title, rows in _tables(result, widest=_TERMINAL):
        parts.append("\n".join([title, *_columns(rows)]))
    return "\n\n".join([f"{name_of(result)}: {accuracy_of(result)}", *parts])


def as_html(result: Evaluation) -> str:
    """The report as a page; without its styles, as some front ends show it, it still reads."""
    parts = [page.head(name_of(result), figure=accuracy_of(result)), page.facts(_facts(result))]
    for title, rows in _tables(result, widest=None):
        tint = _share_of_gold(result) if rows[0][0] == _CORNER else None
        parts += [page.note(title), page.table(rows, right=_numbers(rows), tint=tint)]
    return page.page(*parts)


def _share_of_gold(result: Evaluation) -> Callable[[int, int], float]:
    """By place in the confusion table, the share of the gold label's rows; its first column is their name."""
    of_gold: Counter[str] = Counter()
    for (gold, _), count in result.pairs.items():
        of_gold[gold] += count

    def share(row: int, column: int) -> float:
        gold = result.order[row]
        count = result.pairs.get((gold, result.order[column - 1]), 0) if column else 0
        return count / of_gold[gold] if count else 0.0

    return share


def name_of(result: Evaluation) -> str:
    """What was judged."""
    return f"{_excerpt(result.output)} against gold"


def accuracy_of(result: Evaluation) -> str:
    """How right it is, in a line."""
    low, high = result.interval
    span = f" (95 % {low:.3f} to {high:.3f})" if result.n else ""
    return f"accuracy {_number(result.accuracy)}{span}, n = {result.n:,}"


def _facts(result: Evaluation) -> Iterable[tuple[str, str]]:
    yield "macro F1", _number(result.macro_f1)
    yield "Cohen's kappa", _number(result.kappa)
    missing = f" ({result.unanswered:,} of {result.n + result.unanswered:,} without an answer)"
    yield "coverage", _number(result.coverage) + (missing if result.unanswered else "")
    yield "cost per right label", _dollars(result.cost_per_right_label)
    if result.reliability is not None:
        rows = f"{result.reliability['rows'].sum():,}"
        yield (
            "calibration error",
            f"{_number(result.ece)} (mean distance of confidence and accuracy, {rows} rows)",
        )
    words = {"no gold": "without gold", "example": "among the examples"}
    out = [f"{count:,} {words[reason]}" for reason, count in result.left_out.items() if count]
    yield "left out", ", ".join(out) or "none"


def _tables(result: Evaluation, *, widest: int | None) -> Iterable[tuple[str, list[list[str]]]]:
    """Titles and rows, the header row first, of what is shown below the facts."""
    labels, title = result.per_label, ""
    if len(labels) > _MOST_LINES:
        title = f"The 10 labels of lowest F1, of {len(labels):,} (all: .per_label)"
        labels = labels[labels["f1"].notna()].sort_values("f1", kind="stable").head(10)
    rows = [["label", "support", "precision", "recall", "f1"]]
    for label, support, *scores in labels.itertuples():
        rows.append([_excerpt(label), f"{support:,}", *map(_number, scores)])
    if len(rows) > 1:
        yield title or "By label", rows
    rows = _confusion_rows(result)
    if len(rows) > 1 and (widest is None or all(_width(line) <= widest for line in _columns(rows))):
        yield "Confusion: gold in rows, answers in columns", rows
        return
    wrong = [(*pair, count) for pair, count in result.pairs.items() if pair[0] != pair[1]]
    if wrong:
        rows = [["gold", "answer", "rows"], *([_excerpt(g), _excerpt(a), f"{c:,}"] for g, a, c in wrong[:10])]
        yield f"Most frequent confusions, of {len(wrong):,}", rows


def _confusion_rows(result: Evaluation) -> list[list[str]]:
    if not result.n or len(result.order) > _MOST_LABELS:
        return []
    names = [_excerpt(label) for label in result.order]
    counts = ([f"{result.pairs.get((g, a), 0):,}" for a in result.order] for g in result.order)
    return [[_CORNER, *names], *([name, *row] for name, row in zip(names, counts, strict=True))]


def _columns(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Lines whose cells stand under each other: text left, numbers right."""
    widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
    right = _numbers(rows) if numbers else frozenset()
    lines = []
    for row in rows:
        pads = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            pad + c if at in right else c + pad for at, (c, pad) in enumerate(zip(row, pads, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _numbers(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """The columns below whose head stand numbers; the first holds names."""
    columns = enumerate(zip(*rows, strict=True))
    return frozenset(
        at for at, cells in columns if at and all(not c or c[0].isdigit() or c == "–" for c in cells[1:])
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _dollars(value: float) -> str:
    if math.isnan(value):
        return "unknown"
    digits = 2 if value == 0 or value >= 1 else 1 - math.floor(math.log10(value))
    return f"${value:,.{max(2, digits)}f}"


def _excerpt(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"


def _width(text: str) -> int:
    """Cells of a terminal: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)
