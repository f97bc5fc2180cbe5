"""What stands behind a row: the messages it was asked with and every reply, in text and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pandas_llm.history.pages import shown_page
from pandas_llm.history.tables import readable


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
        parts += [f"reply {n}:\n{readable(reply)}" for n, reply in enumerate(self.replies, 1)]
        return "\n\n".join([*parts, *([self.note] if self.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown_page(self)
