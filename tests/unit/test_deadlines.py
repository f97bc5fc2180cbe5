"""Deadlines as people write them: spans, moments, a column of both; what nobody can read is refused."""

import time
import warnings
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from pandas_llm.columns.deadlines import check_in_time, column_of, deadlines_of
from pandas_llm.core.errors import OptionsError

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC).timestamp()
HOUR = 3_600.0
CODES = np.array([0, 1, 2], dtype=np.int32)


def left(deadline, frame=None, codes=CODES, texts=3):
    frame = pd.DataFrame({"body": ["a", "b", "c"]}) if frame is None else frame
    return deadlines_of(frame, deadline, codes, texts, NOW).tolist()


def refused(call, *words):
    with pytest.raises(OptionsError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# One for all rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "seconds"),
    [
        ("20min", 20 * 60),
        ("20 min", 20 * 60),
        ("20 minutes", 20 * 60),
        ("6h", 6 * HOUR),
        (" 6 hours ", 6 * HOUR),
        ("90s", 90),
        ("1.5h", 1.5 * HOUR),
        ("1h30m", 1.5 * HOUR),
        ("1 h 30 min", 1.5 * HOUR),
        ("2d", 48 * HOUR),
        ("2 days, 3 hours", 51 * HOUR),
        ("1 week", 7 * 24 * HOUR),
        ("0 days 06:00:00", 6 * HOUR),
        ("-6h", -6 * HOUR),
        (timedelta(minutes=20), 20 * 60),
        (pd.Timedelta("6h"), 6 * HOUR),
        (np.timedelta64(6, "h"), 6 * HOUR),
        ("2026-11-20 18:00Z", 6 * HOUR),
        ("2026-11-20T18:00:00+02:00", 4 * HOUR),
        (datetime(2026, 11, 20, 18, tzinfo=UTC), 6 * HOUR),
        (datetime(2026, 11, 20, 18, tzinfo=timezone(timedelta(hours=-3))), 9 * HOUR),
        (pd.Timestamp("2026-11-20 18:00", tz="Europe/Paris"), 5 * HOUR),
        (pd.Timestamp("2026-11-20 18:00:00.000000001", tz="UTC"), 6 * HOUR),
        (datetime(2026, 11, 20, 11, tzinfo=UTC), -HOUR),
    ],
)
def test_a_span_or_a_moment_is_seconds_from_now(deadline, seconds):
    assert left(deadline) == pytest.approx([seconds] * 3)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone can't be set here")
@pytest.mark.parametrize(("zone", "hours"), [("America/New_York", 5), ("Asia/Tokyo", -9)])
def test_a_moment_without_a_zone_is_in_this_machines(monkeypatch, zone, hours):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = left(datetime(2026, 11, 20, 18)), left("2026-11-20 18:00"), left(date(2026, 11, 20))  # noqa: DTZ001
    time.tzset()
    assert found == ([(6 + hours) * HOUR] * 3, [(6 + hours) * HOUR] * 3, [(12 + hours) * HOUR] * 3)


def test_all_ways_to_write_a_moment_are_the_same_moment():
    naive = datetime(2026, 11, 21, 9, 30)  # noqa: DTZ001 — that is the point
    here = naive.astimezone().timestamp() - NOW
    assert left(naive) == left("2026-11-21 09:30") == left(np.datetime64("2026-11-21T09:30")) == [here] * 3


def test_a_date_is_until_its_end():
    assert left(date(2026, 11, 21)) == [datetime(2026, 11, 22).astimezone().timestamp() - NOW] * 3


def test_without_a_deadline_there_is_nothing_to_reckon():
    assert deadlines_of(pd.DataFrame({"body": ["a"]}), None, CODES[:1], 1, NOW) is None


@pytest.mark.parametrize(
    "deadline",
    ["soon", "may", "1h30", "1M", "10", "1.5", "6", "h", "min", "nan", "NaT", "", "  ", "in 6 hours",
     "tomorrow", 6, 1.5, True, float("nan"), pd.NaT, pd.NA, [1, 2], ["6h"], {"h": 6}, object, ("6h",)],
    ids=repr,
)  # fmt: skip
def test_what_nobody_can_read_is_refused_with_the_ways_to_write_it(deadline):
    said = refused(
        lambda: left(deadline), "deadline: ", "neither a span of time nor a moment", '"20min", "6h"'
    )
    assert len(said) < 300


def test_a_misspelt_column_gets_the_nearest():
    frame = pd.DataFrame({"body": ["a"], "Due by": ["6h"]})
    refused(
        lambda: left("due_by", frame, CODES[:1], 1),
        "'due_by' is neither",
        "no column",
        "Did you mean the column 'Due by'?",
    )


def test_reading_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left("2d")
        left("1w")
        left(pd.Timestamp("2026-11-20 18:00:00.000000001"))


# A column of them --------------------------------------------------------------------------------------


def frame_of(values, **columns):
    return pd.DataFrame({"body": [f"text {i}" for i in range(len(values))], "due": values, **columns})


def test_each_row_has_its_own_and_missing_ones_have_time():
    values = ["20min", None, timedelta(hours=6), datetime(2026, 11, 20, 13, tzinfo=UTC), np.nan, pd.NaT, " "]
    codes = np.arange(7, dtype=np.int32)
    found = left("due", frame_of(values), codes, 7)
    assert found == [1_200.0, np.inf, 6 * HOUR, HOUR, np.inf, np.inf, np.inf]


@pytest.mark.parametrize(
    "values",
    [
        pd.to_timedelta(["1h", None, "2h"]),
        pd.to_datetime(["2026-11-20 13:00", None, "2026-11-20 14:00"], utc=True),
        pd.Series(["1h", None, "2h"], dtype="string"),
        pd.Categorical(["1h", None, "2h"]),
    ],
    ids=["timedelta", "datetime", "string", "category"],
)
def test_columns_of_any_dtype_will_do(values):
    assert left("due", frame_of(values)) == [HOUR, np.inf, 2 * HOUR]


def test_equal_texts_are_needed_by_the_first_of_their_rows():
    codes = np.array([0, 1, 0, 0], dtype=np.int32)
    assert left("due", frame_of(["6h", "1h", "20min", None]), codes, 2) == [1_200.0, HOUR]


def test_rows_that_ask_nothing_need_no_deadline():
    codes = np.array([0, -1, 1], dtype=np.int32)
    assert left("due", frame_of(["1h", "junk", "2h"]), codes, 2) == [HOUR, 2 * HOUR]


def test_junk_is_named_by_its_row_in_the_frames_own_labels():
    values = ["1h"] * 20
    values[17] = "when you can"
    codes = np.arange(20, dtype=np.int32)
    refused(
        lambda: left("due", frame_of(values), codes, 20),
        "deadline, column 'due', row 17: 'when you can' is neither a span of time nor a moment",
    )
    labelled = frame_of(values).set_axis([f"r{i}" for i in range(20)])
    refused(lambda: left("due", labelled, codes, 20), "column 'due', row 'r17':")


@pytest.mark.parametrize("junk", [5, 2.5, True, [1, 2], {"a": 1}, b"6h", "x" * 500], ids=str)
def test_junk_of_any_kind_is_refused_in_few_words(junk):
    said = refused(lambda: left("due", frame_of(["1h", junk, "2h"])), "row 1: ", "neither")
    assert len(said) < 300


def test_a_column_wins_over_a_span_of_the_same_words():
    frame = pd.DataFrame({"body": ["a"], "6h": ["1h"]})
    assert left("6h", frame, CODES[:1], 1) == [HOUR]


def test_labels_that_are_no_words_name_columns_too():
    frame = pd.DataFrame({"body": ["a"], 7: ["1h"]})
    assert left(7, frame, CODES[:1], 1) == [HOUR]
    several = pd.DataFrame([["a", "1h"]], columns=pd.MultiIndex.from_tuples([("body", ""), ("due", "by")]))
    assert left(("due", "by"), several, CODES[:1], 1) == [HOUR]
    assert column_of(several, "due") is None


def test_a_column_that_is_there_twice_is_refused():
    frame = pd.DataFrame([["a", "1h", "2h"]], columns=["body", "due", "due"])
    refused(lambda: left("due", frame, CODES[:1], 1), "2 columns named 'due'")


# In the past -------------------------------------------------------------------------------------------


def test_what_is_over_is_refused_only_where_it_is_to_be_asked():
    frame = frame_of(["1h", "2020-01-01", "2h"])
    check_in_time(frame, "due", CODES, np.array([False, False, False]))
    refused(
        lambda: check_in_time(frame, "due", CODES, np.array([False, True, False])),
        "deadline, column 'due', row 1: '2020-01-01' is in the past. A missing value is a row that has time.",
    )
    refused(
        lambda: check_in_time(frame, "due", np.array([0, 0, -1]), np.array([True])),
        "row 0: '1h' is in the past (rows 0, 1)",
    )


def test_one_deadline_that_is_over_is_refused_as_it_was_written():
    frame = pd.DataFrame({"body": ["a"]})
    refused(
        lambda: check_in_time(frame, datetime(2020, 1, 1, tzinfo=UTC), CODES[:1], np.array([True])),
        "deadline: 2020-01-01 00:00:00+00:00 is in the past",
    )
