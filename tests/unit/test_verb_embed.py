"""What `embed` asks, of which model, and what it refuses; a function as a model."""

import asyncio
import functools
import json

import numpy as np
import pytest

from pandas_llm.core.errors import OptionsError, SchemaMismatchError
from pandas_llm.core.options import Options
from pandas_llm.core.types import Field, Question
from pandas_llm.core.vectors import EMBEDDINGS, body, vector_text, vectors_of
from pandas_llm.local.callable import CallableEndpoint, name_of
from pandas_llm.verbs import embed


def lengths(texts):
    return np.array([[len(text), 1.0] for text in texts])


def test_the_task_has_one_column_of_vectors_and_no_prompt():
    task = embed.task(output="v")
    assert task.fields == (Field("v", "vector"),)
    assert (task.system, task.schema, task.labels) == ("", None, ())
    vector = vector_text([1.0, 2.0])
    assert task.read(vector) == [vector]


@pytest.mark.parametrize("content", ["", "AAA=", "no base64", "Ünïcode"])
def test_what_is_no_vector_is_refused(content):
    with pytest.raises(SchemaMismatchError, match="no vector"):
        embed.task(output="v").read(content)


def test_the_model_is_the_calls_else_local_where_that_is_configured():
    assert embed.model_id(None, "gpt-6-luna") == "text-embedding-3-small"
    assert embed.model_id(None, "local") == "local"
    assert embed.model_id("text-embedding-3-large", "local") == "text-embedding-3-large"
    assert embed.model_id(lengths, "local") == "callable"


@pytest.mark.parametrize(
    ("options", "in_process", "words"),
    [
        ({"params": {"dimensions": 0}}, False, "dimensions is a whole number above 0; got 0"),
        ({"params": {"dimensions": "8"}}, False, "dimensions is a whole number"),
        ({"params": {"dimensions": True}}, False, "dimensions is a whole number"),
        ({"service_tier": "flex"}, False, "no tiers"),
        ({"params": {"dimensions": 8}}, True, "params can't hold 'dimensions'"),
        ({"mode": "batch"}, True, "leave mode='batch' out"),
        ({"client": object()}, True, "leave client= out"),
    ],
)
def test_options_that_vectors_have_not_are_refused(options, in_process, words):
    with pytest.raises(OptionsError, match=words):
        embed.check(Options(model="m", **options), in_process=in_process)


def test_the_wires_own_fields_are_no_params():
    for name in ("input", "encoding_format"):
        with pytest.raises(OptionsError, match=name):
            Options(model="m", params={name: 1})


# A function as a model --------------------------------------------------------------------------------


def test_a_function_is_known_by_its_name_and_its_code():
    assert name_of(lengths).startswith("callable:test_verb_embed.lengths@")

    def versions(code):
        space = {"__name__": "notebook"}
        exec(code, space)
        return name_of(space["model"])

    first = versions("def model(texts): return [[1.0] for text in texts]")
    assert versions("def model(texts):\n    return [[1.0] for text in texts]") == first
    assert versions("def model(texts): return [[2.0] for text in texts]") != first
    assert versions("def model(texts): return [[len(text)] for text in texts]") != first


class Model:
    def encode(self, texts):
        return lengths(texts)

    def __call__(self, texts):
        return lengths(texts)


@pytest.mark.parametrize(
    "nameless",
    [lambda texts: texts, functools.partial(lengths), Model(), Model().encode, Model],
    ids=["lambda", "partial", "object", "method", "class"],
)
def test_what_has_no_name_of_its_own_is_refused(nameless):
    with pytest.raises(OptionsError, match=r"def my_model\(texts\)"):
        name_of(nameless)


def asked(model, *texts):
    """What a function answers as an endpoint."""
    question = Question("local:", EMBEDDINGS, "embed", "callable:m", "", None)

    async def once():
        endpoint = CallableEndpoint(model, "callable:m")
        try:
            return await endpoint.send(EMBEDDINGS, body(question, texts), 5)
        finally:
            await endpoint.close()

    return asyncio.run(once())


def test_a_function_answers_as_a_server_would():
    reply = asked(lengths, "one", "three")
    said = json.loads(reply.body)
    assert vectors_of(said, 2) == [vector_text([3, 1]), vector_text([5, 1])]
    assert (said["model"], said["usage"]) == ("callable:m", {"prompt_tokens": 0, "total_tokens": 0})
    assert reply.headers["x-request-id"] == "callable-1"


def test_what_a_function_raises_is_a_refusal_that_shows_little_of_a_text():
    def failing(texts):
        raise KeyError("secret " * 50)

    reply = asked(failing, "one")
    assert reply.status == 400
    assert json.loads(reply.body)["error"]["message"].startswith("KeyError: ")
    assert len(reply.body) < 300


@pytest.mark.parametrize(
    "wrong",
    [
        lambda texts: [1.0, 2.0],
        lambda texts: lengths(texts)[:1],
        lambda texts: [[] for _ in texts],
        lambda texts: [[1.0], [1.0, 2.0]],
        lambda texts: None,
        lambda texts: ["one", "two"],
    ],
)
def test_a_function_that_gives_no_vector_a_text_ends_the_run(wrong):
    with pytest.raises(OptionsError, match="callable:m returned"):
        asked(wrong, "one", "two")
