"""Deadline routing: the cheapest route that should make it, and what is said of the choice."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.routes import (
    BATCH_PAST,
    Route,
    batch_seconds,
    choose,
    concurrent_seconds,
    must_recover,
)

MINUTE, HOUR = 60.0, 3_600.0
CONCURRENT = Route("concurrent", (4.0, 5.0), (2 * MINUTE, 12 * MINUTE))
FLEX = Route("flex", (2.0, 2.5), (2 * MINUTE, 36 * MINUTE))
BATCH = Route("batch", (2.0, 2.5), BATCH_PAST[:2], bound=BATCH_PAST[2])
DEAR_FLEX = dataclasses.replace(FLEX, cost=(3.0, 3.5))
NO_FLEX = dataclasses.replace(FLEX, cost=None, available=False, note="gpt-4 has no flex price")


# Times -------------------------------------------------------------------------------------------------


def test_concurrent_time_is_that_of_what_is_scarcest():
    def seconds(requests=6400, tokens=640_000, rpm=None, tpm=None):
        return concurrent_seconds(requests, tokens, rpm=rpm, tpm=tpm, max_concurrency=64)

    assert seconds() == (pytest.approx(30), pytest.approx(300))
    assert seconds(requests=6401) == (pytest.approx(30.3), pytest.approx(303))
    assert seconds(rpm=6400) == (pytest.approx(60), pytest.approx(300))
    assert seconds(rpm=640) == (pytest.approx(600), pytest.approx(600))
    assert seconds(rpm=6400, tpm=64_000) == (pytest.approx(600), pytest.approx(600))
    assert seconds(requests=0, tokens=0, rpm=1, tpm=1) == (0.0, 0.0)


def test_a_timed_model_gives_its_own_latency():
    assert concurrent_seconds(10, 0, rpm=None, tpm=None, max_concurrency=1, latency=(1.0, 2.0)) == (
        10.0,
        20.0,
    )


def test_without_a_past_of_five_batches_the_published_times_go():
    assert batch_seconds([]) == batch_seconds([1.0] * 4) == (7 * MINUTE, HOUR, 24 * HOUR)
    assert batch_seconds([1.0] * 4 + [math.nan, math.inf, -1.0]) == BATCH_PAST


def test_the_stores_own_past_counts_from_five_batches_on():
    assert batch_seconds([50.0, 10.0, 20.0, 40.0, 30.0]) == (30.0, 50.0, 24 * HOUR)
    assert batch_seconds([float(n) for n in range(1, 101)]) == (50.0, 90.0, 24 * HOUR)


# The choice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds_left", "routes", "name", "recovery"),
    [
        # Flex and batch cost the same: the quicker of them, wherever it fits.
        (None, (CONCURRENT, FLEX, BATCH), "flex", False),
        (15 * MINUTE, (CONCURRENT, FLEX, BATCH), "concurrent", False),
        (40 * MINUTE, (CONCURRENT, FLEX, BATCH), "flex", False),
        (24 * HOUR, (CONCURRENT, FLEX, BATCH), "flex", False),
        # Where flex is dearer or not there, a batch from the time on that its 90 % fit twice.
        (None, (CONCURRENT, DEAR_FLEX, BATCH), "batch", False),
        (40 * MINUTE, (CONCURRENT, DEAR_FLEX, BATCH), "flex", False),
        (1.9 * HOUR, (CONCURRENT, NO_FLEX, BATCH), "concurrent", False),
        (2 * HOUR, (CONCURRENT, NO_FLEX, BATCH), "batch", True),
        (8 * HOUR, (CONCURRENT, DEAR_FLEX, BATCH), "batch", True),
        (48 * HOUR, (CONCURRENT, DEAR_FLEX, BATCH), "batch", True),
        # Without anything to finish with, there is no recovery point.
        (8 * HOUR, (BATCH,), "batch", False),
    ],
)
def test_the_cheapest_that_should_make_it(seconds_left, routes, name, recovery):
    choice = choose(seconds_left, routes)
    assert (choice.route, choice.recovery) == (name, recovery)
    assert choice.routes == routes


def test_quick_batches_of_the_own_past_are_taken_for_short_deadlines():
    quick = dataclasses.replace(BATCH, seconds=(3 * MINUTE, 10 * MINUTE))
    choice = choose(20 * MINUTE, (CONCURRENT, NO_FLEX, quick))
    assert (choice.route, choice.recovery) == ("batch", True)
    assert choose(19 * MINUTE, (CONCURRENT, NO_FLEX, quick)).route == "concurrent"
    # Too short to finish concurrently after it, but it should make it twice over.
    slow = dataclasses.replace(CONCURRENT, seconds=(10 * MINUTE, 30 * MINUTE))
    choice = choose(20 * MINUTE, (slow, quick))
    assert (choice.route, choice.recovery) == ("batch", False)


def test_slow_batches_are_tried_where_concurrent_requests_can_still_finish_in_time():
    slow = dataclasses.replace(BATCH, seconds=(2 * HOUR, 10 * HOUR))
    choice = choose(4 * HOUR, (CONCURRENT, slow))
    assert (choice.route, choice.recovery) == ("batch", True)
    # Half of all batches wouldn't be back before it has to be given up.
    assert choose(2.1 * HOUR, (CONCURRENT, slow)).route == "concurrent"
    long = dataclasses.replace(CONCURRENT, seconds=(HOUR, 3 * HOUR))
    assert choose(4 * HOUR, (long, slow)).route == "concurrent"


def test_where_nothing_makes_it_the_quickest_is_taken_and_said_so():
    choice = choose(5 * MINUTE, (CONCURRENT, FLEX, BATCH))
    assert choice.route == "concurrent"
    assert choice.reason == "nothing should be done in 5 min; it is the quickest"
    long = dataclasses.replace(CONCURRENT, seconds=(5 * HOUR, 9 * HOUR))
    assert choose(HOUR, (long, BATCH)).route == "batch"
    assert choose(-5.0, (CONCURRENT, BATCH)).reason.startswith("nothing should be done in 0 s")


def test_an_unknown_price_is_never_the_cheapest():
    unknown = dataclasses.replace(BATCH, cost=None)
    nan = dataclasses.replace(FLEX, cost=(math.nan, math.nan))
    assert choose(None, (CONCURRENT, nan, unknown)).route == "concurrent"
    choice = choose(None, (dataclasses.replace(CONCURRENT, cost=None), unknown))
    assert choice.route == "concurrent"
    assert choice.reason == "the quickest; prices are unknown"


def test_prices_two_percent_apart_are_the_same():
    near = dataclasses.replace(BATCH, cost=(1.97, 2.46))
    assert choose(None, (CONCURRENT, FLEX, near)).route == "flex"
    assert choose(None, (CONCURRENT, FLEX, dataclasses.replace(BATCH, cost=(1.9, 2.4)))).route == "batch"


def test_an_unknown_time_never_makes_a_deadline():
    unknown = dataclasses.replace(FLEX, cost=(0.1, 0.1), seconds=(math.nan, math.nan))
    assert choose(HOUR, (CONCURRENT, unknown)).route == "concurrent"


def test_without_any_route_there_is_no_choice():
    with pytest.raises(ValueError, match="no route"):
        choose(None, (NO_FLEX,))


MONEY = st.one_of(st.none(), st.floats(0, 100).map(lambda low: (low, low * 1.3)))
SPAN = st.floats(0, 1e5).map(lambda low: (low, low * 3))
ROUTES = st.tuples(
    st.builds(Route, st.just("concurrent"), MONEY, SPAN),
    st.builds(Route, st.just("flex"), MONEY, SPAN, available=st.booleans()),
    st.builds(Route, st.just("batch"), MONEY, SPAN, bound=st.just(86_400.0), available=st.booleans()),
)


@given(st.one_of(st.none(), st.floats(0, 2e5)), ROUTES)
def test_the_choice_is_available_and_makes_a_deadline_that_concurrent_requests_make(seconds_left, routes):
    choice = choose(seconds_left, routes)
    chosen = next(route for route in routes if route.name == choice.route)
    assert chosen.available
    assert not choice.recovery or (choice.route == "batch" and seconds_left is not None)
    if seconds_left is not None and routes[0].seconds[1] <= seconds_left:
        assert chosen.seconds[1] <= seconds_left or choice.recovery
    assert choice.lines()


# The recovery point ------------------------------------------------------------------------------------


def test_the_recovery_point_leaves_a_tenth_and_a_minute_to_spare():
    assert must_recover(170.0, 100.0)
    assert not must_recover(170.1, 100.0)
    assert must_recover(60.0, 0.0)
    assert must_recover(1e9, math.inf)


# In words ----------------------------------------------------------------------------------------------


def test_the_choice_is_told_with_price_and_time_of_each_route():
    choice = choose(8 * HOUR, (CONCURRENT, NO_FLEX, BATCH))
    assert choice.lines() == [
        "concurrent  $4.00 – $5.00, 2 min – 12 min",
        "flex        not available: gpt-4 has no flex price",
        "batch       $2.00 – $2.50, 7 min – 1 h, at most 24 h",
        f"batch: {choice.reason}.",
    ]
    assert choice.reason == (
        "the cheapest that should be done in 8 h; "
        "what is missing 14 min before the deadline is asked concurrently"
    )


def test_reasons_are_short():
    assert choose(None, (CONCURRENT,)).reason == "the only one there is"
    assert choose(HOUR, (CONCURRENT, BATCH)).reason == "the only one that should be done in 1 h"
    assert choose(None, (CONCURRENT, FLEX, BATCH)).reason == "the cheapest (as cheap as batch, and quicker)"
    free = dataclasses.replace(CONCURRENT, cost=(0.0, 0.0), seconds=(0.3, 75.0), note="local")
    assert choose(None, (free,)).lines()[0] == "concurrent  $0.00, 0.3 s – 75 s (local)"
    cheap = dataclasses.replace(CONCURRENT, cost=(0.00002, 0.05))
    assert choose(None, (cheap,)).lines()[0] == "concurrent  $0.00002 – $0.05, 2 min – 12 min"
    unknown = dataclasses.replace(CONCURRENT, cost=None, seconds=(1.0, math.inf))
    assert choose(None, (unknown,)).lines()[0] == "concurrent  price unknown, 1 s – an unknown time"
