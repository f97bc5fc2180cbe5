"""From a message to values: the task's reader, and the confidence behind them."""

from __future__ import annotations

import math

import pytest

from pandas_llm.core.answers import values_of
from pandas_llm.core.errors import SchemaMismatchError
from pandas_llm.core.wire import message_of
from pandas_llm.verbs import classify, generate


def message(content, logprobs=None):
    choice = {"message": {"content": content}, "finish_reason": "stop", "logprobs": logprobs}
    return message_of({"choices": [choice]}, request_id=None)


def test_a_reply_becomes_the_fields_values():
    task = classify.task(["bug", "praise"], output="label")
    assert values_of(message('{"label":"bug"}'), task) == ["bug"]
    assert values_of(message("Hello"), generate.task("Translate.", output="out")) == ["Hello"]


def test_the_confidence_is_the_last_value():
    task = classify.task(["bug", "praise"], confidence=True, output="label")
    tokens = [
        {"token": '{"label":"', "logprob": 0.0, "top_logprobs": []},
        {
            "token": "bug",
            "logprob": math.log(0.8),
            "top_logprobs": [
                {"token": "bug", "logprob": math.log(0.8)},
                {"token": "praise", "logprob": math.log(0.2)},
            ],
        },
        {"token": '"}', "logprob": 0.0, "top_logprobs": []},
    ]
    label, confidence = values_of(message('{"label":"bug"}', {"content": tokens}), task)
    assert (label, confidence) == ("bug", pytest.approx(0.8))
    assert values_of(message('{"label":"bug"}'), task) == ["bug", None]


def test_a_reply_that_does_not_fit_says_why():
    task = classify.task(["bug", "praise"], output="label")
    with pytest.raises(SchemaMismatchError, match="label"):
        values_of(message('{"label":"bugs"}'), task)
