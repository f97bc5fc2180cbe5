"""The bar on a terminal: two lines that never wrap, painted over themselves, then the account."""

import fcntl
import io
import os
import pty
import re
import struct
import termios
from dataclasses import replace

import pytest
from fakes.progress import RUNNING

from pandas_llm.core.types import BatchProgress, Progress
from pandas_llm.display.ink import Ink, width
from pandas_llm.display.terminal import Terminal, columns, top_line

WAITING = replace(RUNNING, waiting="rate limit, 12 s (Retry-After)", rate=0.0, eta=None)
DONE = replace(
    RUNNING, sources={"api": 3_587, "cache": 738, "duplicate": 662, "failed": 13}, state="done", in_flight=0
)
STOPPED = replace(
    RUNNING,
    sources={**RUNNING.sources, "pending": 2_317},
    state="stopped",
    note="2,317 rows pending: max_cost reached; run the line again to go on.",
)
EMPTY = Progress()
WIDE = replace(
    RUNNING, title="分類 · 本文の列 · gpt-6-luna", last_error="返事 'x' は無効です\x1b[2J\nsecond line"
)
BATCHES = tuple(
    BatchProgress(
        name=f"batch_{n:032x}", status="in_progress", requests=50_000, quiet=3_000.0, note="返事 \x1b[2J"
    )
    for n in range(3)
)
ALL = (
    *(RUNNING, WAITING, DONE, STOPPED, EMPTY, WIDE),
    *(replace(WAITING, batches=BATCHES[:1]), replace(STOPPED, batches=BATCHES)),
)

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MOVE = re.compile(r"\x1b\[(1A|J|K)|\x1b|[\r\n]|[^\x1b\r\n]+")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(text: str) -> list[str]:
    """What a terminal wide enough for it shows after `text`; it knows just the moves that we may use."""
    lines, row, column = [""], 0, 0
    for found in MOVE.finditer(COLOUR.sub("", text)):
        move = found.group()
        assert move != "\x1b", "a control sequence that isn't ours"
        if move == "\r":
            column = 0
        elif move == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif move == "\x1b[1A":
            assert row > 0
            row -= 1
        elif move == "\x1b[K":
            lines[row] = lines[row][:column]
        elif move == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        else:
            lines[row] = lines[row][:column].ljust(column) + move + lines[row][column + len(move) :]
            column += len(move)
    return lines


def painted(wide: int, *snapshots: Progress, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> str:
    monkeypatch.setenv("COLUMNS", str(wide))
    out, clock = io.TextIOWrapper(io.BytesIO(), encoding, newline=""), Clock()
    bar = Terminal(out, clock=clock)
    bar.open(snapshots[0])
    for p in snapshots[1:-1]:
        clock.now += 1
        bar.paint(p)
    bar.close(snapshots[-1])
    return out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("wide", [20, 40, 80, 200])
@pytest.mark.parametrize("no_colour", ["", "1"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_wraps(wide: int, no_colour: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    for last in ALL:
        shown = painted(wide, *ALL, last, monkeypatch=monkeypatch, encoding=encoding)
        assert bool(COLOUR.search(shown)) == (not no_colour)
        for line in re.split(r"[\r\n]|\x1b\[(?:1A|J|K)", shown):
            assert width(line) < wide


@pytest.mark.parametrize("wide", [40, 80, 200])
def test_two_lines_are_painted_over_and_the_account_stays(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(wide))
    out, clock = io.StringIO(), Clock()
    bar = Terminal(out, clock=clock)
    bar.say("5,000 rows: 738 known, 3,600 to ask, about $0.46.")
    for p in (RUNNING, WAITING, WIDE, RUNNING):
        clock.now += 1
        bar.paint(p)
    assert len(screen(out.getvalue())) == 3
    bar.close(DONE)
    said, *account, last = screen(out.getvalue())
    assert said == "5,000 rows: 738 known, 3,600 to ask, about $0.46."
    assert account[0].startswith("classify")
    assert account[0].endswith("5,000 rows in 9.9 s")
    assert last == ""
    assert "\x1b[?25l" not in out.getvalue()


def test_a_live_bar_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = screen(painted(80, RUNNING, EMPTY, monkeypatch=monkeypatch).split("\r\x1b[1A")[0])
    assert shown == [
        " classify · body · gpt-6-luna ██████████▓▓▓▓▒▒×────────────── 2,683/5,000 53.7%",
        " 195 rows/s · 15 s left · $0.17 → $0.46 (max_cost $5.00) · 13 failed",
    ]


def test_a_line_said_during_the_run_stays_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    bar = Terminal(out, clock=Clock())
    bar.open(RUNNING)
    bar.say("a line")
    bar.paint(RUNNING)
    shown = screen(out.getvalue())
    assert shown[0] == "a line"
    assert len(shown) == 3


def test_a_wait_for_retry_after_is_named_first_even_where_it_is_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = screen(painted(40, WAITING, DONE, monkeypatch=monkeypatch).split("\r\x1b[1A")[0])
    assert shown[1].startswith(" rate limit, 12 s (Retry-After)")


def test_a_wide_terminal_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(painted(280, WAITING, DONE, monkeypatch=monkeypatch).split("\r\x1b[1A")[0])
    for part in (
        "waiting: rate limit",
        "120k cached",
        "64 in flight",
        "35 retries",
        "8 SchemaMismatchError",
        "▓ 738",
    ):
        assert part in shown[1]


def test_the_bar_is_painted_eight_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, clock = io.StringIO(), Clock()
    bar = Terminal(out, clock=clock)
    for _ in range(200):
        bar.paint(RUNNING)
        clock.now += 0.05
    assert out.getvalue().count("\x1b[1A") <= 80


def test_the_width_is_that_of_the_stream_whatever_the_standard_output_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        for found, said in ((33, 33), (7, 20), (0, 200)):
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, found, 0, 0))
            assert columns(stream) == said


def test_a_text_of_others_never_controls_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = replace(DONE, title="a\x1b[2Jb", last_error="x\x1b]0;owned\x07y\u202e", note="n\r\nm")
    shown = painted(200, evil, evil, monkeypatch=monkeypatch)
    assert not re.search(r"\x1b\[2J|\x1b\]|\x07|\u202e", shown)
    assert "n m" in screen(shown)


def test_a_bar_in_a_stream_without_our_glyphs_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    line = top_line(RUNNING, 80, Ink("ascii", ascii=True))
    assert line.isascii()
    assert "####" in line
    assert "=====" in line
    assert painted(80, WIDE, DONE, monkeypatch=monkeypatch, encoding="ascii").isascii()
