"""Cells become texts: what the first argument means, and how each cell is written."""

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pandas_llm.columns import TextSpec, cell_text, read_spec, texts_from
from pandas_llm.core.errors import OptionsError, PromptError


def rows(frame, text, on_null="skip"):
    """Each row's text; None where it asks nothing."""
    found = texts_from(frame, read_spec(frame, text), on_null)
    assert found.codes.dtype == np.int32
    assert len(found.texts) == len(set(found.texts)) == len(set(found.codes.tolist()) - {-1})
    return [None if code < 0 else found.texts[code] for code in found.codes.tolist()]


def column(values, dtype=object):
    return pd.DataFrame({"x": pd.Series(values, dtype=dtype)})


class Colour(str, enum.Enum):  # noqa: UP042 - its __str__ is the member's name
    RED = "red"


UGLY = [1, True, 1.0, "1", "a\0b", "a\0c", "1.0", "True"]


def test_values_pandas_takes_for_equal_stay_apart():
    found = texts_from(column(UGLY), read_spec(column(UGLY), "x"))
    assert found.texts == ["1", "True", "1.0", "a\0b", "a\0c"]
    assert found.codes.tolist() == [0, 1, 2, 0, 3, 4, 2, 1]


def test_distinct_texts_come_in_the_order_of_their_first_row():
    found = texts_from(column(["b", "a", "b", None, "c"]), read_spec(column([]), "x"))
    assert found.texts == ["b", "a", "c"]
    assert found.codes.tolist() == [0, 1, 0, -1, 2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it\n is ", "as it\n is "),
        (np.str_("numpy"), "numpy"),
        (Colour.RED, "red"),
        (True, "True"),
        (np.bool_(False), "False"),
        (7, "7"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (np.int8(-3), "-3"),
        (Decimal("1.10"), "1.10"),
        (float("inf"), "inf"),
        (date(2024, 2, 29), "2024-02-29"),
        (time(9, 5), "09:05:00"),
        (datetime(2024, 2, 29, 9, 5, tzinfo=UTC), "2024-02-29T09:05:00+00:00"),
        (pd.Timestamp("2024-02-29 09:05"), "2024-02-29T09:05:00"),
        (np.datetime64("2024-02-29"), "2024-02-29T00:00:00"),
        (timedelta(hours=2), "P0DT2H0M0S"),
        (np.timedelta64(2, "h"), "P0DT2H0M0S"),
        (pd.Period("2024-02"), "2024-02"),
        (pd.Interval(0, 1), "(0, 1]"),
        ([], "[]"),
        (["ü", 1, True, None, np.nan, pd.NaT], '["ü", 1, true, null, null, null]'),
        ((1, (2,)), "[1, [2]]"),
        ({"b": date(2024, 1, 1), "a": np.float32(0.1), 3: pd.NA}, '{"3": null, "a": 0.1, "b": "2024-01-01"}'),
        (np.array([np.array([1, 2]), {"k": np.int64(3)}], dtype=object), '[[1, 2], {"k": 3}]'),
        (np.array(5), "5"),
        ([np.array(2.5), Decimal("1.10"), ""], '[2.5, "1.10", ""]'),
    ],
)
def test_a_cell_is_written_as_promised(value, text):
    assert cell_text(value) == text
    assert type(cell_text(value)) is str


@pytest.mark.parametrize(
    "value",
    [None, np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN"), Decimal("sNaN"), np.float32("nan")],
)
def test_a_missing_value_has_no_text(value):
    assert cell_text(value) == ""
    assert rows(column([value, "", " \t\n", "\u3000", "x"]), "x") == [None, None, None, None, "x"]


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pd.array([1, None], dtype="Int64"), ["1", None]),
        (pd.array([0.1, None], dtype="Float32"), ["0.1", None]),
        (pd.array([True, None], dtype="boolean"), ["True", None]),
        (pd.array(["a", None], dtype="string"), ["a", None]),
        (np.array([0.1, np.nan], dtype=np.float32), ["0.1", None]),
        (np.array([1, 2], dtype=np.uint8), ["1", "2"]),
        (np.array([True, False]), ["True", "False"]),
        (pd.array([0.5, None], dtype=pd.SparseDtype("float64")), ["0.5", None]),
        (pd.DatetimeIndex(["2024-01-01", None], tz="Europe/Berlin"), ["2024-01-01T00:00:00+01:00", None]),
        (pd.to_timedelta([1, None], unit="D"), ["P1DT0H0M0S", None]),
        (pd.PeriodIndex(["2024-01", None], freq="M"), ["2024-01", None]),
        (pd.Categorical([3, None], categories=[5, 3]), ["3", None]),
        (pd.Categorical.from_codes([1, -1], [" ", "b"]), ["b", None]),
    ],
)
def test_each_dtype_gives_its_values_texts(array, texts):
    assert rows(pd.DataFrame({"x": array}), "x") == texts


def test_arrow_dtypes_give_their_values_texts():
    pa = pytest.importorskip("pyarrow")
    for kind, values, texts in [
        (pa.float32(), [0.1, None], ["0.1", None]),
        (pa.list_(pa.int64()), [[1, 2], None], ["[1, 2]", None]),
        (pa.date32(), [date(2024, 1, 1), None], ["2024-01-01", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", None], ["a", None]),
        (pa.large_string(), ["a\0", None], ["a\0", None]),
    ]:
        assert rows(pd.DataFrame({"x": pd.array(values, dtype=pd.ArrowDtype(kind))}), "x") == texts


class Rude:
    def __str__(self):
        raise RuntimeError("no")


DEEP = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"raw", "decode"),
        (bytearray(b"raw"), "decode"),
        ({1}, "sorted list"),
        ([{"deep": {2}}], "sorted list"),
        (object(), "object isn't text"),
        (Rude(), "Rude isn't text"),
        ("\ud800 half", "surrogate"),
        (["\udfff"], "surrogate"),
        ({1: "a", "1": "b"}, "same text"),
        ({None: 1}, "key of a dict is missing"),
        (10**5000, "no text"),
        (DEEP, "no text"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else type(value).__name__,
)
def test_a_cell_that_cannot_be_text_fails_its_row_alone(value, says):
    frame = column(["fine", value, "fine", None])
    found = texts_from(frame, read_spec(frame, "x"))
    assert found.texts == ["fine"]
    assert found.codes.tolist() == [0, -1, 0, -1]
    assert found.skipped.tolist() == [False, False, False, True]
    assert list(found.failed) == [1]
    assert found.failed[1].startswith("PromptError: ")
    assert says in found.failed[1]
    found.failed[1].encode()


def test_an_unfit_category_fails_all_its_rows():
    frame = pd.DataFrame({"x": pd.Categorical(["a", b"raw", "a", b"raw"], categories=["a", b"raw"])})
    found = texts_from(frame, read_spec(frame, "x"))
    assert found.codes.tolist() == [0, -1, 0, -1]
    assert list(found.failed) == [1, 3]


def test_an_unfit_cell_fails_its_row_among_several_columns():
    frame = pd.DataFrame({"a": ["x", "y"], "b": pd.Series([b"raw", "z"], dtype=object)})
    for text in (["a", "b"], "{a} {b}"):
        found = texts_from(frame, read_spec(frame, text), "send")
        assert len(found.texts) == 1
        assert found.codes.tolist() == [-1, 0]
        assert "'b'" in found.failed[0]


def test_nul_and_a_megabyte_pass():
    big = "é" * 500_000
    assert rows(column(["\0", big]), "x") == ["\0", big]


def test_missing_rows_are_sent_as_one_empty_text():
    frame = column([" ", "a", None, ""])
    assert rows(frame, "x", "send") == ["", "a", "", ""]
    assert rows(pd.DataFrame({"x": [None, "a"], "y": [None, None]}), "T: {x}{y}", "send") == ["", "T: a"]


def test_missing_rows_are_refused_by_label_before_sending():
    frame = column([None] * 7)
    frame.index = list("abcdefg")
    with pytest.raises(
        PromptError, match=r"7 rows have no text in 'x' \(rows 'a', 'b', 'c', 'd', 'e', …\)"
    ) as error:
        texts_from(frame, read_spec(frame, "x"), "raise")
    assert 'on_null="skip"' in str(error.value)
    assert rows(column(["a"]), "x", "raise") == ["a"]


def test_a_list_of_columns_is_named_lines_without_the_missing():
    frame = pd.DataFrame({"title": ["T", None, " "], 7: ["b", "c", np.nan]})
    assert rows(frame, ["title", 7]) == ["title: T\n7: b", "7: c", None]
    assert rows(frame, ["title"]) == ["title: T", None, None]


def test_a_template_is_filled_verbatim():
    frame = pd.DataFrame({"my column": ["{x} %s {0}", None], "a!b:c.d[0]": [1, 2], "x": ["X", "Y"]})
    assert rows(frame, "{{{my column}}} {a!b:c.d[0]} {x}{x}") == ["{{x} %s {0}} 1 XX", "{} 2 YY"]


def test_an_all_missing_column_and_an_empty_frame_ask_nothing():
    for frame in (column([None, np.nan]), column([]), pd.DataFrame({"x": pd.Categorical([])})):
        for text in ("x", ["x"], "T {x}"):
            found = texts_from(frame, read_spec(frame, text))
            assert found.texts == []
            assert found.skipped.all()


def test_a_column_of_many_chunks_is_numbered_through():
    n = 140_000
    frame = pd.DataFrame({"x": np.arange(n) % 70_000, "y": pd.Series(["a"] * n, dtype="category")})
    found = texts_from(frame, read_spec(frame, "{x}{y}"))
    assert len(found.texts) == 70_000
    assert found.codes.tolist() == [*range(70_000), *range(70_000)]
    late = pd.DataFrame({"x": pd.Series(["a"] * 70_000 + [b"raw"], dtype=object)})
    assert list(texts_from(late, read_spec(late, "x")).failed) == [70_000]


@settings(max_examples=60, database=None, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)), max_size=12
    )
)
def test_every_row_asks_its_own_text(values):
    series = pd.Series(values, dtype=object)
    found = texts_from(series.to_frame(0), read_spec(series.to_frame(0), 0))
    for row, value in enumerate(values):
        code = found.codes[row]
        expected = "" if pd.isna(value) else str(value)
        if found.skipped[row]:
            assert not expected.strip()
        else:
            assert found.texts[code] == expected


# What the first argument means ----------------------------------------------------------------------------


def test_any_label_of_the_frame_is_a_column():
    frame = pd.DataFrame(
        [["a", "b", "c", "d"]], columns=pd.Index([1, "1", ("t", 2), "{x}"], tupleize_cols=False)
    )
    assert rows(frame, 1) == ["a"]
    assert rows(frame, "1") == ["b"]
    assert rows(frame, ("t", 2)) == ["c"]
    assert rows(frame, "{x}") == ["d"]
    with pytest.raises(PromptError, match="True is not a column"):
        read_spec(frame, True)


def test_multiindex_columns_are_named_in_full():
    frame = pd.DataFrame([["t", "u"]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("body", "")]))
    assert rows(frame, ("a", "b")) == ["t"]
    assert rows(frame, "body") == ["u"]
    assert rows(frame, [("a", "b"), "body"]) == ["('a', 'b'): t\nbody: u"]
    assert rows(frame, "{('a', 'b')}-{body}") == ["t-u"]
    assert read_spec(frame, "body").single == "body"
    with pytest.raises(PromptError, match="'a' is not a column"):
        read_spec(frame, "a")


def test_one_column_is_single_however_written():
    frame = pd.DataFrame({"body": ["x"], "n": [1]})
    for text in ("body", ["body"], "About {body}, {body}"):
        assert read_spec(frame, text).single == "body"
    assert read_spec(frame, ["body", "n"]).single is None


WRONG = [
    (
        "boody",
        r"'boody' is not a column .* Did you mean 'body'\? The columns are 'body', 'n', 1, '1', 'd', 'd'",
    ),
    ("Summarise", r"is not a column .* A template has columns in braces"),
    (["body", "Nn"], r"Did you mean 'n'"),
    ([], "list of columns is empty"),
    (["body", "body"], "listed twice"),
    ("d", "2 columns named 'd'"),
    ("{d}", "fits 2 columns"),
    ("{1}", r"fits 2 columns \(1, '1'\)"),
    ("{bdy}", r"field '\{bdy\}' is not a column. Did you mean 'body'"),
    ("{body!r}", "without format, attribute or index"),
    ("{body.upper}", "without format, attribute or index"),
    ("{}", "is not a column"),
    ("{{body}}", "has no field"),
    ("{body", "lone '{' at character 0"),
    ("{body}}", "lone '}' at character 6"),
    ({"a": 1}, "is not a column"),
    (("body", "n"), r"Write a list of columns: \['body', 'n'\]"),
    (None, "None is not a column"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_what_names_no_column_is_answered_with_what_to_write(text, says):
    frame = pd.DataFrame([["x"] * 6], columns=["body", "n", 1, "1", "d", "d"])
    with pytest.raises(PromptError, match=says):
        read_spec(frame, text)


def test_many_columns_are_shortened_in_an_error():
    frame = pd.DataFrame(columns=[f"c{i}" for i in range(40)] + ["x" * 500])
    with pytest.raises(PromptError, match=r"'c11', … \(41 in all\)") as error:
        read_spec(frame, "x" * 300)
    assert len(str(error.value)) < 500


def test_a_series_as_text_is_answered_with_its_name():
    frame = pd.DataFrame({"body": ["x"]})
    with pytest.raises(OptionsError, match=r"the column's name, 'body', or use series\.llm"):
        read_spec(frame, frame["body"])
    with pytest.raises(OptionsError, match="not a DataFrame"):
        read_spec(frame, frame)


@pytest.mark.parametrize("text", ["body", ["body", 1], "T: {body}{{}}", ("a", 2), [("a", 2)]])
def test_a_spec_survives_json(text):
    labels = pd.Index(["x", "body", 1, ("a", 2)], tupleize_cols=False)
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=labels)
    spec = read_spec(frame, text)
    other = frame.iloc[:, [3, 2, 1]]
    again = TextSpec.from_json(other, spec.to_json())
    assert again.labels == spec.labels
    assert rows(frame, text) == [texts_from(other, again).texts[0]]
    assert TextSpec.from_json(frame[["x"]], spec.to_json()) is None


def test_numpy_labels_are_written_as_pythons_and_dates_not_at_all():
    frame = pd.DataFrame([[1, 2]], columns=pd.Index([np.int64(3), pd.Timestamp("2024")], dtype=object))
    assert read_spec(frame, 3).to_json() == '{"column": 3}'
    assert read_spec(frame, pd.Timestamp("2024")).to_json() is None
