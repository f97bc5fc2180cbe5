"""What a request must look like, by the public contract and the SDK's types; what a reply must parse as."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

# fmt: off
KEYWORDS = frozenset((
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description", "enum",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum",
    "multipleOf", "pattern", "properties", "required", "title", "type",
))
FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
)
# fmt: on
_parsed: set[tuple[Any, ...]] = set()
_accepted: set[bytes] = set()


def warm_up() -> None:
    """Import the SDK and build the validators now: half a second that a first reply would take otherwise."""
    for kind in ("chat", "embeddings"):
        _contract(kind)
        _sdk_request(kind, False)
    _sdk_reply("ChatCompletion")


def problem_with(kind: str, body: Any) -> tuple[str, str | None] | None:
    """(message, param) saying why `body` isn't a request of this kind, or None.

    `kind`: chat, embeddings, batches.
    """
    skeleton = _skeleton(kind, body)
    found = None if skeleton in _accepted else _checked(kind, body)
    if found is None and skeleton is not None:
        _accepted.add(skeleton)
    of_the_texts = {"chat": _word_json, "embeddings": _embedding_rules}.get(kind)
    return found or (of_the_texts(body) if of_the_texts is not None else None)


def strict_problems(schema: Any) -> list[str]:
    """What OpenAI's strict structured outputs would refuse in a JSON schema."""
    if not isinstance(schema, Mapping):
        return ["In context=(), schema must be an object."]
    found = list(_node_problems(schema, (), schema))
    if schema.get("type") != "object" or "anyOf" in schema:
        found.insert(
            0, f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {schema.get('type')!r}'."
        )
    nodes = list(_nodes(schema, ()))
    enums = [node["enum"] for _, node in nodes if isinstance(node.get("enum"), list)]
    if sum(map(len, enums)) > 1000:
        found.append(
            f"Expected at most 1000 enum values in total within a schema, got {sum(map(len, enums))}."
        )
    if any(len(values) > 250 and _letters(values) > 15_000 for values in enums):
        found.append("Expected at most 15000 characters in an enum of more than 250 values.")
    if sum(len(node.get("properties") or {}) for _, node in nodes) > 5000:
        found.append("Expected at most 5000 object properties in total within a schema.")
    if sum(_characters(node) for _, node in nodes) > 120_000:
        found.append("Expected at most 120000 characters in all names and values of a schema.")
    if any(sum(step in ("properties", "items") for step in path) > 10 for path, _ in nodes):
        found.append("Expected at most 10 levels of nesting.")
    return found


def parse_once(model: str, *replies: Mapping[str, Any]) -> None:
    """Raise unless the SDK parses these replies with nothing left over; each shape is tried once a process.

    So the fake and what reads it can't share a mistake.
    """
    first = (replies[0].get("choices") or [{}])[0]
    message = first.get("message") or {}
    shape = (model, bool(first.get("logprobs")), bool(message.get("refusal")), replies[0].get("status"))
    if shape not in _parsed:
        for reply in replies:
            _nothing_extra(_sdk_reply(model).validate_json(orjson.dumps(reply)), model)
        _parsed.add(shape)


def _checked(kind: str, body: Any) -> tuple[str, str | None] | None:
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request.", None
    refused = min(_contract(kind).iter_errors(body), key=lambda e: len(e.path), default=None)
    if refused is not None:
        where = ".".join(map(str, refused.absolute_path))
        unknown = re.search(r"\('(\w+)' was unexpected\)", refused.message)
        if unknown:
            return f"Unrecognized request argument supplied: {unknown[1]}", unknown[1]
        return f"Invalid value for '{where}': {refused.message[:200]}", where or None
    from pydantic_core import ValidationError

    try:
        _sdk_request(kind, body.get("stream") is True).validate_json(orjson.dumps(body), strict=True)
    except ValidationError as refusal:
        first = max(refusal.errors(), key=lambda e: e["type"] == "extra_forbidden")
        where = ".".join(map(str, first["loc"]))
        return f"Not a request of the SDK: {where}: {first['msg']}", str(first["loc"][0])
    rules = {"chat": _rules, "batches": _batch_rules}.get(kind)
    return rules(body) if rules is not None else None


def _rules(body: dict[str, Any]) -> tuple[str, str | None] | None:
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        return "'top_logprobs' is only allowed when 'logprobs' is enabled.", "top_logprobs"
    if body.get("stream_options") and not body.get("stream"):
        return "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
    response_format = body.get("response_format") or {}
    return (
        _schema_rules(response_format["json_schema"])
        if response_format.get("type") == "json_schema"
        else None
    )


def _schema_rules(named: dict[str, Any]) -> tuple[str, str] | None:
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", named["name"]):
        return "Invalid 'response_format.json_schema.name': want ^[a-zA-Z0-9_-]{1,64}$", "response_format"
    if "schema" not in named:
        return "Missing required parameter: 'response_format.json_schema.schema'.", "response_format"
    for problem in strict_problems(named["schema"]) if named.get("strict") else ():
        return f"Invalid schema for response_format '{named['name']}': {problem}", "response_format"
    return None


def _word_json(body: Any) -> tuple[str, str | None] | None:
    if not isinstance(body, dict) or (body.get("response_format") or {}).get("type") != "json_object":
        return None
    if "json" in json.dumps(body["messages"]).lower():
        return None
    return (
        "'messages' must contain the word 'json' for 'response_format' of type 'json_object'.",
        "messages",
    )


def _embedding_rules(body: dict[str, Any]) -> tuple[str, str | None] | None:
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    sizes = [-(-len(text.encode()) // 4) for text in inputs if isinstance(text, str)]
    if "" in inputs:
        return "'input' cannot be an empty string.", "input"
    if any(size > 8192 for size in sizes):
        return "This model's maximum context length is 8192 tokens.", "input"
    if sum(sizes) > 300_000:
        return "Requested tokens exceed the maximum of 300000 tokens per request.", "input"
    return None


def _batch_rules(body: dict[str, Any]) -> tuple[str, str | None] | None:
    metadata = body.get("metadata") or {}
    if len(metadata) > 16:
        return (
            f"Invalid 'metadata': too many properties. Expected at most 16, got {len(metadata)}.",
            "metadata",
        )
    for name, value in metadata.items():
        if len(name) > 64 or len(value) > 512:
            return f"Invalid 'metadata.{name[:64]}': at most 64 characters a key, 512 a value.", "metadata"
    return None


def _skeleton(kind: str, body: Any) -> bytes | None:
    # The row's text can't make a valid request invalid, and all else is the same for a column: each
    # distinct rest is checked once, 0.5 ms, and then recognised in 0.01 ms.
    try:
        if kind == "embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            plain = 0 < len(texts) <= 2048 and all(isinstance(text, str) for text in texts)
            return (
                orjson.dumps({**body, "input": "many" if texts is body["input"] else "one"})
                if plain
                else None
            )
        *before, last = body["messages"]
        if kind != "chat" or not isinstance(last["content"], str):
            return None
        return orjson.dumps({**body, "messages": [*before, {**last, "content": ""}]})
    except (TypeError, KeyError, ValueError):
        return None


@cache
def _contract(kind: str) -> Any:
    import jsonschema

    contract = json.loads((Path(__file__).parent / "openai-contract.json").read_bytes())
    return jsonschema.Draft202012Validator({**contract["requests"][kind], "$defs": contract["$defs"]})


@cache
def _sdk_request(kind: str, stream: bool) -> Any:
    from openai.types import BatchCreateParams, EmbeddingCreateParams
    from openai.types.chat import completion_create_params as chat
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    params = chat.CompletionCreateParamsStreaming if stream else chat.CompletionCreateParamsNonStreaming
    others = {"embeddings": EmbeddingCreateParams, "batches": BatchCreateParams}
    adapter: TypeAdapter[Any] = TypeAdapter(others.get(kind, params))
    return SchemaValidator(_closed(adapter.core_schema))


def _closed(node: Any) -> Any:
    """The core schema with extra keys refused, and each `Iterable` checked whole instead of lazily."""
    if isinstance(node, list | tuple):
        return type(node)(_closed(item) for item in node)
    if not isinstance(node, dict):
        return node
    # In a schema `metadata` is pydantic's own; among a typed dict's fields it is one of them.
    own = {"metadata"} if isinstance(node.get("type"), str) else set()
    closed = {key: _closed(value) for key, value in node.items() if key not in own}
    if closed.get("type") == "generator":
        closed["type"] = "list"
    elif closed.get("type") == "typed-dict":
        closed["extra_behavior"] = "forbid"
    return closed


@cache
def _sdk_reply(model: str) -> Any:
    from openai.types import Batch, CreateEmbeddingResponse, FileDeleted, FileObject
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from pydantic import TypeAdapter

    types = (ChatCompletion, ChatCompletionChunk, CreateEmbeddingResponse, Batch, FileObject, FileDeleted)
    return TypeAdapter({t.__name__: t for t in types}[model])


def _nothing_extra(value: Any, where: str) -> None:
    if isinstance(value, list):
        for item in value:
            _nothing_extra(item, where)
    elif hasattr(value, "model_extra"):
        if value.model_extra:
            raise ValueError(f"The SDK knows no {sorted(value.model_extra)} in {where}.")
        for name in type(value).model_fields:
            _nothing_extra(getattr(value, name), f"{where}.{name}")


def _nodes(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every schema within a schema with its path, itself first."""
    if not isinstance(node, Mapping):
        return
    yield path, node
    for key in ("properties", "$defs", "definitions"):
        for name, child in (node.get(key) or {}).items():
            yield from _nodes(child, (*path, key, name))
    for position, child in enumerate(node.get("anyOf") or ()):
        yield from _nodes(child, (*path, "anyOf", str(position)))
    yield from _nodes(node.get("items"), (*path, "items"))


def _node_problems(
    schema: Mapping[str, Any], path: tuple[str, ...], root: Mapping[str, Any]
) -> Iterator[str]:
    for where, node in _nodes(schema, path):
        context = f"In context={where}"
        for keyword in sorted(set(node) - KEYWORDS):
            yield f"{context}, '{keyword}' is not permitted."
        if "$ref" in node:
            if len(node) > 1:
                yield f"{context}, $ref cannot have keywords {sorted(set(node) - {'$ref'})}."
            if not _resolves(node["$ref"], root):
                yield f"{context}, reference points to no definition in the schema: {node['$ref']!r}."
        elif "type" not in node and "anyOf" not in node:
            yield f"{context}, schema must have a 'type' key."
        if node.get("type") == "object" or "object" in _as_list(node.get("type")):
            yield from _object_problems(node, context)
        if "array" in _as_list(node.get("type")) and "items" not in node:
            yield f"{context}, array schema missing items."
        if node.get("enum") == []:
            yield f"{context}, enum must not be empty."
        if node.get("format", "date") not in FORMATS:
            yield f"{context}, '{node['format']}' is not a valid format."


def _object_problems(node: Mapping[str, Any], context: str) -> Iterator[str]:
    if node.get("additionalProperties") is not False:
        yield f"{context}, 'additionalProperties' is required to be supplied and to be false."
    missing = set(node.get("properties") or {}) - set(node.get("required") or ())
    if missing:
        yield (
            f"{context}, 'required' is required to be supplied and to be an array including every key in"
            f" properties. Missing '{min(missing)}'."
        )
    unknown = set(node.get("required") or ()) - set(node.get("properties") or {})
    if unknown:
        yield f"{context}, 'required' names '{min(unknown)}', which is not in properties."


def _characters(node: Mapping[str, Any]) -> int:
    names = [*(node.get("properties") or {}), *(node.get("$defs") or {}), *(node.get("enum") or ())]
    return _letters([*names, node.get("const")])


def _letters(values: list[Any]) -> int:
    return sum(len(value) for value in values if isinstance(value, str))


def _resolves(reference: str, root: Mapping[str, Any]) -> bool:
    if reference == "#":
        return True
    place: Any = root
    for step in reference.removeprefix("#/").split("/"):
        place = place.get(step) if isinstance(place, Mapping) else None
    return reference.startswith("#/") and isinstance(place, Mapping)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
