"""Rows grouped with those that say the same, and rows nearest to a query: by vectors, no language model."""

from __future__ import annotations

import asyncio
import csv
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm import configure
from pandas_llm.errors import (
    AuthError,
    BudgetWarning,
    IncompleteWarning,
    LLMError,
    OptionsError,
    PromptError,
    RowErrors,
)

QUIET = {"progress": False}
COLUMNS = ["body_group", "body_group_size", "body_group_similarity"]
FRAME = pd.DataFrame(
    {
        "body": [
            "Where is my order 1001?",
            "Hi, where is my order 1001?",
            None,
            "Where is my order 1002?",
            "Where is my order 1001?",
            "I never got a refund for the shoes.",
            "i never got a refund for the shoes",
            "   ",
        ]
    },
    index=list("abcdefgh"),
)
GROUPS = [0, 0, None, 1, 0, 2, 2, None]


def groups_of(out, column="body_group"):
    return [None if pd.isna(group) else int(group) for group in out[column]]


def refused(server, call, *words, kind=OptionsError):
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert server.requests == []


# Groups ------------------------------------------------------------------------------------------------


def test_rows_that_say_the_same_get_one_group_and_none_is_dropped(server: FakeOpenAI):
    before = FRAME.copy(deep=True)
    out = FRAME.llm.dedupe("body", **QUIET)
    pd.testing.assert_frame_equal(FRAME, before)
    pd.testing.assert_frame_equal(out[["body"]], before)
    assert list(out.columns) == ["body", *COLUMNS]
    assert [str(dtype) for dtype in out[COLUMNS].dtypes] == ["Int64", "Int64", "float64"]
    assert groups_of(out) == GROUPS
    assert groups_of(out, "body_group_size") == [3, 3, None, 1, 3, 2, 2, None]
    similarity = out["body_group_similarity"]
    assert similarity[["a", "d", "e", "f"]].eq(1.0).all()
    assert similarity[["b", "g"]].between(0.8, 1.0).all()
    assert similarity[["c", "h"]].isna().all()
    assert server.bill.completions == 0
    assert {seen.body["model"] for seen in server.requests} == {"text-embedding-3-small"}


def test_grouping_again_is_free_and_shares_its_vectors_with_embed(server: FakeOpenAI):
    first = FRAME.llm.dedupe("body", **QUIET)
    cost = server.bill.cost
    again = first.llm.dedupe("body", **QUIET)
    pd.testing.assert_frame_equal(again, first)
    assert FRAME.llm.embed("body", **QUIET)["body_embedding_source"].isin(["cache", "skipped"]).all()
    assert server.bill.cost == cost > 0
    assert set(server.bill.texts.values()) == {1}
    assert pandas_llm.runs()["verb"].tolist() == ["embed"] * 3


def test_without_guards_similarity_alone_decides_and_a_threshold_of_1_takes_equal_vectors(server):
    assert groups_of(FRAME.llm.dedupe("body", guards=False, threshold=0.7, **QUIET))[3] == 0
    # Case is lost on this embedder, greetings aren't.
    strict = groups_of(FRAME.llm.dedupe("body", threshold=1, on_conflict="overwrite", **QUIET))
    assert strict[0] == strict[4] == 0
    assert strict[1] != 0


def test_a_group_is_made_of_near_copies_of_its_first_text_and_no_seed_plays_a_part(server: FakeOpenAI):
    data = Path(pandas_llm.__file__).parent / "data" / "banking77.csv"
    with data.open(encoding="utf-8", newline="") as file:
        bases = [row["text"] for row in csv.DictReader(file)][:150]
    dice = random.Random(3)
    rows = [way for text in bases for way in (text, f"Hi, {text}", f"{text}  Thanks!", f"About 7: {text}")]
    dice.shuffle(rows)
    frame = pd.DataFrame({"body": rows})
    out = frame.llm.dedupe("body", **QUIET)
    assert out["body_group"].max() + 1 == out["body_group"].nunique()
    firsts = out.drop_duplicates("body_group")
    assert firsts["body_group"].tolist() == list(range(len(firsts)))
    assert firsts["body_group_similarity"].eq(1.0).all()
    assert out["body_group_similarity"].ge(0.8).all()
    assert out.groupby("body_group")["body"].size().loc[out["body_group"]].tolist() == list(
        out["body_group_size"]
    )
    numbered = out["body"].str.startswith("About 7")
    together = out.groupby("body_group")["body"].agg(lambda texts: texts.str.startswith("About 7").nunique())
    assert together.eq(1).all()
    assert len(firsts) < 0.7 * len(frame)
    assert numbered.sum() == 150
    pd.testing.assert_frame_equal(frame.llm.dedupe("body", **QUIET), out)


def test_a_list_of_columns_and_a_template_give_a_group_without_a_columns_name(server: FakeOpenAI):
    frame = pd.DataFrame({"title": ["Order", "Order"], "body": ["It is late.", "it is late"]})
    out = frame.llm.dedupe(["title", "body"], **QUIET)
    assert list(out.columns)[2:] == ["group", "group_size", "group_similarity"]
    assert frame.llm.dedupe("{title}: {body}", output="same", **QUIET).columns[2] == "same"


def test_a_series_gives_a_frame_of_three_columns_with_its_index(server: FakeOpenAI):
    out = FRAME["body"].llm.dedupe(**QUIET)
    assert list(out.columns) == COLUMNS
    assert list(out.index) == list(FRAME.index)
    assert groups_of(out) == GROUPS
    nameless = pd.Series(["a text", "a text"]).llm.dedupe(**QUIET)
    assert list(nameless.columns) == ["group", "group_size", "group_similarity"]


def test_the_coroutine_and_the_estimate_do_the_same(server: FakeOpenAI):
    estimate = FRAME.llm.estimate.dedupe("body", **QUIET)
    assert (estimate.requests, estimate.skipped) == (5, 2)
    assert server.requests == []
    out = estimate.run()
    pd.testing.assert_frame_equal(asyncio.run(FRAME.llm.aio.dedupe("body", **QUIET)), out)
    series = asyncio.run(FRAME["body"].llm.aio.dedupe(**QUIET))
    pd.testing.assert_frame_equal(series, out[COLUMNS], check_column_type=False)


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_nothing_is_grouped_too(server: FakeOpenAI, rows):
    out = FRAME[:rows].llm.dedupe("body", **QUIET)
    assert groups_of(out) == [0] * rows
    assert [str(dtype) for dtype in out[COLUMNS].dtypes] == ["Int64", "Int64", "float64"]


def test_a_function_and_the_local_model_make_vectors_without_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def lengths(texts):
        return np.array([[len(text), 1.0] for text in texts])

    assert groups_of(FRAME.llm.dedupe("body", model=lengths, **QUIET)) == GROUPS
    assert groups_of(FRAME.llm.dedupe("body", model="local", on_conflict="overwrite", **QUIET)) == GROUPS
    with pytest.raises(AuthError, match="local"):
        FRAME.llm.dedupe("body", **QUIET)


def test_vectors_without_numbers_or_direction_leave_a_text_alone(server: FakeOpenAI):
    def broken(texts):
        return np.array([[np.nan, 1.0] if "shoes" in text else [0.0, 0.0] for text in texts])

    out = FRAME.llm.dedupe("body", model=broken, **QUIET)
    assert groups_of(out) == [0, 1, None, 2, 0, 3, 4, None]


# What is there already ---------------------------------------------------------------------------------


def test_its_own_columns_are_replaced_where_they_stand_and_a_hand_correction_never(server: FakeOpenAI):
    out = FRAME.llm.dedupe("body", **QUIET)
    out["after"] = 1
    again = out.llm.dedupe("body", threshold=0.9, **QUIET)
    assert list(again.columns) == ["body", *COLUMNS, "after"]
    turned = out.iloc[::-1].llm.dedupe("body", **QUIET)
    assert groups_of(turned)[::-1] == [1, 1, None, 2, 1, 0, 0, None]
    sent = len(server.requests)
    corrected = out.copy()
    corrected.loc["b", "body_group"] = 7
    for frame, on_conflict in ((corrected, "raise"), (corrected, "keep"), (out[:4], "raise")):
        with pytest.raises(OptionsError, match="overwrite"):
            frame.llm.dedupe("body", on_conflict=on_conflict, **QUIET)
    assert len(server.requests) == sent
    assert groups_of(corrected.llm.dedupe("body", on_conflict="overwrite", **QUIET)) == GROUPS
    with pytest.raises(OptionsError, match="body_group"):
        FRAME.assign(body_group=3).llm.dedupe("body", cache=False, **QUIET)


def test_the_frame_says_how_its_rows_were_grouped(server: FakeOpenAI):
    out = FRAME.llm.dedupe("body", threshold=0.85, **QUIET)
    said = json.loads(out.attrs["pandas_llm"])["body_group"]
    assert (said["verb"], said["threshold"], said["guards"]) == ("dedupe", 0.85, True)
    assert said["model"] == "text-embedding-3-small"
    assert said["columns"] == COLUMNS
    assert list(out.llm.provenance) == ["body_group"]
    assert "Where is my order 1001?" in str(out.llm.show(0))
    again = out.llm.classify("body", ["bug", "question"], **QUIET)
    assert groups_of(again) == GROUPS


# What goes wrong ---------------------------------------------------------------------------------------


def test_a_text_without_a_vector_has_no_group_and_a_warning_says_how_many(server: FakeOpenAI):
    server.fault("refund", faults.error(400, "invalid_input", "This text can't be embedded."))
    with pytest.warns(IncompleteWarning, match="2 of 8 rows have no answer"):
        out = FRAME.llm.dedupe("body", **QUIET)
    assert groups_of(out) == [0, 0, None, 1, 0, None, None, None]
    out = FRAME.llm.dedupe("body", details="errors", **QUIET)
    assert out["body_group_error"].notna().tolist() == [
        group is None for group in [0, 0, 0, 0, 0, None, None, 0]
    ]


def test_side_columns_are_those_of_the_vectors_and_their_sum_is_the_bill(server: FakeOpenAI):
    out = FRAME.llm.dedupe("body", details="usage", **QUIET)
    assert list(out.columns)[1:4] == COLUMNS
    assert out["body_group_cost"].sum() == pytest.approx(server.bill.cost)
    assert out["body_group_source"].tolist() == [
        *["api", "api", "skipped", "api", "duplicate", "api", "api", "skipped"]
    ]
    assert list(out.llm.dedupe("body", **QUIET).columns) == ["body", *COLUMNS]


def test_what_money_does_not_reach_has_no_group_until_it_does(server: FakeOpenAI):
    frame = pd.DataFrame({"body": [f"{i:03} " + "word " * 1_500 for i in range(300)]})
    with pytest.warns((BudgetWarning, IncompleteWarning)):
        out = frame.llm.dedupe("body", guards=False, max_cost=0.006, **QUIET)
    grouped = out["body_group"].notna()
    assert 0 < grouped.sum() < 300
    assert frame.llm.dedupe("body", guards=False, **QUIET)["body_group"].notna().all()
    assert set(server.bill.texts.values()) == {1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": "auto"}, ["semantic"]),
        ({"threshold": 0}, ["above 0"]),
        ({"threshold": 1.5}, ["at most 1"]),
        ({"threshold": True}, ["threshold"]),
        ({"threshold": float("nan")}, ["threshold"]),
        ({"guards": "yes"}, ["guards"]),
        ({"dedupe": "semantic"}, ["dedupe", "leave it out"]),
        ({"dedupe": False}, ["leave it out"]),
        ({"treshold": 0.9}, ["Did you mean 'threshold'"]),
        ({"output": ""}, ["output"]),
        ({"model": "local", "client": object()}, ["client"]),
    ],
)
def test_what_can_not_be_right_is_refused_before_anything_is_sent(server: FakeOpenAI, options, words):
    refused(server, lambda: FRAME.llm.dedupe("body", **options), *words)


def test_an_unknown_column_is_refused_by_both(server: FakeOpenAI):
    refused(server, lambda: FRAME.llm.dedupe("bdy"), "Did you mean 'body'", kind=PromptError)
    refused(server, lambda: FRAME.llm.similar("bdy", "a query"), "Did you mean 'body'", kind=PromptError)


# Search ------------------------------------------------------------------------------------------------


def test_the_nearest_rows_come_best_first_with_their_labels(server: FakeOpenAI):
    before = FRAME.copy(deep=True)
    found = FRAME.llm.similar("body", "refund for shoes", k=3, **QUIET)
    pd.testing.assert_frame_equal(FRAME, before)
    assert list(found.columns) == ["body", "similarity"]
    assert set(found.index[:2]) == {"f", "g"}
    assert len(found) == 3
    assert found["similarity"].is_monotonic_decreasing
    assert found["similarity"].dtype == np.float64
    pd.testing.assert_frame_equal(found[["body"]], FRAME.loc[found.index])
    found.iloc[0, 0] = "changed"
    pd.testing.assert_frame_equal(FRAME, before)


def test_rows_without_text_are_never_found_and_equal_ones_stand_in_the_frames_order(server: FakeOpenAI):
    found = FRAME.llm.similar("body", "Where is my order 1001?", k=100, **QUIET)
    assert len(found) == 6
    assert list(found.index[:2]) == ["a", "e"]
    assert found["similarity"].iloc[0] == pytest.approx(1.0, abs=1e-5)


def test_a_second_query_sends_itself_alone(server: FakeOpenAI):
    FRAME.llm.embed("body", **QUIET)
    FRAME.llm.similar("body", "refund", **QUIET)
    FRAME.llm.similar("body", "delivery", **QUIET)
    FRAME.llm.similar("body", "delivery", **QUIET)
    assert [seen.body["input"] for seen in server.requests[1:]] == [["refund"], ["delivery"]]


def test_the_similarity_takes_another_name_where_its_own_is_taken(server: FakeOpenAI):
    frame = FRAME.assign(similarity=1)
    found = frame.llm.similar("body", "refund", k=2, **QUIET)
    assert list(found.columns) == ["body", "similarity", "body_similarity"]
    sent = len(server.requests)
    with pytest.raises(OptionsError, match="rename them"):
        found.llm.similar("body", "refund", **QUIET)
    assert len(server.requests) == sent


def test_any_frame_keeps_its_kind_of_index_and_columns(server: FakeOpenAI):
    frame = pd.DataFrame({("a", "t"): ["one text", "another text"], ("b", ""): [1, 2]}, index=[5, 5])
    found = frame.llm.similar(("a", "t"), "another", k=1, **QUIET)
    assert found.columns.tolist() == [("a", "t"), ("b", ""), ("similarity", "")]
    assert found.index.tolist() == [5]
    assert len(FRAME[:0].llm.similar("body", "a query", **QUIET)) == 0


def test_a_series_gives_its_texts_and_their_similarity(server: FakeOpenAI):
    found = FRAME["body"].llm.similar("refund for shoes", k=2, **QUIET)
    assert list(found.columns) == ["body", "similarity"]
    assert set(found.index) == {"f", "g"}
    later = asyncio.run(FRAME["body"].llm.aio.similar("refund for shoes", k=2, **QUIET))
    pd.testing.assert_frame_equal(later, found)
    pd.testing.assert_frame_equal(
        asyncio.run(FRAME.llm.aio.similar("body", "refund for shoes", k=2, **QUIET)), found
    )
    estimate = FRAME["body"].llm.estimate.similar("a new query", k=1, **QUIET)
    assert estimate.requests == 1
    assert len(estimate.run()) == 1


def test_a_query_without_a_vector_is_an_error_and_a_row_without_one_a_warning(server: FakeOpenAI):
    server.fault("poison", faults.error(400, "invalid_input", "This text can't be embedded."))
    with pytest.raises(RowErrors, match="query has no vector"):
        FRAME.llm.similar("body", "a poison query", **QUIET)
    frame = pd.DataFrame({"body": ["poison", "a text"]})
    with pytest.warns(IncompleteWarning, match="1 of 2 rows has no vector"):
        found = frame.llm.similar("body", "a query", **QUIET)
    assert found["body"].tolist() == ["a text"]


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        ("", {}, ["query"]),
        ("  ", {}, ["query"]),
        (7, {}, ["query"]),
        ("a query", {"k": 0}, ["from 1 on"]),
        ("a query", {"k": 2.5}, ["whole number"]),
        ("a query", {"k": True}, ["whole number"]),
        ("a query", {"top": 5}, ["Unknown option"]),
    ],
)
def test_a_query_that_can_not_be_right_is_refused(server: FakeOpenAI, query, options, words):
    refused(server, lambda: FRAME.llm.similar("body", query, **options), *words)


def test_options_that_are_configured_hold_for_both(server: FakeOpenAI):
    configure(model="local", progress=False)
    assert len(FRAME.llm.similar("body", "a query", k=2)) == 2
    assert groups_of(FRAME.llm.dedupe("body")) == GROUPS
    assert server.requests == []
    assert issubclass(RowErrors, LLMError)
