"""Leaving a batch, Ctrl-C, cancel: the watching ends at once, nothing is lost, the same line goes on."""

from __future__ import annotations

import asyncio
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
from pandas_llm.errors import IncompleteWarning, LLMWarning, OptionsError, StoreError

LABELS = ["bug", "question", "praise"]
N = 60
PILOT = 3
IN_BATCH = N - PILOT
POLL = (0.01, 0.05)


def tickets(n: int = N, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})


def labelled(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    options = {"mode": "batch", "batches": Batches(poll=POLL), "progress": False} | options
    return frame.llm.classify("body", LABELS, **options)


def sources(out: pd.DataFrame) -> dict[str, int]:
    counts = out["body_label_source"].value_counts()
    return {source: int(rows) for source, rows in counts.items() if rows}


def states(store: Path) -> list[str]:
    if not store.exists():
        return []
    with contextlib.closing(sqlite3.connect(store, timeout=10)) as connection:
        try:
            return [row[0] for row in connection.execute("SELECT state FROM batches ORDER BY id").fetchall()]
        except sqlite3.OperationalError:  # not made yet
            return []


def submitted(server: FakeOpenAI, status: str = "in_progress") -> str:
    """The id of a batch that was submitted and left, in this status."""
    server.hold_batches = status
    labelled(tickets(), wait=False)
    until(lambda: labelled(tickets(), wait=False) is not None and server.batches[0].status == status)
    return server.batches[0].id


def delay(server: FakeOpenAI, operation: str, seconds: float) -> None:
    """Let the provider take its time over each such request."""
    respond = server._batches.respond

    async def slowly(request: Any, asked: str, *rest: Any) -> Any:
        if asked == operation:
            await asyncio.sleep(seconds)
        return await respond(request, asked, *rest)

    server._batches.respond = slowly  # type: ignore[method-assign]


def assert_the_same_line_ends_it(server: FakeOpenAI, cost: float, batches: int = 1) -> pd.DataFrame:
    """Every row has its answer, none was paid for twice, and the frames' costs add up to the bill."""
    server.clear_faults()
    server.release_batches()
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert set(server.bill.texts.values()) == {1}
    assert server.bill.batches == batches
    assert cost + out["body_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert sources(labelled(tickets())) == {"cache": N}
    return out


# wait=False ----------------------------------------------------------------------------------------------


def test_a_call_that_does_not_wait_submits_and_returns(server: FakeOpenAI) -> None:
    server.hold_batches = True
    began = time.monotonic()
    out = labelled(tickets(), wait=False)
    within(time.monotonic() - began, 3)
    assert sources(out) == {"api": PILOT, "pending": IN_BATCH}
    assert out["body_label"].isna().sum() == IN_BATCH
    name = server.batches[0].id
    assert set(out["body_label_error"].dropna()) == {f"Pending: {name} {server.batches[0].status}"}
    again = labelled(out, wait=False)
    assert set(again["body_label_error"].dropna()) == {f"Pending: {name} in_progress"}
    assert sources(again) == {"cache": PILOT, "pending": IN_BATCH}
    assert pandas_llm.last_run().status == "submitted"
    uploads = [request for request in server.requests if request.path == "/v1/files"]
    assert len(uploads) == 1
    assert_the_same_line_ends_it(server, out["body_label_cost"].sum())


def test_the_same_line_without_waiting_collects_what_is_ready(server: FakeOpenAI) -> None:
    first = labelled(tickets(), wait=False)
    until(lambda: sources(labelled(tickets(), wait=False)).get("pending", 0) == 0)
    assert_the_same_line_ends_it(server, server.bill.cost)
    assert sources(first) == {"api": PILOT, "pending": IN_BATCH}


def test_runs_shows_live_states(server: FakeOpenAI) -> None:
    submitted(server)
    runs = pandas_llm.runs()
    assert "in_progress" in runs.set_index("id").loc["r_1", "status"]
    server.release_batches()
    for _ in range(3):  # each look lets it go on by one status
        pandas_llm.runs()
    assert "completed" in pandas_llm.runs().set_index("id").loc["r_1", "status"]
    labelled(tickets())
    status = pandas_llm.runs().set_index("id").loc["r_1", "status"]
    assert "completed" not in status, status


def test_a_line_that_does_not_wait_leaves_what_the_provider_has_no_room_for(server: FakeOpenAI) -> None:
    server.enqueued_limit = 3_000
    server.hold_batches = True
    cost = 0.0
    for _ in range(3):
        cost += labelled(tickets(), wait=False)["body_label_cost"].sum()
    server.release_batches()
    for _ in range(30):
        out = labelled(tickets(), wait=False)
        cost += out["body_label_cost"].sum()
        if out["body_label"].notna().all():
            break
    assert out["body_label"].notna().all()
    assert set(server.bill.texts.values()) == {1}
    assert cost == pytest.approx(server.bill.cost)


# Ctrl-C --------------------------------------------------------------------------------------------------

STOPPED = """
say(ready=True)
try:
    out = tickets({n}).llm.classify(
        "body", LABELS, mode="batch", batches=pandas_llm.Batches(poll=(0.01, 0.05)), progress=False
    )
    say(kind="done", labelled=int(out["body_label"].notna().sum()), cost=float(out["body_label_cost"].sum()))
except KeyboardInterrupt as error:
    say(at=time.monotonic(), kind=type(error).__name__, line=str(error))
    frame = getattr(error, "frame", None)
    if frame is not None:
        sources = frame["body_label_source"].value_counts()
        say(rows=len(frame), labelled=int(frame["body_label"].notna().sum()), pending=int(sources["pending"]),
            cost=float(frame["body_label_cost"].sum()), status=pandas_llm.last_run().status,
            errors=sorted(frame["body_label_error"].dropna().unique()))
    say(threads=sorted(thread.name for thread in threading.enumerate()))
"""
FLOOD = ("Task was destroyed", "never retrieved", "never awaited", "Exception ignored", "ResourceWarning")


def start(folder: Path, script: str = STOPPED) -> Child:
    return children.start(script.format(n=N), folder)


def assert_interrupted(child: Child) -> dict[str, Any]:
    assert child.wait() == 0, child.stderr
    said = child.said
    assert said["kind"] == "Interrupted", said
    assert "\n" not in said["line"]
    assert said["rows"] == N
    assert said["labelled"] + said["pending"] == N
    assert not [line for line in (*FLOOD, "Traceback") if line in child.stderr], child.stderr
    assert [name for name in said["threads"] if "journal" in name] == []
    return said


def test_ctrl_c_while_polling_says_how_to_come_back(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.hold_batches = True
    child = start(tmp_path)
    until(lambda: server.batches and server.batches[0].status == "in_progress", why=lambda: child.stderr)
    time.sleep(0.1)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    said = assert_interrupted(child)
    within(said["at"] - struck, 1)
    name = server.batches[0].id
    assert said["errors"] == [f"Pending: {name} in_progress"]
    for words in (f"{PILOT} of {N} rows", name, "run the same line", "pandas_llm.cancel('r_1')"):
        assert words in said["line"], said["line"]
    assert said["status"] == "submitted"
    assert server.batches[0].status == "in_progress", "the batch goes on"
    assert_the_same_line_ends_it(server, said["cost"])


@pytest.mark.parametrize(
    ("operation", "done"),
    [
        ("upload", False),
        ("upload", True),
        ("create", False),
        ("create", True),
        ("retrieve", False),
        ("content", False),
    ],
)
def test_ctrl_c_while_a_request_is_on_its_way(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, operation: str, done: bool
) -> None:
    server.batch_fault(OnRequest(operation=operation, fault=faults.hang(), done=done))  # type: ignore[arg-type]
    child = start(tmp_path)
    path = {"upload": "/v1/files", "create": "/v1/batches", "retrieve": "/batch_", "content": "/content"}
    until(lambda: server.in_flight and path[operation] in server.requests[-1].path, why=lambda: child.stderr)
    time.sleep(0.1)
    child.send(signal.SIGINT)
    time.sleep(0.2)
    assert "at" not in child.said, "what is on its way gets its time"
    struck = time.monotonic()
    child.send(signal.SIGINT)
    said = assert_interrupted(child)
    within(said["at"] - struck, 1)
    assert said["labelled"] == PILOT
    until(lambda: not server.in_flight)
    assert_the_same_line_ends_it(server, said["cost"])


def test_ctrl_c_during_an_upload_creates_no_batch(server: FakeOpenAI, tmp_path: Path) -> None:
    delay(server, "upload", 1.0)
    child = start(tmp_path)
    until(lambda: server.requests and server.requests[-1].path == "/v1/files", why=lambda: child.stderr)
    time.sleep(0.1)
    child.send(signal.SIGINT)
    said = assert_interrupted(child)
    assert server.batches == [], "nothing is bought after Stop"
    assert_the_same_line_ends_it(server, said["cost"])
    assert sum(request.path == "/v1/files" for request in server.requests) == 1, "the file is there"


def test_ctrl_c_while_harvesting_reads_the_file_to_its_end(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.batch_fault(OnRequest(operation="content", fault=faults.slow_body(1), done=True))
    child = start(tmp_path)
    until(lambda: states(own_settings) == ["ended"] and server.in_flight, why=lambda: child.stderr)
    child.send(signal.SIGINT)
    assert child.wait() == 0, child.stderr
    said = child.said
    assert said["kind"] in ("Interrupted", "done")
    assert states(own_settings) == ["harvested"]
    assert sources(labelled(tickets())) == {"cache": N}
    assert set(server.bill.texts.values()) == {1}


def test_ctrl_c_while_replies_are_repaired_leaves_them_for_the_same_line(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.fault("ticket 7", faults.OUTSIDE_LABEL, times=1)
    server.fault("ticket 7", faults.hang(), times=1)
    child = start(tmp_path)
    until(lambda: states(own_settings) == ["ended"] and server.in_flight, why=lambda: child.stderr)
    time.sleep(0.1)
    for _ in range(2):
        child.send(signal.SIGINT)
        time.sleep(0.1)
    said = assert_interrupted(child)
    server.clear_faults()
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert server.bill.batches == 1
    assert said["cost"] + out["body_label_cost"].sum() == pytest.approx(server.bill.cost)


# cancel --------------------------------------------------------------------------------------------------


def test_cancel_in_the_same_process_returns_the_partial_frame(server: FakeOpenAI) -> None:
    server.batch_seconds = 60
    frames: list[pd.DataFrame] = []
    caught: list[Warning] = []

    def call() -> None:
        try:
            frames.append(labelled(tickets()))
        except IncompleteWarning as warning:  # warnings are errors here
            caught.append(warning)
            frames.append(warning.frame)  # type: ignore[attr-defined]

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: server.batches and server.batches[0].status == "in_progress")
    server.clock.advance(30)
    until(lambda: server.batches[0].answered)
    pandas_llm.cancel("r_1")
    thread.join(10)
    assert server.batches[0].status == "cancelled"
    [out] = frames
    assert "batch" in sources(out), "what was answered is kept"
    assert sources(out)["pending"] == N - PILOT - server.bill.batch_completions > 0
    assert len(caught) == 1
    server.batch_seconds = 0
    assert_the_same_line_ends_it(server, out["body_label_cost"].sum(), batches=2)


def test_cancel_where_nobody_watches_waits_and_collects(server: FakeOpenAI, own_settings: Path) -> None:
    server.batch_seconds = 60
    first = labelled(tickets(), wait=False)
    until(lambda: labelled(tickets(), wait=False) is not None and server.batches[0].status == "in_progress")
    server.clock.advance(30)
    pandas_llm.cancel("r_1")
    assert server.batches[0].status == "cancelled"
    answered = server.bill.batch_completions
    assert 0 < answered < IN_BATCH
    assert states(own_settings) == ["harvested"]
    server.batch_seconds = 0
    out = assert_the_same_line_ends_it(server, first["body_label_cost"].sum(), batches=2)
    assert out["body_label_cost"].sum() > 0
    with pytest.raises(OptionsError, match="r_1"):
        pandas_llm.cancel("r_1")


WATCH = """
import warnings
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = tickets({n}).llm.classify(
        "body", LABELS, mode="batch", batches=pandas_llm.Batches(poll=(0.01, 0.05)), progress=False
    )
sources = out["body_label_source"].value_counts()
say(sources={{source: int(rows) for source, rows in sources.items() if rows}},
    errors=sorted(out["body_label_error"].dropna().unique()),
    cost=float(out["body_label_cost"].sum()),
    warned=[type(each.message).__name__ for each in caught], status=pandas_llm.last_run().status)
"""


@pytest.mark.parametrize("watchers", [1, 2])
def test_cancel_from_another_process_ends_the_watching(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path, watchers: int
) -> None:
    server.hold_batches = True
    kernels = []
    for i in range(watchers):
        kernels.append(start(tmp_path / str(i), WATCH))
        until(lambda: states(own_settings) == ["created"], why=lambda: kernels[0].stderr)
    until(lambda: server.batches[0].status == "in_progress")
    time.sleep(0.5)
    pandas_llm.cancel("r_1")
    assert server.batches[0].status == "cancelled"
    for child in kernels:
        assert child.wait() == 0, child.stderr
        pilot = {"api": PILOT} if child is kernels[0] else {"cache": PILOT}
        assert child.said["sources"] == pilot | {"pending": IN_BATCH}
        assert child.said["errors"] == [f"Pending: {server.batches[0].id} cancelled"]
        assert child.said["warned"] == ["IncompleteWarning"]
        assert child.said["status"] == "stopped"
    assert server.bill.batches == 1, "nobody asks again what was just cancelled"
    assert states(own_settings) == ["harvested"]
    assert_the_same_line_ends_it(server, sum(child.said["cost"] for child in kernels), batches=2)


def test_cancel_of_a_call_that_watches_anothers_batch(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.hold_batches = True
    one = start(tmp_path, WATCH)
    until(lambda: states(own_settings) == ["created"], why=lambda: one.stderr)
    frames: list[Any] = []

    def call() -> None:
        try:
            frames.append(labelled(tickets()))
        except IncompleteWarning as warning:
            frames.append(warning.frame)  # type: ignore[attr-defined]

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: len(pandas_llm.runs()) == 2)
    time.sleep(0.3)
    pandas_llm.cancel("r_2")
    thread.join(10)
    assert not thread.is_alive()
    assert one.wait() == 0, one.stderr
    assert sources(frames[0]) == {"cache": PILOT, "pending": IN_BATCH}
    assert one.said["sources"] == {"api": PILOT, "pending": IN_BATCH}
    assert server.bill.batches == 1
    assert states(own_settings) == ["harvested"]


@pytest.mark.parametrize("race", ["cancel_race", "expired_half"])
def test_a_cancel_that_comes_too_late_collects_what_the_batch_answered(server: FakeOpenAI, race: str) -> None:
    server.hold_batches = "validating"
    server.batch_fault(race)
    server.batch_fault("missing", times=5)
    frames: list[Any] = []

    def call() -> None:
        try:
            frames.append(labelled(tickets()))
        except IncompleteWarning as warning:
            frames.append(warning.frame)  # type: ignore[attr-defined]

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: server.batches)
    server.release_batches()
    pandas_llm.cancel("r_1")
    thread.join(10)
    assert not thread.is_alive(), "it goes on for ever"
    server.clear_faults()
    assert set(sources(frames[0])) <= {"api", "batch", "pending"}
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert set(server.bill.texts.values()) == {1}


@pytest.mark.parametrize("operation", ["upload", "create"])
def test_cancel_before_there_is_a_batch(server: FakeOpenAI, own_settings: Path, operation: str) -> None:
    delay(server, operation, 1.0)
    frames: list[Any] = []

    def call() -> None:
        try:
            frames.append(labelled(tickets()))
        except IncompleteWarning as warning:
            frames.append(warning.frame)  # type: ignore[attr-defined]

    thread = threading.Thread(target=call)
    thread.start()
    path = "/v1/files" if operation == "upload" else "/v1/batches"
    server.hold_batches = True
    until(lambda: server.requests and server.requests[-1].path == path)
    time.sleep(0.1)
    pandas_llm.cancel("r_1")
    thread.join(10)
    assert not thread.is_alive()
    assert sources(frames[0]) == {"api": PILOT, "pending": IN_BATCH}
    assert server.bill.batch_completions == 0
    assert len(server.batches) == (operation == "create")
    assert all(batch.status == "cancelled" for batch in server.batches)
    assert "harvested" in states(own_settings) or states(own_settings) == []
    assert_the_same_line_ends_it(
        server, frames[0]["body_label_cost"].sum(), batches=1 + (operation == "create")
    )


def test_cancel_of_a_run_with_several_batches_stops_them_together(
    server: FakeOpenAI, own_settings: Path
) -> None:
    server.hold_batches = True
    first = labelled(tickets(), wait=False, batches=Batches(poll=POLL, max_requests=20))
    assert len(server.batches) == 3
    server.cancelling_seconds = 0.5
    began = time.monotonic()
    with pandas_llm.option_context(batches=Batches(poll=POLL)):
        pandas_llm.cancel("r_1")
    within(time.monotonic() - began, 1.4, "each waited for the one before")
    assert [batch.status for batch in server.batches] == ["cancelled"] * 3
    assert states(own_settings) == ["harvested"] * 3
    assert_the_same_line_ends_it(server, first["body_label_cost"].sum(), batches=4)


@pytest.mark.parametrize("run_id", ["r_1", "r_99", "41", "nonsense", ""])
def test_cancel_of_a_run_that_is_over_or_unknown_is_refused(server: FakeOpenAI, run_id: str) -> None:
    labelled(tickets(5), mode="concurrent")
    with pytest.raises(OptionsError, match="open batch"):
        pandas_llm.cancel(run_id)


def test_a_key_without_the_right_to_a_batch_says_how_to_give_it_up(server: FakeOpenAI) -> None:
    submitted(server)
    server.clear()
    with pytest.raises(pandas_llm.errors.BatchError, match=r"clear_cache\(run='r_1'\)"):
        labelled(tickets())
    assert pandas_llm.clear_cache(run="r_1") >= 0
    server.release_batches()
    assert labelled(tickets())["body_label"].notna().all()


# clear_cache, another question ---------------------------------------------------------------------------


def test_clearing_a_run_frees_the_rows_of_its_open_batch(server: FakeOpenAI, own_settings: Path) -> None:
    submitted(server)
    pandas_llm.clear_cache(run="r_1")
    assert states(own_settings) == []
    server.release_batches()
    out = labelled(tickets(), mode="concurrent")
    assert sources(out) == {"api": N}
    assert server.bill.batches == 1


def test_who_watches_a_batch_that_is_cleared_is_told(server: FakeOpenAI, tmp_path: Path) -> None:
    server.hold_batches = True
    errors: list[Any] = []

    def call() -> None:
        try:
            labelled(tickets())
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: server.batches and server.batches[0].status == "in_progress")
    time.sleep(0.1)
    pandas_llm.clear_cache(run="r_1")
    server.release_batches()
    thread.join(10)
    assert "Run the line again" in str(errors[0])
    assert len(errors[0].frame) == N
    assert labelled(tickets())["body_label"].notna().all()


def test_clearing_all_spares_an_open_batch(server: FakeOpenAI) -> None:
    submitted(server)
    pandas_llm.clear_cache()
    server.release_batches()
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert sources(out)["batch"] == IN_BATCH
    assert set(server.bill.batch_rows.values()) == {1}


def test_another_question_beside_an_open_batch_is_refused(server: FakeOpenAI) -> None:
    name = submitted(server)
    seen = len(server.requests)
    with pytest.raises(OptionsError, match=name) as refused:
        labelled(tickets(), instructions="Be strict.")
    assert 'pandas_llm.cancel("r_1")' in str(refused.value)
    assert "Batches(force=True)" in str(refused.value)
    assert len(server.requests) == seen
    # Other rows, and another output, are another matter.
    assert sources(labelled(tickets(first=N), instructions="Be strict.", wait=False))["pending"]
    assert tickets().llm.classify(
        "body", LABELS, output="strict", instructions="Be strict.", mode="batch", wait=False, progress=False
    )["strict_source"].eq("pending").any()  # fmt: skip


def test_force_pays_for_another_question_beside_an_open_batch(server: FakeOpenAI) -> None:
    submitted(server)
    forced = Batches(poll=POLL, force=True)
    labelled(tickets(), instructions="Be strict.", batches=forced, wait=False)
    server.release_batches()
    assert labelled(tickets(), instructions="Be strict.")["body_label"].notna().all()
    assert labelled(tickets())["body_label"].notna().all()
    assert server.bill.batches == 2
    assert set(server.bill.texts.values()) == {2}


def test_after_a_cancel_another_question_may_be_asked(server: FakeOpenAI) -> None:
    submitted(server)
    pandas_llm.cancel("r_1")
    server.release_batches()
    assert labelled(tickets(), instructions="Be strict.")["body_label"].notna().all()


# asyncio -------------------------------------------------------------------------------------------------


def test_a_cancelled_task_leaves_the_batch_to_the_same_line(server: FakeOpenAI) -> None:
    server.hold_batches = True

    async def main() -> Any:
        task = asyncio.ensure_future(
            tickets().llm.aio.classify(
                "body", LABELS, mode="batch", batches=Batches(poll=POLL), progress=False
            )
        )
        while not (server.batches and server.batches[0].status == "in_progress"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        within(time.monotonic() - began, 1)
        return cancelled.value

    asyncio.run(main())
    paid = pandas_llm.last_run().cost
    assert_the_same_line_ends_it(server, paid)


def test_a_task_that_is_dropped_while_it_takes_a_batch_gives_it_back(
    server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pandas_llm.io.shards import Shards

    submitted(server)
    take, taking = Shards.take, threading.Event()

    def slowly(*given: Any, **options: Any) -> Any:
        taking.set()
        time.sleep(0.5)  # the file is somebody's just then
        return take(*given, **options)

    async def main() -> None:
        task = asyncio.ensure_future(
            tickets().llm.aio.classify(
                "body", LABELS, mode="batch", batches=Batches(poll=POLL), progress=False
            )
        )
        await asyncio.to_thread(taking.wait)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.1)
        with pytest.raises(asyncio.CancelledError):
            await task

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "take", slowly)
        asyncio.run(main())
    server.release_batches()
    frames: list[pd.DataFrame] = []
    thread = threading.Thread(target=lambda: frames.append(labelled(tickets())), daemon=True)
    thread.start()
    thread.join(10)
    assert frames, "this process waits for itself"
    assert frames[0]["body_label"].notna().all()


def test_tasks_of_one_loop_share_a_batch(server: FakeOpenAI) -> None:
    server.batch_seconds = 0.3

    async def main() -> list[pd.DataFrame]:
        calls = (
            tickets().llm.aio.classify(
                "body", LABELS, mode="batch", batches=Batches(poll=POLL), progress=False
            )
            for _ in range(3)
        )
        return await asyncio.gather(*calls)

    frames = asyncio.run(main())
    assert [int(out["body_label"].notna().sum()) for out in frames] == [N] * 3
    assert sum(out["body_label_cost"].sum() for out in frames) == pytest.approx(server.bill.cost)
    assert set(server.bill.texts.values()) == {1}
    assert server.bill.batches == 1


# The file ------------------------------------------------------------------------------------------------


def reopened() -> None:
    """Close the store, as the end of a process does."""
    from pandas_llm.io import store

    for each in store._stores.values():
        each.close()


def test_a_damaged_store_keeps_its_open_batch(server: FakeOpenAI, own_settings: Path) -> None:
    submitted(server)
    reopened()
    with contextlib.closing(sqlite3.connect(own_settings)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'requests'"
        [root] = connection.execute(query).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with own_settings.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)
    server.release_batches()
    with pytest.raises(LLMWarning, match="was damaged"):
        labelled(tickets())
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert server.bill.batches == 1, "the batch was carried over"
    assert set(server.bill.batch_rows.values()) == {1}


def test_a_store_that_is_removed_while_a_batch_is_open_asks_anew(
    server: FakeOpenAI, own_settings: Path
) -> None:
    """The file is the record: without it nobody knows of the batch, which is billed all the same."""
    submitted(server)
    reopened()
    for path in own_settings.parent.glob(own_settings.name + "*"):
        path.unlink()
    server.release_batches()
    out = labelled(tickets())
    assert out["body_label"].notna().all()
    assert server.bill.batches == 2
