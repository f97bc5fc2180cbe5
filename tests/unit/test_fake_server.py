"""The fake server: the real SDK reads it, and it refuses, limits, fails and bills as asked."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai
import pytest
from fakes import answers, contract, faults
from fakes.limits import Bucket
from fakes.openai_server import Answer, FakeOpenAI, Prices
from fakes.stopwatch import within

HERE = Path(__file__).resolve()
LABELS = ["bug report", "bug fix", "praise"]


def strict(properties, name="reply", **more):
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


LABEL = strict({"label": {"type": "string", "enum": LABELS}})


@pytest.fixture(scope="module")
def running():
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def server(running):
    before = {name: getattr(running, name) for name in vars(FakeOpenAI()) if not name.startswith("_")}
    yield running
    running.clear()
    running.clear_faults()
    for name, value in before.items():
        setattr(running, name, value)


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=running.base_url, api_key="sk-test-key-1234", max_retries=0) as client:
        yield client


def ask(client, text="all is well", system="Label the text.", **params):
    fenced = f"```\n{text}\n```"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": fenced}]
    return client.chat.completions.create(model="gpt-6-luna", messages=messages, **params)


def status_of(client, *args, **params):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, *args, **params)
    return caught.value


def test_a_strict_reply_fits_its_schema_and_is_the_same_for_the_same_text(server, client):
    import jsonschema

    properties = {
        "explanation": {"type": "string"},
        "label": {"type": "string", "enum": LABELS},
        "total": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
        "day": {"type": ["string", "null"], "format": "date"},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b", "c"]}, "minItems": 1},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "maxItems": 2},
        "sure": {"type": "boolean"},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    }
    line = strict({"what": {"type": "string"}})["json_schema"]["schema"]
    response_format = strict(properties, **{"$defs": {"line": line}})
    contents = []
    for number in range(30):
        reply = ask(client, f"text {number}", response_format=response_format)
        contents.append(reply.choices[0].message.content)
        jsonschema.validate(json.loads(contents[-1]), response_format["json_schema"]["schema"])
    assert ask(client, "text 7", response_format=response_format).choices[0].message.content == contents[7]
    assert len({json.loads(content)["label"] for content in contents}) == 3
    nulls = [json.loads(content)["total"] is None for content in contents]
    assert any(nulls)
    assert not all(nulls)
    assert server.violations == []


def test_a_label_that_the_text_names_is_the_label(server, client):
    reply = ask(client, "this bug fix broke praise", response_format=LABEL)
    assert json.loads(reply.choices[0].message.content) == {"label": "bug fix"}


def test_free_text_is_echoed_and_the_fence_is_not_part_of_the_row(server, client):
    assert ask(client, "line\n```\nline").choices[0].message.content == "echo: line\n```\nline"
    assert server.requests[0].text == "line\n```\nline"
    assert server.requests[0].authorized


def test_a_repair_is_about_its_row(server, client):
    messages = [
        {"role": "user", "content": "````\nmy ``` row\n````"},
        {"role": "assistant", "content": "wrong"},
        {"role": "user", "content": "Only these are allowed."},
    ]
    client.chat.completions.create(model="m", messages=messages)
    assert server.requests[0].text == "my ``` row"


def test_json_object_is_answered_from_the_schema_in_the_prompt(server, client):
    system = f"Reply in JSON that fits {json.dumps(LABEL['json_schema']['schema'])}"
    reply = ask(client, "praise!", system, response_format={"type": "json_object"})
    assert json.loads(reply.choices[0].message.content) == {"label": "praise"}
    assert status_of(client, response_format={"type": "json_object"}).param == "messages"


def test_an_answer_decides_everything_in_the_reply(server, client):
    server.answer = lambda text, body: Answer(
        content=f"{text}/{body['model']}",
        finish_reason="length",
        model="gpt-6-luna-2026-11-01",
        service_tier="flex",
        usage={"completion_tokens": 7},
        headers={"x-mine": "1"},
    )
    messages = [{"role": "user", "content": "hi"}]
    raw = client.chat.completions.with_raw_response.create(model="m", messages=messages)
    reply = raw.parse()
    assert raw.headers["x-mine"] == "1"
    assert reply.choices[0].message.content == "hi/m"
    assert reply.choices[0].finish_reason == "length"
    assert (reply.model, reply.service_tier) == ("gpt-6-luna-2026-11-01", "flex")
    assert reply.usage.completion_tokens == 7
    server.answer = lambda *_: Answer(raw=b'{"id": 1}')
    assert client.chat.completions.create(model="m", messages=messages).id == 1
    server.answer = lambda *_: Answer(usage={})
    assert client.chat.completions.create(model="m", messages=messages).usage is None
    assert server.bill.completions == 1


def test_a_stream_parses_and_ends_in_its_usage(server, client):
    params = {"response_format": LABEL, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, "praise it", **params)
    events = list(ask(client, "praise it", stream=True, stream_options={"include_usage": True}, **params))
    parts = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(parts) == '{"label":"praise"}' == whole.choices[0].message.content
    assert sum(bool(part) for part in parts) > 1
    assert events[-1].usage == whole.usage
    assert events[-2].choices[0].finish_reason == "stop"
    plain = list(ask(client, "praise it", stream=True))
    assert all(event.usage is None for event in plain)
    assert server.bill.completions == 3


def test_a_stream_can_be_cut(server, client):
    server.fault("praise", faults.CUT_STREAM)
    got = []
    events = ask(client, "praise it and all that", stream=True)
    with pytest.raises(openai.APIConnectionError):
        got.extend(event.choices[0].delta.content for event in events)
    assert [bool(content) for content in got] == [False, True, True]


def probability_of(label, content):
    """The product over the label's tokens of what is told of them, up to where it parts from the reply."""
    said = json.dumps({"label": label}, separators=(",", ":"))
    product, tokens = 1.0, answers.tokens_of(said)
    for token, entry in zip(tokens, content, strict=False):
        told = {top.token: top.logprob for top in entry.top_logprobs}
        product *= math.exp(told.get(token, -math.inf))
        if token != entry.token:
            break
    return product


def test_logprobs_tell_the_labels_probabilities_also_past_a_common_beginning(server, client):
    server.label_probabilities = {"bug report": 0.6, "bug fix": 0.2, "praise": 0.1}
    reply = ask(client, response_format=LABEL, logprobs=True, top_logprobs=20)
    assert json.loads(reply.choices[0].message.content) == {"label": "bug report"}
    tokens = reply.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == reply.choices[0].message.content
    assert probability_of("bug report", tokens) == pytest.approx(0.6, rel=2e-3)
    assert probability_of("bug fix", tokens) == pytest.approx(0.2, rel=2e-3)
    assert probability_of("praise", tokens) == pytest.approx(0.1, rel=2e-3)
    assert ask(client).choices[0].logprobs is None


def test_logprobs_can_be_given_token_by_token(server, client):
    token = answers.Token("ok", -0.5, {"ok": -0.5, "no": -1.0})
    server.answer = lambda *_: Answer(content="ok", logprobs=(token,))
    said = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert [(top.token, top.logprob) for top in said[0].top_logprobs] == [("ok", -0.5)]


def test_the_bill_is_the_sum_of_what_the_replies_say(server, client):
    server.prices = Prices(input=1.0, output=2.0)
    server.reasoning_tokens = 5
    replies = [ask(client, text) for text in ("one", "two", "two")]
    ask(client, "one", service_tier="flex")
    bill = server.bill
    assert bill.texts == {"one": 2, "two": 2}
    assert bill.completions == 4
    usage = [reply.usage for reply in replies]
    assert usage[0].prompt_tokens == 4 + 3  # 15 and 11 bytes
    assert usage[0].completion_tokens == 3 + 5  # "echo: one", and what was thought
    prompt, said = (sum(getattr(u, f"{kind}_tokens") for u in usage) for kind in ("prompt", "completion"))
    assert bill.input_tokens == prompt + usage[0].prompt_tokens
    flex = (usage[0].prompt_tokens + 2 * usage[0].completion_tokens) / 2e6
    assert bill.cost == pytest.approx((prompt + 2 * said) / 1e6 + flex)


def test_a_breakpoint_writes_the_prompt_cache_once_and_reads_it_after(server, client):
    mark = {"type": "text", "text": "x" * 4096, "prompt_cache_breakpoint": {"mode": "explicit"}}
    params = {"system": [mark], "prompt_cache_options": {"mode": "explicit"}}
    details = [ask(client, text, **params).usage.prompt_tokens_details for text in ("a", "b")]
    assert [(d.cache_write_tokens, d.cached_tokens) for d in details] == [(1024, 0), (0, 1024)]
    assert (server.bill.cache_write_tokens, server.bill.cached_tokens) == (1024, 1024)
    short = ask(client, "a", system=[{**mark, "text": "x" * 4000}]).usage.prompt_tokens_details
    assert (short.cache_write_tokens, short.cached_tokens) == (0, 0)
    server.refuse_breakpoint = True
    assert "prompt_cache_breakpoint" in status_of(client, **params).message
    assert server.violations == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"extra_body": {"n": "1"}}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"extra_body": {"messages": [{"role": "user", "content": "hi", "weight": 1}]}}, "messages"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": strict({"label": {"type": "string", "minLength": 1}})}, "response_format"),
    ],
)
def test_a_body_that_no_openai_server_would_take_is_refused_and_recorded(server, client, params, param):
    refusal = status_of(client, **params)
    assert (refusal.status_code, refusal.type) == (400, "invalid_request_error")
    assert refusal.param == param
    assert [violation.path for violation in server.violations] == ["/v1/chat/completions"]
    assert server.bill.completions == 0


def test_the_same_wrong_body_is_refused_again_after_a_right_one(server, client):
    ask(client)
    for _ in range(2):
        assert status_of(client, extra_body={"foo": 1}).param == "foo"
    assert len(server.violations) == 2


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "string"}, "object"),
        ({"type": "object", "properties": {}, "required": []}, "additionalProperties"),
        (strict({"a": {"type": "string"}}, required=[])["json_schema"]["schema"], "Missing 'a'"),
        (strict({"a": {}})["json_schema"]["schema"], "'type' key"),
        (strict({"a": {"allOf": []}})["json_schema"]["schema"], "'allOf' is not permitted"),
        (strict({"a": {"type": "array"}})["json_schema"]["schema"], "items"),
        (strict({"a": {"$ref": "#/$defs/b"}})["json_schema"]["schema"], "points to no definition"),
        (strict({"a": {"type": "string", "default": "x"}})["json_schema"]["schema"], "'default'"),
        (strict({"a": {"type": "string", "format": "uri"}})["json_schema"]["schema"], "format"),
        (strict({"a": {"type": "integer", "enum": list(range(1001))}})["json_schema"]["schema"], "1000 enum"),
    ],
)
def test_strict_schemas_are_held_to_the_rules(schema, problem):
    assert problem in " ".join(contract.strict_problems(schema))


def test_what_the_sdk_makes_of_a_pydantic_model_is_within_the_rules():
    from openai.lib._pydantic import to_strict_json_schema
    from pydantic import BaseModel

    class Line(BaseModel):
        what: str
        price: float | None

    class Invoice(BaseModel):
        number: int
        lines: list[Line]

    assert contract.strict_problems(to_strict_json_schema(Invoice)) == []


REFUSALS = {
    "SLOW_DOWN": (429, "slow_down"),
    "FLEX_UNAVAILABLE": (429, "resource_unavailable"),
    "CREDIT_BALANCE_EXHAUSTED": (429, "credit_balance_exhausted"),
    "INSUFFICIENT_QUOTA": (429, "insufficient_quota"),
    "PAYMENT_REQUIRED": (402, "payment_required"),
    "UNAUTHORIZED": (401, "invalid_api_key"),
    "FORBIDDEN": (403, "unsupported_country_region_territory"),
    "MODEL_NOT_FOUND": (404, "model_not_found"),
    "REQUEST_TIMEOUT": (408, "request_timeout"),
    "CONFLICT": (409, "conflict"),
    "CAPACITY_EXCEEDED": (498, "capacity_exceeded"),
    "INTERNAL": (500, None),
    "OVERLOADED": (503, "server_is_overloaded"),
    "SITE_OVERLOADED": (529, "overloaded_error"),
    "HTML_502": (502, None),
    "CONTEXT_LENGTH": (400, "context_length_exceeded"),
    "CONTENT_FILTER": (400, "content_filter"),
    "FORMAT_REFUSED": (400, "unsupported_value"),
    "LOGPROBS_REFUSED": (400, "unsupported_parameter"),
}


def test_each_refusal_comes_with_its_status_and_code_and_costs_nothing(server, client):
    for name in REFUSALS:
        server.fault(f"<{name}>", getattr(faults, name))
    got = {name: status_of(client, f"<{name}>") for name in REFUSALS}
    assert {name: (error.status_code, error.code) for name, error in got.items()} == REFUSALS
    assert "response_format" in got["FORMAT_REFUSED"].message
    assert server.bill.completions == 0
    assert server.statuses[429] == server.seen_429 == 4


@pytest.mark.parametrize("name", ["RESET_BEFORE", "RESET_AFTER", "TRUNCATED"])
@pytest.mark.parametrize("match", ["row", None])
def test_a_broken_connection_has_no_status(server, client, name, match):
    server.fault(match, getattr(faults, name), times=1)
    with pytest.raises(openai.APIConnectionError):
        ask(client, "row 1")
    assert server.bill.completions == (name == "TRUNCATED")
    assert ask(client, "row 1").choices[0].message.content == "echo: row 1"


def test_a_hanging_request_times_out_and_may_be_billed(server, client):
    server.fault("free", faults.hang())
    server.fault("paid", faults.hang(billed=True))
    for text in ("free", "paid"):
        with pytest.raises(openai.APITimeoutError):
            ask(client, text, timeout=0.1)
    assert server.bill.texts == {"paid": 1}
    deadline = time.monotonic() + 2
    while server.in_flight and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.in_flight == 0


def test_a_slow_body_comes_whole_in_the_end(server, client):
    server.fault(None, faults.slow_body(0.1))
    begun = time.monotonic()
    assert ask(client, "slow").choices[0].message.content == "echo: slow"
    assert time.monotonic() - begun > 0.08


def test_a_spoiled_answer_is_billed(server, client):
    kinds = ("EMPTY", "REFUSAL", "CUT_OFF", "FILTERED", "INVALID_JSON", "OUTSIDE_LABEL")
    for name in kinds:
        server.fault(f"<{name}>", getattr(faults, name))
    got = {name: ask(client, f"<{name}> praise", response_format=LABEL).choices[0] for name in kinds}
    assert got["EMPTY"].message.content == ""
    assert got["REFUSAL"].message.content is None
    assert got["REFUSAL"].message.refusal
    assert got["CUT_OFF"].finish_reason == "length"
    assert got["FILTERED"].finish_reason == "content_filter"
    assert json.loads(got["OUTSIDE_LABEL"].message.content)["label"] not in LABELS
    for name in ("CUT_OFF", "INVALID_JSON"):
        with pytest.raises(json.JSONDecodeError):
            json.loads(got[name].message.content)
    assert server.bill.completions == len(kinds)


def test_a_200_that_is_no_completion_is_not_billed(server, client):
    server.fault("<text>", faults.NOT_JSON)
    server.fault("<error>", faults.ERROR_IN_200)
    with pytest.raises(json.JSONDecodeError):
        ask(client, "<text>")
    assert ask(client, "<error>").choices is None
    assert server.bill.completions == 0


def test_an_error_can_be_billed(server, client):
    server.fault(None, faults.error(500, billed=True))
    assert status_of(client, "paid").status_code == 500
    assert server.bill.texts == {"paid": 1}


def test_retry_after_is_sent_as_it_is(server, client):
    for said in ("300", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "soon"):
        server.fault(None, faults.rate_limited(said), times=1)
        assert status_of(client).response.headers["retry-after"] == said


def test_faults_match_by_number_and_end_after_their_times(server, client):
    server.fault(lambda n, text: n == 1, faults.INTERNAL)
    server.fault("b", faults.CONFLICT, times=1)
    got = []
    for text in ("a", "b", "b", "b"):
        try:
            ask(client, text)
            got.append(200)
        except openai.APIStatusError as error:
            got.append(error.status_code)
    assert got == [200, 500, 409, 200]


def test_a_storm_hits_the_same_texts_in_any_order(server, client):
    def storm_over(texts):
        server.storm(0.4, seed=3, kinds=(faults.INTERNAL, faults.OVERLOADED))
        server.clear()
        found = {}
        for text in texts:
            try:
                ask(client, text)
            except openai.InternalServerError as error:
                found[text] = error.status_code
        return found

    texts = [f"row {number}" for number in range(60)]
    first = storm_over(texts)
    assert 12 <= len(first) <= 36
    assert set(first.values()) == {500, 503}
    assert storm_over(texts[::-1]) == first


def test_a_format_the_server_does_not_know_is_refused_by_name(server, client):
    server.refuse_formats = {"json_schema"}
    assert status_of(client, response_format=LABEL).param == "response_format"
    assert ask(client, "JSON", response_format={"type": "json_object"}).choices
    server.refuse_logprobs = True
    assert status_of(client, logprobs=True).param == "logprobs"
    assert server.violations == []


def test_a_wrong_key_is_refused_and_a_right_one_is_not(server, client):
    server.api_key = "sk-another-key"
    refusal = status_of(client)
    assert (refusal.status_code, refusal.code) == (401, "invalid_api_key")
    assert "sk-test-key-1234" not in refusal.message
    server.api_key = "sk-test-key-1234"
    assert ask(client).choices


def test_an_unknown_address_or_model_is_404(server, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.post("/nonsense", cast_to=object, body={})
    assert "Invalid URL (POST /v1/nonsense)" in caught.value.message
    server.models = ["gpt-9"]
    assert status_of(client).code == "model_not_found"
    assert [model.id for model in client.models.list()] == ["gpt-9"]


def test_azure_finds_its_deployment(server):
    azure = openai.AzureOpenAI(
        azure_endpoint=server.root, api_version="2025-01-01", api_key="azure-key", max_retries=0
    )
    server.api_key = "azure-key"
    with azure:
        assert ask(azure, "hi", response_format=LABEL).choices
    assert server.requests[0].path == "/openai/deployments/gpt-6-luna/chat/completions"
    assert not server.requests[0].authorized


def test_embeddings_of_texts_that_share_words_are_near(server, client):
    texts = ["the cat sat", "the cat stood", "quarterly revenue"]
    made = client.embeddings.create(model="text-embedding-3-small", input=texts, dimensions=64)
    a, b, c = (each.embedding for each in made.data)
    near, far = (sum(x * y for x, y in zip(a, other, strict=True)) for other in (b, c))
    assert near > 0.4 > far
    assert len(a) == 64
    assert server.bill.texts == dict.fromkeys(texts, 1)
    assert server.bill.cost == pytest.approx(made.usage.prompt_tokens * 0.02 / 1e6)
    plain = client.embeddings.create(
        model="text-embedding-3-small", input="the cat sat", dimensions=64, encoding_format="float"
    )
    assert plain.data[0].embedding == pytest.approx(a)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="text-embedding-3-small", input=[""])


def test_requests_above_the_limit_get_429_and_the_rest_comes_at_the_right_rate(server):
    server.rpm, server.depth = 1200, 0.25  # twenty a second, five at once
    seconds = 0.4

    async def flood():
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0)
        end, kinds, refusal = time.monotonic() + seconds, [], None
        async with client:

            async def worker():
                nonlocal refusal
                while time.monotonic() < end:
                    try:
                        await ask(client)
                        kinds.append(200)
                    except openai.RateLimitError as error:
                        kinds.append(429)
                        refusal = error

            await asyncio.gather(*(worker() for _ in range(8)))
        return kinds, refusal

    kinds, refusal = asyncio.run(flood())
    took = server.requests[-1].at - server.requests[0].at
    assert kinds.count(200) == pytest.approx(5 + 20 * took, abs=3)
    assert kinds.count(429) == server.seen_429 > 0
    assert refusal.code == "rate_limit_exceeded"
    headers = refusal.response.headers
    assert headers["x-ratelimit-limit-requests"] == "1200"
    assert headers["retry-after"] == "1"
    assert 0 < int(headers["retry-after-ms"]) <= 50
    assert server.bill.completions == kinds.count(200)
    assert 1 < server.max_in_flight <= 8


def test_a_bucket_lets_through_its_depth_and_then_its_rate():
    bucket, taken = Bucket(), 0
    for tick in range(1000):
        bucket.refill(600, 1.0, tick / 100)
        if bucket.wait(1) == 0:
            bucket.level -= 1
            taken += 1
    assert taken == 10 + 99
    bucket.refill(600, 1.0, 9.99)
    assert bucket.wait(1) == pytest.approx(0.01)
    bucket.refill(600, 1.0, 100)
    assert bucket.wait(25) == 0  # more than it holds goes when it is full


def test_a_token_limit_counts_the_larger_of_prompt_and_cap(server, client):
    server.tpm, server.depth = 600, 60
    ask(client, max_completion_tokens=500)
    refusal = status_of(client, max_completion_tokens=500)
    assert (refusal.status_code, refusal.type) == (429, "tokens")
    assert refusal.response.headers["retry-after"] == "40"
    assert refusal.response.headers["x-ratelimit-remaining-tokens"] == "100"
    assert refusal.response.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert "too large" in status_of(client, max_completion_tokens=601).message


@pytest.mark.parametrize(
    ("told", "names"), [("retry-after", {"retry-after", "retry-after-ms"}), ("none", set())]
)
def test_what_is_told_of_a_limit_can_be_less(server, client, told, names):
    server.rpm, server.rate_headers = 1, told
    ask(client)
    headers = status_of(client).response.headers
    assert {name for name in headers if "ratelimit" in name or "retry" in name} == names


def test_latency_is_waited_for_together(server):
    server.latency = lambda text: 0.1 if text == "slow" else 0.0

    async def both():
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            begun = time.monotonic()
            await asyncio.gather(*(ask(client, "slow") for _ in range(10)))
            return time.monotonic() - begun

    seconds = asyncio.run(both())
    assert seconds >= 0.1
    within(seconds, 0.6)
    assert server.max_in_flight == 10
    assert server.in_flight == 0


def test_an_unknown_setting_is_refused():
    with pytest.raises(AttributeError, match="no setting 'latncy'"):
        FakeOpenAI().latncy = 1


def test_what_breaks_inside_the_server_breaks_the_test():
    def broken(text, body):
        raise ZeroDivisionError("in the answer")

    server = FakeOpenAI(answer=broken)
    server.__enter__()
    with openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client:
        assert status_of(client).status_code == 500
    with pytest.raises(ZeroDivisionError, match="in the answer"):
        server.__exit__(None)


def call(url, data=None):
    with urllib.request.urlopen(url, data and json.dumps(data).encode(), timeout=5) as reply:
        return json.loads(reply.read())


@pytest.fixture
def start(tmp_path):
    processes = []

    def begin(script, *args):
        port_file = tmp_path / "port"
        command = [sys.executable, HERE.parents[2] / script, "--port-file", port_file, *args]
        processes.append(subprocess.Popen(command))
        while not port_file.exists():
            assert processes[-1].poll() is None
            time.sleep(0.01)
        return f"http://127.0.0.1:{port_file.read_text()}"

    yield begin
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_it_runs_as_a_process_that_tells_its_bill(start):
    root = start("tests/fakes/openai_server.py", "--set", "reasoning_tokens=3")
    with openai.OpenAI(base_url=f"{root}/v1", api_key="k", max_retries=0) as client:
        assert ask(client, "one").usage.completion_tokens_details.reasoning_tokens == 3
        call(f"{root}/__set", {"fault": {"name": "CONFLICT", "match": "two", "times": 1}})
        assert status_of(client, "two").status_code == 409
    bill = call(f"{root}/__bill")
    assert bill["texts"] == {"one": 1}
    assert bill["requests"] == 2
    assert bill["statuses"] == {"200": 1, "409": 1}


def test_the_bench_server_answers_the_sdk_limits_and_counts(start):
    root = start("bench/server.py", "--rpm", "60", "--depth", "2", "--latency", "0.01")
    with openai.OpenAI(base_url=f"{root}/v1", api_key="k", max_retries=0) as client:
        reply = ask(client, "what?", response_format=LABEL)
        assert json.loads(reply.choices[0].message.content) == {"label": "bug report"}
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert ask(client, '"enum": ["no"]').choices[0].message.content == "ok"
        refusal = status_of(client)
    assert (refusal.status_code, refusal.code) == (429, "rate_limit_exceeded")
    assert refusal.response.headers["retry-after"] == "1"
    assert call(f"{root}/__stats") == {"requests": 3, "429": 1, "429_late": 0}
