"""What of the API an endpoint understands: found out once, remembered, and never a row's loss."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from fakes import faults
from fakes.openai_server import Answer, FakeOpenAI
from fakes.stopwatch import within

import pandas_llm

LABELS = ["bug", "question", "praise"]
LONG = "Some bugs are features. " * 220
"""More than 1,024 tokens."""


def classify(texts, **options):
    return pd.DataFrame({"t": texts}).llm.classify("t", LABELS, progress=False, **options)


def bugs(n):
    return [f"bug {i}" for i in range(n)]


def formats(server):
    return Counter(seen.body.get("response_format", {}).get("type", "text") for seen in server.requests)


def test_a_format_nobody_has_seen_here_is_tried_by_the_first_request_alone(server: FakeOpenAI):
    server.latency = 0.05
    classify(bugs(20))
    first, second = sorted(seen.at for seen in server.requests)[:2]
    assert second - first >= 0.05
    server.clear()
    classify([f"praise {i}" for i in range(20)])
    first, *_, last = sorted(seen.at for seen in server.requests)
    within(last - first, 0.05)
    assert formats(server) == {"json_schema": 20}


REFUSALS = [
    (["json_schema"], Counter(json_schema=1, json_object=20)),
    (["json_schema", "json_object"], Counter(json_schema=1, json_object=1, text=20)),
]


@pytest.mark.parametrize(("refused", "seen"), REFUSALS, ids=["to json_object", "to text"])
def test_a_refused_format_falls_back_once_and_is_remembered(server: FakeOpenAI, refused, seen):
    server.refuse_formats = refused
    out = classify(bugs(20))
    assert out["t_label"].tolist() == ["bug"] * 20
    assert set(out["t_label_source"]) == {"api"}
    assert formats(server) == seen
    assert server.bill.completions == 20
    system = server.requests[-1].body["messages"][0]["content"]
    assert "JSON" in system
    assert all(label in system for label in LABELS)

    server.clear()
    lasting = seen.most_common(1)[0][0]
    classify([f"praise {i}" for i in range(5)])
    assert formats(server) == {lasting: 5}
    # Another question of the same endpoint and model knows it too, and what was answered stays known.
    pd.DataFrame({"t": bugs(2)}).llm.extract("t", {"n": int}, progress=False)
    assert formats(server) == {lasting: 7}
    assert set(classify(bugs(20))["t_label_source"]) == {"cache"}


def test_another_model_is_asked_in_the_best_format_first(server: FakeOpenAI):
    server.refuse_formats = ["json_schema"]
    classify(bugs(2))
    server.clear()
    server.refuse_formats = []
    classify(bugs(2), model="gpt-6-sol")
    assert formats(server) == {"json_schema": 2}


def test_a_format_that_many_learn_to_be_refused_at_once_costs_no_row(server: FakeOpenAI):
    classify(bugs(1))
    server.clear()
    server.latency = 0.01
    server.refuse_formats = ["json_schema"]
    out = classify([f"praise {i}" for i in range(30)], max_concurrency=10)
    assert set(out["t_label_source"]) == {"api"}
    assert server.bill.completions == 30
    assert formats(server)["json_schema"] <= 10


@pytest.mark.parametrize("status", [400, 422])
def test_the_name_is_found_in_whatever_field(server: FakeOpenAI, status):
    detail = (
        b'{"detail":[{"type":"extra_forbidden","loc":["body","response_format"],"msg":"Extra","input":{}}]}'
    )
    schema_asked = []

    def hits(n, text):
        seen = server.requests[-1].body
        schema_asked.append(seen.get("response_format", {}).get("type") == "json_schema")
        return schema_asked[-1]

    server.fault(hits, faults.Fault(status, detail))
    assert classify(bugs(3))["t_label"].tolist() == ["bug"] * 3
    assert schema_asked == [True, False, False, False]


def test_a_long_message_cant_hide_the_parameter(server: FakeOpenAI):
    refused = faults.error(400, "unsupported_value", "Sorry. " * 60, param="response_format")
    server.fault(None, refused, times=1)
    classify(bugs(3))
    assert formats(server) == {"json_schema": 1, "json_object": 3}


def test_any_other_400_is_the_rows_and_changes_no_format(server: FakeOpenAI):
    server.fault("bug 0", faults.error(400, "invalid_value", "Nothing of ours.", param="messages"))
    long = "Your messages resulted in 130000 tokens (100 of them in the response_format schemas)."
    server.fault("bug 1", faults.error(400, "context_length_exceeded", long, param="messages"))
    out = classify(bugs(5))
    assert out["t_label_source"].tolist() == ["failed"] * 2 + ["api"] * 3
    assert formats(server) == {"json_schema": 5}


def test_generated_text_asks_for_no_format_and_all_start_together(server: FakeOpenAI):
    server.latency = 0.05
    df = pd.DataFrame({"t": bugs(10)})
    out = df.llm.generate("t", "Say it again.", progress=False)
    assert out["t_output"].tolist() == [f"echo: {text}" for text in bugs(10)]
    first, *_, last = sorted(seen.at for seen in server.requests)
    within(last - first, 0.05)
    assert formats(server) == {"text": 10}


def test_refused_logprobs_are_dropped_and_said_once(server: FakeOpenAI):
    server.refuse_logprobs = True
    with pytest.warns(pandas_llm.errors.LLMWarning, match="gives no log-probabilities") as warned:
        out = classify(bugs(10), confidence=True)
    assert len(warned) == 1
    assert out["t_label"].tolist() == ["bug"] * 10
    assert out["t_label_confidence"].isna().all()
    asked = Counter(bool(seen.body.get("logprobs")) for seen in server.requests)
    assert asked[False] == 10
    assert asked[True] == 1
    assert server.bill.completions == 10


def test_a_long_fixed_part_ends_in_a_breakpoint_and_is_written_once(server: FakeOpenAI):
    server.latency = 0.05
    out = classify(bugs(10), instructions=LONG, details="all")
    first, *others = server.requests
    assert others[0].at - first.at >= 0.05
    for seen in server.requests:
        (part,) = seen.body["messages"][0]["content"]
        assert part["prompt_cache_breakpoint"] == {"mode": "explicit"}
        assert LONG.strip() in part["text"]
        assert seen.body["prompt_cache_options"] == {"mode": "explicit"}
    written, cached = out["t_label_cache_write_tokens"], out["t_label_cached_tokens"]
    assert (written > 0).sum() == 1
    assert (cached > 1024).sum() == 9
    assert written.sum() == server.bill.cache_write_tokens
    assert cached.sum() == server.bill.cached_tokens
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_a_short_fixed_part_or_a_model_without_write_prices_has_no_breakpoint(server: FakeOpenAI):
    classify(bugs(1))
    classify(bugs(1), instructions=LONG, model="gpt-4o-mini")
    assert "prompt_cache" not in str([seen.body for seen in server.requests])


def test_a_refused_breakpoint_is_dropped_for_the_run(server: FakeOpenAI):
    server.refuse_breakpoint = True
    out = classify(bugs(10), instructions=LONG)
    assert set(out["t_label_source"]) == {"api"}
    with_breakpoint = ["prompt_cache" in str(seen.body) for seen in server.requests]
    assert with_breakpoint == [True] + [False] * 10
    assert formats(server) == {"json_schema": 11}


def test_a_breakpoint_and_a_format_can_both_be_refused(server: FakeOpenAI):
    server.refuse_breakpoint = True
    server.refuse_formats = ["json_schema", "json_object"]
    server.refuse_logprobs = True
    with pytest.warns(pandas_llm.errors.LLMWarning, match="log-probabilities"):
        out = classify(bugs(4), instructions=LONG, confidence=True)
    assert out["t_label"].tolist() == ["bug"] * 4
    assert server.bill.completions == 4
    assert len(server.requests) == 8


def test_params_are_sent_as_they_are(server: FakeOpenAI):
    params = {"temperature": 0.3, "seed": 7, "max_completion_tokens": 50, "reasoning_effort": "low"}
    params |= {"user": "ö", "stop": ["\n\n"], "logit_bias": {"5": -100}}
    classify(bugs(2), params=params)
    for seen in server.requests:
        assert {name: seen.body[name] for name in params} == params
        assert set(seen.body) == {"model", "messages", "response_format", *params}


def test_nothing_is_invented(server: FakeOpenAI):
    classify(bugs(1))
    pd.DataFrame({"t": ["x"]}).llm.generate("t", "Say.", progress=False)
    assert set(server.requests[0].body) == {"model", "messages", "response_format"}
    assert set(server.requests[1].body) == {"model", "messages"}


def test_a_stream_is_read_whole_and_its_usage_is_asked_for(server: FakeOpenAI):
    out = classify(bugs(5), params={"stream": True}, confidence=True, details="all")
    assert {seen.body["stream_options"]["include_usage"] for seen in server.requests} == {True}
    assert out["t_label"].tolist() == ["bug"] * 5
    assert out["t_label_finish_reason"].tolist() == ["stop"] * 5
    assert out["t_label_confidence"].between(0.9, 0.92).all()
    assert out["t_label_input_tokens"].sum() == server.bill.input_tokens
    assert out["t_label_cost"].sum() == pytest.approx(server.bill.cost)


def test_stream_options_of_the_user_stay(server: FakeOpenAI):
    classify(bugs(1), params={"stream": True, "stream_options": {"include_obfuscation": False}})
    assert server.requests[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_streams_that_are_cut_or_refuse_are_what_they_would_be_whole(server: FakeOpenAI):
    server.fault("cut", faults.CUT_STREAM, times=1)
    server.fault("refused", faults.REFUSAL)
    server.fault("short", faults.CUT_OFF)
    said = b'data: {"error":{"message":"Provider returned error","code":502}}\n\ndata: [DONE]\n\n'
    broken = faults.Fault(body=said, headers={"content-type": "text/event-stream"}, billed=False)
    server.fault("broken", broken, times=1)
    texts = ["cut bug", "refused bug", "short bug", "broken bug", "bug"]
    out = classify(texts, params={"stream": True}, details="all", max_error_rate=1)
    assert out["t_label_source"].tolist() == ["api", "failed", "failed", "api", "api"]
    errors = out["t_label_error"].tolist()
    assert errors[1] == 'RefusalError: The model refused: "I can\'t help with that."'
    assert errors[2].startswith("LengthError")
    assert out["t_label_attempts"].tolist() == [2, 1, 1, 2, 1]


def test_the_model_and_tier_that_answered_are_told(server: FakeOpenAI):
    server.answer = lambda text, body: Answer(content='{"label": "bug"}', model="gpt-6-luna-2026-10-01")
    out = classify(bugs(1), details="all")
    assert out["t_label_model"].tolist() == ["gpt-6-luna-2026-10-01"]
    assert out["t_label_service_tier"].tolist() == ["default"]
    assert out["t_label_request_id"].tolist() == ["req_00000001"]
