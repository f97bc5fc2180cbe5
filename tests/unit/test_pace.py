"""Pacing: what may leave when, proved against a simulated server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pandas_llm.core.pace import Pace
from pandas_llm.core.retry import Limits


def _load_bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bench_pacing", Path(__file__).parents[2] / "bench" / "pacing.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _load_bench()


def drain(pace: Pace, now: float, tokens: float = 0.0) -> int:
    """How many requests may leave at one moment."""
    count = 0
    while count < 10_000 and pace.take(now, tokens) == 0.0:
        pace.sent(now, tokens)
        count += 1
    return count


def test_without_any_limit_everything_may_leave_at_once():
    assert drain(Pace(), 0.0) == 10_000


def test_a_declared_limit_lends_half_a_second_at_the_start():
    assert drain(Pace(rpm=600), 0.0) == 5


def test_who_must_wait_is_told_when_to_ask_again_and_then_goes():
    pace = Pace(rpm=600)
    drain(pace, 0.0)
    wait = pace.take(0.0)
    assert wait == pytest.approx(0.1)
    assert pace.take(wait * 0.9) > 0.0
    assert pace.take(wait) == 0.0


def test_a_refused_take_costs_nothing():
    pace = Pace(rpm=60)
    drain(pace, 0.0)
    for _ in range(100):
        assert pace.take(0.5) == pytest.approx(0.5)
    assert pace.take(1.0) == 0.0


def test_less_than_one_request_a_second_still_lends_a_whole_one():
    pace = Pace(rpm=6)
    assert drain(pace, 0.0) == 1
    assert pace.take(9.99) > 0.0
    assert pace.take(10.0) == 0.0


def test_a_request_bigger_than_the_token_bucket_goes_alone_when_it_is_full():
    pace = Pace(tpm=6_000)  # 100 a second, 50 deep
    assert pace.take(0.0, 1_000.0) == 0.0
    pace.sent(0.0, 1_000.0)
    assert pace.take(0.1, 1.0) == pytest.approx(9.41, abs=0.01)
    assert pace.take(9.9, 1_000.0) > 0.0
    assert pace.take(10.0, 1_000.0) == 0.0


def test_both_buckets_have_to_have_room():
    pace = Pace(rpm=600, tpm=6_000)
    assert drain(pace, 0.0, tokens=20.0) == 2
    assert drain(Pace(rpm=600, tpm=6_000_000), 0.0, tokens=20.0) == 5


def test_tokens_that_an_answer_did_not_take_are_given_back():
    pace = Pace(tpm=6_000)
    pace.take(0.0, 50.0)
    sent = pace.sent(0.0, 50.0)
    assert pace.take(0.0, 40.0) > 0.0
    pace.succeeded(0.0, sent, used_tokens=10.0)
    assert pace.take(0.0, 40.0) == 0.0


def test_tokens_that_an_answer_took_beyond_the_estimate_are_waited_for():
    pace = Pace(tpm=6_000)
    pace.take(0.0, 50.0)
    pace.succeeded(0.0, pace.sent(0.0, 50.0), used_tokens=150.0)
    assert pace.take(0.0, 50.0) == pytest.approx(1.5)


def test_retry_after_holds_everybody_however_long_it_is():
    pace = Pace()
    pace.take(0.0)
    pace.refused(0.0, pace.sent(0.0), retry_after=3_600.0)
    assert pace.take(1.0) == pytest.approx(3_599.0)
    assert pace.waiting(1.0) == (pytest.approx(3_599.0), "Retry-After")
    assert pace.take(3_599.9) > 0.0


def test_a_shorter_retry_after_does_not_shorten_a_longer_one():
    pace = Pace()
    first, second = pace.sent(0.0), pace.sent(0.0)
    pace.refused(0.0, first, retry_after=60.0)
    pace.refused(0.0, second, retry_after=1.0)
    assert pace.take(0.0) == pytest.approx(60.0)


def test_without_retry_after_the_pause_grows_until_something_goes_through():
    pace = Pace()
    now, pauses = 0.0, []
    for _ in range(7):
        pace.refused(now, pace.sent(now))
        pauses.append(pace.take(now))
        now += pauses[-1]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 10, 10])
    pace.succeeded(now, pace.sent(now))
    pace.refused(now, pace.sent(now))
    assert pace.take(now) == pytest.approx(0.5)


def test_nobody_waits_when_nothing_is_held():
    assert Pace().waiting(0.0) == (0.0, "")
    pace = Pace(rpm=60)
    drain(pace, 0.0)
    assert pace.waiting(0.0) == (pytest.approx(1.0), "rpm")
    pace = Pace(tpm=60)
    drain(pace, 0.0, tokens=10.0)
    assert pace.waiting(0.0)[1] == "tpm"


def test_a_burst_of_refusals_cuts_the_concurrency_once():
    pace = Pace(64)
    burst = [pace.sent(0.0) for _ in range(64)]
    for sent in burst:
        pace.refused(0.1, sent)
    assert pace.limit == 48


def test_a_timeout_cuts_the_concurrency_like_a_refusal():
    pace = Pace(64)
    burst = [pace.sent(0.0) for _ in range(64)]
    for sent in burst:
        pace.timed_out(600.0, sent)
    assert pace.limit == 48


def test_the_concurrency_never_falls_below_one():
    pace = Pace(2)
    for now in range(0, 100, 10):
        pace.timed_out(now, pace.sent(now))
    assert pace.limit == 1


def test_25_successes_raise_the_concurrency_by_one_up_to_the_hard_ceiling():
    pace = Pace(64)
    pace.timed_out(0.0, pace.sent(0.0))
    for n in range(25):
        assert pace.limit == 48
        pace.succeeded(1.0 + n, pace.sent(1.0 + n))
    assert pace.limit == 49
    for n in range(25 * 30):
        pace.succeeded(100.0 + n, pace.sent(100.0 + n))
    assert pace.limit == 64


def test_the_concurrency_is_probed_at_most_a_tenth_above_the_last_ceiling_before_that_is_the_new_one():
    pace = Pace(100)
    for now in (0.0, 10.0):
        pace.timed_out(now, pace.sent(now))
    assert pace.limit == 56  # the ceiling was 75
    for n in range(25 * 26):
        pace.succeeded(20.0 + n, pace.sent(20.0 + n))
    assert pace.limit == 82
    for n in range(25):
        pace.succeeded(1_000.0 + n, pace.sent(1_000.0 + n))
    assert pace.limit == 82
    for n in range(25):
        pace.succeeded(1_100.0 + n, pace.sent(1_100.0 + n))
    assert pace.limit == 83


def test_a_later_declaration_changes_the_rate():
    pace = Pace(rpm=600)
    drain(pace, 0.0)
    pace.declare(0.0, rpm=6_000)
    assert pace.rate == 100.0
    assert pace.take(0.0) == pytest.approx(0.01)
    pace.declare(0.0)
    assert pace.rate == 100.0


def test_the_first_declaration_starts_with_a_full_bucket():
    pace = Pace()
    pace.declare(5_000.0, rpm=600)
    assert drain(pace, 5_000.0) == 5


def test_headers_set_the_rate_below_the_limit_and_a_declaration_goes_before_them():
    limits = Limits(requests=600, remaining_requests=599)
    learnt, declared = Pace(), Pace(rpm=300)
    for pace in (learnt, declared):
        pace.succeeded(0.1, pace.sent(0.0), limits)
    assert learnt.rate == pytest.approx(9.8)
    assert declared.rate == 5.0


def test_what_the_server_has_left_is_lent_at_no_more_than_twice_the_limit():
    pace = Pace()
    pace.succeeded(0.0, pace.sent(0.0), Limits(requests=600, remaining_requests=599))
    left = sum(drain(pace, 0.1 * n) for n in range(1, 101))
    assert left == pytest.approx(2 * 9.8 * 10, abs=2)


def test_a_level_is_corrected_down_to_what_the_server_has_left():
    pace = Pace(rpm=6_000)  # 100 a second, 50 deep
    pace.succeeded(0.0, pace.sent(0.0), Limits(requests=6_000, remaining_requests=0))
    assert drain(pace, 0.0) == 10


def test_an_older_reply_does_not_bring_back_an_older_limit():
    pace = Pace()
    slow, quick = pace.sent(0.0), pace.sent(1.0)
    pace.succeeded(1.1, quick, Limits(requests=60))
    pace.succeeded(2.0, slow, Limits(requests=6_000))
    assert pace.rate == pytest.approx(0.98)


def test_a_known_limit_that_is_refused_is_used_less_once_a_burst_and_comes_back():
    pace = Pace(rpm=600)
    burst = [pace.sent(0.0) for _ in range(5)]
    for sent in burst:
        pace.refused(0.1, sent)
    assert pace.rate == pytest.approx(9.0)
    pace.succeeded(10.1, pace.sent(10.0))
    assert pace.rate == pytest.approx(9.5)
    pace.succeeded(60.0, pace.sent(59.0))
    assert pace.rate == pytest.approx(10.0)


def test_what_left_before_the_limit_was_known_is_no_sign_against_it():
    pace = Pace()
    burst = [pace.sent(0.0) for _ in range(64)]
    pace.refused(0.1, burst[10], limits=Limits(requests=600, remaining_requests=0))
    pace.refused(0.1, burst[11])
    assert pace.rate == pytest.approx(9.8)


def test_an_outage_says_nothing_of_the_rate():
    pace = Pace()
    now = 0.0
    for _ in range(10):
        pace.refused(now, pace.sent(now))
        now += pace.take(now)
    assert pace.rate is None


def test_a_429_in_each_of_many_small_calls_teaches_nothing():
    simulation = bench.after_quiet(64, 0.05, calls=20)
    assert simulation.pace.rate is None
    assert simulation.pace.limit == 64
    outcome = simulation.run()
    assert outcome.share(simulation.server, simulation.start, simulation.seconds) >= 0.95


@pytest.mark.parametrize("declared", [600.0, None])
def test_one_429_among_many_answers_only_waits(declared: float | None):
    pace = Pace(64, rpm=declared)
    rate, burst = pace.rate, [pace.sent(0.0) for _ in range(64)]
    pace.refused(0.1, burst[3])
    assert pace.take(0.1) == pytest.approx(0.5)
    assert (pace.rate, pace.limit) == (rate, 64)


def test_the_first_burst_of_refusals_gives_a_rate_that_allows_for_a_full_bucket():
    pace = Pace(64)
    burst = [pace.sent(0.0) for _ in range(64)]
    for sent in burst[20:]:
        pace.refused(0.25, sent)
    assert pace.rate == pytest.approx(20 / 1.25)


def test_a_first_guess_that_is_too_low_is_left_within_seconds():
    pace = Pace(64)
    for sent in [pace.sent(0.0) for _ in range(64)][2:]:
        pace.refused(0.03, sent)
    assert pace.rate < 2
    bench.Simulation(pace, bench.unlimited(64, 0.05), 0.05, 20.0, start=0.6).run()
    assert pace.rate > 1_000


def test_refusals_that_slowing_down_does_not_help_are_not_about_the_rate():
    server = bench.unlimited(64, 0.05, moody=0.3)
    pace, slowest = Pace(64), 1e9
    for second in range(2, 40, 2):
        bench.Simulation(pace, server, 0.05, second, start=second - 2.0).run()
        slowest = min(slowest, pace.rate or 1e9)
    assert slowest > 0.5


def test_calls_one_after_the_other_add_up_to_no_evidence_and_one_call_does():
    apart, together = Pace(1), Pace(1)
    now = 0.0
    for _ in range(8):
        for pace in (apart, together):
            for _ in range(5):
                pace.succeeded(now + 0.05, pace.sent(now))
            pace.refused(now + 0.05, pace.sent(now))
        apart.idle()
        now += 0.55
    assert apart.rate is None
    assert together.rate == pytest.approx(5 / 0.55, rel=0.3)


def test_what_refusals_taught_is_forgotten_after_a_minute_of_silence():
    pace = Pace()
    for sent in [pace.sent(0.0) for _ in range(10)][5:]:
        pace.refused(0.1, sent)
    assert pace.rate is not None
    pace.declare(30.0)
    assert pace.rate is not None
    pace.declare(100.0)
    assert pace.rate is None
    assert pace.limit == 64


def run(
    pace: Pace, rate: float, *, seconds: float = 15.0, latency: float = 0.05, start: float = 0.0, **server
):
    server = bench.Server(bench.constant(rate), **server)
    outcome = bench.Simulation(pace, server, latency, seconds).run()
    return outcome.share(server, start, seconds), outcome.refusals(start, seconds)


@pytest.mark.parametrize("rpm", [600, 3_000])
def test_a_declared_limit_is_used_up_without_a_single_refusal(rpm: int):
    used, refused = run(Pace(64, rpm=rpm), rpm / 60)
    assert used >= 0.98
    assert refused == 0.0


@pytest.mark.parametrize("latency", [0.05, 2.0])
@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_headers_alone_use_the_limit_up_and_nothing_is_refused_after_the_start(rate: float, latency: float):
    most = max(64, int(2 * rate * latency))
    used, refused = run(
        Pace(most), rate, seconds=25, latency=latency, start=10.0, headers=True, retry_after=True
    )
    assert used >= 0.95
    assert refused == 0.0


@pytest.mark.parametrize("latency", [0.05, 2.0])
@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_refusals_alone_teach_the_limit(rate: float, latency: float):
    most = max(64, int(2 * rate * latency))
    used, refused = run(Pace(most), rate, seconds=40, latency=latency, start=10.0)
    assert used >= 0.9
    assert refused <= 0.03


def test_a_limit_that_falls_and_rises_again_is_followed():
    server = bench.Server(bench.dip(10.0), headers=False)
    outcome = bench.Simulation(Pace(), server, latency=0.05, seconds=110.0).run()
    assert outcome.share(server, 35.0, 60.0) >= 0.8
    assert outcome.share(server, 90.0, 110.0) >= 0.8
    assert outcome.refusals(10.0, 110.0) <= 0.05


@pytest.mark.parametrize("declared", [True, False])
def test_a_token_limit_is_used_up(declared: bool):
    server = bench.Server(bench.constant(10.0), tokens=1_000.0, headers=not declared, retry_after=True)
    pace = Pace(tpm=60_000) if declared else Pace()
    outcome = bench.Simulation(pace, server, 0.05, 25.0, tokens=lambda dice: 100 + 400 * dice.random()).run()
    assert outcome.share(server, 10.0, 25.0) >= 0.93
    assert outcome.refusals(10.0, 25.0) <= 0.02
