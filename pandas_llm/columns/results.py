"""Results become columns: each row its own answer, and what it cost on the row that was billed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm.columns.dtypes import PANDAS_3, Column, array_of, converted, mended, object_array, text_array
from pandas_llm.columns.spec import label_of, positions_of
from pandas_llm.columns.texts import Mask, Texts
from pandas_llm.core.options import Details
from pandas_llm.core.plan import KEY_BYTES, Plan
from pandas_llm.core.results import COUNTS, WORDS, Answers, Word
from pandas_llm.core.types import SOURCES, Field, Task

SIDES: dict[str, tuple[str, ...]] = {
    "none": (),
    "errors": ("error",),
    "usage": ("error", "source", "input_tokens", "output_tokens", "cost"),
}
SIDES["all"] = (
    *SIDES["usage"],
    *("cached_tokens", "cache_write_tokens", "reasoning_tokens", "latency", "attempts"),
    *("model", "service_tier", "finish_reason", "request_id", "key"),
)
SHARED = ("similar_to", "similarity")
"""Of rows that took the answer of a near-equal text."""
# Pandas 3 copies when one side is written to, and says so when told not to copy now.
_UNCOPIED: dict[str, Any] = {} if PANDAS_3 else {"copy": False}
_ASKED_NOW = frozenset({"api", "batch"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a call found out about the rows of a frame."""

    task: Task
    texts: Texts
    plan: Plan
    """Its codes, one a row, are what `answers` is about."""
    answers: Answers
    given: Mask | None = None
    """Rows that keep the values they have: no run wrote these."""
    shares: bool = False
    """Whether near-equal texts may have shared answers."""


def sides_in(details: Details, *, shares: bool) -> tuple[str, ...]:
    """The ends of the side columns' names, in their order."""
    return SIDES[details] + (SHARED if shares and "cost" in SIDES[details] else ())


def side_names(output: str, details: Details, *, shares: bool = False) -> tuple[str, ...]:
    """The names of the side columns, in their order."""
    return tuple(f"{output}_{side}" for side in sides_in(details, shares=shares))


def with_results(
    frame: pd.DataFrame, outcome: Outcome, *, details: Details = "usage", stale: Iterable[int] = ()
) -> pd.DataFrame:
    """A new frame: the rows, order, index, columns and dtypes of the old one, and the results at the end.

    Parameters
    ----------
    frame : DataFrame
        Shares no writable data with what comes back.
    outcome : Outcome
        A column of the same name as a result is replaced where it stands.
    details : {"none", "errors", "usage", "all"}
        Which side columns.
    stale : positions of columns
        Side columns of an earlier run, to be left out.
    """
    left_out = set(stale)
    if left_out:
        out = frame.iloc[:, [at for at in range(frame.shape[1]) if at not in left_out]].copy()
    else:
        out = frame.copy()
    out.index = _own_labels(frame.index)
    added: dict[str, Column] = {}
    for name, array in new_columns(outcome, details).items():
        at = positions_of(out.columns, label_of(out.columns, name))
        if not at:
            added[name] = array
            continue
        if outcome.given is not None and any(field.name == name for field in outcome.task.fields):
            array = _keeping(array, out.iloc[:, at[0]], outcome.given)  # noqa: PLW2901
        out.isetitem(at[0], _as_column(array, out.index))  # type: ignore[arg-type]
    return _beside(out, added).__finalize__(frame)  # type: ignore[operator, no-any-return]


def new_columns(outcome: Outcome, details: Details) -> dict[str, Column]:
    """The results by name: the task's fields, then the side columns."""
    misfits: dict[int, str] = {}
    fields = outcome.task.fields
    held = [
        converted(field, values, misfits)
        for field, values in zip(fields, outcome.answers.fields, strict=True)
    ]
    for values in held:
        for code in misfits:
            values[code] = None
    columns = {
        field.name: _field_column(field, values, outcome.plan.codes)
        for field, values in zip(fields, held, strict=True)
    }
    rows = _Rows(outcome, misfits)
    for side in sides_in(details, shares=outcome.shares):
        columns[f"{outcome.task.output}_{side}"] = rows.side(side)
    return columns


def _field_column(field: Field, held: list[Any], codes: npt.NDArray[np.int32]) -> Column:
    if field.kind == "object":
        # Rows of one key must not share a list: who sorts one in place would sort them all.
        return object_array([None if code < 0 else _own(held[code]) for code in codes.tolist()])
    if field.kind == "vector":
        rows = (None if code < 0 else held[code] for code in codes.tolist())
        # A copy a row: each can be written to, and none keeps the bytes of a reply alive.
        return object_array([None if vector is None else vector.astype(np.float32) for vector in rows])
    # One place more, for the code -1: nothing was asked.
    return array_of(field, [*held, None]).take(codes)


def _own(value: Any) -> Any:
    if isinstance(value, list):
        return [_own(item) for item in value]
    return {key: _own(item) for key, item in value.items()} if isinstance(value, dict) else value


class _Rows:
    """The side columns of one outcome, each made when it is asked for."""

    def __init__(self, outcome: Outcome, misfits: Mapping[int, str]) -> None:
        self._outcome = outcome
        self._codes = outcome.plan.codes
        self._answers = outcome.answers
        self._errors = {**outcome.answers.errors, **misfits}
        self._misfits = misfits

    def side(self, name: Any) -> Column:
        """One side column, by the end of its name."""
        if name in _USAGE:
            counts = self._answers.results.counts(name)
            return pd.array(self._billed(counts, np.int64, 0), dtype="Int64")
        if name in _SAID:
            return self._of_reply(name)
        return getattr(self, f"_{name}")()  # type: ignore[no-any-return]

    @cached_property
    def _first(self) -> npt.NDArray[np.intp]:
        """By code, the first row that asks it."""
        first = np.zeros(len(self._outcome.plan) + 1, dtype=np.intp)
        # Of equal places the last assignment stays: backwards, that is the first row.
        first[self._codes[::-1]] = np.arange(len(self._codes) - 1, -1, -1)
        return first

    def _billed(self, values: npt.NDArray[Any], dtype: type, elsewhere: float) -> npt.NDArray[Any]:
        """One value for the row each result belongs to, and `elsewhere` for all others."""
        column: npt.NDArray[Any] = np.full(len(self._codes), elsewhere, dtype=dtype)
        column[self._first[self._answers.results.codes]] = values
        return column

    def _error(self) -> Column:
        messages = [*self._errors.values(), *self._outcome.texts.failed.values()]
        places = np.full(len(self._outcome.plan) + 1, -1, dtype=np.intp)
        places[list(self._errors)] = np.arange(len(self._errors))
        at = places[self._codes]
        at[list(self._outcome.texts.failed)] = np.arange(len(self._errors), len(messages))
        if self._outcome.given is not None:
            at[self._outcome.given] = -1
        return text_array([*map(mended, messages), None]).take(at)

    def _source(self) -> Column:
        number = {source: place for place, source in enumerate(SOURCES)}
        by_code = [number[source] for source in self._answers.sources]
        for code in self._misfits:
            by_code[code] = number["failed"]
        sources = np.array([*by_code, number["skipped"]], dtype=np.int8)[self._codes]
        asked = np.array([*(SOURCES[place] in _ASKED_NOW for place in by_code), False], dtype=np.bool_)
        again = asked[self._codes]
        again[self._first[:-1][asked[:-1]]] = False
        sources[again] = number["duplicate"]
        sources[list(self._outcome.texts.failed)] = number["failed"]
        if self._outcome.given is not None:
            sources[self._outcome.given] = number["given"]
        return pd.Categorical.from_codes(sources, dtype=pd.CategoricalDtype(list(SOURCES)))

    def _cost(self) -> Column:
        costs = self._answers.results.costs
        if np.isnan(costs).any():
            # A sum skips NaN: one known cost or 0.0 beside it would pass for the whole bill.
            return np.full(len(self._codes), np.nan)
        return self._billed(costs, np.float64, 0.0)

    def _latency(self) -> Column:
        return self._billed(self._answers.results.latencies, np.float64, np.nan)

    def _similar_to(self) -> Column:
        by_code: list[str | None] = [None] * (len(self._outcome.plan) + 1)
        for code, (key, _) in self._answers.similar.items():
            by_code[code] = key.hex()
        return text_array(by_code).take(self._codes)

    def _similarity(self) -> Column:
        by_code = np.full(len(self._outcome.plan) + 1, np.nan)
        for code, (_, similarity) in self._answers.similar.items():
            by_code[code] = similarity
        return by_code[self._codes]

    def _key(self) -> Column:
        digits = self._outcome.plan.keys.hex()
        width = 2 * KEY_BYTES
        keys = [digits[at : at + width] for at in range(0, len(digits), width)]
        return text_array([*keys, None]).take(self._codes)

    def _of_reply(self, name: Word) -> Column:
        """What the response said: rows answered by a reply of today or of earlier all know it."""
        by_code: list[str | None] = [None] * (len(self._outcome.plan) + 1)
        for code, record in self._answers.records.items():
            by_code[code] = getattr(record, name)
        results = self._answers.results
        for code, word in zip(results.codes.tolist(), results.words(name), strict=True):
            by_code[code] = word
        return text_array(by_code).take(self._codes)


_USAGE = frozenset(COUNTS)
_SAID = frozenset(WORDS)


def _keeping(array: Column, old: pd.Series[Any], given: Mask) -> Column:
    """The new values, and the old ones in the rows given; the dtype gives way where it can't hold these."""
    kept = old[given].astype(object).tolist()
    new = _as_column(array, None)
    values = object_array(new.astype(object).tolist())
    values[given] = object_array(kept)
    try:
        if not isinstance(new.dtype, pd.CategoricalDtype):
            return pd.Series(values.tolist(), dtype=new.dtype).array
        known = new.cat.categories
        extra = [value for value in dict.fromkeys(kept) if not pd.isna(value) and value not in known]
        return pd.Categorical(values, categories=[*known, *extra])
    except (TypeError, ValueError, OverflowError):
        return values


def _beside(out: pd.DataFrame, added: Mapping[str, Column]) -> pd.DataFrame:
    """The frame with columns at its end, in one step: inserted one by one they fragment it."""
    if not added:
        out.columns = _own_labels(out.columns)
        return out
    columns = {place: _as_column(array, out.index) for place, array in enumerate(added.values())}
    new = pd.DataFrame(columns, copy=False)
    labels: Any = [label_of(out.columns, name) for name in added]
    if out.columns.nlevels > 1:
        new.columns = pd.MultiIndex.from_tuples(labels, names=out.columns.names)
    else:
        new.columns = pd.Index(labels, name=out.columns.name)
    whole: pd.DataFrame = pd.concat([out, new], axis=1, **_UNCOPIED)
    return whole


def _own_labels(index: pd.Index[Any]) -> pd.Index[Any]:
    """The labels in buffers of their own: a deep copy of a frame shares these, a copied range its cache."""
    if isinstance(index, pd.RangeIndex):
        return pd.RangeIndex(index.start, index.stop, index.step, name=index.name)
    return index.copy(deep=True)


def _as_column(array: Column, index: pd.Index[Any] | None) -> pd.Series[Any]:
    # The dtype is said, or pandas 3 would read objects that happen to be strings as `str`.
    return pd.Series(array, index=index, dtype=array.dtype, copy=False)
