"""A column's fingerprint: its values, each bound to its row, whatever the rows' order."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm.columns.dtypes import instant, mended
from pandas_llm.columns.results import Outcome
from pandas_llm.columns.spec import label_of, positions_of
from pandas_llm.columns.texts import cell_text, number
from pandas_llm.core.plan import KEY_BYTES, Codes, Plan, keys_of
from pandas_llm.core.vectors import vector_text

Anchor: TypeAlias = npt.NDArray[np.uint64]
"""One number a row, that binds a value to its row."""

Digests: TypeAlias = npt.NDArray[np.uint64]
"""Two numbers a row for its value; (0, 0) where it is missing."""

_CHUNK = 65_536
_FEW = 1_024
_NAT = np.iinfo(np.int64).min


def fingerprints_of(frame: pd.DataFrame, outcome: Outcome) -> dict[str, list[bytes]]:
    """For each output the fingerprints to remember, of the frame that `with_results` made.

    None where values were given: a column that holds somebody's corrections must never pass for ours.
    """
    if outcome.given is not None and outcome.given.any():
        return {}
    anchors = anchors_of(frame.index, outcome.plan)
    fingerprints = {}
    for field in outcome.task.fields:
        (at,) = positions_of(frame.columns, label_of(frame.columns, field.name))
        digests = digests_of(frame.iloc[:, at])
        fingerprints[field.name] = [fingerprint(digests, anchor) for anchor in anchors]
    return fingerprints


def fingerprint_of(values: pd.Series[Any], anchor: Anchor) -> bytes:
    """A column's values, each bound to its row, in any order: 24 bytes. Missing ones don't count."""
    return fingerprint(digests_of(values), anchor)


def fingerprint(digests: Digests, anchor: Anchor) -> bytes:
    """The fingerprint of a column whose values are hashed already."""
    sums, count = [0, 0], 0
    for start in range(0, len(digests), _CHUNK):
        values, rows = digests[start : start + _CHUNK], anchor[start : start + _CHUNK]
        holds = values.any(axis=1)
        count += int(holds.sum())
        for lane in (0, 1):
            # An addend a row: sums don't care for order, and two swapped values change both addends.
            addends = _mixed(values[holds, lane] ^ _mixed(rows[holds] + np.uint64(lane)))
            sums[lane] = (sums[lane] + int(addends.sum(dtype=np.uint64))) % 2**64
    return b"".join(part.to_bytes(8, "little") for part in (*sums, count))


def anchors_of(index: pd.Index[Any], plan: Plan) -> list[Anchor]:
    """The anchors a frame has for its values: its labels where these are unique, and its rows' keys."""
    labels = index_anchor(index)
    return [key_anchor(plan)] if labels is None else [labels, key_anchor(plan)]


def index_anchor(index: pd.Index[Any]) -> Anchor | None:
    """The labels as anchors: they stay with their rows when these are sorted. None where they repeat."""
    if not index.is_unique:
        return None
    if isinstance(index.dtype, np.dtype) and index.dtype.kind == "i":
        return index.to_numpy().astype(np.int64, copy=False).view(np.uint64)
    return digests_of(pd.Series(index.to_flat_index(), dtype=None if index.nlevels == 1 else object))[:, 0]


def key_anchor(plan: Plan) -> Anchor:
    """The rows' keys as anchors: they stay with their rows as long as the text does."""
    halves = np.frombuffer(plan.keys, dtype="<u8").reshape(-1, 2)[:, 0]
    return np.append(halves, np.uint64(0))[plan.codes]


def digests_of(values: pd.Series[Any]) -> Digests:
    """Two 64-bit hashes a value, the same in each process, on each pandas, and after a round trip.

    A category hashes as its value, 1 as 1.0, an array as the list it was.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        by_category = digests_of(pd.Series(values.cat.categories))
        return np.vstack([by_category, np.zeros((1, 2), dtype=np.uint64)])[values.cat.codes.to_numpy()]
    if _holds_vectors(values):
        # 8 KB a text: hashed a few at a time, they are never there together.
        parts = [values.iloc[start : start + _FEW] for start in range(0, len(values), _FEW)]
        return np.concatenate([_hashed([_canonical(value) for value in part]) for part in parts])
    codes, distinct = number(_canonical_chunks(values), len(values))
    return _hashed(distinct)[codes]


def _holds_vectors(values: pd.Series[Any]) -> bool:
    held = (value for value in values.array if value is not None and not isinstance(value, float))
    return values.dtype == object and _is_vector(next(held, None))


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim == 1


def payload_digests(
    known_payloads: Callable[[bytes], Iterable[list[tuple[bytes, list[Any]]]]],
    keys: bytes,
    wanted: Codes,
    *,
    field: int,
    dated: bool,
) -> Digests:
    """By code, the hashes of what the store holds in one field; one place more, for the code -1.

    `dated` says that the column has instants where the payload has ISO texts.
    """
    code_of = {keys[code * KEY_BYTES : (code + 1) * KEY_BYTES]: code for code in wanted.tolist()}
    digests = np.zeros((len(keys) // KEY_BYTES + 1, 2), dtype=np.uint64)
    # Sorted, keys are read from the file in its own order.
    for found in known_payloads(b"".join(sorted(code_of))):
        answered = [
            (key, output) for key, (output, *_) in found if output is not None and field < len(output)
        ]
        values = [_canonical_payload(output[field], dated=dated) for _, output in answered]
        digests[[code_of[key] for key, _ in answered]] = _hashed(values)
    return digests


def _canonical_payload(value: Any, *, dated: bool) -> str | None:
    if dated and isinstance(value, str):
        try:
            return f"d{instant(value).astype(np.int64)}"
        except ValueError:
            return None
    return _canonical(value)


def _canonical_chunks(values: pd.Series[Any]) -> Iterator[list[str | None]]:
    for start in range(0, len(values), _CHUNK):
        chunk = values.iloc[start : start + _CHUNK]
        if isinstance(chunk.array, pd.arrays.DatetimeArray):
            moments = np.asarray(chunk.array.tz_convert(None) if chunk.array.tz else chunk.array).astype(
                "M8[us]"
            )
            yield [None if at == _NAT else f"d{at}" for at in moments.astype(np.int64).tolist()]
        else:
            yield [_canonical(value) for value in chunk.astype(object).tolist()]


def _hashed(canonicals: Sequence[str | None]) -> Digests:
    """The hashes of canonical texts; (0, 0) for None."""
    digests = np.zeros((len(canonicals), 2), dtype=np.uint64)
    held = [at for at, text in enumerate(canonicals) if text is not None]
    keys = keys_of(b"value", [mended(text) for text in canonicals if text is not None])
    digests[held] = np.frombuffer(keys, dtype="<u8").reshape(-1, 2)
    return digests


def _canonical(value: Any) -> str | None:
    """A value's text with its type, equal for values that are the same to a user; None for a missing one."""
    if type(value) is str:
        return "s" + value
    if _is_vector(value):
        return "s" + vector_text(value) if len(value) else None  # what the store holds of it
    try:
        text = cell_text(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        # Nothing that a run writes: it must only differ from all that one does.
        return f"o{type(value).__name__}"
    if isinstance(value, str):
        return "s" + text
    return _tagged(value, text) if text else None


def _tagged(value: Any, text: str) -> str:
    if isinstance(value, bool | np.bool_):
        return "b" + text
    if isinstance(value, date):
        return f"d{instant(value).astype(np.int64)}"
    if isinstance(value, timedelta | np.timedelta64):
        return "t" + text
    if isinstance(value, numbers.Integral):
        return f"n{int(value)}"
    if isinstance(value, float | np.floating):
        # A column of ints with a gap comes back from a CSV file as floats.
        return f"n{int(value)}" if float(value).is_integer() else "n" + text
    return "j" + text


def _mixed(numbers: Anchor) -> Anchor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each input bit changes half of the output's."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
