"""dedupe="semantic" at the frame and at the socket: who shares an answer, who is asked, and what it costs."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from fakes.near_texts import (
    LABELS,
    answering,
    asked_for_labels,
    asked_for_vectors,
    base_of,
    bases,
    check_bill,
    check_right,
    label_of,
    own_label_of,
    ready,
    tickets,
)
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Semantic
from pandas_llm.errors import OptionsError

QUIET = {"progress": False}
NEAR = {"dedupe": "semantic", **QUIET}


@pytest.fixture(autouse=True)
def right_labels(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        ready(request.getfixturevalue("server"))


# Who shares --------------------------------------------------------------------------------------------


def test_near_equal_texts_share_one_answer_and_each_row_has_the_right_one(server: FakeOpenAI):
    frame = tickets(60)
    before = frame.copy(deep=True)
    out = frame.llm.classify("body", LABELS, **NEAR)
    pd.testing.assert_frame_equal(frame, before)
    check_right(out)
    sources, record = Counter(out["body_label_source"]), pandas_llm.last_run()
    found = record.reuse.certificate
    assert sources == {"similar": found.saved, "api": len(frame) - found.saved}
    assert found.certified
    assert found.saved == found.reused_rows >= 120
    assert 60 <= found.audited < 100
    assert len(asked_for_labels(server)) == sources["api"]
    assert record.sources == {name: count for name, count in sources.items() if count}
    assert list(out.columns)[-2:] == ["body_label_similar_to", "body_label_similarity"]
    check_bill(server, out)


def test_a_shared_answer_names_the_row_it_is_from_and_how_near_that_is(server: FakeOpenAI):
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, details="all", **NEAR)
    row_of = {key: row for row, key in enumerate(out["body_label_key"])}
    shared = out["body_label_source"] == "similar"
    assert shared.any()
    for own, text, to, near in out.loc[
        shared, ["body_label_key", "body", "body_label_similar_to", "body_label_similarity"]
    ].itertuples(index=False):
        asked = out.iloc[row_of[to]]
        assert asked["body_label_source"] == "api"
        assert base_of(asked["body"]) == base_of(text)
        assert own != to
        assert 0.8 <= near <= 1.0 + 1e-6
    assert out.loc[~shared, ["body_label_similar_to", "body_label_similarity"]].isna().all(axis=None)


def test_an_ugly_frame_loses_no_row(server: FakeOpenAI):
    frame = tickets(60)
    texts = frame["body"].tolist()
    odd = [None, np.nan, "", "  ", b"bytes", *texts[:3], texts[70], texts[200]]
    frame = pd.DataFrame({"n": range(len(texts) + len(odd)), "body": [*texts, *odd]}).sample(
        frac=1, random_state=3
    )
    frame.index = pd.MultiIndex.from_arrays([np.arange(len(frame)) % 7, ["x"] * len(frame)])
    out = frame.llm.classify("body", LABELS, **NEAR)
    pd.testing.assert_frame_equal(out[["n", "body"]], frame)
    sendable = [isinstance(text, str) and bool(text.strip()) for text in frame["body"]]
    assert [None if pd.isna(label) else label for label in out["body_label"]] == [
        label_of(text) if sent else None for text, sent in zip(frame["body"], sendable, strict=True)
    ]
    sources = Counter(out["body_label_source"])
    assert (sources["skipped"], sources["failed"]) == (4, 1)
    assert sources["similar"] > 100
    # A repeated text is shared by all its rows, or asked once.
    by_text = out[sendable].groupby("body")["body_label_source"].agg(set)
    assert all(each in ({"api"}, {"api", "duplicate"}, {"similar"}) for each in by_text)
    check_bill(server, out)


def test_values_that_were_given_stay_and_are_neither_compared_nor_shared(server: FakeOpenAI):
    frame = tickets(60)
    given = [None] * 40 + ["praise"] * 10 + [None] * (len(frame) - 50)
    frame = frame.assign(body_label=pd.Series(given, dtype=object))
    out = frame.llm.classify("body", LABELS, on_conflict="keep", **NEAR)
    assert (out["body_label_source"] == "given").tolist() == [value is not None for value in given]
    assert out["body_label"][40:50].tolist() == ["praise"] * 10
    rest = out.drop(index=range(40, 50))
    check_right(rest)
    assert set(frame["body"][40:50]).isdisjoint(asked_for_labels(server) + asked_for_vectors(server))
    check_bill(server, out)


def test_texts_that_differ_in_what_counts_are_asked_each(server: FakeOpenAI):
    one = bases(60)
    frame = pd.DataFrame(
        {"body": [*one, *(f"{t} Order 1001." for t in one), *(f"{t} Order 1002." for t in one)]}
    )
    out = frame.llm.classify("body", LABELS, **NEAR)
    assert set(out["body_label_source"]) == {"api"}
    report = pandas_llm.last_run().reuse
    assert report.links.pairs >= 60
    assert report.links.refused["number"] >= 60
    assert report.certificate is None
    assert Counter(asked_for_labels(server)) == dict.fromkeys(frame["body"], 1)


# The certificate ---------------------------------------------------------------------------------------


def test_where_answers_disagree_nothing_is_shared_and_each_row_gets_its_own(server: FakeOpenAI, capsys):
    server.answer = answering(own_label_of)
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, dedupe="semantic")
    assert set(out["body_label_source"]) == {"api"}
    assert out["body_label"].tolist() == [own_label_of(text) for text in frame["body"]]
    assert Counter(asked_for_labels(server)) == dict.fromkeys(frame["body"], 1)
    found = pandas_llm.last_run().reuse.certificate
    assert (found.certified, found.threshold, found.saved) == (False, None, 0)
    assert f"{found.disagreements} of {found.audited}" in found.reason
    assert "nothing is reused" in found.reason
    assert "nothing is reused" in str(pandas_llm.last_run())
    assert out["body_label_similar_to"].isna().all()
    check_bill(server, out)
    again = frame.llm.classify("body", LABELS, **NEAR)
    assert set(again["body_label_source"]) == {"cache"}
    assert len(asked_for_labels(server)) == len(frame)


def test_a_threshold_that_is_given_is_kept_and_the_audit_only_reports(server: FakeOpenAI):
    server.answer = answering(own_label_of)
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, dedupe=Semantic(threshold=0.93), **QUIET)
    found = pandas_llm.last_run().reuse.certificate
    shared = out["body_label_source"] == "similar"
    assert (found.certified, found.threshold, found.saved) == (False, 0.93, int(shared.sum()))
    assert found.disagreements > 0
    assert found.rate > 0.3
    assert found.interval[0] > 0.05
    assert out.loc[shared, "body_label_similarity"].min() >= 0.93
    key_of = dict(zip(frame["body"], out["body_label"], strict=True))
    by_base = {base_of(t): key_of[base_of(t)] for t in frame["body"]}
    texts = frame.loc[shared, "body"]
    assert out.loc[shared, "body_label"].tolist() == [by_base[base_of(text)] for text in texts]
    check_bill(server, out)


def test_without_an_audit_a_threshold_that_is_given_is_taken_at_its_word(server: FakeOpenAI):
    frame = tickets(30)
    out = frame.llm.classify("body", LABELS, dedupe=Semantic(threshold=0.85, audit=0), **QUIET)
    found = pandas_llm.last_run().reuse.certificate
    assert (found.audited, found.certified) == (0, False)
    assert Counter(out["body_label_source"])["similar"] == found.saved >= 110
    assert set(bases(30)) <= set(asked_for_labels(server))
    assert len(asked_for_labels(server)) == len(frame) - found.saved


def test_too_few_to_certify_are_asked_without_an_audit(server: FakeOpenAI):
    frame = tickets(10)
    out = frame.llm.classify("body", LABELS, **NEAR)
    assert set(out["body_label_source"]) == {"api"}
    found = pandas_llm.last_run().reuse.certificate
    assert (found.audited, found.certified, found.saved) == (0, False, 0)


def test_one_row_in_twenty_may_be_wrong_and_that_is_what_the_audit_finds(server: FakeOpenAI):
    """Answers disagree among one way of writing alone: what is shared is as good as promised."""
    server.answer = answering(lambda t: own_label_of(t) if t.startswith("Hello, ") else label_of(t))
    frame = tickets(150)
    out = frame.llm.classify("body", LABELS, **NEAR)
    own = [own_label_of(t) if t.startswith("Hello, ") else label_of(t) for t in frame["body"]]
    shared = out["body_label_source"] == "similar"
    wrong = (out["body_label"].astype(object) != pd.Series(own))[shared]
    assert wrong.sum() <= 0.05 * max(1, shared.sum())
    assert (out["body_label"].astype(object) == pd.Series(own))[~shared].all()


# Every verb --------------------------------------------------------------------------------------------


def test_fields_of_a_schema_are_shared_together(server: FakeOpenAI):
    server.answer = lambda text, _: json.dumps(
        {"confidence": label_of(text), "letters": len(base_of(text)), "parts": base_of(text).split()[:2]}
    )
    frame = tickets(60)
    schema = {"confidence": str, "letters": int, "parts": list[str]}
    out = frame.llm.extract("body", schema, **NEAR)
    assert out["letters"].tolist() == [len(base_of(text)) for text in frame["body"]]
    assert out["parts"].tolist() == [base_of(text).split()[:2] for text in frame["body"]]
    shared = np.flatnonzero(out["extract_source"] == "similar")
    assert len(shared) > 100
    out["parts"].iloc[shared[0]].append("mine")  # a row's list is its own
    assert sum(each[-1] == "mine" for each in out["parts"]) == 1
    check_bill(server, out, "extract")


@pytest.mark.parametrize("field", ["confidence", "explanation", "my_explanation"])
def test_a_field_of_any_name_counts_when_answers_are_compared(server: FakeOpenAI, field: str):
    server.answer = lambda text, _: json.dumps({field: text, "same": 1})
    out = tickets(60).llm.extract("body", {field: str, "same": int}, **NEAR)
    assert set(out["extract_source"]) == {"api"}
    assert pandas_llm.last_run().reuse.certificate.disagreements > 0


@pytest.mark.parametrize("output", ["confidence", "explanation", "the_confidence"])
def test_a_label_of_any_name_counts_when_answers_are_compared(server: FakeOpenAI, output: str):
    server.answer = answering(own_label_of)
    out = tickets(60).llm.classify("body", LABELS, output=output, **NEAR)
    assert set(out[f"{output}_source"]) == {"api"}


def test_records_are_shared(server: FakeOpenAI):
    server.answer = lambda text, _: json.dumps({"records": [{"first": base_of(text).split()[0]}]})
    frame = tickets(60)
    out = frame.llm.extract("body", {"first": str}, many=True, **NEAR)
    assert [each[0]["first"] for each in out["records"]] == [base_of(t).split()[0] for t in frame["body"]]
    assert (out["extract_source"] == "similar").sum() > 100


def test_explanations_may_differ_where_labels_agree(server: FakeOpenAI):
    server.answer = lambda text, _: json.dumps({"explanation": f"I read {text!r}.", "label": label_of(text)})
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, explain=True, **NEAR)
    shared = out[out["body_label_source"] == "similar"]
    assert len(shared) > 100
    told = {f"I read {base_of(text)!r}." for text in shared["body"]}
    assert set(shared["body_label_explanation"]) == told


def test_confidences_are_shared_with_their_labels(server: FakeOpenAI):
    server.label_probabilities = {"bug": 0.7, "question": 0.2, "praise": 0.1}
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, confidence=True, **NEAR)
    check_right(out)
    shared = out["body_label_source"] == "similar"
    assert shared.sum() > 100
    assert out.loc[shared, "body_label_confidence"].notna().all()


def test_several_labels_a_row_are_shared(server: FakeOpenAI):
    server.answer = lambda text, _: json.dumps({"labels": sorted({label_of(text), "bug"}, key=LABELS.index)})
    frame = tickets(60)
    out = frame.llm.classify("body", LABELS, multi_label=True, **NEAR)
    wanted = [sorted({label_of(text), "bug"}, key=LABELS.index) for text in frame["body"]]
    assert out["body_label"].tolist() == wanted
    assert (out["body_label_source"] == "similar").sum() > 100


def test_generated_texts_need_somebody_to_say_when_they_agree(server: FakeOpenAI):
    server.answer = lambda text, _: f"About {base_of(text)} ({len(text)})"
    frame = tickets(60)
    with pytest.raises(OptionsError, match="Semantic\\(agreement="):
        frame.llm.generate("body", "Sum it up.", **NEAR)
    assert not server.requests
    asked: list[tuple[object, object]] = []

    def close(a: str, b: str) -> bool:
        asked.append((a, b))
        return a.partition(" (")[0] == b.partition(" (")[0]

    out = frame.llm.generate("body", "Sum it up.", dedupe=Semantic(agreement=close), **QUIET)
    assert {type(each) for pair in asked for each in pair} == {str}
    shared = out["body_output_source"] == "similar"
    assert shared.sum() > 100
    assert out["body_output"].str.startswith("About").all()
    check_bill(server, out, "body_output")


def test_agreement_of_several_fields_gets_their_values_and_may_refuse(server: FakeOpenAI):
    server.answer = lambda text, _: json.dumps({"a": label_of(text), "b": len(text)})
    seen: list[object] = []

    def never(one: list[object], other: list[object]) -> bool:
        seen.append((one, other))
        return False

    out = tickets(60).llm.extract("body", {"a": str, "b": int}, dedupe=Semantic(agreement=never), **QUIET)
    assert set(out["extract_source"]) == {"api"}
    assert all(isinstance(one, list) and len(one) == 2 for pair in seen for one in pair)
