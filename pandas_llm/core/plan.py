"""From texts to keys: a thing's name is its content.

A key is the hash of everything that can change an answer. It is the dict key, the store key, the Batch
`custom_id` and the log name, so no position or index label can ever put an answer on the wrong row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pandas_llm.core.types import Key, Question

Codes = npt.NDArray[np.int32]
"""One entry a row: the number of its distinct text, -1 where the row asks nothing."""

KEY_BYTES = 16
_JOINED = 16_384


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call asks, in columns: no Request exists before a worker takes it."""

    question: Question
    codes: Codes
    texts: Sequence[str]
    """One a code."""
    keys: bytes
    """One a code, end to end: a million keys are one object of 16 MB, not a million of 49 bytes."""

    def __len__(self) -> int:
        return len(self.texts)

    def key(self, code: int) -> Key:
        """The key of a code."""
        return self.keys[code * KEY_BYTES : (code + 1) * KEY_BYTES]


def make_plan(question: Question, codes: Codes, texts: Sequence[str], *, exact: bool = True) -> Plan:
    """The plan of a call; with `exact=False` the n-th row of equal text is asked as sample n of it."""
    stem = stem_of(question)
    if exact:
        return Plan(question, codes, texts, keys_of(stem, texts))
    asking = np.flatnonzero(codes >= 0)
    seen = [0] * len(texts)
    own_texts, keys = [], []
    for code in codes[asking].tolist():
        own_texts.append(texts[code])
        keys.append(key_of(stem, texts[code], sample=seen[code]))
        seen[code] += 1
    own_codes = np.full(len(codes), -1, dtype=np.int32)
    own_codes[asking] = np.arange(len(asking), dtype=np.int32)
    return Plan(question, own_codes, own_texts, b"".join(keys))


def stem_of(question: Question) -> bytes:
    """The canonical bytes of a question: the part that all keys of a call share.

    The wire's bytes are not hashed: a prompt-cache breakpoint or the format an endpoint happens to
    understand must not buy a dataset again.
    """
    content = {
        "version": 1,
        "base_url": question.base_url,
        "path": question.path,
        "verb": question.verb,
        "model": question.model,
        "system": question.system,
        "schema": question.schema,
        # A schema's order is the order of the answer and stays as given; that of params means nothing.
        "params": json.dumps(dict(question.params), sort_keys=True),
        "logprobs": question.logprobs,
    }
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def question_of(stem: bytes) -> Question:
    """The question of a stem."""
    content = json.loads(stem)
    del content["version"]
    return Question(**{**content, "params": json.loads(content["params"])})


def question_id(question: Question) -> str:
    """A question's name: 32 hex characters."""
    return hashlib.blake2b(stem_of(question), digest_size=KEY_BYTES).hexdigest()


def key_of(stem: bytes, text: str, *, sample: int = 0) -> Key:
    """The key of one text. Sample 0 is the answer everybody shares."""
    digest = hashlib.blake2b(stem, digest_size=KEY_BYTES)
    # 0xff never occurs in UTF-8: no text can run into the stem or pass for another sample.
    digest.update(b"\xff" + text.encode())
    if sample:
        digest.update(b"\xff%d" % sample)
    return digest.digest()


def keys_of(stem: bytes, texts: Sequence[str]) -> bytes:
    """The keys of many texts, end to end; the stem is hashed once for all (3.2M keys/s against 0.3M)."""
    root = hashlib.blake2b(stem, digest_size=KEY_BYTES)
    root.update(b"\xff")

    def one(text: str) -> bytes:
        digest = root.copy()
        digest.update(text.encode())
        return digest.digest()

    keys = bytearray()
    # A million single digests before one join would be 50 MB that nobody needs.
    for start in range(0, len(texts), _JOINED):
        keys += b"".join(map(one, texts[start : start + _JOINED]))
    return bytes(keys)


class KeyIndex:
    """Which code a key is, in 20 bytes a key; a dict takes 180.

    Parameters
    ----------
    keys
        End to end.
    codes
        One a key.
    """

    def __init__(self, keys: bytes, codes: Sequence[int]) -> None:
        unsorted = np.frombuffer(keys, dtype=f"S{KEY_BYTES}")
        order = np.argsort(unsorted)
        self._keys = unsorted[order]
        self._codes = np.asarray(codes, dtype=np.int32)[order]

    def __len__(self) -> int:
        return len(self._codes)

    def find(self, keys: Sequence[Key]) -> list[int]:
        """The codes of these keys, -1 where one isn't among them. Ask for many at once."""
        if not len(self) or not keys:
            return [-1] * len(keys)
        sought = np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}")
        places = np.minimum(np.searchsorted(self._keys, sought), len(self) - 1)
        found: list[int] = np.where(self._keys[places] == sought, self._codes[places], -1).tolist()
        return found


def split(keys: bytes) -> Iterator[Key]:
    """The single keys of a string of keys."""
    return (keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))
