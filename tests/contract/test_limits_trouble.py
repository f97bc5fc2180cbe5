"""Limits in trouble: odd Retry-After, storms, servers that drown, forks; no row lost, no avalanche."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pandas as pd
import pytest
from fakes import children, faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm import call
from pandas_llm.dispatch.gate import traffic_to
from pandas_llm.errors import IncompleteWarning

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n):
    return [f"bug {i}" for i in range(n)]


def pace_of(server):
    return traffic_to(server.base_url, "gpt-6-luna").pace


def timed(texts, **options):
    start = time.monotonic()
    out = classify(texts, **options)
    return out, time.monotonic() - start


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


# Odd Retry-After ------------------------------------------------------------------------------------------


def refusal_dated(server_clock_off):
    """A 429 that may be tried again a second later, by a clock that is wrong by so much."""
    now = datetime.now(UTC) + server_clock_off
    refused = faults.rate_limited(format_datetime(now + timedelta(seconds=1), usegmt=True))
    return faults.Fault(429, refused.body, {**refused.headers, "date": format_datetime(now, usegmt=True)})


ODD = {
    "none": (faults.rate_limited, 0.4, 2),
    "nonsense": (lambda: faults.rate_limited("soon"), 0.4, 2),
    "negative": (lambda: faults.rate_limited("-30"), 0.4, 2),
    "zero": (lambda: faults.rate_limited("0"), 0.4, 2),
    "milliseconds go before seconds": (lambda: faults.rate_limited("30", "700"), 0.65, 2),
    "a clock that is an hour ahead": (lambda: refusal_dated(timedelta(hours=1)), 0.95, 2.5),
    "a clock that is an hour behind": (lambda: refusal_dated(timedelta(hours=-1)), 0.95, 2.5),
}


@pytest.mark.parametrize(("refusal", "least", "most"), ODD.values(), ids=ODD)
def test_a_retry_after_is_waited_for_as_it_is_meant(server: FakeOpenAI, refusal, least, most):
    classify(["before"])
    server.fault("bug 3", refusal(), times=1)
    texts = bugs(20)
    out, seconds = timed(texts)
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(["before", *texts], 1)
    assert least < seconds < most
    assert server.seen_429 == 1


def test_an_hour_is_waited_for_shown_and_can_be_left(server: FakeOpenAI):
    classify(["before"])
    server.fault("bug 3", faults.rate_limited("3600"), times=1)
    seen = []

    def leave():
        until(lambda: any("Retry-After" in run.progress().waiting for run in call._going_on()))
        seen.extend(run.progress().waiting for run in call._going_on())
        time.sleep(0.2)  # what had left before arrives
        sent = len(server.requests)
        time.sleep(0.3)
        seen.append(len(server.requests) - sent)
        pandas_llm.cancel(pandas_llm.runs()["id"][0])

    thread = threading.Thread(target=leave)
    thread.start()
    with pytest.warns(IncompleteWarning):
        out, seconds = timed(bugs(40), max_concurrency=8)
    thread.join()
    assert seen[0] in {"Retry-After, 3,600 s", "Retry-After, 3,599 s"}
    assert seen[-1] == 0
    within(seconds, 5)
    sources = out["t_label_source"].value_counts()
    assert sources["api"] == server.bill.completions - 1
    assert sources["api"] + sources["pending"] == 40
    assert out["t_label_source"][3] == "pending"
    assert server.seen_429 == 1


# Storms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", ["none", "full"])
def test_a_storm_of_faults_is_ridden_out_without_an_avalanche(server: FakeOpenAI, headers):
    server.latency, server.rpm, server.rate_headers = 0.005, 600_000, headers
    server.storm(0.3, seed=161)
    texts = bugs(150)
    out, seconds = timed(texts)
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(texts, 1)
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert len(server.requests) <= 2.2 * len(texts)
    # Nine 429s among all these faults are no limit.
    assert server.seen_429 == 9
    within(seconds, 8)


def test_a_storm_of_429s_is_ridden_out(server: FakeOpenAI):
    server.latency = 0.005
    server.storm(0.3, seed=1, kinds=[faults.rate_limited(milliseconds="20")])
    texts = bugs(150)
    out, seconds = timed(texts)
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(texts, 1)
    assert len(server.requests) <= 2.2 * len(texts)
    within(seconds, 8)


def test_an_endpoint_that_refuses_everything_for_a_while_is_waited_for(server: FakeOpenAI):
    classify(["before"])
    server.fault(None, faults.rate_limited(), times=30)
    texts = bugs(100)
    out, seconds = timed(texts)
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.texts == dict.fromkeys(["before", *texts], 1)
    assert server.seen_429 == 30
    within(seconds, 5)


# Servers that drown ---------------------------------------------------------------------------------------


def test_timeouts_cut_the_concurrency_of_a_server_that_drowns(server: FakeOpenAI):
    classify(["before"])
    server.latency = lambda _text: 0.012 * server.in_flight
    texts = bugs(150)
    out, _ = timed(texts, timeout=0.7)
    assert set(out["t_label_source"]) == {"api"}
    in_doubt = pandas_llm.last_run().in_doubt
    # 64 in flight take 0.77 s each, 48 take 0.58 s.
    assert 0 < in_doubt <= 100
    assert pace_of(server).limit < 58
    assert set(server.bill.texts) == {"before", *texts}
    assert server.bill.completions <= 151 + in_doubt
    assert len(server.requests) == 151 + in_doubt


# Forks ----------------------------------------------------------------------------------------------------


def test_a_child_forked_while_its_parent_holds_the_locks_of_the_gate_goes_on(
    server: FakeOpenAI, tmp_path: Path
):
    script = """
from pandas_llm.dispatch import gate
tickets(3).llm.classify("body", LABELS, rpm=6000)
(traffic,) = gate._traffic.values()
with gate._traffic_lock, traffic.lock:
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        out = tickets(20).llm.classify("body", LABELS)
        os._exit(7 if out["body_label"].notna().all() and traffic.pace.rate == 100 else 8)
say(child=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    child = children.start(script, tmp_path / "child")
    assert child.wait() == 0, child.stderr
    assert child.said == {"child": 7}
    assert server.bill.completions == 20
