"""Facts about a run as two columns, and what stands behind a row, in text and HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

_MONOSPACE = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a row was asked with and what came back."""

    messages: tuple[Mapping[str, str], ...]
    replies: tuple[str, ...] = ()
    """Every raw reply that was billed, as JSON text."""
    key: str | None = None
    note: str = ""

    def __str__(self) -> str:
        parts = [f"{m['role']}:\n{m['content']}" for m in self.messages]
        parts += [f"reply {n}:\n{_readable(reply)}" for n, reply in enumerate(self.replies, 1)]
        return "\n\n".join([*parts, *([self.note] if self.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap;font-family:{_MONOSPACE}'>{safe(str(self))}</pre>"


def _readable(reply: str) -> str:
    """A reply as indented JSON without its log-probabilities; one that isn't JSON as it came."""
    try:
        said = _without_logprobs(json.loads(reply))
    except (ValueError, RecursionError):
        return reply
    shown = json.dumps(said, indent=2, ensure_ascii=False)
    try:
        shown.encode()
    except UnicodeEncodeError:  # half a surrogate pair can't be printed
        return json.dumps(said, indent=2)
    return shown


def _without_logprobs(said: Any) -> Any:
    if isinstance(said, list):
        return [_without_logprobs(item) for item in said]
    if not isinstance(said, dict):
        return said
    return {
        name: f"… (of {len(value['content'] or ())} tokens: in .replies)"
        if name == "logprobs" and isinstance(value, dict) and "content" in value
        else _without_logprobs(value)
        for name, value in said.items()
    }


def lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Each fact on a line, its name in a column of its own."""
    return (f"{name:<14}{value}" for name, value in rows)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """The facts as an HTML table."""
    style = "style='text-align:left;padding:1px 12px 1px 0;border:0'"
    cells = (f"<tr><td {style}>{name}</td><td {style}>{safe(value)}</td></tr>" for name, value in rows)
    return f"<table style='border-collapse:collapse'>{''.join(cells)}</table>"


def safe(text: str) -> str:
    """A text that a notebook shows as it is."""
    # A pair of $ would be typeset as a formula.
    return escape(text).replace("$", "<span>$</span>")


def counts(numbers: Mapping[str, int]) -> str:
    """`438 api, 6 failed`: what there is of each."""
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n)
