"""Cells as labels, and a gold standard brought into the order of the rows."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from pandas_llm.core.errors import OptionsError

Answer: TypeAlias = str | frozenset[str]
"""One cell as text; a frozenset where cells are lists of labels."""

LISTS = (list, tuple, set, frozenset, np.ndarray)


def as_set(value: Any) -> frozenset[str] | None:
    """A cell as a set of labels, None where it is missing; a JSON list in a text counts as that list."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):  # a label may begin with a bracket
            value = json.loads(value)
    if isinstance(value, LISTS):
        return frozenset(text for text in map(as_text, value) if text is not None)
    text = as_text(value)
    return None if text is None else frozenset((text,))


def as_text(value: Any) -> str | None:
    """A cell as text without white space around it, None where it is missing or empty."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (dict, *LISTS)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if value is None or value is pd.NaT or (not isinstance(value, str) and pd.isna(value)):
        return None
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        value = int(value)  # 1.0 is how an int column with gaps spells 1
    if isinstance(value, datetime) and value.time() == time() and value.tzinfo is None:
        value = value.date()
    text = value.isoformat() if isinstance(value, date) else str(value)
    return text.strip() or None


def gold_values(frame: pd.DataFrame, gold: Any) -> list[Any]:
    """One value of gold a row of the frame."""
    if isinstance(gold, pd.Series):
        return _aligned(frame.index, gold).tolist()
    if isinstance(gold, (pd.DataFrame, Mapping, set, frozenset)):
        raise OptionsError(
            f"gold is a column name, a Series, or one entry a row; got a {type(gold).__name__}."
        )
    is_name = isinstance(gold, tuple) and (frame.columns.nlevels > 1 or bool(places_of(frame, gold)))
    if is_name or not pd.api.types.is_list_like(gold):
        return column_of(frame, gold).tolist()
    values = list(gold)
    if len(values) != len(frame):
        raise OptionsError(
            f"gold has {len(values):,} entries and the frame {len(frame):,} rows: give one entry a row, "
            "None where there is no gold, or a Series whose index labels are those of the frame."
        )
    return values


def _aligned(index: pd.Index[Any], gold: pd.Series[Any]) -> pd.Series[Any]:
    if index.equals(gold.index):
        return gold
    for which, labels in (("frame's", index), ("gold's", gold.index)):
        if not labels.is_unique:
            repeated = str(labels[labels.duplicated()][0])
            raise OptionsError(
                f"gold has another index than the frame, and the {which} index repeats {repeated[:60]!r}: "
                "rows can't be matched by label. Make gold a column of the frame, or a list in row order."
            )
    shared = len(set(index) & set(gold.index))
    if shared < min(len(index), len(gold)) or not shared:
        raise OptionsError(
            f"gold shares {shared:,} of its {len(gold):,} index labels with the frame's {len(index):,} rows; "
            "one index must hold all labels of the other. "
            "Make gold a column of the frame, or a list in row order."
        )
    return gold.reindex(index)


def column_of(frame: pd.DataFrame, label: Any) -> pd.Series[Any]:
    """The one column of this name."""
    places = places_of(frame, label)
    if len(places) > 1:
        raise OptionsError(f"{len(places)} columns are named {label!r}: rename all but one.")
    if not places:
        names = {name_of(column): column for column in frame.columns}
        near = difflib.get_close_matches(name_of(label), list(names), n=1)
        hint = f"Did you mean {names[near[0]]!r}?" if near else f"The columns are {', '.join(names)}."
        raise OptionsError(f"There is no column {label!r}. {hint}")
    return frame.iloc[:, places[0]]


def places_of(frame: pd.DataFrame, label: Any) -> list[int]:
    """Where the columns of this name stand; with several levels, a name may leave out empty ones."""
    levels = frame.columns.nlevels
    full = label if isinstance(label, tuple) or levels == 1 else (label,)
    if levels > 1:
        full = (*full, *[""] * (levels - len(full)))
    return [i for i, column in enumerate(frame.columns) if column == full]


def name_of(label: Any) -> str:
    """A column's label as text, levels joined by dots."""
    return ".".join(str(part) for part in label if part != "") if isinstance(label, tuple) else str(label)
