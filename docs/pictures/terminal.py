"""Draws `terminal.svg`: what a terminal shows of a real run against the fake server, halfway and at the end.

Usage, from the repository: `PYTHONPATH=.:tests python docs/pictures/terminal.py`
"""

# ruff: noqa: INP001 - a script, not a package
from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from html import escape
from pathlib import Path

import pandas as pd
from fakes.openai_server import FakeOpenAI, faults

import pandas_llm

COLUMNS, LINE, CELL, SIZE = 104, 19, 7.83, 13
PAPER, TEXT = "#1e1e24", "#d8d8de"
COLOURS = {
    "31": "#ef6b6f",
    "32": "#3fbf9b",
    "33": "#e0a83a",
    "34": "#6d95f7",
    "35": "#b57fd8",
    "90": "#8a8a94",
}
LABELS = ["bug", "question", "praise"]
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_WORDS = re.compile(r"\S+(?: \S+)*")  # SVG folds spaces
_MOVES = re.compile(r"\x1b\[1A|\x1b\[[JK]|\r")


class Screen(io.StringIO):
    """A terminal that keeps every write."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        """Yes: else a run would write a log."""
        return True

    def write(self, text: str) -> int:
        """Keep it."""
        self.writes.append(text)
        return len(text)


def painted(rows: int) -> list[str]:
    """What a run of so many rows wrote, a fifth of them known and a tenth alike, some refused."""
    known, distinct = rows // 5, rows * 9 // 10
    numbers = [n if n < distinct else n - known for n in range(rows)]
    frame = pd.DataFrame({"body": [f"Mail {n}: a bug in the export of it" for n in numbers]})
    with tempfile.TemporaryDirectory() as folder, FakeOpenAI(latency=0.35) as server:
        for n in range(known + 100, distinct - known, 600):
            server.fault(f"Mail {n}:", faults.REFUSAL)
        store = Path(folder) / "store.sqlite3"
        pandas_llm.configure(api_key="none", base_url=server.base_url, cache=store)
        server.latency = 0.0
        frame.iloc[:known].llm.classify("body", LABELS, progress=False)
        server.latency = 0.35
        sys.stderr = screen = Screen()
        try:
            frame.llm.classify("body", LABELS)
        finally:
            sys.stderr = sys.__stderr__
    return screen.writes


def lines(text: str) -> list[str]:
    """The lines of a write, without the cursor's moves."""
    return _MOVES.sub("", text).rstrip("\n").split("\n")


def spans(line: str, y: float) -> str:
    """A line with its colours as SVG text. Each piece has its place: fonts differ in their widths."""
    colour, weight, at, drawn = TEXT, "400", 0, []
    for n, part in enumerate(_SGR.split(line)):
        if n % 2:
            colour, weight = (COLOURS.get(part, TEXT), "700" if part == "1" else "400")
            continue
        for piece in _WORDS.finditer(part):
            x, width = 16 + (at + piece.start()) * CELL, len(piece[0]) * CELL
            place = f'x="{x:.1f}" y="{y}" textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"'
            drawn.append(f'<text {place} fill="{colour}" font-weight="{weight}">{escape(piece[0])}</text>')
        at += len(part)
    return "".join(drawn)


def main() -> None:
    """Run it and draw it."""
    os.environ["COLUMNS"] = str(COLUMNS)
    writes = painted(6_000)
    opening = lines(writes[0])
    bars = [write for write in writes if write.endswith("\x1b[1A") and "left" in write]
    shown = [
        f'\x1b[90m>>>\x1b[0m out = df.llm.classify("body", {LABELS})'.replace("'", '"'),
        *opening,
        *lines(bars[len(bars) // 2]),
        "",
        "\x1b[90mand when it is over:\x1b[0m",
        *lines(writes[-1]),
    ]
    height = 24 + LINE * len(shown)
    drawn = "\n".join(spans(line, 30 + LINE * n) for n, line in enumerate(shown))
    style = f'font-family="ui-monospace,\'DejaVu Sans Mono\',Menlo,Consolas,monospace" font-size="{SIZE}"'
    width = round(32 + COLUMNS * CELL)
    Path(__file__).with_suffix(".svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {style}>\n'
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n{drawn}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
