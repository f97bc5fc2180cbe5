"""dedupe="semantic" where requests fail, money ends, somebody stops it: nothing is lost or paid twice."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from fakes import children, faults
from fakes.children import until
from fakes.near_texts import (
    LABELS,
    asked_for_labels,
    asked_for_vectors,
    base_of,
    bases,
    check_bill,
    check_right,
    clear,
    label_of,
    ready,
    sources,
    tickets,
)
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches, Semantic
from pandas_llm.errors import BudgetWarning, LLMWarning, TooManyErrors

QUIET = {"progress": False}
NEAR = {"dedupe": Semantic(max_error=0.2), **QUIET}  # certified by 20 audits of 100 texts
BATCH = {"mode": "batch", "batches": Batches(poll=(0.01, 0.05)), **NEAR}
COUNT = 25


@pytest.fixture(autouse=True)
def right_labels(server: FakeOpenAI) -> None:
    ready(server)


def labelled(frame: pd.DataFrame, **options: object) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, **{**NEAR, **options})


def packs(_: int, text: str) -> bool:
    """Requests for the vectors of several texts."""
    return "\n" in text


def assert_whole(server: FakeOpenAI, out: pd.DataFrame) -> None:
    """Every row has its right answer, nothing was asked twice, the sums are the bill."""
    check_right(out)
    assert out["body_label_error"].isna().all()
    check_bill(server, out)


# Rows that fail ----------------------------------------------------------------------------------------


def test_who_would_have_taken_a_failed_answer_is_asked(server: FakeOpenAI):
    frame = tickets(COUNT)
    lost = frame["body"][3]
    server.fault(lambda _, text: text == lost, faults.REFUSAL)
    out = labelled(frame)
    mine = out["body"].map(base_of) == base_of(lost)
    assert out["body_label_error"][3].startswith("RefusalError")
    assert Counter(out["body_label_source"][mine]) == {"failed": 1, "api": 4}
    rest = out.drop(index=3)
    check_right(rest)
    assert sources(out)["similar"] > 50
    check_bill(server, out)
    server.clear_faults()
    again = labelled(frame, retry_failed=True)
    check_right(again)
    assert sources(again)["api"] == 1
    assert Counter(asked_for_labels(server))[lost] == 2


def test_members_that_fail_in_the_audit_count_as_disagreeing(server: FakeOpenAI):
    firsts = set(bases(COUNT))
    server.fault(lambda _, text: text not in firsts and not packs(0, text), faults.CUT_OFF)
    out = labelled(tickets(COUNT), max_error_rate=1.0)
    found = pandas_llm.last_run().reuse.certificate
    assert not found.certified
    assert found.failed == found.disagreements > 0
    assert sources(out) == {"api": COUNT, "failed": 4 * COUNT}
    assert out["body_label_error"][COUNT:].str.startswith("LengthError").all()
    check_bill(server, out)


def test_too_many_errors_stop_the_run_and_the_same_line_goes_on(server: FakeOpenAI):
    server.fault(lambda _, text: not packs(0, text), faults.CONTENT_FILTER)
    with pytest.raises(TooManyErrors) as caught:
        labelled(tickets(COUNT), max_error_rate=0.3)
    out = caught.value.frame
    assert set(out["body_label_source"]) <= {"failed", "pending"}
    server.clear_faults()
    assert_whole(server, labelled(tickets(COUNT)))


def test_an_idea_of_agreement_that_breaks_is_raised_with_the_frame(server: FakeOpenAI):
    def broken(a: object, b: object) -> bool:
        raise ValueError("neither of them")

    frame = tickets(COUNT)
    with pytest.raises(ValueError, match="neither of them") as caught:
        labelled(frame, dedupe=Semantic(max_error=0.2, agreement=broken))
    out = caught.value.frame
    assert set(sources(out)) == {"api", "pending"}
    check_bill(server, out)
    check_right(labelled(frame))
    assert max(Counter(asked_for_labels(server)).values()) == 1


def test_empty_texts_that_are_sent_are_not_compared(server: FakeOpenAI):
    frame = pd.concat([tickets(COUNT), pd.DataFrame({"body": ["", " ", None]})], ignore_index=True)
    out = labelled(frame, on_null="send")
    check_right(out.iloc[:-3])
    assert out["body_label_source"].iloc[-3] == "api"
    assert sources(out)["similar"] > 50


# Money -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.75], ids=["before the audit", "in the audit"])
def test_out_of_money_nothing_is_shared_on_half_an_audit(server: FakeOpenAI, tmp_path: Path, share: float):
    frame = tickets(COUNT)
    labelled(frame, cache=tmp_path / "other.sqlite3")
    whole = server.bill.cost
    clear(server)
    with pytest.warns(BudgetWarning):
        out = labelled(frame, max_cost=share * whole, max_concurrency=2)
    assert sources(out)["pending"] > 0
    assert sources(out).get("similar", 0) == 0
    assert (
        out["body_label_error"][out["body_label_source"] == "pending"].eq("Pending: max_cost reached").all()
    )
    check_bill(server, out)
    paid = sources(out).get("api", 0)
    again = labelled(out)
    check_right(again)
    assert sources(again)["cache"] == paid
    assert max(Counter(asked_for_labels(server)).values()) == 1
    assert max(Counter(asked_for_vectors(server)).values()) == 1


def test_vectors_are_paid_from_the_same_purse(server: FakeOpenAI):
    with pytest.warns(BudgetWarning):
        out = labelled(tickets(COUNT), max_cost=0.000_001)
    assert sources(out) == {"pending": 5 * COUNT}
    assert server.bill.cost <= 0.000_002
    assert len(server.requests) <= 2


# Stopping ----------------------------------------------------------------------------------------------

STOPPED = """
frame = pd.read_json({path!r})
def line():
    return frame.llm.classify("body", LABELS, dedupe=pandas_llm.Semantic(max_error=0.2), max_concurrency=4)
say(ready=True)
try:
    line()
    say(kind="done")
except KeyboardInterrupt as error:
    out = error.frame
    counts = out["body_label_source"].value_counts()
    say(kind=type(error).__name__, sources={{name: int(n) for name, n in counts.items() if n}})
    say(runs=pandas_llm.runs()["status"].tolist())
"""
MOMENTS = {
    "while texts are embedded": lambda server: server.in_flight and not asked_for_labels(server),
    "among the first of each": lambda server: server.bill.completions >= 3,
    "in the audit": lambda server: server.bill.completions >= COUNT + 4,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_keeps_what_came_back_and_the_same_line_goes_on(
    server: FakeOpenAI, tmp_path: Path, moment: str
):
    server.latency = lambda text: 0.6 if packs(0, text) else 0.06
    frame = tickets(COUNT)
    frame.to_json(tmp_path / "frame.json")
    child = children.start(STOPPED.format(path=str(tmp_path / "frame.json")), tmp_path)
    until(lambda: MOMENTS[moment](server), why=lambda: child.stderr)
    child.send(signal.SIGINT)
    assert child.wait() == 0, child.stderr
    said = child.said
    assert said["kind"] == "Interrupted", said
    assert said["sources"].get("similar", 0) == 0
    assert said["sources"].get("api", 0) == server.bill.completions
    assert set(said["runs"]) == {"stopped"} or moment != "while texts are embedded"
    assert "running" not in said["runs"]
    until(lambda: not server.in_flight)
    server.latency = 0.0
    out = labelled(frame)
    check_right(out)
    assert max(Counter(asked_for_labels(server)).values()) == 1
    assert sources(out)["similar"] > 20


CLOSED = """
frame = pd.read_json({path!r})
options = dict(dedupe=pandas_llm.Semantic(max_error=0.2), progress=False)
def interrupted():
    loop = asyncio.new_event_loop()
    task = loop.create_task(frame.llm.aio.classify("body", LABELS, **options))
    loop.call_later(0.6, loop.stop)
    loop.run_forever()
    loop.close()
    return task
task = interrupted()
say(interrupted=True)
out = frame.llm.classify("body", LABELS, **options)
say(labels=out["body_label"].tolist())
os._exit(0)  # asyncio complains of the task at length, and is right
"""


def test_a_loop_closed_under_the_embedding_leaves_its_texts_to_the_next(server: FakeOpenAI, tmp_path: Path):
    server.latency = lambda text: 1.5 if packs(0, text) else 0.0
    frame = tickets(COUNT)
    frame.to_json(tmp_path / "frame.json")
    child = children.start(CLOSED.format(path=str(tmp_path / "frame.json")), tmp_path)
    assert child.wait() == 0, child.stderr
    assert child.said["labels"] == [label_of(text) for text in frame["body"]]
    assert max(Counter(asked_for_labels(server)).values()) == 1


def test_a_cancelled_coroutine_leaves_nothing_behind(server: FakeOpenAI):
    server.latency = lambda text: 0.5 if packs(0, text) else 0.02
    frame = tickets(COUNT)

    async def cut_off() -> None:
        task = asyncio.ensure_future(frame.llm.aio.classify("body", LABELS, **NEAR))
        await asyncio.to_thread(until, lambda: server.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off())
    assert not asked_for_labels(server)
    server.latency = 0.0
    out = labelled(frame)
    assert_whole(server, out)
    assert "running" not in set(pandas_llm.runs()["status"])


# Vectors that can't be had -----------------------------------------------------------------------------


def down(server: FakeOpenAI) -> None:
    server.fault(packs, faults.RESET_BEFORE)


TROUBLES = {
    "the connection breaks": (down, "ServerError|EndpointError"),
    "no such model": (lambda server: setattr(server, "models", {"gpt-6-luna"}), "ModelError"),
    "no such path": (lambda server: server.fault(packs, faults.error(404, None, "Not Found")), "404|Error"),
    "too many requests": (
        lambda server: server.fault(packs, faults.rate_limited("0", "5")),
        "RateLimitError",
    ),
    "no money": (lambda server: server.fault(packs, faults.INSUFFICIENT_QUOTA), "QuotaError"),
    "an error inside": (
        lambda server: server.fault(lambda *_: not asked_for_labels(server), faults.INTERNAL),
        "ServerError",
    ),
    "not JSON": (lambda server: server.fault(packs, faults.NOT_JSON), "ServerError"),
    "a vector of nothing": (lambda server: setattr(server, "embed", lambda *_: [float("nan")] * 4), ""),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_vectors_that_fail_leave_exact_dedupe_and_one_warning(server: FakeOpenAI, trouble: str):
    arrange, said = TROUBLES[trouble]
    arrange(server)
    frame = pd.concat([tickets(COUNT), tickets(3)], ignore_index=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = labelled(frame, max_retries=1)
    check_right(out)
    if trouble != "a vector of nothing":  # which is billed all the same
        assert_whole(server, out)
    assert sources(out) == {"api": 5 * COUNT, "duplicate": 15}
    told = [str(each.message) for each in caught if issubclass(each.category, LLMWarning)]
    assert len(told) == 1, told
    assert told[0].startswith('dedupe="semantic": no vectors (')
    assert "only equal texts shared an answer" in told[0]
    assert pandas_llm.last_run().reuse.note
    if said:
        assert any(word in told[0] for word in said.split("|")), told
    server.clear_faults()
    before = server.bill.completions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = labelled(frame)
    assert set(again["body_label_source"]) == {"cache"}
    assert server.bill.completions == before


def test_one_text_without_a_vector_is_asked_for_itself_and_said(server: FakeOpenAI):
    frame = tickets(COUNT)
    odd = frame["body"][COUNT + 2]
    server.fault(
        lambda _, text: odd in text.split("\n") and (packs(0, text) or text == odd),
        faults.error(400, None, "bad input"),
        times=40,
    )
    with pytest.warns(LLMWarning, match="1 text got no vector"):
        out = labelled(frame)
    server.clear_faults()
    assert out["body_label_source"][COUNT + 2] in ("api", "failed")
    assert sources(out)["similar"] > 40


def test_vectors_of_another_length_than_those_that_are_kept_are_compared_among_themselves(server: FakeOpenAI):
    labelled(tickets(COUNT, ways=1))
    server.embed = lambda text, _: [*map(float, text.lower().encode()[:20].ljust(32))]
    later = labelled(tickets(COUNT, first=COUNT))
    check_right(later)
    assert not pandas_llm.last_run().reuse.note
    mixed = labelled(tickets(2 * COUNT))
    check_right(mixed)


def test_a_function_that_breaks_costs_no_answer(server: FakeOpenAI):
    def broken(texts: list[str]) -> object:
        raise RuntimeError("out of memory")

    def misshapen(texts: list[str]) -> list[float]:
        return [1.0] * len(texts)

    for embed in (broken, misshapen):
        with pytest.warns(LLMWarning, match="no vectors") as caught:
            out = labelled(tickets(4), dedupe=Semantic(embed=embed), instructions=embed.__name__)
        assert len(caught) == 1
        check_right(out)
