"""An evaluation as a person reads it: in a terminal, and as HTML in a notebook, light or dark."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas_llm.evaluate import Evaluation

_MOST_LABELS = 12  # a wider confusion table isn't read
_MOST_LINES = 20
_TERMINAL = 100


def as_text(result: Evaluation) -> str:
    """The report in aligned lines."""
    parts = ["\n".join(_columns([[f"  {name}", value] for name, value in _facts(result)], numbers=False))]
    for title, rows in _tables(result, widest=_TERMINAL):
        parts.append("\n".join([title, *_columns(rows)]))
    return "\n\n".join([_headline(result), *parts])


def as_html(result: Evaluation) -> str:
    """The report as tables; without its styles, as some pages show it, it still reads."""
    facts = "".join(f"<tr>{_cell(name)}{_cell(value)}</tr>" for name, value in _facts(result))
    tables = "".join(_html_table(title, rows) for title, rows in _tables(result, widest=None))
    body = f"<p><b>{_markup(_headline(result))}</b></p><table>{facts}</table>{tables}"
    return f'<div style="font-size:13px;line-height:1.4">{body}</div>'


def _headline(result: Evaluation) -> str:
    low, high = result.interval
    span = f" (95 % {low:.3f} to {high:.3f})" if result.n else ""
    return (
        f"{_excerpt(result.output)} against gold: accuracy {_number(result.accuracy)}{span}, n = {result.n:,}"
    )


def _facts(result: Evaluation) -> Iterable[tuple[str, str]]:
    yield "macro F1", _number(result.macro_f1)
    yield "Cohen's kappa", _number(result.kappa)
    missing = f" ({result.unanswered:,} of {result.n + result.unanswered:,} without an answer)"
    yield "coverage", _number(result.coverage) + (missing if result.unanswered else "")
    yield "cost per right label", _dollars(result.cost_per_right_label)
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
    return [["gold \\ answer", *names], *([name, *row] for name, row in zip(names, counts, strict=True))]


def _columns(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Lines whose cells stand under each other: text left, numbers right."""
    widths = [max(map(_width, cells)) for cells in zip(*rows, strict=True)]
    right = [
        numbers and all(not c or c[0].isdigit() or c == "–" for c in cells[1:])
        for cells in zip(*rows, strict=True)
    ]
    right[0] = False
    lines = []
    for row in rows:
        pads = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [pad + cell if r else cell + pad for cell, pad, r in zip(row, pads, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _html_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    head = "".join(
        f'<th style="text-align:{"right" if at else "left"};padding:1px 8px">{_markup(name)}</th>'
        for at, name in enumerate(rows[0])
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[1:])
    return f"<p>{_markup(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    # Half-transparent lines and no colours of our own: the page's theme decides, light or dark.
    side = "right" if text[:1].isdigit() or text[:1] in "–$" else "left"
    style = f"text-align:{side};padding:1px 8px;border-bottom:1px solid rgba(128,128,128,.3)"
    return f'<td style="{style}">{_markup(text)}</td>'


def _markup(text: str) -> str:
    # A bare $ starts a formula in notebooks.
    return html.escape(text).replace("$", "<span>$</span>")


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
