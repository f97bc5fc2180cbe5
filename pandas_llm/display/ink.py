"""What a stream can show: our glyphs or ASCII, colours or none; how wide a text is there, and cutting it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TextIO

_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")

COMING = "coming"
"""The name of what is still to come, beside the sources."""

_GLYPHS: Mapping[str, str] = MappingProxyType({
    "api": "█", "batch": "▇", "cache": "▓", "duplicate": "▒", "similar": "▚", "given": "◆",
    "skipped": "░", "pending": "╌", "failed": "×", COMING: "─",
})  # fmt: skip
_ASCII: Mapping[str, str] = MappingProxyType({
    "api": "#", "batch": "@", "cache": "=", "duplicate": ":", "similar": "~", "given": "+",
    "skipped": ",", "pending": "?", "failed": "x", COMING: ".",
})  # fmt: skip
_SIGNS = str.maketrans({"·": "|", "→": "->", "…": "...", "×": "x", "≈": "~"})
_COLOURS: Mapping[str, str] = MappingProxyType({
    "api": "34", "batch": "34", "cache": "32", "duplicate": "33", "similar": "36", "given": "35",
    "skipped": "90", "pending": "90", "failed": "31", COMING: "90",
    "bold": "1", "dim": "90", "warn": "33", "bad": "31",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ink:
    """What to write with."""

    encoding: str = "utf-8"
    ascii: bool = False
    """The encoding lacks our glyphs; ASCII stands for them."""
    colour: bool = False

    def glyph(self, source: str) -> str:
        """The sign of a source, one cell wide; told apart without colour."""
        return (_ASCII if self.ascii else _GLYPHS)[source]

    def text(self, text: str) -> str:
        """`text` in characters that the stream can encode."""
        spelled = text.translate(_SIGNS) if self.ascii else text
        return spelled.encode(self.encoding, "replace").decode(self.encoding)

    def tint(self, text: str, tone: str) -> str:
        """`text` in the colour of a source or a tone, where colours are wanted."""
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if self.colour and tone in _COLOURS and text else text

    def clip(self, text: str, cells: int) -> str:
        """`text` cut to so many cells, its cut end marked."""
        if width(text) <= cells:
            return text
        mark = "..." if self.ascii else "…"
        room = cells - width(mark)
        if room < 0:
            return mark[: max(0, cells)]
        kept = ""
        for character in text:
            room -= width(character)
            if room < 0:
                break
            kept += character
        return kept.rstrip() + mark


def ink_for(stream: TextIO, *, colour: bool) -> Ink:
    """What `stream` can show. `$NO_COLOR`, set to anything, wins over `colour` (no-color.org)."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        "".join([*_GLYPHS.values(), "·→…"]).encode(encoding)
        lacking = False
    except UnicodeEncodeError:
        lacking = True
    return Ink(encoding, lacking, colour and not os.environ.get("NO_COLOR"))


def width(text: str) -> int:
    """Cells `text` takes on a terminal: East Asian characters two; colours and combining ones none."""
    bare = _COLOUR_CODE.sub("", text)
    if bare.isascii():
        return len(bare)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in bare)
    none = sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in bare)
    return len(bare) + wide - none


def fold(pieces: Sequence[str], between: str, cells: int) -> list[str]:
    """The pieces on as many lines as they need, broken between pieces only."""
    lines: list[str] = []
    for piece in pieces:
        if lines and width(lines[-1]) + width(between) + width(piece) <= cells:
            lines[-1] += between + piece
        else:
            lines.append(piece)
    return lines
