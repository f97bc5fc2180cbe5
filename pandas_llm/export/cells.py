"""Cells as each format takes them: JSON values, CSV text, spreadsheet cells."""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import singledispatch
from typing import Any

import numpy as np
import orjson
import pandas as pd

CONTAINERS = (dict, list, tuple, set, frozenset, np.ndarray)
EXCEL_CHARACTERS = 32_767
_EXCEL_DIGITS = 10**15
_SURROGATES = re.compile("[\ud800-\udfff]")
# What XML 1.0 has no way to write; one of them makes a workbook unreadable.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def column_name(label: Any) -> str:
    """A column's label as text, levels joined by dots."""
    parts = [str(part) for part in label if part != ""] if isinstance(label, tuple) else [str(label)]
    return clean(".".join(parts))


def clean(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which UTF-8 can't hold."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def json_text(value: Any) -> str:
    """The cell as one line of JSON."""
    return json.dumps(as_json(value), ensure_ascii=False, allow_nan=False)


@singledispatch
def as_json(value: Any) -> Any:
    """The cell as a JSON value: missing is null, dates ISO 8601, bytes base64, infinity a text."""
    return clean(str(value))


@as_json.register(type(None))
@as_json.register(type(pd.NA))
@as_json.register(type(pd.NaT))
def _(_value: Any) -> None:
    return None


@as_json.register
def _(value: int) -> Any:
    return value


@as_json.register
def _(value: str) -> Any:
    return clean(str(value.value) if isinstance(value, Enum) else value)


@as_json.register
def _(value: float) -> Any:
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return None if math.isnan(value) else value


@as_json.register
def _(value: Enum) -> Any:
    return as_json(value.value)


@as_json.register
def _(value: bytes) -> Any:
    return base64.b64encode(value).decode("ascii")


@as_json.register(date)
@as_json.register(time)
def _(value: Any) -> Any:
    return value.isoformat()


@as_json.register(timedelta)
@as_json.register(np.timedelta64)
def _(value: Any) -> Any:
    span: Any = pd.Timedelta(value)
    return None if span is pd.NaT else span.isoformat()


@as_json.register
def _(value: np.datetime64) -> Any:
    return as_json(pd.Timestamp(value))


@as_json.register
def _(value: np.generic) -> Any:
    return as_json(value.item())


@as_json.register
def _(value: dict) -> Any:  # type: ignore[type-arg]  # singledispatch takes no parametrised type
    return {clean(str(key)): as_json(item) for key, item in value.items()}


@as_json.register(list)
@as_json.register(tuple)
def _(value: Any) -> Any:
    return [as_json(item) for item in value]


@as_json.register
def _(value: np.ndarray) -> Any:
    if value.dtype == np.float32 and np.isfinite(value).all():
        # An embedding has thousands: one by one they take 3 ms a row, and twice the digits that they have.
        return orjson.loads(orjson.dumps(np.ascontiguousarray(value), option=orjson.OPT_SERIALIZE_NUMPY))
    return [as_json(item) for item in value]


@as_json.register(set)
@as_json.register(frozenset)
def _(value: Any) -> Any:
    return [as_json(item) for item in sorted(value, key=str)]


def csv_cell(value: Any) -> Any:
    """Texts, lists and records as one text; what pandas writes well is left as it is."""
    if isinstance(value, CONTAINERS):
        return json_text(value)
    if isinstance(value, (str, bytes, Enum)):
        # pandas 2.2 reads a text up to its first NUL only; other readers refuse the file.
        value = as_json(value)
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value
    return value


def excel_cell(value: Any) -> Any:
    """A number, bool, naive date or text; None where it is missing."""
    if isinstance(value, CONTAINERS):
        value = json_text(value)
    if isinstance(value, datetime) and value is not pd.NaT and value.tzinfo is None and value.year >= 1900:
        return value.to_pydatetime(warn=False) if isinstance(value, pd.Timestamp) else value
    if isinstance(value, date) and not isinstance(value, datetime) and value.year >= 1900:
        return value
    value = as_json(value)
    if isinstance(value, int) and abs(value) >= _EXCEL_DIGITS:
        value = str(value)  # a spreadsheet keeps 15 digits: ids would change
    return _NOT_XML.sub("\ufffd", value) if isinstance(value, str) else value
