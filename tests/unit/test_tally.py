"""Counting a run: what is told of failures, and of how it went."""

from __future__ import annotations

import math

import pytest

from pandas_llm.core.course import MOST, Recorder
from pandas_llm.core.errors import ServerError, in_our_words
from pandas_llm.core.tally import Tally
from pandas_llm.core.types import BatchProgress, Failure, Result


def result(number, **more):
    return Result(key=b"%016d" % number, **({"output": ["a"]} | more))


@pytest.mark.parametrize(
    ("kind", "said", "kept"),
    [
        (
            "SchemaMismatchError",
            r"'John,\nborn 1961' is none of the labels, which are 'a'",
            "the reply doesn't fit what was asked for",
        ),
        (
            "RefusalError",
            'The model refused: "I won\'t help John"',
            "the model refused, or its answer was filtered",
        ),
        ("BadRequestError", "HTTP 400, bad_request: can't read John, born 1961", "HTTP 400"),
        ("ServerError", "the connection was lost: John", "the connection was lost"),
        ("PromptError", "column 'body': bytes aren't text", "column 'body': bytes aren't text"),
        ("LengthError", "The reply was cut off.", "The reply was cut off."),
    ],
)
def test_what_is_kept_for_others_has_no_word_of_a_cell_a_model_or_a_provider(kind, said, kept):
    assert in_our_words(kind, said) == kept


def test_a_class_of_failures_names_its_first_rows_and_the_latest_message():
    tally = Tally(run="r_1", title="t", rows=9, now=0.0)
    for rows in ((7, 8), (2, 3, 4, 5), (1,)):
        tally.failed("ServerError", f"about {rows[0]}", rows)
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
    speeds = tally.snapshot(2_100.0).speeds
    assert len(speeds) >= len(course.ended) - 1
    assert speeds == pytest.approx([1.0] * len(speeds), rel=0.01)


def test_an_unknown_cost_stays_unknown_in_its_interval():
    recorder = Recorder()
    recorder.add(0.1, "api", math.nan)
    recorder.add(0.4, "api", 0.25)
    assert math.isnan(recorder.course().cost[0])
    assert recorder.course().cost[1] == 0.25


def test_answers_that_come_in_waves_have_the_speed_of_the_waves():
    # 64 in flight, 30 s each: 64 every 30 s, however long ago the last of them came.
    tally = Tally(run="r_1", title="t", rows=6_400, now=0.0)
    tally.asked = 6_400
    tally.sent(0.0)
    rates, number = [], 0
    for second in range(1, 301):
        for _ in range(64 if second % 30 == 0 else 0):
            number += 1
            tally.told(result(number, latency=30.0), 1, float(second))
        rates.append(tally.snapshot(float(second)).rate)
    assert rates[28] == 0
    assert all(1.0 < rate < 3.3 for rate in rates[60:])


def test_who_waits_has_no_time_left_and_batches_have_their_own_price():
    tally = Tally(run="r_1", title="t", rows=100, now=0.0)
    tally.asked = 100
    tally.told(result(1, cost=1.0, latency=0.1), 1, 1.0)
    assert tally.snapshot(2.0).eta == pytest.approx(198)
    assert tally.snapshot(2.0, waiting="Retry-After, 300 s").eta is None
    assert tally.snapshot(2.0).projected == 100.0
    batches = (BatchProgress(name="b", status="in_progress", requests=99),)
    seen = tally.snapshot(2.0, batches=batches)
    assert (seen.eta, math.isnan(seen.projected)) == (None, True)
    tally.told(result(2, cost=0.5, batch=True), 1, 3.0)
    assert tally.snapshot(4.0, batches=batches).projected == pytest.approx(1.5 + 98 * 0.5)


def test_silence_is_part_of_the_course():
    recorder = Recorder()
    recorder.add(0.1, "api", 0.0)
    assert recorder.speeds(2.0) == (4.0, *[0.0] * 7)
