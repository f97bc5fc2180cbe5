"""kill -9 in every state of a batch's journal: a fresh process runs the same line, nothing is paid twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children, faults
from fakes.batch_faults import OnRequest
from fakes.children import Child, until
from fakes.openai_server import FakeOpenAI

N = 200
PILOT = 3
LINE = """
say(ready=True)
out = tickets({n}).llm.classify(
    "body", LABELS, mode="batch", batches=pandas_llm.Batches({batches}), progress=False
)
sources = out["body_label_source"].value_counts()
say(labelled=int(out["body_label"].notna().sum()), cost=float(out["body_label_cost"].sum()),
    sources={{source: int(rows) for source, rows in sources.items() if rows}})
if out["body_label"].notna().all():  # what each answer came to, in whichever run it was paid for
    say(paid=out.llm.evaluate(out["body_label"]).cost_per_right_label * {n})
"""
HALT = """
def halt(kind, name, when):
    method = getattr(kind, name)
    def halted(self, *given, **facts):
        if when(*given):
            say(halted=True)
            time.sleep(60)
        return method(self, *given, **facts)
    setattr(kind, name, halted)
from pandas_llm.dispatch.harvest import Harvest
from pandas_llm.io.shards import Shards
def half(take):
    return lambda self, lines: take(self, list(lines)[::2])
"""
BETWEEN = {
    # Where nothing is asked of the provider, the process halts before its next step.
    "planned": 'halt(Shards, "note", lambda shard, state=None: state == "uploading")',
    "uploaded": 'halt(Shards, "note", lambda shard, state=None: state == "creating")',
    "half-way through the harvest": """
Harvest.take = half(Harvest.take)
halt(Harvest, "rest", lambda why: True)
""",
    "after the harvest, before the close": 'halt(Shards, "close", lambda shard: True)',
}


QUICK = "poll=(0.01, 0.05)"


def start(folder: Path, before: str = "", batches: str = QUICK, line: str = LINE) -> Child:
    return children.start((HALT + before if before else "") + line.format(n=N, batches=batches), folder)


def kill(child: Child) -> None:
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.stderr


def journal(store: Path) -> list[str]:
    """The states of all shards in the file, as somebody else sees them."""
    if not store.exists():
        return []
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        try:
            rows = connection.execute("SELECT state FROM batches ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []
        return [str(row[0]) for row in rows]


def kept(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        query = "SELECT count(*) FROM requests WHERE value IS NOT NULL"
        return int(connection.execute(query).fetchone()[0])


def asked(server: FakeOpenAI, method_and_path: str) -> int:
    return sum(request.path == method_and_path for request in server.requests)


def assert_the_same_line_ends_it(
    server: FakeOpenAI, folder: Path, store: Path, *, known: int | None = None
) -> None:
    """One batch, one bill, every row; what was known before isn't asked for."""
    server.clear_faults()
    server.release_batches()
    child = start(folder / "fresh")
    assert child.wait() == 0, child.stderr
    said = child.said
    assert said["labelled"] == N
    assert set(server.bill.texts.values()) == {1}, "a row was paid for twice"
    assert len(server.bill.texts) == N
    assert server.bill.completions == PILOT
    assert server.bill.batches == 1
    assert server.bill.batch_completions == N - PILOT
    ids = [number for batch in server.batches for number in batch.custom_ids]
    assert len(ids) == len(set(ids)), "the same request stood in two inputs"
    assert said["paid"] == pytest.approx(server.bill.cost), "the answers' costs are the bill"
    if known is not None:
        assert said["sources"] == {"cache": known} | ({"batch": N - known} if known < N else {})
    assert journal(store) == ["harvested"]
    assert_sound(store)
    # And once more: it is free, and leaves no trace.
    before = len(server.requests)
    frame = pd.DataFrame({"body": [f"ticket {i}" for i in range(N)]})
    again = frame.llm.classify("body", ["bug", "question", "praise"], mode="batch", progress=False)
    assert set(again["body_label_source"]) == {"cache"}
    assert len(server.requests) == before


def assert_sound(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        claims = "SELECT count(*) FROM requests WHERE value IS NULL OR owner IS NOT NULL"
        assert connection.execute(claims).fetchone() == (0,)
        query = "SELECT count(*) FROM batches WHERE state != 'harvested' OR owner IS NOT NULL"
        assert connection.execute(query).fetchone() == (0,)


# Each state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", BETWEEN)
def test_killed_between_two_steps(server: FakeOpenAI, tmp_path: Path, own_settings: Path, state: str) -> None:
    child = start(tmp_path / "killed", BETWEEN[state])
    until(lambda: child.said.get("halted"), why=lambda: child.stderr)
    if state == "half-way through the harvest":
        until(lambda: kept(own_settings) > PILOT)
    kill(child)
    harvesting = "harvest" in state
    assert journal(own_settings) == ["ended" if harvesting else state]
    known = kept(own_settings)
    if state == "half-way through the harvest":
        assert PILOT < known < N
    elif harvesting:
        assert known == N
    else:
        assert known == PILOT
    assert_the_same_line_ends_it(server, tmp_path, own_settings, known=known)
    assert asked(server, "/v1/files") == 1, "one upload is enough"


HANGS = {
    "the upload, before it arrived": ("upload", False, "uploading"),
    "the upload, before its reply": ("upload", True, "uploading"),
    "the create, before it arrived": ("create", False, "creating"),
    "the create, before its reply": ("create", True, "creating"),
    "a poll": ("retrieve", False, "created"),
    "the download": ("content", False, "ended"),
}


@pytest.mark.parametrize("hangs", HANGS)
def test_killed_while_a_request_is_on_its_way(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, hangs: str
) -> None:
    operation, done, state = HANGS[hangs]
    server.batch_fault(OnRequest(operation=operation, fault=faults.hang(), done=done))
    child = start(tmp_path / "killed")
    until(lambda: journal(own_settings) == [state] and server.in_flight, why=lambda: child.stderr)
    if done and operation == "create":
        until(lambda: server.batches)
    kill(child)
    assert journal(own_settings) == [state]
    until(lambda: not server.in_flight)
    assert_the_same_line_ends_it(server, tmp_path, own_settings, known=PILOT)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
def test_killed_while_the_batch_goes_on(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, status: str
) -> None:
    server.hold_batches = status
    child = start(tmp_path / "killed")
    until(lambda: server.batches and server.batches[0].status == status, why=lambda: child.stderr)
    until(lambda: journal(own_settings) == ["created"])
    kill(child)
    assert_the_same_line_ends_it(server, tmp_path, own_settings, known=PILOT)


def test_killed_while_the_pilot_is_on_its_way(server: FakeOpenAI, tmp_path: Path, own_settings: Path) -> None:
    server.fault(None, faults.hang())
    child = start(tmp_path / "killed")
    until(lambda: server.in_flight, why=lambda: child.stderr)
    kill(child)
    server.clear_faults()
    until(lambda: not server.in_flight)
    assert_the_same_line_ends_it(server, tmp_path, own_settings)


def test_a_batch_whose_metadata_the_provider_drops_is_found_by_its_file(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.batch_fault("create_timeout_exists")
    child = start(tmp_path / "killed")
    until(lambda: server.batches, why=lambda: child.stderr)
    kill(child)
    server.batches[0].metadata = None
    assert_the_same_line_ends_it(server, tmp_path, own_settings, known=PILOT)


def test_killed_while_the_provider_takes_its_time_over_a_create(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    create = server._batches._create

    async def slowly(body: Any) -> Any:
        await asyncio.sleep(1)
        return await create(body)

    server._batches._create = slowly  # type: ignore[method-assign]
    child = start(tmp_path / "killed")
    until(lambda: server.in_flight and journal(own_settings) == ["creating"], why=lambda: child.stderr)
    kill(child)
    server._batches._create = create  # type: ignore[method-assign]
    child = start(tmp_path / "fresh", batches="poll=(1, 1)")
    assert child.wait() == 0, child.stderr
    assert child.said["labelled"] == N
    assert server.bill.batches == 1
    assert set(server.bill.texts.values()) == {1}


# Any moment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [50_000, 50])
def test_kills_at_any_moment_in_a_row_pay_for_no_row_twice(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, most: int
) -> None:
    dice = random.Random(most)
    server.batch_seconds = 1.0
    batches, kills = f"{QUICK}, max_requests={most}", 0
    while not (states := journal(own_settings)) or set(states) != {"harvested"}:
        child = start(tmp_path / f"child {kills}", batches=batches)
        until(lambda child=child: child.said.get("ready"), why=lambda child=child: child.stderr)
        time.sleep(dice.random() * (0.3 + 0.03 * kills))  # on a busy machine it would never end
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            child.send(signal.SIGKILL)
        child.wait()
        kills += 1
        assert kills < 40, states
    until(lambda: not server.in_flight)
    server.batch_seconds = 0.0
    child = start(tmp_path / "fresh", batches=batches)
    assert child.wait() == 0, child.stderr
    assert child.said["labelled"] == N
    # A pilot's replies on their way at a kill are all that may be lost.
    assert sum(server.bill.texts.values()) - N <= PILOT * kills
    ids = [number for batch in server.batches for number in batch.custom_ids]
    assert len(ids) == len(set(ids)) == server.bill.batch_completions
    assert_sound(own_settings)


# What is left open ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["planned", "uploading"])
def test_a_concurrent_call_asks_for_what_never_became_a_batch(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, state: str
) -> None:
    server.batch_fault(OnRequest(operation="upload", fault=faults.hang()))
    child = start(tmp_path / "killed", BETWEEN.get(state, ""))
    until(lambda: journal(own_settings) == [state], why=lambda: child.stderr)
    kill(child)
    line = LINE.replace('mode="batch", ', "")
    child = start(tmp_path / "fresh", line=line)
    assert child.wait() == 0, child.stderr
    assert child.said["labelled"] == N
    assert set(server.bill.texts.values()) == {1}
    assert_sound(own_settings)


def test_another_question_isnt_refused_beside_a_batch_that_is_answered_whole(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    child = start(tmp_path / "killed", BETWEEN["after the harvest, before the close"])
    until(lambda: child.said.get("halted"), why=lambda: child.stderr)
    kill(child)
    line = LINE.replace('mode="batch", ', 'mode="batch", instructions="Be strict.", ')
    child = start(tmp_path / "fresh", line=line)
    assert child.wait() == 0, child.stderr
    assert child.said["labelled"] == N
    assert server.bill.batches == 2
    assert_sound(own_settings)
