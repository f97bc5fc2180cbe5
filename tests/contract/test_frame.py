"""What comes back: rows, order, index, dtypes, side columns, sources, the bill, columns that were there."""

import json
import math
import warnings
from datetime import date, datetime
from enum import Enum
from typing import Literal, TypedDict

import numpy as np
import pandas as pd
import pytest
from fakes import faults
from fakes.answers import Answer
from pydantic import BaseModel

import pandas_llm
from pandas_llm.core.types import SOURCES
from pandas_llm.errors import (
    BudgetWarning,
    IncompleteWarning,
    LLMWarning,
    OptionsError,
    PriceWarning,
    PromptError,
    RowErrors,
    SchemaError,
    TooManyErrors,
)

LABELS = ["bug", "question", "praise"]
USAGE = ["error", "source", "input_tokens", "output_tokens", "cost"]
ALL = [
    *USAGE,
    *["cached_tokens", "cache_write_tokens", "reasoning_tokens", "latency", "attempts"],
    *["model", "service_tier", "finish_reason", "request_id", "key"],
]
TEXT = pd.Series(["a"], dtype="str" if pd.__version__ >= "3" else object).dtype


def sides(output, names=USAGE):
    return [f"{output}_{name}" for name in names]


@pytest.fixture
def df():
    return pd.DataFrame(
        {
            "n": [1, 2, 3, 4],
            "body": ["a bug here", "a question", None, "a bug here"],
            "x": [0.5, 1.5, 2.5, 3.5],
        },
        index=[10, 20, 30, 40],
    )


# The frame ---------------------------------------------------------------------------------------------


def test_the_frame_that_was_passed_in_is_not_touched(server, df):
    before = df.copy()
    out = df.llm.classify("body", LABELS)
    pd.testing.assert_frame_equal(df, before)
    assert df.attrs == {}
    assert out is not df


def test_new_columns_stand_at_the_end_in_the_documented_order(server, df):
    out = df.llm.classify("body", LABELS)
    assert list(out.columns) == ["n", "body", "x", "body_label", *sides("body_label")]
    pd.testing.assert_frame_equal(out[["n", "body", "x"]], df, check_flags=False)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(10, 2, -2),
        pd.Index(["b", "a", "b", "a"], name="key"),
        pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", 2), ("a", 0)], names=["k", "l"]),
        pd.DatetimeIndex(["2026-01-02", "2026-01-01", "2026-01-02", "NaT"]),
        pd.Index([None, 1.5, float("nan"), "a"], dtype=object),
        pd.CategoricalIndex(["z", "y", "z", "y"]),
    ],
    ids=["range", "duplicates", "multi", "datetime", "mixed", "category"],
)
def test_any_index_comes_back_as_it_was_and_each_row_has_its_own_answer(server, df, index):
    df.index = index
    out = df.llm.classify("body", LABELS)
    pd.testing.assert_index_equal(out.index, index, exact=True)
    assert out["body_label"].tolist()[:2] == ["bug", "question"]
    assert out["body_label"].isna().tolist() == [False, False, True, False]
    assert out["n"].tolist() == [1, 2, 3, 4]


def test_nothing_writable_is_shared_with_the_input(server, df):
    df["when"] = pd.to_datetime(["2026-01-01"] * 4)
    out = df.llm.classify("body", LABELS)
    before = df.copy()
    for at in range(3):
        values = out.iloc[:, at].to_numpy(copy=False)
        if values.flags.writeable:
            values[0] = values[1]
    out.iloc[0, out.columns.get_loc("when")] = pd.Timestamp("2000-01-01")
    out.index.name = out.columns.name = "changed"
    pd.testing.assert_frame_equal(df, before)


def test_a_subclass_comes_back_as_that_subclass(server):
    class Tickets(pd.DataFrame):
        _metadata = ("desk",)

        @property
        def _constructor(self):
            return Tickets

    tickets = Tickets({"body": ["a bug"]})
    tickets.desk = "north"
    out = tickets.llm.classify("body", LABELS)
    assert type(out) is Tickets
    assert out.desk == "north"


def test_an_empty_frame_gets_the_columns_and_sends_nothing(server):
    out = pd.DataFrame({"body": pd.Series([], dtype="str")}).llm.classify("body", LABELS)
    assert list(out.columns) == ["body", "body_label", *sides("body_label")]
    assert len(out) == 0
    assert out["body_label"].cat.categories.tolist() == LABELS
    assert server.requests == []


def test_a_frame_without_any_text_sends_nothing_and_needs_no_key(own_settings):
    out = pd.DataFrame({"body": [None, "", "  \n", float("nan")]}).llm.classify("body", LABELS)
    assert out["body_label_source"].tolist() == ["skipped"] * 4
    assert out["body_label_error"].isna().all()
    assert out["body_label_cost"].tolist() == [0.0] * 4


def test_a_template_of_nothing_but_missing_fields_is_a_missing_row(server):
    frame = pd.DataFrame({"title": [None, "a bug"], "body": ["", None]})
    out = frame.llm.classify("Title: {title}\n{body}", LABELS)
    assert out["label_source"].tolist() == ["skipped", "api"]


def test_rows_without_text_can_be_sent_as_the_empty_text(server):
    out = pd.DataFrame({"body": [None, "a bug", " "]}).llm.classify("body", LABELS, on_null="send")
    assert out["body_label_source"].tolist() == ["api", "api", "duplicate"]
    assert sorted(seen.text for seen in server.requests) == ["", "a bug"]


def test_a_repeated_column_name_is_refused_only_where_it_is_used(server):
    frame = pd.DataFrame([["a bug", 1, 2], ["a question", 3, 4]], columns=["body", "x", "x"])
    out = frame.llm.classify("body", LABELS)
    assert list(out.columns[:4]) == ["body", "x", "x", "body_label"]
    assert out.iloc[:, 2].tolist() == [2, 4]
    with pytest.raises(PromptError, match="2 columns named 'x'"):
        frame.llm.classify("x", LABELS)


def test_columns_may_be_ints(server):
    frame = pd.DataFrame([["a bug", 1], ["a question", 2]])
    out = frame.llm.classify(0, LABELS)
    assert list(out.columns[:3]) == [0, 1, "0_label"]
    assert out["0_label"].tolist() == ["bug", "question"]


def test_with_multiindex_columns_an_output_is_the_full_tuple(server):
    columns = pd.MultiIndex.from_tuples([("body", ""), ("meta", "n")], names=["a", "b"])
    frame = pd.DataFrame([["a bug", 1], ["a question", 2]], columns=columns)
    out = frame.llm.classify("body", LABELS)
    assert out.columns.tolist()[2:4] == [("body_label", ""), ("body_label_error", "")]
    assert out.columns.names == ["a", "b"]
    assert out["body_label"].tolist() == ["bug", "question"]
    again = out.llm.classify(("body", ""), LABELS)
    pd.testing.assert_index_equal(again.columns, out.columns)


def test_a_tuple_can_be_a_column_of_its_own(server):
    frame = pd.DataFrame([["a bug", 1]], columns=pd.MultiIndex.from_tuples([("text", "de"), ("text", "en")]))
    out = frame.llm.generate(("text", "de"), "Translate.", output="english")
    assert out[("english", "")].tolist() == ["echo: a bug"]


@pytest.mark.parametrize("name", ["text", "label", "output", "error", "llm", "index", "index_"])
def test_no_column_name_is_special(server, name):
    frame = pd.DataFrame({name: ["a bug", "a question"]})
    out = frame.llm.classify(name, LABELS)
    assert out[f"{name}_label"].tolist() == ["bug", "question"]


# What a column holds -----------------------------------------------------------------------------------


def test_classify_gives_a_categorical_with_exactly_these_labels_in_this_order(server, df):
    labels = df.llm.classify("body", LABELS)["body_label"]
    assert labels.dtype == pd.CategoricalDtype(LABELS, ordered=False)
    assert labels.tolist()[:2] == ["bug", "question"]
    assert labels.isna().tolist() == [False, False, True, False]


def test_labels_keep_their_own_type(server):
    frame = pd.DataFrame({"body": ["3 stars", "5 stars"]})
    stars = frame.llm.classify("body", [5, 4, 3, 2, 1])["body_label"]
    assert stars.cat.categories.tolist() == [5, 4, 3, 2, 1]
    assert stars.cat.categories.dtype.kind == "i"
    assert stars.tolist() == [3, 5]


class Kind(Enum):
    BUG = "bug"
    QUESTION = "question"


@pytest.mark.parametrize(
    "labels",
    [
        ["bug", "question"],
        ("bug", "question"),
        np.array(["bug", "question"]),
        pd.Index(["bug", "question"]),
        pd.Series(["bug", "question"]),
        pd.Series(["bug", "question"], dtype="category"),
        {"bug": "Something is broken", "question": None},
        Kind,
        Literal["bug", "question"],
    ],
    ids=["list", "tuple", "array", "Index", "Series", "categories", "dict", "Enum", "Literal"],
)
def test_labels_come_in_many_ways(server, df, labels):
    out = df.llm.classify("body", labels)
    assert out["body_label"].cat.categories.tolist() == ["bug", "question"]
    assert out["body_label"].tolist()[:2] == ["bug", "question"]


def test_all_ways_to_write_the_same_labels_ask_the_same_question(server, df):
    for labels in (["bug", "question"], ("bug", "question"), np.array(["bug", "question"]), Kind):
        df.llm.classify("body", labels)
    assert len(server.requests) == 2


def test_multi_label_gives_a_list_a_row_in_label_order_and_none_without_answer(server):
    server.answer = lambda text, body: json.dumps({"labels": text.split()})
    frame = pd.DataFrame({"body": ["praise bug bug", None, "question"]})
    labels = frame.llm.classify("body", LABELS, multi_label=True)["body_label"]
    assert labels.tolist() == [["bug", "praise"], None, ["question"]]
    assert labels.dtype == object


def test_rows_of_one_text_do_not_share_a_list(server):
    server.answer = lambda text, body: json.dumps({"labels": ["bug", "praise"]})
    out = pd.DataFrame({"body": ["same", "same"]}).llm.classify("body", LABELS, multi_label=True)
    out["body_label"][0].reverse()
    assert out["body_label"][1] == ["bug", "praise"]


def test_extract_gives_each_field_the_dtype_of_its_type(server):
    class Line(BaseModel):
        name: str
        count: int

    class Invoice(BaseModel):
        who: str
        number: int
        total: float
        paid: bool
        kind: Literal["a", "b"]
        color: Kind
        day: date
        at: datetime
        lines: list[Line]
        line: Line

    reply = {
        "who": "Ann",
        "number": 17,
        "total": 40.5,
        "paid": True,
        "kind": "b",
        "color": "bug",
        "day": "2026-05-17",
        "at": "2026-05-17T09:30:00+02:00",
        "lines": [{"name": "x", "count": 2}],
        "line": {"name": "y", "count": 1},
    }
    server.answer = lambda text, body: json.dumps(reply)
    out = pd.DataFrame({"mail": ["one", None]}).llm.extract("mail", Invoice)
    fields = list(Invoice.model_fields)
    assert list(out.columns) == ["mail", *fields, *sides("extract")]
    found = out.dtypes[fields].to_dict()
    assert found["who"] == TEXT
    assert [str(found[name]) for name in ("number", "total", "paid")] == ["Int64", "float64", "boolean"]
    assert found["kind"] == pd.CategoricalDtype(["a", "b"])
    assert found["color"].categories.tolist() == ["bug", "question"]
    assert [str(found[name]) for name in ("day", "at")] == ["datetime64[us]"] * 2
    assert [str(found[name]) for name in ("lines", "line")] == ["object"] * 2
    assert out.loc[0, "at"] == pd.Timestamp("2026-05-17 07:30:00")
    assert out.loc[0, "lines"] == [{"name": "x", "count": 2}]
    assert out.loc[0, "number"] == 17
    assert out.loc[1, fields].isna().all()


@pytest.mark.parametrize(
    "schema", [{"a": str, "b": int}, TypedDict("Both", {"a": str, "b": int})], ids=["dict", "TypedDict"]
)
def test_a_field_of_a_dict_may_be_absent_and_one_of_a_typeddict_may_not(server, schema):
    server.answer = lambda text, body: json.dumps({"a": "x", "b": None})
    out = pd.DataFrame({"mail": ["one"]}).llm.extract("mail", schema)
    if isinstance(schema, dict):
        assert out["a"].tolist() == ["x"]
        assert out["b"].isna().all()
        assert out["extract_error"].isna().all()
        assert "null" in server.requests[0].body["messages"][0]["content"]
    else:
        assert out["extract_error"][0].startswith("SchemaMismatchError")
        assert len(server.requests) == 2  # asked, and repaired once


def test_a_list_of_names_is_that_many_text_columns_prefixed_by_output(server):
    out = pd.DataFrame({"mail": ["one two"]}).llm.extract("mail", ["city", "name"], output="inv")
    assert list(out.columns) == ["mail", "inv_city", "inv_name", *sides("inv")]
    assert out["inv_city"].dtype == TEXT


def test_many_gives_one_column_of_lists_of_records(server):
    server.answer = lambda text, body: json.dumps({"records": [{"n": 1}, {"n": 2}]})
    frame = pd.DataFrame({"mail": ["one", None]})
    out = frame.llm.extract("mail", {"n": int}, many=True)
    assert list(out.columns) == ["mail", "records", *sides("extract")]
    assert out["records"].tolist() == [[{"n": 1}, {"n": 2}], None]
    assert "found" in frame.llm.extract("mail", {"n": int}, many=True, output="found")


def test_generate_gives_one_text_column(server, df):
    out = df.llm.generate("body", "Say it again.")
    assert out["body_output"].dtype == TEXT
    assert out["body_output"].tolist()[:2] == ["echo: a bug here", "echo: a question"]
    assert out["body_output"].isna().tolist() == [False, False, True, False]


def test_an_empty_reply_is_an_error_and_no_text(server):
    server.answer = lambda text, body: Answer(content="")
    out = pd.DataFrame({"body": ["x"]}).llm.generate("body", "Say it.")
    assert out["body_output"].isna().all()
    assert out["body_output_error"][0].startswith("EmptyOutputError")


@pytest.mark.parametrize(
    ("text", "label", "written"),
    [
        ("body", "body_label", "body_output"),
        (["body"], "body_label", "body_output"),
        ("{body}", "body_label", "body_output"),
        ("{body} {body}", "body_label", "body_output"),
        (["x", "body"], "label", "output"),
        ("{x}: {body}", "label", "output"),
    ],
)
def test_the_default_name_is_the_columns_where_the_prompt_uses_one(server, df, text, label, written):
    assert df.llm.classify(text, LABELS).columns[3] == label
    assert df.llm.generate(text, "Say it.").columns[3] == written


def test_explain_and_confidence_add_a_column_each(server, df):
    out = df.llm.classify("body", LABELS, explain=True, confidence=True, details="none")
    assert list(out.columns[3:]) == ["body_label", "body_label_explanation", "body_label_confidence"]
    assert out["body_label_explanation"].dtype == TEXT
    assert out["body_label_confidence"].dtype == "float64"
    assert out["body_label_confidence"].dropna().between(0, 1).all()
    assert out["body_label_confidence"].isna().tolist() == [False, False, True, False]


def test_the_explanation_is_asked_for_before_the_answer(server, df):
    df.llm.classify("body", LABELS, explain=True)
    schema = server.requests[0].body["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["explanation", "label"]


def test_the_confidence_is_the_labels_share_of_the_probability_the_labels_have(server):
    server.label_probabilities = {"bug": 0.8, "praise": 0.1}
    out = pd.DataFrame({"body": ["it stopped"]}).llm.classify("body", ["bug", "praise"], confidence=True)
    assert out["body_label"][0] == "bug"
    assert out["body_label_confidence"][0] == pytest.approx(0.8 / 0.9, abs=1e-3)
    assert server.requests[0].body["top_logprobs"] == 20


def test_where_the_model_gives_no_logprobs_the_confidence_is_missing_with_one_warning(server, df):
    server.refuse_logprobs = True
    with pytest.warns(LLMWarning, match="log-probabilities") as caught:
        out = df.llm.classify("body", LABELS, confidence=True)
    assert len(caught) == 1
    assert out["body_label_confidence"].isna().all()
    assert out["body_label"].tolist()[:2] == ["bug", "question"]


# Side columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "names"), [("none", []), ("errors", ["error"]), ("usage", USAGE), ("all", ALL)]
)
def test_details_say_which_side_columns_there_are(server, df, details, names):
    out = df.llm.classify("body", LABELS, output="kind", details=details)
    assert list(out.columns[3:]) == ["kind", *sides("kind", names)]


def test_side_columns_have_the_documented_dtypes(server, df):
    out = df.llm.classify("body", LABELS, output="o", details="all")
    types = {name.removeprefix("o_"): str(dtype) for name, dtype in out.dtypes.iloc[4:].items()}
    assert types.pop("source") == "category"
    assert out["o_source"].cat.categories.tolist() == list(SOURCES)
    for name in ("error", "model", "service_tier", "finish_reason", "request_id", "key"):
        assert types.pop(name) == str(TEXT)
    assert types.pop("cost") == types.pop("latency") == "float64"
    assert set(types.values()) == {"Int64"}


def test_what_the_reply_said_is_told_with_all_details(server, df):
    out = df.llm.classify("body", LABELS, output="o", details="all")
    assert out["o_model"].tolist()[:2] == ["gpt-6-luna"] * 2
    assert out["o_finish_reason"].tolist()[:2] == ["stop"] * 2
    assert out["o_request_id"].notna().tolist() == [True, True, False, True]
    assert out["o_attempts"].tolist() == [1, 1, 0, 0]
    assert out["o_latency"].notna().tolist() == [True, True, False, False]
    assert out["o_key"].str.fullmatch("[0-9a-f]{32}").tolist()[:2] == [True, True]
    assert out["o_key"].tolist()[0] == out["o_key"].tolist()[3]
    again = df.llm.classify("body", LABELS, output="o", details="all")
    assert again["o_model"].tolist()[:2] == ["gpt-6-luna"] * 2


def test_each_row_says_where_its_answer_came_from(server):
    df = pd.DataFrame({"body": ["a bug", "a question", None, "a bug", "say no", b"bytes"]})
    server.fault("say no", faults.REFUSAL)
    df.iloc[1:2].llm.classify("body", LABELS)
    out = df.llm.classify("body", LABELS)
    assert out["body_label_source"].tolist() == ["api", "cache", "skipped", "duplicate", "failed", "failed"]
    assert out["body_label_error"].notna().tolist() == [False, False, False, False, True, True]
    assert out["body_label_error"][4].startswith("RefusalError: ")
    assert out["body_label_error"][5].startswith("PromptError: ")


def test_what_may_not_be_sent_is_pending_and_says_why(own_settings):
    out = pd.DataFrame({"body": ["a bug", None]}).llm.classify("body", LABELS, cache="only")
    assert out["body_label_source"].tolist() == ["pending", "skipped"]
    assert out["body_label_error"][0].startswith("Pending: ")
    assert out["body_label_input_tokens"].tolist() == [0, 0]


def test_sums_are_the_bill(server):
    texts = ["a bug", "a question", "a bug", None, "say no", "say no", "odd", "some praise"]
    server.fault("say no", faults.REFUSAL)
    server.fault("odd", faults.OUTSIDE_LABEL, times=1)
    server.fault("praise", faults.INTERNAL, times=1)
    frame = pd.DataFrame({"body": texts})
    frame.iloc[:1].llm.classify("body", LABELS)
    before = server.bill
    out = frame.llm.classify("body", LABELS)
    run, bill = pandas_llm.last_run(), server.bill
    assert out["body_label_cost"].sum(min_count=1) == pytest.approx(run.cost, rel=1e-12)
    assert run.cost == pytest.approx(bill.cost - before.cost, rel=1e-9)
    assert out["body_label_input_tokens"].sum() == run.input_tokens == bill.input_tokens - before.input_tokens
    assert (
        out["body_label_output_tokens"].sum()
        == run.output_tokens
        == bill.output_tokens - before.output_tokens
    )
    assert out["body_label_source"].tolist() == [
        *["cache", "api", "cache", "skipped", "failed", "failed", "api", "api"]
    ]
    assert (out["body_label_cost"] > 0).tolist() == [False, True, False, False, True, False, True, True]
    # A repair belongs to its row: two replies, one of them after a longer conversation.
    assert out["body_label_input_tokens"][6] > 2 * out["body_label_input_tokens"][1]


def test_costs_are_missing_where_the_price_is_unknown_and_never_0(server, df):
    with pytest.warns(PriceWarning, match="'a-model-nobody-knows'"):
        out = df.llm.classify("body", LABELS, model="a-model-nobody-knows")
    assert out["body_label_cost"].isna().all()
    assert math.isnan(out["body_label_cost"].sum(min_count=1))
    assert math.isnan(pandas_llm.last_run().cost)
    assert out["body_label_input_tokens"].sum() == server.bill.input_tokens


def test_a_price_of_ones_own_wins(server, df):
    prices = {"my-model": (1.0, 10.0)}
    out = df.llm.classify("body", LABELS, model="my-model", prices=prices)
    expected = (server.bill.input_tokens * 1.0 + server.bill.output_tokens * 10.0) / 1e6
    assert out["body_label_cost"].sum() == pytest.approx(expected)


def test_a_field_that_would_equal_a_side_column_is_refused(server, df):
    with pytest.raises(SchemaError, match="extract_error"):
        df.llm.extract("body", {"extract_error": str})
    assert server.requests == []


# One row's failure -------------------------------------------------------------------------------------


def test_one_rows_failure_never_costs_another_row(server):
    server.fault("row 3", faults.CONTEXT_LENGTH)
    server.fault("row 5", faults.CUT_OFF)
    server.fault("row 7", faults.CONTENT_FILTER)
    frame = pd.DataFrame({"body": [f"row {i} bug" for i in range(10)]})
    out = frame.llm.classify("body", LABELS)
    errors = out["body_label_error"].str.partition(":")[0]
    assert errors.dropna().to_dict() == {
        3: "ContextLengthError",
        5: "LengthError",
        7: "ContentFilterError",
    }
    assert out["body_label"].isna().sum() == 3


def test_on_error_raise_raises_at_the_end_with_the_frame(server):
    server.fault("row 1", faults.REFUSAL)
    frame = pd.DataFrame({"body": [f"row {i} bug" for i in range(5)]})
    with pytest.raises(RowErrors, match="1 of 5 rows failed") as caught:
        frame.llm.classify("body", LABELS, on_error="raise")
    assert caught.value.frame["body_label"].notna().sum() == 4


def test_where_most_requests_fail_nothing_more_is_sent(server):
    server.fault(None, faults.REFUSAL)
    frame = pd.DataFrame({"body": [f"row {i}" for i in range(200)]})
    with pytest.raises(TooManyErrors) as caught:
        frame.llm.classify("body", LABELS, max_concurrency=4)
    assert 20 <= len(server.requests) < 60
    assert set(caught.value.frame["body_label_source"]) == {"failed", "pending"}


def test_when_the_money_is_spent_the_rest_is_pending_with_a_warning(server):
    frame = pd.DataFrame({"body": [f"bug {i}" for i in range(40)]})
    with pytest.warns(BudgetWarning, match="max_cost reached"):
        out = frame.llm.classify("body", LABELS, max_cost=0.0002, max_concurrency=2)
    pending = out["body_label_source"] == "pending"
    assert 0 < pending.sum() < 40
    assert set(out.loc[pending, "body_label_error"]) == {"Pending: max_cost reached"}
    assert server.bill.cost <= 0.0002
    assert out["body_label_cost"].sum() == pytest.approx(server.bill.cost)


# Outputs that are there --------------------------------------------------------------------------------


def test_the_same_line_again_is_free_and_changes_no_column(server, df):
    out = df.llm.classify("body", LABELS)
    sent = len(server.requests)
    again = out.llm.classify("body", LABELS)
    assert len(server.requests) == sent
    assert list(again.columns) == list(out.columns)
    pd.testing.assert_series_equal(again["body_label"], out["body_label"])
    assert again["body_label_source"].tolist() == ["cache", "cache", "skipped", "cache"]
    assert again["body_label_cost"].sum() == 0.0


@pytest.mark.parametrize(
    "changed",
    [
        lambda out: out.sort_values("x", ascending=False),
        lambda out: out.query("n != 2"),
        lambda out: out.merge(pd.DataFrame({"n": [4, 3, 2, 1], "more": 1}), on="n"),
        lambda out: out.reset_index(drop=True).iloc[::-1],
        lambda out: pd.concat([out, out]),
        lambda out: out.drop(columns=[c for c in out.columns if c.startswith("body_label_")]),
        lambda out: out.assign(body_label=out["body_label"].astype(object)),
        lambda out: out.assign(body=["a question", "a bug here", None, "new bug"]),
    ],
    ids=["sort", "filter", "merge", "reverse", "concat", "no sides", "no category", "text changed"],
)
def test_an_output_of_ours_may_be_written_again_whatever_became_of_the_frame(server, df, changed):
    frame = changed(df.llm.classify("body", LABELS))
    again = frame.llm.classify("body", LABELS)
    assert again.columns.tolist()[: len(df.columns)] == frame.columns.tolist()[: len(df.columns)]
    expected = {"a bug here": "bug", "a question": "question", "new bug": "bug"}
    texts = again["body"].tolist()
    assert [None if pd.isna(v) else v for v in again["body_label"]] == [expected.get(text) for text in texts]


def test_a_hand_correction_is_never_lost(server):
    frame = pd.DataFrame({"body": [f"bug {i}" for i in range(300)]})
    out = frame.llm.classify("body", LABELS, output="label")
    out.loc[[4, 17, 230], "label"] = ["praise", "question", "praise"]
    sent = len(server.requests)
    with pytest.raises(OptionsError) as caught:
        out.llm.classify("body", LABELS, output="label")
    assert str(caught.value) == (
        "3 values of 'label' weren't written by a run (rows 4, 17, 230): "
        'on_conflict="keep" keeps them, "overwrite" replaces them.'
    )
    assert len(server.requests) == sent


def test_kept_values_are_given_and_not_sent(server, df):
    df["kind"] = pd.Series(["praise", None, None, None], index=df.index)
    out = df.llm.classify("body", LABELS, output="kind", on_conflict="keep")
    assert out["kind"].tolist()[:2] == ["praise", "question"]
    assert out["kind_source"].tolist() == ["given", "api", "skipped", "api"]
    assert sorted(seen.text for seen in server.requests) == ["a bug here", "a question"]
    assert list(out.columns[:4]) == ["n", "body", "x", "kind"]
    assert pandas_llm.last_run().sources["given"] == 1


def test_a_kept_value_stays_given_when_the_line_is_run_again(server, df):
    df["kind"] = pd.Series(["praise", None, None, None], index=df.index)
    out = df.llm.classify("body", LABELS, output="kind", on_conflict="keep")
    again = out.llm.classify("body", LABELS, output="kind", on_conflict="keep")
    assert again["kind"].tolist()[:2] == ["praise", "question"]
    assert again["kind_source"].tolist()[0] == "given"


def test_overwrite_replaces_and_asks(server, df):
    df["kind"] = "by hand"
    out = df.llm.classify("body", LABELS, output="kind", on_conflict="overwrite")
    assert out["kind"].tolist()[:2] == ["bug", "question"]
    assert list(out.columns) == ["n", "body", "x", "kind", *sides("kind")]


def test_an_output_written_again_stays_where_it_stands_and_old_side_columns_go(server, df):
    out = df.llm.classify("body", LABELS, details="all", explain=True)
    out["after"] = 1
    again = out.llm.classify("body", LABELS, details="errors")
    assert list(again.columns) == ["n", "body", "x", "body_label", "body_label_error", "after"]


def test_fields_of_an_earlier_schema_stay(server, df):
    out = df.llm.extract("body", ["a", "b"])
    again = out.llm.extract("body", ["a"], details="none")
    assert list(again.columns) == ["n", "body", "x", "a", "b"]


def test_two_extracts_may_stand_in_one_frame(server, df):
    out = df.llm.extract("body", ["a"])
    again = out.llm.extract("body", ["b"])
    assert list(again.columns) == ["n", "body", "x", "a", *sides("extract"), "b"]


def test_another_question_may_write_the_output_of_an_earlier_one(server, df):
    out = df.llm.classify("body", LABELS)
    again = out.llm.classify("body", [*LABELS, "other"], instructions="Be strict.")
    assert again["body_label"].cat.categories.tolist() == [*LABELS, "other"]


def test_without_a_store_the_sources_beside_an_output_show_that_it_is_ours(server, df):
    out = df.llm.classify("body", LABELS, cache=False)
    again = out.llm.classify("body", LABELS, cache=False)
    assert again["body_label"].tolist()[:2] == ["bug", "question"]
    assert len(server.requests) == 4
    with pytest.raises(OptionsError, match="weren't written by a run"):
        out.drop(columns=sides("body_label")).llm.classify("body", LABELS, cache=False)


def test_verbs_can_be_chained(server, df):
    out = (
        df.llm.classify("body", LABELS)
        .llm.extract("body", {"thing": str}, output="got")
        .llm.generate("body", "Say it.")
        .llm.classify("body_output", ["bug", "question"], output="second")
        .llm.classify("body", LABELS)
    )
    assert [name for name in out.columns if not name.endswith(tuple(f"_{side}" for side in USAGE))] == [
        *["n", "body", "x", "body_label", "got_thing", "body_output", "second"]
    ]
    assert set(out.llm.provenance) == {"body_label", "got", "body_output", "second"}


# What a Series gives -----------------------------------------------------------------------------------


def test_a_series_gives_one_series_that_can_be_assigned(server, df):
    labels = df["body"].llm.classify(LABELS)
    assert isinstance(labels, pd.Series)
    assert labels.name == "body_label"
    pd.testing.assert_index_equal(labels.index, df.index)
    assert labels.dtype == pd.CategoricalDtype(LABELS)
    df["label"] = labels
    assert df["label"].tolist()[:2] == ["bug", "question"]


def test_a_series_and_its_frame_ask_the_same_question(server, df):
    df["body"].llm.classify(LABELS)
    sent = len(server.requests)
    df.llm.classify("body", LABELS)
    assert len(server.requests) == sent


@pytest.mark.parametrize(
    ("name", "label", "written"),
    [(None, "label", "output"), ("body", "body_label", "body_output"), (7, "7_label", "7_output")],
)
def test_a_series_result_is_named_like_the_output(server, name, label, written):
    texts = pd.Series(["a bug"], name=name)
    assert texts.llm.classify(LABELS).name == label
    assert texts.llm.generate("Say it.").name == written
    assert texts.llm.classify(LABELS, output="mine").name == "mine"
    assert texts.llm.classify(LABELS, output=str(name)).name == str(name)


def test_a_series_gives_a_frame_of_the_new_columns_only_where_more_is_asked_for(server, df):
    body = df["body"]
    more = body.llm.classify(LABELS, details="usage")
    assert list(more.columns) == ["body_label", *sides("body_label")]
    assert list(body.llm.classify(LABELS, explain=True).columns) == ["body_label", "body_label_explanation"]
    assert list(body.llm.classify(LABELS, confidence=True).columns) == ["body_label", "body_label_confidence"]
    assert list(body.llm.extract({"a": str, "b": int}).columns) == ["a", "b"]
    one = body.llm.extract({"a": str})
    assert isinstance(one, pd.Series)
    assert one.name == "a"
    pd.testing.assert_index_equal(more.index, df.index)


def test_rows_without_an_answer_are_counted_in_one_warning_on_a_series(server):
    server.fault("no", faults.REFUSAL)
    texts = pd.Series(["a bug", "no 1", "no 2", None], name="body")
    with pytest.warns(IncompleteWarning, match="2 of 4 rows have no answer") as caught:
        labels = texts.llm.classify(LABELS)
    assert len(caught) == 1
    assert labels.isna().tolist() == [False, True, True, True]


def test_a_whole_answer_warns_of_nothing(server, df):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        df["body"].llm.classify(LABELS)
        df.llm.classify("body", LABELS, details="none")


# attrs -------------------------------------------------------------------------------------------------


def test_attrs_hold_one_json_string_with_the_question_and_nothing_of_the_run(server, df):
    out = df.llm.classify("body", LABELS, params={"seed": 7})
    said = json.loads(out.attrs["pandas_llm"])
    assert set(said) == {"body_label"}
    facts = said["body_label"]
    assert {"verb", "model", "prompt", "schema", "params", "version"} <= set(facts)
    assert facts["verb"] == "classify"
    assert facts["params"] == {"seed": 7}
    again = df.llm.classify("body", LABELS, params={"seed": 7})
    assert again.attrs == out.attrs
    assert "sk-test" not in out.attrs["pandas_llm"]


@pytest.mark.parametrize("spoiled", ["no json", 5, None, "[1]", {}])
def test_nothing_is_decided_from_attrs(server, df, spoiled):
    out = df.llm.classify("body", LABELS)
    out.attrs["pandas_llm"] = spoiled
    again = out.llm.classify("body", LABELS)
    assert set(json.loads(again.attrs["pandas_llm"])) == {"body_label"}
    out.attrs["pandas_llm"] = spoiled
    assert out.llm.provenance["body_label"]["model"] == "gpt-6-luna"


def test_attrs_of_others_stay(server, df):
    df.attrs["source"] = {"from": "here"}
    out = df.llm.classify("body", LABELS)
    assert out.attrs["source"] == {"from": "here"}
    assert "pandas_llm" not in df.attrs


def test_a_kept_column_holds_what_the_label_set_does_not(server, df):
    df["kind"] = ["something else", np.nan, np.nan, np.nan]
    out = df.llm.classify("body", LABELS, output="kind", on_conflict="keep")
    assert out["kind"].tolist()[0] == "something else"
    assert out["kind"].tolist()[1] == "question"
