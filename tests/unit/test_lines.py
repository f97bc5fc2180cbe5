"""Lines of batch files: every shape that comes back, what is found before an upload, how requests are cut."""

from __future__ import annotations

import itertools
import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core import errors
from pandas_llm.core.errors import BatchError, ServerError
from pandas_llm.core.lines import (
    Limits,
    Line,
    check_lines,
    cut,
    input_line,
    is_retryable,
    problem_of,
    read_line,
    url_of,
)
from pandas_llm.core.refusals import Words
from pandas_llm.core.types import Question
from pandas_llm.core.wire import CHAT, Manner, make_wire, message_of

KEY = bytes(range(16))
ID = KEY.hex()
URL = "/v1/chat/completions"
BODY = {"choices": [{"message": {"content": "bug"}, "finish_reason": "stop"}], "model": "m"}


def line_of(response=None, error=None, custom_id=ID, **more):
    return json.dumps(
        {"id": "r", "custom_id": custom_id, "response": response, "error": error, **more}
    ).encode()


def response_of(status=200, body=BODY, **more):
    return {"status_code": status, "request_id": "req_1", "body": body, **more}


def error_of(raw):
    problem = problem_of(read_line(raw))
    assert problem is not None
    return problem


# The shapes of section "output and error files" --------------------------------------------------------


def test_an_answer_is_to_be_read_as_a_reply():
    line = read_line(line_of(response_of()))
    assert line == Line(KEY, ID, 200, BODY, None, "req_1")
    assert problem_of(line) is None
    assert message_of(line.body, request_id=line.request_id).content == "bug"


def test_an_expired_request_is_asked_again():
    said = "This request could not be executed before the completion window expired."
    line = read_line(line_of(None, {"code": "batch_expired", "message": said}))
    assert (line.key, line.status, line.body) == (KEY, None, None)
    problem = problem_of(line)
    assert type(problem) is BatchError
    assert str(problem) == f"The batch has no answer to this request: '{said}' (batch_expired)"
    assert is_retryable(problem)
    assert str(error_of(line_of(None, {"code": "batch_cancelled"}))).endswith(": no text (batch_cancelled)")


REFUSALS = [
    (400, {"message": "Bad schema.", "type": "invalid_request_error"}, "BadRequestError"),
    (400, {"message": "Too long.", "code": "context_length_exceeded"}, "ContextLengthError"),
    (400, {"message": "No.", "code": "content_policy_violation"}, "ContentFilterError"),
    (401, {"message": "No key."}, "AuthError"),
    (403, {"message": "No.", "code": "content_filter"}, "ContentFilterError"),
    (404, {"message": "No such model.", "code": "model_not_found"}, "ModelError"),
    (429, {"message": "Too fast.", "code": "rate_limit_exceeded"}, "RateLimitError"),
    (429, {"message": "No money.", "code": "insufficient_quota"}, "QuotaError"),
    (429, {"message": "Request too large for m."}, "BadRequestError"),
    (500, {"message": "Oops."}, "ServerError"),
    (503, {"message": "Busy.", "code": "server_is_overloaded"}, "ServerError"),
    (408, {"message": "Slow."}, "ServerError"),
]


@pytest.mark.parametrize(("status", "error", "name"), REFUSALS)
def test_a_refused_request_is_what_it_is_in_concurrent_mode(status, error, name):
    problem = error_of(line_of(response_of(status, {"error": error})))
    assert type(problem) is getattr(errors, name)
    assert str(problem) == f"HTTP {status}: {error['message']!r}"
    assert problem.status == status
    assert problem.request_id == "req_1"
    assert is_retryable(problem) == (name in ("RateLimitError", "ServerError"))


def test_status_0_is_a_lost_request():
    problem = error_of(line_of({"status_code": 0, "request_id": "", "body": {}}))
    assert type(problem) is BatchError
    assert str(problem) == "The batch lost this request: its line has status 0 and no body."
    assert read_line(line_of({"status_code": 0, "request_id": "", "body": {}})).request_id is None


@pytest.mark.parametrize("cut_at", [30, 60, 100, 150])
def test_of_a_cut_line_at_least_the_id_is_read(cut_at):
    whole = line_of(response_of())
    line = read_line(whole[:cut_at])
    assert (line.key, line.custom_id) == ((KEY, ID) if cut_at > 30 else (None, None))
    problem = problem_of(line)
    assert type(problem) is BatchError
    assert "its line isn't a JSON object (parse_error)" in str(problem)
    assert "bug" not in str(problem)


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"null", b"5", b'"x"', b"[1]", b"\xff\xfe", b"{" * 5000, b"[" * 5000]
)
def test_a_line_that_is_no_object_names_nobody(raw):
    line = read_line(raw)
    assert line == Line(
        None, None, None, None, Words("its line isn't a JSON object", "parse_error", None), None
    )
    assert type(problem_of(line)) is BatchError


def test_an_id_is_rescued_from_what_holds_an_object_but_is_none():
    assert read_line(b"[" + line_of(response_of()) + b"]").key == KEY
    assert read_line(line_of(response_of()) + b"}").key == KEY


def test_an_id_within_a_text_is_not_taken_for_the_lines_own():
    body = {"choices": [{"message": {"content": '{"custom_id": "' + "f" * 32 + '"}'}}]}
    raw = json.dumps({"response": response_of(body=body), "custom_id": ID}).encode()
    assert read_line(raw[:-1]).key == KEY


def test_vllm_gives_the_error_without_a_body():
    error = {
        "object": "error",
        "message": "This model's maximum context length is 8.",
        "type": "BadRequestError",
    }
    response = {"status_code": 400, "request_id": "vllm-batch-1", "body": None}
    for shape in (error, {"error": error}):
        problem = error_of(line_of(response, shape))
        assert type(problem) is errors.ContextLengthError
        assert problem.request_id == "vllm-batch-1"
    problem = error_of(line_of(response, "No such thing."))
    assert type(problem) is errors.BadRequestError
    assert str(problem) == "HTTP 400: 'No such thing.'"


def test_an_error_that_names_its_status_needs_no_response():
    problem = error_of(line_of(None, {"message": "Bad.", "code": 422}))
    assert type(problem) is errors.BadRequestError
    assert problem.status == 422
    assert (
        type(error_of(line_of(None, {"message": "Bad.", "type": "invalid_request_error"})))
        is errors.BadRequestError
    )


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ({"message": "Bad.", "type": "invalid_request_error", "code": None}, "BadRequestError"),
        ({"message": "Bad.", "code": 400}, "BadRequestError"),
        ({"message": "Slow.", "code": "429"}, "RateLimitError"),
        ({"message": "Hm."}, "ServerError"),
        ("Hm.", "ServerError"),
    ],
)
def test_a_refusal_inside_a_200_is_no_answer(error, name):
    problem = error_of(line_of(response_of(200, {"error": error})))
    assert type(problem) is getattr(errors, name)


def test_a_200_without_choices_is_found_by_the_reader_of_replies():
    line = read_line(line_of(response_of(200, {"object": "chat.completion"})))
    assert problem_of(line) is None
    with pytest.raises(ServerError, match="no choices"):
        message_of(line.body, request_id=None)


def test_an_answer_with_a_stray_error_beside_it_is_an_answer():
    # It was billed; whether it can be used, its own words say.
    assert problem_of(read_line(line_of(response_of(), {"message": "late"}))) is None
    assert problem_of(read_line(line_of(response_of(), {}))) is None


@pytest.mark.parametrize("status", ["200", 200.0, None])
def test_a_status_of_another_type_or_none_beside_a_body_is_no_loss(status):
    assert problem_of(read_line(line_of(response_of(status)))) is None


@pytest.mark.parametrize("status", [0, 102, 204, 302, -1, 999, 10**30, True, "no", {}, None])
@pytest.mark.parametrize("body", [None, {}, [], "", 5])
def test_an_odd_status_without_a_body_may_be_asked_again(status, body):
    problem = error_of(line_of(response_of(status, body)))
    assert type(problem) is BatchError
    assert is_retryable(problem)


def test_a_proxys_words_instead_of_a_body_are_shown():
    assert str(error_of(line_of(response_of(502, "Bad gateway")))) == "HTTP 502: 'Bad gateway'"
    assert str(error_of(line_of(response_of(502, None)))) == "HTTP 502: no text"


def test_a_line_with_neither_response_nor_error_is_a_lost_request():
    assert "its line has no response" in str(error_of(line_of(None)))
    assert type(error_of(b"{}")) is BatchError


@pytest.mark.parametrize("odd", [None, 5, [], {}, True, "x", [{}], {"a": None}])
def test_nothing_odd_raises(odd):
    for name in ("custom_id", "response", "error"):
        line = read_line(json.dumps({**json.loads(line_of(response_of())), name: odd}).encode())
        problem = problem_of(line)
        assert problem is None or str(problem)
    for name in ("status_code", "body", "request_id"):
        line = read_line(line_of({**response_of(), name: odd}))
        problem = problem_of(line)
        assert problem is None or str(problem)


@given(st.binary(max_size=200))
def test_no_bytes_raise(raw):
    line = read_line(raw)
    assert line.key is None
    assert problem_of(line) is not None


# Texts and ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x1c", "☃", "😀"])
def test_signs_that_other_parsers_split_at_stay_in_the_text(char):
    body = {"choices": [{"message": {"content": f"a{char}b"}}]}
    raw = orjson.dumps({"custom_id": ID, "response": response_of(body=body), "error": None})
    assert problem_of(read_line(raw)) is None
    assert read_line(raw).body == body


def test_half_characters_and_numbers_that_are_too_big_are_mended():
    raw = (
        b'\xef\xbb\xbf{"custom_id":"%b","response":{"status_code":200,"request_id":"r","body":{"choices":'
        b'[{"message":{"content":"a\\ud800b \\ud83d\\ude00"}}],"big":%d,"huge":%b,"inf":Infinity}},'
        b'"error":null}\r'
    ) % (ID.encode(), 2**70, b"9" * 400)
    line = read_line(raw)
    assert problem_of(line) is None
    assert line.key == KEY
    assert line.body["choices"][0]["message"]["content"] == "a\ufffdb 😀"
    assert (line.body["big"], line.body["huge"], line.body["inf"]) == (float(2**70), None, None)
    assert orjson.loads(orjson.dumps(line.body)) == line.body


def test_bytes_that_are_no_utf_8_cost_one_character():
    raw = line_of(response_of()).replace(b'"bug"', b'"b\xffg"')
    assert read_line(raw).body["choices"][0]["message"]["content"] == "b\ufffdg"


@pytest.mark.parametrize(
    "custom_id",
    ["request-1", "", "f" * 31, "f" * 33, "F" * 32, "g" * 32, "f " * 16, "１" * 32, "f" * 31 + "\n"],
)
def test_an_id_that_is_none_of_ours_is_kept_as_it_is(custom_id):
    line = read_line(line_of(response_of(), custom_id=custom_id))
    assert (line.key, line.custom_id) == (None, custom_id)
    assert problem_of(line) is None


# Before the upload -------------------------------------------------------------------------------------

WIRE = make_wire(Question("https://api.openai.com/v1", CHAT, "generate", "m", "Say.", None), Manner())


def input_of(n=0, url=URL, **body):
    given = json.loads(WIRE.body(f"text {n}\u2028\n")) | body
    return input_line(n.to_bytes(16, "big"), url, orjson.dumps(given))


def check(lines, model="m", max_requests=10, max_bytes=10_000):
    check_lines(lines, model=model, url=URL, max_requests=max_requests, max_bytes=max_bytes)


def test_an_input_line_carries_the_bytes_of_a_concurrent_request():
    body = WIRE.body("a\nb\u2028☃")
    line = input_line(KEY, url_of(CHAT), body)
    assert orjson.loads(line) == {"custom_id": ID, "method": "POST", "url": URL, "body": orjson.loads(body)}
    assert body in line
    assert b"\n" not in line


def test_a_good_file_passes_with_and_without_line_ends():
    lines = [input_of(n) for n in range(3)]
    size = sum(map(len, lines)) + 3
    check(lines, max_requests=3, max_bytes=size)
    check([line + b"\n" for line in lines], max_requests=3, max_bytes=size)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "isn't JSON"),
        (b"", "isn't JSON"),
        (b"[]", "isn't one JSON object on one line"),
        (input_of(1).replace(b",", b",\n", 1), "isn't one JSON object on one line"),
        (input_of(0), "has the custom_id of an earlier one ('" + "0" * 32),
        (b'{"method":"POST"}', "has no custom_id of 1 to 64 characters"),
        (input_of(1).replace(b'"custom_id":"', b'"custom_id":"' + b"0" * 33), "has no custom_id"),
        (input_of(1, url="/v1/embeddings"), "isn't a POST to /v1/chat/completions"),
        (input_of(1).replace(b"POST", b"GET"), "isn't a POST"),
        (input_of(1, model="n"), "asks model 'n', the others 'm': one batch has one model"),
        (b'{"custom_id":"a","method":"POST","url":"%b","body":5}' % URL.encode(), "asks model None"),
        (input_of(1, stream=True), "asks for a stream"),
    ],
)
def test_a_bad_line_is_named_before_the_upload(line, words):
    with pytest.raises(BatchError) as caught:
        check([input_of(0), line])
    assert str(caught.value).startswith("Line 2 of the batch file ")
    assert words in str(caught.value)
    assert str(caught.value).endswith("Nothing was uploaded.")


def test_a_file_over_a_limit_is_refused():
    lines = [input_of(n) for n in range(3)]
    with pytest.raises(BatchError, match=r"Line 3 .* one more than a batch may hold \(2 requests\)"):
        check(lines, max_requests=2)
    size = sum(map(len, lines)) + 3
    with pytest.raises(BatchError, match=rf"Line 3 .* over the {size - 1:,} bytes"):
        check(lines, max_bytes=size - 1)


def test_an_empty_file_is_refused():
    with pytest.raises(BatchError, match="has no line"):
        check([])


# Cutting -----------------------------------------------------------------------------------------------


def parts(sizes, limits):
    too_big = []
    return list(cut(sizes, limits, too_big.append)), too_big


SIZES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)
LIMITS = st.builds(
    Limits,
    st.integers(1, 8),
    st.integers(1, 40),
    st.one_of(st.just(math.inf), st.integers(0, 40).map(float)),
)


@given(SIZES, LIMITS)
def test_every_request_is_in_one_batch_in_order_and_no_batch_is_over_a_limit(sizes, limits):
    numbered = [(code, size, tokens) for code, (size, tokens) in enumerate(sizes)]
    batches, too_big = parts(iter(numbered), limits)
    assert too_big == [code for code, size, _ in numbered if size > limits.max_bytes]
    assert [code for batch in batches for code in batch] == [
        code for code, size, _ in numbered if size <= limits.max_bytes
    ]
    for batch in batches:
        assert 1 <= len(batch) <= limits.max_requests
        assert sum(sizes[code][0] for code in batch) <= limits.max_bytes
        assert len(batch) == 1 or sum(sizes[code][1] for code in batch) <= limits.max_tokens


@given(SIZES, LIMITS)
def test_a_batch_ends_only_where_the_next_request_would_be_too_much(sizes, limits):
    numbered = [(code, size, tokens) for code, (size, tokens) in enumerate(sizes)]
    batches, _ = parts(numbered, limits)
    for batch, after in itertools.pairwise(batches):
        more = [*batch, after[0]]
        assert (
            len(more) > limits.max_requests
            or sum(sizes[code][0] for code in more) > limits.max_bytes
            or sum(sizes[code][1] for code in more) > limits.max_tokens
        )


def test_codes_need_not_be_consecutive():
    assert parts([(7, 1, 1), (2, 1, 1), (9, 99, 1)], Limits(1, 10)) == ([[7], [2]], [9])


@pytest.mark.parametrize("limits", [(0, 1), (1, 0), (1, 1, -1.0), (1, 1, math.nan)])
def test_limits_that_let_nothing_through_can_not_be_made(limits):
    with pytest.raises(ValueError, match="at least one request"):
        Limits(*limits)
