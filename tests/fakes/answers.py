"""What the fake model says: valid answers made from the text, and the log-probabilities of their labels."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Json = dict[str, Any]
NEVER = -9999.0  # what OpenAI writes for a token of probability 0
_KEY = re.compile(r'[\s,{]*"(?:[^"\\]|\\.)*"\s*:\s*')
_FENCED = re.compile(r"(`{3,})\n(.*)\n\1", re.DOTALL)
_TOKEN = re.compile(r" ?\w{1,6}| ?[^\w\s]+|\s")
_FORMATS = {
    "date-time": "20{:02}-05-17T09:30:00Z",
    "date": "20{:02}-05-17",
    "time": "09:{:02}:00",
    "duration": "PT{}M",
    "email": "a{}@example.org",
    "hostname": "h{}.example.org",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{}",
    "uuid": "00000000-0000-4000-8000-0000000000{:02}",
}


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply with its alternatives, natural logarithms."""

    text: str
    logprob: float = 0.0
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model says to one request; what is None is made up as usual."""

    content: str | None = None
    refusal: str | None = None
    finish_reason: str = "stop"
    logprobs: tuple[Token, ...] | None = None
    label_probabilities: Mapping[Any, float] | None = None
    usage: Mapping[str, Any] | None = None
    """Replaces single fields of the usage; `{}` leaves the usage out."""
    model: str | None = None
    service_tier: str | None = None
    raw: bytes | Json | None = None
    """Sent in place of the completion."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    @property
    def ordinary(self) -> bool:
        """Whether nothing in it is there to be odd, so that the SDK must parse it."""
        strange = self.usage is not None or self.service_tier is not None or self.raw is not None
        return not strange and self.finish_reason in ("stop", "length", "content_filter")


def row_text(body: Json) -> str:
    """The text a request is about: what the last fenced user message holds, else the last user message.

    A repair ends in another user message; it is about the same row.
    """
    if "input" in body:
        return "\n".join(map(str, body["input"])) if isinstance(body["input"], list) else str(body["input"])
    messages = [m for m in body.get("messages") or () if isinstance(m, dict) and m.get("role") == "user"]
    contents = [joined(message.get("content")) for message in messages]
    for content in reversed(contents):
        fenced = _FENCED.fullmatch(content)
        if fenced:
            return fenced[2]
    return contents[-1] if contents else ""


def default_content(text: str, body: Json, likely: Mapping[Any, float] | None = None) -> str:
    """A valid reply, the same for the same text: an instance of the schema asked for, else an echo."""
    response_format = body.get("response_format") or {}
    kind = response_format.get("type", "text")
    if kind == "json_schema":
        schema = response_format["json_schema"].get("schema")
    else:
        schema = _schema_within(_system_text(body))
    if schema is not None:
        return _dumps(instance(schema, text, likely))
    return _dumps({"label": "ok"}) if kind == "json_object" else f"echo: {text}"


def instance(schema: Mapping[str, Any], text: str, likely: Mapping[Any, float] | None = None) -> Any:
    """A value that fits a JSON schema; labels come from the text where it names them."""
    dice = random.Random(text.encode("utf-8", "surrogatepass"))
    return _Maker(text, dice, schema, likely or {}).value(schema, "", 0)


@dataclass(frozen=True, slots=True)
class _Maker:
    text: str
    dice: random.Random
    root: Mapping[str, Any]
    likely: Mapping[Any, float]

    def value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        schema = resolved(schema, self.root)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.label(schema["enum"])
        if "anyOf" in schema:
            options = [resolved(option, self.root) for option in schema["anyOf"]]
        else:
            kinds = schema.get("type", "string")
            options = [{**schema, "type": kind} for kind in (kinds if isinstance(kinds, list) else [kinds])]
        real = [option for option in options if option.get("type") != "null"]
        named = any(self.mentioned(option.get("enum", ())) for option in real)
        if not real or (len(real) < len(options) and not named and (depth > 4 or self.dice.random() < 0.2)):
            return None
        chosen = self.dice.choice(real)
        if "enum" in chosen or "anyOf" in chosen or "const" in chosen:
            return self.value(chosen, name, depth)
        return self.plain(chosen, name, depth)

    def plain(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        match schema.get("type", "string"):
            case "object":
                properties = schema.get("properties") or {}
                return {key: self.value(child, key, depth + 1) for key, child in properties.items()}
            case "array":
                return self.array(schema, name, depth)
            case "boolean":
                return self.dice.random() < 0.5
            case "integer" | "number":
                return self.number(schema)
            case _:
                return self.string(schema, name)

    def number(self, schema: Mapping[str, Any]) -> float:
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        low = schema.get("minimum", 0 if above is None else above + 1)
        high = schema.get("maximum", low + 100 if below is None else below - 1)
        if schema["type"] == "number":
            return self.dice.uniform(low, max(low, high))
        return self.dice.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))

    def string(self, schema: Mapping[str, Any], name: str) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]].format(self.dice.randint(10, 59))
        words = re.findall(r"\w+", self.text) or ["nothing"]
        if re.search("expla|reason|rational|why", name):
            return f"The text speaks of {self.dice.choice(words)}, which decides it."
        return self.dice.choice(words)

    def array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = resolved(schema.get("items") or {}, self.root)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, 3))
        if "enum" in items:
            named = self.mentioned(items["enum"])
            ordered = named or self.dice.sample(items["enum"], min(len(items["enum"]), max(least, 1)))
            return [label for label in items["enum"] if label in ordered][:most]
        count = least if depth > 4 else self.dice.randint(least, max(least, min(most, least + 2)))
        return [self.value(items, name, depth + 1) for _ in range(count)]

    def label(self, labels: list[Any]) -> Any:
        named = self.mentioned(labels)
        if named:
            return min(named, key=lambda label: (self.text.index(str(label)), -len(str(label))))
        if any(label in self.likely for label in labels):
            return max(labels, key=lambda label: self.likely.get(label, 0.0))
        return self.dice.choice(labels)

    def mentioned(self, labels: Any) -> list[Any]:
        return [label for label in labels if label not in (None, "") and str(label) in self.text]


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema a `$ref` points to."""
    while "$ref" in schema:
        place: Any = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            place = place[step] if step else place
        schema = place
    return schema


def labels_of(body: Json) -> list[Any]:
    """The enum of the first property that has one, in the schema asked for."""
    named = (body.get("response_format") or {}).get("json_schema") or {}
    root = named.get("schema") or {}
    for child in (root.get("properties") or {}).values():
        labels = resolved(child, root).get("enum")
        if labels:
            return list(labels)
    return []


def tokens_of(content: str) -> list[str]:
    """Cut a reply into tokens of a few characters, as a tokeniser would: `{"`, `label`, `":"`, `bug`, …"""
    return _TOKEN.findall(content)


def logprobs_of(
    content: str, labels: list[Any], probabilities: Mapping[Any, float] | None
) -> tuple[Token, ...]:
    """Tokens of a reply; where labels part, the alternatives with what `probabilities` leaves to each.

    The product over a label's tokens is its probability, also where labels share their first tokens. None
    gives 0.9 to the label said and 0.09 to all others together.
    """
    tokens = tokens_of(content)
    ways = _ways(content, labels)
    if probabilities is None:
        rest = 0.09 / max(1, len(ways) - 1)
        probabilities = {label: 0.9 if way == tokens else rest for label, way in ways.items()}
    mass: float | None = None  # the first parting keeps the raw values: they needn't add up to 1
    found = []
    for place, token in enumerate(tokens):
        following: dict[str, float] = {}
        for label, way in ways.items():
            following[way[place]] = following.get(way[place], 0.0) + probabilities.get(label, 0.0)
        if len(following) > 1:
            top = {each: _log(p / (mass or 1.0)) for each, p in following.items() if p > 0}
            found.append(Token(token, top.get(token, NEVER), top))
            mass = following[token]
        else:
            found.append(Token(token, -0.0001, {token: -0.0001}))
        ways = {label: way for label, way in ways.items() if way[place] == token and len(way) > place + 1}
    return tuple(found)


def _ways(content: str, labels: list[Any]) -> dict[Any, list[str]]:
    """The tokens the reply would have had with each of the labels in the place of its own."""
    span = _label_span(content, labels)
    if span is None:
        return {}
    start, end = span
    whole = content in labels
    return {
        label: tokens_of(content[:start] + (label if whole else _dumps(label)) + content[end:])
        for label in labels
    }


def _label_span(content: str, labels: list[Any]) -> tuple[int, int] | None:
    if content in labels:
        return 0, len(content)
    at, found, decoder = 0, None, json.JSONDecoder()
    while key := _KEY.match(content, at):
        try:
            value, at = decoder.raw_decode(content, key.end())
        except ValueError:
            return found
        if not isinstance(value, list | dict) and value in labels:
            found = key.end(), at
    return found


def joined(content: Any) -> str:
    """The text of a message's content, a string or parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _system_text(body: Json) -> str:
    return "\n".join(joined(m["content"]) for m in body["messages"] if m["role"] in ("system", "developer"))


@lru_cache(maxsize=64)
def _schema_within(text: str) -> Any:
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, brace.start())
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return value
    return None


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else NEVER
