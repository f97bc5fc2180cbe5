"""What the store keeps of dedupe="semantic": a re-run is free, two questions never mix, texts are told of."""

from __future__ import annotations

import io
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import openai
import pandas as pd
import pytest
from fakes import children
from fakes.near_texts import (
    LABELS,
    answering,
    asked_for_labels,
    asked_for_vectors,
    base_of,
    bases,
    check_right,
    clear,
    label_of,
    ready,
    tickets,
)
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import Semantic
from pandas_llm.errors import OptionsError

QUIET = {"progress": False}
NEAR = {"dedupe": Semantic(max_error=0.2), **QUIET}  # certified by 20 audits of 100 texts
COUNT = 25


@pytest.fixture(autouse=True)
def right_labels(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        ready(request.getfixturevalue("server"))


def labelled(frame: pd.DataFrame, **options: object) -> pd.DataFrame:
    return frame.llm.classify("body", LABELS, **{**NEAR, **options})


def line_about(frame: pd.DataFrame, folder: Path) -> str:
    """A script that labels the frame in another process."""
    frame.to_json(folder / "frame.json")
    return f"""
frame = pd.read_json({str(folder / "frame.json")!r})
out = frame.llm.classify("body", LABELS, dedupe=pandas_llm.Semantic(max_error=0.2), progress=False)
say(labels=out["body_label"].tolist(), sources=out["body_label_source"].value_counts().to_dict())
"""


def bill(server: FakeOpenAI) -> tuple[int, int, float]:
    return server.bill.completions, server.bill.embeddings, server.bill.cost


def shared_rows(out: pd.DataFrame) -> pd.DataFrame:
    found = out[out["body_label_source"] == "similar"]
    assert len(found) > 50
    return found


# Free again --------------------------------------------------------------------------------------------

AFTERWARDS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "the same": lambda out: out,
    "without its columns": lambda out: out[["body"]],
    "sorted": lambda out: out.sort_values("body"),
    "filtered": lambda out: out[out["body"].str.startswith(("Hi", "Hello"))],
    "one row": lambda out: out[out["body_label_source"] == "similar"].iloc[[5]],
    "numbered anew": lambda out: out.sample(frac=0.5, random_state=1).reset_index(drop=True),
    "repeated": lambda out: pd.concat([out, out.iloc[:50]], ignore_index=True),
    "merged": lambda out: out.merge(pd.DataFrame({"body": out["body"][::2], "who": "me"}), on="body"),
    "through csv": lambda out: pd.read_csv(io.StringIO(out.to_csv(index=False))),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    """A frame that was labelled once, its store, and a server that bills nothing more."""
    folder = tmp_path_factory.mktemp("done")
    with ready(FakeOpenAI()) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.base_url)
        patch.setenv("OPENAI_API_KEY", "sk-test")
        out = labelled(tickets(COUNT), cache=folder / "store.sqlite3")
        shared_rows(out)
        yield server, out, folder / "store.sqlite3"


@pytest.mark.parametrize("change", AFTERWARDS)
@pytest.mark.parametrize("only", [False, True], ids=["asking", 'cache="only"'])
def test_a_re_run_costs_nothing_whatever_became_of_the_frame(done, monkeypatch, change: str, only: bool):
    server, out, path = done
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    before, requests = bill(server), len(server.requests)
    frame = AFTERWARDS[change](out)
    with pandas_llm.option_context(cache=path):
        again = labelled(frame, **({"cache": "only"} if only else {}))
    assert (bill(server), len(server.requests)) == (before, requests)
    check_right(again)
    assert set(again["body_label_source"]) <= {"cache", "similar"}
    assert pandas_llm.last_run().cost == 0
    assert again["body_label_cost"].sum() == 0
    own = dict(zip(out["body"], out["body_label_similar_to"].fillna("-"), strict=True))
    assert again["body_label_similar_to"].fillna("-").tolist() == [own[text] for text in again["body"]]


def test_a_re_run_in_a_new_process_costs_nothing(server: FakeOpenAI, tmp_path: Path):
    frame = tickets(COUNT)
    out = labelled(frame)
    before = bill(server)
    child = children.start(line_about(frame, tmp_path), tmp_path)
    assert child.wait() == 0, child.stderr
    assert bill(server) == before
    assert child.said["labels"] == out["body_label"].tolist()
    assert child.said["sources"]["similar"] == len(shared_rows(out))


def test_the_same_texts_make_the_same_groups_in_any_store(server: FakeOpenAI, tmp_path: Path):
    outs = [labelled(tickets(COUNT), cache=tmp_path / f"{n}.sqlite3") for n in range(2)]
    pd.testing.assert_frame_equal(*outs)


def test_exact_dedupe_asks_what_was_only_shared_and_its_own_answer_counts_from_then_on(server: FakeOpenAI):
    shared = shared_rows(labelled(tickets(COUNT)))
    paid = server.bill.completions
    exact = shared[["body"]].llm.classify("body", LABELS, **QUIET)
    assert set(exact["body_label_source"]) == {"api"}
    assert server.bill.completions == paid + len(shared)
    again = labelled(shared[["body"]])
    assert set(again["body_label_source"]) == {"cache"}
    assert again["body_label_similar_to"].isna().all()


def test_an_exact_run_drops_the_side_columns_that_only_sharing_has(server: FakeOpenAI):
    out = labelled(tickets(COUNT))
    exact = out.llm.classify("body", LABELS, **QUIET)
    assert [name for name in exact.columns if "similar" in name] == []
    check_right(exact)
    mine = tickets(COUNT).assign(body_label_similarity=1.0)
    paid = bill(server)
    with pytest.raises(OptionsError, match="'body_label_similarity' already"):
        labelled(mine)
    assert bill(server) == paid


def test_columns_of_several_levels_are_shared_and_free_again(server: FakeOpenAI):
    frame = tickets(COUNT)
    frame.columns = pd.MultiIndex.from_tuples([("text", "body")])
    out = frame.llm.classify(("text", "body"), LABELS, output="topic", **NEAR)
    assert (out["topic_source"] == "similar").sum() > 50
    assert out["topic"].tolist() == [label_of(text) for text in out["text", "body"]]
    paid = bill(server)
    out[::3].llm.classify(("text", "body"), LABELS, output="topic", **NEAR)
    assert bill(server) == paid


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_a_ready_client_is_asked_for_vectors_too_and_stays_open(server: FakeOpenAI, monkeypatch, kind):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    client = kind(base_url=server.base_url, api_key="sk-of-the-client")
    for instructions in (None, "Again."):
        out = labelled(tickets(COUNT), client=client, instructions=instructions)
        check_right(out)
        shared_rows(out)
    assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer sk-of-the-client"}
    assert len(asked_for_vectors(server)) == len(out)


# Not to be mixed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": ["bug", "question", "praise", "other"]},
        {"labels": {"bug": "it is broken", "question": None, "praise": None}},
        {"instructions": "Mind the tone."},
        {"model": "gpt-5.4-nano"},
        {"params": {"seed": 7}},
        {"examples": [("It crashes", "bug")]},
    ],
    ids=["labels", "descriptions", "instructions", "model", "params", "examples"],
)
def test_another_question_reuses_nothing_and_is_compared_with_nothing(server: FakeOpenAI, changed):
    labelled(tickets(COUNT))
    paid, vectors = server.bill.completions, len(asked_for_vectors(server))
    fresh = tickets(COUNT)
    arguments = {"labels": LABELS, **NEAR, **changed}
    out = fresh.llm.classify("body", arguments.pop("labels"), **arguments)
    record = pandas_llm.last_run()
    check_right(out)
    assert server.bill.completions - paid == Counter(out["body_label_source"])["api"] >= COUNT
    assert (record.reuse.again, record.reuse.known) == (0, 0)
    assert len(asked_for_vectors(server)) == vectors, "vectors are of texts, whatever is asked about them"
    keys = out.llm.show(0).key, tickets(COUNT).llm.estimate.classify("body", LABELS, **NEAR).show(0).key
    assert keys[0] != keys[1]


def test_a_stricter_promise_is_not_met_by_an_older_certificate(server: FakeOpenAI):
    frame = tickets(COUNT)
    first = labelled(frame, dedupe=Semantic(max_error=0.25))
    paid = server.bill.completions
    same = labelled(frame, dedupe=Semantic(max_error=0.3, confidence=0.9))
    assert same["body_label_source"].tolist() == [
        "similar" if source == "similar" else "cache" for source in first["body_label_source"]
    ]
    assert server.bill.completions == paid
    strict = labelled(frame, dedupe=Semantic(max_error=0.01))
    assert server.bill.completions > paid
    assert pandas_llm.last_run().reuse.again == 0
    check_right(strict)


def test_another_idea_of_agreement_is_audited_anew(server: FakeOpenAI):
    server.answer = lambda text, _: text
    frame = tickets(COUNT)

    def anything(_a: str, _b: str) -> bool:
        return True

    def nothing(_a: str, _b: str) -> bool:
        return False

    lax = frame.llm.generate("body", "Repeat.", dedupe=Semantic(max_error=0.2, agreement=anything), **QUIET)
    assert (lax["body_output_source"] == "similar").sum() > 50
    paid = server.bill.completions
    frame.llm.generate("body", "Repeat.", dedupe=Semantic(max_error=0.2, agreement=anything), **QUIET)
    assert server.bill.completions == paid
    strict = frame.llm.generate("body", "Repeat.", dedupe=Semantic(max_error=0.2, agreement=nothing), **QUIET)
    assert strict["body_output"].tolist() == frame["body"].tolist()
    assert set(strict["body_output_source"]) <= {"cache", "api"}


def test_of_appended_rows_only_the_new_ones_are_asked_and_embedded(server: FakeOpenAI):
    frame = tickets(COUNT, ways=1)
    labelled(frame)
    assert sorted(asked_for_vectors(server)) == sorted(frame["body"])
    more = pd.concat([frame, tickets(COUNT)[COUNT:]], ignore_index=True)
    clear(server)
    out = labelled(more)
    check_right(out)
    new = set(more["body"][COUNT:])
    assert sorted(asked_for_vectors(server)) == sorted(new)
    assert set(asked_for_labels(server)) <= new
    report = pandas_llm.last_run().reuse
    assert (report.known, report.texts) == (COUNT, len(new))
    assert report.certificate.certified
    key_of = out.llm.show(0).key
    assert key_of in set(shared_rows(out)["body_label_similar_to"])
    # New rows alone find the old ones in the store.
    clear(server)
    last = labelled(pd.DataFrame({"body": [f"{text}  " for text in bases(COUNT)] * 2}))
    assert pandas_llm.last_run().reuse.known >= COUNT
    check_right(last)


def test_answers_of_an_exact_run_are_shared_without_being_asked_again(server: FakeOpenAI):
    frame = tickets(COUNT, ways=1)
    frame.llm.classify("body", LABELS, **QUIET)
    paid = server.bill.completions
    out = labelled(tickets(COUNT))
    check_right(out)
    assert set(asked_for_labels(server)[paid:]).isdisjoint(frame["body"])
    assert pandas_llm.last_run().reuse.certificate.certified


# What is kept ------------------------------------------------------------------------------------------


def rows_of(path: Path, table: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def test_a_shared_answer_is_never_stored_under_the_key_of_who_took_it(server: FakeOpenAI, own_settings: Path):
    from pandas_llm.io.store import open_store

    out = labelled(tickets(COUNT), details="all")
    store = open_store(own_settings)
    shared = shared_rows(out)
    for key in shared["body_label_key"]:
        assert not any(store.known_payloads(bytes.fromhex(key)))
        assert store.raw(bytes.fromhex(key)) == ()
    asked = out[out["body_label_source"] == "api"]
    for key in [*asked["body_label_key"], *shared["body_label_similar_to"]]:
        assert any(store.known_payloads(bytes.fromhex(key)))


def test_texts_are_kept_only_where_they_are_compared_and_that_is_said(
    server: FakeOpenAI, own_settings: Path, capsys
):
    frame = tickets(COUNT)
    frame.llm.classify("body", LABELS)
    said = capsys.readouterr()
    assert "compare" not in said.err + said.out
    assert rows_of(own_settings, "similar") == rows_of(own_settings, "reuses") == []
    frame.llm.classify("body", LABELS, instructions="Again.", dedupe=NEAR["dedupe"])
    said = capsys.readouterr()
    line = next(line for line in (said.err + said.out).splitlines() if "keeps the texts" in line)
    assert str(own_settings) in line
    assert len(rows_of(own_settings, "similar")) >= COUNT
    assert len(rows_of(own_settings, "reuses")) > 50
    pandas_llm.clear_cache()
    assert rows_of(own_settings, "similar") == rows_of(own_settings, "reuses") == []


def test_a_hand_correction_of_a_shared_answer_is_not_lost(server: FakeOpenAI):
    out = labelled(tickets(COUNT))
    row = int(shared_rows(out).index[3])
    edited = out.copy()
    other = next(label for label in LABELS if label != out["body_label"][row])
    edited.loc[row, "body_label"] = other
    part = edited[edited.index >= row].reset_index(drop=True)
    with pytest.raises(OptionsError, match="1 value of 'body_label' wasn't written by a run"):
        labelled(part)
    kept = labelled(part, on_conflict="keep")
    assert (kept["body_label"][0], kept["body_label_source"][0]) == (other, "given")
    exact = out[5:].llm.classify("body", LABELS, **QUIET)
    check_right(exact)


def test_show_has_both_texts_of_a_shared_answer(server: FakeOpenAI):
    out = labelled(tickets(COUNT))
    row = int(shared_rows(out).index[3])
    shown = out.llm.show(row)
    assert shown.key == out["body_label_similar_to"][row]
    asked = next(text for text in asked_for_labels(server) if base_of(text) == base_of(out["body"][row]))
    assert asked in shown.messages[-1]["content"]
    assert json.loads(shown.replies[0])["choices"][0]["message"]["content"] == json.dumps(
        {"label": label_of(asked)}
    )
    assert out["body"][row] in str(shown)
    assert f"{out['body_label_similarity'][row]:.3f}" in str(shown)
    moved = out.sample(frac=1, random_state=2).reset_index(drop=True)
    at = moved.index[moved["body"] == out["body"][row]][0]
    assert str(moved.llm.show(int(at))).replace(f"Row {at}", f"Row {row}") == str(shown)
    own = out.llm.show(int(out.index[out["body_label_source"] == "api"][0]))
    assert own.note == ""


def test_evaluation_counts_a_shared_answer_as_free(server: FakeOpenAI):
    out = labelled(tickets(COUNT))
    gold = [label_of(text) for text in out["body"]]
    found = out.llm.evaluate(gold)
    assert found.accuracy == 1.0
    paid = pandas_llm.last_run().cost
    assert found.cost_per_right_label == pytest.approx(paid / len(out))
    for frame in (labelled(out), out[["body", "body_label"]]):
        assert frame.llm.evaluate(gold).cost_per_right_label == pytest.approx(paid / len(out))


def test_an_answer_that_was_cleared_takes_those_it_was_shared_with_along(server: FakeOpenAI):
    out = labelled(tickets(COUNT))
    shared = shared_rows(out)
    key = shared["body_label_similar_to"].iloc[0]
    took = shared[shared["body_label_similar_to"] == key]
    source = out[["body"]][[base_of(t) == base_of(took["body"].iloc[0]) for t in out["body"]]]
    pandas_llm.clear_cache(frame=out[out["body"].isin(source["body"]) & (out["body_label_source"] == "api")])
    paid = server.bill.completions
    again = labelled(out[["body"]])
    check_right(again)
    assert paid < server.bill.completions <= paid + len(source)


def test_refresh_asks_and_audits_again(server: FakeOpenAI):
    frame = tickets(COUNT)
    out = labelled(frame)
    paid = server.bill.completions
    server.answer = answering(lambda text: "bug")
    fresh = labelled(out, cache="refresh")
    assert set(fresh["body_label"]) == {"bug"}
    assert server.bill.completions == 2 * paid
    assert pandas_llm.last_run().reuse.again == 0
    assert set(labelled(fresh)["body_label"]) == {"bug"}
    assert server.bill.completions == 2 * paid


def test_two_processes_at_once_never_pay_twice(server: FakeOpenAI, tmp_path: Path):
    server.latency = 0.01
    frame = tickets(COUNT)
    script = line_about(frame, tmp_path)
    (tmp_path / "other").mkdir()
    started = [children.start(script, folder) for folder in (tmp_path, tmp_path / "other")]
    for child in started:
        assert child.wait() == 0, child.stderr
        assert child.said["labels"] == [label_of(text) for text in frame["body"]]
    assert max(Counter(asked_for_labels(server)).values()) == 1
    assert max(Counter(asked_for_vectors(server)).values()) == 1
