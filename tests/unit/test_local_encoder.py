"""The encoder in numpy: a tiny random one, read by the real loading code, and the real one where it is."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pandas_llm.errors import NeedsModelError
from pandas_llm.local import encoder, weights
from pandas_llm.local.encoder import Encoder

WIDTH, INNER, LAYERS, HEADS, MOST = 32, 64, 2, 4, 16
WORDS = "about bug question praise it crashes how do i love this 1 2 3 a the card lost : refund"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
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
    tensors = {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    # Around 1, or the layers would make all texts alike and no test could tell them apart.
    return {name: t + ("LayerNorm.weight" in name) for name, t in tensors.items()}


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
