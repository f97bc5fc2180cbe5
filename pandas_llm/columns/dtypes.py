"""JSON values become typed columns: which dtype a field has, and what it can't hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.extensions import ExtensionArray

from pandas_llm.columns.spec import excerpt
from pandas_llm.core.types import Field
from pandas_llm.core.vectors import floats

Column: TypeAlias = ExtensionArray | npt.NDArray[Any]

PANDAS_3 = int(pd.__version__.split(".", maxsplit=1)[0]) >= 3
_INT64 = range(-(2**63), 2**63)


def converted(field: Field, values: Sequence[Any], misfits: dict[int, str]) -> list[Any]:
    """The values as this field's column holds them; by place in `misfits`, why one can't be held.

    Readers have checked each reply already. This is the last net: one value must never cost a column.
    """
    if field.kind == "object":
        return list(values)
    convert = _CONVERTERS[field.kind] if field.kind != "category" else _category_codes(field.categories)
    held: list[Any] = []
    for at, value in enumerate(values):
        try:
            held.append(None if value is None else convert(value))
        except (KeyError, TypeError, ValueError, OverflowError):
            held.append(None)
            misfits[at] = (
                f"SchemaMismatchError: {field.name} is {excerpt(value)}, which no {field.kind} column holds"
            )
    return held


def array_of(field: Field, held: list[Any]) -> Column:
    """The array of `converted` values, None being missing."""
    if field.kind == "text":
        return text_array(held)
    if field.kind == "category":
        codes = np.array([-1 if code is None else code for code in held], dtype=np.int32)
        return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(field.categories)))
    if field.kind == "float":
        return np.array([np.nan if value is None else value for value in held], dtype=np.float64)
    if field.kind == "datetime":
        moments: Column = pd.array(
            np.array([_NAT if value is None else value for value in held], dtype="M8[us]")
        )
        return moments
    if field.kind in ("object", "vector"):
        return object_array(held)
    array: Column = pd.array(held, dtype="Int64" if field.kind == "int" else "boolean")
    return array


def text_array(values: Sequence[str | None]) -> Column:
    """Text as this pandas keeps it: `str` on 3, objects with None before."""
    objects = object_array(values)
    array: Column = pd.array(objects, dtype="str") if PANDAS_3 else objects
    return array


def object_array(values: Sequence[Any]) -> npt.NDArray[Any]:
    """One object a row: `np.array` would make a matrix of lists that happen to be of one length."""
    return np.fromiter(values, dtype=object, count=len(values))


def mended(text: str) -> str:
    """The text with lone surrogates replaced: a column of text can't hold them, a reply's JSON can."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def instant(value: str | date) -> np.datetime64:
    """A date or an ISO 8601 text in microseconds, zone-aware ones as UTC without zone.

    By numpy's arithmetic: Python's has no UTC for 9999-12-31T23:00-05:00, nanoseconds none after 2262.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        return np.datetime64(moment, "us")
    offset = moment.utcoffset()
    naive = np.datetime64(moment.replace(tzinfo=None), "us")
    return naive if offset is None else naive - np.timedelta64(offset)


_NAT = np.datetime64("NaT", "us")


def _whole(value: Any) -> int:
    number = int(value)
    if number != value or number not in _INT64:
        raise ValueError(value)
    return number


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return mended(value)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "int": _whole,
    "float": float,
    "bool": _truth,
    "datetime": instant,
    "vector": floats,
}


def _category_codes(categories: tuple[Any, ...]) -> Callable[[Any], int]:
    # A bool is no label of the ints 0 and 1.
    known = {(isinstance(category, bool), category): code for code, category in enumerate(categories)}
    return lambda value: known[isinstance(value, bool), value]
