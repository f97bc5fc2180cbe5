"""JSON schemas as strict mode takes them: every property required, none unknown, and only keywords it knows.

The result is a normal form that depends on no library's habits, since it goes into every answer's key.
Bounds, patterns and formats become words of the description: not every server knows them as keywords, all
models read them as words, and replies are checked against them here in any case.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pandas_llm.core.conform import BOUNDS, json_type
from pandas_llm.core.errors import SchemaError
from pandas_llm.core.prompts import excerpt

JsonSchema = dict[str, Any]

_SCALARS = ("string", "integer", "number", "boolean")
_PYTHON_NAMES = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "None": "null",
}
_KNOWN = (
    *("type", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "enum", "const"),
    *("description", "$ref", "$defs", "definitions"),
)
_IGNORED = (
    *("title", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$id"),
    *("$comment", "discriminator", "contentEncoding", "contentMediaType"),
)
_FREE_KEYS = ("free keys", "name the fields, or write a list of records with the fields key and value")
_TUPLE = ("tuples", "write a record within the record, with a named field for each place")
_CASES = ("conditions", "write anyOf with one form for each case")
_REFUSED = {
    "patternProperties": _FREE_KEYS,
    "propertyNames": _FREE_KEYS,
    "minProperties": _FREE_KEYS,
    "maxProperties": _FREE_KEYS,
    "unevaluatedProperties": _FREE_KEYS,
    "prefixItems": _TUPLE,
    "unevaluatedItems": _TUPLE,
    "additionalItems": _TUPLE,
    "uniqueItems": ("sets", "write a list, such as list[str]"),
    "contains": ("conditions on lists", "write it in the description"),
    "allOf": ("schemas put together", "write all properties in one object"),
    "not": ("negations", "write what is allowed"),
    "if": _CASES,
    "then": _CASES,
    "else": _CASES,
    "dependentRequired": _CASES,
    "dependentSchemas": _CASES,
}
_HINTS = {
    ("format", "date"): "a date, YYYY-MM-DD",
    ("format", "date-time"): "ISO 8601 date and time",
    ("format", "time"): "ISO 8601 time",
    ("format", "duration"): "ISO 8601 duration",
}


def strict(schema: Mapping[str, Any], *, written: bool = False) -> JsonSchema:
    """The strict form of a schema of an object; applied twice it is the same as once.

    Parameters
    ----------
    schema : mapping
    written : bool
        Whether a person wrote it: an unknown keyword is then a slip, and a property that isn't required
        may be null. A generated one may hold extras, and its optional properties have defaults.

    Raises
    ------
    SchemaError
        Naming the field that strict mode can't express and how to write it instead.
    """
    pass_ = _Pass({**schema.get("definitions", {}), **schema.get("$defs", {})}, written)
    root = pass_.node({k: v for k, v in schema.items() if k not in ("$defs", "definitions")}, "")
    if "$ref" in root:
        root = pass_.node(pass_.target(root, ""), "")
    if root.get("type") != "object":
        raise SchemaError(
            "A schema describes one record: an object with properties at the top; this one is "
            f"{_kind(root)}. For several records of each text write the schema of one, and many=True."
        )
    defs: JsonSchema = {}
    while waiting := [name for name in pass_.used if name not in defs]:
        for name in waiting:
            defs[name] = pass_.node(pass_.defs[name], pass_.used[name])
    if defs:
        root["$defs"] = defs
    check_limits(root)
    return root


def nullable(node: JsonSchema) -> JsonSchema:
    """The schema with null allowed beside what it allows."""
    kind = node.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return node
    if "anyOf" in node:
        known = any(part.get("type") == "null" for part in node["anyOf"])
        return node if known else {**node, "anyOf": [*node["anyOf"], {"type": "null"}]}
    if kind in _SCALARS:
        choices = {"enum": [*node["enum"], None]} if "enum" in node else {}
        return {**node, "type": [kind, "null"], **choices}
    return {"anyOf": [node, {"type": "null"}]}


def fits_enum(choices: Iterable[object]) -> bool:
    """Whether strict mode takes these as one enum: its limits on values and on their total length."""
    lengths = [len(str(choice)) for choice in choices]
    return len(lengths) <= 1000 and sum(lengths) <= (15_000 if len(lengths) > 250 else 120_000)


@dataclass(slots=True)
class _Pass:
    """One walk over a schema; definitions are walked once each, when something refers to them."""

    defs: Mapping[str, Any]
    written: bool
    used: dict[str, str] = field(default_factory=dict)
    """Definitions referred to, with the path where that was first."""

    def node(self, node: Any, path: str, inlined: frozenset[str] = frozenset()) -> JsonSchema:
        if not isinstance(node, Mapping):
            raise _error(path, f"its schema is {excerpt(node)}", "write an object such as {'type': 'string'}")
        self._check_keywords(node, path)
        if "$ref" in node:
            return self._reference(node, path, inlined)
        if "anyOf" in node or "oneOf" in node:
            return self._union(node, path, inlined)
        return self._typed(node, path, inlined)

    def target(self, node: Mapping[str, Any], path: str) -> Any:
        """What a reference means."""
        name = _reference_name(node["$ref"], path)
        if name not in self.defs:
            raise _error(path, f"$ref names {name!r}, which $defs lacks", _near(name, self.defs))
        return self.defs[name]

    def _check_keywords(self, node: Mapping[str, Any], path: str) -> None:
        for keyword in node:
            if keyword in _REFUSED and node[keyword] is not False:
                what, instead = _REFUSED[keyword]
                raise _error(path, f"strict mode has no {what} ({keyword!r})", instead)
            if not self.written or keyword in _KNOWN + _IGNORED + BOUNDS or keyword.startswith("x-"):
                continue
            raise _error(path, f"unknown keyword {keyword!r}", _near(keyword, _KNOWN + BOUNDS))
        if self.written:
            _check_bounds(node, path)

    def _reference(self, node: Mapping[str, Any], path: str, inlined: frozenset[str]) -> JsonSchema:
        target, name = self.target(node, path), _reference_name(node["$ref"], path)
        if node.get("description") and name not in inlined:
            # Nothing may stand beside $ref: what is described here is written out here.
            written_out = {**target, "description": node["description"]}
            return self.node(written_out, path, inlined | {name})
        self.used.setdefault(name, path)
        return {"$ref": f"#/$defs/{name}"}

    def _union(self, node: Mapping[str, Any], path: str, inlined: frozenset[str]) -> JsonSchema:
        beside = [k for k in node if k in ("type", "properties", "items", "enum", "const", "$ref")]
        parts = node.get("anyOf") or node.get("oneOf")
        if beside or ("anyOf" in node and "oneOf" in node) or not isinstance(parts, list) or not parts:
            raise _error(
                path, "anyOf stands alone and lists at least one form", "move the rest into its forms"
            )
        description = _described(node)
        forms = [self.node(part, path, inlined) for part in parts]
        others = [form for form in forms if form != {"type": "null"}]
        if len(others) == 1 and (len(forms) == 1 or _is_scalar(others[0])):
            one = others[0] if len(forms) == 1 else nullable(others[0])
            return _with_description(one, description) if "$ref" not in one else one
        return {**description, "anyOf": forms}

    def _typed(self, node: Mapping[str, Any], path: str, inlined: frozenset[str]) -> JsonSchema:
        choices = _choices(node, path)
        types = _types(node, choices, path)
        names = [name for name in types if name != "null"]
        if len(names) > 1:
            forms = [{**node, "type": name} for name in types]
            return self._union({"anyOf": [_without_description(f) for f in forms]}, path, inlined)
        name = names[0] if names else "null"
        result: JsonSchema = {"type": name, **_described(node)}
        if choices is not None:
            result["enum"] = [choice for choice in choices if choice is not None]
        if name == "object":
            result |= self._object(node, path, inlined)
        if name == "array":
            if not isinstance(node.get("items"), Mapping) or not node["items"]:
                raise _error(path, "it is a list of anything", "say of what, such as list[str]")
            result["items"] = self.node(node["items"], f"{path}[]", inlined)
        may_be_null = "null" in types and (choices is None or None in choices)
        return nullable(result) if may_be_null else result

    def _object(self, node: Mapping[str, Any], path: str, inlined: frozenset[str]) -> JsonSchema:
        if node.get("additionalProperties", False) is not False:
            what, instead = _FREE_KEYS
            raise _error(path, f"strict mode has no {what} (a dict, or extra='allow')", instead)
        properties, required = node.get("properties"), node.get("required", [])
        if not isinstance(properties, Mapping) or not properties:
            raise _error(path, "it is an object without fields", "name them")
        for name in required:
            if name not in properties:
                raise _error(path, f"required names {name!r}", _near(name, properties))
        parts = {}
        for name, part in properties.items():
            result = self.node(part, f"{path}.{name}" if path else name, inlined)
            parts[name] = nullable(result) if self.written and name not in required else result
        return {"properties": parts, "required": list(parts), "additionalProperties": False}


def _check_bounds(node: Mapping[str, Any], path: str) -> None:
    """Raise for a bound that would fail every reply."""
    for keyword in BOUNDS:
        allowed = ("string",) if keyword in ("pattern", "format") else ("integer", "number")
        if keyword in node and json_type(node[keyword]) not in allowed:
            raise _error(path, f"{keyword} is {excerpt(node[keyword])}", f"write a {allowed[-1]}")
    try:
        re.compile(node.get("pattern", ""))
    except re.error as error:
        raise _error(path, f"the pattern {excerpt(node['pattern'])} is invalid ({error})") from None


def _is_scalar(node: JsonSchema) -> bool:
    kind = node.get("type")
    return kind in _SCALARS or isinstance(kind, list)


def _reference_name(reference: Any, path: str) -> str:
    for start in ("#/$defs/", "#/definitions/"):
        if isinstance(reference, str) and reference.startswith(start):
            return reference.removeprefix(start)
    raise _error(path, f"$ref {excerpt(reference)}", "move what it names to $defs and write '#/$defs/…'")


def _choices(node: Mapping[str, Any], path: str) -> list[Any] | None:
    choices = [node["const"]] if "const" in node else node.get("enum")
    if choices is None:
        return None
    if not isinstance(choices, (list, tuple)) or not choices:
        raise _error(path, "it is an enum without values", "list them")
    kinds = {json_type(choice) for choice in choices} - {"null"}
    if len(kinds) > 1 or not kinds <= set(_SCALARS):
        raise _error(path, f"its values mix {' and '.join(sorted(kinds))}", "write them all as text")
    if len(set(choices)) < len(choices):
        raise _error(path, "a value of the enum occurs twice", "list each once")
    return list(choices)


def _types(node: Mapping[str, Any], choices: list[Any] | None, path: str) -> list[str]:
    declared = node.get("type")
    if declared is None and choices is not None:
        declared = sorted({json_type(choice) for choice in choices}, key=lambda kind: kind == "null")
    if declared is None and ("properties" in node or "items" in node):
        declared = "object" if "properties" in node else "array"
    if declared is None:
        raise _error(
            path, "it may be anything", "say which type: str, int, float, bool, list[str] or another"
        )
    types = [declared] if isinstance(declared, str) else declared
    for name in types if isinstance(types, list) else [types]:
        if name not in (*_SCALARS, "object", "array", "null"):
            near = _PYTHON_NAMES.get(str(name))
            hint = f"write {near!r}" if near else _near(name, (*_SCALARS, "object", "array", "null"))
            raise _error(path, f"unknown type {excerpt(name)}", hint)
    for choice in choices or ():
        kind = json_type(choice)
        if kind not in types and not (kind == "integer" and "number" in types):
            raise _error(
                path, f"the enum's {excerpt(choice)} is no {' or '.join(types)}", "give one type to all"
            )
    return list(types)


def _described(node: Mapping[str, Any]) -> JsonSchema:
    hints = [_HINTS.get((key, str(node[key])), f"{key} {node[key]}") for key in BOUNDS if key in node]
    parts = [node.get("description") or "", f"({', '.join(hints)})" if hints else ""]
    text = " ".join(part for part in parts if part)
    return {"description": text} if text else {}


def _with_description(node: JsonSchema, outer: JsonSchema) -> JsonSchema:
    """The node described by both: by what stood around the union, then by its own bounds."""
    texts = [part["description"] for part in (outer, node) if "description" in part]
    return {**node, "description": " ".join(dict.fromkeys(texts))} if texts else node


def _without_description(node: Mapping[str, Any]) -> JsonSchema:
    return {key: value for key, value in node.items() if key != "description"}


def _kind(node: Mapping[str, Any]) -> str:
    return "anyOf" if "anyOf" in node else f"of type {node.get('type')!r}"


def _near(name: object, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, names)) or 'none'}"


def _error(path: str, problem: str, instead: str = "") -> SchemaError:
    where = f"Field {path!r} of the schema" if path else "The schema"
    text = f"{where}: {problem}{': ' * bool(instead)}{instead}"
    return SchemaError(text if text.endswith("?") else f"{text}.")


def check_limits(schema: Mapping[str, Any]) -> None:
    """Raise where a strict schema is larger than strict mode takes."""
    defs = schema.get("$defs", {})
    nodes = [node for root in (schema, *defs.values()) for node in _nodes(root)]
    names = [*defs, *(name for node in nodes for name in node.get("properties", ()))]
    enums = [node["enum"] for node in nodes if "enum" in node]
    if len(names) - len(defs) > 5000:
        raise SchemaError(f"The schema has {len(names) - len(defs):,} fields; strict mode takes 5,000.")
    if sum(map(len, enums)) > 1000 or not all(map(fits_enum, enums)):
        raise SchemaError(
            f"The schema's enums have {sum(map(len, enums)):,} values. Strict mode takes 1,000 in all, and "
            "15,000 characters of one above 250 values: make the largest a str field, or use classify()."
        )
    if sum(map(len, names)) + sum(len(str(choice)) for enum in enums for choice in enum) > 120_000:
        raise SchemaError("The schema's names and enum values have over 120,000 characters: shorten them.")
    if _depth(schema, defs, {}) > 10:
        raise SchemaError(
            "The schema nests objects more than 10 deep, which strict mode refuses: flatten it."
        )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for part in _parts(node):
        yield from _nodes(part)


def _parts(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = [node["items"]] if "items" in node else []
    return [*node.get("properties", {}).values(), *items, *node.get("anyOf", ())]


def _depth(node: Mapping[str, Any], defs: Mapping[str, Any], known: dict[str, int]) -> int:
    """Objects within objects; a schema that refers to itself counts once."""
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        if name not in known:
            known[name] = 0
            known[name] = _depth(defs[name], defs, known)
        return known[name]
    deepest = max((_depth(part, defs, known) for part in _parts(node)), default=0)
    return deepest + (node.get("type") == "object")
