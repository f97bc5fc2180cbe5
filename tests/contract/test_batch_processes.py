"""Several kernels, threads and calls on the rows of one batch: each gets all answers, nobody pays twice."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children, faults
from fakes.batch_faults import OnRequest
from fakes.children import Child, until
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm import Batches

LABELS = ["bug", "question", "praise"]
N = 60
PILOT = 3
IN_BATCH = N - PILOT
POLL = (0.01, 0.05)
LINE = """
say(ready=True)
out = tickets({n}).llm.classify(
    "body", LABELS, batches=pandas_llm.Batches(poll=(0.01, 0.05)), progress=False, **{options}
)
sources = out["body_label_source"].value_counts()
say(labelled=int(out["body_label"].notna().sum()), cost=float(out["body_label_cost"].sum()),
    sources={{source: int(rows) for source, rows in sources.items() if rows}},
    errors=sorted(out["body_label_error"].dropna().unique()), at=time.monotonic())
"""


def tickets(n: int = N, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})


def labelled(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    options = {"mode": "batch", "batches": Batches(poll=POLL), "progress": False} | options
    return frame.llm.classify("body", LABELS, **options)


def start(folder: Path, n: int = N, before: str = "", **options: Any) -> Child:
    return children.start(before + LINE.format(n=n, options={"mode": "batch", **options}), folder)


def driver(store: Path) -> int | None:
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        return connection.execute("SELECT owner FROM batches").fetchone()[0]


def is_watched(server: FakeOpenAI) -> bool:
    """Whether somebody drives the batch and polls, so that nobody else becomes its driver."""
    return bool(server.batches) and server.batches[0].status == "in_progress"


def in_their_roles(store: Path, *kernels: Child) -> list[Child]:
    """The one that drives the batch, then the others: who watches may take it between two steps."""
    query = "SELECT pid FROM owners WHERE id = (SELECT owner FROM batches)"
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        until(lambda: (connection.execute(query).fetchone() or (0,))[0] in {each.pid for each in kernels})
        [pid] = connection.execute(query).fetchone()
    return sorted(kernels, key=lambda each: each.pid != pid)


def freeze(child: Child, store: Path) -> None:
    """Stop a process, though not where it holds the file's lock."""
    for _ in range(100):
        child.send(signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(store, timeout=0.2, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                child.send(signal.SIGCONT)
                time.sleep(0.01)
            else:
                connection.execute("ROLLBACK")
                return
    raise AssertionError("it always holds the lock")


def downloads(server: FakeOpenAI) -> int:
    return sum(request.path.endswith("/content") for request in server.requests)


def sources(out: pd.DataFrame) -> dict[str, int]:
    counts = out["body_label_source"].value_counts()
    return {source: int(rows) for source, rows in counts.items() if rows}


def assert_paid_once(server: FakeOpenAI, rows: int = N, batches: int = 1) -> None:
    assert set(server.bill.texts.values()) == {1}
    assert len(server.bill.texts) == rows
    assert server.bill.batches == batches


# Two that watch ------------------------------------------------------------------------------------------


def test_two_kernels_that_watch_one_batch_both_get_every_answer(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.hold_batches = True
    one = start(tmp_path / "one")
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two")
    until(lambda: two.said.get("ready"))
    time.sleep(0.2)
    server.release_batches()
    assert [one.wait(), two.wait()] == [0, 0], one.stderr + two.stderr
    assert one.said["labelled"] == two.said["labelled"] == N
    assert one.said["sources"] == {"api": PILOT, "batch": IN_BATCH}
    assert two.said["sources"] == {"cache": N}
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert downloads(server) == 1
    assert_paid_once(server)


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.15])
def test_two_kernels_that_begin_together_make_one_batch(
    server: FakeOpenAI, tmp_path: Path, pause: float
) -> None:
    server.latency = 0.05
    server.batch_seconds = 0.3
    one = start(tmp_path / "one")
    time.sleep(pause)
    two = start(tmp_path / "two")
    assert [one.wait(), two.wait()] == [0, 0], one.stderr + two.stderr
    assert one.said["labelled"] == two.said["labelled"] == N
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert set(server.bill.texts.values()) == {1}
    ids = [number for batch in server.batches for number in batch.custom_ids]
    assert len(ids) == len(set(ids))


def test_threads_of_one_process_share_a_batch(server: FakeOpenAI) -> None:
    server.hold_batches = True
    frames: list[pd.DataFrame] = []
    threads = [threading.Thread(target=lambda: frames.append(labelled(tickets()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: server.batches)
    time.sleep(0.2)
    server.release_batches()
    for thread in threads:
        thread.join(20)
    assert [int(out["body_label"].notna().sum()) for out in frames] == [N, N, N]
    assert sum(out["body_label_cost"].sum() for out in frames) == pytest.approx(server.bill.cost)
    assert downloads(server) == 1
    assert_paid_once(server)


def test_rows_that_a_batch_lost_are_asked_again_by_one_of_those_who_watch(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.batch_fault("missing", times=30)
    server.hold_batches = True
    one = start(tmp_path / "one")
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two")
    until(lambda: two.said.get("ready"))
    time.sleep(0.2)
    server.release_batches()
    assert [one.wait(), two.wait()] == [0, 0], one.stderr + two.stderr
    assert one.said["labelled"] == two.said["labelled"] == N
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert_paid_once(server, batches=2)


# One that leaves -----------------------------------------------------------------------------------------


def test_the_driver_dies_and_who_watches_takes_over_at_once(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.hold_batches = True
    one = start(tmp_path / "one")
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two")
    until(lambda: two.said.get("ready"))
    time.sleep(0.3)
    one, two = in_their_roles(own_settings, one, two)
    first = driver(own_settings)
    one.send(signal.SIGKILL)
    one.wait()
    killed = time.monotonic()
    until(lambda: driver(own_settings) not in (None, first))
    within(time.monotonic() - killed, 1)
    server.release_batches()
    assert two.wait() == 0, two.stderr
    assert two.said["labelled"] == N
    assert two.said["sources"] == {"cache": PILOT, "batch": IN_BATCH}
    assert_paid_once(server)


def test_the_driver_dies_half_way_and_who_watches_reads_the_rest(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    halt = """
from pandas_llm.dispatch.harvest import Harvest
take = Harvest.take
Harvest.take = lambda self, lines: take(self, list(lines)[::2])
Harvest.rest = lambda self, why: (say(halted=True), time.sleep(60))
"""
    server.hold_batches = True
    one = start(tmp_path / "one", before=halt)
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two")
    until(lambda: two.said.get("ready"))
    time.sleep(0.2)
    server.release_batches()
    until(lambda: one.said.get("halted"), why=lambda: one.stderr)
    one.send(signal.SIGKILL)
    one.wait()
    assert two.wait() == 0, two.stderr
    assert two.said["labelled"] == N
    assert_paid_once(server)


def test_the_driver_is_interrupted_half_way_and_each_answer_is_counted_in_one_frame(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    script = """
from pandas_llm.dispatch.harvest import Harvest
take = Harvest.take
Harvest.take = lambda self, lines: take(self, list(lines)[::2])
try:
    labels = tickets({n}).llm.classify(
        "body", LABELS, mode="batch", batches=pandas_llm.Batches(poll=(0.01, 0.05)), progress=False
    )
except KeyboardInterrupt as error:
    labels = error.frame["body_label"]
    say(cost=float(error.frame["body_label_cost"].sum()), labelled=int(labels.notna().sum()))
"""
    # What its first half lacks is asked again: this one hangs, and the Ctrl-C strikes then.
    server.hold_batches = True
    server.batch_fault(OnRequest(operation="content", fault=faults.hang()), lambda n, name: "_error" in name)
    server.fault("ticket 7", faults.INTERNAL, times=1)
    one = children.start(script.format(n=N), tmp_path / "one")
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two")
    until(lambda: two.said.get("ready"))
    time.sleep(0.2)
    server.release_batches()
    until(lambda: downloads(server) == 2, why=lambda: one.stderr)
    time.sleep(0.2)
    for _ in range(2):
        one.send(signal.SIGINT)
        time.sleep(0.1)
    assert one.wait() == 0, one.stderr
    server.clear_faults()
    assert two.wait() == 0, two.stderr
    assert two.said["labelled"] == N
    assert PILOT < one.said["labelled"] < N
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert_paid_once(server, batches=len(server.batches))


def test_a_driver_that_seemed_hung_gives_way_and_still_gets_every_answer(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    impatient = """
from pandas_llm.io import journal, owners
owners.BEAT = journal.BEAT = 0.1
"""
    server.hold_batches = True
    one = start(tmp_path / "one", before=impatient, timeout=0.4)
    until(lambda: is_watched(server), why=lambda: one.stderr)
    two = start(tmp_path / "two", before=impatient, timeout=0.4)
    until(lambda: two.said.get("ready"))
    time.sleep(0.3)
    one, two = in_their_roles(own_settings, one, two)
    first = driver(own_settings)
    freeze(one, own_settings)
    until(lambda: driver(own_settings) not in (None, first))
    one.send(signal.SIGCONT)
    time.sleep(0.2)
    server.release_batches()
    assert [one.wait(), two.wait()] == [0, 0], one.stderr + two.stderr
    assert one.said["labelled"] == two.said["labelled"] == N
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert_paid_once(server)


def test_a_driver_that_only_watches_lives(server: FakeOpenAI, tmp_path: Path, own_settings: Path) -> None:
    impatient = """
from pandas_llm.io import journal, owners
owners.BEAT = journal.BEAT = 0.1
"""
    server.hold_batches = True
    labelled(tickets(), wait=False)
    one = start(tmp_path / "one", before=impatient, timeout=0.4)
    until(lambda: driver(own_settings) is not None, why=lambda: one.stderr)
    first = driver(own_settings)
    two = start(tmp_path / "two", before=impatient, timeout=0.4)
    until(lambda: two.said.get("ready"))
    time.sleep(2)
    assert driver(own_settings) == first, "a batch that says nothing new isn't a driver that hangs"
    server.release_batches()
    assert [one.wait(), two.wait()] == [0, 0], one.stderr + two.stderr
    assert one.said["labelled"] == two.said["labelled"] == N
    assert_paid_once(server)


def test_another_kernel_collects_what_one_submitted_and_left(server: FakeOpenAI, tmp_path: Path) -> None:
    server.hold_batches = True
    one = start(tmp_path / "one", wait=False)
    assert one.wait() == 0, one.stderr
    assert one.said["sources"] == {"api": PILOT, "pending": IN_BATCH}
    assert one.said["errors"] == [f"Pending: {server.batches[0].id} {server.batches[0].status}"]
    server.release_batches()
    two = start(tmp_path / "two")
    assert two.wait() == 0, two.stderr
    assert two.said["sources"] == {"cache": PILOT, "batch": IN_BATCH}
    assert one.said["cost"] + two.said["cost"] == pytest.approx(server.bill.cost)
    assert_paid_once(server)


def test_who_does_not_wait_leaves_a_batch_to_who_watches_it(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.hold_batches = True
    one = start(tmp_path / "one")
    until(lambda: is_watched(server), why=lambda: one.stderr)
    until(lambda: server.batches[0].status == "in_progress")
    out = labelled(tickets(), wait=False)
    assert sources(out) == {"cache": PILOT, "pending": IN_BATCH}
    assert set(out["body_label_error"].dropna()) == {f"Pending: {server.batches[0].id} in_progress"}
    server.release_batches()
    assert one.wait() == 0, one.stderr
    assert one.said["sources"] == {"api": PILOT, "batch": IN_BATCH}
    assert_paid_once(server)


# Other calls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "left"])
def test_a_concurrent_call_leaves_the_rows_of_an_open_batch_alone(
    server: FakeOpenAI, tmp_path: Path, watched: bool
) -> None:
    server.hold_batches = True
    one = start(tmp_path / "one", wait=watched)
    until(lambda: one.said.get("labelled") or (server.batches and watched), why=lambda: one.stderr)
    until(lambda: not watched or server.batches[0].status == "in_progress")
    time.sleep(0.1)
    before = server.bill.completions
    out = labelled(tickets(), mode="concurrent")
    assert sources(out) == {"cache": PILOT, "pending": IN_BATCH}
    assert set(out["body_label_error"].dropna().str.extract(r"^Pending: (\S+) ")[0]) == {server.batches[0].id}
    assert server.bill.completions == before
    more = labelled(tickets(N + 5), mode="concurrent")
    assert sources(more) == {"cache": PILOT, "pending": IN_BATCH, "api": 5}
    server.release_batches()
    if watched:
        assert one.wait() == 0, one.stderr
    else:
        out = labelled(out)
        assert sources(out) == {"cache": PILOT, "batch": IN_BATCH}
    assert sources(labelled(tickets(), mode="concurrent")) == {"cache": N}
    assert_paid_once(server, N + 5)


@pytest.mark.parametrize("more", [5, 40], ids=["few more", "many more"])
def test_a_frame_with_more_rows_than_the_batch_collects_it_and_asks_for_the_rest(
    server: FakeOpenAI, more: int
) -> None:
    first = labelled(tickets(), wait=False)
    out = labelled(tickets(N + more))
    assert out["body_label"].notna().all()
    total = first["body_label_cost"].sum() + out["body_label_cost"].sum()
    assert total == pytest.approx(server.bill.cost)
    assert_paid_once(server, N + more, batches=1 + (more == 40))


def test_a_frame_with_fewer_rows_collects_the_whole_batch(server: FakeOpenAI) -> None:
    first = labelled(tickets(), wait=False)
    few = labelled(tickets(10))
    assert sources(few) == {"cache": PILOT, "batch": 10 - PILOT}
    seen = len(server.requests)
    out = labelled(tickets())
    assert sources(out) == {"cache": 10, "batch": N - 10}
    assert len(server.requests) == seen, "its file was read once"
    frames = (first, few, out)
    assert sum(each["body_label_cost"].sum() for each in frames) == pytest.approx(server.bill.cost)
    assert sources(labelled(tickets())) == {"cache": N}
    assert_paid_once(server)


def test_an_answer_that_was_collected_unread_is_counted_in_one_frame(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    first = labelled(tickets(), wait=False)
    few = labelled(tickets(10))
    gate = tmp_path / "gate"
    wait = f"""
say(waits=True)
while not os.path.exists({str(gate)!r}):
    time.sleep(0.001)
"""
    pair = [start(tmp_path / str(i), before=wait) for i in range(2)]
    until(lambda: all(child.said.get("waits") for child in pair))
    gate.touch()
    assert [child.wait() for child in pair] == [0, 0], pair[0].stderr + pair[1].stderr
    assert [child.said["labelled"] for child in pair] == [N, N]
    costs = [first["body_label_cost"].sum(), few["body_label_cost"].sum(), *(c.said["cost"] for c in pair)]
    assert sum(costs) == pytest.approx(server.bill.cost)


def test_a_frame_that_shares_no_row_makes_a_batch_of_its_own(server: FakeOpenAI) -> None:
    server.hold_batches = True
    labelled(tickets(), wait=False)
    other = labelled(tickets(N, first=N), wait=False)
    assert sources(other) == {"api": PILOT, "pending": IN_BATCH}
    server.release_batches()
    assert labelled(tickets(2 * N))["body_label"].notna().all()
    assert_paid_once(server, 2 * N, batches=2)


def test_refresh_beside_an_open_batch_waits_for_it(server: FakeOpenAI) -> None:
    server.hold_batches = True
    labelled(tickets(), wait=False)
    server.release_batches()
    out = labelled(tickets(), cache="refresh")
    assert out["body_label"].notna().all()
    assert max(server.bill.batch_rows.values()) == 1
    assert pandas_llm.last_run().cost == pytest.approx(out["body_label_cost"].sum())
