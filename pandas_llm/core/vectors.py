"""Embeddings as JSON: texts become a request, its reply one vector a text, its bill one share a text."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from pandas_llm.core.foreign import listing
from pandas_llm.core.types import Question

EMBEDDINGS = "/embeddings"

MOST_INPUTS = 2_048
"""Texts that one request may hold."""
MOST_TOKENS = 200_000
"""Tokens, as they are estimated: of the 300,000 that one request may hold, since digits and code take half
as many again."""
TEXT_TOKENS = 8_192
"""Tokens that one text may have; what seems longer goes alone, for it may be refused."""


def body(question: Question, texts: Sequence[str], *, base64: bool = True) -> bytes:
    """The request for the vectors of these texts."""
    asked: dict[str, Any] = {"model": question.model, "input": list(texts)}
    if base64:  # a third of the bytes of numbers in decimal, and nothing is rounded
        asked["encoding_format"] = "base64"
    return orjson.dumps({**asked, **question.params})


def vectors_of(reply: Mapping[str, Any], count: int) -> list[str | None]:
    """By input the vector, as base64 of little-endian float32; None where the reply has none.

    Lists of numbers, which servers send that don't know `encoding_format`, are taken too.
    """
    return [_vector(entry.get("embedding")) for entry in entries_of(reply, count)]


def entries_of(reply: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """By input what a reply says of it, empty where it says nothing.

    An entry belongs to the input that its `index` names, wherever it stands; of two the first counts.
    """
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for place, entry in enumerate(listing(reply.get("data"))):
        index = entry.get("index", place) if isinstance(entry, dict) else None
        if type(index) is int and 0 <= index < count and not found[index]:
            found[index] = entry
    return found


def without_vectors(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a reply is kept beside the answer, which the vector itself is; any other reply as it is."""
    entries = reply.get("data")
    if "choices" in reply or not isinstance(entries, list):
        return reply
    return {**reply, "data": [_without_vector(entry) for entry in entries if isinstance(entry, dict)]}


def _without_vector(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "embedding"}


def floats(vector: str) -> npt.NDArray[np.float32]:
    """The numbers of a vector, not to be written to.

    Raises
    ------
    ValueError
        It isn't base64 of one float32 or more.
    """
    packed = binascii.a2b_base64(vector, strict_mode=True)
    if not packed or len(packed) % 4:
        raise ValueError(f"{len(packed):,} bytes are no float32 numbers")
    return np.frombuffer(packed, dtype="<f4")


def vector_text(numbers: Any) -> str:
    """A vector as the store keeps it: base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(numbers, dtype="<f4").tobytes()).decode("ascii")


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total in whole parts, by weights; they add up to it.

    >>> shares(10, [1, 1, 1])
    [3, 3, 4]
    """
    whole = sum(weights)
    ends = [total * end // whole for end in itertools.accumulate(weights)] if whole else []
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def requests_for(texts: int, tokens: float) -> int:
    """How many requests so many texts take."""
    return max(math.ceil(texts / MOST_INPUTS), math.ceil(tokens / MOST_TOKENS))


def _vector(given: Any) -> str | None:
    try:
        if isinstance(given, str):
            floats(given)
            return given
        numbers = np.asarray(given if isinstance(given, list) else [])
    except ValueError:
        return None
    plain = numbers.ndim == 1 and numbers.size and numbers.dtype.kind in "fi"
    return vector_text(numbers) if plain else None
