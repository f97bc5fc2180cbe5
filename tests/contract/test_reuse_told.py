"""What people see of dedupe="semantic": before a request, in the estimate; at the end; in last_run()."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fakes.near_texts import LABELS, answering, own_label_of, ready, tickets
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Semantic

NEAR = {"dedupe": "semantic"}
QUIET = {"progress": False}


@pytest.fixture(autouse=True)
def near_texts(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        ready(request.getfixturevalue("server"))


def test_the_estimate_sends_nothing_and_is_right_once_the_vectors_are_known(server: FakeOpenAI):
    frame = tickets(60)
    before = frame.llm.estimate.classify("body", LABELS, **NEAR)
    assert before.reusable is None
    assert "not known before the texts are embedded" in str(before)
    assert server.requests == []
    frame.llm.embed("body", **QUIET)
    sent = len(server.requests)
    known = frame.llm.estimate.classify("body", LABELS, **NEAR)
    assert len(server.requests) == sent
    frame.llm.classify("body", LABELS, **NEAR, **QUIET)
    assert known.reusable == pandas_llm.last_run().reuse.saved > 0
    assert f"{known.reusable:,} ($" in str(known)
    assert "if the audit certifies it" in known._repr_html_()
    assert known.requests == len(frame)


def test_the_estimate_of_what_is_known_or_asks_for_no_reuse_has_no_such_row(server: FakeOpenAI):
    frame = tickets(30)
    assert frame.llm.estimate.classify("body", LABELS).reusable is None
    assert "reusable" not in str(frame.llm.estimate.classify("body", LABELS))
    frame.llm.classify("body", LABELS, **NEAR, **QUIET)
    again = frame.llm.estimate.classify("body", LABELS, **NEAR)
    assert (again.requests, again.reusable) == (0, 0)
    assert "reusable" not in str(again)


def test_too_few_near_copies_for_an_audit_are_told_before(server: FakeOpenAI):
    frame = tickets(6)
    frame.llm.embed("body", **QUIET)
    estimate = frame.llm.estimate.classify("body", LABELS, **NEAR)
    assert estimate.reusable == 0
    assert "more audits than that saves" in str(estimate)
    fixed = frame.llm.estimate.classify("body", LABELS, dedupe=Semantic(threshold=0.8))
    assert fixed.reusable > 0
    assert "less those that the audit asks" in str(fixed)
    different = pd.DataFrame({"body": ["Where is it?", "I love the colours of this one."]})
    different.llm.embed("body", **QUIET)
    assert "no text may take" in str(different.llm.estimate.classify("body", LABELS, **NEAR))


def test_a_function_is_not_called_for_an_estimate_and_the_local_model_may_be(server: FakeOpenAI):
    called = []

    def vectors(texts: list[str]) -> np.ndarray:
        called.append(texts)
        return np.ones((len(texts), 2))

    frame = tickets(20)
    given = frame.llm.estimate.classify("body", LABELS, dedupe=Semantic(embed=vectors))
    assert given.reusable is None
    assert called == []
    local = frame.llm.estimate.classify("body", LABELS, dedupe=Semantic(embed="local", threshold=0.8))
    assert local.reusable > 0
    assert server.requests == []


def test_an_estimate_needs_no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert tickets(5).llm.estimate.classify("body", LABELS, **NEAR).reusable is None


def test_a_run_says_that_texts_are_kept_and_at_its_end_what_was_saved(server: FakeOpenAI, capsys):
    frame = tickets(60)
    frame.llm.classify("body", LABELS, **NEAR)
    said = capsys.readouterr().err
    kept = next(line for line in said.splitlines() if "keeps the texts" in line)
    assert "clear_cache()" in kept
    assert said.index(kept) < said.index("requests to send")
    record = pandas_llm.last_run()
    last = said.splitlines()[-1]
    assert f"Near-equal texts: {record.reuse.saved} requests not sent" in last
    assert "0 disagreed" in last
    frame.llm.classify("body", LABELS, **NEAR)
    assert "keeps the texts" not in capsys.readouterr().err
    frame.llm.classify("body", LABELS, output="plain")
    assert "Near-equal" not in capsys.readouterr().err


def test_the_money_saved_is_that_of_the_requests_not_sent_less_the_vectors(server: FakeOpenAI):
    frame = tickets(60)
    frame.llm.classify("body", LABELS, **NEAR, **QUIET)
    record = pandas_llm.last_run()
    asked = record.sources["api"]
    vectors = pandas_llm.runs().set_index("verb").loc["embed", "cost"]
    assert vectors > 0
    assert record.saved == pytest.approx(record.reuse.saved * record.cost / asked - vectors)
    assert {"reuse", "compared", "audit"} <= {line.split()[0] for line in str(record).splitlines()}
    assert "rejected" in record._repr_html_() or "pairs" in record._repr_html_()
    frame.llm.classify("body", LABELS, **NEAR, **QUIET)
    assert "an earlier run's certificate" in str(pandas_llm.last_run())
    assert pandas_llm.last_run().saved > 0


def test_a_run_that_reuses_nothing_says_why(server: FakeOpenAI, capsys):
    server.answer = answering(own_label_of)
    tickets(60).llm.classify("body", LABELS, **NEAR)
    record = pandas_llm.last_run()
    assert record.reuse.saved == 0
    assert record.saved == -record.reuse.embedding_cost < 0
    for said in (capsys.readouterr().err, str(record)):
        assert "nothing is reused" in said
        assert "could be saved, for" in said


def test_other_runs_tell_nothing_of_it(server: FakeOpenAI):
    tickets(3).llm.classify("body", LABELS, **QUIET)
    record = pandas_llm.last_run()
    assert (record.reuse, record.saved) == (None, 0.0)
    assert "reuse" not in str(record)
