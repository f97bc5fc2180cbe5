"""Schemas of every kind: what is sent, which columns come of it, what fits and what is refused."""

import enum
import json
import typing
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, Optional, Required

import jsonschema
import pydantic
import pytest
import typing_extensions
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from pandas_llm.core.conform import parse_json
from pandas_llm.core.errors import SchemaError, SchemaMismatchError
from pandas_llm.core.schema import shape_of
from pandas_llm.core.strict import fits_enum, strict

# These live here and not in the tests: type hints are looked up in the module.


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Item(BaseModel):
    """A line of the invoice."""

    sku: str = Field(min_length=2, description="Code")
    count: int = Field(1, ge=1, le=9)


class Invoice(BaseModel):
    vendor: str
    total: float = Field(alias="Total amount", description="With tax", ge=0)
    currency: Literal["EUR", "USD"] | None
    status: Status = Field(description="As printed")
    level: Level | None = None
    due: date
    sent: datetime | None = None
    items: list[Item]
    first: Item | None = Field(None, description="The dearest")
    paid: bool = True


class Node(BaseModel):
    name: str
    children: list["Node"] = []


class TypingItem(typing.TypedDict):
    """A line."""

    sku: str


class TypingInvoice(typing.TypedDict, total=False):
    vendor: Required[Annotated[str, Field(description="Who sells")]]
    note: NotRequired[str]
    items: list[TypingItem]
    first: Optional["TypingItem"]
    status: Status


class ExtendedInvoice(typing_extensions.TypedDict):
    vendor: str
    items: list[TypingItem]
    due: typing_extensions.NotRequired[date | None]


class Endless(typing.TypedDict):
    inner: list["Endless"]


class Lost(typing.TypedDict):
    inner: "Nowhere"  # noqa: F821


REPLY = {
    "vendor": "ACME",
    "Total amount": 12,
    "currency": None,
    "status": "open",
    "level": 2,
    "due": "2026-01-31",
    "sent": "2026-01-01T10:00:00Z",
    "items": [{"sku": "ab", "count": 2}],
    "first": None,
    "paid": False,
}


def sent(schema):
    found = shape_of(schema).json_schema
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def part(schema, name="x"):
    return sent(schema)["properties"][name]


def kinds(schema):
    return {field.name: field.kind for field in shape_of(schema).fields}


# --- pydantic


def test_a_models_fields_become_columns_of_their_kinds_under_their_names():
    shape = shape_of(Invoice)
    assert kinds(Invoice) == {
        "vendor": "text",
        "total": "float",
        "currency": "category",
        "status": "category",
        "level": "category",
        "due": "datetime",
        "sent": "datetime",
        "items": "object",
        "first": "object",
        "paid": "bool",
    }
    assert [field.categories for field in shape.fields if field.categories] == [
        ("EUR", "USD"),
        ("open", "paid"),
        (1, 2),
    ]


def test_a_models_reply_becomes_json_values_in_the_fields_order():
    assert shape_of(Invoice).validate(REPLY) == [
        *("ACME", 12.0, None, "open", 2, "2026-01-31", "2026-01-01T10:00:00Z"),
        *([{"sku": "ab", "count": 2}], None, False),
    ]


def test_every_field_of_a_model_is_required_and_none_is_unknown():
    schema = sent(Invoice)
    assert schema["required"] == list(schema["properties"]) == list(REPLY)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Item"]["required"] == ["sku", "count"]
    assert schema["$defs"]["Item"]["additionalProperties"] is False


def test_bounds_and_formats_are_said_in_words_and_descriptions_are_kept():
    schema = sent(Invoice)
    assert schema["properties"]["Total amount"] == {"type": "number", "description": "With tax (minimum 0)"}
    assert schema["properties"]["due"] == {"type": "string", "description": "(a date, YYYY-MM-DD)"}
    assert schema["$defs"]["Item"]["description"] == "A line of the invoice."
    assert schema["$defs"]["Item"]["properties"] == {
        "sku": {"type": "string", "description": "Code (minLength 2)"},
        "count": {"type": "integer", "description": "(minimum 1, maximum 9)"},
    }


def test_nullable_fields_allow_null_in_each_form():
    properties = sent(Invoice)["properties"]
    assert properties["currency"] == {"type": ["string", "null"], "enum": ["EUR", "USD", None]}
    assert properties["sent"]["type"] == ["string", "null"]
    assert properties["level"] == {"anyOf": [{"$ref": "#/$defs/Level"}, {"type": "null"}]}
    assert properties["first"] == {
        "description": "The dearest",
        "anyOf": [{"$ref": "#/$defs/Item"}, {"type": "null"}],
    }
    # Nothing may stand beside $ref, so what is described is written out.
    assert properties["status"] == {"type": "string", "description": "As printed", "enum": ["open", "paid"]}


class Plain(BaseModel):
    """A person."""

    name: str = Field(description="In full")
    age: int
    tags: list[str]
    mood: Literal["good", "bad"]
    home: "Plain.Home"

    class Home(BaseModel):
        town: str
        level: Level


def _without_titles(node):
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_titles(value)
        for key, value in node.items()
        if key != "title" or not isinstance(value, str)
    }


def test_a_plain_models_schema_is_the_one_the_sdk_makes_without_titles():
    assert sent(Plain) == _without_titles(to_strict_json_schema(Plain))


@pytest.mark.parametrize("model", [Invoice, Item, Node, Plain])
def test_the_sdks_strict_schema_has_the_same_normal_form(model):
    assert strict(to_strict_json_schema(model)) == sent(model)


@pytest.mark.parametrize("model", [Invoice, Item, Node, Plain, TypingInvoice])
def test_strict_form_is_reached_at_once(model):
    assert strict(sent(model)) == sent(model)


def test_a_recursive_model_refers_to_itself():
    schema = sent(Node)
    assert schema["type"] == "object"
    assert schema["$defs"]["Node"]["properties"]["children"] == {
        "type": "array",
        "items": {"$ref": "#/$defs/Node"},
    }
    tree = {"name": "a", "children": [{"name": "b", "children": []}]}
    assert shape_of(Node).validate(tree) == ["a", tree["children"]]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("vendor", 3, "field 'vendor': Input should be a valid string; got 3"),
        ("Total amount", "12 EUR", "field 'Total amount': Input should be a valid number.*; got '12 EUR'"),
        ("Total amount", -1, "greater than or equal to 0; got -1"),
        ("currency", "CHF", "field 'currency': Input should be 'EUR' or 'USD'; got 'CHF'"),
        ("status", "OPEN", "field 'status': Input should be 'open' or 'paid'; got 'OPEN'"),
        ("level", 3, "field 'level'.*got 3"),
        ("level", "2", "field 'level'"),
        ("due", "31/01/2026", "field 'due'.*; got '31/01/2026'"),
        ("due", 20260131, "field 'due'"),
        ("paid", 1, "field 'paid': Input should be a valid boolean; got 1"),
        ("paid", "true", "field 'paid'"),
        ("items", [{"sku": "a", "count": 2}], r"field 'items\[0\].sku': .*at least 2"),
        ("items", [{"sku": "ab", "count": 10}], r"field 'items\[0\].count'.*less than or equal to 9; got 10"),
        ("items", None, "field 'items': Input should be a valid"),
    ],
)
def test_a_reply_that_does_not_fit_names_the_field_what_came_and_what_is_allowed(field, value, says):
    with pytest.raises(SchemaMismatchError, match=says) as caught:
        shape_of(Invoice).validate({**REPLY, field: value})
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named():
    with pytest.raises(SchemaMismatchError, match=r"^field 'vendor': Field required$"):
        shape_of(Invoice).validate({key: value for key, value in REPLY.items() if key != "vendor"})


def test_at_most_three_problems_are_told():
    with pytest.raises(SchemaMismatchError, match=r"; and 7 more$"):
        shape_of(Invoice).validate({key: {} for key in REPLY})


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_only_an_object_is_a_record(value):
    with pytest.raises(SchemaMismatchError, match="a record must be a JSON object"):
        shape_of(Invoice).validate(value)


class Picky(BaseModel):
    x: str

    @field_validator("x")
    @classmethod
    def _check(cls, value):
        if value == "crash":
            raise KeyError(value)
        if value == "odd":
            raise ValueError("no odd things")
        return value.strip()


def test_a_models_own_validators_judge_the_reply_and_cannot_break_the_run():
    assert shape_of(Picky).validate({"x": " a "}) == ["a"]
    with pytest.raises(SchemaMismatchError, match="no odd things; got 'odd'"):
        shape_of(Picky).validate({"x": "odd"})
    with pytest.raises(SchemaMismatchError, match="validation raised KeyError: 'crash'"):
        shape_of(Picky).validate({"x": "crash"})


class Rewriting(BaseModel):
    x: int
    secret: str = Field("", exclude=True)

    @field_serializer("x")
    def _text(self, value):
        return f"no. {value}"


def test_what_a_serializer_makes_of_a_field_must_fit_its_column():
    assert kinds(Rewriting) == {"x": "int"}
    with pytest.raises(SchemaMismatchError, match=r"field 'x': must be integer; got 'no. 3'"):
        shape_of(Rewriting).validate({"x": 3, "secret": ""})


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


def test_a_discriminated_union_is_sent_as_any_of_its_forms():
    assert part(Owner, "pet") == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert shape_of(Owner).validate({"pet": {"kind": "dog"}}) == [{"kind": "dog"}]


class Odd(BaseModel):
    model_config = ConfigDict(json_schema_extra={"x-unit": "cm", "house": "style"})
    value: float = Field(json_schema_extra={"unit": "cm"}, examples=[1.5], title="Value of it")


def test_what_a_generated_schema_holds_beside_the_schema_is_left_out():
    assert sent(Odd) == {
        "type": "object",
        "properties": {"value": {"type": "number"}},
        "required": ["value"],
        "additionalProperties": False,
    }


# --- TypedDicts


def test_both_kinds_of_typed_dict_are_taken_as_declared():
    schema = sent(TypingInvoice)
    assert schema["properties"] == {
        "vendor": {"type": "string", "description": "Who sells"},
        "note": {"type": ["string", "null"]},
        "items": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/TypingItem"}}, {"type": "null"}]},
        "first": {"anyOf": [{"$ref": "#/$defs/TypingItem"}, {"type": "null"}]},
        "status": {"anyOf": [{"$ref": "#/$defs/Status"}, {"type": "null"}]},
    }
    assert schema["$defs"]["TypingItem"]["description"] == "A line."
    assert kinds(TypingInvoice)["status"] == "category"
    assert kinds(ExtendedInvoice) == {"vendor": "text", "items": "object", "due": "datetime"}
    assert sent(ExtendedInvoice)["required"] == ["vendor", "items", "due"]


def test_a_typed_dicts_reply_is_checked_to_the_depth():
    shape = shape_of(TypingInvoice)
    reply = {"vendor": "A", "note": None, "items": [{"sku": "x"}], "first": None, "status": "paid"}
    assert shape.validate(reply) == ["A", None, [{"sku": "x"}], None, "paid"]
    with pytest.raises(SchemaMismatchError, match=r"field 'items\[0\].size': Extra inputs"):
        shape.validate({**reply, "items": [{"sku": "x", "size": 3}]})


def test_a_typed_dict_that_contains_itself_or_a_lost_name_is_refused():
    with pytest.raises(SchemaError, match="Endless contains itself: write it as a pydantic model"):
        shape_of(Endless)
    with pytest.raises(SchemaError, match="Lost names a type that can't be found here: name 'Nowhere'"):
        shape_of(Lost)


# --- {field: type} and lists of names


NULL = {"type": "null"}
TEXT = {"type": ["string", "null"]}
A_DATE = {**TEXT, "description": "(a date, YYYY-MM-DD)"}


def either(*forms):
    return {"anyOf": [*forms, NULL]}


def ref(name):
    return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize(
    ("hint", "kind", "schema", "good", "bad"),
    [
        (str, "text", TEXT, "a", 1),
        (int, "int", {"type": ["integer", "null"]}, 3, 3.0),
        (int, "int", {"type": ["integer", "null"]}, 3, True),
        (float, "float", {"type": ["number", "null"]}, 3.5, "3.5"),
        (float | None, "float", {"type": ["number", "null"]}, 3.5, True),
        (bool, "bool", {"type": ["boolean", "null"]}, True, "yes"),
        (date, "datetime", A_DATE, "2026-01-31", "Jan"),
        (Literal["a", "b"], "category", {**TEXT, "enum": ["a", "b", None]}, "a", "A"),
        (Literal[1, 2], "category", {"type": ["integer", "null"], "enum": [1, 2, None]}, 1, 3),
        (Literal["a"], "category", {**TEXT, "enum": ["a", None]}, "a", "b"),
        (Literal["a", None], "category", {**TEXT, "enum": ["a", None]}, "a", "b"),  # noqa: PYI061
        (Literal[True], "bool", {"type": ["boolean", "null"], "enum": [True, None]}, True, False),
        (Status, "category", either(ref("Status")), "open", "OPEN"),
        (list[str], "object", either({"type": "array", "items": {"type": "string"}}), [], [1]),
        (TypingItem, "object", either(ref("TypingItem")), {"sku": "a"}, {}),
        (int | str, "object", either({"type": "integer"}, {"type": "string"}), "a", 1.5),
        (timedelta, "text", {**TEXT, "description": "(ISO 8601 duration)"}, "PT1H", "1h"),
    ],
)
def test_a_field_of_a_dict_has_its_types_kind_and_may_be_null(hint, kind, schema, good, bad):
    shape = shape_of({"x": hint})
    assert kinds({"x": hint}) == {"x": kind}
    assert part({"x": hint}) == schema
    assert shape.validate({"x": good}) == [good]
    assert shape.validate({"x": None}) == [None]
    for reply in ({"x": bad}, {}, {"x": good, "y": 1}):
        with pytest.raises(SchemaMismatchError, match=r"field '[xy]"):
            shape.validate(reply)


def test_a_list_of_names_is_text_that_may_be_absent():
    assert kinds(["vendor", "total"]) == {"vendor": "text", "total": "text"}
    assert shape_of(("vendor",)).validate({"vendor": None}) == [None]


@pytest.mark.parametrize(
    "name",
    ["json", "model_config", "_private", "invoice no.", "größe", "class", "$ref", "type", "properties"],
)
def test_a_field_of_a_dict_may_have_any_name(name):
    shape = shape_of({name: int, "copy": str})
    assert shape.validate({name: 3, "copy": "a"}) == [3, "a"]
    assert list(shape.json_schema["properties"]) == [name, "copy"]


def test_values_beyond_json_come_back_as_json():
    shape = shape_of({"at": datetime, "price": Decimal})
    assert shape.validate({"at": "2026-01-01T10:00:00+02:00", "price": "1.50"}) == [
        "2026-01-01T10:00:00+02:00",
        "1.50",
    ]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({}, "no fields"),
        ([], "no fields"),
        ({"": str}, "A field's name is text; got ''"),
        ({1: str}, "A field's name is text; got 1"),
        (["a", "a"], "'a' is in the list twice"),
        (["a", 1], "names of text fields; got 1"),
        ([Item], "many=True"),
        (list[Item], "of one record.*write the record's type and many=True"),
        ("total", r"the text 'total': write \['total'\]"),
        (Item(sku="ab"), "an instance of Item: write the class itself"),
        (int, "got <class 'int'>"),
        (None, "got None"),
        ({"x": "float64"}, "'x' has the text 'float64' for a type: write the type float, without quotes"),
        ({"x": "what it costs"}, "Annotated.*if it was meant as a description"),
        ({"x": None}, "'x' has None for a type"),
        ({"x": [str]}, "'x' has .*str.* for a type"),
        ({"x": {"y": str}}, "TypedDict or pydantic model for a record within the record"),
        ({"x": lambda: 1}, "'x' has <function"),
        ({"x": type(iter([]))}, "Field 'x': .* is no type JSON has"),
        ({"x": dict}, "Field 'x' of the schema: strict mode has no free keys.*list of records"),
        ({"x": dict[str, int]}, "Field 'x' of the schema: strict mode has no free keys"),
        ({"x": list[dict[str, Any]]}, r"Field 'x\[\]' of the schema: strict mode has no free keys"),
        ({"x": Any}, "Field 'x' of the schema: it may be anything: say which type"),
        ({"x": object}, "it may be anything"),
        ({"x": list}, "it is a list of anything: say of what"),
        ({"x": tuple[int, str]}, "no tuples .*record within the record"),
        ({"x": set[str]}, r"no sets .*list\[str\]"),
        ({"x": Literal["a", 1]}, "its values mix integer and string"),
        (pydantic.RootModel[list[int]], "A schema describes one record.*of type 'array'.*many=True"),
        (pydantic.create_model("Empty"), "an object without fields"),
        (pydantic.create_model("Free", __config__=ConfigDict(extra="allow"), x=(int, ...)), "no free keys"),
        (pydantic.create_model("Call", x=(typing.Callable, ...)), "Call can't be a schema: Cannot generate"),
    ],
)
def test_a_schema_that_cannot_be_says_which_field_and_what_to_write(schema, says):
    with pytest.raises(SchemaError, match=says) as caught:
        shape_of(schema)
    assert "\n" not in str(caught.value)


# --- JSON schemas


WRITTEN = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Invoice",
    "type": "object",
    "properties": {
        "vendor": {"type": "string", "minLength": 2, "maxLength": 10},
        "total": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.05},
        "code": {"type": "string", "pattern": "^[A-Z]+$"},
        "due": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "status": {"enum": ["open", "paid"]},
        "one": {"const": 1},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "maxItems": 2},
        "either": {"oneOf": [{"type": "integer"}, {"type": "number"}, {"type": "string"}]},
        "both": {"type": ["string", "integer"]},
    },
    "required": ["vendor", "total", "items"],
    "$defs": {
        "item": {"properties": {"sku": {"type": "string"}}, "required": ["sku"]},
        "unused": {"type": "string"},
    },
}
FITS = {
    "vendor": "ACME",
    "total": 0.15,
    "code": "AB",
    "due": "20260131",
    "at": "2026-01-01 10:00",
    "status": "open",
    "one": 1,
    "items": [{"sku": "a"}],
    "either": "a",
    "both": 3,
}


def test_a_json_schema_is_made_strict():
    schema = sent(WRITTEN)
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(WRITTEN["properties"])
    assert schema["$defs"] == {
        "item": {
            "type": "object",
            "properties": {"sku": {"type": "string"}},
            "required": ["sku"],
            "additionalProperties": False,
        }
    }
    properties = schema["properties"]
    assert properties["vendor"] == {"type": "string", "description": "(minLength 2, maxLength 10)"}
    assert properties["status"] == {"type": ["string", "null"], "enum": ["open", "paid", None]}
    assert properties["one"] == {"type": ["integer", "null"], "enum": [1, None]}
    assert properties["both"] == {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}


def test_a_json_schemas_properties_become_columns():
    assert kinds(WRITTEN) == {
        "vendor": "text",
        "total": "float",
        "code": "text",
        "due": "datetime",
        "at": "datetime",
        "status": "category",
        "one": "category",
        "items": "object",
        "either": "object",
        "both": "object",
    }


def test_a_reply_that_fits_a_json_schema_becomes_values_with_dates_written_one_way():
    assert shape_of(WRITTEN).validate(FITS) == [
        *("ACME", 0.15, "AB", "2026-01-31", "2026-01-01T10:00:00", "open", 1, [{"sku": "a"}], "a", 3),
    ]
    least = {"vendor": "ACME", "total": 1, "items": [], "code": None}
    assert shape_of(WRITTEN).validate(least)[:3] == ["ACME", 1, None]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("vendor", None, "field 'vendor': must be string; got None"),
        ("vendor", "A", "field 'vendor': minLength is 2; got 'A'"),
        ("vendor", "A" * 11, "maxLength is 10"),
        ("total", 0, "field 'total': exclusiveMinimum is 0; got 0"),
        ("total", 0.07, "multipleOf is 0.05"),
        ("total", True, "must be number; got True"),
        ("code", "ab", "pattern is"),
        ("due", "31.1.2026", "format is date"),
        ("at", "noon", "format is date-time"),
        ("status", "OPEN", 'must be one of "open", "paid"; got .OPEN'),
        ("one", True, "field 'one': must be one of 1; got True"),
        ("one", 1.0, "must be one of 1; got 1.0"),
        ("items", [{"sku": 1}], r"field 'items\[0\].sku': must be string; got 1"),
        ("items", [{}], r"field 'items\[0\].sku': is missing"),
        ("items", [{"sku": "a", "n": 1}], r"field 'items\[0\].n': is unknown; the fields are 'sku'"),
        ("items", [{"sku": "a"}] * 3, "maxItems is 2"),
        ("items", "a", "must be array; got 'a'"),
        ("either", [], "field 'either': fits none of the allowed forms"),
        ("either", 3, "exactly one of the allowed forms"),
        ("both", 1.5, "must be string or integer; got 1.5"),
        ("extra", 1, "field 'extra': is unknown; the fields are 'vendor'"),
    ],
)
def test_a_reply_that_does_not_fit_a_json_schema_is_told_where(name, value, says):
    with pytest.raises(SchemaMismatchError, match=says):
        shape_of(WRITTEN).validate({**FITS, name: value})


def test_a_recursive_json_schema_is_followed():
    node = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "next": either({"$ref": "#/definitions/n"})},
        "required": ["name", "next"],
    }
    schema = {"$ref": "#/definitions/n", "definitions": {"n": node}}
    assert sent(schema)["$defs"]["n"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/n"}
    assert shape_of(schema).validate({"name": "a", "next": {"name": "b", "next": None}})[0] == "a"
    with pytest.raises(SchemaMismatchError, match=r"field 'next.next.name': must be string; got 1"):
        shape_of(schema).validate({"name": "a", "next": {"name": "b", "next": {"name": 1, "next": None}}})


def test_the_users_schema_stays_as_it_was():
    before = json.dumps(WRITTEN)
    shape_of(WRITTEN).validate(FITS)
    assert json.dumps(WRITTEN) == before


def of(**node):
    return {"type": "object", "properties": {"x": node}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "items": {"type": "string"}}, "one record.*many=True"),
        ({"type": "object"}, "without fields"),
        ({"type": "object", "properties": {}}, "without fields"),
        ({"anyOf": [of(type="string"), of(type="integer")]}, "one record.*anyOf"),
        (of(), "Field 'x' of the schema: it may be anything"),
        (of(type="str"), "unknown type 'str': write 'string'"),
        (of(type="strin"), "unknown type 'strin': did you mean 'string'?"),
        (of(type=3), "unknown type 3"),
        (of(typ="string"), "unknown keyword 'typ': did you mean 'type'?"),
        (of(type="array"), "a list of anything"),
        (of(type="array", items={"type": "string"}, uniqueItems=True), "no sets"),
        (of(type="array", items={}, prefixItems=[{}]), "no tuples"),
        (of(type="object", additionalProperties={"type": "integer"}), "no free keys"),
        (of(type="object", patternProperties={".": {}}), "no free keys"),
        (of(allOf=[{"type": "string"}]), "write all properties in one object"),
        ({"not": {}, "type": "object"}, "The schema: strict mode has no negations"),
        (of(enum=["a", 1]), "its values mix integer and string"),
        (of(enum=["a", "a"]), "occurs twice"),
        (of(enum=[]), "an enum without values"),
        (of(enum=[["a"]]), "values mix array"),
        (of(type="string", enum=[1, 2]), "the enum's 1 is no string"),
        (of(type="string", anyOf=[{"type": "string"}]), "anyOf stands alone"),
        (of(anyOf=[]), "anyOf stands alone"),
        (of(type="string", pattern="("), r"the pattern '\(' is invalid"),
        (of(type="string", minLength="2"), "minLength is '2': write a number"),
        (of(type="string", pattern=3), "pattern is 3: write a string"),
        ({"$ref": "#"}, r"\$ref '#': move what it names to \$defs"),
        (
            of(**{"$ref": "#/$defs/itm"}) | {"$defs": {"item": {}}},
            "'itm', which .* lacks: did you mean 'item'",
        ),
        ({**of(type="string"), "required": ["y"]}, "required names 'y': known are 'x'"),
        ({"type": "object", "properties": {"x": True}}, "its schema is True"),
    ],
)
def test_a_json_schema_beyond_strict_mode_is_refused_with_what_to_write(schema, says):
    with pytest.raises(SchemaError, match=says):
        shape_of(schema)


def nested(depth):
    schema = of(type="string")
    for _ in range(depth - 1):
        schema = of(**schema)
    return schema


@pytest.mark.parametrize(
    ("fits", "too_large", "says"),
    [
        (nested(10), nested(11), "more than 10 deep"),
        (
            {"properties": {f"f{n}": {"type": "string"} for n in range(5000)}},
            {"properties": {f"f{n}": {"type": "string"} for n in range(5001)}},
            "5,001 fields",
        ),
        (of(enum=[f"{n}" for n in range(1000)]), of(enum=[f"{n}" for n in range(1001)]), "1,001 values"),
        (
            of(enum=[f"{n:060}" for n in range(250)]),
            of(enum=[f"{n:060}" for n in range(251)]),
            "15,000 characters",
        ),
        (
            {"properties": {f"{n:01000}": {"type": "string"} for n in range(120)}},
            {"properties": {f"{n:01000}": {"type": "string"} for n in range(121)}},
            "120,000 characters",
        ),
    ],
)
def test_schemas_larger_than_strict_mode_takes_are_refused(fits, too_large, says):
    assert strict(fits)
    with pytest.raises(SchemaError, match=says):
        strict(too_large)


def test_the_limits_of_an_enum_are_counted_on_values_and_characters():
    assert fits_enum(range(1000))
    assert not fits_enum(range(1001))
    assert not fits_enum(["x" * 60_001, "y" * 60_000])


# --- the reply's text


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" [1.5, null]\n", [1.5, None]),
        ('```json\n{"a": "```"}\n```', {"a": "```"}),
        ('```JSON\n{\n"a": 1\n}\n```\n', {"a": 1}),
        ('"\\ud83d\\ude00"', "😀"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_reply_is_json_from_end_to_end_bare_or_in_one_code_block(content, value):
    assert parse_json(content) == value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not a JSON value"),
        ("Sure! {}", "not a JSON value"),
        ("{} {}", "Extra data"),
        ("```json\n{}\n```\n```json\n{}\n```", "not a JSON value"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "a number is too large"),
        ("9223372036854775808", "longer than 64 bits"),
        ("1" * 5000, "not a JSON value"),
        ('"\\ud83d"', "half a character"),
        ('"\ud83d"', "half a character"),
        ("[" * 100_000 + "]" * 100_000, "not a JSON value"),
    ],
)
def test_what_json_does_not_mean_is_refused_in_one_short_line(content, says):
    with pytest.raises(SchemaMismatchError, match=says) as caught:
        parse_json(content)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", [complex, bytes])
def test_a_type_that_no_reply_can_hold_is_refused_before_it_is_paid_for(kind):
    with pytest.raises(SchemaError, match="'total'"):
        shape_of({"total": kind})
