"""What the first argument of a verb means: a column, a list of columns, or a template."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pandas_llm.core.errors import OptionsError, PromptError

_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]*)\}|[{}]")
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class TextSpec:
    """Which cells make up a row's text, and how they stand together."""

    kind: Literal["column", "columns", "template"]
    columns: tuple[int, ...]
    """Positions in the frame, in the order of their first use, each once."""
    labels: tuple[Hashable, ...]
    """What the frame calls these columns."""
    template: str = ""
    """As it was given, for `kind="template"`."""
    parts: tuple[str | int, ...] = ()
    """The template taken apart: literal text, and numbers into `columns`."""

    @property
    def single(self) -> str | None:
        """The name of the one column the prompt uses, however written; None where it uses several."""
        return name_of(self.labels[0]) if len(self.labels) == 1 and self.labels[0] is not None else None

    def to_json(self) -> str | None:
        """What `from_json` reads; None where a label (a date, a float) can't be written exactly."""
        if self.kind == "template":
            return json.dumps({"template": self.template})
        if not all(map(_is_plain, self.labels)):
            return None
        if self.kind == "column":
            return json.dumps({"column": self.labels[0]})
        return json.dumps({"columns": self.labels})

    @staticmethod
    def from_json(frame: pd.DataFrame, written: str) -> TextSpec | None:
        """The spec again, for a frame of today; None where that has no such columns any more."""
        content = json.loads(written)
        try:
            if "template" in content:
                return _template_spec(frame, content["template"])
            if "column" in content:
                return _column_spec(frame, _label(content["column"]))
            return _columns_spec(frame, [_label(label) for label in content["columns"]])
        except PromptError:
            return None


def read_spec(frame: pd.DataFrame, text: Any) -> TextSpec:
    """What `text`, the first argument of a verb, means on this frame.

    Raises
    ------
    PromptError
        It names no column, or is no template; the message has the columns and the nearest match.
    OptionsError
        It is a Series or a DataFrame.
    """
    if isinstance(text, pd.Series | pd.DataFrame):
        raise OptionsError(_instead_of_data(text))
    if isinstance(text, list):
        return _columns_spec(frame, text)
    if _positions(frame, text):
        return _column_spec(frame, text)
    if isinstance(text, str) and ("{" in text or "}" in text):
        return _template_spec(frame, text)
    raise _unknown_column(frame, text)


def name_of(label: Hashable) -> str:
    """A column's name as text: `("body", "")`, which pandas also finds as `body`, is `body`."""
    if isinstance(label, tuple) and label and all(part == "" for part in label[1:]):
        return str(label[0])
    return str(label)


def label_of(columns: pd.Index[Any], name: str) -> Hashable:
    """The label a new column of this name gets: with MultiIndex columns the full tuple."""
    return (name, *[""] * (columns.nlevels - 1)) if columns.nlevels > 1 else name


def positions_of(columns: pd.Index[Any], label: Hashable) -> list[int]:
    """Where the frame has exactly this label. `in` won't do: MultiIndex columns "have" partial keys too."""
    # A set compares only what hashes alike: a label that is pd.NA can't be compared with `==`.
    wanted = {(isinstance(label, bool), label)}
    return [at for at, found in enumerate(columns) if (isinstance(found, bool), found) in wanted]


def excerpt(value: object, limit: int = 60) -> str:
    """The repr of a value, cut, and safe to store: lone surrogates are written as escapes."""
    shown = ascii(value) if _is_broken(value) else repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _is_broken(value: object) -> bool:
    try:
        repr(value).encode()
    except UnicodeEncodeError:
        return True
    return False


def _positions(frame: pd.DataFrame, label: Any) -> list[int]:
    try:
        hash(label)
    except TypeError:
        return []
    found = positions_of(frame.columns, label)
    if not found and frame.columns.nlevels > 1 and not isinstance(label, tuple):
        return positions_of(frame.columns, label_of(frame.columns, label))
    return found


def _column_spec(frame: pd.DataFrame, label: Any) -> TextSpec:
    at = _one_position(frame, label)
    return TextSpec("column", (at,), (_own_label(frame.columns[at]),))


def _columns_spec(frame: pd.DataFrame, labels: Sequence[Any]) -> TextSpec:
    if not labels:
        raise PromptError(f"The list of columns is empty: name at least one. {_columns_are(frame)}")
    positions = tuple(_one_position(frame, label) for label in labels)
    for at in positions:
        if positions.count(at) > 1:
            raise PromptError(f"Column {excerpt(frame.columns[at])} is listed twice: name it once.")
    return TextSpec("columns", positions, tuple(_own_label(frame.columns[at]) for at in positions))


def _one_position(frame: pd.DataFrame, label: Any) -> int:
    found = _positions(frame, label)
    if not found:
        raise _unknown_column(frame, label)
    if len(found) > 1:
        raise PromptError(
            f"The frame has {len(found)} columns named {excerpt(label)}: rename them, so that one is meant."
        )
    return found[0]


def _template_spec(frame: pd.DataFrame, template: str) -> TextSpec:
    named: dict[str, list[int]] = {}
    for at, label in enumerate(frame.columns):
        for name in {str(label), name_of(label)}:
            named.setdefault(name, []).append(at)
    parts: list[str | int] = []
    columns: list[int] = []
    for piece, field in _pieces(template):
        if field is None:
            parts.append(piece)
            continue
        at = _field_position(frame, named, field)
        if at not in columns:
            columns.append(at)
        parts.append(columns.index(at))
    if not columns:
        raise PromptError(
            f"The template {excerpt(template)} has no field: write at least one column in braces, "
            f"as in 'Title: {{title}}'. {_columns_are(frame)}"
        )
    labels = tuple(_own_label(frame.columns[at]) for at in columns)
    return TextSpec("template", tuple(columns), labels, template, tuple(parts))


def _pieces(template: str) -> Iterable[tuple[str, str | None]]:
    """The template as `(literal, None)` and `(…, field)`. Not `string.Formatter`: names may hold `!:.[]`."""
    end = 0
    for token in _TOKEN.finditer(template):
        if token.start() > end:
            yield template[end : token.start()], None
        end = token.end()
        if token["field"] is not None:
            yield token.group(), token["field"]
        elif len(token.group()) == 2:
            yield token.group()[0], None
        else:
            raise PromptError(
                f"The template {excerpt(template)} has a lone {token.group()!r} "
                f"at character {token.start()}: "
                "write {{ and }} for braces that are meant as text, {name} for a column."
            )
    if end < len(template):
        yield template[end:], None


def _field_position(frame: pd.DataFrame, named: dict[str, list[int]], field: str) -> int:
    found = named.get(field, [])
    if len(found) == 1:
        return found[0]
    if found:
        labels = ", ".join(excerpt(frame.columns[at]) for at in found)
        raise PromptError(
            f"The field {{{field}}} fits {len(found)} columns ({labels}): rename one, so that one is meant."
        )
    raise PromptError(
        f"The template's field {excerpt('{' + field + '}')} is not a column.{_nearest(frame, field)} "
        f"{_columns_are(frame)} A field is a column's whole name, without format, attribute or index; "
        "{{ and }} are braces meant as text."
    )


def _unknown_column(frame: pd.DataFrame, label: Any) -> PromptError:
    hint = _nearest(frame, label)
    if isinstance(label, tuple) and label and all(_positions(frame, part) for part in label):
        hint = f" Write a list of columns: {excerpt(list(label))}."
    return PromptError(
        f"{excerpt(label)} is not a column of the frame.{hint} {_columns_are(frame)} "
        "A template has columns in braces: 'Title: {title}'."
    )


def _nearest(frame: pd.DataFrame, wanted: Any) -> str:
    labels = {name_of(label): label for label in frame.columns}
    lowered = {name.lower(): name for name in labels}
    near = difflib.get_close_matches(str(wanted).lower()[:200], lowered, n=1)
    return f" Did you mean {excerpt(labels[lowered[near[0]]])}?" if near else ""


def _columns_are(frame: pd.DataFrame) -> str:
    shown = [excerpt(_own_label(label)) for label in frame.columns[:_SHOWN]]
    if not shown:
        return "The frame has no columns."
    more = f", … ({len(frame.columns)} in all)" if len(frame.columns) > _SHOWN else ""
    return f"The columns are {', '.join(shown)}{more}."


def _instead_of_data(text: pd.Series[Any] | pd.DataFrame) -> str:
    if isinstance(text, pd.DataFrame):
        return "The first argument says which columns are the text: pass their names, not a DataFrame."
    name = "the column's name" if text.name is None else f"the column's name, {excerpt(text.name)}"
    return f"The first argument says which column is the text: pass {name}, or use series.llm of this Series."


def _own_label(label: Any) -> Hashable:
    """The label without numpy's scalar types, whose reprs and JSON differ from Python's."""
    if isinstance(label, tuple):
        return tuple(map(_own_label, label))
    if isinstance(label, np.generic) and not isinstance(label, np.datetime64 | np.timedelta64):
        return label.item()  # type: ignore[no-any-return]
    return label  # type: ignore[no-any-return]


def _is_plain(label: Hashable) -> bool:
    return all(map(_is_plain, label)) if isinstance(label, tuple) else isinstance(label, str | int)


def _label(content: Any) -> Hashable:
    """A label as JSON gives it back: its tuples became lists."""
    return tuple(map(_label, content)) if isinstance(content, list) else content
