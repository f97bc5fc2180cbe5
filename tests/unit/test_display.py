"""Who shows a run where, that nobody breaks it, and the few lines of a log."""

import io
from dataclasses import replace

import pytest
from fakes.progress import RUNNING

from pandas_llm.display import pick

WAITING = replace(RUNNING, waiting="rate limit, 12 s (Retry-After)", rate=0.0, eta=None)
DONE = replace(
    RUNNING, sources={"api": 3_587, "cache": 738, "duplicate": 662, "failed": 13}, state="done", in_flight=0
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Closed(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_few_full_lines() -> None:
    out, clock = io.StringIO(), Clock()
    log = pick(True, stream=out, where="log", clock=clock)
    log.open(replace(RUNNING, rows=600, sources={}))
    for i in range(1, 601):
        clock.now += 0.1
        log.paint(replace(RUNNING, rows=600, sources={"api": i}))
    log.close(replace(DONE, rows=600, sources={"api": 600}))
    lines = out.getvalue().split("\n")
    assert 5 <= len(lines) <= 15
    assert lines.pop() == ""
    assert all(line.isprintable() and line.startswith("classify · body") for line in lines)
    assert "(50.0%) · 161 rows/s · 15 s left · $0.17 → $0.46" in out.getvalue()


def test_a_fast_run_is_logged_every_two_seconds_at_most() -> None:
    out, clock = io.StringIO(), Clock()
    log = pick(True, stream=out, where="log", clock=clock)
    log.open(replace(RUNNING, rows=600, sources={}))
    for i in range(1, 601):
        clock.now += 0.009
        log.paint(replace(RUNNING, rows=600, sources={"api": i}))
    log.close(DONE)
    assert out.getvalue().count("\n") == 4


def test_a_stalled_run_is_logged_every_ten_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    log = pick(True, stream=out, where="log", clock=clock)
    log.open(WAITING)
    for _ in range(1_000):
        clock.now += 0.0501
        log.paint(WAITING)
    assert out.getvalue().count("waiting: rate limit, 12 s (Retry-After)") == 5


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, bar in ((Tty(), True), (io.StringIO(), False)):
        painter = pick(True, stream=stream)
        painter.open(RUNNING)
        assert ("\x1b[" in stream.getvalue()) == bar


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Tty()
    pick(True, stream=out).open(RUNNING)
    assert out.getvalue() == "classify · body · gpt-6-luna: 5,000 rows, 3,600 requests to send\n"


def test_progress_false_shows_nothing() -> None:
    out = Tty()
    painter = pick(False, stream=out)
    painter.say("a line")
    painter.open(RUNNING)
    painter.paint(RUNNING)
    painter.close(DONE)
    assert out.getvalue() == ""


@pytest.mark.parametrize("where", ["terminal", "log", None])
def test_a_closed_stream_never_breaks_a_run(where: str | None) -> None:
    gone = io.StringIO()
    gone.close()
    for stream in (gone, Closed()):
        painter = pick(True, stream=stream, where=where)  # type: ignore[arg-type]
        painter.say("a line")
        painter.open(RUNNING)
        painter.paint(RUNNING)
        painter.close(DONE)


def test_after_one_bad_paint_only_the_account_is_tried() -> None:
    class Moody(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            if self.writes == 2:
                raise OSError
            return super().write(text)

    out, clock = Moody(), Clock()
    painter = pick(True, stream=out, where="terminal", clock=clock)
    painter.open(RUNNING)
    for _ in range(3):
        clock.now += 1
        painter.paint(RUNNING)
    painter.close(DONE)
    assert out.writes == 3
    assert "5,000 rows in 9.9 s" in out.getvalue()


def test_ctrl_c_during_a_paint_is_not_swallowed() -> None:
    class Interrupting(io.StringIO):
        def write(self, _: str) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pick(True, stream=Interrupting(), where="terminal").open(RUNNING)
