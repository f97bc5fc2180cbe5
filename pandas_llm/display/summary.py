"""What a notebook keeps of a run: static HTML that needs no kernel, no script, no style sheet and no trust.

Styles are inline because front ends strip `<style>` from untrusted output; the greys read on white and on
black (4.5:1 on either); without any style the words still stand, line by line.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import MappingProxyType

from pandas_llm.core.types import Progress
from pandas_llm.display import batches, words
from pandas_llm.display.bar import segments
from pandas_llm.display.ink import COMING

GREY = "#767676"
BLUE, GREEN, AMBER, RED = "#4c78f0", "#1fa588", "#d9981e", "#e5484d"
TRACK = "rgba(128,128,128,0.4)"
FONT = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px;line-height:1.5"

COLOURS: Mapping[str, str] = MappingProxyType({
    "api": BLUE, "batch": "#2b50b8", "cache": GREEN, "duplicate": AMBER, "similar": "#2aa7c9",
    "given": "#a05cc8", "skipped": "#9a9a9a", "pending": TRACK, "failed": RED, COMING: TRACK,
})  # fmt: skip
_LIGHT = "rgba(255,255,255,0.5)"


def _stripes(degrees: int, gap: int, line: int = 1) -> str:
    end = gap + line
    return f"repeating-linear-gradient({degrees}deg,transparent 0 {gap}px,{_LIGHT} {gap}px {end}px)"


_PATTERNS: Mapping[str, str] = MappingProxyType({
    "batch": _stripes(90, 4), "cache": _stripes(135, 4), "duplicate": _stripes(90, 2, 2),
    "similar": _stripes(0, 2), "given": _stripes(45, 6, 2), "failed": _stripes(45, 2, 2),
})  # fmt: skip
"""Over the colours: the segments are told apart without them, too."""
STATES = MappingProxyType({
    "running": ("Running", BLUE), "done": ("Done", GREEN),
    "stopped": ("Stopped", AMBER), "failed": ("Failed", RED), "submitted": ("Submitted", BLUE),
})  # fmt: skip
_STEPS = 250
"""Steps of the bar: what isn't zero is at least 0.4 % wide, so that one failure can be seen."""


def escape(text: str, *, spans: bool = True) -> str:
    """`text` as HTML in which MathJax finds no formula: `$` and backslash stand in spans of their own.

    An attribute can't hold `spans`, and needs none.
    """
    escaped = html.escape(words.plain(text))
    if not spans:
        return escaped
    return escaped.replace("$", "<span>$</span>").replace("\\", "<span>\\</span>")


def bundle(p: Progress) -> dict[str, str]:
    """The summary in both forms a notebook stores."""
    said = (*words.sums(p), *words.failures(p), words.plain(p.note), *batches.lines(p), _unfinished(p))
    return {"text/html": summary(p), "text/plain": "\n".join(line for line in said if line)}


def summary(p: Progress) -> str:
    """The run's account: state, title and rows, bar, legend, bill, batches, failures by class, note."""
    bill = " · ".join(part for part in (*words.bill(p), words.latency(p)) if part)
    parts = (
        f'<div>{_state(p)} {heading(p)} <span style="color:{GREY}">—</span> {escape(words.rows_in(p))}</div>',
        strip(p),
        f"<div>{_legend(p)}</div>",
        f'<div style="color:{GREY}">{escape(bill)}</div>',
        batch_lines(p),
        _failures(p),
        f"<div>{escape(p.note)}</div>" if p.note else "",
        f"<div>{_unfinished(p)}</div>" if _unfinished(p) else "",
    )
    return f'<div style="{FONT};max-width:860px;padding:2px 0">{"".join(parts)}</div>'


def heading(p: Progress) -> str:
    """The title, what is asked in bold."""
    verb, _, rest = words.title(p).partition(" · ")
    return f'<b>{escape(verb)}</b> <span style="color:{GREY}">{escape(rest)}</span>'


def strip(p: Progress) -> str:
    """The bar, segmented by source."""
    drawn = "".join(
        f'<span title="{n:,} {source}" style="display:inline-block;vertical-align:top;height:10px;'
        f'width:{100 * size / _STEPS:.1f}%;{fill(source)}"></span>'
        for source, n, size in segments(p, _STEPS)
    )
    return (
        f'<div style="height:10px;line-height:0;font-size:0;margin:4px 0;white-space:nowrap;overflow:hidden;'
        f'border-radius:3px;background-color:{TRACK if not drawn else "transparent"}">{drawn}</div>'
    )


def batch_lines(p: Progress) -> str:
    """A line for each batch, one for all of many; nothing where there is none."""
    return "".join(f'<div style="color:{GREY}">{escape(line)}</div>' for line in batches.lines(p))


def said(line: str) -> dict[str, str]:
    """A line that stays, in both forms."""
    shown = f'<div style="{FONT};color:{GREY}">{escape(line)}</div>'
    return {"text/html": shown, "text/plain": words.plain(line)}


def _state(p: Progress) -> str:
    word, colour = STATES[words.ended(p) or p.state]
    return f'<b style="color:{colour}">{word}</b>'


def fill(source: str) -> str:
    """The look of a source in the bar and its legend."""
    pattern = f";background-image:{_PATTERNS[source]}" if source in _PATTERNS else ""
    return f"background-color:{COLOURS[source]}{pattern}"


def _legend(p: Progress) -> str:
    entries = [
        f'<span style="display:inline-block;width:10px;height:10px;margin-right:5px;{fill(source)}"></span>'
        f'{n:,} <span style="color:{GREY}">{source}</span>'
        for source, n in words.by_source(p)
    ]
    if missing := max(0, p.rows - p.done):
        entries.append(f'{missing:,} <span style="color:{GREY}">not run</span>')
    return f'<span style="color:{GREY}"> &nbsp; </span>'.join(entries)


def _failures(p: Progress) -> str:
    """Failures by class, unfolded: a page that strips elements keeps their words."""
    if not p.errors:
        return ""
    kinds = "".join(f'<div style="padding-left:16px">{escape(line)}</div>' for line in words.failures(p))
    failed = words.number(sum(p.errors.values()), "error")
    return f'<details open><summary style="color:{RED}">{failed}</summary>{kinds}</details>'


def _unfinished(p: Progress) -> str:
    """What a page says that was saved while the run went on, and of which its kernel never told the end."""
    if p.state != "running":
        return ""
    return "This was written while the run went on. Its answers are kept: run the cell again to see them."
