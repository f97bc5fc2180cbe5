"""Named fields of each text, one record or with `many` a list of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pandas_llm.core.conform import mismatch, parse_json
from pandas_llm.core.errors import OptionsError, SchemaError, SchemaMismatchError
from pandas_llm.core.prompts import ONE_TEXT, examples_of, excerpt, is_missing, system_message, to_json
from pandas_llm.core.schema import Shape, shape_of
from pandas_llm.core.strict import JsonSchema, check_limits
from pandas_llm.core.types import Field, Task, Values

_OPENING = (
    f"You extract data from texts. {ONE_TEXT} Fill in the fields from what the text says and invent nothing."
)
_ABSENT = " Where the text does not say, a field that may be null is null."
_MANY = (
    " Give one record for each thing of the kind asked for, in the text's order; no record if there is none."
)

_SIDE_COLUMNS = (
    *("error", "source", "input_tokens", "output_tokens", "cost", "cached_tokens", "cache_write_tokens"),
    *(
        "reasoning_tokens",
        "latency",
        "attempts",
        "model",
        "service_tier",
        "finish_reason",
        "request_id",
        "key",
    ),
)


def task(
    schema: Any,
    *,
    many: bool = False,
    instructions: str | None = None,
    examples: Any = None,
    output: str | None = None,
) -> Task:
    """What `extract` asks; an example's output is a dict or a model of the schema, with `many` a list.

    Raises
    ------
    SchemaError
        A schema that strict mode can't express, or a field named like a side column.
    OptionsError
        An example that doesn't fit the schema.
    """
    shape = shape_of(schema)
    read = _Reader(shape, many)
    pairs = examples_of(examples, read.example)
    fields = _fields(shape, many, output)
    stem = output or "extract"
    _check_names(fields, stem)
    opening = _OPENING + (_MANY if many else "") + (_ABSENT if _may_be_null(shape.json_schema) else "")
    records = ' {"records": […]}, each record with' if many else " that has"
    names = ", ".join(to_json(name) for name in shape.json_schema["properties"])
    return Task(
        verb="extract",
        output=stem,
        system=system_message(opening, examples=pairs, instructions=instructions),
        schema=_records(shape.json_schema) if many else shape.json_schema,
        fields=fields,
        read=read,
        allowed=f"Answer again with one JSON object{records} exactly the fields {names}.",
        example_texts=frozenset(text for text, _ in pairs),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """A reply -> one JSON value a field, or with `many` the one list of records."""

    shape: Shape
    many: bool

    def __call__(self, content: str, /) -> Values:
        reply = parse_json(content)
        if not self.many:
            return self.shape.validate(reply)
        if (
            not isinstance(reply, dict)
            or list(reply) != ["records"]
            or not isinstance(reply["records"], list)
        ):
            raise mismatch("", 'the reply must be {"records": […]}', reply)
        return [self._several(reply["records"], as_sent=False)]

    def example(self, output: Any) -> Any:
        """An example's output as the model should give it; OptionsError where it doesn't fit the schema."""
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        if self.many and not isinstance(output, (list, tuple)):
            raise OptionsError(f"its output is a list of records with many=True; got {excerpt(output)}.")
        output = [_with_nulls(item) for item in output] if self.many else _with_nulls(output)
        try:
            value = to_jsonable_python(output, by_alias=True, inf_nan_mode="null", fallback=_scalar)
            if self.many:
                return {"records": self._several(value, as_sent=True)}
            return self.shape.record(value, as_sent=True)
        except (SchemaMismatchError, PydanticSerializationError) as error:
            raise OptionsError(f"its output doesn't fit the schema: {error}.") from None

    def _several(self, items: list[Any], *, as_sent: bool) -> list[dict[str, Any]]:
        records = []
        for number, item in enumerate(items):
            try:
                records.append(self.shape.record(item, as_sent=as_sent))
            except SchemaMismatchError as error:
                raise SchemaMismatchError(f"records[{number}]: {error}") from None
        return records


def _with_nulls(output: Any) -> Any:
    """An example's record, None for what pandas calls missing."""
    if not isinstance(output, Mapping):
        return output
    return {name: None if is_missing(value) else value for name, value in output.items()}


def _scalar(value: Any) -> Any:
    """A numpy number as Python's own."""
    if hasattr(value, "item"):
        return value.item()
    raise OptionsError(f"its output holds a {type(value).__name__}, which JSON has not: {excerpt(value)}.")


def _fields(shape: Shape, many: bool, output: str | None) -> tuple[Field, ...]:
    if many:
        return (Field(output or "records", "object"),)
    if output is None:
        return shape.fields
    return tuple(replace(field, name=f"{output}_{field.name}") for field in shape.fields)


def _check_names(fields: tuple[Field, ...], stem: str) -> None:
    taken = {f"{stem}_{side}" for side in _SIDE_COLUMNS}
    for field in fields:
        if field.name in taken:
            raise SchemaError(
                f"The column of a field would be {field.name!r}, which is a side column of this call. "
                "Rename the field, or write output= for another prefix."
            )


def _records(one: Mapping[str, Any]) -> JsonSchema:
    """The schema of a list of records: strict mode wants an object at the top."""
    record = {key: value for key, value in one.items() if key != "$defs"}
    schema: JsonSchema = {
        "type": "object",
        "properties": {"records": {"type": "array", "items": record}},
        "required": ["records"],
        "additionalProperties": False,
    }
    if "$defs" in one:
        schema["$defs"] = one["$defs"]
    check_limits(schema)
    return schema


def _may_be_null(node: Any) -> bool:
    """Whether null is an answer anywhere in a schema."""
    if isinstance(node, list):
        return any(map(_may_be_null, node))
    if not isinstance(node, Mapping):
        return False
    kind = node.get("type")
    return (
        kind == "null" or (isinstance(kind, list) and "null" in kind) or any(map(_may_be_null, node.values()))
    )
