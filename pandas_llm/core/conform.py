"""From a reply's text to a JSON value, and whether that value fits a JSON schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

from pandas_llm.core.errors import SchemaMismatchError
from pandas_llm.core.prompts import excerpt, to_json

_FENCE = re.compile(r"\s*(`{3,})[ \t]*(?:json)?[ \t]*\n(.*)\n[ \t]*\1\s*", re.DOTALL | re.IGNORECASE)


def parse_json(content: str) -> Any:
    """The value of a reply that is JSON from end to end, bare or as one Markdown code block.

    Raises
    ------
    SchemaMismatchError
        It isn't JSON; a key occurs twice; a number is infinite or longer than 64 bits (no column and no
        store could hold it); a string holds half a character.
    """
    block = _FENCE.fullmatch(content)
    try:
        value = _DECODER.decode(block[2] if block else content)
        to_json(value).encode()
    except (ValueError, RecursionError) as error:
        why = "a string holds half a character" if isinstance(error, UnicodeError) else str(error)
        raise SchemaMismatchError(f"the reply is not a JSON value ({why}); got {excerpt(content)}") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a number is longer than 64 bits")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant
)


def json_type(value: Any) -> str:
    """JSON schema's name of a value's type: True is no integer, 3.0 is a number."""
    return _TYPES.get(type(value), type(value).__name__)


_TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def same(one: Any, other: Any) -> bool:
    """Whether two JSON scalars are the same: for Python 1, 1.0 and True are equal."""
    return type(one) is type(other) and bool(one == other)


def mismatch(path: str, problem: str, got: Any = ...) -> SchemaMismatchError:
    """The error that names the field, what came and what is allowed."""
    where = f"field {path!r}: " if path else ""
    came = "" if got is ... else f"; got {excerpt(got)}"
    return SchemaMismatchError(f"{where}{problem}{came}")


def check(value: Any, node: Mapping[str, Any], defs: Mapping[str, Any], path: str = "") -> None:
    """Raise the first thing in which a value doesn't fit a schema that `strict` let through.

    A property that is not required may be null or left out. Of the formats, dates alone are checked: a
    column's type hangs on them.
    """
    if "$ref" in node:
        return check(value, defs[node["$ref"].rpartition("/")[2]], defs, path)
    if "anyOf" in node or "oneOf" in node:
        return _check_union(value, node, defs, path)
    _check_type(value, node, path)
    for keyword, (types, holds) in _BOUNDS.items():
        applies = keyword in node and isinstance(value, types) and not isinstance(value, bool)
        if applies and not holds(value, node[keyword]):
            raise mismatch(path, f"{keyword} is {node[keyword]}", value)
    if isinstance(value, dict):
        _check_object(value, node, defs, path)
    if isinstance(value, list):
        for number, item in enumerate(value):
            check(item, node["items"], defs, f"{path}[{number}]")
    return None


def _check_type(value: Any, node: Mapping[str, Any], path: str) -> None:
    kind = json_type(value)
    declared = node.get("type")
    allowed = [declared] if isinstance(declared, str) else declared
    if allowed and kind not in allowed and not (kind == "integer" and "number" in allowed):
        raise mismatch(path, f"must be {' or '.join(allowed)}", value)
    choices = [node["const"]] if "const" in node else node.get("enum")
    if choices is not None and not any(same(value, choice) for choice in choices):
        raise mismatch(path, f"must be one of {', '.join(to_json(c) for c in choices[:20])}", value)


def _check_union(value: Any, node: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> None:
    variants = node.get("anyOf") or node["oneOf"]
    problems, fits = [], 0
    for variant in variants:
        try:
            check(value, variant, defs, path)
            fits += 1
        except SchemaMismatchError as problem:
            if variant.get("type") != "null":
                problems.append(problem)
    if not fits:
        # Where null is the only alternative, the other form's own problem says more.
        raise problems[0] if len(problems) == 1 else mismatch(path, "fits none of the allowed forms", value)
    if fits > 1 and "oneOf" in node:
        raise mismatch(path, "must fit exactly one of the allowed forms, and fits several", value)


def _check_object(value: dict[str, Any], node: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> None:
    properties, required = node["properties"], node.get("required", ())
    for name in value:
        if name not in properties:
            raise mismatch(
                _join(path, name), f"is unknown; the fields are {', '.join(map(repr, properties))}"
            )
    for name, part in properties.items():
        if name in required and name not in value:
            raise mismatch(_join(path, name), "is missing")
        if value.get(name) is not None or name in required:
            check(value[name], part, defs, _join(path, name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_date(text: str, kind: str) -> bool:
    try:
        if kind == "date":
            date.fromisoformat(text)
        elif kind == "date-time":
            datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_multiple(value: float, step: float) -> bool:
    parts = value / step
    return math.isclose(parts, round(parts), rel_tol=1e-9, abs_tol=1e-9)


_BOUNDS: dict[str, tuple[tuple[type, ...], Callable[[Any, Any], bool]]] = {
    "minimum": ((int, float), lambda value, bound: value >= bound),
    "maximum": ((int, float), lambda value, bound: value <= bound),
    "exclusiveMinimum": ((int, float), lambda value, bound: value > bound),
    "exclusiveMaximum": ((int, float), lambda value, bound: value < bound),
    "multipleOf": ((int, float), _is_multiple),
    "minLength": ((str,), lambda value, bound: len(value) >= bound),
    "maxLength": ((str,), lambda value, bound: len(value) <= bound),
    "minItems": ((list,), lambda value, bound: len(value) >= bound),
    "maxItems": ((list,), lambda value, bound: len(value) <= bound),
    "pattern": ((str,), lambda value, bound: re.search(bound, value) is not None),
    "format": ((str,), _is_date),
}
BOUNDS = tuple(_BOUNDS)
"""The keywords that bound a value; here they are checked, whatever the server does with them."""
