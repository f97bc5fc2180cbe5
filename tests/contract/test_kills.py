"""Real processes killed and interrupted at any moment: what a re-run pays is counted on the bill."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children, faults
from fakes.children import Child, until
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm

LABELS = ["bug", "question", "praise"]
N = 1_000
PLACES = 16
AT_RISK = PLACES + PLACES // 8
"""What one kill may cost: the requests in flight and the answers being saved."""


def tickets(n: int = N, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})


def labelled(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, progress=False, **options)


def kept(store: Path) -> int:
    """Answers that are in the file, as somebody else sees it."""
    if not store.exists():
        return 0
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        try:
            query = "SELECT count(*) FROM requests WHERE value IS NOT NULL"
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # killed before there was a table
            return 0


def assert_sound(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM requests WHERE value IS NULL").fetchone() == (0,)


LABEL = """
frame = tickets({n}, first={first})
if {backwards}:
    frame = frame[::-1]
say(ready=True)
out = frame.llm.classify("body", LABELS, max_concurrency={places}, progress=False)
sources = out["body_label_source"].value_counts()
say(labelled=int(out["body_label"].notna().sum()), api=int(sources.get("api", 0)))
"""


def start(folder: Path, n: int = N, first: int = 0, *, backwards: bool = False) -> Child:
    script = LABEL.format(n=n, first=first, places=PLACES, backwards=backwards)
    return children.start(script, folder)


# kill -9 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 7, 50, 333, 999])
def test_after_kill_9_all_but_what_was_at_risk_is_kept(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, at: int
) -> None:
    server.latency = 0.02
    server.fault("ticket 999", faults.hang())  # so that there is something to kill at 999
    child = start(tmp_path / "child")
    until(lambda: server.bill.completions >= at, why=lambda: child.stderr)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    server.clear_faults()
    server.latency = 0.0
    until(lambda: server.in_flight <= (at > 900))  # what hangs is dropped and never billed
    paid, saved = server.bill.completions, kept(own_settings)
    assert paid - saved <= AT_RISK
    out = labelled(tickets(), max_concurrency=PLACES)
    assert out["body_label"].notna().all()
    assert Counter(out["body_label_source"]) == Counter({"api": N - saved, "cache": saved})
    assert server.bill.completions == N + paid - saved, "what was kept isn't paid again"
    assert list(pandas_llm.runs()["status"]) == ["done", "killed"]
    assert_sound(own_settings)


def test_ten_kills_in_a_row_cost_no_more_than_ten_times_what_was_at_risk(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    dice = random.Random(9)
    server.latency = 0.01
    costs = []
    for kill in range(10):
        paid, saved = server.bill.completions, kept(own_settings)
        child = start(tmp_path / f"child {kill}")
        if dice.random() < 0.3:  # anywhere, before the first reply too
            until(lambda child=child: child.said.get("ready"))
            time.sleep(dice.random() * 0.1)
        else:
            enough = paid + dice.randrange(1, 120)
            until(lambda enough=enough: server.bill.completions >= enough, why=lambda c=child: c.stderr)
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        until(lambda: not server.in_flight)
        costs.append(server.bill.completions - paid - (kept(own_settings) - saved))
        assert 0 <= costs[-1] <= AT_RISK, costs
    server.latency = 0.0
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert server.bill.completions == N + sum(costs)
    assert_sound(own_settings)


# Two processes -------------------------------------------------------------------------------------------


def test_two_processes_that_begin_at_opposite_ends_pay_for_each_row_once(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.latency = 0.02
    pair = [start(tmp_path / f"child {i}", 500, backwards=bool(i)) for i in range(2)]
    assert [child.wait() for child in pair] == [0, 0], pair[0].stderr + pair[1].stderr
    assert [child.said["labelled"] for child in pair] == [500, 500]
    assert server.bill.completions == 500
    assert set(server.bill.texts.values()) == {1}
    assert sum(child.said["api"] for child in pair) == 500
    assert_sound(own_settings)


def test_of_two_processes_one_is_killed_and_the_other_ends_the_work(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.latency = 0.02
    pair = [start(tmp_path / f"child {i}", 500, backwards=bool(i)) for i in range(2)]
    until(lambda: server.bill.completions >= 150, why=lambda: pair[0].stderr + pair[1].stderr)
    pair[0].send(signal.SIGKILL)
    assert [child.wait() for child in pair] == [-signal.SIGKILL, 0], pair[1].stderr
    assert pair[1].said["labelled"] == 500
    assert server.bill.completions <= 500 + AT_RISK
    assert_sound(own_settings)


# Ctrl-C --------------------------------------------------------------------------------------------------

INTERRUPTED = """
say(ready=True)
try:
    tickets({n}, first={first}).llm.classify("body", LABELS, max_concurrency=8, progress=False)
except KeyboardInterrupt as error:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    frame = getattr(error, "frame", None)
    say(kind=type(error).__name__, labelled=0 if frame is None else int(frame["body_label"].notna().sum()))
    time.sleep(0.05)  # what is sent now would be seen
else:
    say(kind="done", labelled={n})
sys.stderr.flush()
os._exit(0)  # taking the interpreter down lasts longer than the run
"""
SLICE = 0.25  # seconds within which a signal must have worked, on a busy machine
ROWS = 60


@dataclass(slots=True)
class Struck:
    """A process that was interrupted."""

    child: Child
    first: int
    at: float


def interrupted(folder: Path, first: int) -> Struck:
    return Struck(children.start(INTERRUPTED.format(n=ROWS, first=first), folder), first, 0.0)


def test_fifty_ctrl_c_at_any_moment_lose_and_send_nothing(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    dice = random.Random(50)
    labelled(tickets(1, first=10**6))  # makes the file, and settles the format
    server.latency = 0.02
    struck: list[Struck] = []
    for some in range(0, 50, 5):  # five at a time, on one store
        five = [interrupted(tmp_path / str(n), n * ROWS) for n in range(some, some + 5)]
        until(lambda five=five: all(each.child.said.get("ready") for each in five))
        for each in five:
            time.sleep(dice.random() * 0.06)
            each.at = time.monotonic()
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                each.child.send(signal.SIGINT)
        for each in five:
            each.child.wait()
        struck += five
    until(lambda: not server.in_flight)
    kinds = Counter(each.child.said.get("kind", "after its end") for each in struck)
    assert kinds["Interrupted"] >= 25, kinds
    for each in struck:
        assert_nothing_was_sent_after(server, each)
    paid = server.bill.completions
    assert kept(own_settings) == paid, "what came back is kept"
    server.latency = 0.0
    out = labelled(tickets(50 * ROWS))
    assert out["body_label"].notna().all()
    assert server.bill.completions == 50 * ROWS + 1
    assert set(server.bill.texts.values()) == {1}
    assert_sound(own_settings)


def assert_nothing_was_sent_after(server: FakeOpenAI, each: Struck) -> None:
    texts = {f"ticket {i}" for i in range(each.first, each.first + ROWS)}
    seen = [request.at for request in server.requests if request.text in texts]
    said = each.child.said
    if said.get("kind") == "Interrupted":
        within(max(seen, default=0.0) - each.at, SLICE)
        assert said["labelled"] == len(seen), "every request that left was answered, and is on the frame"
    assert "Exception ignored" not in each.child.stderr, each.child.stderr
