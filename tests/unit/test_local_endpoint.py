"""The embedded model answers requests as the verbs and the wire write them, like any server."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from test_local_encoder import TEXTS, WORDS, write_tiny

from pandas_llm.core.confidence import confidence
from pandas_llm.core.types import Question, Reply, Task
from pandas_llm.core.wire import CHAT, Manner, make_wire, read_message
from pandas_llm.errors import BadRequestError, NeedsModelError, ServerError
from pandas_llm.local import encoder, weights, wire
from pandas_llm.local.encoder import Encoder
from pandas_llm.local.endpoint import LocalEndpoint, check, introduction
from pandas_llm.local.labels import prototypes
from pandas_llm.verbs import classify, generate

LABELS = ["bug", "question", "praise"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder))
    return encoder.load(weights.find())


def body_of(text: str, labels: Any = LABELS, *, params: Any = None, **asked: Any) -> bytes:
    return body_of_task(text, classify.task(labels, output="label", **asked), params)


def body_of_task(text: str, task: Task, params: Any = None) -> bytes:
    question = Question(
        "local:", CHAT, task.verb, "local/tiny", task.system, task.schema, params or {}, task.confidence
    )
    return make_wire(question, Manner()).body(text)


class Watched(LocalEndpoint):
    """The endpoint, with the sizes of its batches and the questions it prepared written down."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.prepared = 0

    def _answer(self, waiting: Any) -> Any:
        self.batches.append(len(waiting))
        return super()._answer(waiting)

    def _remark(self, *known: Any) -> None:
        self.prepared += 1
        super()._remark(*known)


def ask(*bodies: bytes, path: str = wire.CHAT, endpoint: LocalEndpoint | None = None) -> list[Reply]:
    async def together() -> list[Reply]:
        chosen = endpoint or LocalEndpoint()
        try:
            return await asyncio.gather(*(chosen.send(path, body, 60) for body in bodies))
        finally:
            await chosen.close()

    return asyncio.run(together())


def label_in(reply: Reply) -> Any:
    return json.loads(read_message(reply).content)["label"]


def test_a_reply_is_a_chat_completion_with_the_nearest_label(tiny: Encoder):
    from openai.types.chat import ChatCompletion

    (reply,) = ask(body_of("it crashes"))
    completion = ChatCompletion.model_validate_json(reply.body)
    near = (
        tiny.encode([f"about {label}" for label in LABELS]).vectors @ tiny.encode(["it crashes"]).vectors[0]
    )
    assert json.loads(completion.choices[0].message.content) == {"label": LABELS[near.argmax()]}
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "local-1"
    assert completion.model == weights.model_name()
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.prompt_tokens == 4
    assert completion.usage.total_tokens == 4 + completion.usage.completion_tokens


def test_the_verb_reads_the_reply(tiny: Encoder):
    task = classify.task(LABELS, output="label")
    message = read_message(ask(body_of_task("lost", task))[0])
    assert message.problem is None
    assert task.read(message.content)[0] in LABELS


@pytest.mark.parametrize("labels", [LABELS, [1, 2, 3, 12], [f"{w} {n}" for w in WORDS.split() for n in "12"]])
def test_log_probabilities_are_those_of_whole_labels(tiny: Encoder, labels: list[Any]):
    from openai.types.chat import ChatCompletion

    (reply,) = ask(body_of("the card", labels, confidence=True))
    choice = ChatCompletion.model_validate_json(reply.body).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    listed = tokens[-1].top_logprobs
    assert tokens[-1].token == listed[0].token
    made = prototypes(labels, {}, [], lambda texts: tiny.encode(texts).vectors)
    expected = made.log_probabilities(tiny.encode(["the card"]).vectors)[0]
    best = [labels[n] for n in np.argsort(-expected, kind="stable")[:20]]
    found = {json.loads(tokens[0].token + one.token)["label"]: one.logprob for one in listed}
    assert list(found) == best
    assert list(found.values()) == pytest.approx([expected[labels.index(label)] for label in best], abs=1e-3)


@pytest.mark.parametrize("labels", [LABELS, [1, 12, 2, 121], ["a", "ab", '"a"', "ä", "b\\n"]])
def test_the_confidence_is_the_labels_share(tiny: Encoder, labels: list[Any]):
    message = read_message(ask(body_of("the card", labels, confidence=True))[0])
    answer = json.loads(message.content)["label"]
    made = prototypes(labels, {}, [], lambda texts: tiny.encode(texts).vectors)
    share = np.exp(made.log_probabilities(tiny.encode(["the card"]).vectors)[0]).max()
    assert confidence(message.content, message.logprobs, labels, answer) == pytest.approx(share, abs=1e-3)


def test_without_being_asked_a_reply_has_no_log_probabilities(tiny: Encoder):
    assert not read_message(ask(body_of("the card"))[0]).logprobs


def test_descriptions_and_examples_are_read_from_the_system_message(tiny: Encoder):
    pairs = [("how do i", "a"), ('this\n"2"', "b")]
    described = {"a": "the card:\nlost", "b": None}
    (reply,) = ask(body_of("how do i", described, examples=pairs, confidence=True))
    made = prototypes(["a", "b"], {"a": "the card:\nlost"}, pairs, lambda texts: tiny.encode(texts).vectors)
    expected = made.log_probabilities(tiny.encode(["how do i"]).vectors)[0]
    listed = read_message(reply).logprobs[-1]["top_logprobs"]
    assert [one["logprob"] for one in listed] == pytest.approx(sorted(expected, reverse=True), abs=1e-3)


def test_labels_too_many_for_an_enum_are_told_apart(tiny: Encoder):
    labels = [f"card {n}" for n in range(1500)]
    task = classify.task(labels, output="label")
    assert "enum" not in task.schema["properties"]["label"]
    assert label_in(ask(body_of_task("lost", task))[0]) in labels


def test_requests_that_start_together_become_one_batch(tiny: Encoder):
    endpoint = Watched()
    replies = ask(*(body_of(text) for text in TEXTS * 10), endpoint=endpoint)
    assert endpoint.batches == [60]
    assert endpoint.prepared == 1
    answers = [label_in(reply) for reply in replies]
    assert answers == answers[:6] * 10


def test_two_questions_in_one_batch_keep_their_own_labels(tiny: Encoder):
    one, two = ask(body_of("lost"), body_of("lost", [1, 2]))
    assert label_in(one) in LABELS
    assert label_in(two) in (1, 2)


@pytest.mark.parametrize("text", ["", "a\nb\n", "```\nlost\n```", "\x00 ☃ ", "\r\n"])
def test_the_text_between_the_fences_is_read_exactly(text: str):
    assert wire.read(wire.CHAT, body_of(text)).texts == [text]


def refused_bodies() -> dict[str, bytes]:
    other = orjson.loads(body_of("x"))
    other["messages"][0]["content"] = "Extract the label."
    unfenced = orjson.loads(body_of("x"))
    unfenced["messages"][1]["content"] = "x"
    return {
        "explain": body_of("x", explain=True),
        "multi_label": body_of("x", multi_label=True),
        "generate": body_of_task("x", generate.task(output="out", instructions="Rewrite.")),
        "a field named label": orjson.dumps(other),
        "no fence": orjson.dumps(unfenced),
        "stream": body_of("x", params={"stream": True}),
        "no JSON": b"{",
    }


@pytest.mark.parametrize("what", list(refused_bodies()))
def test_what_an_encoder_cannot_answer_is_a_400_and_costs_no_neighbour(tiny: Encoder, what: str):
    refused, answered = ask(refused_bodies()[what], body_of("lost"))
    assert (refused.status, answered.status) == (400, 200)
    error = json.loads(refused.body)["error"]
    assert error["type"] == "invalid_request_error"
    # Naming a format would have the request sent again in another one.
    assert not any(word in error["message"] for word in ("response_format", "json_schema", "logprobs"))


def test_an_unknown_path_is_a_404(tiny: Encoder):
    assert ask(b"{}", path="/responses")[0].status == 404


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_have_the_usual_shape(tiny: Encoder, form: str):
    from openai.types import CreateEmbeddingResponse

    (reply,) = ask(orjson.dumps({"input": TEXTS, "encoding_format": form}), path=wire.EMBEDDINGS)
    body = json.loads(reply.body)
    if form == "base64":
        for item in body["data"]:
            item["embedding"] = np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist()
    found = CreateEmbeddingResponse.model_validate(body)
    assert [item.index for item in found.data] == list(range(len(TEXTS)))
    assert np.allclose([item.embedding for item in found.data], tiny.encode(TEXTS).vectors, atol=1e-5)
    assert found.usage.total_tokens == sum(tiny.encode(TEXTS).tokens)


def test_one_text_has_one_embedding(tiny: Encoder):
    (reply,) = ask(orjson.dumps({"input": "lost"}), path=wire.EMBEDDINGS)
    assert len(json.loads(reply.body)["data"]) == 1


@pytest.mark.parametrize(
    "more",
    [{"input": []}, {"input": [1]}, {"input": "x", "dimensions": 8}, {"input": "x", "encoding_format": "z"}],
)
def test_embeddings_of_anything_else_are_refused(more: dict[str, Any]):
    with pytest.raises(BadRequestError):
        wire.read(wire.EMBEDDINGS, orjson.dumps(more))


def test_unknown_words_and_long_texts_are_said_once_a_run(tiny: Encoder):
    endpoint = LocalEndpoint()
    known, strange = ask(body_of("the card"), body_of("der Hund bellt"), endpoint=endpoint)
    assert json.loads(known.body)["x_pandas_llm_unknown_share"] == 0
    assert json.loads(strange.body)["x_pandas_llm_unknown_share"] == 1
    ask(body_of("a refund " * 20), body_of("a lost " * 20), endpoint=endpoint)
    unknown, cut = endpoint.notes()
    assert unknown.startswith("1 text has more than 10 % tokens")
    assert cut.startswith("2 texts have more tokens")


def test_what_of_a_question_was_not_used_is_said(tiny: Encoder):
    endpoint = LocalEndpoint()
    body = body_of("a", [1, 2], examples=[("the card", 1)], instructions="Be strict.")
    ask(body, body, endpoint=endpoint)
    examples, numbers, instructions = endpoint.notes()
    assert "2 has none" in examples
    assert "describe each" in numbers
    assert instructions.startswith("The instructions weren't read")


def test_a_question_that_is_used_whole_has_no_notes(tiny: Encoder):
    endpoint = LocalEndpoint()
    ask(body_of("the card", examples=[("it", label) for label in LABELS]), endpoint=endpoint)
    assert endpoint.notes() == []


def test_time_that_runs_out_is_a_timeout(tiny: Encoder):
    async def hurried() -> None:
        endpoint = LocalEndpoint()
        try:
            await endpoint.send(wire.CHAT, body_of("x"), 0)
        finally:
            await endpoint.close()

    with pytest.raises(ServerError) as error:
        asyncio.run(hurried())
    assert error.value.code == "timeout"


def test_a_model_that_cannot_be_read_fails_every_waiting_request(tmp_path: Path, monkeypatch):
    other = write_tiny(tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(other))
    endpoint = LocalEndpoint()

    async def both() -> list[Any]:
        sends = (endpoint.send(wire.CHAT, body_of(text), 60) for text in "xy")
        return await asyncio.gather(*sends, return_exceptions=True)

    errors = asyncio.run(both())
    asyncio.run(endpoint.close())
    assert [type(error) for error in errors] == [NeedsModelError, NeedsModelError]
    assert "gpt2" in str(errors[0])


def test_a_closed_endpoint_ends_its_thread_and_opens_again(tiny: Encoder):
    endpoint = LocalEndpoint()
    for _ in range(2):
        assert ask(body_of("x"), endpoint=endpoint)[0].status == 200
        mine = [thread for thread in threading.enumerate() if thread.name == "pandas_llm local"]
        for thread in mine:
            thread.join(5)
        assert not any(thread.is_alive() for thread in mine)


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("classify", {"explain": True}, "explain=True"),
        ("classify", {"multi_label": True}, "multi_label=True"),
        ("extract", {}, "extract"),
        ("generate", {}, "generate"),
    ],
)
def test_a_verb_that_needs_a_language_model_is_refused_before_anything_is_sent(verb, more, said):
    with pytest.raises(NeedsModelError, match=said) as error:
        check(verb, **more)
    assert "OPENAI_API_KEY" in str(error.value)
    assert "base_url" in str(error.value)


def test_classify_is_refused_only_where_the_model_is_missing(tiny: Encoder, monkeypatch):
    check("classify")
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", "/nowhere")
    with pytest.raises(NeedsModelError, match="/nowhere"):
        check("classify")


def test_the_introduction_says_what_it_got_right_and_where_it_fails():
    for word in ("AG News 78 %", "ham/spam", "Nothing is sent", "OPENAI_API_KEY", "base_url"):
        assert word in introduction()
