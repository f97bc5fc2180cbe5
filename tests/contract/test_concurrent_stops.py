"""What ends a run: money, keys, models, endpoints, too many errors. Then nothing is sent or lost."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import traceback
from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm.errors import AuthError, EndpointError, LLMError, ModelError, QuotaError, TooManyErrors

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def stopped(kind, texts, **options):
    with pytest.raises(kind) as caught:
        classify(texts, **options)
    return caught.value


def sources(frame):
    return Counter(frame["t_label_source"])


def assert_silent(server):
    sent = len(server.requests)
    time.sleep(0.15)
    assert len(server.requests) == sent
    assert server.in_flight == 0


MONEY = {
    "credit_balance_exhausted": faults.CREDIT_BALANCE_EXHAUSTED,
    "insufficient_quota": faults.INSUFFICIENT_QUOTA,
    "402": faults.PAYMENT_REQUIRED,
    "organization_spend_limit_exceeded": faults.error(429, "organization_spend_limit_exceeded"),
    "by type alone": faults.error(429, None, "No money.", type="insufficient_quota"),
    "as a 400": faults.error(400, "billing_hard_limit_reached"),
}


@pytest.mark.parametrize("fault", MONEY.values(), ids=MONEY)
def test_money_that_is_gone_stops_the_run_and_money_that_is_back_pays_only_the_rest(
    server: FakeOpenAI, fault
):
    server.latency = 0.005
    server.fault(lambda n, _: n >= 30, fault)
    texts = [f"bug {n}" for n in range(120)]
    error = stopped(QuotaError, texts, max_concurrency=4)
    assert sources(error.frame) == {"pending": 90, "api": 30}
    assert len(server.requests) <= 30 + 4
    assert_silent(server)
    pending = error.frame["t_label_source"] == "pending"
    assert error.frame.loc[pending, "t_label_error"].str.startswith("Pending: QuotaError: HTTP 4").all()
    assert error.frame["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert pandas_llm.last_run().status == "failed"

    server.clear_faults()
    out = classify(texts)
    assert sources(out) == {"api": 90, "cache": 30}
    assert server.bill.texts == dict.fromkeys(texts, 1)


def test_what_was_in_flight_when_the_money_ended_is_kept(server: FakeOpenAI):
    server.latency = lambda text: 0.0 if "bug 0" in text or "last" in text else 0.3
    server.fault("last", faults.INSUFFICIENT_QUOTA)
    texts = ["bug 0", *(f"bug {n}" for n in range(1, 6)), "last", *(f"praise {n}" for n in range(40))]
    error = stopped(QuotaError, texts, max_concurrency=8)
    assert error.frame["t_label"].tolist()[:6] == ["bug"] * 6
    assert set(error.frame["t_label"].dropna()) <= {"bug", "praise"}
    assert sources(error.frame)["api"] == server.bill.completions < 12


def test_a_billed_reply_whose_repair_cant_be_sent_any_more_is_on_the_bill(server: FakeOpenAI):
    server.fault("odd", faults.outside(), times=1)
    server.fault("odd", faults.INSUFFICIENT_QUOTA)
    error = stopped(QuotaError, ["odd bug", "bug 1", "bug 2"], max_concurrency=1)
    assert server.bill.completions == 1
    assert sources(error.frame) == {"pending": 2, "failed": 1}
    assert error.frame["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert (
        error.frame["t_label_error"].iloc[0].startswith("LLMError: The reply didn't fit, and the run stopped")
    )
    server.clear_faults()
    assert sources(classify(["odd bug", "bug 1", "bug 2"])) == {"api": 3}


def test_a_reply_that_came_while_the_run_stopped_and_waits_for_its_repair_is_on_the_bill(server: FakeOpenAI):
    server.latency = lambda text: 0.25 if "odd" in text else 0.1 if "broke" in text else 0.0
    server.fault("odd", faults.outside())
    server.fault("broke", faults.INSUFFICIENT_QUOTA)
    error = stopped(QuotaError, ["bug", "odd", "broke"], max_concurrency=3)
    assert server.bill.texts == {"bug": 1, "odd": 1}
    assert sources(error.frame) == {"api": 1, "failed": 1, "pending": 1}
    assert error.frame["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def everything_said_by(error):
    words = [
        str(error),
        repr(error),
        repr(error.__dict__),
        repr(error.args),
        pickle.dumps(error.args).decode("latin1"),
    ]
    words += traceback.format_exception(error)
    words += [repr(error.__cause__), repr(error.__context__), error.frame.to_csv(), str(error.frame.attrs)]
    return "\n".join(words)


@pytest.mark.parametrize("echoed", [False, True], ids=["masked", "echoed by the server"])
def test_a_wrong_key_stops_the_run_and_is_shown_nowhere(
    server: FakeOpenAI, monkeypatch, own_settings, echoed
):
    key = "sk-wrong-5ecret-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.api_key = "sk-right-0123456789"
    if echoed:
        server.api_key = None
        server.fault(None, faults.error(401, "invalid_api_key", f"Incorrect API key provided: {key}."))
    error = stopped(AuthError, [f"bug {n}" for n in range(100)])
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert error.request_id.startswith("req_")
    assert len(server.requests) == 1
    assert sources(error.frame) == {"pending": 100}
    said = everything_said_by(error)
    assert "Incorrect API key" in said
    assert "5ecret" not in said
    for file in own_settings.parent.iterdir():
        assert b"5ecret" not in file.read_bytes()


def test_a_key_that_is_taken_back_during_a_run_stops_it(server: FakeOpenAI):
    server.fault(lambda n, _: n >= 20, faults.UNAUTHORIZED)
    error = stopped(AuthError, [f"bug {n}" for n in range(60)], max_concurrency=4)
    assert sources(error.frame) == {"pending": 40, "api": 20}
    assert len(server.requests) <= 24
    assert_silent(server)


def test_a_403_before_any_success_is_about_the_key(server: FakeOpenAI):
    server.fault(None, faults.FORBIDDEN)
    error = stopped(AuthError, ["bug 1", "bug 2"])
    assert error.status == 403
    assert len(server.requests) == 1


def test_a_403_after_a_success_is_about_the_text(server: FakeOpenAI):
    server.fault("flagged", faults.CONTENT_FORBIDDEN)
    out = classify(["a bug", "flagged bug", "praise"], max_concurrency=1)
    assert sources(out) == {"api": 2, "failed": 1}
    assert out["t_label_error"].iloc[1].startswith("ContentFilterError: HTTP 403")


def test_an_unknown_model_stops_the_run_naming_it(server: FakeOpenAI):
    server.models = {"gpt-6-luna"}
    error = stopped(ModelError, [f"bug {n}" for n in range(50)], model="gpt-6-lunar")
    assert "gpt-6-lunar" in str(error)
    assert len(server.requests) == 1


def test_a_wrong_path_stops_the_run_naming_base_url(server: FakeOpenAI, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.root + "/v2")
    error = stopped(EndpointError, [f"bug {n}" for n in range(50)])
    assert error.status == 404
    assert f"base_url {server.root}/v2" in str(error)
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed_but_named(server: FakeOpenAI):
    moved = faults.Fault(308, b"", {"location": "https://elsewhere.example/v1/chat/completions"})
    server.fault(None, moved)
    error = stopped(EndpointError, ["bug 1"])
    assert "redirects to https://elsewhere.example/v1" in str(error)
    assert f"base_url {server.base_url}" in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1"])
def test_nobody_there_is_said_quickly_naming_base_url(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    start = time.monotonic()
    error = stopped(EndpointError, [f"bug {n}" for n in range(100)])
    within(time.monotonic() - start, 5)
    assert f"base_url {url}" in str(error)
    assert sources(error.frame) == {"pending": 100}


def test_a_server_that_went_away_since_the_last_run_is_said_as_quickly(monkeypatch):
    with FakeOpenAI() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        classify(["bug 1"])
    error = stopped(EndpointError, [f"bug {n}" for n in range(100)])
    assert sources(error.frame) == {"cache": 1, "pending": 99}


def test_a_server_that_hangs_up_on_tls_is_named(server: FakeOpenAI, monkeypatch):
    url = server.base_url.replace("http:", "https:")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    error = stopped(EndpointError, ["bug"])
    assert f"base_url {url}" in str(error)


def test_a_server_that_dies_and_comes_back_costs_no_row(monkeypatch):
    texts = [f"bug {n}" for n in range(80)]
    with FakeOpenAI(latency=0.01) as first:
        monkeypatch.setenv("OPENAI_BASE_URL", first.base_url)
        port = int(first.root.rpartition(":")[2])
        work = in_thread(lambda: classify(texts, max_concurrency=4, cache=False))
        wait_until(lambda: first.bill.completions >= 20)
    time.sleep(0.1)
    with FakeOpenAI(port=port) as second:
        out = work()
    assert sources(out) == {"api": 80}
    assert first.bill.completions + second.bill.completions <= 80 + 4


def in_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result():
        thread.join(20)
        return found[0]

    return result


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_too_many_errors_stop_the_run_and_what_was_answered_is_on_the_frame(server: FakeOpenAI):
    server.fault(lambda n, _: n >= 15, faults.CONTENT_FILTER)
    error = stopped(TooManyErrors, [f"bug {n}" for n in range(500)], max_concurrency=8)
    assert 31 <= len(server.requests) <= 31 + 16
    assert_silent(server)
    counts = sources(error.frame)
    assert counts["api"] == 15
    assert 16 <= counts["failed"] <= 31
    assert counts["pending"] == 485 - counts["failed"]
    assert "50%" in str(error)
    assert "ContentFilterError" in str(error)
    assert ".." not in str(error)
    pending = error.frame["t_label_source"] == "pending"
    assert set(error.frame.loc[pending, "t_label_error"]) == {"Pending: too many errors"}


def test_twenty_requests_must_have_ended_before_a_share_of_failures_means_anything(server: FakeOpenAI):
    server.fault(None, faults.CONTENT_FILTER)
    error = stopped(TooManyErrors, [f"bug {n}" for n in range(500)], max_concurrency=4)
    assert 20 <= len(server.requests) <= 20 + 8
    assert sources(error.frame)["failed"] >= 20
    assert sources(classify([f"praise {n}" for n in range(19)])) == {"failed": 19}


def test_any_share_of_failures_is_borne_with_max_error_rate_one(server: FakeOpenAI):
    server.fault(None, faults.CONTENT_FILTER)
    assert sources(classify([f"bug {n}" for n in range(60)], max_error_rate=1)) == {"failed": 60}
    assert len(server.requests) == 60


def test_errors_raised_at_the_end_have_the_frame(server: FakeOpenAI):
    server.fault("flagged", faults.CONTENT_FILTER)
    error = stopped(pandas_llm.errors.RowErrors, ["a bug", "flagged", "praise"], on_error="raise")
    assert sources(error.frame) == {"api": 2, "failed": 1}
    assert isinstance(error, LLMError)
    assert "1 of 3 rows failed" in str(error)


def test_cancelling_the_coroutine_sends_nothing_more_and_keeps_what_was_in_flight(server: FakeOpenAI):
    server.latency = 0.1
    df = pd.DataFrame({"t": [f"bug {n}" for n in range(100)]})

    async def cancelled():
        task = asyncio.ensure_future(df.llm.aio.classify("t", LABELS, progress=False, max_concurrency=4))
        await asyncio.to_thread(wait_until, lambda: len(server.requests) >= 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled(), debug=True)
    assert_silent(server)
    sent = len(server.requests)
    assert sent <= 10
    assert server.bill.completions == sent
    assert sources(classify([f"bug {n}" for n in range(100)])) == {"api": 100 - sent, "cache": sent}


def test_a_stop_doesnt_wait_for_a_long_retry_after(server: FakeOpenAI):
    server.fault(lambda n, _: n == 5, faults.rate_limited("300"), times=1)
    df = pd.DataFrame({"t": [f"bug {n}" for n in range(40)]})

    async def cancelled():
        task = asyncio.ensure_future(df.llm.aio.classify("t", LABELS, progress=False, max_concurrency=2))
        await asyncio.to_thread(wait_until, lambda: server.seen_429)
        await asyncio.sleep(0.1)
        sent = len(server.requests)
        assert sent <= 8
        await asyncio.sleep(0.2)
        assert len(server.requests) == sent
        task.cancel()
        await asyncio.wait({task})

    start = time.monotonic()
    asyncio.run(cancelled())
    within(time.monotonic() - start, 2)
    assert server.bill.completions == len(server.requests) - 1
