"""How fast requests leave: declared, told and discovered limits, and never more in flight than allowed."""

from __future__ import annotations

import threading
import time

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import on_time, within

import pandas_llm

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n):
    return [f"bug {i}" for i in range(n)]


def assert_each_bought_once(server, texts, out):
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(texts, 1)


@pytest.mark.parametrize("most", [1, 7])
def test_there_are_never_more_in_flight_than_allowed(server: FakeOpenAI, most):
    server.latency = 0.01
    server.fault("bug 1", faults.rate_limited(milliseconds="5"), times=2)
    server.fault("bug 2", faults.RESET_AFTER, times=2)
    server.rpm = 600_000
    texts = bugs(40)
    assert_each_bought_once(server, texts, classify(texts, max_concurrency=most))
    assert server.max_in_flight == most


def test_sixty_four_are_in_flight_by_default(server: FakeOpenAI):
    server.latency = 0.1
    texts = bugs(100)
    assert_each_bought_once(server, texts, classify(texts))
    assert server.max_in_flight == 64


def test_a_declared_rate_is_kept_without_one_429(server: FakeOpenAI):
    server.rpm, server.rate_headers = 2400, "none"
    texts = bugs(60)
    start = time.monotonic()
    assert_each_bought_once(server, texts, classify(texts, rpm=2400))
    # 40 a second, half a second's worth at once.
    seconds = time.monotonic() - start
    assert seconds > 0.9
    within(seconds, 3)
    on_time(server.seen_429 == 0, server.seen_429)


def test_a_declared_token_rate_is_kept_without_one_429(server: FakeOpenAI):
    server.tpm, server.rate_headers = 120_000, "none"
    texts = bugs(40)
    assert_each_bought_once(server, texts, classify(texts, tpm=120_000))
    on_time(server.seen_429 == 0, server.seen_429)


def test_two_calls_at_once_share_a_declared_rate(server: FakeOpenAI):
    server.rpm, server.rate_headers = 2400, "none"
    outs = []

    def call(word):
        outs.append(classify([f"{word} {n}" for n in range(30)], rpm=2400))

    threads = [threading.Thread(target=call, args=(word,)) for word in ("bug", "praise")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(out["t_label_source"]) for out in outs] == [{"api"}, {"api"}]
    assert server.bill.completions == 60
    on_time(server.seen_429 == 0, server.seen_429)


def test_a_rate_that_headers_tell_is_kept(server: FakeOpenAI):
    server.rpm = 3000
    texts = bugs(90)
    assert_each_bought_once(server, texts, classify(texts))
    on_time(server.seen_429 <= 2, server.seen_429)


def test_a_rate_that_nobody_tells_is_found(server: FakeOpenAI):
    server.rpm, server.rate_headers = 3000, "none"
    texts = bugs(100)
    start = time.monotonic()
    assert_each_bought_once(server, texts, classify(texts))
    within(time.monotonic() - start, 8)
    on_time(server.seen_429 < 100, server.seen_429)


def test_a_request_bigger_than_the_token_bucket_goes_when_it_is_full(server: FakeOpenAI):
    texts = [f"bug {n} " + "x" * 3000 for n in range(2)]
    start = time.monotonic()
    assert_each_bought_once(server, texts, classify(texts, tpm=60_000))
    seconds = time.monotonic() - start
    assert seconds > 0.3
    within(seconds, 3)


def test_the_flex_tier_is_asked_for_waited_for_and_priced_as_billed(server: FakeOpenAI):
    server.fault("bug 1", faults.FLEX_UNAVAILABLE, times=1)
    out = classify(bugs(3), service_tier="flex", details="all")
    assert {seen.body["service_tier"] for seen in server.requests} == {"flex"}
    assert out["t_label_service_tier"].tolist() == ["flex"] * 3
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    # The tier isn't part of the question: the standard one asks nothing again.
    assert set(classify(bugs(3))["t_label_source"]) == {"cache"}


def test_a_tier_that_was_given_another_is_priced_as_what_it_got(server: FakeOpenAI):
    from fakes.openai_server import Answer

    server.answer = lambda text, body: Answer(content='{"label": "bug"}', service_tier="default")
    out = classify(bugs(1), service_tier="flex")
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_timeouts_cut_what_is_in_flight(server: FakeOpenAI):
    server.fault(lambda n, _: n == 10, faults.hang(), times=1)
    server.latency = 0.01
    texts = bugs(150)
    classify(texts, timeout=0.3, max_concurrency=8, cache=False)
    assert pandas_llm.last_run().in_doubt == 1
    assert server.bill.texts == dict.fromkeys(texts, 1)
