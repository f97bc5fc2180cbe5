"""Nothing is paid twice: the same line again, more rows, other processes, kill -9, a full disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children, faults
from fakes.children import until
from fakes.openai_server import Answer, FakeOpenAI

import pandas_llm
from pandas_llm.errors import BudgetWarning, IncompleteWarning, OptionsError, PriceWarning, StoreError

LABELS = ["bug", "question", "praise"]


def tickets(n: int, first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + n)]})


def labelled(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, progress=False, **options)


def by_text(out: pd.DataFrame, column: str = "body_label") -> dict[str, Any]:
    return dict(zip(out["body"], out[column].astype(object), strict=True))


# One process ---------------------------------------------------------------------------------------------


def test_running_a_line_again_is_free(server: FakeOpenAI) -> None:
    first = labelled(tickets(20))
    again = labelled(tickets(20))
    assert server.bill.completions == 20
    assert by_text(again) == by_text(first)
    assert set(again["body_label_source"]) == {"cache"}
    assert again["body_label_cost"].sum() == 0
    assert pandas_llm.last_run().paid == 0
    assert labelled(first)["body_label"].equals(first["body_label"])
    assert server.bill.completions == 20


def test_added_rows_pay_for_themselves_alone(server: FakeOpenAI) -> None:
    labelled(tickets(10))
    out = labelled(tickets(16))
    assert list(out["body_label_source"]) == ["cache"] * 10 + ["api"] * 6
    assert set(server.bill.texts.values()) == {1}
    assert server.bill.completions == 16


@pytest.mark.parametrize(
    "changed",
    [
        lambda out: out.sort_values("body", ascending=False),
        lambda out: out[out.index % 3 == 0],
        lambda out: out.sample(frac=1.5, replace=True, random_state=1),
        lambda out: out.merge(
            pd.DataFrame({"body": ["ticket 3", "ticket 4"], "team": ["a", "b"]}), how="left"
        ),
        lambda out: pd.concat([out, out]),
        lambda out: out.set_index("body", drop=False),
    ],
    ids=["sorted", "filtered", "sampled", "merged", "doubled", "indexed"],
)
def test_a_frame_that_went_through_pandas_is_known(
    server: FakeOpenAI, changed: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    first = labelled(tickets(12))
    frame = changed(first)
    again = labelled(frame)
    assert server.bill.completions == 12
    assert list(again["body"]) == list(frame["body"])
    assert again.index.equals(frame.index)
    answers = by_text(first)
    assert list(again["body_label"].astype(object)) == [answers[text] for text in frame["body"]]


ANOTHER_QUESTION: dict[str, dict[str, Any]] = {
    "instructions": {"instructions": "Be strict."},
    "labels": {"labels": ["bug", "question", "praise", "spam"]},
    "a label's description": {"labels": {"bug": "it breaks", "question": None, "praise": None}},
    "model": {"model": "gpt-5.4"},
    "params": {"params": {"seed": 7}},
    "examples": {"examples": [("hello", "question")]},
    "explain": {"explain": True},
    "confidence": {"confidence": True},
}


@pytest.mark.parametrize("other", ANOTHER_QUESTION.values(), ids=ANOTHER_QUESTION)
def test_what_can_change_an_answer_asks_again(server: FakeOpenAI, other: dict[str, Any]) -> None:
    labels = {"labels": LABELS, "progress": False}
    first = tickets(5).llm.classify("body", **labels)
    tickets(5).llm.classify("body", **{**labels, **other})
    assert server.bill.completions == 10
    # And what was asked before is still known.
    assert by_text(tickets(5).llm.classify("body", **labels)) == by_text(first)
    assert server.bill.completions == 10


def test_what_cannot_change_an_answer_asks_nothing(server: FakeOpenAI) -> None:
    from openai import OpenAI

    labelled(tickets(5))
    client = OpenAI(api_key="another", base_url=server.base_url)
    for same in (
        {"max_concurrency": 3},
        {"timeout": 7},
        {"service_tier": "flex"},
        {"max_retries": 0},
        {"rpm": 60},
        {"details": "all"},
        {"max_cost": 1},
        {"client": client},
        {"params": {}},
        {"dedupe": False},
        {"output": "other"},
    ):
        labelled(tickets(5), **same)
    client.close()
    assert server.bill.completions == 5


def test_only_the_store_leaves_the_unknown_pending(server: FakeOpenAI) -> None:
    labelled(tickets(4))
    out = labelled(tickets(6), cache="only")
    assert list(out["body_label_source"]) == ["cache"] * 4 + ["pending"] * 2
    assert out["body_label_error"].str.startswith("Pending: ").sum() == 2
    assert server.bill.completions == 4


def test_refreshing_asks_again_and_replaces(server: FakeOpenAI) -> None:
    server.answer = lambda text, body: '{"label": "bug"}'
    labelled(tickets(4))
    server.answer = lambda text, body: '{"label": "praise"}'
    assert set(labelled(tickets(4), cache="refresh")["body_label"]) == {"praise"}
    assert server.bill.completions == 8
    assert set(labelled(tickets(4))["body_label"]) == {"praise"}
    assert server.bill.completions == 8


def test_no_store_reads_and_writes_no_answers(server: FakeOpenAI, own_settings: Path) -> None:
    labelled(tickets(4), cache=False)
    assert not own_settings.exists()
    labelled(tickets(4))
    labelled(tickets(4), cache=False)
    assert server.bill.completions == 12
    assert pandas_llm.cache_info()["runs"] == 1


def test_another_file_is_another_store(server: FakeOpenAI, tmp_path: Path) -> None:
    labelled(tickets(4), cache=tmp_path / "one.sqlite3")
    labelled(tickets(4), cache=str(tmp_path / "two.sqlite3"))
    assert server.bill.completions == 8
    labelled(tickets(4), cache=tmp_path / "one.sqlite3")
    assert server.bill.completions == 8


def test_samples_of_equal_texts_are_each_paid_once(server: FakeOpenAI) -> None:
    frame = pd.DataFrame({"body": ["same", "other", "same", "same"]})
    labelled(frame, dedupe=False)
    assert server.bill.texts == {"same": 3, "other": 1}
    again = labelled(frame, dedupe=False)
    assert set(again["body_label_source"]) == {"cache"}
    more = labelled(pd.concat([frame, frame], ignore_index=True), dedupe=False)
    assert server.bill.texts == {"same": 6, "other": 2}
    assert list(more["body_label_source"]) == ["cache"] * 4 + ["api"] * 4
    # Sample 0 is the answer that everybody shares.
    labelled(frame)
    assert server.bill.completions == 8


def test_a_billed_failure_is_bought_again_only_on_demand(server: FakeOpenAI) -> None:
    server.fault("ticket 1", faults.REFUSAL)
    server.fault("ticket 2", faults.CONTEXT_LENGTH)
    labelled(tickets(4))
    assert server.bill.completions == 3
    server.clear_faults()
    out = labelled(tickets(4))
    assert list(out["body_label_source"]) == ["cache", "failed", "api", "cache"], "what cost nothing is asked"
    assert out["body_label_error"][1].startswith("RefusalError: ")
    assert server.bill.completions == 4
    out = labelled(tickets(4), retry_failed=True)
    assert out["body_label"].notna().all()
    assert server.bill.completions == 5
    assert labelled(tickets(4))["body_label"].notna().all()
    assert server.bill.completions == 5


def test_a_hand_correction_is_kept_or_replaced_as_told(server: FakeOpenAI) -> None:
    out = labelled(tickets(6))
    corrected = out.copy()
    right = next(label for label in LABELS if label != out["body_label"][2])
    corrected.loc[2, "body_label"] = right
    with pytest.raises(OptionsError, match=r"row 2\b|rows 2\b"):
        labelled(corrected)
    kept = labelled(corrected, on_conflict="keep")
    assert kept["body_label"][2] == right
    assert kept["body_label_source"][2] == "given"
    assert labelled(corrected, on_conflict="overwrite")["body_label"].equals(out["body_label"])
    assert server.bill.completions == 6, "none of it asked for anything"


def test_rows_kept_by_hand_are_not_sent(server: FakeOpenAI) -> None:
    frame = tickets(5).assign(body_label=[None, "bug", None, None, "praise"])
    out = labelled(frame, on_conflict="keep")
    assert sorted(server.bill.texts) == ["ticket 0", "ticket 2", "ticket 3"]
    assert list(out["body_label_source"]) == ["api", "given", "api", "api", "given"]


def test_cleared_answers_are_paid_again_and_only_these(server: FakeOpenAI) -> None:
    labelled(tickets(4))
    first = pandas_llm.last_run().id
    out = labelled(tickets(3, first=4))
    labelled(tickets(2), model="gpt-5.4")
    assert pandas_llm.clear_cache(run=first) == 4
    assert pandas_llm.clear_cache(model="gpt-5.4") == 2
    assert pandas_llm.clear_cache(older_than="1 h") == 0
    labelled(tickets(7))
    assert server.bill.completions == 9 + 4
    assert pandas_llm.clear_cache(frame=out) == 3
    assert pandas_llm.clear_cache() == 4
    labelled(tickets(7))
    assert server.bill.completions == 13 + 7


# Threads and tasks ---------------------------------------------------------------------------------------


def test_two_threads_pay_once_for_the_same_rows(server: FakeOpenAI) -> None:
    server.latency = 0.02
    outs: list[pd.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: outs.append(labelled(tickets(150), max_concurrency=16)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.bill.completions == 150
    assert by_text(outs[0]) == by_text(outs[1])
    assert outs[0]["body_label"].notna().all()


def test_two_tasks_of_one_loop_pay_once_for_the_same_rows(server: FakeOpenAI) -> None:
    server.latency = 0.02

    async def both() -> list[pd.DataFrame]:
        calls = (tickets(150).llm.aio.classify("body", LABELS, max_concurrency=16) for _ in range(2))
        return await asyncio.gather(*calls)

    one, two = asyncio.run(both())
    assert server.bill.completions == 150
    assert by_text(one) == by_text(two)
    # Who waited for the other's answers was billed nothing for them.
    total = one["body_label_cost"].sum() + two["body_label_cost"].sum()
    assert total == pytest.approx(server.bill.cost)


def test_a_row_that_failed_for_the_other_call_is_asked_by_this_one(server: FakeOpenAI) -> None:
    server.fault("ticket 3", faults.CONTEXT_LENGTH, times=1)
    server.latency = 0.1

    async def both() -> list[pd.DataFrame]:
        calls = (tickets(6).llm.aio.classify("body", LABELS) for _ in range(2))
        return await asyncio.gather(*calls)

    outs = asyncio.run(both())
    assert sorted(out["body_label"].notna().sum() for out in outs) == [5, 6]
    assert server.bill.completions == 6


# Processes -----------------------------------------------------------------------------------------------

LABEL_ALL = """
out = tickets({n}).llm.classify("body", LABELS, max_concurrency={places})
say(labelled=int(out["body_label"].notna().sum()), paid=pandas_llm.last_run().paid)
"""


def test_after_kill_9_only_what_was_in_flight_is_paid_again(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.03
    places, n = 16, 200
    for kill, enough in enumerate((20, 90)):
        child = children.start(LABEL_ALL.format(n=n, places=places), tmp_path / f"child {kill}")
        until(lambda enough=enough: server.bill.completions >= enough)
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        until(lambda: not server.in_flight)
    out = labelled(tickets(n))
    assert out["body_label"].notna().all()
    assert set(server.bill.texts) == set(out["body"])
    assert n <= server.bill.completions <= n + 2 * (places + places // 8)
    assert list(pandas_llm.runs()["status"]) == ["done", "killed", "killed"]


def test_two_processes_pay_once_for_the_same_rows(server: FakeOpenAI, tmp_path: Path) -> None:
    server.latency = 0.02
    pair = [children.start(LABEL_ALL.format(n=300, places=16), tmp_path / f"child {i}") for i in range(2)]
    assert [child.wait() for child in pair] == [0, 0], pair[0].stderr + pair[1].stderr
    assert server.bill.completions == 300
    assert [child.said["labelled"] for child in pair] == [300, 300]
    paid = [child.said["paid"] for child in pair]
    assert sum(paid) == 300
    assert min(paid) > 0, "they shared the work"


def test_the_second_process_waits_for_the_first_ones_answers(server: FakeOpenAI, tmp_path: Path) -> None:
    labelled(tickets(1))  # from now on the first request need not go alone
    server.latency = 0.3
    first = children.start(LABEL_ALL.format(n=30, places=30), tmp_path / "first")
    until(lambda: server.in_flight == 29, why=lambda: first.stderr)
    out = labelled(tickets(30))
    assert server.bill.completions == 30
    assert set(out["body_label_source"]) == {"cache"}
    assert out["body_label_cost"].sum() == 0
    assert first.wait() == 0


def test_the_second_process_takes_over_when_the_first_is_killed(server: FakeOpenAI, tmp_path: Path) -> None:
    labelled(tickets(1))
    server.fault(None, faults.hang(), times=29)
    first = children.start(LABEL_ALL.format(n=30, places=30), tmp_path / "first")
    until(lambda: server.in_flight == 29, why=lambda: first.stderr)
    second = children.start(LABEL_ALL.format(n=30, places=30), tmp_path / "second")
    until(lambda: "29 requests to send" in second.stderr, why=lambda: second.stderr)
    first.send(signal.SIGKILL)
    assert second.wait() == 0, second.stderr
    assert second.said == {"labelled": 30, "paid": 29}
    assert server.bill.completions == 30


def test_a_forked_child_of_a_process_that_labelled_goes_on(server: FakeOpenAI, tmp_path: Path) -> None:
    script = """
tickets(20).llm.classify("body", LABELS)
pid = os.fork()
out = tickets(40, first=0 if pid else 20).llm.classify("body", LABELS)
assert out["body_label"].notna().all()
if not pid:
    import gc
    gc.collect()  # of what the parent left here
    os._exit(7)
say(child=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert tickets(60).llm.classify("body", LABELS, cache="only")["body_label"].notna().all()
"""
    child = children.start(script, tmp_path / "child")
    assert child.wait() == 0, child.stderr
    assert child.said == {"child": 7}
    assert "Exception ignored" not in child.stderr
    assert server.bill.completions == 60


SPAWNED = """
import multiprocessing, sys
import pandas as pd, pandas_llm
def label(first):
    frame = pd.DataFrame({"body": [f"ticket {i}" for i in range(first, first + 10)]})
    return list(frame["body"].llm.classify(["bug", "question", "praise"], progress=False))
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(sum(map(len, pool.map(label, [0, 5, 10]))))
        pool.close()
        pool.join()
"""


def test_processes_of_a_pool_share_the_store(server: FakeOpenAI, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(SPAWNED)
    root = str(Path(pandas_llm.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "30\n", done.stderr
    assert server.bill.completions == 20


# A disk that fails ---------------------------------------------------------------------------------------

FULL = """
import resource
store = os.environ["PANDAS_LLM_CACHE"]
def fill():
    while not os.path.exists(store + ".go"):
        time.sleep(0.01)
    # No file of this process may grow from here on. Python ignores the signal: it looks like a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
threading.Thread(target=fill, daemon=True).start()
try:
    tickets(400).llm.classify("body", LABELS, max_concurrency=8, progress=False)
except StoreError as error:
    frame, last = error.frame, pandas_llm.last_run()
    say(error=str(error), rows=int(frame["body_label"].notna().sum()))
    say(pending=int((frame["body_label_source"] == "pending").sum()))
    say(cost=float(frame["body_label_cost"].sum()), status=last and last.status)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_stops_the_run_with_what_was_paid_on_the_frame(
    server: FakeOpenAI, tmp_path: Path, own_settings: Path
) -> None:
    server.latency = 0.02
    child = children.start(FULL, tmp_path / "child")
    until(lambda: server.bill.completions >= 60, why=lambda: child.stderr)
    Path(f"{own_settings}.go").touch()
    assert child.wait() == 0, child.stderr
    said = child.said
    assert "disk" in said["error"] or "full" in said["error"] or "written" in said["error"]
    assert said["rows"] == server.bill.completions < 400, "every answer that was paid for is there"
    assert said["cost"] == pytest.approx(server.bill.cost)
    assert said["pending"] == 400 - said["rows"]
    before = server.bill.completions
    out = labelled(tickets(400))
    assert out["body_label"].notna().all()
    # What was in flight or unsaved when the disk was full is all that is paid again.
    assert server.bill.completions - 400 <= 8 + 1 + 8
    assert server.bill.completions > before


def test_a_store_that_can_not_be_written_costs_nothing(server: FakeOpenAI, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OptionsError, match="folder"):
        labelled(tickets(3), cache=folder)
    assert server.requests == []


def test_max_cost_holds_where_replies_do_not_say_what_they_used(server: FakeOpenAI) -> None:
    server.answer = lambda text, body: Answer(content='{"label": "bug"}', usage={})
    with pytest.warns() as warned:
        out = labelled(tickets(300), max_cost=0.001, prices={"m": (0.1, 0.5)}, model="m", max_concurrency=4)
    assert (out["body_label_source"] == "pending").sum() > 0
    assert {each.category for each in warned} == {BudgetWarning, PriceWarning}


def test_a_series_says_in_one_warning_what_is_missing(server: FakeOpenAI) -> None:
    server.fault("ticket 1", faults.REFUSAL)
    with pytest.warns(IncompleteWarning, match="1 of 3 rows") as warned:
        tickets(3)["body"].llm.classify(LABELS, progress=False)
    assert Path(warned[0].filename) == Path(__file__)


def test_the_error_of_a_broken_store_pickles() -> None:
    import pickle

    error = StoreError("full")
    assert str(pickle.loads(pickle.dumps(error))) == "full"
