"""Limits that nobody declared: told in headers, by Retry-After, by 429s alone; that change, or are shared."""

from __future__ import annotations

import itertools
import threading
import time

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import on_time, within

from pandas_llm.dispatch.gate import traffic_to

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n, word="bug"):
    return [f"{word} {i}" for i in range(n)]


def pace_of(server, model="gpt-6-luna"):
    return traffic_to(server.base_url, model).pace


def timed(texts, **options):
    start = time.monotonic()
    out = classify(texts, **options)
    return out, time.monotonic() - start


def assert_each_bought_once(server, texts, out):
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(texts, 1)
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


# What tells -----------------------------------------------------------------------------------------------


def test_headers_teach_the_limit_within_the_first_replies(server: FakeOpenAI):
    server.rpm, server.latency = 6_000, 0.02
    texts = bugs(200)
    out, seconds = timed(texts)
    assert_each_bought_once(server, texts, out)
    assert pace_of(server).rate == pytest.approx(98)
    # A hundred at once and a hundred a second.
    within(seconds, 1 / 0.6)
    on_time(server.seen_429 == 0, server.seen_429)


def test_retry_after_alone_teaches_the_limit(server: FakeOpenAI):
    server.rpm, server.rate_headers, server.depth, server.latency = 9_000, "retry-after", 0.5, 0.02
    texts = bugs(225)
    out, seconds = timed(texts)
    assert_each_bought_once(server, texts, out)
    within(seconds, 1 / 0.4)
    on_time(server.seen_429 <= 0.25 * len(texts), server.seen_429)


def test_refusals_alone_teach_the_limit(server: FakeOpenAI):
    server.rpm, server.rate_headers, server.depth, server.latency = 9_000, "none", 0.5, 0.02
    texts = bugs(225)
    out, seconds = timed(texts)
    assert_each_bought_once(server, texts, out)
    within(seconds, 1 / 0.4)
    on_time(server.seen_429 <= 0.25 * len(texts), server.seen_429)
    on_time(90 < pace_of(server).rate < 260, pace_of(server).rate)


def test_a_429_in_each_of_six_small_calls_does_not_slow_down_the_large_one_after_them(server: FakeOpenAI):
    classify(["before"])
    for call in range(6):
        server.fault(f"bug {call} 0", faults.rate_limited(milliseconds="10"), times=1)
        classify(bugs(2, f"bug {call}"))
    out, seconds = timed(bugs(300))
    assert server.seen_429 == 6
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.completions == 1 + 12 + 300
    assert pace_of(server).rate is None
    assert pace_of(server).limit == 64
    within(seconds, 1.5)


@pytest.mark.parametrize("most", [4, 64])
def test_one_early_429_costs_its_wait_and_no_more(server: FakeOpenAI, most):
    classify(["before"])
    server.fault(lambda n, _: n == 3, faults.rate_limited(), times=1)
    out, seconds = timed(bugs(60), max_concurrency=most)
    assert server.seen_429 == 1
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.completions == 61
    assert pace_of(server).rate is None
    within(seconds, 1.5)


def test_a_slow_429_among_quick_answers_still_holds_everybody(server: FakeOpenAI):
    said = faults.rate_limited(milliseconds="400")
    hidden = faults.Fault(429, said.body, {"retry-after-ms": "400"}, transport="slow", seconds=0.2)
    server.fault("bug 5", hidden, times=1)
    server.latency = 0.03
    texts = bugs(200)
    out = classify(texts, max_concurrency=8)
    assert_each_bought_once(server, texts, out)
    assert server.seen_429 <= 1
    times = [seen.at for seen in server.requests]
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    # Answers came after it was refused and before that was known; then nothing leaves for a while.
    assert gaps[-1] > 0.35
    within(gaps[-2], 0.3)
    assert len(server.requests) == 201
    assert pace_of(server).rate is None


# What changes ---------------------------------------------------------------------------------------------


def change_after(server, answers, rpm):
    def change():
        end = time.monotonic() + 20
        while server.bill.completions < answers and time.monotonic() < end:
            time.sleep(0.005)
        server.rpm = rpm

    thread = threading.Thread(target=change)
    thread.start()
    return thread


def test_a_limit_in_headers_that_falls_and_one_that_rises_are_followed(server: FakeOpenAI):
    server.rpm, server.depth, server.latency = 12_000, 0.5, 0.02
    falls = change_after(server, 150, 3_000)
    out, _ = timed(bugs(200))
    falls.join()
    assert set(out["t_label_source"]) == {"api"}
    on_time(pace_of(server).rate == pytest.approx(49, rel=0.2), pace_of(server).rate)
    on_time(server.seen_429 <= 64, server.seen_429)
    rises = change_after(server, 220, 12_000)
    out, seconds = timed(bugs(200, "praise"))
    rises.join()
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.completions == 400
    on_time(pace_of(server).rate == pytest.approx(196, rel=0.2), pace_of(server).rate)
    within(seconds, 4)


def test_a_limit_that_falls_unseen_is_found_again(server: FakeOpenAI):
    server.rpm, server.depth, server.latency, server.rate_headers = 18_000, 0.5, 0.02, "none"
    falls = change_after(server, 300, 6_000)
    texts = bugs(500)
    out, seconds = timed(texts)
    falls.join()
    assert_each_bought_once(server, texts, out)
    within(seconds, 8)
    on_time(server.seen_429 <= 0.4 * len(texts), server.seen_429)


# What is shared -------------------------------------------------------------------------------------------


def test_each_model_has_a_limit_of_its_own(server: FakeOpenAI):
    server.rpm, server.latency = 600_000, 0.01
    slow = {"model": "gpt-6-luna", "rpm": 1_800}
    thread = threading.Thread(target=classify, args=(bugs(45, "slow"),), kwargs=slow)
    thread.start()
    out, seconds = timed(bugs(200, "quick"), model="gpt-6-luna-pro", prices={"gpt-6-luna-pro": (1, 1)})
    thread.join()
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.completions == 245
    within(seconds, 1.2)
    assert pace_of(server).rate == 30
    assert pace_of(server, "gpt-6-luna-pro").rate == pytest.approx(9_800)
    on_time(server.seen_429 == 0, server.seen_429)


def test_two_calls_at_once_share_what_headers_teach(server: FakeOpenAI):
    server.rpm, server.depth, server.latency = 6_000, 0.5, 0.02
    classify(["before"])
    outs = []
    threads = [
        threading.Thread(target=lambda word=word: outs.append(classify(bugs(100, word))))
        for word in ("bug", "praise")
    ]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(out["t_label_source"]) for out in outs] == [{"api"}, {"api"}]
    assert server.bill.completions == 201
    # 200 at 100 a second, half a second's worth at once.
    seconds = time.monotonic() - start
    assert seconds > 1.2
    within(seconds, 3)
    on_time(server.seen_429 <= 2, server.seen_429)


# Tokens ---------------------------------------------------------------------------------------------------


def test_a_declared_cap_on_the_output_counts_in_full_against_the_token_limit(server: FakeOpenAI):
    server.tpm, server.rate_headers, server.latency = 1_200_000, "none", 0.01
    texts = bugs(100)
    out, seconds = timed(texts, tpm=1_200_000, params={"max_completion_tokens": 500})
    assert_each_bought_once(server, texts, out)
    # 500 each of 20,000 a second, though an answer takes but 60.
    on_time(server.seen_429 == 0, server.seen_429)
    assert seconds > 1.8
    within(seconds, 4)


def test_token_headers_teach_the_limit(server: FakeOpenAI):
    server.tpm, server.depth, server.latency = 1_200_000, 0.5, 0.01
    texts = bugs(60)
    out, seconds = timed(texts, params={"max_completion_tokens": 500})
    assert_each_bought_once(server, texts, out)
    within(seconds, 4)
    on_time(server.seen_429 <= 60, server.seen_429)
