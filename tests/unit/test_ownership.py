"""Whose values are ours: a run may be repeated, a hand correction is never lost."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pandas_llm.columns import (
    Outcome,
    Written,
    check_conflict,
    fingerprint_of,
    fingerprints_of,
    index_anchor,
    read_spec,
    sides_of,
    texts_from,
    with_results,
    without,
)
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.options import Options
from pandas_llm.core.plan import make_plan, split, stem_of
from pandas_llm.core.results import Answers
from pandas_llm.core.types import Field, Question, Task

LABELS = ("bug", "praise", "question")
LABEL = Field("label", "category", LABELS)


@dataclass
class Shelf:
    """A ledger in memory."""

    written: dict[tuple[str, bytes], Written] = field(default_factory=dict)
    payloads: dict[bytes, list] = field(default_factory=dict)
    shared: dict[bytes, bytes] = field(default_factory=dict)

    def column(self, output: str, fingerprint: bytes) -> Written | None:
        return self.written.get((output, fingerprint))

    def columns(self, output: str) -> list[Written]:
        return [found for (name, _), found in reversed(self.written.items()) if name == output]

    def known_payloads(self, keys: bytes) -> Iterator[list[tuple[bytes, list]]]:
        found = [(key, self.payloads[key]) for key in split(keys) if key in self.payloads]
        yield found[:2]
        yield found[2:]

    def shared_payloads(self, stem: bytes, keys: bytes) -> Iterator[list[tuple[bytes, list]]]:
        yield [(key, self.payloads[self.shared[key]]) for key in split(keys) if key in self.shared]

    def forget_columns(self):
        """As if only the fingerprints were lost: what is known by key must do."""
        self.written = {(name, b"gone" + mark): found for (name, mark), found in self.written.items()}


def label_by_length(text):
    return [LABELS[len(text) % 3]]


def run(frame, shelf, text="body", fields=(LABEL,), answer=label_by_length, instructions="", **options):
    """The whole way of a column, with a model in memory."""
    details = options.get("details", "usage")
    verb = "classify" if any(f.name == "label" for f in fields) else "extract"
    task = Task(
        verb, "label" if verb == "classify" else "extract", "s", None, fields, lambda content: [content]
    )
    question = Question("https://api.example", "/chat/completions", verb, "m", instructions, None)
    spec = read_spec(frame, text)
    texts = texts_from(frame, spec)
    plan = make_plan(question, texts.codes, texts.texts)
    existing = check_conflict(frame, task, plan, Options(**options), shelf)
    plan = without(plan, existing.given)
    outputs = [answer(text) for text in plan.texts]
    if shelf is not None:
        shelf.payloads.update({plan.key(code): [values, None] for code, values in enumerate(outputs)})
    answers = Answers(
        fields=tuple([values[place] for values in outputs] for place in range(len(fields))),
        sources=["api"] * len(plan),
    )
    outcome = Outcome(task=task, texts=texts, plan=plan, answers=answers, given=existing.given)
    out = with_results(frame, outcome, details=details, stale=existing.stale)
    for place, output in enumerate(fields if shelf is not None else ()):
        for mark in fingerprints_of(out, outcome).get(output.name, []):
            shelf.written[output.name, mark] = Written(
                question_stem=stem_of(question),
                spec=spec.to_json(),
                field=place,
                sides=sides_of(task, details),
            )
    return out


def keys_of_run(frame):
    """The keys of its rows, which `run` asks by."""
    question = Question("https://api.example", "/chat/completions", "classify", "m", "", None)
    texts = texts_from(frame, read_spec(frame, "body"))
    return make_plan(question, texts.codes, texts.texts).keys


def tickets(n=6):
    return pd.DataFrame({"body": ["crash" + "!" * (i % 4) for i in range(n)]})


def hand(out, changes, name="label"):
    """The frame after somebody corrected values, by position."""
    edited = out.copy()
    values = edited[name].astype(object)
    for row, value in changes.items():
        values.iloc[row] = value
    return edited.assign(**{name: values})


AFTERWARDS = {
    "again": lambda out: out,
    "shuffled": lambda out: out.sample(frac=1, random_state=1),
    "shuffled and numbered anew": lambda out: out.sample(frac=1, random_state=1).reset_index(drop=True),
    "filtered": lambda out: out[out["label"] != "bug"],
    "repeated rows": lambda out: pd.concat([out, out]),
    "more rows": lambda out: pd.concat([out, tickets(9)], ignore_index=True),
    "merged": lambda out: out.merge(out[["body"]].drop_duplicates().assign(who="me"), on="body"),
    "as text": lambda out: out.assign(label=out["label"].astype(str)),
    "through csv": lambda out: pd.read_csv(io.StringIO(out.to_csv(index=False))),
    "one row": lambda out: out.iloc[[2]],
    "no row": lambda out: out.iloc[:0],
}


@pytest.mark.parametrize("change", AFTERWARDS)
@pytest.mark.parametrize("instructions", ["", "changed"])
@pytest.mark.parametrize("fingerprints", [True, False])
def test_a_column_a_run_wrote_may_be_written_again(change, instructions, fingerprints):
    shelf = Shelf()
    frame = AFTERWARDS[change](run(tickets(), shelf))
    if not fingerprints:
        shelf.forget_columns()
    again = run(frame, shelf, instructions=instructions)
    assert list(again.columns) == list(frame.columns)
    assert again["label"].tolist() == [label_by_length(text)[0] for text in frame["body"]]


def test_an_answer_that_a_near_equal_text_gave_is_ours():
    shelf, frame = Shelf(), tickets(4)
    out = run(frame, shelf)
    keys = dict(zip(frame["body"], split(keys_of_run(frame)), strict=True))
    shelf.shared = {keys["crash!"]: keys["crash"]}
    del shelf.payloads[keys["crash!"]]
    shelf.forget_columns()
    shared = out["label"].tolist()
    shared[1] = shared[0]
    frame = out.assign(label=shared)
    assert run(frame, shelf)["label"].tolist() == [label_by_length(text)[0] for text in frame["body"]]
    with pytest.raises(OptionsError, match="1 value of 'label' wasn't written by a run"):
        run(hand(frame, {1: "praise" if shared[0] != "praise" else "bug"}), shelf)


def test_a_column_is_ours_under_an_earlier_prompt_of_other_columns():
    shelf = Shelf()
    out = run(tickets().assign(title="T"), shelf, text="{title}: {body}")
    again = run(out.iloc[:3], shelf, text=["title", "body"], instructions="new")
    assert list(again.columns) == list(out.columns)
    shelf.forget_columns()
    with pytest.raises(OptionsError, match="weren't written by a run"):
        run(out.iloc[:3].drop(columns="title"), shelf)


def test_hand_corrections_are_refused_by_row():
    shelf = Shelf()
    out = run(tickets(300), shelf)
    with pytest.raises(OptionsError) as error:
        run(hand(out, {4: "praise", 17: "own", 230: "bug"}), shelf)
    assert str(error.value).startswith(
        "3 values of 'label' weren't written by a run (rows 4, 17, 230): "
        'on_conflict="keep" keeps them, "overwrite" replaces them'
    )
    with pytest.raises(
        OptionsError, match=r"1 value of 'label' wasn't written by a run \(row 4\): .*keeps it"
    ):
        run(hand(out, {4: "own"}), shelf)


def test_a_column_of_somebody_else_is_refused_with_its_first_rows():
    frame = tickets(7).assign(label="own").set_axis(list("abcdefg"))
    with pytest.raises(OptionsError, match=r"7 values of 'label' .* \(rows 'a', 'b', 'c', 'd', 'e', …\)"):
        run(frame, Shelf())
    with pytest.raises(OptionsError, match="7 values"):
        run(frame, None)


def test_two_values_swapped_by_hand_are_noticed():
    shelf = Shelf()
    frame = pd.DataFrame({"body": ["a", "bb", "ccc"]})
    out = run(frame, shelf)
    first, second = out["label"].iloc[0], out["label"].iloc[1]
    swapped = hand(out, {0: second, 1: first})
    with pytest.raises(OptionsError, match=r"2 values of 'label' .* \(rows 0, 1\)"):
        run(swapped, shelf)


def test_kept_values_stay_and_are_asked_about_again_by_the_next_run():
    shelf = Shelf()
    edited = hand(run(tickets(), shelf), {1: "own", 2: "question"})
    kept = run(edited, shelf, on_conflict="keep")
    assert kept["label"].tolist()[1:3] == ["own", "question"]
    assert kept["label_source"].tolist()[1:3] == ["given", "given"]
    assert kept["label"].iloc[0] == edited["label"].iloc[0]
    with pytest.raises(OptionsError, match="2 values"):
        run(kept, shelf)
    assert run(kept, shelf, on_conflict="keep")["label"].tolist() == kept["label"].tolist()


def test_overwrite_replaces_everything_where_it_stands():
    frame = tickets().assign(label="own", label_cost="mine", after=1)
    out = run(frame, Shelf(), on_conflict="overwrite")
    assert list(out.columns)[:4] == ["body", "label", "label_cost", "after"]
    assert out["label"].tolist() == [label_by_length(text)[0] for text in frame["body"]]


def test_a_value_put_where_there_was_no_answer_is_somebodys():
    shelf = Shelf()
    frame = pd.DataFrame({"body": ["crash", None]})
    out = run(frame, shelf)
    assert run(out, shelf)["label"].isna().tolist() == [False, True]
    with pytest.raises(OptionsError, match=r"\(row 1\)"):
        run(hand(out, {1: "bug"}), shelf)
    assert run(hand(out, {1: "bug"}), shelf, on_conflict="keep")["label"].tolist()[1] == "bug"


def test_a_column_without_any_answer_may_be_written_again():
    shelf = Shelf()
    out = run(tickets(), shelf, answer=lambda _: [None])
    assert out["label"].isna().all()
    assert run(out, shelf)["label"].notna().all()


def test_side_columns_of_an_earlier_run_go_and_foreign_ones_are_refused():
    shelf = Shelf()
    explained = (LABEL, Field("label_explanation", "text"))
    out = run(tickets(), shelf, fields=explained, answer=lambda _: ["bug", "why"], details="all")
    again = run(out, shelf, details="errors")
    assert list(again.columns) == ["body", "label", "label_error"]
    with pytest.raises(OptionsError, match="column 'label_cost' already, and no run wrote it"):
        run(tickets().assign(label_cost=1.0), shelf)
    fresh = Shelf()
    with pytest.raises(OptionsError, match="column 'label_source' already"):
        run(run(tickets(), fresh, details="errors").assign(label_source="mine"), fresh)
    other = run(tickets().assign(label_cost=1.0), Shelf(), details="none")
    assert other["label_cost"].tolist() == [1.0] * 6


def test_a_repeated_output_name_is_refused():
    frame = pd.DataFrame([["x", 1, 2]], columns=["body", "label", "label"])
    with pytest.raises(OptionsError, match="2 columns named 'label'"):
        run(frame, Shelf(), on_conflict="overwrite")


def test_without_a_store_a_source_column_of_ours_counts():
    out = run(tickets(), None)
    again = run(out.iloc[::-1], None, details="all")
    assert list(again.columns[:7]) == list(out.columns)
    assert list(run(again, None, details="errors").columns) == ["body", "label", "label_error"]
    with pytest.raises(OptionsError, match="6 values"):
        run(out.drop(columns="label_source"), None, details="none")
    kept = run(tickets(2).assign(label=[None, "own"]), None, on_conflict="keep")
    assert kept["label_source"].tolist() == ["api", "given"]
    with pytest.raises(OptionsError, match=r"\(row 1\)"):
        run(kept, None)


FIELDS = (
    Field("total", "float"),
    Field("count", "int"),
    Field("paid", "bool"),
    Field("due", "datetime"),
    Field("tags", "object"),
    Field("note", "text"),
)


def invoice(text):
    size = len(text)
    return [size / 2, size, bool(size % 2), "2024-02-29T10:00:00+01:00", ["a", {"k": None}], "n\0ote \ud800"]


ROUND_TRIPS = {
    "filtered": lambda out: out.iloc[1:],
    "ints as floats": lambda out: out.iloc[1:].assign(count=out["count"].astype("float64")),
    "tags as arrays": lambda out: out.iloc[1:].assign(
        tags=[np.array(tags, dtype=object) for tags in out["tags"][1:]]
    ),
    "due in nanoseconds": lambda out: out.iloc[1:].assign(due=out["due"].astype("datetime64[ns]")),
    "due with its zone": lambda out: out.iloc[1:].assign(
        due=out["due"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    ),
    "all as objects": lambda out: out.iloc[1:].astype(object),
}


@pytest.mark.parametrize("change", ROUND_TRIPS)
def test_each_kind_of_value_is_recognised_by_its_key(change):
    shelf = Shelf()
    out = ROUND_TRIPS[change](run(tickets(), shelf, fields=FIELDS, answer=invoice))
    again = run(out, shelf, fields=FIELDS, answer=invoice)
    assert list(again.columns) == list(out.columns)


def test_several_outputs_are_checked_together_and_kept_by_row():
    shelf = Shelf()
    out = run(tickets(), shelf, fields=FIELDS, answer=invoice)
    edited = hand(hand(out, {1: 99.0}, "total"), {1: "mine", 2: "mine"}, "note")
    with pytest.raises(OptionsError, match=r"3 values of 'total', 'note' .* \(rows 1, 2\)"):
        run(edited, shelf, fields=FIELDS, answer=invoice)
    kept = run(edited, shelf, fields=FIELDS, answer=invoice, on_conflict="keep")
    assert kept["extract_source"].tolist()[:4] == ["api", "given", "given", "api"]
    assert kept["total"].iloc[1] == 99.0
    assert kept["count"].tolist() == out["count"].tolist()
    assert kept["due"].dtype == "datetime64[us]"


def test_a_field_is_compared_with_the_same_field_of_an_earlier_question():
    shelf = Shelf()
    two = (Field("net", "int"), Field("gross", "int"))
    out = run(tickets(), shelf, fields=two, answer=lambda _: [1, 2])
    swapped = out.assign(net=out["gross"], gross=out["net"]).iloc[1:]
    with pytest.raises(OptionsError, match="10 values of 'gross', 'net'"):
        run(swapped, shelf, fields=two[::-1], answer=lambda _: [2, 1], instructions="new")
    again = run(out.iloc[1:], shelf, fields=two[::-1], answer=lambda _: [2, 1], instructions="new")
    assert again["net"].tolist() == [1] * 5


def test_multiindex_columns_have_their_outputs_as_full_tuples():
    shelf = Shelf()
    frame = pd.DataFrame({("body", ""): ["crash"], ("n", "mean"): [1.0]})
    out = run(frame, shelf)
    assert ("label", "") in list(out.columns)
    assert list(run(out, shelf).columns) == list(out.columns)
    out[("label", "")] = ["own"]
    with pytest.raises(OptionsError, match=r"1 value of 'label'"):
        run(out, shelf)


INDEXES = {
    "ints": pd.RangeIndex(3, 9),
    "texts": pd.Index(list("abcdef")),
    "dates": pd.date_range("2024", periods=6, tz="UTC"),
    "several": pd.MultiIndex.from_product([["a", None], [1, 2, 3]]),
    "categories": pd.CategoricalIndex(list("fedcba")),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_fingerprint_does_not_care_for_the_order_of_rows(kind):
    column = pd.Series(["x", "y", None, "y", "z", "x"], index=INDEXES[kind])
    mark = fingerprint_of(column, index_anchor(column.index))
    shuffled = column.sample(frac=1, random_state=3)
    assert fingerprint_of(shuffled, index_anchor(shuffled.index)) == mark
    moved = pd.Series(["y", "x", None, "y", "z", "x"], index=INDEXES[kind])
    assert fingerprint_of(moved, index_anchor(moved.index)) != mark


def test_a_fingerprint_stays_for_ever():
    values = pd.Series(["é", 1, True, 2.5, None, ["a", 1], pd.Timestamp("2024-01-01")], dtype=object)
    mark = fingerprint_of(values, index_anchor(values.index))
    assert mark.hex() == "7feb5325e1822aafd2a88ca7a64ce2580600000000000000"
    nullable = pd.Series([1, None, 3], dtype="Int64")
    as_float = nullable.astype("float64")
    anchor = index_anchor(nullable.index)
    assert fingerprint_of(nullable, anchor) == fingerprint_of(as_float, anchor)


def test_an_index_with_equal_labels_binds_nothing():
    assert index_anchor(pd.Index([1, 1])) is None
    assert index_anchor(pd.Index([1, True], dtype=object)) is None


@settings(max_examples=30, database=None, deadline=None)
@given(
    st.lists(st.text("ab", max_size=2), min_size=1, max_size=10),
    st.dictionaries(st.integers(0, 9), st.sampled_from([*LABELS, "own"]), max_size=4),
    st.randoms(use_true_random=False),
)
def test_exactly_the_changed_values_are_somebodys(body, changes, dice):
    shelf = Shelf()
    frame = pd.DataFrame({"body": body})
    out = run(frame, shelf)
    edited = hand(out, {row: value for row, value in changes.items() if row < len(body)})
    differs = edited["label"].notna() & (edited["label"].astype(object) != out["label"].astype(object))
    order = list(range(len(body)))
    dice.shuffle(order)
    rows = edited.iloc[order[: len(body) // 2 + 1]]
    kept = run(rows, shelf, on_conflict="keep", instructions="new")
    assert (kept["label_source"] == "given").tolist() == differs.iloc[order[: len(rows)]].tolist()
    given_rows = (kept["label_source"] == "given").to_numpy()
    assert kept["label"][given_rows].tolist() == rows["label"][given_rows].tolist()
