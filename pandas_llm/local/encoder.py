"""BERT's forward pass in numpy: texts become unit vectors, without torch."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.errors import NeedsModelError
from pandas_llm.local.weights import Weights, require_extra

Floats: TypeAlias = npt.NDArray[np.float32]

# Tokens computed at once: bounds the memory at 20 MB; between 256 and 4096 the speed is the same.
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of some texts, in their order."""

    vectors: Floats
    """One unit vector a text: dot products are cosines."""
    tokens: list[int]
    """Tokens read, the two at the ends included."""
    unknown: list[float]
    """The share of a text's tokens that the vocabulary doesn't hold."""
    cut: list[bool]
    """Whether the text was longer than the encoder reads."""

    def __getitem__(self, rows: slice) -> Encoded:
        return Encoded(self.vectors[rows], self.tokens[rows], self.unknown[rows], self.cut[rows])


@dataclass(frozen=True, slots=True)
class _Dense:
    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        y: Floats = x @ self.weight
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class _Norm:
    scale: Floats
    shift: Floats
    epsilon: float

    def __call__(self, x: Floats) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(x.shape[1])
        x /= np.sqrt(variance + np.float32(self.epsilon))
        x *= self.scale
        x += self.shift
        return x


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Dense
    mix: _Dense
    mixed: _Norm
    up: _Dense
    down: _Dense
    out: _Norm

    def __call__(self, x: Floats, runs: list[tuple[int, int]], heads: int) -> Floats:
        x = self.mixed(x + self.mix(_attend(self.qkv(x), runs, heads)))
        return self.out(x + self.down(_gelu(self.up(x))))


class Encoder:
    """A BERT-like sentence encoder, read from a folder as sentence-transformers writes it."""

    def __init__(self, weights: Weights) -> None:
        require_extra()
        from safetensors.numpy import load_file

        folder = weights.file.parent
        config = _read_json(folder / "config.json")
        _check_kind(config, folder)
        tensors = {name: t for name, t in load_file(weights.file).items() if t.dtype.kind == "f"}
        prefix = next((n for n in tensors if n.endswith("embeddings.word_embeddings.weight")), None)
        if prefix is None:
            raise NeedsModelError(
                f"{weights.file} holds no BERT encoder: there are no word embeddings in it."
            )
        get = _Tensors(tensors, prefix.removesuffix("embeddings.word_embeddings.weight"), weights.file)
        self.name = weights.name
        self._tokenizer = tokenizer_of(folder)
        self._unknown = first_id(self._tokenizer, "[UNK]", "<unk>")
        self._words = get("embeddings.word_embeddings.weight")
        # One sentence only ever has token type 0, so its embedding belongs to the position.
        self._places = (
            get("embeddings.position_embeddings.weight") + get("embeddings.token_type_embeddings.weight")[0]
        )
        if self._tokenizer.get_vocab_size() > len(self._words):
            raise NeedsModelError(f"The tokenizer in {folder} knows more tokens than {weights.file.name}.")
        epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._norm = get.norm("embeddings.LayerNorm", epsilon)
        self._layers = [get.layer(n, epsilon) for n in range(config["num_hidden_layers"])]
        self._heads = config["num_attention_heads"]
        limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = min(int(limit or len(self._places)), len(self._places))
        self._pool_mean = _pools_mean(folder)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The texts' unit vectors; a text's vector depends on its neighbours by rounding only (1e-6)."""
        ids, unknown, cut = [], [], []
        for text in texts:
            # One by one: encode_batch starts threads that warn in every process forked later.
            found: list[int] = self._tokenizer.encode(text).ids
            inner = found[1:-1]
            unknown.append(inner.count(self._unknown) / len(inner) if inner else 0.0)
            cut.append(len(found) > self.max_tokens)
            ids.append(found if not cut[-1] else [*found[: self.max_tokens - 1], found[-1]])
        vectors = np.empty((len(ids), self._words.shape[1]), dtype=np.float32)
        with _one_blas_thread():
            for rows in _chunks([len(tokens) for tokens in ids]):
                vectors[rows] = self._forward([ids[row] for row in rows])
        return Encoded(vectors, [len(tokens) for tokens in ids], unknown, cut)

    def _forward(self, ids: list[list[int]]) -> Floats:
        """Vectors of token lists in order of length. Tokens lie end to end: nothing is padded or masked."""
        runs = [(length, len(list(run))) for length, run in groupby(ids, key=len)]
        places = np.concatenate([np.arange(len(tokens)) for tokens in ids])
        x = self._norm(self._words[np.concatenate(ids)] + self._places[places])
        for layer in self._layers:
            x = layer(x, runs, self._heads)
        vectors: Floats = np.concatenate(
            [block.mean(axis=1) if self._pool_mean else block[:, 0] for block in _blocks(x, runs)]
        )
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return vectors


@functools.lru_cache(maxsize=1)
def load(weights: Weights) -> Encoder:
    """The encoder of these files, read once per process."""
    return Encoder(weights)


@dataclass(frozen=True, slots=True)
class _Tensors:
    tensors: Mapping[str, npt.NDArray[Any]]
    prefix: str
    file: Path

    def __call__(self, name: str) -> Floats:
        try:
            return np.ascontiguousarray(self.tensors[self.prefix + name], dtype=np.float32)
        except KeyError:
            raise NeedsModelError(f"{self.file} holds no BERT encoder: {name} is missing.") from None

    def dense(self, *names: str) -> _Dense:
        weight = np.concatenate([self(f"{name}.weight") for name in names]).T
        return _Dense(np.ascontiguousarray(weight), np.concatenate([self(f"{name}.bias") for name in names]))

    def norm(self, name: str, epsilon: float) -> _Norm:
        return _Norm(self(f"{name}.weight"), self(f"{name}.bias"), epsilon)

    def layer(self, n: int, epsilon: float) -> _Layer:
        at = f"encoder.layer.{n}"
        inputs = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        return _Layer(
            qkv=self.dense(*inputs),
            mix=self.dense(f"{at}.attention.output.dense"),
            mixed=self.norm(f"{at}.attention.output.LayerNorm", epsilon),
            up=self.dense(f"{at}.intermediate.dense"),
            down=self.dense(f"{at}.output.dense"),
            out=self.norm(f"{at}.output.LayerNorm", epsilon),
        )


def _attend(qkv: Floats, runs: list[tuple[int, int]], heads: int) -> Floats:
    """Scaled dot-product attention (Vaswani et al., 2017), each run of equally long texts at once."""
    width = qkv.shape[1] // 3
    scale = np.float32((width // heads) ** -0.5)
    mixed = []
    for block in _blocks(qkv, runs):
        count, length, _ = block.shape
        query, key, value = block.reshape(count, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        weights = query @ key.swapaxes(-1, -2)
        weights *= scale
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed.append((weights @ value).swapaxes(1, 2).reshape(count * length, width))
    return np.concatenate(mixed)


def _blocks(x: Floats, runs: list[tuple[int, int]]) -> Iterator[Floats]:
    at = 0
    for length, count in runs:
        yield x[at : at + length * count].reshape(count, length, -1)
        at += length * count


# erf by Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7, float32's own rounding; numpy has no erf.
_ERF = [np.float32(a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]


def _gelu(x: Floats) -> Floats:
    """GELU (Hendrycks and Gimpel, 2016), exact, written over its input."""
    # 32 rows at a time: twice as fast as whole arrays, whose temporaries leave the cache.
    for at in range(0, len(x), 32):
        part = x[at : at + 32]
        z = np.abs(part)
        z *= np.float32(0.5**0.5)
        t = 1 / (1 + np.float32(0.3275911) * z)
        tail = _ERF[0] * t
        for a in _ERF[1:]:
            tail += a
            tail *= t
        tail *= np.exp(-(z * z))
        part *= np.float32(0.5) * (1 + np.copysign(1 - tail, part))
    return x


def _chunks(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers in order of length, cut where a chunk would hold more than `_CHUNK` tokens."""
    rows: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and tokens + lengths[row] > _CHUNK:
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += lengths[row]
    if rows:
        yield rows


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise NeedsModelError(
                f"{folder} holds a model with {name}={config[name]!r}; the embedded model reads BERT "
                f"encoders with {value!r}, such as all-MiniLM-L6-v2."
            )
    for name in ("num_hidden_layers", "num_attention_heads"):
        if not isinstance(config.get(name), int):
            raise NeedsModelError(f"{folder / 'config.json'} is not a BERT encoder's: {name} is missing.")


def _pools_mean(folder: Path) -> bool:
    """Whether a text's vector is the mean of its tokens' (it is the first token's in some models)."""
    pooling = _read_json(folder / "1_Pooling" / "config.json")
    chosen = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
    if chosen - {"pooling_mode_mean_tokens", "pooling_mode_cls_token"} or len(chosen) > 1:
        raise NeedsModelError(
            f"{folder} pools by {', '.join(sorted(chosen))}; only mean and cls are known here."
        )
    return chosen != {"pooling_mode_cls_token"}


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a model's folder, neither cutting nor padding."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer
    from tokenizers.models import WordPiece

    file = folder / "tokenizer.json"
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
        # The file asks for 128 tokens, all padded: the model was meant for more, and pads are wasted work.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    lowercase = _read_json(folder / "tokenizer_config.json").get("do_lower_case", True)
    return BertWordPieceTokenizer(WordPiece.read_file(str(folder / "vocab.txt")), lowercase=lowercase)


def first_id(tokenizer: Any, *names: str) -> int:
    """The id of the first of these tokens that there is, else -1."""
    return next((i for i in map(tokenizer.token_to_id, names) if i is not None), -1)


def _read_json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


@functools.lru_cache(maxsize=1)
def _blas() -> Any:
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    return importlib.import_module("threadpoolctl").ThreadpoolController()


def _one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    # A second BLAS thread costs processor time and gains nothing for matrices this small.
    blas = _blas()
    return contextlib.nullcontext() if blas is None else blas.limit(limits=1, user_api="blas")
