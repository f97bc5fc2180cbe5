"""dedupe="semantic" by batch: the first of each in a file, the audit at once, the rest in a second file."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.children import until
from fakes.near_texts import (
    LABELS,
    answering,
    asked_for_labels,
    base_of,
    check_bill,
    check_right,
    own_label_of,
    ready,
    sources,
    tickets,
)
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Batches, Semantic

QUIET = {"progress": False}
NEAR = {"dedupe": Semantic(max_error=0.2), **QUIET}  # certified by 20 audits of 100 texts
BATCH = {"mode": "batch", "batches": Batches(poll=(0.01, 0.05)), **NEAR}
COUNT = 25


@pytest.fixture(autouse=True)
def right_labels(server: FakeOpenAI) -> None:
    ready(server)


def labelled(frame: pd.DataFrame, **options: object) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, **{**NEAR, **options})


def assert_whole(server: FakeOpenAI, out: pd.DataFrame) -> None:
    """Every row has its right answer, nothing was asked twice, the sums are the bill."""
    check_right(out)
    assert out["body_label_error"].isna().all()
    check_bill(server, out)


# By batch ----------------------------------------------------------------------------------------------

FIRSTS = 47
"""Of 40 texts in five ways: those that come first, and a few ways that the guards ask for."""


def test_by_batch_the_audit_is_asked_at_once_and_the_rest_by_batch(server: FakeOpenAI):
    out = labelled(tickets(40), **BATCH)
    assert_whole(server, out)
    assert len(server.batches) == 1
    assert server.bill.batch_completions == FIRSTS - 3
    found = pandas_llm.last_run().reuse.certificate
    assert sources(out) == {"batch": FIRSTS - 3, "api": 3 + found.audited, "similar": found.saved}
    assert max(server.bill.batch_rows.values()) == 1


def test_by_batch_what_may_not_be_shared_is_a_second_batch_without_a_pilot(server: FakeOpenAI):
    server.answer = answering(own_label_of)
    out = labelled(tickets(40), **BATCH)
    assert out["body_label"].tolist() == [own_label_of(text) for text in out["body"]]
    check_bill(server, out)
    found = pandas_llm.last_run().reuse.certificate
    assert sources(out) == {"batch": 200 - 3 - found.audited, "api": 3 + found.audited}
    assert len(server.batches) == 2
    assert max(Counter(key for each in server.batches for key in each.custom_ids).values()) == 1


def test_too_few_for_a_batch_are_asked_at_once_also_when_others_share(server: FakeOpenAI):
    out = labelled(tickets(15), **{**BATCH, "dedupe": Semantic(threshold=0.85)})
    assert_whole(server, out)
    assert not server.batches
    assert sources(out)["similar"] > 25


def test_without_waiting_who_may_share_is_pending_and_the_collecting_line_goes_on(server: FakeOpenAI):
    frame = tickets(40)
    server.hold_batches = "in_progress"
    first = labelled(frame, **BATCH, wait=False)
    assert sources(first) == {"api": 3, "pending": 197}
    waiting = first["body_label_source"] == "pending"
    assert first["body_label_error"][waiting].str.contains("batch_").all()
    assert pandas_llm.last_run().status == "submitted"
    second = labelled(first, **BATCH, wait=False)
    assert sources(second) == {"cache": 3, "pending": 197}
    assert (len(asked_for_labels(server)), len(server.batches)) == (3, 1)
    server.release_batches()
    until(lambda: "pending" not in sources(labelled(frame, **BATCH, wait=False)))
    out = labelled(frame, **BATCH)
    check_right(out)
    assert sources(out)["similar"] > 100
    assert len(server.batches) == 1
    assert server.bill.batch_completions == FIRSTS - 3
    assert max(Counter(asked_for_labels(server)).values()) == 1


def test_a_batch_that_was_left_is_collected_by_a_line_that_waits(server: FakeOpenAI):
    frame = tickets(40)
    labelled(frame, **BATCH, wait=False)
    out = labelled(frame, **BATCH)
    check_right(out)
    found = pandas_llm.last_run().reuse.certificate
    assert found.certified
    assert sources(out) == {"batch": FIRSTS - 3, "cache": 3, "api": found.audited, "similar": found.saved}
    assert len(server.batches) == 1


def test_asking_at_once_beside_an_open_batch_leaves_its_rows_and_asks_the_others(server: FakeOpenAI):
    frame = tickets(40)
    server.hold_batches = "in_progress"
    labelled(frame, **BATCH, wait=False)
    out = labelled(frame)
    pending = out["body_label_source"] == "pending"
    assert pending.sum() == FIRSTS - 3
    rest = out[~pending]
    check_right(rest)


def test_auto_takes_the_batch_where_there_is_time_and_no_detour_where_there_is_none(server: FakeOpenAI):
    auto = {**BATCH, "mode": "auto", "model": "gpt-4o-mini"}
    out = labelled(tickets(40), **auto)
    check_right(out)
    assert sources(out)["similar"] == pandas_llm.last_run().reuse.certificate.saved > 100
    assert server.bill.batch_completions == FIRSTS - 3
    urgent = labelled(tickets(40), **auto, deadline="20min", instructions="Now.")
    found = pandas_llm.last_run().reuse.certificate
    assert sources(urgent) == {"api": FIRSTS + found.audited, "similar": found.saved}
    assert len(server.batches) == 1


def test_a_row_that_a_batch_refused_gives_nothing_to_others(server: FakeOpenAI):
    frame = tickets(40)
    refused = frame["body"][10]
    server.fault(lambda _, text: text == refused, faults.REFUSAL)
    out = labelled(frame, **BATCH)
    mine = out["body"].map(base_of) == base_of(refused)
    assert Counter(out["body_label_source"][mine]) == {"failed": 1, "api": 4}
    rest = out[out["body_label_source"] != "failed"]
    check_right(rest)
    check_bill(server, out)


def test_a_batch_that_expires_is_asked_at_once_and_shared_all_the_same(server: FakeOpenAI):
    server.batch_fault("expired_half")
    out = labelled(tickets(40), **BATCH)
    assert_whole(server, out)
    assert sources(out)["similar"] > 100
