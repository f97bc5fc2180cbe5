"""One label of a closed set for each text, or with `multi_label` every label that fits."""

from __future__ import annotations

import difflib
import json
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pandas_llm.core.conform import mismatch, parse_json
from pandas_llm.core.errors import OptionsError, SchemaMismatchError
from pandas_llm.core.prompts import (
    ONE_TEXT,
    check_text,
    examples_of,
    excerpt,
    is_missing,
    parse_examples,
    system_message,
    to_json,
)
from pandas_llm.core.strict import fits_enum
from pandas_llm.core.types import Field, Task, Values

Label: TypeAlias = str | int

_OPENING = f"You label texts. {ONE_TEXT} "
_ONE = "Answer with the one label that fits the text best, spelled exactly as listed."
_MANY = "Answer with every label that fits the text, spelled exactly as listed, or with none if none fits."
_EXPLAIN = " Before the answer, explain it in one or two sentences."
_LABELS = "Labels:\n"


def task(  # noqa: PLR0913  the verb's own keywords
    labels: Any,
    *,
    multi_label: bool = False,
    instructions: str | None = None,
    examples: Any = None,
    explain: bool = False,
    confidence: bool = False,
    output: str,
) -> Task:
    """What `classify` asks; `examples` are (input, output) pairs, an output a label or a list of them.

    Raises
    ------
    OptionsError
        Whatever can't be right about the labels or the examples, before anything is sent.
    """
    if multi_label and confidence:
        raise OptionsError(
            "confidence=True goes with one label a text: with multi_label=True there is no single answer "
            "to be sure of. Leave one of them out."
        )
    described = labels_of(labels, least=1 if multi_label else 2)
    names = tuple(described)
    usual = {} if multi_label or explain else _usual_replies(names)
    read = _Reader(names, multi_label, explain, usual)
    pairs = examples_of(examples, read.example)
    opening = _OPENING + (_MANY if multi_label else _ONE) + (_EXPLAIN if explain else "")
    answer = Field(output, "object") if multi_label else Field(output, "category", names)
    explanation = (Field(f"{output}_explanation", "text"),) if explain else ()
    sureness = (Field(f"{output}_confidence", "float"),) if confidence else ()
    return Task(
        verb="classify",
        output=output,
        system=system_message(
            opening,
            _LABELS + "\n".join(_line(name, text) for name, text in described.items()),
            examples=pairs,
            instructions=instructions,
        ),
        schema=_schema(names, multi_label, explain),
        fields=(answer, *explanation, *sureness),
        read=read,
        allowed=(
            f"Answer with {'any' if multi_label else 'exactly one'} of these labels"
            f"{' and no others' if multi_label else ''}: {to_json(names)}"
        ),
        labels=names if confidence else (),
        example_texts=frozenset(text for text, _ in pairs),
    )


def parse_system(system: str) -> tuple[dict[Label, str], list[tuple[str, Any]]]:
    """Every label with its description (empty where it has none), and the examples: what `task` wrote there.

    Instructions stand last and the rest is found by position, so nothing in them can pass for a label.

    Raises
    ------
    ValueError
        It is no message of this verb.
    """
    _, header, rest = system.partition("\n\n" + _LABELS)
    if not header:
        raise ValueError("not a system message of classify")
    block, _, rest = rest.partition("\n\n")
    decoder = json.JSONDecoder()
    described = {}
    for line in block.split("\n"):
        label, end = decoder.raw_decode(line, len("- "))
        described[label] = json.loads(line[end + len(": ") :]) if end < len(line) else ""
    return described, parse_examples(rest)


def _usual_replies(labels: tuple[Label, ...]) -> dict[str, Label]:
    """What a model that keeps to the schema replies, to the letter."""
    return {f'{{"label":{gap}{to_json(label)}}}': label for label in labels for gap in ("", " ")}


def _line(label: Label, description: str) -> str:
    return f"- {to_json(label)}: {to_json(description)}" if description else f"- {to_json(label)}"


def _schema(labels: tuple[Label, ...], multi_label: bool, explain: bool) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "string" if isinstance(labels[0], str) else "integer"}
    if fits_enum(labels):
        one["enum"] = list(labels)
    properties: dict[str, Any] = {"explanation": {"type": "string"}} if explain else {}
    if multi_label:
        properties["labels"] = {"type": "array", "items": one}
    else:
        properties["label"] = one
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class _Reader:
    """A reply -> its label or labels, exactly as they were given; never the nearest one."""

    labels: tuple[Label, ...]
    multi_label: bool
    explain: bool
    usual: Mapping[str, Label] = field(default_factory=dict, repr=False)
    """By the whole reply: parsing what nearly all replies say to the letter costs 8 µs a row."""

    def __call__(self, content: str, /) -> Values:
        usual = self.usual.get(content)
        if usual is not None:
            return [usual]
        try:
            reply = parse_json(content)
        except SchemaMismatchError:
            if self.multi_label or self.explain:
                raise
            reply = None
        if not isinstance(reply, dict):
            return [self._plain(content, reply)]
        answer = "labels" if self.multi_label else "label"
        asked = {"explanation", answer} if self.explain else {answer}
        if set(reply) != asked:
            raise mismatch("", f"the keys must be exactly {', '.join(sorted(asked))}", reply)
        values: Values = [self._several(reply[answer]) if self.multi_label else self._one(reply[answer])]
        if self.explain:
            if not isinstance(reply["explanation"], str):
                raise mismatch("explanation", "must be text", reply["explanation"])
            values.append(reply["explanation"])
        return values

    def example(self, output: Any) -> Any:
        """An example's output as the model should give it; OptionsError where it is none of the labels."""
        try:
            if not self.multi_label:
                return self._one(_plain_value(output))
            if isinstance(output, (list, tuple)):
                return self._several([_plain_value(item) for item in output])
        except SchemaMismatchError as error:
            near = difflib.get_close_matches(str(output), [str(label) for label in self.labels], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(f"its output: {error}.{hint}") from None
        raise OptionsError(f"its output is a list of labels with multi_label=True; got {excerpt(output)}.")

    def _one(self, answer: Any) -> Label:
        # True == 1 and hash alike: without the type a bool would pass for a label.
        if type(answer) is not type(self.labels[0]) or answer not in self.labels:
            raise self._unknown(answer)
        label: Label = answer
        return label

    def _several(self, answers: Any) -> list[Label]:
        if not isinstance(answers, list):
            raise mismatch("labels", "must be a list", answers)
        found = {self._one(answer) for answer in answers}
        return [label for label in self.labels if label in found]

    def _plain(self, content: str, value: Any) -> Label:
        """The label that is the whole reply, bare or in quotes, of a model that can't be held to JSON."""
        if self.multi_label or self.explain:
            raise mismatch("", "the reply must be a JSON object", content)
        text = content.strip()
        found = [label for label in self.labels if str(label).strip() == text]
        if type(value) is type(self.labels[0]) and value in self.labels and value not in found:
            found.append(value)
        if len(found) != 1:
            raise self._unknown(content)
        return found[0]

    def _unknown(self, got: Any) -> SchemaMismatchError:
        shown = ", ".join(excerpt(label, 40) for label in self.labels[:10])
        more = f", … ({len(self.labels)} in all)" if len(self.labels) > 10 else ""
        return SchemaMismatchError(f"{excerpt(got)} is none of the labels, which are {shown}{more}")


def labels_of(labels: Any, *, least: int = 2) -> dict[Label, str]:
    """The labels in their order, each with its description, empty where it has none."""
    given = _listed(labels)
    if any(is_missing(item) for item, _ in given):
        raise OptionsError(
            "labels holds a missing value: leave it out (of a column write df[…].dropna().unique())."
        )
    found: dict[Label, str] = {}
    seen: dict[Label, Label] = {}
    for item, description in given:
        label = _label(item)
        bare = label.strip() if isinstance(label, str) else label
        if bare in seen:
            unique = " Of a column write df[…].dropna().unique()." if hasattr(labels, "unique") else ""
            raise OptionsError(
                f"Two labels are the same, {excerpt(seen[bare])} and {excerpt(label)}.{unique}"
            )
        seen[bare] = label
        found[label] = _description(label, description)
    kinds = {type(label).__name__ for label in found}
    if len(kinds) > 1:
        raise OptionsError(
            f"labels mixes text and whole numbers: write all of them as text: {_as_text(found)}."
        )
    if len(found) < least:
        few = "one label" if found else "no labels"
        hint = "there is nothing to choose; write two at least, or multi_label=True for a yes or no"
        raise OptionsError(f"labels has {few}: {hint if least == 2 else 'write one at least'}.")
    return found


def _listed(labels: Any) -> list[tuple[Any, Any]]:
    """Labels with descriptions, whatever they came in."""
    ways = "labels is a list, tuple, array or Series, {label: description}, an Enum or a Literal"
    if isinstance(labels, type) and issubclass(labels, Enum):
        return [(member.value, None) for member in labels]
    if get_origin(labels) is Literal:
        return [(value, None) for value in get_args(labels)]
    if isinstance(labels, Mapping):
        return list(labels.items())
    if isinstance(labels, (set, frozenset)):
        raise OptionsError(
            "labels is a set, whose order changes with each Python process. The labels' order is part of the "
            "question, so every session would ask, and pay, for all rows again: write a list, such as "
            f"{_as_text(sorted(labels, key=str))}."
        )
    if isinstance(labels, str):
        split = [part.strip() for part in labels.split(",")] if "," in labels else [labels, "…"]
        raise OptionsError(f"labels is one text; write a list: {_as_text(split)}.")
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(values, (list, tuple, range)):
        hint = (
            ": write list(…) around it"
            if hasattr(labels, "__iter__") and not isinstance(labels, type)
            else ""
        )
        raise OptionsError(f"{ways}; got {excerpt(labels)}{hint}.")
    return [(value, None) for value in values]


def _plain_value(item: Any) -> Any:
    """An Enum's value; numpy's texts and whole numbers as Python's own."""
    if isinstance(item, Enum):
        item = item.value
    if isinstance(item, str):
        return str(item)
    return item if isinstance(item, bool) or not isinstance(item, numbers.Integral) else int(item)


def _label(item: Any) -> Label:
    label = _plain_value(item)
    if type(label) is int:
        return label
    if not isinstance(label, str):
        kind = type(label).__name__
        whole = isinstance(label, float) and label.is_integer()
        hint = f": write {int(label)}" if whole else f': write "{label}"' if kind in ("bool", "float") else ""
        raise OptionsError(f"Labels are text or whole numbers; {excerpt(label)} is a {kind}{hint}.")
    if not label.strip():
        raise OptionsError(f'labels holds an empty text, {label!r}: name it, such as "none" or "other".')
    return check_text(label, "a label")


def _description(label: Label, description: Any) -> str:
    if is_missing(description):
        return ""
    if not isinstance(description, str):
        raise OptionsError(
            f"A dict as labels is {{label: description or None}}; {excerpt(label)} has the "
            f"{type(description).__name__} {excerpt(description)} for a description."
        )
    return check_text(description, f"the description of {excerpt(label)}")


def _as_text(labels: Any) -> str:
    """A list of texts to copy, cut after the third."""
    shown = [to_json(str(label)[:30]) for label in list(labels)[:3]]
    return f"[{', '.join(shown)}{', …' if len(labels) > 3 else ''}]"
