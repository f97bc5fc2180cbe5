"""A confidence is what the server's log-probabilities say, whatever the labels look like as tokens."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from fakes import faults
from fakes.answers import Token
from fakes.openai_server import Answer, FakeOpenAI

import pandas_llm


def classify(texts, labels, **options):
    frame = pd.DataFrame({"t": texts})
    return frame.llm.classify("t", labels, confidence=True, progress=False, **options)


CASES = {
    "two labels, a tenth lost": ({"bug": 0.8, "praise": 0.1}, 0.8 / 0.9),
    "labels that share their first tokens": ({"bug report": 0.6, "bug fix": 0.2, "praise": 0.1}, 0.6 / 0.9),
    "one label begins another": ({"bug": 0.7, "bug fix": 0.2, "praise": 0.05}, 0.7 / 0.95),
    "quotes and other scripts": ({'say "no"': 0.5, "größer": 0.3, "日本語": 0.1}, 0.5 / 0.9),
    "numbers": ({1: 0.5, 2: 0.3, 10: 0.2}, 0.5),
    "long labels": ({"classification of animals": 0.9, "classification of plants": 0.05}, 0.9 / 0.95),
}


@pytest.mark.parametrize(("likely", "expected"), CASES.values(), ids=CASES)
def test_the_confidence_is_what_the_log_probabilities_say(server: FakeOpenAI, likely, expected):
    server.label_probabilities = likely
    out = classify(["?"], list(likely))
    assert out["t_label"].tolist() == [next(iter(likely))]
    assert out["t_label_confidence"].tolist() == [pytest.approx(expected, rel=1e-3)]
    (seen,) = server.requests
    assert (seen.body["logprobs"], seen.body["top_logprobs"]) == (True, 20)
    again = classify(["?"], list(likely))
    assert again["t_label_confidence"].tolist() == out["t_label_confidence"].tolist()
    assert again["t_label_source"].tolist() == ["cache"]


def test_an_explanation_that_names_labels_doesnt_disturb(server: FakeOpenAI):
    server.label_probabilities = {"bug": 0.8, "praise": 0.1}
    out = classify(["praise"], ["praise", "bug"], explain=True)
    said = out["t_label_explanation"].iloc[0]
    assert "praise" in said
    assert out["t_label"].tolist() == ["praise"]
    assert out["t_label_confidence"].tolist() == [pytest.approx(0.1 / 0.9, rel=1e-3)]


def test_a_row_without_log_probabilities_has_none_and_the_others_have_theirs(server: FakeOpenAI):
    certain = (Token('{"label": "bug"}', math.log(0.9), {'{"label": "bug"}': math.log(0.9)}),)
    said = {
        "bare": Answer(content='{"label": "bug"}', logprobs=()),
        "other": Answer(content='{"label": "bug"}', logprobs=(Token("something else", -0.1),)),
        "whole": Answer(content='{"label": "bug"}', logprobs=certain),
    }
    server.answer = lambda text, body: said.get(text, Answer())
    out = classify([*said, "bug"], ["bug", "praise"])
    assert out["t_label"].tolist() == ["bug"] * 4
    assert out["t_label_confidence"].isna().tolist() == [True, True, False, False]


def test_log_probabilities_of_another_shape_cost_their_row_nothing_else(server: FakeOpenAI):
    token = {"token": '{"label":"bug"}', "logprob": -0.1}
    shapes = [{"top_logprobs": {"bug": -0.1}}, {"bytes": "bug"}, {"logprob": "-0.1"}, {"top_logprobs": 3}]
    for number, shape in enumerate(shapes):
        choice = {
            "message": {"content": '{"label":"bug"}'},
            "logprobs": {"content": [{**token, "top_logprobs": [token], **shape}]},
        }
        body = {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}
        server.fault(f"shape {number}", faults.Fault(body=json.dumps(body).encode()))
    out = classify([*(f"shape {n}" for n in range(len(shapes))), "bug"], ["bug", "praise"])
    assert out["t_label"].tolist() == ["bug"] * 5
    assert out["t_label_confidence"].isna().tolist() == [True] * 4 + [False]
    assert server.bill.completions == 5


def test_a_repaired_answers_confidence_is_that_of_the_repair(server: FakeOpenAI):
    server.label_probabilities = {"bug": 0.6, "praise": 0.2}
    server.fault(None, faults.outside(), times=1)
    out = classify(["bug"], ["bug", "praise"])
    assert out["t_label_confidence"].tolist() == [pytest.approx(0.75, rel=1e-3)]
    assert server.bill.completions == 2


def test_a_model_that_gives_none_is_said_once(server: FakeOpenAI):
    server.answer = lambda text, body: Answer(content='{"label": "bug"}', logprobs=())
    with pytest.warns(pandas_llm.errors.LLMWarning, match="gives no log-probabilities") as warned:
        out = classify(["a", "b"], ["bug", "praise"])
    assert len(warned) == 1
    assert out["t_label_confidence"].isna().all()
