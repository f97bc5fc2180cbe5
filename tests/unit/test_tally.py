"""Counting a run: what is told of failures, and of how it went."""

from __future__ import annotations

import math

import pytest

from pandas_llm.core.course import MOST, Recorder
from pandas_llm.core.errors import ServerError
from pandas_llm.core.tally import Tally, without
from pandas_llm.core.types import Failure, Result


def result(number, **more):
    return Result(key=b"%016d" % number, **({"output": ["a"]} | more))


@pytest.mark.parametrize(
    ("said", "text", "left"),
    [
        ("'my name is Anna' isn't a label", "Hello, my name is Anna.", "'…' isn't a label"),
        ("'my name is Ann…' isn't a label", "Hello, my name is Anna.", "'…' isn't a label"),
        ('"ok" isn\'t a number', "ok", '"…" isn\'t a number'),
        ("'bug' is none of 'a', 'b'", "a bug in the app", "'bug' is none of 'a', 'b'"),
        (
            "The input Hello, my name is Anna. was flagged",
            "Hello, my name is Anna.",
            "The input … was flagged",
        ),
        ("Nothing to hide", "", "Nothing to hide"),
    ],
)
def test_a_cells_text_isnt_quoted(said, text, left):
    assert without(said, text) == left


def test_a_class_of_failures_names_its_first_rows_and_the_latest_message():
    tally = Tally(run="r_1", title="t", rows=9, now=0.0)
    for rows in ((7, 8), (2, 3, 4, 5), (1,)):
        tally.failed("ServerError", f"about {rows[0]}", rows, "")
    seen = tally.snapshot(1.0)
    assert seen.errors == {"ServerError": 3}
    assert seen.failures == {"ServerError": Failure((7, 8, 2, 3), "about 1")}


def test_the_course_adds_up_to_the_run_however_long_it_took():
    tally = Tally(run="r_1", title="t", rows=2_000, now=100.0)
    for number in range(2_000):
        failed = {"output": None, "error": ServerError("no")} if number % 10 == 0 else {}
        tally.told(result(number, cost=0.5, latency=0.3, **failed), 1, 100.0 + number)
    course = tally.course()
    assert len(course.ended) <= MOST
    assert course.interval * len(course.ended) >= 1_999
    assert sum(course.ended) == 2_000
    assert sum(course.cost) == pytest.approx(1_000)
    assert course.costs == {"failed": 100.0, "api": 900.0}
    assert sum(course.latencies.values()) == 1_800
    assert 10 ** (min(course.latencies) / 20) <= 0.3 < 10 ** ((max(course.latencies) + 1) / 20)
    assert tally.snapshot(2_100.0).speeds == pytest.approx([1.0] * (len(course.ended) - 1), rel=0.01)


def test_an_unknown_cost_stays_unknown_in_its_interval():
    recorder = Recorder()
    recorder.add(0.1, "api", math.nan)
    recorder.add(0.4, "api", 0.25)
    assert math.isnan(recorder.course().cost[0])
    assert recorder.course().cost[1] == 0.25
