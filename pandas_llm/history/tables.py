"""Facts, ranges, counts and replies in text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def readable(reply: str) -> str:
    """A reply as indented JSON without its log-probabilities; one that isn't JSON as it came."""
    try:
        said = _without_logprobs(json.loads(reply))
    except (ValueError, RecursionError):
        return reply
    shown = json.dumps(said, indent=2, ensure_ascii=False)
    try:
        shown.encode()
    except UnicodeEncodeError:  # half a surrogate pair can't be printed
        return json.dumps(said, indent=2)
    return shown


def _without_logprobs(said: Any) -> Any:
    if isinstance(said, list):
        return [_without_logprobs(item) for item in said]
    if not isinstance(said, dict):
        return said
    return {
        name: f"… (of {len(value['content'] or ())} tokens: in .replies)"
        if name == "logprobs" and isinstance(value, dict) and "content" in value
        else _without_logprobs(value)
        for name, value in said.items()
    }


def lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Each fact on a line, its name in a column of its own."""
    return (f"{name:<14}{value}" for name, value in rows)


def between(low: float, high: float, write: Callable[[float], str]) -> str:
    """A range in words.

    >>> between(1, 2, "{:.0f}".format), between(1, 1, "{:.0f}".format)
    ('1 – 2', '1')
    """
    return write(low) if low == high or math.isnan(low) else f"{write(low)} – {write(high)}"


def counts(numbers: Mapping[str, int]) -> str:
    """`438 api, 6 failed`: what there is of each."""
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n)
