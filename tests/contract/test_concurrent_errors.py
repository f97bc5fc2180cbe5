"""What goes wrong with one request: what passes is asked again, what doesn't is that row's alone."""

from __future__ import annotations

import json
import time
import warnings
from itertools import pairwise

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

import pandas_llm
from pandas_llm.errors import PriceWarning

LABELS = ["bug", "question", "praise"]


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def sources(out, output="t_label"):
    return out[f"{output}_source"].tolist()


def error(out, row=0, output="t_label"):
    return out[f"{output}_error"].iloc[row]


PASSING = {
    "slow down": faults.SLOW_DOWN,
    "flex": faults.FLEX_UNAVAILABLE,
    "limit": faults.rate_limited(milliseconds="20"),
    "408": faults.REQUEST_TIMEOUT,
    "409": faults.CONFLICT,
    "498": faults.CAPACITY_EXCEEDED,
    "500": faults.INTERNAL,
    "502": faults.BAD_GATEWAY,
    "502 page": faults.HTML_502,
    "503": faults.OVERLOADED,
    "529": faults.SITE_OVERLOADED,
    "reset before": faults.RESET_BEFORE,
    "reset after": faults.RESET_AFTER,
    "cut": faults.TRUNCATED,
    "not json": faults.NOT_JSON,
    "error in 200": faults.ERROR_IN_200,
    "no choices": faults.Fault(body=b'{"choices":[]}', billed=False),
    "a list": faults.Fault(body=b"[1]", billed=False),
}


def test_what_passes_is_asked_again_and_bought_once(server: FakeOpenAI):
    texts = [f"{name}: a bug" for name in PASSING]
    for name, fault in PASSING.items():
        server.fault(f"{name}: ", fault, times=1)
    out = classify(texts, details="all")
    assert out["t_label"].tolist() == ["bug"] * len(texts)
    assert out["t_label_attempts"].tolist() == [2] * len(texts)
    assert len(server.requests) == 2 * len(texts)
    # Only a body that was cut on its way is billed, and nobody here can know.
    assert server.bill.texts == dict.fromkeys(texts, 1) | {"cut: a bug": 2}
    run = pandas_llm.last_run()
    assert (run.paid, run.in_doubt, run.errors) == (len(texts), 0, {})


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "0.4"}, 0.4),
        ({"retry-after-ms": "300", "retry-after": "90"}, 0.3),
        ({"retry-after": "Fri, 20 Nov 2026 10:00:01 GMT", "date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 1.0),
        ({"retry-after": "-5"}, 0.4),
        ({}, 0.4),
        ({"retry-after": "soon"}, 0.4),
    ],
    ids=["seconds", "milliseconds", "a date", "negative", "none", "nonsense"],
)
def test_a_rate_limit_is_waited_out_as_it_says(server: FakeOpenAI, headers, wait):
    fault = faults.error(429, "rate_limit_exceeded", "Rate limit reached.", type="requests", headers=headers)
    server.fault(None, fault, times=1)
    out = classify(["a bug"], max_retries=1)
    first, second = (seen.at for seen in server.requests)
    assert wait <= second - first < wait + 0.5
    assert out["t_label"].tolist() == ["bug"]


def test_a_rate_limit_holds_everybody(server: FakeOpenAI):
    server.latency, server.rpm = 0.02, 600_000
    server.fault(lambda n, _: n == 8, faults.rate_limited(milliseconds="400"), times=1)
    out = classify([f"bug {n}" for n in range(60)], max_concurrency=8)
    assert sources(out) == ["api"] * 60
    times = sorted(seen.at for seen in server.requests)
    gaps = [after - before for before, after in pairwise(times)]
    # Those that were in flight come back; then nothing leaves until the time has come.
    assert max(gaps) > 0.3
    assert server.bill.completions == 60


def test_waits_for_a_limit_dont_count_while_others_succeed(server: FakeOpenAI):
    # Slower than the others: some of them have always succeeded since its last try.
    server.latency, server.rpm = (lambda text: 0.03 if "unlucky" in text else 0.005), 600_000
    server.fault("unlucky", faults.rate_limited(milliseconds="20"), times=4)
    texts = [f"bug {n}" for n in range(400)]
    out = classify([*texts[:10], "unlucky bug", *texts[10:]], max_retries=1, max_concurrency=8)
    assert sources(out) == ["api"] * 401


def test_a_limit_that_never_opens_is_the_rows_error(server: FakeOpenAI):
    server.fault(None, faults.rate_limited(milliseconds="5"))
    out = classify(["a bug"], max_retries=2)
    assert sources(out) == ["failed"]
    assert error(out).startswith("RateLimitError: HTTP 429")
    assert len(server.requests) == 3
    assert out["t_label_cost"].tolist() == [0.0]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_row_is_sent_again_max_retries_times(server: FakeOpenAI, retries):
    server.fault("unlucky", faults.INTERNAL)
    out = classify(["unlucky", "a bug"], max_retries=retries, details="all")
    assert sources(out) == ["failed", "api"]
    assert error(out).startswith("ServerError: HTTP 500: 'The server had an error.'")
    assert out["t_label_attempts"].tolist() == [retries + 1, 1]
    assert out["t_label_input_tokens"].tolist()[0] == 0


ROWS_OWN = {
    "too long": (faults.CONTEXT_LENGTH, "ContextLengthError: HTTP 400"),
    "filtered": (faults.CONTENT_FILTER, "ContentFilterError: HTTP 400"),
    "bad": (faults.error(400, "invalid_value", "No."), "BadRequestError: HTTP 400: 'No.'"),
    "unprocessable": (faults.error(422, None, "No."), "BadRequestError: HTTP 422: 'No.'"),
    "too large": (faults.error(413, None, "Too large."), "ContextLengthError: HTTP 413: 'Too large.'"),
    "for the bucket": (
        faults.error(429, "rate_limit_exceeded", "Request too large for gpt-6-luna: Limit 3, Requested 4."),
        "BadRequestError: HTTP 429: 'Request too large",
    ),
}


def test_a_refused_text_is_its_rows_error_and_the_others_go_on(server: FakeOpenAI):
    texts = [f"{name}: a bug" for name in ROWS_OWN]
    for name, (fault, _) in ROWS_OWN.items():
        server.fault(f"{name}: ", fault)
    out = classify([*texts, *(f"praise {n}" for n in range(20))])
    assert sources(out) == ["failed"] * len(texts) + ["api"] * 20
    for row, (_, start) in enumerate(ROWS_OWN.values()):
        assert error(out, row).startswith(start)
    assert len(server.requests) == len(texts) + 20
    assert out["t_label_cost"].tolist()[: len(texts)] == [0.0] * len(texts)


def test_failures_that_cost_nothing_are_asked_again_by_the_same_line(server: FakeOpenAI):
    broken = {"500": faults.INTERNAL, "400": faults.CONTENT_FILTER, "429": faults.rate_limited("0", "1")}
    for name, fault in broken.items():
        server.fault(f"{name} ", fault)
    texts = [f"{name} bug" for name in broken] + ["a bug"]
    assert sources(classify(texts, max_retries=0, max_error_rate=1)) == ["failed"] * 3 + ["api"]
    server.clear_faults()
    again = classify(texts)
    assert sources(again) == ["api"] * 3 + ["cache"]
    assert set(server.bill.texts.values()) == {1}


USELESS = {
    "cut": (faults.CUT_OFF, "LengthError: The reply was cut off"),
    "filtered": (faults.FILTERED, "RefusalError: The provider filtered"),
    "refused": (faults.REFUSAL, 'RefusalError: The model refused: "I can\'t help with that."'),
    "empty": (faults.EMPTY, "EmptyOutputError: The reply is empty"),
    "outside": (faults.OUTSIDE_LABEL, "SchemaMismatchError: "),
}


def test_a_useless_reply_is_billed_remembered_and_bought_again_only_on_request(server: FakeOpenAI):
    for name, (fault, _) in USELESS.items():
        server.fault(f"{name} ", fault)
    texts = [f"{name} bug" for name in USELESS]
    out = classify(texts, max_error_rate=1)
    assert sources(out) == ["failed"] * 5
    for row, (_, start) in enumerate(USELESS.values()):
        assert error(out, row).startswith(start)
    bill = server.bill
    assert bill.texts == {**dict.fromkeys(texts, 1), "outside bug": 2}
    assert out["t_label_input_tokens"].sum() == bill.input_tokens
    assert out["t_label_output_tokens"].sum() == bill.output_tokens
    assert out["t_label_cost"].sum() == pytest.approx(bill.cost)

    again = classify(texts, max_error_rate=1)
    assert server.bill == bill
    assert sources(again) == ["failed"] * 5
    assert again["t_label_error"].tolist() == out["t_label_error"].tolist()
    assert again["t_label_cost"].tolist() == [0.0] * 5

    server.clear_faults()
    third = classify(texts, retry_failed=True)
    assert third["t_label"].tolist() == ["bug"] * 5
    assert server.bill.completions == bill.completions + 5
    assert sources(classify(texts)) == ["cache"] * 5


def test_a_label_outside_the_set_is_repaired_once(server: FakeOpenAI):
    server.fault("odd", faults.outside("insect"), times=1)
    out = classify(["an odd bug", "praise"], details="all")
    assert out["t_label"].tolist() == ["bug", "praise"]
    first, second = (seen for seen in server.requests if seen.text == "an odd bug")
    *same, said, problem = second.body["messages"]
    assert same == first.body["messages"]
    assert said == {"role": "assistant", "content": '{"label": "insect"}'}
    assert problem["role"] == "user"
    assert all(label in problem["content"] for label in [*LABELS, "insect"])
    assert {**second.body, "messages": 0} == {**first.body, "messages": 0}
    assert out["t_label_attempts"].tolist() == [2, 1]
    assert out["t_label_input_tokens"].sum() == server.bill.input_tokens
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_a_reply_that_stays_outside_is_asked_for_exactly_twice(server: FakeOpenAI):
    server.fault("odd", faults.outside("insect"))
    out = classify(["an odd bug", "praise"])
    assert sources(out) == ["failed", "api"]
    assert "insect" in error(out)
    assert server.bill.texts == {"an odd bug": 2, "praise": 1}


def test_fields_that_arent_json_are_repaired_once(server: FakeOpenAI):
    server.fault("odd", faults.INVALID_JSON, times=1)
    df = pd.DataFrame({"t": ["odd 1", "even 2"]})
    out = df.llm.extract("t", {"n": int, "word": str}, progress=False)
    assert sources(out, "extract") == ["api", "api"]
    assert server.bill.texts == {"odd 1": 2, "even 2": 1}
    assert out["extract_input_tokens"].sum() == server.bill.input_tokens


def test_a_repair_that_meets_trouble_is_sent_again_and_everything_is_on_the_bill(server: FakeOpenAI):
    server.fault("odd", faults.outside(), times=1)
    server.fault("odd", faults.INTERNAL, times=1)
    out = classify(["an odd bug"], details="all")
    assert out["t_label"].tolist() == ["bug"]
    assert out["t_label_attempts"].tolist() == [3]
    assert server.bill.completions == 2
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_a_repair_that_fails_for_good_leaves_its_first_reply_on_the_bill(server: FakeOpenAI):
    server.fault("odd", faults.outside(), times=1)
    server.fault("odd", faults.CONTENT_FILTER)
    out = classify(["an odd bug", "praise"])
    assert sources(out) == ["failed", "api"]
    assert error(out).startswith("ContentFilterError")
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    server.clear_faults()
    # The provider's refusal cost nothing: the row is asked again.
    assert sources(classify(["an odd bug", "praise"])) == ["api", "cache"]


def test_a_late_answer_is_asked_for_once_more_at_most_and_counted(server: FakeOpenAI):
    server.fault("slow once", faults.hang(billed=True), times=1)
    server.fault("slow twice", faults.hang(billed=True))
    start = time.monotonic()
    out = classify(["slow once bug", "slow twice bug", "a bug"], timeout=0.3, details="all")
    within(time.monotonic() - start, 3)
    assert sources(out) == ["api", "failed", "api"]
    assert error(out, 1) == "ServerError: No answer within 0.3 s; it may be billed all the same."
    assert out["t_label_attempts"].tolist() == [2, 2, 1]
    assert pandas_llm.last_run().in_doubt == 3
    assert server.bill.texts == {"slow once bug": 2, "slow twice bug": 2, "a bug": 1}
    server.clear_faults()
    assert sources(classify(["slow once bug", "slow twice bug", "a bug"])) == ["cache", "api", "cache"]


def test_the_timeout_is_for_the_whole_answer(server: FakeOpenAI):
    server.fault(None, faults.slow_body(1.6))
    start = time.monotonic()
    out = classify(["a bug"], timeout=0.3, max_retries=0)
    within(time.monotonic() - start, 1.5)
    assert error(out).startswith("ServerError: No answer within 0.3 s")


ODD_REPLIES = {
    "message a text": {"choices": [{"message": "bug"}]},
    "logprobs a list": {"choices": [{"message": {"content": '{"label":"bug"}'}, "logprobs": [1]}]},
    "usage a text": {"choices": [{"message": {"content": '{"label":"bug"}'}}], "usage": "much"},
    "usage odd": {
        "choices": [{"message": {"content": '{"label":"bug"}'}}],
        "usage": {"prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": [3]},
    },
    "choices of texts": {"choices": ["bug"]},
    "content a number": {"choices": [{"message": {"content": 5}}]},
    "in parts": {"choices": [{"message": {"content": [{"type": "text", "text": '{"label":"bug"}'}, 7]}}]},
    "finish error": {"choices": [{"message": {"content": "b"}, "finish_reason": "error"}]},
}


def test_a_reply_of_odd_shape_is_one_rows_trouble(server: FakeOpenAI):
    for name, raw in ODD_REPLIES.items():
        server.fault(f"{name}: ", faults.Fault(body=json.dumps(raw).encode(), billed=False))
    texts = [f"{name}: bug" for name in ODD_REPLIES]
    with warnings.catch_warnings(action="ignore", category=PriceWarning):
        out = classify([*texts, "a bug"], max_retries=0, max_error_rate=1)
    answered = [name for name, label in zip(ODD_REPLIES, out["t_label"], strict=False) if label == "bug"]
    assert answered == ["logprobs a list", "usage a text", "usage odd", "in parts"]
    assert sources(out).count("failed") == 4
    assert out["t_label"].iloc[-1] == "bug"


def test_a_reply_that_only_python_calls_json_is_read_because_it_is_paid_for(server: FakeOpenAI):
    usage = b'"usage":{"prompt_tokens":5,"completion_tokens":1}'
    body = rb'{"choices":[{"message":{"content":"a \ud83d b \ud83d\ude00"},"x":-Infinity}],' + usage + b"}"
    server.fault(None, faults.Fault(body=body))
    out = pd.DataFrame({"t": ["x"]}).llm.generate("t", "Say.", progress=False)
    assert out["t_output"].tolist() == ["a \ufffd b 😀"]
    assert out["t_output_input_tokens"].tolist() == [5]
    assert len(server.requests) == 1


def test_a_storm_loses_no_row_and_buys_none_twice(server: FakeOpenAI):
    server.storm(0.3, seed=20)  # hits no text more than three times: the back-off doubles each time
    server.latency, server.rpm = 0.002, 6_000_000
    texts = [f"{LABELS[n % 3]} {n}" for n in range(300)]
    out = classify(texts, max_concurrency=64, max_retries=9)
    assert out["t_label"].astype(str).tolist() == [LABELS[n % 3] for n in range(300)]
    assert sources(out) == ["api"] * 300
    assert server.bill.texts == dict.fromkeys(texts, 1)
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)
    assert server.max_in_flight <= 64
