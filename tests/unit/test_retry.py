"""Retries: what is sent again and when; what headers say."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    BadRequestError,
    OutputError,
    QuotaError,
    RateLimitError,
    ServerError,
)
from pandas_llm.core.retry import (
    ErrorWindow,
    Limits,
    parse_duration,
    parse_limits,
    parse_retry_after,
    wait_before_retry,
)

NOW = 1_792_000_000.0


def wait(error: Exception, attempt: int = 1, *, max_retries: int = 6, jitter: float = 0.5, timeouts: int = 0):
    return wait_before_retry(error, attempt, max_retries=max_retries, jitter=jitter, timeouts=timeouts)


def test_the_back_off_doubles_up_to_half_a_minute():
    error = ServerError("down")
    waits = [wait(error, n, max_retries=9_999, jitter=1.0) for n in (1, 2, 3, 7, 8, 50, 5_000)]
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[3:] == [30.0] * 4


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 6))
def test_the_jitter_is_full(jitter: float, attempt: int):
    assert wait(ServerError("down"), attempt, jitter=jitter) == pytest.approx(
        jitter * 0.5 * 2 ** (attempt - 1)
    )


def test_used_up_retries_end_it():
    assert wait(ServerError("down"), 6) is not None
    assert wait(ServerError("down"), 7) is None
    assert wait(ServerError("down"), 1, max_retries=0) is None


def test_retry_after_is_honoured_whatever_its_length():
    assert wait(ServerError("busy", retry_after=3_600.0)) == 3_600.25
    assert wait(RateLimitError("slow", retry_after=86_400.0)) >= 86_400.0


def test_a_timeout_is_sent_again_once_at_most():
    error = ServerError("late", code="timeout")
    assert wait(error, 1, timeouts=1) is not None
    assert wait(error, 2, timeouts=2) is None
    assert wait(ServerError("lost", code="connection"), 2, timeouts=2) is not None


def test_a_rate_limit_waits_and_never_gives_up_by_itself():
    waits = [wait(RateLimitError("slow"), n, max_retries=0, jitter=0.0) for n in (0, 1, 2, 3, 100)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 30.0]


@pytest.mark.parametrize(
    "error",
    [AuthError("no"), QuotaError("money"), BadRequestError("bad"), OutputError("what"), ApiError("?")],
)
def test_everything_else_is_not_sent_again(error: Exception):
    assert wait(error) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("1.2s", 1.2),
        ("6m0s", 360.0),
        ("1h2m", 3_720.0),
        ("2m59.56s", 179.56),
        ("1d", 86_400.0),
        ("1m30ms", 60.03),
        ("0s", 0.0),
        ("7", 7.0),
        (" 1s ", 1.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1x", "s", "1s2h", "nan", "inf", "ms", "1 s"])
def test_nonsense_is_no_duration(text: str):
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "20"}, 0.25),
        ({"retry-after-ms": "-1"}, 0.0),
        ({"retry-after-ms": "soon", "retry-after": "20"}, 20.0),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None):
    assert parse_retry_after(headers, NOW) == seconds


def http_date(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def test_a_date_is_measured_against_our_clock():
    assert parse_retry_after({"retry-after": http_date(NOW + 90)}, NOW) == 90.0
    assert parse_retry_after({"retry-after": http_date(NOW - 90)}, NOW) == 0.0


@pytest.mark.parametrize("skew", [-3_600, 0, 3_600])
def test_a_date_is_measured_against_the_servers_clock_where_it_shows_it(skew: float):
    headers = {"retry-after": http_date(NOW + skew + 90), "date": http_date(NOW + skew)}
    assert parse_retry_after(headers, NOW) == 90.0


def test_a_date_without_a_zone_is_utc():
    assert parse_retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 -0000"}, 0.0) == 60.0


@given(st.text())
def test_no_retry_after_raises(text: str):
    found = parse_retry_after({"retry-after": text, "date": text}, NOW)
    assert found is None or found >= 0.0


def limits(**headers: str) -> Limits | None:
    return parse_limits({f"x-ratelimit-{name.replace('_', '-')}": value for name, value in headers.items()})


def test_limits_are_read():
    assert limits(
        limit_requests="5000",
        remaining_requests="4999",
        reset_requests="12ms",
        limit_tokens="2000000",
        remaining_tokens="1999744",
        reset_tokens="7ms",
    ) == Limits(5_000, 2_000_000, 4_999, 1_999_744)


def test_without_limits_there_are_none():
    assert parse_limits({}) is None
    assert limits(limit_requests="many") is None
    assert limits(limit_requests="0") is None
    assert limits(limit_requests="-1") is None
    assert limits(remaining_requests="3") is None


def test_a_limit_alone_is_enough():
    assert limits(limit_requests="500") == Limits(requests=500)


def test_a_limit_of_a_day_says_nothing_of_the_pace():
    found = limits(
        limit_requests="14400",
        remaining_requests="14370",
        reset_requests="2m59.56s",
        limit_tokens="18000",
        remaining_tokens="17997",
        reset_tokens="7.66s",
    )
    assert found == Limits(tokens=18_000, remaining_tokens=17_997)


def test_few_failures_do_not_stop_a_run():
    window = ErrorWindow()
    for _ in range(19):
        window.add(True)
    assert not window.tripped(0.5)
    window.add(True)
    assert window.tripped(0.5)


def test_exactly_the_share_does_not_stop_a_run():
    window = ErrorWindow()
    for n in range(20):
        window.add(n % 2 == 0)
    assert not window.tripped(0.5)
    window.add(True)
    assert window.tripped(0.5)


@given(st.lists(st.booleans(), max_size=600))
def test_only_the_last_200_count(outcomes: list[bool]):
    window = ErrorWindow()
    for failed in outcomes:
        window.add(failed)
    last = outcomes[-200:]
    assert window.rate == pytest.approx(sum(last) / len(last) if last else 0.0)


def test_a_rate_of_one_never_stops_a_run():
    window = ErrorWindow()
    for _ in range(300):
        window.add(True)
    assert not window.tripped(1.0)
