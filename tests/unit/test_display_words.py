"""A run in words, and the bar's cells."""

from dataclasses import replace

import pytest
from fakes.progress import RUNNING

from pandas_llm.core.types import SOURCES, Progress
from pandas_llm.display import words
from pandas_llm.display.bar import cells, segments
from pandas_llm.display.ink import Ink, fold, width
from pandas_llm.history import Span, too_dear

STOPPED = replace(
    RUNNING,
    sources={**RUNNING.sources, "pending": 2_317},
    state="stopped",
    note="2,317 rows pending: max_cost reached; run the line again to go on.",
)
EMPTY = Progress()
DEAR = ((36.6, 60.0), (900.0, 1_300.6), (0.000_021_9, 0.000_05))


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        (float("nan"), "unknown"),
        (0.0, "$0"),
        (1e-9, "<$0.000001"),
        (0.0004, "$0.0004"),
        (0.00042, "$0.00042"),
        (0.0503, "$0.05"),
        (0.0999, "$0.10"),
        (0.1712, "$0.17"),
        (1.0, "$1.00"),
        (1.234, "$1.23"),
        (999.994, "$999.99"),
        (999.996, "$1,000"),
        (1_234.4, "$1,234"),
    ],
)
def test_money_has_the_digits_that_matter(usd: float, said: str) -> None:
    assert words.money(usd) == said


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0k"),
        (1_234, "1.2k"),
        (99_949, "99.9k"),
        (99_960, "100k"),
        (431_000, "431k"),
        (999_960, "1.0M"),
        (3_400_000, "3.4M"),
        (2_000_000_000, "2.0B"),
    ],
)
def test_tokens_are_counted_in_thousands_and_millions(n: int, said: str) -> None:
    assert words.tokens(n) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (75, "1 min 15 s"),
        (3_600, "1 h"),
        (3_720, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (161.3, "161 rows/s"),
        (12.34, "12.3 rows/s"),
        (0.5, "30 rows/min"),
        (0.01, "0.6 rows/min"),
        (0, "0 rows/s"),
    ],
)
def test_slow_runs_are_told_by_the_minute(rate: float, said: str) -> None:
    assert words.speed(rate) == said


def test_what_a_dear_call_is_refused_with_says_what_to_write() -> None:
    said = [too_dear(Span(low, high)).split(" (confirm")[0] for low, high in DEAR]
    assert said == [
        "about $48 (37–60): say max_cost=60",
        "about $1,100 (900–1,301): say max_cost=1400",
        "about $0.000036 (0.000022–0.00005): say max_cost=0.00005",
    ]


def test_a_share_below_the_whole_is_never_shown_as_the_whole() -> None:
    assert words.percent(Progress(rows=100_000, sources={"api": 99_999})) == "99.9%"
    assert words.percent(Progress(rows=100_000, sources={"api": 100_000})) == "100%"
    assert words.percent(EMPTY) == "100%"


def test_pending_rows_are_not_over_although_they_are_counted() -> None:
    assert STOPPED.done == STOPPED.rows
    assert words.headline(STOPPED) == "2,683 of 5,000 rows in 9.9 s, stopped"
    assert words.counts(STOPPED) == "1,598 api, 738 cache, 334 duplicate, 13 failed, 2,317 pending"


def test_errors_are_grouped_by_class_and_the_rest_is_counted() -> None:
    assert words.errors(RUNNING) == "13 failed: 8 SchemaMismatchError, 5 ServerError"
    many = replace(RUNNING, errors={"A": 1, "B": 2, "C": 3, "D": 4, "E": 5, "F": 6})
    assert words.errors(many) == "21 failed: 6 F, 5 E, 4 D, 3 C, 3 of other kinds"
    assert words.errors(EMPTY) == ""


def test_the_account_is_told_in_four_lines() -> None:
    assert words.report(STOPPED) == [
        "classify · body · gpt-6-luna: 2,683 of 5,000 rows in 9.9 s, stopped",
        (
            "1,598 api, 738 cache, 334 duplicate, 13 failed, 2,317 pending · $0.17 · "
            "431k tokens in (120k cached), 9.6k out · 197 rows/s · 35 retries"
        ),
        (
            "13 failed: 8 SchemaMismatchError, 5 ServerError; "
            "the last: SchemaMismatchError: the reply 'mixed' is none of 'good', 'bad'"
        ),
        "2,317 rows pending: max_cost reached; run the line again to go on.",
    ]


def test_an_unknown_price_is_said_to_be_unknown() -> None:
    assert "cost unknown" in words.bill(replace(RUNNING, cost=float("nan")))


def test_latencies_are_nearest_ranks() -> None:
    assert (
        words.latency(replace(RUNNING, latencies=[i / 100 for i in range(1, 101)]))
        == "p50 500 ms, p95 950 ms"
    )
    assert words.latency(replace(RUNNING, latencies=[2.0])) == "p50 2.0 s, p95 2.0 s"
    assert words.latency(RUNNING) == ""


@pytest.mark.parametrize("size", [1, 5, 10, 137])
def test_a_bar_fills_its_width_and_no_failure_is_too_small_to_be_seen(size: int) -> None:
    parts = [1_000_000, 0, 3, 1, 499_999]
    shared = cells(parts, size)
    assert sum(shared) == size
    assert shared[1] == 0
    assert size < 5 or all(got > 0 for got, n in zip(shared, parts, strict=True) if n)


def test_cells_are_shared_by_largest_remainder() -> None:
    assert cells([6, 3, 1], 10) == [6, 3, 1]
    assert cells([1, 1, 1], 10) == [4, 3, 3]
    assert cells([5, 5, 6], 8) == [3, 2, 3]
    assert cells([0, 0], 10) == [0, 0]


def test_what_is_to_come_stands_at_the_end_of_the_bar() -> None:
    assert [source for source, _, _ in segments(RUNNING, 40)] == [
        "api",
        "cache",
        "duplicate",
        "failed",
        "coming",
    ]
    assert [source for source, _, _ in segments(STOPPED, 40)][-1] == "pending"


@pytest.mark.parametrize("ink", [Ink(), Ink(ascii=True)])
def test_sources_are_told_apart_without_colour(ink: Ink) -> None:
    signs = [ink.glyph(source) for source in (*SOURCES, "coming")]
    assert len(set(signs)) == len(signs)
    assert all(width(sign) == 1 for sign in signs)


def test_widths_count_cells_and_cuts_are_marked() -> None:
    assert (width("abc"), width("分類"), width("e\u0301"), width("\x1b[31mred\x1b[0m")) == (3, 4, 1, 3)
    assert Ink().clip("分類する", 5) == "分類…"
    assert Ink(ascii=True).clip("classify", 6) == "cla..."
    assert fold(["aa", "bb", "cc"], " ", 5) == ["aa bb", "cc"]
