"""Pages that a notebook keeps of a result: static HTML, readable on white, on black and without its styles.

Greys, font and bar are those of a run's summary, so that all results look alike. There is no script and no
style sheet; whatever isn't ours is escaped, and MathJax finds no formula in it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence

from pandas_llm.core.types import Progress
from pandas_llm.display.ink import COMING
from pandas_llm.display.summary import AMBER, BLUE, FONT, GREEN, GREY, RED, escape, fill, strip
from pandas_llm.display.words import by_source

COLOURS = {"done": GREEN, "stopped": AMBER, "failed": RED, "submitted": BLUE}
"""How a run ended, in colour."""
_LINE = "rgba(128,128,128,0.35)"
_MONOSPACE = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
_TABLE = "border-collapse:collapse;border:0;margin:4px 0;font-size:inherit"
_CELL = "padding:1px 14px 1px 0;border:0;vertical-align:top;max-width:none"
_WORD = 26
_BOX = (
    f"font-family:{_MONOSPACE};font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere;margin:0;"
    f"padding:4px 10px;border:0;border-left:3px solid {_LINE};background-color:rgba(128,128,128,0.08);"
    "color:inherit;max-height:32em;overflow:auto"
)


def page(*parts: str, widest: int = 860) -> str:
    """The parts, one below the other; so many pixels wide at most."""
    return f'<div style="{FONT};max-width:{widest}px;padding:2px 0">{"".join(parts)}</div>'


def head(name: str, about: str = "", figure: str = "", *, colour: str = "") -> str:
    """The first line: what this is in bold, what it is about in grey, and its figure."""
    tint = f' style="color:{colour}"' if colour else ""
    rest = f" {grey(about)}" if about else ""
    end = f" {grey('—')} {escape(figure)}" if figure else ""
    return f"<div><b{tint}>{escape(name)}</b>{rest}{end}</div>"


def grey(text: str) -> str:
    """Words of less weight."""
    return f'<span style="color:{GREY}">{escape(text)}</span>'


def note(text: str) -> str:
    """A line of less weight."""
    return f'<div style="color:{GREY}">{escape(text)}</div>'


def bar(p: Progress, coming: str = "not run") -> str:
    """Rows by source as a bar with its legend; `coming` says what those are that have no source."""
    shown = [(source, source, n) for source, n in by_source(p)]
    if (missing := p.rows - p.done) > 0:
        shown.append((COMING, coming, missing))
    square = "display:inline-block;width:10px;height:10px;margin-right:5px"
    entries = (f'<span style="{square};{fill(look)}"></span>{n:,} {grey(name)}' for look, name, n in shown)
    return f"{strip(p)}<div>{' &nbsp; '.join(entries)}</div>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Facts as a table of two columns: name, value."""
    name = f"{_CELL};text-align:left;color:{GREY};white-space:nowrap"
    value = f"{_CELL};text-align:left"
    cells = "".join(
        f'<tr style="background:none"><td style="{name}">{escape(fact)}</td>'
        f'<td style="{value}">{escape(said)}</td></tr>'
        for fact, said in rows
    )
    return f'<table style="{_TABLE}"><tbody>{cells}</tbody></table>'


def table(
    rows: Sequence[Sequence[str]],
    *,
    right: Iterable[int] = (),
    tint: Callable[[int, int], float] | None = None,
) -> str:
    """A table whose first row is its head.

    Columns in `right` hold numbers. `tint` says by row, the head not counted, and column how much colour lies
    behind a cell: 0 none, 1 as much as the words bear.
    """
    numbers = frozenset(right)

    def cell(tag: str, text: str, column: int, more: str) -> str:
        side = "right" if column in numbers else "left"
        # A date or a name isn't broken; a list of counts may be.
        wrap = ";white-space:nowrap" if len(text) <= _WORD else ""
        return f'<{tag} style="{_CELL};padding-left:6px;text-align:{side}{wrap}{more}">{escape(text)}</{tag}>'

    names = "".join(
        cell("th", text, at, f";color:{GREY};font-weight:normal;border-bottom:1px solid {_LINE}")
        for at, text in enumerate(rows[0])
    )
    body = "".join(
        '<tr style="background:none">'
        + "".join(
            cell("td", text, at, _behind(tint(line, at) if tint else 0.0)) for at, text in enumerate(row)
        )
        + "</tr>"
        for line, row in enumerate(rows[1:])
    )
    whole = f'<table style="{_TABLE}"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div style="overflow-x:auto">{whole}</div>'


def _behind(share: float) -> str:
    return f";background-color:rgba(76,120,240,{0.4 * share:.2f})" if share > 0 else ""


def box(text: str) -> str:
    """A text exactly as it is, every space and line of it."""
    # A line break behind <pre> is no part of the text: without ours, a text's own first one would be lost.
    return f'<pre style="{_BOX}">\n{kept(text)}</pre>'


def folded(name: str, content: str) -> str:
    """Content that opens with a click."""
    return f'<details><summary style="color:{GREY}">{escape(name)}</summary>{content}</details>'


def kept(text: str) -> str:
    r"""`text` as HTML with its white space; controls are shown by their signs, formulas by none.

    >>> kept("a  <b>\n\x1b")
    'a  &lt;b&gt;\n␛'
    """
    encodable = text.encode("utf-8", "backslashreplace").decode()
    escaped = html.escape(encodable.translate(_SIGNS))
    return escaped.replace("$", "<span>$</span>").replace("\\", "<span>\\</span>")


_SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
"""Control characters, and what Unicode draws for them."""
