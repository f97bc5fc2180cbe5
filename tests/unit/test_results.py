"""Results become columns: each row keeps its own answer, and the bill adds up."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pandas_llm.columns import Outcome, read_spec, texts_from, with_results, without
from pandas_llm.core.errors import RefusalError
from pandas_llm.core.plan import make_plan
from pandas_llm.core.results import Answers, Results
from pandas_llm.core.types import SOURCES, Field, Question, Record, Result, Task, Usage

TEXT = pd.Series(["a"]).dtype if pd.__version__ >= "3" else np.dtype(object)
QUESTION = Question("https://api.example", "/chat/completions", "classify", "m", "sys", None)
LABEL = Field("label", "category", ("bug", "praise"))


def task_of(*fields, output="label", verb="classify"):
    return Task(verb, output, "sys", None, fields, lambda content: [content])


def outcome_of(frame, text, fields=(LABEL,), answer=None, exact=True, **answers):
    """An outcome in which the store knew the answer to each text."""
    texts = texts_from(frame, read_spec(frame, text))
    plan = make_plan(QUESTION, texts.codes, texts.texts, exact=exact)
    answer = answer or (lambda _: ["bug"])
    values = tuple(list(column) for column in zip(*map(answer, plan.texts), strict=True)) or ([],) * len(
        fields
    )
    known = {"fields": values, "sources": ["cache"] * len(plan), **answers}
    return Outcome(task=task_of(*fields), texts=texts, plan=plan, answers=Answers(**known))


def result_of(plan, code, *, cost=0.5, usage=Usage(10, 2), error=None, **more):  # noqa: B008 - frozen
    output = None if error else ["bug"]
    return Result(key=plan.key(code), output=output, error=error, usage=usage, cost=cost, attempts=1, **more)


def asked(frame, text, costs, **more):
    """An outcome in which every text was asked now."""
    outcome = outcome_of(frame, text)
    results = {code: result_of(outcome.plan, code, cost=cost, **more) for code, cost in enumerate(costs)}
    answers = Answers(
        fields=outcome.answers.fields, sources=["api"] * len(costs), results=Results.of(results)
    )
    return Outcome(task=outcome.task, texts=outcome.texts, plan=outcome.plan, answers=answers)


class Tickets(pd.DataFrame):
    _metadata = ("queue",)

    @property
    def _constructor(self):
        return Tickets


def ugly_frames():
    body = ["x", "y", "x", None]
    plain = pd.DataFrame({"body": body, "n": pd.array([1, None, 3, 4], dtype="Int64")})
    yield "plain", plain, "body"
    yield "duplicate index", plain.set_axis([7, 7, 7, 8]), "body"
    yield (
        "multi index",
        plain.set_axis(pd.MultiIndex.from_product([["p", "q"], [1, 2]], names=["a", "b"])),
        "body",
    )
    days = pd.date_range("2024", periods=4, tz="UTC", name="day")
    yield "dates", plain.assign(at=days).set_axis(days), "body"
    yield "int names", pd.DataFrame({0: body, 1: [1, 2, 3, 4]}), 0
    wide = pd.DataFrame({("body", ""): body, ("n", "mean"): [1.0, 2, 3, 4]})
    wide.columns.names = ["first", "second"]
    yield "multi columns", wide, "body"
    twice = pd.DataFrame([[text, 1, 2.5] for text in body], columns=["body", "twin", "twin"])
    yield "repeated names", twice, "body"
    lists = [np.array([1, 2]), np.array([]), None, np.array([3])]
    yield "arrays", plain.assign(many=pd.Series(lists, dtype=object)), "body"
    yield "categories", plain.assign(body=pd.Categorical(body)), "body"
    yield "named columns", plain.rename_axis(columns="field"), "body"
    yield "categorical columns", plain.set_axis(pd.CategoricalIndex(["body", "n"]), axis=1), "body"
    yield "all missing", plain.assign(body=None), "body"
    yield "empty", plain.iloc[:0], "body"
    yield (
        "many arrays",
        pd.concat([plain, *[plain[["n"]].rename(columns=f"n{{}}_{i}".format) for i in range(120)]], axis=1),
        "body",
    )


@pytest.mark.parametrize(("frame", "text"), [pytest.param(*case[1:], id=case[0]) for case in ugly_frames()])
def test_the_input_comes_back_untouched_with_the_results_at_its_end(frame, text):
    before = frame.copy()
    out = with_results(frame, outcome_of(frame, text), details="all")
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(out.iloc[:, : frame.shape[1]].set_axis(frame.columns, axis=1), frame)
    assert out.columns.names == frame.columns.names
    assert out.index.equals(frame.index)
    assert getattr(out.index, "freq", None) == getattr(frame.index, "freq", None)
    label = ("label", "") if frame.columns.nlevels == 2 else "label"
    assert list(out.columns[: frame.shape[1] + 1]) == [*frame.columns, label]
    assert out[label].isna().tolist() == frame.iloc[:, 0].isna().tolist()
    assert list(out[label].cat.categories) == ["bug", "praise"]


@pytest.mark.parametrize(("frame", "text"), [pytest.param(*case[1:], id=case[0]) for case in ugly_frames()])
def test_no_writable_data_is_shared_with_the_input(frame, text):
    out = with_results(frame, outcome_of(frame, text))
    levels = frame.index.levels if frame.index.nlevels > 1 else [frame.index]
    own = out.index.levels if out.index.nlevels > 1 else [out.index]
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(levels, own, strict=True)]
    for at in range(frame.shape[1]):
        pairs.append((np.asarray(frame.iloc[:, at].array), np.asarray(out.iloc[:, at].array)))
        if hasattr(frame.iloc[:, at].array, "_data"):
            pairs.append((frame.iloc[:, at].array._data, out.iloc[:, at].array._data))
    assert not any(
        np.shares_memory(a, b) for a, b in pairs if isinstance(b, np.ndarray) and b.flags.writeable
    )


def test_a_write_through_numpy_does_not_reach_the_other_frame():
    values = np.arange(3)
    frame = pd.DataFrame({"n": values}, copy=False).assign(body=["x", "y", "z"])
    out = with_results(frame, outcome_of(frame, "body"))
    values[:] = 99
    assert out["n"].tolist() == [0, 1, 2]
    out["n"].array[0] = 7
    out.iloc[0, 0] = 8
    assert frame["n"].iloc[0] in {0, 99}


def test_a_subclass_keeps_its_class_its_metadata_and_attrs():
    frame = Tickets({"body": ["x"]})
    frame.queue = "inbox"
    frame.attrs["source"] = {"file": "tickets.csv"}
    out = with_results(frame, outcome_of(frame, "body"))
    assert type(out) is Tickets
    assert out.queue == "inbox"
    assert out.attrs == frame.attrs
    again = with_results(out, outcome_of(out, "body"), stale=[2])
    assert type(again) is Tickets
    assert again.attrs == frame.attrs


KINDS = [
    (Field("f", "text"), ["ü", None, "x\0y", "half \ud800"], TEXT, ["ü", None, "x\0y", "half \ufffd"]),
    (Field("f", "int"), [1, None, 2**63 - 1, 3.0], "Int64", [1, None, 2**63 - 1, 3]),
    (Field("f", "float"), [1, None, 0.5, 1e300], "float64", [1.0, None, 0.5, 1e300]),
    (Field("f", "bool"), [True, None, False, True], "boolean", [True, None, False, True]),
    (Field("f", "category", (3, 1)), [1, None, 3, 1], None, [1, None, 3, 1]),
    (
        Field("f", "datetime"),
        ["2024-02-29", None, "9999-12-31T23:00:00-05:00", "0001-01-01T00:00:00+01:00"],
        "datetime64[us]",
        ["2024-02-29", None, "10000-01-01T04:00:00", "0000-12-31T23:00:00"],
    ),
    (Field("f", "object"), [["a"], None, {"k": [1]}, []], "object", [["a"], None, {"k": [1]}, []]),
]


@pytest.mark.parametrize(("field", "values", "dtype", "held"), KINDS, ids=[case[0].kind for case in KINDS])
def test_each_kind_of_field_has_its_dtype(field, values, dtype, held):
    frame = pd.DataFrame({"body": ["a", "b", "c", "d", None]})
    given_values = dict(zip("abcd", values, strict=True))
    for rows in (frame, frame.iloc[:0]):
        outcome = outcome_of(rows, "body", (field,), lambda text: [given_values[text]])
        column = with_results(rows, outcome, details="none")["f"]
        if dtype is not None:
            assert column.dtype == dtype
        else:
            assert list(column.cat.categories) == [3, 1]
            assert column.cat.categories.dtype == "int64"
    column = with_results(frame, outcome_of(frame, "body", (field,), lambda text: [given_values[text]]))["f"]
    if field.kind == "datetime":
        assert [None if str(at) == "NaT" else at for at in column.to_numpy().astype("M8[us]")] == [
            *(None if at is None else np.datetime64(at, "us") for at in held),
            None,
        ]
    else:
        assert [value if isinstance(value, list | dict) or pd.notna(value) else None for value in column] == [
            *held,
            None,
        ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (Field("f", "int"), 2**63),
        (Field("f", "int"), 1.5),
        (Field("f", "float"), 10**400),
        (Field("f", "bool"), "yes"),
        (Field("f", "text"), 5),
        (Field("f", "datetime"), "2024-02-30"),
        (Field("f", "category", (1, 2)), True),
        (Field("f", "category", ("a", "b")), ["a"]),
    ],
)
def test_a_value_no_column_holds_costs_its_own_row_only(field, value):
    frame = pd.DataFrame({"body": ["good", "bad", "bad"]})
    fine = {"int": 1, "float": 1.0, "bool": True, "text": "t", "datetime": "2024-01-01"}
    good = fine.get(field.kind) or field.categories[0]
    fields = (field, Field("other", "int"))
    outcome = outcome_of(frame, "body", fields, lambda text: [good if text == "good" else value, 7])
    out = with_results(frame, outcome)
    assert out["f"].isna().tolist() == out["other"].isna().tolist() == [False, True, True]
    assert out["label_source"].tolist() == ["cache", "failed", "failed"]
    assert out["label_error"].isna().tolist() == [True, False, False]
    assert out["label_error"].iloc[1].startswith("SchemaMismatchError: f is ")


def test_rows_of_one_key_do_not_share_a_list():
    frame = pd.DataFrame({"body": ["x", "x"]})
    answer = [{"k": ["v"]}]
    out = with_results(frame, outcome_of(frame, "body", (Field("f", "object"),), lambda _: [answer]))
    out["f"].iloc[0][0]["k"].append("w")
    assert out["f"].iloc[1] == [{"k": ["v"]}]
    assert answer == [{"k": ["v"]}]


SIDES = {
    "none": [],
    "errors": ["error"],
    "usage": ["error", "source", "input_tokens", "output_tokens", "cost"],
}
SIDES["all"] = [
    *SIDES["usage"],
    *["cached_tokens", "cache_write_tokens", "reasoning_tokens", "latency", "attempts"],
    *["model", "service_tier", "finish_reason", "request_id", "key"],
]
INTS = {
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "attempts",
}


@pytest.mark.parametrize("details", SIDES)
@pytest.mark.parametrize("rows", [3, 0])
def test_side_columns_stand_in_their_order_with_their_dtypes(details, rows):
    frame = pd.DataFrame({"body": ["x", "x", None]}).iloc[:rows]
    out = with_results(frame, outcome_of(frame, "body"), details=details)
    assert list(out.columns) == ["body", "label", *(f"label_{side}" for side in SIDES[details])]
    for side in SIDES[details]:
        dtype = out[f"label_{side}"].dtype
        if side == "source":
            assert list(dtype.categories) == list(SOURCES)
        else:
            assert dtype == ("Int64" if side in INTS else "float64" if side in {"cost", "latency"} else TEXT)


def test_each_row_says_where_its_answer_came_from():
    body = ["new", "old", "new", "old", "bad", "bad", "wait", None, b"raw", "hand"]
    frame = pd.DataFrame(
        {"body": pd.Series(body, dtype=object), "label": pd.Series([None] * 9 + ["own"], dtype=object)}
    )
    full = outcome_of(frame, "body")
    hand = frame["label"].notna().to_numpy()
    plan = without(full.plan, hand)
    error = RefusalError("no")
    answers = Answers(
        fields=(["bug", "praise", None, None],),
        sources=["api", "cache", "failed", "pending"],
        errors={2: "RefusalError: no", 3: "Pending: max_cost reached"},
        results=Results.of(
            {0: result_of(plan, 0), 2: result_of(plan, 2, error=error, cost=0.25, usage=Usage(7, 0))}
        ),
    )
    out = with_results(
        frame, Outcome(task=full.task, texts=full.texts, plan=plan, answers=answers, given=hand)
    )
    assert out["label_source"].tolist() == [
        *["api", "cache", "duplicate", "cache", "failed", "failed", "pending", "skipped", "failed", "given"]
    ]
    assert out["label_error"].isna().tolist() == [True] * 4 + [False] * 3 + [True, False, True]
    assert out["label_error"].iloc[4:7].tolist() == ["RefusalError: no"] * 2 + ["Pending: max_cost reached"]
    assert out["label_error"].iloc[8].startswith("PromptError: column 'body': bytes")
    assert out["label_input_tokens"].tolist() == [10, 0, 0, 0, 7, 0, 0, 0, 0, 0]
    assert out["label_cost"].tolist() == [0.5, 0, 0, 0, 0.25, 0, 0, 0, 0, 0]
    assert out["label"].iloc[:4].tolist() == ["bug", "praise", "bug", "praise"]
    assert out["label"].iloc[9] == "own"
    assert list(out["label"].cat.categories) == ["bug", "praise", "own"]
    assert list(out.columns[:2]) == ["body", "label"]


def test_all_details_tell_of_the_reply_and_of_the_row_that_was_asked():
    frame = pd.DataFrame({"body": ["new", "new", "old", None]})
    outcome = outcome_of(frame, "body")
    result = result_of(
        outcome.plan,
        0,
        usage=Usage(10, 3, 4, 5, 2),
        model="m-2026",
        service_tier="default",
        finish_reason="stop",
        request_id="req_1",
        latency=1.5,
    )
    answers = Answers(
        fields=(["bug", "bug"],),
        sources=["api", "cache"],
        results=Results.of({0: result}),
        records={1: Record(["bug"], None, Usage(1, 1), "m-2025", None, "stop", "req_0", 9.0, 3)},
    )
    full = Outcome(task=outcome.task, texts=outcome.texts, plan=outcome.plan, answers=answers)
    out = with_results(frame, full, details="all").add_prefix("")
    listed = {
        name.removeprefix("label_"): out[name].where(out[name].notna(), None).astype(object).tolist()
        for name in out
    }
    listed = {
        name: [None if pd.isna(value) else value for value in values] for name, values in listed.items()
    }
    assert listed["cached_tokens"] == [4, 0, 0, 0]
    assert listed["cache_write_tokens"] == [5, 0, 0, 0]
    assert listed["reasoning_tokens"] == [2, 0, 0, 0]
    assert listed["latency"] == [1.5, None, None, None]
    assert listed["attempts"] == [1, 0, 0, 0]
    assert listed["model"] == ["m-2026", "m-2026", "m-2025", None]
    assert listed["service_tier"] == ["default", "default", None, None]
    assert listed["finish_reason"] == ["stop", "stop", "stop", None]
    assert listed["request_id"] == ["req_1", "req_1", "req_0", None]
    assert listed["key"] == [*[full.plan.key(0).hex()] * 2, full.plan.key(1).hex(), None]


def test_the_cost_column_sums_to_the_bill():
    frame = pd.DataFrame({"body": ["x", "y", "x", None]})
    assert with_results(frame, asked(frame, "body", [0.5, 0.25]))["label_cost"].tolist() == [0.5, 0.25, 0, 0]


@pytest.mark.parametrize("costs", [[np.nan, np.nan], [0.5, np.nan]])
def test_one_unknown_price_makes_the_sum_unknown(costs):
    frame = pd.DataFrame({"body": ["x", "y", "x", None]})
    out = with_results(frame, asked(frame, "body", costs))
    assert np.isnan(out["label_cost"].sum(min_count=1))


def test_what_is_written_again_stays_where_it_stands_and_stale_sides_go():
    frame = pd.DataFrame({"body": ["x", "y"]})
    first = with_results(frame, outcome_of(frame, "body"), details="all").assign(after=1)
    stale = [at for at, name in enumerate(first.columns) if name == "label_key"]
    again = with_results(
        first, outcome_of(first, "body", answer=lambda _: ["praise"]), details="usage", stale=stale
    )
    assert list(again.columns) == [name for name in first.columns if name != "label_key"]
    assert again["label"].tolist() == ["praise", "praise"]
    assert first["label"].tolist() == ["bug", "bug"]


@pytest.mark.parametrize(
    ("field", "old", "dtype"),
    [
        (Field("label", "int"), 5, "Int64"),
        (Field("label", "int"), "five", "object"),
        (Field("label", "text"), "own", TEXT),
        (Field("label", "object"), "own", "object"),
        (Field("label", "category", ("bug",)), ["own"], "object"),
    ],
)
def test_a_given_value_stays_and_the_dtype_gives_way(field, old, dtype):
    frame = pd.DataFrame({"body": ["x", "y"], "label": pd.Series([None, old], dtype=object)})
    hand = np.array([False, True])
    full = outcome_of(frame, "body", (field,), lambda _: [{"int": 1, "object": [1]}.get(field.kind, "bug")])
    plan = without(full.plan, hand)
    answers = Answers(fields=(full.answers.fields[0][:1],), sources=["cache"])
    out = with_results(
        frame, Outcome(task=full.task, texts=full.texts, plan=plan, answers=answers, given=hand)
    )
    assert out["label"].iloc[1] == old
    assert out["label"].dtype == dtype


def test_rows_asked_one_by_one_are_each_billed():
    frame = pd.DataFrame({"body": ["x", "x"]})
    outcome = outcome_of(frame, "body", exact=False)
    results = {code: result_of(outcome.plan, code) for code in (0, 1)}
    answers = Answers(fields=(["bug", "praise"],), sources=["api", "api"], results=Results.of(results))
    full = Outcome(task=outcome.task, texts=outcome.texts, plan=outcome.plan, answers=answers)
    out = with_results(frame, full)
    assert out["label"].tolist() == ["bug", "praise"]
    assert out["label_cost"].tolist() == [0.5, 0.5]
    assert out["label_source"].tolist() == ["api", "api"]


def test_a_plan_without_some_rows_asks_only_for_the_others():
    frame = pd.DataFrame({"body": ["x", "y", "x", "z", None]})
    plan = outcome_of(frame, "body").plan
    left = without(plan, np.array([True, True, False, False, False]))
    assert left.codes.tolist() == [-1, -1, 0, 1, -1]
    assert left.codes.dtype == np.int32
    assert left.texts == ["x", "z"]
    assert left.keys == plan.key(0) + plan.key(2)
    assert without(plan, None) is plan
    assert len(without(plan, np.ones(5, dtype=bool))) == 0


INDEXES = st.sampled_from([range, lambda n: [0] * n, lambda n: list("abcdefghijkl")[:n][::-1]])


@settings(max_examples=40, database=None, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", " ", None]), max_size=12), INDEXES, st.sets(st.integers(0, 11))
)
def test_every_row_keeps_its_own_answer(body, index, kept):
    hand = np.array([row in kept for row in range(len(body))], dtype=bool)
    old = [f"own {row}" if row in kept else None for row in range(len(body))]
    frame = pd.DataFrame({"body": body, "label": pd.Series(old, dtype=object)})
    frame.index = index(len(body))
    full = outcome_of(frame, "body", (Field("label", "text"),), lambda text: [f"about {text}"])
    plan = without(full.plan, hand)
    answers = Answers(
        fields=([f"about {text}" for text in plan.texts],),
        sources=["api"] * len(plan),
        results=Results.of({code: result_of(plan, code) for code in range(len(plan))}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = with_results(
            frame, Outcome(task=full.task, texts=full.texts, plan=plan, answers=answers, given=hand)
        )
    for row, text in enumerate(body):
        blank = text is None or not text.strip()
        expected = f"own {row}" if row in kept else None if blank else f"about {text}"
        value = out["label"].iloc[row]
        assert value == expected or (expected is None and pd.isna(value))
    assert out["label_cost"].sum() == 0.5 * len(
        {t for t, own in zip(body, hand, strict=True) if t and t.strip() and not own}
    )
    assert list(out.index) == list(frame.index)
