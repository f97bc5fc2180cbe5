"""Cells become texts: exact strings, told apart by a plain dict, missing and unfit rows set aside."""

from __future__ import annotations

import json
import numbers
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm.columns.spec import TextSpec, excerpt, name_of
from pandas_llm.core.errors import PromptError
from pandas_llm.core.plan import Codes

Mask = npt.NDArray[np.bool_]

_CHUNK = 65_536
_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """What the rows of a frame ask: row i asks `texts[codes[i]]`, and nothing where the code is -1."""

    codes: Codes
    texts: list[str]
    """Each distinct text once, in the order of its first row."""
    skipped: Mask
    """Rows that have no text."""
    failed: dict[int, str]
    """By row, cells that can't become a text: `PromptError: …`."""


def texts_from(frame: pd.DataFrame, spec: TextSpec, on_null: str = "skip") -> Texts:
    """The texts of a frame's rows.

    Parameters
    ----------
    frame : DataFrame
        Any index, any dtypes.
    spec : TextSpec
        Of `read_spec`, for this frame.
    on_null : {"skip", "raise", "send"}
        What becomes of rows whose cells are all missing, empty or white space.

    Raises
    ------
    PromptError
        There are such rows, and `on_null="raise"`.
    """
    failed: dict[int, str] = {}
    codes, distinct = number(_row_texts(frame, spec, failed), len(frame))
    for code in [at for at, text in enumerate(distinct) if text and not text.isascii() and _is_broken(text)]:
        message = f"PromptError: {_what_is_broken(distinct[code])}"
        failed.update(dict.fromkeys(np.flatnonzero(codes == code).tolist(), message))
        distinct[code] = None
    codes, texts = _settle(codes, distinct, send=on_null == "send")
    skipped = codes < 0
    skipped[list(failed)] = False
    if on_null == "raise" and skipped.any():
        raise PromptError(_what_is_missing(frame, spec, skipped))
    return Texts(codes, texts, skipped, dict(sorted(failed.items())))


def number(chunks: Iterator[list[str | None]], rows: int) -> tuple[Codes, list[str | None]]:
    """One number a row for its exact string, and the distinct strings in the order of their first row.

    A dict, because `factorize` takes strings for equal that differ only after a NUL (pandas before 3.1).
    """
    known: defaultdict[str | None, int] = defaultdict()
    known.default_factory = known.__len__
    codes = np.empty(rows, dtype=np.int32)
    start = 0
    for cells in chunks:
        stop = start + len(cells)
        codes[start:stop] = np.fromiter(map(known.__getitem__, cells), np.int32, len(cells))
        start = stop
    # The factory refers to the dict: as long as it does, only the cycle collector frees a million entries.
    known.default_factory = None
    return codes, list(known)


def cell_text(value: Any) -> str:
    """One cell as text; `""` where it is missing.

    Raises
    ------
    PromptError
        It is bytes, a set or an object whose text nobody can know.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    for types, render in _RENDERERS:
        if isinstance(value, types):
            return render(value)
    raise PromptError(_what_is_unfit(value))


def column_texts(column: pd.Series[Any], failed: dict[int, str]) -> Iterator[list[str | None]]:
    """A column's cells as texts, in chunks of rows: `""` is missing, None is in `failed`."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        yield from _categories_texts(column, failed)
        return
    name = excerpt(column.name)
    for start in range(0, len(column), _CHUNK):
        yield _fitting(_cells(column.array[start : start + _CHUNK]), start, name, failed)


def _categories_texts(column: pd.Series[Any], failed: dict[int, str]) -> Iterator[list[str | None]]:
    """Each category is rendered once, however many rows hold it."""
    unfit: dict[int, str] = {}
    name = excerpt(column.name)
    # The place after the last category is where the code -1, a missing value, points.
    texts = np.array([*_fitting(_cells(column.cat.categories.array), 0, name, unfit), ""], dtype=object)
    codes = column.cat.codes.to_numpy()
    for start in range(0, len(codes), _CHUNK):
        chunk = codes[start : start + _CHUNK]
        if unfit:
            bad = np.flatnonzero(np.isin(chunk, list(unfit)))
            failed.update({start + at: unfit[int(chunk[at])] for at in bad.tolist()})
        yield texts[chunk].tolist()


def _fitting(values: list[Any], start: int, name: str, failed: dict[int, str]) -> list[str | None]:
    """The cells' texts; what can't be one is told to `failed`, by row counted from `start`."""

    def one(row: int, value: Any) -> str | None:
        try:
            return cell_text(value)
        except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything; it is this row's alone
            cause = str(error) if isinstance(error, PromptError) else f"the cell has no text ({error!r:.60})"
            failed[row] = f"PromptError: column {name}: {cause}"
            return None

    return [value if type(value) is str else one(row, value) for row, value in enumerate(values, start)]


def _cells(array: Any) -> list[Any]:
    """The cells as Python objects; plain numbers as texts already, single precision as it prints itself."""
    dtype: Any = array.dtype
    if isinstance(dtype, pd.StringDtype):
        return np.asarray(array, dtype=object).tolist()  # type: ignore[no-any-return]
    if isinstance(dtype, pd.ArrowDtype) and dtype.kind == "f":
        # Arrow's own scalars would widen 0.1 to 0.10000000149011612.
        return list(array.to_numpy(dtype=dtype.numpy_dtype, na_value=np.nan))  # type: ignore[attr-defined]
    if not isinstance(array, pd.arrays.NumpyExtensionArray):
        return list(array)
    values = np.asarray(array)
    if values.dtype.kind in "iub":
        return list(map(str, values.tolist()))
    if values.dtype == np.float64:
        return ["" if value != value else str(value) for value in values.tolist()]  # noqa: PLR0124
    return list(values)


def _json(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return cell_text(value[()])
    return json.dumps(_nested(value), ensure_ascii=False, sort_keys=True)


def _nested(value: Any) -> Any:
    """A cell's inside as JSON values: null for what is missing, text for what JSON has no type for."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0):
        return [_nested(item) for item in value]
    if isinstance(value, dict):
        named = {_key(key): _nested(item) for key, item in value.items()}
        if len(named) < len(value):
            raise PromptError("two keys of a dict have the same text: rename one")
        return named
    return _scalar(value[()] if isinstance(value, np.ndarray) else value)


def _scalar(value: Any) -> Any:
    text = cell_text(value)
    if isinstance(value, str | np.timedelta64) or not text:
        return text if isinstance(value, str) else text or None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    # By way of its text: float32's 0.1 is 0.1 here too.
    return float(text) if isinstance(value, float | np.floating) else text


def _key(key: Any) -> str:
    text = cell_text(key)
    if not text and not isinstance(key, str):
        raise PromptError("a key of a dict is missing: leave it out or give it a name")
    return text


def _row_texts(frame: pd.DataFrame, spec: TextSpec, failed: dict[int, str]) -> Iterator[list[str | None]]:
    columns = [column_texts(frame.iloc[:, at], failed) for at in spec.columns]
    if spec.kind == "column":
        yield from columns[0]
        return
    start = 0
    # `zip` runs the columns in step: all have the same chunks.
    for chunk in zip(*columns, strict=True):
        cells = [["" if cell is None or cell.isspace() else cell for cell in column] for column in chunk]
        texts: list[str | None] = list(
            _listed(spec, cells) if spec.kind == "columns" else _filled(spec, cells)
        )
        for row in [row for row in failed if row >= start]:
            texts[row - start] = None
        start += len(texts)
        yield texts


def _listed(spec: TextSpec, cells: Sequence[list[str]]) -> Iterator[str]:
    heads = [f"{name_of(label)}: " for label in spec.labels]
    for row in zip(*cells, strict=True):
        yield "\n".join([head + cell for head, cell in zip(heads, row, strict=True) if cell])


def _filled(spec: TextSpec, cells: Sequence[list[str]]) -> Iterator[str]:
    parts = [repeat(part) if isinstance(part, str) else cells[part] for part in spec.parts]
    # The literal parts repeat for ever: the cells end the rows.
    for row, whole in zip(zip(*cells, strict=True), zip(*parts, strict=False), strict=False):
        yield "".join(whole) if any(row) else ""


def _settle(codes: Codes, distinct: list[str | None], *, send: bool) -> tuple[Codes, list[str]]:
    """Take out what asks nothing; with `send` all blank texts are one, the empty text."""
    blank = [at for at, text in enumerate(distinct) if text is not None and (not text or text.isspace())]
    unfit = [at for at, text in enumerate(distinct) if text is None]
    if send and blank:
        distinct[blank[0]] = ""
        codes = np.where(np.isin(codes, blank), np.int32(blank[0]), codes)
        blank = blank[1:]
    out = {*blank, *unfit}
    if not out:
        return codes, [text for text in distinct if text is not None]
    asking = np.ones(len(distinct), dtype=np.bool_)
    asking[list(out)] = False
    renumber = np.where(asking, np.cumsum(asking, dtype=np.int32) - 1, np.int32(-1)).astype(np.int32)
    return renumber[codes], [text for at, text in enumerate(distinct) if text is not None and at not in out]


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _number(value: Any) -> str:
    # A signalling NaN of Decimal can't even be compared.
    nan = value.is_nan() if isinstance(value, Decimal) else bool(value != value)  # noqa: PLR0124
    return "" if nan else str(value)


_RENDERERS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    # A str Enum's own __str__ is the member's name; this is its value.
    (str, str.__str__),
    ((bool, np.bool_, pd.Period, pd.Interval), str),
    # Before the numbers: numpy counts durations among the integers.
    (np.datetime64, lambda value: cell_text(pd.Timestamp(value))),
    (np.timedelta64, lambda value: cell_text(pd.Timedelta(value))),
    (numbers.Number, _number),
    ((date, time), lambda value: str(value.isoformat())),
    (timedelta, lambda value: pd.Timedelta(value).isoformat()),
    ((list, tuple, dict, np.ndarray), _json),
)


def _what_is_broken(text: str | None) -> str:
    assert text is not None
    at = next(place for place, letter in enumerate(text) if "\ud800" <= letter <= "\udfff")
    return (
        f"the text has a lone surrogate, {text[at]!a}, at character {at}, which no request can carry: "
        "repair it, for instance with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
    )


def _what_is_unfit(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        # Not .str.decode: on a column of both it makes every real text missing.
        decode = "lambda cell: cell.decode() if isinstance(cell, bytes) else cell"
        return f"bytes aren't text: decode them first, with .map({decode})"
    if isinstance(value, set | frozenset):
        return "a set has no order: make it a sorted list first"
    return f"a {type(value).__name__} isn't text: turn it into text first, with .map(str)"


def _what_is_missing(frame: pd.DataFrame, spec: TextSpec, skipped: Mask) -> str:
    count = int(skipped.sum())
    where = excerpt(spec.single) if spec.single is not None else "the text's columns"
    return (
        f"{count} row{'s have' if count != 1 else ' has'} no text in {where} "
        f"({rows_at(frame.index, skipped)}): "
        'on_null="skip" leaves such rows out, on_null="send" sends the empty text.'
    )


def rows_at(index: pd.Index[Any], rows: Mask) -> str:
    """`rows 4, 17, 230`: the labels of the first rows of a mask, for a message."""
    places = np.flatnonzero(rows)
    labels = [
        str(label) if isinstance(label, int) else excerpt(label) for label in index[places[:_SHOWN]].tolist()
    ]
    more = ", …" if len(places) > _SHOWN else ""
    return f"row{'s' if len(places) != 1 else ''} {', '.join(labels)}{more}"
