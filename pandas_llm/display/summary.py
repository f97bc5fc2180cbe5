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

_COLOURS: Mapping[str, str] = MappingProxyType({
    "api": BLUE, "batch": "#2b50b8", "cache": GREEN, "duplicate": AMBER, "similar": "#2aa7c9",
    "given": "#a05cc8", "skipped": "#9a9a9a", "pending": TRACK, "failed": RED, COMING: TRACK,
})  # fmt: skip
_HATCH = "repeating-linear-gradient(45deg,transparent 0 2px,rgba(255,255,255,0.55) 2px 4px)"
"""Over the red of failures, for eyes that don't tell it from the green."""
_STATES = MappingProxyType({
    "running": ("Running", BLUE), "done": ("Done", GREEN),
    "stopped": ("Stopped", AMBER), "failed": ("Failed", RED), "submitted": ("Submitted", BLUE),
})  # fmt: skip
_STEPS = 250
"""Steps of the bar: what isn't zero is at least 0.4 % wide, so that one failure can be seen."""


def escape(text: str) -> str:
    """`text` as HTML in which MathJax finds no formula: `$` and backslash stand in spans of their own."""
    escaped = html.escape(words.plain(text))
    return escaped.replace("$", "<span>$</span>").replace("\\", "<span>\\</span>")


def bundle(p: Progress) -> dict[str, str]:
    """The summary in both forms a notebook stores."""
    return {"text/html": summary(p), "text/plain": "\n".join([*words.report(p), *batches.lines(p)])}


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
        f'width:{100 * size / _STEPS:.1f}%;{_fill(source)}"></span>'
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
    word, colour = _STATES[words.ended(p) or p.state]
    return f'<b style="color:{colour}">{word}</b>'


def _fill(source: str) -> str:
    hatch = f";background-image:{_HATCH}" if source == "failed" else ""
    return f"background-color:{_COLOURS[source]}{hatch}"


def _legend(p: Progress) -> str:
    entries = [
        f'<span style="display:inline-block;width:10px;height:10px;margin-right:5px;{_fill(source)}"></span>'
        f'{n:,} <span style="color:{GREY}">{source}</span>'
        for source, n in words.by_source(p)
    ]
    if missing := max(0, p.rows - p.done):
        entries.append(f'{missing:,} <span style="color:{GREY}">not run</span>')
    return f'<span style="color:{GREY}"> &nbsp; </span>'.join(entries)


def _failures(p: Progress) -> str:
    if not p.errors:
        return ""
    kinds = "".join(
        f'<div style="padding-left:16px">{n:,} <span style="color:{GREY}">{escape(name)}</span></div>'
        for name, n in words.by_class(p.errors)
    )
    last = (
        f'<div style="padding-left:16px;color:{GREY}">The last: {escape(p.last_error)}</div>'
        if p.last_error
        else ""
    )
    return f'<details open><summary style="color:{RED}">{words.failed(p)}</summary>{kinds}{last}</details>'
