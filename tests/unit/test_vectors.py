"""Embeddings on the wire: texts into a body, a reply into one vector a text, a bill into shares."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pandas_llm.core.errors import BadRequestError, ServerError
from pandas_llm.core.types import Question, Reply
from pandas_llm.core.vectors import (
    EMBEDDINGS,
    body,
    entries_of,
    floats,
    requests_for,
    shares,
    vector_text,
    vectors_of,
)
from pandas_llm.core.wire import Manner, body_maker, lesser_manner, message_of, messages_of, read_body

QUESTION = Question("https://api.example/v1", EMBEDDINGS, "embed", "m", "", None, {"dimensions": 2})


def reply_of(*entries, **more):
    return {"object": "list", "data": list(entries), "model": "m-1", **more}


def entry(index, vector):
    return {"object": "embedding", "index": index, "embedding": vector}


def test_a_body_holds_the_texts_as_they_are():
    texts = ["a ```", "\x00 \u2028", "ü🙂"]
    assert json.loads(body(QUESTION, texts)) == {
        "model": "m",
        "input": texts,
        "encoding_format": "base64",
        "dimensions": 2,
    }
    assert "encoding_format" not in json.loads(body(QUESTION, texts, base64=False))


def test_a_line_of_a_batch_is_about_one_text():
    assert json.loads(body_maker(QUESTION, Manner())("one"))["input"] == ["one"]
    assert messages_of(QUESTION, "one") == [{"role": "input", "content": "one"}]


def test_each_vector_belongs_to_the_text_its_index_names():
    found = vectors_of(reply_of(entry(2, [2.0]), entry(0, [0.5]), entry(1, [1.0])), 3)
    assert [floats(vector).tolist() for vector in found] == [[0.5], [1.0], [2.0]]


def test_a_list_of_numbers_is_the_base64_it_would_have_been():
    numbers = [0.1, -2.5, 1e-8]
    (plain,) = vectors_of(reply_of(entry(0, numbers)), 1)
    packed = base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()
    assert plain == packed == vector_text(numbers)
    assert vectors_of(reply_of(entry(0, packed)), 1) == [packed]


@pytest.mark.parametrize(
    "odd",
    ["", "AAA", "AAAA", "no base64!", [], [[1.0]], ["x"], [None], None, 5, {"a": 1}],
    ids=repr,
)
def test_what_is_no_vector_is_missing(odd):
    good = vector_text([1.0])
    assert vectors_of(reply_of(entry(0, good), entry(1, odd)), 2) == [good, None]


@pytest.mark.parametrize("index", [-1, 2, 10**30, "1", 1.0, True, None])
def test_an_index_that_names_no_text_is_nobodys(index):
    assert entries_of(reply_of(entry(index, [1.0])), 2) == [{}, {}]


def test_an_entry_without_index_stands_at_its_place_and_the_first_of_two_counts():
    found = vectors_of({"data": [{"embedding": [1.0]}, "odd", entry(0, [2.0])]}, 2)
    assert found == [vector_text([1.0]), None]
    assert vectors_of({"data": "odd"}, 1) == vectors_of({}, 1) == [None]


def test_the_message_of_one_text_is_its_vector():
    said = reply_of(entry(0, [1.0]), usage={"prompt_tokens": 7, "total_tokens": 7})
    message = message_of(said, request_id="r")
    assert message.content == vector_text([1.0])
    assert (message.model, message.request_id, message.usage.input, message.usage.output) == (
        "m-1",
        "r",
        7,
        0,
    )
    assert message.problem is None
    with pytest.raises(ServerError, match="no embedding"):
        message_of(reply_of(), request_id=None)


def test_an_error_in_a_200_is_one():
    with pytest.raises(ServerError, match=r"An error in a 200: .*Overloaded"):
        read_body(Reply(200, {}, b'{"error": {"message": "Overloaded"}}', 0.0))


def test_a_server_that_does_not_know_base64_is_asked_for_numbers():
    error = BadRequestError("HTTP 400: Unknown parameter: 'encoding_format'.", status=400)
    manner = lesser_manner(error, Manner(), QUESTION)
    assert manner == Manner(base64=False)
    assert lesser_manner(error, manner, QUESTION) is None
    assert lesser_manner(BadRequestError("HTTP 400: too long", status=400), Manner(), QUESTION) is None


@given(st.integers(0, 10**7), st.lists(st.integers(1, 9_000), min_size=1, max_size=300))
def test_shares_add_up_and_are_as_the_weights_to_a_token(total, weights):
    parts = shares(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    assert all(abs(part - total * weight / whole) < 1 for part, weight in zip(parts, weights, strict=True))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_numbers_come_back_as_they_were(numbers):
    found = floats(vector_text(numbers))
    assert found.dtype == np.float32
    assert found.tolist() == numbers


@pytest.mark.parametrize(
    ("texts", "tokens", "requests"),
    [(0, 0, 0), (1, 4, 1), (2_048, 9_000, 1), (2_049, 9_000, 2), (10, 450_000, 3)],
)
def test_requests_are_counted_by_texts_and_by_tokens(texts, tokens, requests):
    assert requests_for(texts, tokens) == requests
