"""The embedded model behind its endpoint: a tiny random encoder, read by the real loading code."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file, save_file

from pandas_llm.core.types import Reply
from pandas_llm.errors import BadRequestError, NeedsModelError, ServerError
from pandas_llm.local import encoder, weights, wire
from pandas_llm.local.encoder import Encoder
from pandas_llm.local.endpoint import LocalEndpoint, check, introduction
from pandas_llm.local.labels import method_of, prototypes

WIDTH, INNER, LAYERS, HEADS, MOST = 32, 64, 2, 4, 16
WORDS = "about bug question praise it crashes how do i love this 1 2 3 a the card lost : refund".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["it crashes", "how do i love this", "", "the card the card lost", "lost", "a refund " * 20]


def write_tiny(folder: Path) -> Path:
    """A BERT encoder of 2 layers with 32 dimensions, as sentence-transformers writes one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordPiece({w: n for n, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    # As in the real file: what is shorter than the model reads, and pads.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    config = {"model_type": "bert", "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MOST}))
    save_file(random_tensors(), folder / "model.safetensors")
    return folder


def random_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), WIDTH),
        "embeddings.position_embeddings.weight": (2 * MOST, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    dense = {"attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH)}
    dense |= {"attention.self.value": (WIDTH, WIDTH), "attention.output.dense": (WIDTH, WIDTH)}
    dense |= {"intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER)}
    norms = ["embeddings.LayerNorm"]
    for n in range(LAYERS):
        for name, shape in dense.items():
            shapes[f"encoder.layer.{n}.{name}.weight"] = shape
            shapes[f"encoder.layer.{n}.{name}.bias"] = shape[:1]
        norms += [f"encoder.layer.{n}.{part}.LayerNorm" for part in ("attention.output", "output")]
    for norm in norms:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(folder))
    return encoder.load(weights.find())


@pytest.fixture(scope="module")
def real() -> Encoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PANDAS_LLM_LOCAL_MODEL", raising=False)
        try:
            return encoder.load(weights.find())
        except NeedsModelError as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))


def plain_vector(folder: Path, ids: list[int]) -> np.ndarray:
    """BERT as its paper has it, in float64, one text at a time."""
    tensors = {name: t.astype(np.float64) for name, t in load_file(folder / "model.safetensors").items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
    x = tensors["embeddings.word_embeddings.weight"][ids]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for n in range(LAYERS):
        at, mixed = f"encoder.layer.{n}", []
        for cut in np.split(np.arange(WIDTH), HEADS):
            query, key, value = (
                dense(x, f"{at}.attention.self.{p}")[:, cut] for p in ("query", "key", "value")
            )
            share = np.exp(query @ key.T / math.sqrt(len(cut)))
            mixed.append(share / share.sum(1, keepdims=True) @ value)
        out = dense(np.hstack(mixed), f"{at}.attention.output.dense")
        x = norm(x + out, f"{at}.attention.output.LayerNorm")
        out = dense(gelu(dense(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = norm(x + out, f"{at}.output.LayerNorm")
    return x.mean(0) / np.linalg.norm(x.mean(0))


def ids_of(text: str) -> list[int]:
    inner = [VOCABULARY.index(word) for word in text.split()]
    return [2, *inner[: MOST - 2], 3]


# The encoder ------------------------------------------------------------------------------------------


def test_vectors_are_those_of_a_plain_bert(tiny: Encoder, folder: Path):
    found = tiny.encode(TEXTS).vectors
    assert np.abs(found - [plain_vector(folder, ids_of(text)) for text in TEXTS]).max() < 1e-5


def test_a_texts_vector_does_not_depend_on_its_neighbours(tiny: Encoder):
    together = tiny.encode(TEXTS * 40).vectors
    alone = np.concatenate([tiny.encode([text]).vectors for text in TEXTS])
    assert np.abs(together - np.tile(alone, (40, 1))).max() < 1e-5


def test_a_text_longer_than_the_encoder_reads_is_cut_and_marked(tiny: Encoder):
    seen = tiny.encode(["lost", "a refund " * 20])
    assert seen.tokens == [3, MOST]
    assert seen.cut == [False, True]


def test_tokens_out_of_the_vocabulary_are_counted(tiny: Encoder):
    assert tiny.encode(["the card", "the zebra", ""]).unknown == [0.0, 0.5, 0.0]


def test_no_texts_have_no_vectors(tiny: Encoder):
    assert tiny.encode([]).vectors.shape == (0, WIDTH)


def test_a_vocabulary_alone_makes_the_same_tokenizer(tiny: Encoder, tmp_path: Path, monkeypatch):
    other = write_tiny(tmp_path / "other")
    (other / "tokenizer.json").unlink()
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(other))
    assert np.allclose(Encoder(weights.find()).encode(TEXTS).vectors, tiny.encode(TEXTS).vectors)


def test_a_model_that_pools_its_first_token_does_so(tmp_path: Path, monkeypatch):
    other = write_tiny(tmp_path / "other")
    (other / "1_Pooling").mkdir()
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(other))
    mean = Encoder(weights.find()).encode(["the card"]).vectors
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert np.abs(Encoder(weights.find()).encode(["the card"]).vectors - mean).max() > 0.01
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(NeedsModelError, match="pooling_mode_max_tokens"):
        Encoder(weights.find())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "roberta"}, "model_type='roberta'"),
        ({"num_attention_heads": None}, "num_attention_heads"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path: Path, monkeypatch, change: dict[str, Any], said: str):
    other = write_tiny(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(other))
    with pytest.raises(NeedsModelError, match=said):
        Encoder(weights.find())


@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    [
        ("Paul sued Anna", "Anna sued Paul", 0.991),
        ("My order 1001 has not arrived", "My order 1002 has not arrived", 0.960),
        ("The payment went through", "The payment did not go through", 0.888),
    ],
)
def test_cosines_of_the_real_model_are_the_published_ones(real: Encoder, one: str, other: str, cosine: float):
    a, b = real.encode([one, other]).vectors
    assert float(a @ b) == pytest.approx(cosine, abs=5e-4)
    assert real.max_tokens == 256


# The labels -------------------------------------------------------------------------------------------


def test_names_become_words_and_descriptions_are_added():
    heard: list[str] = []

    def encode(texts: Any) -> Any:
        heard.extend(texts)
        return np.eye(len(texts), dtype=np.float32)

    prototypes(["card_arrival", "lostCard", 3], {"lostCard": "gone"}, [], encode)
    assert heard == ["about card arrival", "lost Card: gone", "about 3"]


def test_a_label_with_examples_is_the_mean_of_itself_and_them():
    made = prototypes(["a", "b"], {}, [("x", "a"), ("y", "b")], lambda t: np.eye(len(t), dtype=np.float32))
    assert np.allclose(made.vectors, np.array([[1, 0, 1, 0], [0, 1, 0, 1]]) / math.sqrt(2))


def test_examples_count_only_where_every_label_has_one():
    made = prototypes(["a", "b"], {}, [("x", "a")], lambda t: np.eye(len(t), dtype=np.float32))
    assert np.allclose(made.vectors, np.eye(2))
    assert method_of(["a", "b"], {"a": "first"}, [("x", "a")]) == "name"
    assert method_of(["a", "b"], {"a": "first", "b": "second"}, []) == "description"
    assert method_of(["a", "b"], {}, [("x", "a"), ("y", "b")]) == "examples"


# The endpoint -----------------------------------------------------------------------------------------

BUG = ["bug", "question", "praise"]


def body_of(text: str, labels: list[Any], *, system: str = "", fence: str = "```", **more: Any) -> bytes:
    kind = "string" if isinstance(labels[0], str) else "integer"
    schema = {
        "type": "object",
        "properties": {"label": {"type": kind, "enum": labels}},
        "required": ["label"],
    }
    system = system or "Classify.\n" + "\n".join(f"- {json.dumps(label)}" for label in labels)
    said = [{"role": "system", "content": system}, {"role": "user", "content": f"{fence}\n{text}\n{fence}"}]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    return orjson.dumps({"model": "local/tiny", "messages": said, "response_format": form, **more})


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


def test_a_reply_is_a_chat_completion_with_the_nearest_label(tiny: Encoder):
    from openai.types.chat import ChatCompletion

    (reply,) = ask(body_of("it crashes", BUG))
    completion = ChatCompletion.model_validate_json(reply.body)
    near = tiny.encode([f"about {label}" for label in BUG]).vectors @ tiny.encode(["it crashes"]).vectors[0]
    assert json.loads(completion.choices[0].message.content) == {"label": BUG[near.argmax()]}
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "local-1"
    assert completion.model == weights.model_name()
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.prompt_tokens == 4
    assert completion.usage.total_tokens == 4 + completion.usage.completion_tokens


@pytest.mark.parametrize("labels", [BUG, [1, 2, 3, 12], [f"{word} {n}" for word in WORDS for n in (1, 2)]])
def test_log_probabilities_are_those_of_whole_labels(tiny: Encoder, labels: list[Any]):
    from openai.types.chat import ChatCompletion

    (reply,) = ask(body_of("the card", labels, logprobs=True, top_logprobs=20))
    choice = ChatCompletion.model_validate_json(reply.body).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    listed = tokens[-1].top_logprobs
    asked = wire.read(wire.CHAT, body_of("the card", labels))
    made = prototypes(asked.labels, {}, [], lambda texts: tiny.encode(texts).vectors)
    expected = made.log_probabilities(tiny.encode(["the card"]).vectors)[0]
    found = {json.loads(tokens[0].token + one.token)["label"]: one.logprob for one in listed}
    best = [labels[n] for n in np.argsort(-expected, kind="stable")[:20]]
    assert list(found) == best
    assert list(found.values()) == pytest.approx([expected[labels.index(label)] for label in best], abs=1e-4)
    assert np.exp(expected).sum() == pytest.approx(1)
    assert tokens[-1].token == listed[0].token


def test_without_being_asked_a_reply_has_no_log_probabilities(tiny: Encoder):
    (reply,) = ask(body_of("the card", BUG))
    assert json.loads(reply.body)["choices"][0]["logprobs"] is None


def test_descriptions_and_examples_are_read_from_the_system_message(tiny: Encoder):
    system = (
        'Be brief.\n- "a": "the card: lost"\n- "b"\n\nExamples:\n"how do i" -> "a"\n"this\\n\\"2\\"" -> "b"'
    )
    (reply,) = ask(body_of("how do i", ["a", "b"], system=system, logprobs=True, top_logprobs=2))
    pairs = [("how do i", "a"), ('this\n"2"', "b")]
    made = prototypes(["a", "b"], {"a": "the card: lost"}, pairs, lambda texts: tiny.encode(texts).vectors)
    expected = made.log_probabilities(tiny.encode(["how do i"]).vectors)[0]
    listed = json.loads(reply.body)["choices"][0]["logprobs"]["content"][1]["top_logprobs"]
    assert listed[0]["logprob"] == pytest.approx(expected.max(), abs=1e-4)


def test_requests_that_start_together_become_one_batch(tiny: Encoder):
    endpoint = Watched()
    replies = ask(*(body_of(text, BUG) for text in TEXTS * 10), endpoint=endpoint)
    assert endpoint.batches == [60]
    assert endpoint.prepared == 1
    answers = [json.loads(reply.body)["choices"][0]["message"] for reply in replies]
    assert answers == answers[:6] * 10


def test_two_questions_in_one_batch_keep_their_own_labels(tiny: Encoder):
    one, two = ask(body_of("lost", BUG), body_of("lost", [1, 2]))
    assert json.loads(json.loads(one.body)["choices"][0]["message"]["content"])["label"] in BUG
    assert json.loads(json.loads(two.body)["choices"][0]["message"]["content"])["label"] in (1, 2)


@pytest.mark.parametrize("text", ["", "a\nb\n", "```\nlost\n```", "\x00 ☃ ", "\r\n"])
def test_the_text_between_the_fences_is_read_exactly(text: str):
    assert wire.read(wire.CHAT, body_of(text, BUG, fence="````")).texts == [text]


def refused_bodies() -> dict[str, bytes]:
    explained = orjson.loads(body_of("x", BUG))
    schema = explained["response_format"]["json_schema"]["schema"]
    schema["properties"] = {"explanation": {"type": "string"}, **schema["properties"]}
    listed = orjson.loads(body_of("x", BUG))
    listed["response_format"]["json_schema"]["schema"]["properties"] = {
        "label": {"type": "array", "items": {"enum": BUG}}
    }
    free = {"messages": [{"role": "user", "content": "hi"}]}
    return {
        "explain": orjson.dumps(explained),
        "multi_label": orjson.dumps(listed),
        "generate": orjson.dumps(free),
        "stream": body_of("x", BUG, stream=True),
        "fence": body_of("x", BUG, fence="--"),
        "json": b"{",
    }


@pytest.mark.parametrize("what", list(refused_bodies()))
def test_what_an_encoder_cannot_answer_is_a_400_and_costs_no_neighbour(tiny: Encoder, what: str):
    refused, answered = ask(refused_bodies()[what], body_of("lost", BUG))
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
        import base64

        for item in body["data"]:
            item["embedding"] = np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist()
    found = CreateEmbeddingResponse.model_validate(body)
    assert [item.index for item in found.data] == list(range(len(TEXTS)))
    assert np.allclose([item.embedding for item in found.data], tiny.encode(TEXTS).vectors, atol=1e-5)
    assert found.usage.total_tokens == sum(tiny.encode(TEXTS).tokens)
    one = ask(orjson.dumps({"input": "lost"}), path=wire.EMBEDDINGS)[0]
    assert len(json.loads(one.body)["data"]) == 1


@pytest.mark.parametrize("more", [{"input": []}, {"input": [1, 2]}, {"input": "x", "dimensions": 8}])
def test_embeddings_of_anything_else_are_refused(more: dict[str, Any]):
    with pytest.raises(BadRequestError):
        wire.read(wire.EMBEDDINGS, orjson.dumps(more))


def test_unknown_words_and_long_texts_are_said_once_a_run(tiny: Encoder):
    endpoint = LocalEndpoint()
    known, strange = ask(body_of("the card", BUG), body_of("der Hund bellt", BUG), endpoint=endpoint)
    assert json.loads(known.body)["x_pandas_llm_unknown_share"] == 0
    assert json.loads(strange.body)["x_pandas_llm_unknown_share"] == 1
    ask(body_of("a refund " * 20, BUG), body_of("a lost " * 20, BUG), endpoint=endpoint)
    unknown, cut = endpoint.notes()
    assert unknown.startswith("1 text has more than 10 % tokens")
    assert cut.startswith("2 texts have more tokens")


def test_examples_of_some_labels_and_bare_numbers_are_remarked(tiny: Encoder):
    endpoint = LocalEndpoint()
    ask(body_of("x", [1, 2], system='- 1\n- 2\n\nExamples:\n"a" -> 1'), endpoint=endpoint)
    partial, numbers = endpoint.notes()[:2]
    assert "2 has none" in partial
    assert "describe each" in numbers


def test_time_that_runs_out_is_a_timeout(tiny: Encoder):
    async def hurried() -> None:
        endpoint = LocalEndpoint()
        try:
            await endpoint.send(wire.CHAT, body_of("x", BUG), 0)
        finally:
            await endpoint.close()

    with pytest.raises(ServerError) as error:
        asyncio.run(hurried())
    assert error.value.code == "timeout"


def test_a_model_that_cannot_be_read_fails_every_waiting_request(tmp_path: Path, monkeypatch):
    other = write_tiny(tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    monkeypatch.setenv("PANDAS_LLM_LOCAL_MODEL", str(other))
    with pytest.raises(NeedsModelError, match="gpt2"):
        ask(body_of("x", BUG), body_of("y", BUG))


def test_a_closed_endpoint_ends_its_thread_and_opens_again(tiny: Encoder):
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "pandas_llm local"]

    endpoint = LocalEndpoint()
    for _ in range(2):
        assert ask(body_of("x", BUG), endpoint=endpoint)[0].status == 200
        for thread in threads():
            thread.join(5)
        assert not threads()


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


def test_classify_is_not_refused(tiny: Encoder):
    assert check("classify") is None


def test_the_introduction_says_what_it_got_right_and_where_it_fails():
    for word in ("AG News 78 %", "ham/spam", "nothing is sent", "OPENAI_API_KEY", "base_url"):
        assert word in introduction()
