"""How many tokens: of a text, of an answer to come, and as the provider counts them against its limits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from pandas_llm.core.types import Question
from pandas_llm.core.vectors import EMBEDDINGS

Counter: TypeAlias = Callable[[str], int]
"""A tokeniser, as far as it matters here: the number of tokens of a text."""

PER_REQUEST = 10
"""Tokens around two chat messages: 4 a message and 2 for the reply, by OpenAI's older rule."""

_SPREAD = (0.7, 1.5)  # English prose is 8 % below the estimate, digits and code a third above it
_FREE_TEXT = (16, 400)
_FREE_STRING = (1, 100)
_LIST_LENGTH = 8
_DEPTH = 8  # a schema may refer to itself
_SCALARS = {"integer": (1, 4), "number": (1, 6), "boolean": (1, 1), "null": (1, 1)}
# Tokens that are thought, billed as output and never shown; by how hard the model was told to think.
_THOUGHT = {"minimal": 64, "low": 512, "medium": 2_048, "high": 8_192, "xhigh": 16_384}


def tokens_in(text: str, count: Counter | None = None) -> int:
    """The tokens of a text: exact with a tokeniser, else estimated from its length.

    A token is about 4 characters of ASCII, 2 of Cyrillic, 1 of Chinese.

    Examples
    --------
    >>> tokens_in("My parcel never arrived.")
    6
    """
    if count is not None:
        return count(text)
    chars = len(text)
    size = chars if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return math.ceil(chars / 4 + (size - chars) / 3)


def range_of(total: int, exact: bool) -> tuple[int, int]:
    """The range a sum of `tokens_in` stands for: a point where a tokeniser counted."""
    if exact:
        return total, total
    return math.floor(total * _SPREAD[0]), math.ceil(total * _SPREAD[1])


def estimate(texts: Iterable[str], count: Counter | None = None) -> tuple[int, int]:
    """The tokens of many texts together, as (low, high)."""
    return range_of(sum(tokens_in(text, count) for text in texts), exact=count is not None)


def max_output(params: Mapping[str, Any]) -> int | None:
    """The cap on output tokens that a call's params set, if they do."""
    for name in ("max_completion_tokens", "max_tokens"):
        cap = params.get(name)
        if isinstance(cap, int) and not isinstance(cap, bool) and cap > 0:
            return cap
    return None


def prompt_tokens(question: Question, count: Counter | None = None) -> int:
    """The tokens of a question's request beside those of its text."""
    return 0 if question.path == EMBEDDINGS else tokens_in(question.system, count) + PER_REQUEST


def answer_tokens(question: Question, count: Counter | None = None) -> tuple[int, int]:
    """The output tokens that an answer to a question may take, as (low, high); a vector has none."""
    if question.path == EMBEDDINGS:
        return 0, 0
    return expected_output(question.schema, question.params, count)


def expected_output(
    schema: Mapping[str, Any] | None, params: Mapping[str, Any], count: Counter | None = None
) -> tuple[int, int]:
    """The output tokens one answer may take, as (low, high).

    The high end is the cap in `params` where there is one; else the longest the schema allows, with a
    guess for free text, and what the asked reasoning effort may add.
    """
    low, high = _FREE_TEXT if schema is None else _span(schema, schema, count, _DEPTH)
    if count is None:
        low = max(1, math.floor(low * _SPREAD[0]))
    cap = max_output(params)
    if cap is not None:
        return min(low, cap), cap
    return low, high + _THOUGHT.get(str(params.get("reasoning_effort")), 0)


def admission_tokens(input_tokens: int, params: Mapping[str, Any], expected: int) -> int:
    """What the provider counts against its tokens a minute when a request comes in.

    Parameters
    ----------
    input_tokens
        Of the whole request, fixed part included.
    params
        The call's; a cap on the output is counted in full, however short the answer is.
    expected
        Output tokens of an answer: the low end of `expected_output` at first, then what replies took.
    """
    return max(max_output(params) or 0, input_tokens + expected)


def _span(
    node: Mapping[str, Any], root: Mapping[str, Any], count: Counter | None, depth: int
) -> tuple[int, int]:
    """The fewest and the most tokens of a value that fits a JSON schema."""
    if not depth:
        return 1, _FREE_STRING[1]
    if "$ref" in node:
        return _span(_resolve(node["$ref"], root), root, count, depth - 1)
    if "enum" in node or "const" in node:
        values = node["enum"] if "enum" in node else [node["const"]]
        sizes = [tokens_in(json.dumps(value, ensure_ascii=False), count) for value in values]
        return min(sizes, default=1), max(sizes, default=1)
    kinds = node.get("type")
    choices = node.get("anyOf") or node.get("oneOf")
    if isinstance(kinds, list):
        choices = [{**node, "type": kind} for kind in kinds]
    if choices:
        spans = [_span(choice, root, count, depth - 1) for choice in choices]
        return min(low for low, _ in spans), max(high for _, high in spans)
    return _span_of_type(node, root, count, depth)


def _span_of_type(
    node: Mapping[str, Any], root: Mapping[str, Any], count: Counter | None, depth: int
) -> tuple[int, int]:
    kind = node.get("type")
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind == "array":
        low, high = _span(node.get("items") or {}, root, count, depth - 1)
        fewest, most = node.get("minItems", 0), node.get("maxItems", _LIST_LENGTH)
        return 2 + fewest * low, 2 + most * (high + 1)
    if kind == "object":
        spans = [
            (tokens_in(name, count), _span(value, root, count, depth - 1))
            for name, value in node.get("properties", {}).items()
        ]
        # Between `{"a":"b"}`, where quotes, colon and brackets share tokens, and a pretty-printed object.
        return 1 + sum(key + 1 + low for key, (low, _) in spans), 2 + sum(
            key + 3 + high for key, (_, high) in spans
        )
    longest = node.get("maxLength")
    return _FREE_STRING if longest is None else (1, min(_FREE_STRING[1], max(1, longest)))


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    node: Any = root
    for part in reference.removeprefix("#").split("/"):
        if part:
            node = node[part.replace("~1", "/").replace("~0", "~")]
    found: Mapping[str, Any] = node
    return found
