"""Stop, Ctrl-C, SIGTERM, cancelled tasks: nothing is sent after, and nothing that came back is lost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children, faults
from fakes.children import Child, until
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm.errors import AuthError, IncompleteWarning, OptionsError

LABELS = ["bug", "question", "praise"]
N = 120
SLICE = 0.25  # seconds within which a signal must have worked, on a busy machine
FLOOD = (
    "Task was destroyed",
    "Event loop is closed",
    "never retrieved",
    "never awaited",
    "Exception ignored",
    "Exception in thread",
    "ResourceWarning",
    "Fatal Python error",
)


def tickets(n: int = N, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})


def labelled(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, progress=False, **options)


def assert_calm(child: Child, tracebacks: int = 0) -> None:
    stderr = child.stderr
    assert not [line for line in FLOOD if line in stderr], stderr
    assert stderr.count("Traceback") == tracebacks, stderr


def assert_the_rest_is_all_that_is_paid(server: FakeOpenAI, n: int = N, twice: int = 0) -> None:
    server.clear_faults()
    server.latency = 0.0
    until(lambda: not server.in_flight)
    before = server.bill.completions
    out = labelled(tickets(n))
    assert out["body_label"].notna().all()
    assert server.bill.completions <= n + twice, f"{before} were paid for before"


# Ctrl-C --------------------------------------------------------------------------------------------------

STOPPED = """
say(ready=True)
try:
    out = tickets({n}).llm.classify("body", LABELS, max_concurrency=8)
    say(kind="done", labelled=int(out["body_label"].notna().sum()))
except KeyboardInterrupt as error:
    say(at=time.monotonic(), kind=type(error).__name__, line=str(error))
    frame = getattr(error, "frame", None)
    if frame is not None:
        sources = frame["body_label_source"].value_counts()
        say(rows=len(frame), labelled=int(frame["body_label"].notna().sum()), pending=int(sources["pending"]))
        say(status=pandas_llm.last_run().status, runs=list(pandas_llm.runs()["status"]))
    say(threads=sorted(thread.name for thread in threading.enumerate()))
    time.sleep(0.1)  # what is sent now would be seen
"""


def assert_stopped_well(server: FakeOpenAI, child: Child, struck: float) -> None:
    assert child.wait() == 0, child.stderr
    assert_calm(child)
    said = child.said
    assert said["kind"] == "Interrupted", said
    assert "\n" not in said["line"]
    assert f"{said['labelled']} of {N} rows" in said["line"]
    assert said["rows"] == N
    assert said["labelled"] + said["pending"] == N
    assert said["status"] == "stopped"
    assert said["runs"] == ["stopped"]
    within(server.requests[-1].at - struck, SLICE, "a request left after Ctrl-C")
    assert [name for name in said["threads"] if "journal" in name] == []


MOMENTS: dict[str, Callable[[FakeOpenAI], object]] = {
    "before the first reply": lambda server: server.in_flight,
    "at the first reply": lambda server: server.bill.completions >= 1,
    "in the middle": lambda server: server.bill.completions >= 50,
    "at the end": lambda server: server.bill.completions >= N - 4,
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_ctrl_c_keeps_what_came_back_and_sends_nothing_more(
    server: FakeOpenAI, tmp_path: Path, moment: Callable[[FakeOpenAI], object]
) -> None:
    server.latency = 0.08
    child = children.start(STOPPED.format(n=N), tmp_path)
    until(lambda: moment(server), why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert_stopped_well(server, child, struck)
    assert child.said["labelled"] == server.bill.completions, "what was in flight came back and was kept"
    assert_the_rest_is_all_that_is_paid(server)


@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_at_any_moment_loses_nothing(server: FakeOpenAI, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    server.latency = 0.02
    # What strikes the end of the interpreter is its own business.
    script = STOPPED.format(n=N) + "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    child = children.start(script, tmp_path)
    until(lambda: child.said.get("ready"), why=lambda: child.stderr)
    time.sleep(dice.random() * 0.6)
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        child.send(signal.SIGINT)
    code, said = child.wait(), child.said
    if code != 0:
        assert said["kind"] == "done", "it struck between the call and the end"
        return
    assert_calm(child)
    if said["kind"] == "KeyboardInterrupt":
        assert server.requests == [], "it struck before the first request"
    else:
        assert said["labelled"] == server.bill.completions
    assert_the_rest_is_all_that_is_paid(server)


def test_ctrl_c_ends_a_wait_for_a_rate_limit_at_once(server: FakeOpenAI, tmp_path: Path) -> None:
    server.fault(lambda n, text: n >= 20, faults.rate_limited("60"))
    child = children.start(STOPPED.format(n=N), tmp_path)
    until(lambda: server.seen_429, why=lambda: child.stderr)
    time.sleep(0.2)
    sent, struck = len(server.requests), time.monotonic()
    child.send(signal.SIGINT)
    assert_stopped_well(server, child, struck)
    within(child.said["at"] - struck, 1)
    assert len(server.requests) == sent
    assert child.said["labelled"] == server.bill.completions == 20
    assert_the_rest_is_all_that_is_paid(server)


def test_a_second_ctrl_c_drops_what_is_in_flight(server: FakeOpenAI, tmp_path: Path) -> None:
    server.fault(lambda n, text: n >= 20, faults.hang())
    child = children.start(STOPPED.format(n=N), tmp_path)
    until(lambda: server.in_flight == 8 and server.bill.completions == 20, why=lambda: child.stderr)
    child.send(signal.SIGINT)
    time.sleep(0.3)
    assert "at" not in child.said, "what is in flight gets its time"
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert_stopped_well(server, child, struck)
    within(child.said["at"] - struck, 1)
    assert child.said["labelled"] == server.bill.completions
    assert_the_rest_is_all_that_is_paid(server)


def test_ctrl_c_waits_for_a_store_that_somebody_holds(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.fault(lambda n, text: n >= 40, faults.hang())
    server.latency = 0.02
    child = children.start(STOPPED.format(n=N), tmp_path)
    until(lambda: server.bill.completions >= 20, why=lambda: child.stderr)
    with contextlib.closing(sqlite3.connect(own_settings, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(0.2)
        for _ in range(2):
            child.send(signal.SIGINT)
            time.sleep(0.2)
        assert "at" not in child.said, "what came back is being saved"
        other.execute("ROLLBACK")
    assert child.wait() == 0, child.stderr
    assert_calm(child)
    assert child.said["labelled"] == server.bill.completions
    assert_the_rest_is_all_that_is_paid(server)


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02])
def test_many_ctrl_c_still_leave_the_frame(server: FakeOpenAI, tmp_path: Path, pause: float) -> None:
    server.latency = 0.05
    # What strikes the script itself is its own business.
    script = STOPPED.replace("as error:", "as error:\n    signal.signal(signal.SIGINT, signal.SIG_IGN)", 1)
    child = children.start(script.format(n=N), tmp_path)
    until(lambda: server.bill.completions >= 30, why=lambda: child.stderr)
    struck = time.monotonic()
    for _ in range(4):
        child.send(signal.SIGINT)
        time.sleep(pause)
    assert_stopped_well(server, child, struck)
    # What was dropped may be billed: at most what was in flight.
    assert_the_rest_is_all_that_is_paid(server, twice=8)


def test_a_script_that_does_not_catch_it_dies_with_one_line_at_the_end(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    server.latency = 0.05
    child = children.start('tickets(120).llm.classify("body", LABELS, max_concurrency=8)', tmp_path)
    until(lambda: server.bill.completions >= 20, why=lambda: child.stderr)
    child.send(signal.SIGINT)
    assert child.wait() not in (0, -signal.SIGKILL)
    assert_calm(child, tracebacks=1)
    last = child.stderr.splitlines()[-1]
    assert last.startswith("pandas_llm.core.errors.Interrupted: ")
    assert f"{server.bill.completions} of {N} rows" in last
    assert_the_rest_is_all_that_is_paid(server)


def test_what_is_in_flight_has_five_seconds(server: FakeOpenAI, tmp_path: Path) -> None:
    server.fault(lambda n, text: n >= 8, faults.hang())
    child = children.start(STOPPED.format(n=20), tmp_path)
    until(lambda: server.in_flight == 8 and server.bill.completions == 8, why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert child.wait() == 0, child.stderr
    assert child.said["at"] - struck > 4.5
    within(child.said["at"] - struck, 6.5)
    assert child.said["labelled"] == 8


# Other ends ----------------------------------------------------------------------------------------------


def test_sigterm_loses_what_was_in_flight_and_an_eighth(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.03
    child = children.start(STOPPED.format(n=N), tmp_path)
    until(lambda: server.bill.completions >= 50, why=lambda: child.stderr)
    child.send(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    assert_the_rest_is_all_that_is_paid(server, twice=8 + 1)


HANDLED = """
def end(*_):
    raise {raised}
signal.signal(signal.{signal}, end)
try:
    tickets(120).llm.classify("body", LABELS, max_concurrency=8)
except BaseException as error:
    say(kind=type(error).__name__, labelled=int(error.frame["body_label"].notna().sum()))
    say(status=pandas_llm.last_run().status)
    raise
"""


@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [
        (signal.SIGTERM, "SystemExit(3)", 3),
        (signal.SIGALRM, 'TimeoutError("too long")', 1),
        (signal.SIGINT, 'KeyboardInterrupt("my own")', -signal.SIGINT),
    ],
    ids=["SystemExit", "TimeoutError", "KeyboardInterrupt"],
)
def test_what_a_handler_of_the_scripts_own_raises_stops_the_run_first(
    server: FakeOpenAI, tmp_path: Path, number: signal.Signals, raised: str, code: int
) -> None:
    server.latency = 0.05
    child = children.start(HANDLED.format(raised=raised, signal=number.name), tmp_path)
    until(lambda: server.bill.completions >= 20, why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(number)
    assert child.wait() == code, child.stderr
    assert_calm(child, tracebacks=0 if code == 3 else 1)
    within(server.requests[-1].at - struck, SLICE)
    assert child.said["labelled"] == server.bill.completions
    assert child.said["status"] == "stopped"
    assert_the_rest_is_all_that_is_paid(server)


THREAD = """
def work():
    out = tickets(120).llm.classify("body", LABELS, max_concurrency=8)
    say(labelled=int(out["body_label"].notna().sum()))
threading.Thread(target=work, daemon={daemon}).start()
while pandas_llm.runs().empty or not sys.stdin:
    time.sleep(0.01)
time.sleep(0.4)
"""


def test_the_interpreter_can_end_while_a_daemon_thread_labels(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.08
    child = children.start(THREAD.format(daemon=True), tmp_path)
    assert child.wait() == 0, child.stderr
    assert_calm(child)
    assert child.said == {}
    assert 0 < server.bill.completions < N
    assert_the_rest_is_all_that_is_paid(server, twice=8 + 1)


def test_the_interpreter_waits_for_a_thread_that_labels(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.08
    child = children.start(THREAD.format(daemon=False), tmp_path)
    assert child.wait() == 0, child.stderr
    assert_calm(child)
    assert child.said == {"labelled": N}
    assert server.bill.completions == N


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("the terminal is gone")


def test_a_screen_that_fails_costs_nothing(server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", _Broken())
    out = tickets(20).llm.classify("body", LABELS)
    assert out["body_label"].notna().all()
    assert server.bill.completions == 20


class _Uncopied(pd.DataFrame):
    def copy(self, deep: bool = True) -> Any:
        raise MemoryError


def test_a_frame_that_can_not_be_built_ends_the_run_all_the_same(server: FakeOpenAI) -> None:
    with pytest.raises(MemoryError):
        labelled(_Uncopied(tickets(5)))
    assert list(pandas_llm.runs()["status"]) == ["failed"]
    assert_the_rest_is_all_that_is_paid(server, n=5)


def test_an_error_that_stops_the_run_is_the_last_run_too(server: FakeOpenAI) -> None:
    server.fault(lambda n, text: n >= 6, faults.UNAUTHORIZED)
    with pytest.raises(AuthError) as caught:
        labelled(tickets(30), max_concurrency=2)
    last = pandas_llm.last_run()
    assert last.status == "failed"
    assert last.frame is caught.value.frame
    assert last.sources == {"api": 6, "pending": 24}
    assert list(pandas_llm.runs()["status"]) == ["failed"]
    assert_the_rest_is_all_that_is_paid(server, n=30)


# Cancel --------------------------------------------------------------------------------------------------


def test_cancel_returns_the_frame_with_what_is_there(server: FakeOpenAI) -> None:
    server.latency = 0.03

    def cancel() -> None:
        until(lambda: server.bill.completions >= 30)
        pandas_llm.cancel(pandas_llm.runs()["id"][0])

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.warns(IncompleteWarning, match=f"of {N} rows are pending") as warned:
        out = labelled(tickets(), max_concurrency=8)
    thread.join()
    assert Path(warned[0].filename) == Path(__file__)
    sources = out["body_label_source"].value_counts()
    assert sources["api"] == server.bill.completions
    assert sources["pending"] == N - sources["api"] > 0
    assert set(out["body_label_error"].dropna()) == {"Pending: interrupted"}
    assert pandas_llm.last_run().status == "stopped"
    assert_the_rest_is_all_that_is_paid(server)
    with pytest.raises(OptionsError, match="r_1"):
        pandas_llm.cancel("r_1")


def test_cancel_returns_the_frame_of_a_coroutine_too(server: FakeOpenAI) -> None:
    server.latency = 0.03

    async def main() -> pd.DataFrame:
        work = asyncio.create_task(tickets().llm.aio.classify("body", LABELS, max_concurrency=8))
        await asyncio.to_thread(until, lambda: server.bill.completions >= 30)
        pandas_llm.cancel(pandas_llm.runs()["id"][0])
        return await work

    with pytest.warns(IncompleteWarning):
        out = asyncio.run(main())
    assert out["body_label"].notna().sum() == server.bill.completions < N


# Coroutines ----------------------------------------------------------------------------------------------


def test_a_cancelled_coroutine_keeps_what_is_in_flight(server: FakeOpenAI) -> None:
    server.latency = 0.1

    async def main() -> tuple[Any, float]:
        work = asyncio.create_task(tickets().llm.aio.classify("body", LABELS, max_concurrency=8))
        await asyncio.to_thread(until, lambda: server.bill.completions >= 30)
        at = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(0.15)
        return caught.value, at

    error, at = asyncio.run(main())
    within(server.requests[-1].at - at, SLICE / 2)
    assert error.frame["body_label"].notna().sum() == server.bill.completions
    assert pandas_llm.last_run().status == "stopped"
    assert_the_rest_is_all_that_is_paid(server)


def test_a_coroutine_cancelled_twice_drops_what_is_in_flight(server: FakeOpenAI) -> None:
    server.fault(lambda n, text: n >= 20, faults.hang())

    async def main() -> float:
        work = asyncio.create_task(tickets().llm.aio.classify("body", LABELS, max_concurrency=8))
        await asyncio.to_thread(until, lambda: (server.in_flight, server.bill.completions) == (8, 20))
        work.cancel()
        await asyncio.sleep(0.2)
        assert not work.done()
        work.cancel()
        started = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return time.monotonic() - started

    within(asyncio.run(main()), 1)
    assert pandas_llm.last_run().frame["body_label"].notna().sum() == 20
    assert_the_rest_is_all_that_is_paid(server)


def test_a_coroutine_that_takes_too_long_times_out_and_goes_on_later(server: FakeOpenAI) -> None:
    server.latency = 0.05

    async def main() -> None:
        call = tickets().llm.aio.classify("body", LABELS, max_concurrency=4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.4)

    asyncio.run(main())
    assert 0 < server.bill.completions < N
    assert_the_rest_is_all_that_is_paid(server)


def test_coroutines_run_in_one_loop_after_another(server: FakeOpenAI) -> None:
    async def two() -> list[pd.DataFrame]:
        calls = (tickets(20, first).llm.aio.classify("body", LABELS) for first in (0, 20))
        return await asyncio.gather(*calls)

    for _ in range(2):
        assert sum(out["body_label"].notna().sum() for out in asyncio.run(two())) == 40
    assert asyncio.run(tickets(50).llm.aio.classify("body", LABELS))["body_label"].notna().all()
    assert server.bill.completions == 50


def test_one_of_two_coroutines_that_is_cancelled_leaves_its_rows_to_the_other(server: FakeOpenAI) -> None:
    server.latency = 0.05

    async def main() -> pd.DataFrame:
        one, two = (
            asyncio.create_task(tickets().llm.aio.classify("body", LABELS, max_concurrency=4))
            for _ in range(2)
        )
        await asyncio.to_thread(until, lambda: server.bill.completions >= 20)
        one.cancel()
        return await two

    assert asyncio.run(main())["body_label"].notna().all()
    assert server.bill.completions == N


CLOSED = """
def interrupted():
    loop = asyncio.new_event_loop()
    task = loop.create_task(tickets(120).llm.aio.classify("body", LABELS, max_concurrency=8))
    loop.call_later(0.4, loop.stop)
    loop.run_forever()
    loop.close()
    return task
task = interrupted()
out = tickets(120).llm.classify("body", LABELS)
say(labelled=int(out["body_label"].notna().sum()))
os._exit(0)  # asyncio complains of the task at length, and is right
"""


def test_a_loop_closed_under_a_run_leaves_its_rows_to_the_next(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.05
    child = children.start(CLOSED, tmp_path)
    assert child.wait() == 0, child.stderr
    assert child.said == {"labelled": N}
    assert server.bill.completions <= N + 8


ASYNC_MAIN = """
async def main():
    return await tickets(120).llm.aio.classify("body", LABELS, max_concurrency=8)
asyncio.run(main())
"""
ASYNC_BLOCKING = ASYNC_MAIN.replace("await tickets", "tickets").replace(".aio", "")


@pytest.mark.parametrize("script", [ASYNC_MAIN, ASYNC_BLOCKING], ids=["awaited", "blocking"])
def test_ctrl_c_under_asyncio_run(server: FakeOpenAI, tmp_path: Path, script: str) -> None:
    server.latency = 0.05
    child = children.start(script, tmp_path)
    until(lambda: server.bill.completions >= 20, why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert child.wait() in (1, -signal.SIGINT), child.stderr
    assert not [line for line in FLOOD if line in child.stderr], child.stderr
    assert "Interrupt" in child.stderr.splitlines()[-1]
    within(server.requests[-1].at - struck, SLICE)
    assert_the_rest_is_all_that_is_paid(server)


# Loops of others -----------------------------------------------------------------------------------------


def test_a_blocking_call_works_where_a_loop_runs(server: FakeOpenAI) -> None:
    async def main() -> pd.DataFrame:
        return labelled(tickets(20))

    assert asyncio.run(main())["body_label"].notna().all()


NOTEBOOK = """
import httpx2, openai
async def main():
    client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(), max_retries=0)
    await client.models.list()  # binds its connections to this loop
    say(ready=True)
    try:
        out = tickets(120).llm.classify("body", LABELS, client=client, loop="notebook", max_concurrency=8)
        say(kind="done", labelled=int(out["body_label"].notna().sum()))
    except KeyboardInterrupt as error:
        say(at=time.monotonic(), kind=type(error).__name__, line=str(error), rows=len(error.frame))
        sources = error.frame["body_label_source"].value_counts()
        say(labelled=int(sources["api"]), pending=int(sources["pending"]))
        say(status=pandas_llm.last_run().status, runs=list(pandas_llm.runs()["status"]), threads=[])
        await asyncio.sleep(0.2)
    await client.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    say(others=len(others))
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


def test_a_client_bound_to_the_notebooks_loop_works_there(server: FakeOpenAI, tmp_path: Path) -> None:
    child = children.start(NOTEBOOK, tmp_path)
    assert child.wait() == 0, child.stderr
    assert_calm(child)
    assert child.said == {"ready": True, "kind": "done", "labelled": N, "others": 0}
    assert server.bill.completions == N


def test_ctrl_c_in_the_notebooks_loop(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.08
    child = children.start(NOTEBOOK, tmp_path)
    until(lambda: server.bill.completions >= 30, why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert_stopped_well(server, child, struck)
    assert child.said["labelled"] == server.bill.completions
    assert child.said["others"] == 0
    assert_the_rest_is_all_that_is_paid(server)


NO_LOOP = STOPPED.replace("max_concurrency=8", 'max_concurrency=8, loop="notebook"')


def test_ctrl_c_with_the_notebooks_loop_where_there_is_none(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.08
    child = children.start(NO_LOOP.format(n=N), tmp_path)
    until(lambda: server.bill.completions >= 30, why=lambda: child.stderr)
    struck = time.monotonic()
    child.send(signal.SIGINT)
    assert_stopped_well(server, child, struck)
    assert child.said["labelled"] == server.bill.completions


NESTED = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import {module} as nest
tickets(10).llm.classify("body", LABELS)  # the library's own loop is there before
nest.apply()
async def main():
    blocking = tickets(20).llm.classify("body", LABELS)
    awaited = await tickets(30).llm.aio.classify("body", LABELS)
    inner = asyncio.run(tickets(40).llm.aio.classify("body", LABELS))
    notebook = tickets(50).llm.classify("body", LABELS, loop="notebook")
    say(labelled=[int(out["body_label"].notna().sum()) for out in (blocking, awaited, inner, notebook)])
asyncio.run(main())
"""


@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_it_works_after_somebody_nested_the_loops(server: FakeOpenAI, tmp_path: Path, module: str) -> None:
    pytest.importorskip(module)
    child = children.start(NESTED.format(module=module), tmp_path)
    assert child.wait() == 0, child.stderr
    assert child.said == {"labelled": [20, 30, 40, 50]}
    assert server.bill.completions == 50


ON_314 = """
tickets(10).llm.classify("body", LABELS)  # all that is imported when needed is here
sys.modules["nest_asyncio2"] = None
sys.version_info = (3, 14, 0, "final", 0)
async def main():
    try:
        tickets(20).llm.classify("body", LABELS, loop="notebook")
    except pandas_llm.errors.OptionsError as error:
        say(said=str(error), rows=len(error.frame))
asyncio.run(main())
"""


def test_nest_asyncio_1_6_is_refused_where_it_breaks_the_loop(server: FakeOpenAI, tmp_path: Path) -> None:
    child = children.start(ON_314, tmp_path)
    assert child.wait() == 0, child.stderr
    assert "needs nest-asyncio2 (pip install nest-asyncio2): nest-asyncio 1.6.0 breaks" in child.said["said"]
    assert child.said["rows"] == 20
    assert server.bill.completions == 10


SCRIPT = """
import atexit, sys, threading
import pandas as pd
import pandas_llm
atexit.register(print, "at the end")
pd.DataFrame({"body": [f"ticket {i}" for i in range(400)]}).llm.classify(
    "body", ["bug", "question", "praise"], max_concurrency=4, progress=False
)
"""


def test_a_script_that_is_interrupted_ends_by_the_signal_so_that_a_shells_loop_stops(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    server.latency = 0.05
    script = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    until(lambda: server.bill.completions >= 8)
    script.send_signal(signal.SIGINT)
    out, err = script.communicate(timeout=30)
    assert script.returncode == -signal.SIGINT
    assert out == "at the end\n"
    said = f"Interrupted: {server.bill.completions} of 400 rows are answered and kept"
    assert said in err.splitlines()[-1]
