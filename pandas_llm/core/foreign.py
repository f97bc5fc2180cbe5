"""Reading JSON of servers that only resemble OpenAI's: what isn't of its type counts as absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson


def loaded(data: bytes) -> Any:
    """JSON, also where it isn't quite: half characters and -Infinity, because the reply is paid for.

    Raises
    ------
    ValueError, RecursionError
        It isn't JSON at all, or is nested too deeply.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data.decode("utf-8", "replace"))


def mapping(value: Any) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """The array, or an empty one."""
    return value if isinstance(value, list) else []


def word(value: Any) -> str | None:
    """The string, or None."""
    return value if isinstance(value, str) else None


def count(value: Any) -> int:
    """The number of things, 0 where it isn't one."""
    if type(value) is int and value >= 0:
        return value
    return int(value) if isinstance(value, (int, float)) and 0 < value < math.inf else 0
