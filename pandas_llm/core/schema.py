"""What a user calls a schema -> the shape of an answer: what is sent, which columns, what fits it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime
from types import FunctionType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Protocol, Required, Union, get_args, get_origin

from pandas_llm.core.conform import check, json_type, mismatch, same
from pandas_llm.core.errors import SchemaError, SchemaMismatchError
from pandas_llm.core.prompts import excerpt, to_json
from pandas_llm.core.strict import JsonSchema, strict
from pandas_llm.core.types import Field, Kind, Values

_SCALAR_KINDS: dict[str, Kind] = {
    "string": "text",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
}
_KEPT_AS = {
    "text": ("string",),
    "int": ("integer",),
    "float": ("integer", "number"),
    "bool": ("boolean",),
    "datetime": ("string",),
}


class Load(Protocol):
    """A reply's JSON object -> the same object checked, its keys the fields' names, or those sent."""

    def __call__(self, value: Any, /, *, as_sent: bool) -> dict[str, Any]:
        """`SchemaMismatchError` naming the field where it doesn't fit."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """One record: what is sent, which columns come of it, and what fits."""

    json_schema: JsonSchema
    """In strict form."""
    fields: tuple[Field, ...]
    load: Load

    def record(self, value: Any, *, as_sent: bool = False) -> dict[str, Any]:
        """The value as a record of JSON values.

        Raises
        ------
        SchemaMismatchError
            Saying which field, what came and what is allowed.
        """
        if not isinstance(value, dict):
            raise mismatch("", "a record must be a JSON object", value)
        try:
            record = self.load(value, as_sent=as_sent)
        except SchemaMismatchError:
            raise
        except Exception as error:
            # A model's own validators may raise anything: that is this row's error, not the run's.
            problem = f"the schema's own validation raised {type(error).__name__}: {error}"
            raise mismatch("", problem, value) from error
        if not as_sent:
            for field in self.fields:
                _check_kept(field, record[field.name])
        return record

    def validate(self, value: Any) -> Values:
        """The values of a record in the fields' order; `SchemaMismatchError` where it doesn't fit."""
        record = self.record(value)
        return [record[field.name] for field in self.fields]


def shape_of(schema: Any) -> Shape:
    """The shape of one record.

    Parameters
    ----------
    schema : type, dict or list
        A pydantic model, a TypedDict, `{field: type}`, a list of field names (text), or a JSON schema.

    Raises
    ------
    SchemaError
        Saying which field can't be and how to write it instead.
    """
    from pydantic import BaseModel
    from typing_extensions import is_typeddict

    if isinstance(schema, type) and issubclass(schema, BaseModel):
        hidden = {name for name, field in schema.model_fields.items() if field.exclude}
        return _typed_shape(schema, hidden)
    if is_typeddict(schema):
        return _typed_shape(_extended(schema, {}))
    if isinstance(schema, Mapping):
        return _json_shape(schema) if _is_json_schema(schema) else _typed_shape(_fields_type(schema))
    if isinstance(schema, (list, tuple)):
        return _typed_shape(_fields_type(_named(schema)))
    raise SchemaError(_not_a_schema(schema))


def _not_a_schema(schema: Any) -> str:
    ways = "A schema is a pydantic model, a TypedDict, {field: type}, a list of names or a JSON schema"
    if get_origin(schema) in (list, tuple):
        return f"{ways}, of one record; got {excerpt(schema)}: write the record's type and many=True."
    if isinstance(schema, str):
        return (
            f"{ways}; got the text {excerpt(schema)}: write [{excerpt(schema)}] for one field of that name."
        )
    if any(base.__name__ == "BaseModel" for base in type(schema).__mro__):
        return f"{ways}; got an instance of {type(schema).__name__}: write the class itself."
    return f"{ways}; got {excerpt(schema)}."


def _is_json_schema(schema: Mapping[Any, Any]) -> bool:
    """Whether a dict is a JSON schema: `{"type": str}` is a field named type, `{"type": "object"}` is not."""
    return (
        isinstance(schema.get("type"), str)
        or isinstance(schema.get("properties"), Mapping)
        or isinstance(schema.get("$ref"), str)
        or isinstance(schema.get("anyOf"), list)
    )


# --- a JSON schema, checked by our own few rules


def _json_shape(schema: Mapping[str, Any]) -> Shape:
    raw = json.loads(json.dumps(schema, default=str))
    sent = strict(raw, written=True)
    defs = {**raw.get("definitions", {}), **raw.get("$defs", {})}
    while "$ref" in raw:
        raw = defs[raw["$ref"].rpartition("/")[2]]
    fields = _fields(raw["properties"], defs, raw["properties"])
    dates = {field.name for field in fields if field.kind == "datetime"}

    def load(value: Any, /, *, as_sent: bool) -> dict[str, Any]:
        check(value, raw, defs)
        record = {name: value.get(name) for name in raw["properties"]}
        if not as_sent:
            record |= {name: _iso(record[name]) for name in dates if record[name] is not None}
        return record

    return Shape(sent, fields, load)


def _iso(text: str) -> str:
    """A date written the one way every reader of columns knows; ISO 8601 has many."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return datetime.fromisoformat(text).isoformat()


# --- types, checked by pydantic


def _typed_shape(kind: Any, hidden: AbstractSet[str] = frozenset()) -> Shape:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(kind)
        by_alias = adapter.json_schema(by_alias=True)
        by_name = adapter.json_schema(by_alias=False)
    except (PydanticUserError, NameError) as error:
        raise SchemaError(f"{kind.__name__} can't be a schema: {_first_line(error)}") from None
    sent = strict(by_alias)
    defs = by_name.get("$defs", {})
    properties = _resolved(by_name, defs)["properties"]
    fields = _fields([name for name in properties if name not in hidden], defs, properties)

    def load(value: Any, /, *, as_sent: bool) -> dict[str, Any]:
        try:
            # Strict from JSON, not from Python: only there may a date be text.
            checked = adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise SchemaMismatchError(_problems(error)) from None
        dumped: dict[str, Any] = adapter.dump_python(checked, mode="json", by_alias=as_sent)
        return dumped

    return Shape(sent, fields, load)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _problems(error: Any) -> str:
    """At most three of a pydantic error's problems, on one line."""
    found = error.errors(include_url=False, include_context=False)
    texts = []
    for problem in found[:3]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        got = {} if problem["type"] == "missing" else {"got": problem["input"]}
        texts.append(str(mismatch(path.removeprefix("."), problem["msg"], **got)))
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(texts) + more


def _named(names: Sequence[Any]) -> dict[str, Any]:
    for name in names:
        if not isinstance(name, str):
            raise SchemaError(
                f"A list as schema holds the names of text fields; got {excerpt(name)}. "
                "For other types write {field: type}; for several records of each text, many=True."
            )
        if names.count(name) > 1:
            raise SchemaError(f"Field {name!r} is in the list twice.")
    return dict.fromkeys(names, str)


_TYPE_NAMES = ("str", "int", "float", "bool", "date", "datetime")


def _fields_type(hints: Mapping[Any, Any]) -> Any:
    """A type for `{field: type}`: any name may be a field's, and each may be absent from the text."""
    if not hints:
        raise SchemaError("The schema has no fields.")
    for name, hint in hints.items():
        if not isinstance(name, str) or not name.strip():
            raise SchemaError(f"A field's name is text; got {excerpt(name)}.")
        _check_hint(name, hint)
    done: dict[Any, Any] = {}
    return _typed_dict("Record", {name: _extended(hint, done) | None for name, hint in hints.items()})


def _check_hint(name: str, hint: Any) -> None:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    if isinstance(hint, str):
        near = difflib.get_close_matches(hint.rstrip("0123456789").lower(), _TYPE_NAMES, n=1)
        instead = (
            f"the type {near[0]}, without quotes" if near else "a type; Annotated[str, Field(description=…)]"
        )
        more = "" if near else " if it was meant as a description"
        raise SchemaError(f"Field {name!r} has the text {excerpt(hint)} for a type: write {instead}{more}.")
    if isinstance(hint, (Mapping, list, tuple, set, int, float, FunctionType)) or hint is None:
        raise SchemaError(
            f"Field {name!r} has {excerpt(hint)} for a type: write str, int, float, bool, date, "
            "list[str], Literal[…], an Enum, or a TypedDict or pydantic model for a record within the record."
        )
    if hint in (complex, bytes, bytearray):
        # pydantic writes them as strings into a schema and then reads nothing back from a reply.
        raise SchemaError(f"Field {name!r}: {hint.__name__} is no type JSON has; write str or float.")
    try:
        TypeAdapter(_extended(hint, {}))
    except (PydanticUserError, NameError) as error:
        raise SchemaError(
            f"Field {name!r}: {excerpt(hint)} is no type JSON has: {_first_line(error)}"
        ) from None


def _typed_dict(name: str, hints: dict[str, Any], like: Any = None) -> Any:
    from pydantic import ConfigDict
    from typing_extensions import TypedDict

    make: Any = TypedDict
    made = make(name, hints)
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    made.__module__ = getattr(like, "__module__", __name__)
    made.__doc__ = getattr(like, "__doc__", None)
    return made


def _extended(hint: Any, done: dict[Any, Any]) -> Any:
    """The type with each TypedDict in it made anew: before Python 3.12 pydantic refuses typing's."""
    from typing_extensions import is_typeddict

    if is_typeddict(hint):
        if hint in done and done[hint] is None:
            raise SchemaError(f"{hint.__name__} contains itself: write it as a pydantic model.")
        if hint not in done:
            done[hint] = None
            done[hint] = _typed_dict(hint.__name__, _hints_of(hint, done), hint)
        return done[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[_extended(parts[0], done), *hint.__metadata__]
    new = tuple(part if origin is Literal else _extended(part, done) for part in parts)
    if new == parts:
        return hint
    return Union[new] if origin in (Union, UnionType) else origin[new]  # noqa: UP007


def _hints_of(kind: Any, done: dict[Any, Any]) -> dict[str, Any]:
    from typing_extensions import ReadOnly, get_type_hints

    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise SchemaError(f"{kind.__name__} names a type that can't be found here: {error}.") from None
    qualifiers: tuple[Any, ...] = (NotRequired, Required, ReadOnly)
    origin: Any
    result = {}
    for name, given in hints.items():
        hint, optional = given, name in kind.__optional_keys__
        while (origin := get_origin(hint)) in qualifiers:
            optional = origin is NotRequired or (optional and origin is not Required)
            hint = get_args(hint)[0]
        # Strict mode has no optional keys: what may be left out may be null.
        result[name] = _extended(hint, done) | None if optional else _extended(hint, done)
    return result


# --- columns


def _fields(
    names: Sequence[str] | Mapping[str, Any], defs: Mapping[str, Any], properties: Mapping[str, Any]
) -> tuple[Field, ...]:
    found = []
    for name in names:
        kind, categories = _kind(properties[name], defs)
        found.append(Field(name, kind, categories))
    return tuple(found)


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        node = defs[node["$ref"].rpartition("/")[2]]
    return node


def _kind(node: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[Kind, tuple[Any, ...]]:
    """A field's kind, from its schema before it became strict; whether it may be null doesn't matter."""
    node = _resolved(node, defs)
    forms = [part for part in node.get("anyOf", node.get("oneOf", ())) if part.get("type") != "null"]
    if forms:
        return _kind(forms[0], defs) if len(forms) == 1 else ("object", ())
    choices = [node["const"]] if "const" in node else node.get("enum", ())
    choices = [choice for choice in choices if choice is not None]
    if choices and all(json_type(choice) == json_type(choices[0]) for choice in choices):
        if json_type(choices[0]) in ("string", "integer"):
            return "category", tuple(choices)
        return _SCALAR_KINDS[json_type(choices[0])], ()
    declared = node.get("type", "object")
    types = [declared] if isinstance(declared, str) else [name for name in declared if name != "null"]
    if types == ["string"] and node.get("format") in ("date", "date-time"):
        return "datetime", ()
    return _SCALAR_KINDS.get(types[0], "object") if len(types) == 1 else "object", ()


def _check_kept(field: Field, value: Any) -> None:
    """Raise where a model's own serializer made of a field what its column can't hold."""
    if value is None or field.kind == "object":
        return
    if field.kind == "category":
        fits = any(same(value, known) for known in field.categories)
        allowed = ", ".join(map(to_json, field.categories[:20]))
    else:
        fits = json_type(value) in _KEPT_AS[field.kind]
        allowed = " or ".join(_KEPT_AS[field.kind])
    if not fits:
        raise mismatch(field.name, f"must be {allowed}", value)
