"""The fake server's Files and Batch API: the real SDK drives each status, limit and fault of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import openai
import orjson
import pytest
from fakes import batch_faults, faults
from fakes.batch_faults import NAMED, Course, OnLine, OnRequest
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import within

SCRIPT = Path(__file__).resolve().parents[1] / "fakes/openai_server.py"
CHAT = "/v1/chat/completions"
LABELS = ["bug", "praise"]
DAY = 24 * 3600


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


def key(number):
    return f"{number:032x}"


def asking(number, text=None, url=CHAT, **body):
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": LABELS}},
        "required": ["label"],
        "additionalProperties": False,
    }
    said = {
        "model": "gpt-6-luna",
        "messages": [{"role": "user", "content": f"```\n{text or f'bug {number}'}\n```"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": schema},
        },
    }
    return {"custom_id": key(number), "method": "POST", "url": url, "body": {**said, **body}}


def upload(client, lines, name="rows.jsonl"):
    data = b"".join(line if isinstance(line, bytes) else orjson.dumps(line) + b"\n" for line in lines)
    return client.files.create(file=(name, data, "application/jsonl"), purpose="batch")


def create(client, lines, endpoint=CHAT, name="rows.jsonl", **params):
    number = upload(client, lines, name).id
    return client.batches.create(input_file_id=number, endpoint=endpoint, completion_window="24h", **params)


def submit(client, count=10, **params):
    return create(client, map(asking, range(count)), **params)


def retrieved(client, batch, times=1):
    for _ in range(times):
        batch = client.batches.retrieve(batch.id)
    return batch


def finished(client, batch):
    for _ in range(10):
        batch = retrieved(client, batch)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
    raise AssertionError(batch)


def raw_lines(client, number):
    """The lines of a file, whole or not, without their ends."""
    content = client.files.content(number).read() if number else b""
    return content.split(b"\n")[: -1 if content.endswith(b"\n") else None] if content else []


def files_of(client, batch):
    output, error = raw_lines(client, batch.output_file_id), raw_lines(client, batch.error_file_id)
    return list(map(orjson.loads, output)), list(map(orjson.loads, error))


def run(client, count=10):
    batch = finished(client, submit(client, count))
    return batch, *files_of(client, batch)


def counts(batch):
    told = batch.request_counts
    return told.completed, told.failed, told.total


def ids(lines):
    return [int(line["custom_id"], 16) for line in lines]


def statuses(lines):
    return Counter(line["response"]["status_code"] for line in lines)


def refusal_of(call, *args, **params):
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **params)
    return caught.value


def test_a_batch_goes_through_its_statuses_to_a_shuffled_output(server, client):
    batch = submit(client, metadata={"run": "r_1"})
    assert (batch.status, batch.metadata, counts(batch)) == ("validating", {"run": "r_1"}, (0, 0, 0))
    assert batch.expires_at == batch.created_at + DAY
    seen = []
    for _ in range(4):
        batch = retrieved(client, batch)
        seen.append((batch.status, *counts(batch)))
    assert seen == [
        ("in_progress", 0, 0, 10),
        ("finalizing", 10, 0, 10),
        ("completed", 10, 0, 10),
        ("completed", 10, 0, 10),
    ]
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert (batch.error_file_id, batch.errors, batch.model) == (None, None, "gpt-6-luna")
    output, _ = files_of(client, batch)
    assert sorted(ids(output)) == list(range(10)) != ids(output)
    line = output[ids(output).index(3)]
    assert set(line) == {"id", "custom_id", "response", "error"}
    assert line["error"] is None
    reply = line["response"]["body"]
    assert (reply["service_tier"], line["response"]["status_code"]) == ("default", 200)
    assert reply["choices"][0]["message"]["content"] == '{"label":"bug"}'
    assert batch.usage.output_tokens == sum(
        x["response"]["body"]["usage"]["completion_tokens"] for x in output
    )
    assert server.violations == []


def test_a_batch_is_billed_at_half_the_price_and_each_row_once(server, client):
    first = asking(0)["body"]
    client.chat.completions.create(**first)
    live = server.bill.cost
    finished(client, create(client, [asking(0)]))
    bill = server.bill
    assert bill.cost == pytest.approx(live * 1.5)
    assert (bill.completions, bill.batch_completions, bill.batches) == (1, 1, 1)
    assert bill.batch_rows == {key(0): 1}
    assert bill.texts == {"bug 0": 2}


def test_tests_see_the_batches_files_and_requests(server, client):
    batch = finished(client, submit(client, 2))
    (kept,) = server.batches
    assert (kept.id, kept.status, kept.endpoint, kept.custom_ids) == (
        batch.id,
        "completed",
        CHAT,
        [key(0), key(1)],
    )
    assert kept.lines == [asking(0), asking(1)]
    given, made = server.files.values()
    assert (given.purpose, given.filename, made.purpose) == ("batch", "rows.jsonl", "batch_output")
    assert len(given.content) == given.bytes
    client.files.delete(given.id)
    assert given.deleted
    assert [seen.path for seen in server.requests[:2]] == ["/v1/files", "/v1/batches"]
    assert server.requests[0].body == {"purpose": "batch", "filename": "rows.jsonl"}
    assert server.statuses == {200: len(server.requests)}


def test_files_are_kept_listed_and_deleted(server, client):
    kept = upload(client, [asking(1)])
    assert client.files.retrieve(kept.id) == kept
    assert client.files.content(kept.id).read() == orjson.dumps(asking(1)) + b"\n"
    other = upload(client, [], "other.jsonl")
    assert [file.id for file in client.files.list(purpose="batch")] == [other.id, kept.id]
    assert client.files.delete(kept.id).deleted
    assert refusal_of(client.files.content, kept.id).status_code == 404
    assert [file.id for file in client.files.list()] == [other.id]
    server.clock.advance(30 * DAY)
    assert refusal_of(client.files.retrieve, other.id).status_code == 404
    short = {"anchor": "created_at", "seconds": 3600}
    kept = client.files.create(file=("a.jsonl", b"{}"), purpose="batch", expires_after=short)
    assert kept.expires_at == kept.created_at + 3600


def test_a_file_of_another_name_is_refused(server, client):
    refusal = refusal_of(upload, client, [asking(1)], "rows.json")
    assert "Invalid file format for Batch API. Must be .jsonl" in refusal.message
    assert refusal_of(client.files.create, file=b"{}", purpose="batch").status_code == 400
    assert len(server.violations) == 2


def test_a_create_request_keeps_the_contract(server, client):
    number = upload(client, [asking(1)]).id

    def refused(**params):
        usual = {"input_file_id": number, "endpoint": CHAT, "completion_window": "24h"}
        return refusal_of(client.batches.create, **{**usual, **params}).param

    assert refused(completion_window="48h") == "completion_window"
    assert refused(endpoint="/v1/nonsense") == "endpoint"
    assert refused(metadata={str(i): "" for i in range(17)}) == "metadata"
    assert refused(metadata={"a": "x" * 513}) == "metadata"
    assert refused(metadata={"a" * 65: "x"}) == "metadata"
    assert refused(metadata={"a": 1}) == "metadata"
    assert refused(extra_body={"colour": "red"}) == "colour"
    assert refused(input_file_id="file-nowhere") == "input_file_id"
    assert len(server.violations) == 8
    assert server.batches == []


def bad(**change):
    return [asking(0), {**asking(1), **change}]


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        ([asking(0), b"{oops\n"], "invalid_json_line", 2),
        ([b"[1]\n"], "invalid_json_line", 1),
        ([asking(0), b"\n", asking(1)], "invalid_json_line", 2),
        (bad(custom_id=key(0)), "duplicate_custom_id", 2),
        (bad(url="/v1/embeddings"), "url_mismatch", 2),
        ([asking(0), asking(1, model="gpt-6-sol")], "model_mismatch", 2),
        ([asking(0), asking(1, stream=True)], "invalid_request", 2),
        (bad(method="GET"), "invalid_request", 2),
        (bad(colour="red"), "invalid_request", 2),
        ([], "empty_file", None),
        ([asking(i) for i in range(6)], "too_many_tasks", None),
        ([asking(0, "x" * 5000)], "file_too_large", None),
    ],
)
def test_a_bad_file_fails_in_validation(server, client, lines, code, line):
    server.batch_requests, server.batch_bytes = 5, 4000
    batch = create(client, lines)
    assert batch.status == "validating"
    batch = retrieved(client, batch)
    assert batch.status == "failed"
    assert batch.failed_at
    (problem,) = batch.errors.data
    assert (problem.code, problem.line) == (code, line)
    assert problem.message
    assert (batch.output_file_id, batch.error_file_id, counts(batch)) == (None, None, (0, 0, 0))
    assert [each.message for each in server.violations] == [problem.message]
    assert server.bill.batch_completions == 0


def test_a_bad_body_is_its_lines_error_and_a_violation(server, client):
    batch = finished(client, create(client, [asking(0), asking(1, top_logprobs=3), asking(2)]))
    output, error = files_of(client, batch)
    assert sorted(ids(output)) == [0, 2]
    assert ids(error) == [1]
    assert error[0]["response"]["status_code"] == 400
    assert error[0]["response"]["body"]["error"]["param"] == "top_logprobs"
    assert len(server.violations) == 1


def test_a_model_that_is_not_known_fails_the_batch(server, client):
    server.models = ["gpt-9"]
    assert finished(client, submit(client)).errors.data[0].code == "model_not_found"
    assert server.violations == []


def test_embeddings_run_in_batches_too(server, client):
    def embedding(number, texts, **body):
        said = {"model": "text-embedding-3-small", "input": texts, "dimensions": 8, **body}
        return {"custom_id": key(number), "method": "POST", "url": "/v1/embeddings", "body": said}

    lines = [embedding(0, "one"), embedding(1, ["two", "three"]), embedding(2, ["four"])]
    batch = finished(client, create(client, lines, "/v1/embeddings"))
    output, _ = files_of(client, batch)
    sizes = {int(line["custom_id"], 16): len(line["response"]["body"]["data"]) for line in output}
    assert sizes == {0: 1, 1: 2, 2: 1}
    assert server.bill.batch_embeddings == 3
    assert server.bill.texts == {"one": 1, "two": 1, "three": 1, "four": 1}
    assert batch.usage.input_tokens == 5
    assert server.violations == []
    server.batch_requests = 3
    batch = finished(client, create(client, lines, "/v1/embeddings"))
    assert batch.errors.data[0].code == "too_many_tasks"
    assert "embedding inputs" in batch.errors.data[0].message


def test_rows_are_answered_bit_by_bit_as_the_clock_moves(server, client):
    server.batch_seconds, server.validating_seconds, server.finalizing_seconds = 1100, 100, 60
    batch = submit(client)
    assert retrieved(client, batch, 2).status == "validating"
    server.clock.advance(100)
    batch = retrieved(client, batch, 3)
    assert (batch.status, *counts(batch)) == ("in_progress", 0, 0, 10)
    server.clock.advance(300)
    assert counts(retrieved(client, batch, 3)) == (3, 0, 10)
    assert server.bill.batch_completions == 3
    server.clock.advance(700)
    batch = retrieved(client, batch, 3)
    assert (batch.status, *counts(batch)) == ("finalizing", 10, 0, 10)
    server.clock.advance(60)
    batch = retrieved(client, batch)
    assert batch.status == "completed"
    assert batch.completed_at - batch.created_at == pytest.approx(1160, abs=5)


def test_by_the_clock_a_batch_goes_on_though_nobody_asks_after_it(server, client):
    server.batch_seconds = 600
    submit(client)
    server.clock.advance(600)
    assert [each.status for each in client.batches.list()] == ["completed"]
    submit(client)
    server.clock.advance(DAY)
    assert [each.status for each in client.batches.list()] == ["completed", "completed"]


def test_a_batch_expires_after_a_day_with_what_was_done(server, client):
    server.batch_seconds = 2 * DAY
    batch = submit(client)
    retrieved(client, batch)
    server.clock.advance(DAY)
    batch = finished(client, batch)
    assert (batch.status, *counts(batch)) == ("expired", 5, 5, 10)
    output, error = files_of(client, batch)
    assert sorted(ids(output) + ids(error)) == list(range(10))
    assert {line["response"] for line in error} == {None}
    assert {line["error"]["code"] for line in error} == {"batch_expired"}
    assert server.bill.batch_completions == len(output) == 5


def test_a_cancelled_batch_keeps_what_was_done(server, client):
    server.batch_seconds, server.cancelling_seconds = 1000, 300
    batch = submit(client)
    retrieved(client, batch)
    server.clock.advance(410)
    batch = client.batches.cancel(batch.id)
    assert (batch.status, batch.output_file_id) == ("cancelling", None)
    assert client.batches.cancel(batch.id).status == retrieved(client, batch).status == "cancelling"
    server.clock.advance(300)
    batch = retrieved(client, batch)
    assert (batch.status, *counts(batch)) == ("cancelled", 4, 0, 10)
    assert len(files_of(client, batch)[0]) == server.bill.batch_completions == 4
    refusal = refusal_of(client.batches.cancel, batch.id)
    assert refusal.status_code == 409
    assert "status 'cancelled'" in refusal.message


def test_a_batch_that_is_cancelled_at_once_has_no_files(server, client):
    batch = submit(client)
    client.batches.cancel(batch.id)
    batch = finished(client, batch)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)
    assert server.bill.batch_completions == 0


def test_batches_are_held_until_they_are_released(server, client):
    server.hold_batches = True
    batch = submit(client)
    assert [retrieved(client, batch).status for _ in range(3)] == ["in_progress"] * 3
    server.hold_batches = "finalizing"
    assert [retrieved(client, batch).status for _ in range(3)] == ["finalizing"] * 3
    server.release_batches()
    assert retrieved(client, batch).status == "completed"


def test_batches_are_listed_newest_first_a_page_at_a_time(server, client):
    made = [submit(client, 1).id for _ in range(5)][::-1]
    page = client.batches.list(limit=2)
    assert [each.id for each in page.data] == made[:2]
    assert page.has_more
    assert [each.id for each in client.batches.list(limit=2)] == made
    assert [each.id for each in client.batches.list(after=made[2])] == made[3:]
    assert {each.status for each in client.batches.list()} == {"validating"}
    assert refusal_of(client.batches.list, limit=101).status_code == 400
    assert len(server.violations) == 1
    assert refusal_of(client.batches.retrieve, "batch_no").status_code == 404


def test_too_many_enqueued_tokens_fail_a_batch_until_another_has_ended(server, client):
    first = retrieved(client, submit(client))
    tokens = server.batches[0].input.tokens
    server.enqueued_limit, server.hold_batches = 1234 * tokens // 1000, True
    failed = retrieved(client, submit(client))
    (problem,) = failed.errors.data
    assert (failed.status, problem.code, problem.line) == ("failed", "token_limit_exceeded", None)
    assert problem.message == (
        "Enqueued token limit reached for gpt-6-luna in organization org-fake."
        f" Limit: {server.enqueued_limit:,} enqueued tokens."
        " Please try again once some in_progress batches have been completed."
    )
    other = retrieved(client, create(client, [asking(0, model="gpt-6-sol")]))
    assert other.status == "in_progress"
    server.release_batches()
    finished(client, first)
    assert finished(client, submit(client)).status == "completed"
    server.enqueued_limit, server.enqueued_words = 3, "azure"
    (problem,) = finished(client, submit(client)).errors.data
    assert "surpassed the configured limit of 0.003K for the deployment 'gpt-6-luna'" in problem.message
    assert server.violations == []


def test_batches_an_hour_are_limited(server, client):
    server.batches_per_hour = 2
    submit(client, 1)
    server.clock.advance(1000)
    submit(client, 1)
    refusal = refusal_of(submit, client, 1)
    assert (refusal.status_code, refusal.code) == (429, "rate_limit_exceeded")
    assert int(refusal.response.headers["retry-after"]) == pytest.approx(2600, abs=3)
    server.clock.advance(2601)
    submit(client, 1)
    assert len(server.batches) == 3


def test_azure_has_the_same_files_and_batches(server):
    azure = openai.AzureOpenAI(
        azure_endpoint=server.root, api_version="2025-01-01", api_key="azure-key", max_retries=0
    )
    server.api_key = "azure-key"
    with azure:
        batch, output, _ = run(azure, 3)
        assert (batch.status, len(output)) == ("completed", 3)
        assert server.requests[-1].path.startswith("/openai/files/")
        with openai.OpenAI(base_url=f"{server.root}/openai/v1", api_key="azure-key") as newer:
            assert [each.id for each in newer.batches.list()] == [batch.id]
        server.api_key = "another"
        assert refusal_of(submit, azure).status_code == 401


def test_an_unknown_address_is_404(server, client):
    assert refusal_of(client.post, "/batches/batch_1/restart", cast_to=object).status_code == 404
    assert refusal_of(client.delete, "/batches", cast_to=object).status_code == 404


def test_faults_by_a_rows_text_hit_the_rows_of_a_batch(server, client):
    server.fault("bug 1", faults.REFUSAL)
    server.fault("bug 2", faults.CONTEXT_LENGTH)
    server.fault("bug 3", faults.INTERNAL)
    server.fault("bug 4", faults.RESET_AFTER)
    server.fault("bug 5", faults.ERROR_IN_200)
    server.fault("bug 6", faults.outside("neither"))
    server.fault("bug 7", faults.HTML_502)
    batch, output, error = run(client)
    said = {int(line["custom_id"], 16): line["response"] for line in [*output, *error]}
    assert sorted(ids(error)) == [2, 3, 4, 7]
    assert said[1]["body"]["choices"][0]["message"]["refusal"]
    assert said[2]["body"]["error"]["code"] == "context_length_exceeded"
    assert [said[i]["status_code"] for i in (1, 2, 3, 4, 5, 7)] == [200, 400, 500, 0, 200, 502]
    assert said[5]["body"]["error"]
    assert said[6]["body"]["choices"][0]["message"]["content"] == '{"label": "neither"}'
    assert isinstance(said[7]["body"], str)
    assert counts(batch) == (7, 3, 10)
    assert sum(server.bill.texts.values()) == 5


def test_settings_of_the_model_hold_in_batches(server, client):
    server.answer = lambda text, body: f"about {text}"
    server.refuse_logprobs = True
    batch = finished(client, create(client, [asking(0), asking(1, logprobs=True)]))
    output, error = files_of(client, batch)
    assert output[0]["response"]["body"]["choices"][0]["message"]["content"] == "about bug 0"
    assert error[0]["response"]["body"]["error"]["param"] == "logprobs"


def test_a_storm_hits_rows_the_same_way_again(server, client):
    server.storm(0.3, seed=4)
    first = sorted(ids(run(client, 40)[2]))
    server.storm(0.3, seed=4)
    assert sorted(ids(run(client, 40)[2])) == first
    assert 3 < len(first) < 20


def test_what_crashes_while_rows_are_answered_breaks_the_test():
    def broken(text, body):
        raise ZeroDivisionError("in the answer")

    server = FakeOpenAI(answer=broken)
    server.__enter__()
    with openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client:
        batch = retrieved(client, submit(client))
        assert refusal_of(client.batches.retrieve, batch.id).status_code == 500
    with pytest.raises(ZeroDivisionError, match="in the answer"):
        server.__exit__(None)


# --- faults of requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(name for name, fault in NAMED.items() if isinstance(fault, OnRequest))
)
def test_a_faulty_request_fails_as_often_as_its_fault_says_and_is_done_or_not(server, client, name):
    fault = NAMED[name]
    calls = {
        "upload": lambda: upload(client, [asking(0)]),
        "create": lambda: create(client, [asking(0)]),
        "retrieve": lambda: retrieved(client, batch),
        "list": client.batches.list,
        "cancel": lambda: client.batches.cancel(batch.id),
        "content": lambda: client.files.content(finished(client, batch).output_file_id).read(),
        "delete": lambda: client.files.delete(batch.input_file_id),
    }
    batch = submit(client)
    batches, uploads = len(server.batches), len(server.files)
    server.batch_fault(name)
    client = client.with_options(timeout=0.1)
    for _ in range(fault.times or 3):
        expected = openai.APIConnectionError if fault.fault.transport != "whole" else openai.APIStatusError
        with pytest.raises(expected) as caught:
            calls[fault.operation]()
        if isinstance(caught.value, openai.APIStatusError):
            assert caught.value.status_code == fault.fault.status
    if name.endswith("_exists"):
        assert len(server.batches) == batches + (fault.operation == "create")
        assert len(server.files) == uploads + (fault.operation in ("upload", "create"))
        assert server.batches[0].status == ("cancelling" if fault.operation == "cancel" else "validating")
    elif fault.operation != "content":
        assert len(server.batches) == batches
    if fault.times is not None:
        assert calls[fault.operation]()


def test_a_download_that_is_cut_has_told_its_length(server, client):
    batch = finished(client, submit(client))
    server.batch_fault("content_cut", match="output")
    with pytest.raises(openai.APIConnectionError):
        client.files.content(batch.output_file_id)
    assert len(raw_lines(client, batch.output_file_id)) == 10


def test_a_fault_of_a_request_can_be_for_one_file_or_batch(server, client):
    server.batch_fault(OnRequest(operation="create", fault=faults.UNAUTHORIZED), match="shard 2")
    submit(client, metadata={"shard": "shard 1"})
    assert refusal_of(submit, client, metadata={"shard": "shard 2"}).status_code == 401
    server.batch_fault("upload_500", match="second")
    upload(client, [], "first.jsonl")
    assert refusal_of(upload, client, [], "second.jsonl").status_code == 500
    server.batch_fault("retrieve_500", match=lambda n, _name: n == 1)
    batch = submit(client)
    retrieved(client, batch)
    assert refusal_of(client.batches.retrieve, batch.id).status_code == 500
    retrieved(client, batch)


def test_an_unknown_fault_is_refused(server):
    with pytest.raises(ValueError, match="no batch fault 'misssing'"):
        server.batch_fault("misssing")


# --- faults in a batch's course -----------------------------------------------------------------------


def test_a_batch_can_fail_for_the_enqueued_limit_and_then_succeed(server, client):
    server.batch_fault("token_limit")
    server.batch_fault("token_limit_azure")
    first = finished(client, submit(client))
    assert (first.status, first.errors.data[0].code) == ("failed", "token_limit_exceeded")
    assert "Limit: 2,000,000 enqueued tokens" in first.errors.data[0].message
    assert "limit of 30K for" in finished(client, submit(client)).errors.data[0].message
    assert finished(client, submit(client)).status == "completed"


def test_a_good_file_can_be_rejected(server, client):
    server.batch_fault("rejected", times=1)
    server.batch_fault("rejected_whole")
    batch = finished(client, submit(client))
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("invalid_json_line", 1)
    batch = finished(client, submit(client))
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("empty_file", None)
    assert server.violations == []


@pytest.mark.parametrize(("name", "done"), [("expired_half", 5), ("expired_none", 0)])
def test_a_batch_can_expire_without_the_clock(server, client, name, done):
    server.batch_fault(name)
    batch, output, error = run(client)
    assert (batch.status, len(output), len(error)) == ("expired", done, 10 - done)
    assert (batch.output_file_id is None) == (done == 0)
    assert server.bill.batch_completions == done
    assert run(client)[0].status == "completed"


def test_a_batch_can_stall_until_it_expires_or_is_cancelled(server, client):
    server.batch_fault("stall", times=2)
    batch, other = submit(client), submit(client)
    server.clock.advance(DAY - 60)
    batch = retrieved(client, batch, 5)
    assert (batch.status, *counts(batch)) == ("in_progress", 0, 0, 10)
    client.batches.cancel(other.id)
    assert finished(client, other).status == "cancelled"
    server.clock.advance(60)
    assert finished(client, batch).status == "expired"


def test_finalizing_can_take_long(server, client):
    server.batch_fault("long_finalizing")
    batch = retrieved(client, submit(client), 5)
    assert (batch.status, *counts(batch)) == ("finalizing", 10, 0, 10)
    assert batch.output_file_id is None
    server.clock.advance(600)
    assert retrieved(client, batch).status == "completed"


def test_a_batch_can_be_complete_when_the_cancelling_arrives(server, client):
    server.batch_fault("cancel_race")
    batch = retrieved(client, submit(client))
    assert refusal_of(client.batches.cancel, batch.id).status_code == 409
    batch = retrieved(client, batch)
    assert (batch.status, *counts(batch)) == ("completed", 10, 0, 10)


def test_the_output_can_be_in_reverse_order(server, client):
    server.batch_fault("reversed")
    assert ids(run(client)[1]) == list(range(10))[::-1]
    server.clear_faults()
    server.batch_fault(Course(order="given"))
    assert ids(run(client)[1]) == list(range(10))


@pytest.mark.parametrize(("name", "status"), [("all_failed", 400), ("all_429", 429)])
def test_all_rows_can_fail_which_leaves_no_output_file(server, client, name, status):
    server.batch_fault(name)
    batch, _, error = run(client)
    assert (batch.status, batch.output_file_id, *counts(batch)) == ("completed", None, 0, 10, 10)
    assert statuses(error) == {status: 10}
    assert server.bill.batch_completions == 0


def test_all_rows_can_be_missing_which_leaves_no_file_at_all(server, client):
    server.batch_fault("all_missing")
    batch = finished(client, submit(client))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("completed", None, None)
    assert (counts(batch), server.bill.batch_completions) == ((10, 0, 10), 0)


# --- faults in what is told of a batch ----------------------------------------------------------------


def test_an_unknown_status_is_told_for_some_polls(server, client):
    server.batch_fault("unknown_status")
    batch = submit(client)
    told = [retrieved(client, batch).status for _ in range(3)]
    assert told == ["paused", "paused", "completed"]


def test_counts_can_lie_or_stand_still_or_be_left_out(server, client):
    server.batch_fault("none_failed")
    server.fault("bug 1", faults.INTERNAL, times=1)
    batch, _, error = run(client)
    assert (counts(batch), ids(error)) == ((10, 0, 10), [1])
    server.clear_faults()
    server.batch_fault("counts_frozen")
    batch = submit(client)
    assert [counts(retrieved(client, batch))[0] for _ in range(3)] == [0, 0, 10]
    server.clear_faults()
    server.batch_fault("no_counts")
    assert retrieved(client, batch).request_counts is None


def test_metadata_can_be_dropped(server, client):
    server.batch_fault("metadata_dropped")
    batch = submit(client, metadata={"run": "r_1"})
    assert batch.metadata is None
    assert [each.metadata for each in client.batches.list()] == [None]
    assert server.batches[0].metadata == {"run": "r_1"}


# --- faults of lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "completed", "billed", "in_output", "in_error"),
    [
        ("missing", 10, 9, 9, {}),
        ("doubled", 10, 10, 11, {}),
        ("status_0", 10, 9, 9, {0: 1}),
        ("error_in_200", 10, 9, 10, {}),
        ("error_in_output", 9, 9, 10, {}),
        ("bad_request", 9, 9, 9, {400: 1}),
        ("rate_limited", 9, 9, 9, {429: 1}),
        ("server_error", 9, 9, 9, {500: 1}),
        ("vllm", 9, 9, 10, {}),
    ],
)
def test_a_line_can_be_another(server, client, name, completed, billed, in_output, in_error):
    server.batch_fault(name)
    batch, output, error = run(client)
    assert counts(batch)[0] == completed
    assert (server.bill.batch_completions, len(output), statuses(error)) == (billed, in_output, in_error)
    seen = Counter(ids([*output, *error]))
    assert len(seen) == (9 if name == "missing" else 10)
    assert max(seen.values()) == (2 if name == "doubled" else 1)
    assert run(client)[0].request_counts.completed == 10


def test_a_doubled_line_says_something_else(server, client):
    server.batch_fault("doubled", match="bug 3")
    _, output, _ = run(client)
    contents = [
        line["response"]["body"]["choices"][0]["message"]["content"] for line in output if ids([line]) == [3]
    ]
    assert list(map(json.loads, contents)) == [{"label": "bug"}, {"label": "praise"}]


def test_an_error_in_a_line_has_the_shape_of_its_provider(server, client):
    server.batch_fault("error_in_200", match="bug 1")
    server.batch_fault("error_in_output", match="bug 2")
    server.batch_fault("vllm", match="bug 3")
    _, output, _ = run(client)
    said = dict(zip(ids(output), output, strict=True))
    assert (said[1]["response"]["status_code"], set(said[1]["response"]["body"])) == (200, {"error"})
    assert (said[2]["response"]["status_code"], said[2]["error"]) == (400, None)
    assert said[3]["error"]["code"] == 400
    assert "body" not in said[3]["response"]


def test_a_line_can_be_no_json_or_no_object(server, client):
    server.batch_fault("not_json", match="bug 4")
    server.batch_fault("not_object", match="bug 5")
    server.batch_fault("blank", match="bug 6")
    lines = raw_lines(client, finished(client, submit(client)).output_file_id)
    (broken,) = (line for line in lines if line and not line.rstrip().endswith((b"}", b'"ok"')))
    assert f'"custom_id":"{key(4)}"'.encode() in broken
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(broken)
    assert (lines.count(b'"ok"'), lines.count(b""), len(lines)) == (1, 1, 11)
    assert sum(line.endswith(b"\r") for line in lines) == 1
    assert server.bill.batch_completions == 8


def test_the_last_line_can_be_cut(server, client):
    server.batch_fault("truncated")
    content = client.files.content(finished(client, submit(client)).output_file_id).read()
    *whole, last = content.split(b"\n")
    assert len([orjson.loads(line) for line in whole]) == server.bill.batch_completions == 9
    assert b'"custom_id"' in last
    assert not last.endswith(b"}")


def test_separators_in_strings_are_raw(server, client):
    server.batch_fault("separators")
    content = client.files.content(finished(client, submit(client)).output_file_id).read()
    assert len(content.split(b"\n")) == 11 < len(content.decode().splitlines())
    server.clear_faults()
    batch = finished(client, create(client, [asking(0, "a\u2028b\x85c", response_format={"type": "text"})]))
    assert "echo: a\u2028b\x85c" in client.files.content(batch.output_file_id).read().decode()


def test_a_lines_fault_hits_its_text_each_time_or_as_often_as_told(server, client):
    server.batch_fault("missing", match="bug 3")
    assert [len(run(client)[1]) for _ in range(2)] == [9, 9]
    server.clear_faults()
    server.batch_fault("missing", times=4)
    assert [len(run(client)[1]) for _ in range(2)] == [6, 10]
    server.batch_fault(OnLine(spoil=lambda _line, _body: b"{}\n", times=2))
    assert [sum(line == {} for line in run(client)[1]) for _ in range(2)] == [2, 0]


def test_errors_of_an_own_kind_can_be_told(server, client):
    server.batch_fault(Course(errors=[batch_faults.over_limit(90_000, "gpt-9")]))
    (problem,) = finished(client, submit(client)).errors.data
    assert "for gpt-9 in" in problem.message
    assert "Limit: 90,000 enqueued" in problem.message


# --- as a process -------------------------------------------------------------------------------------


def call(url, data=None):
    with urllib.request.urlopen(url, data and json.dumps(data).encode(), timeout=5) as reply:
        return json.loads(reply.read())


def test_a_process_tells_of_its_batches(tmp_path):
    port_file = tmp_path / "port"
    command = [sys.executable, SCRIPT, "--port-file", port_file, "--set", "batch_seconds=100"]
    process = subprocess.Popen(command)
    try:
        while not port_file.exists():
            assert process.poll() is None
            time.sleep(0.01)
        root = f"http://127.0.0.1:{port_file.read_text()}"
        with openai.OpenAI(base_url=f"{root}/v1", api_key="k", max_retries=0) as client:
            call(f"{root}/__set", {"batch_fault": {"name": "create_500_exists"}})
            assert refusal_of(submit, client, 2).status_code == 500
            call(f"{root}/__set", {"batch_fault": {"name": "missing", "match": "bug 1"}, "advance": 100})
            (batch,) = call(f"{root}/__batches")
            assert (batch["status"], batch["custom_ids"]) == ("validating", [key(0), key(1)])
            (found,) = client.batches.list()
            assert (found.id, found.status) == (batch["id"], "completed")
        bill = call(f"{root}/__bill")
        assert (bill["batches"], bill["batch_completions"], bill["batch_rows"]) == (1, 1, {key(0): 1})
        files = [(file["purpose"], file["deleted"]) for file in call(f"{root}/__files")]
        assert files == [("batch", False), ("batch_output", False)]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_thousands_of_rows_are_answered_in_seconds(server, client):
    begun = time.process_time()
    batch = finished(client, submit(client, 4000))
    assert counts(batch) == (4000, 0, 4000)
    assert server.bill.batch_completions == len(server.bill.batch_rows) == 4000
    within(time.process_time() - begun, 4)  # 0.3 s on an idle machine
    assert server.violations == []
