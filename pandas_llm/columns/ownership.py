"""Whose values are ours: a column that exists is replaced only where a run wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from pandas_llm.columns.fingerprints import anchors_of, digests_of, fingerprint, payload_digests
from pandas_llm.columns.results import SHARED, SIDES, side_names
from pandas_llm.columns.spec import TextSpec, label_of, name_of, positions_of
from pandas_llm.columns.texts import Mask, Texts, rows_at, texts_from
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.options import Details, Options
from pandas_llm.core.plan import Codes, Plan, keys_of, stem_of
from pandas_llm.core.types import SOURCES, Task

_DATED = ("datetime64", "datetime", "date")
_ANSWERED = ("api", "batch", "cache", "duplicate", "similar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the store remembers of an output column that a run wrote."""

    question_stem: bytes | None
    """`stem_of` the question; None where it isn't known any more."""
    spec: str | None
    """`TextSpec.to_json()` of its text."""
    field: int
    """The column's place among the question's fields, and so in its payloads."""
    sides: tuple[str, ...]
    """`sides_of` the run that wrote it."""


class Ledger(Protocol):
    """What the store knows of columns and answers."""

    def column(self, output: str, fingerprint: bytes) -> Written | None:
        """The column of this name and these values, if a run wrote it."""
        ...

    def columns(self, output: str) -> list[Written]:
        """All columns of this name that runs wrote, newest first."""
        ...

    def known_payloads(self, keys: bytes) -> Iterable[list[tuple[bytes, list[Any]]]]:
        """What is known under these keys; a payload's first item is the list of field values, or None."""
        ...

    def shared_payloads(self, stem: bytes, keys: bytes) -> Iterable[list[tuple[bytes, list[Any]]]]:
        """The answers that near-equal texts gave to these keys of a question."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Existing:
    """What becomes of columns that are there before a run."""

    given: Mask | None = None
    """Rows with a value that no run wrote and that stays; None where there are none."""
    stale: tuple[int, ...] = ()
    """Positions of an earlier run's side columns that this run doesn't write."""


def check_conflict(
    frame: pd.DataFrame, task: Task, plan: Plan, options: Options, ledger: Ledger | None
) -> Existing:
    """What stays and what goes of the outputs a frame already has. To be called before anything is sent.

    Parameters
    ----------
    frame : DataFrame
        Any index; nothing of it is changed.
    task : Task
        Its fields and side columns are what will be written.
    plan : Plan
        Of this call, for the keys its rows have now.
    options : Options
        `on_conflict` and `details` count here.
    ledger : Ledger or None
        None with `cache=False`: a `{output}_source` column of ours beside the output counts instead.

    Raises
    ------
    OptionsError
        There is a value or a side column that no run wrote, and `on_conflict` doesn't say what to do.
    """
    names = [field.name for field in task.fields]
    places = {name: at for name in names if (at := _place(frame, name)) is not None}
    ours = _our_sides(frame, task, places, ledger)
    _check_sides(frame, task, options, ours)
    written = {*names, *side_names(task.output, options.details, shares=options.semantic is not None)}
    gone = [_place(frame, name) for name in ours if name not in written]
    stale = tuple(sorted(at for at in gone if at is not None))
    if options.on_conflict == "overwrite":
        return Existing(None, stale)
    reader = _Reader(frame, plan, task, ledger)
    foreign = {name: reader.foreign(name, frame.iloc[:, at]) for name, at in places.items()}
    given = np.zeros(len(frame), dtype=np.bool_)
    for rows in foreign.values():
        given |= rows
    if not given.any():
        return Existing(None, stale)
    if options.on_conflict == "raise":
        raise OptionsError(_what_is_foreign(frame.index, foreign, given))
    return Existing(given, stale)


def sides_of(task: Task, details: Details, *, shares: bool = False) -> tuple[str, ...]:
    """The columns that go when a later run doesn't write them: side columns, explanation, confidence."""
    fields = (field.name for field in task.fields if task.verb != "extract" and field.name != task.output)
    return (*fields, *side_names(task.output, details, shares=shares))


def _our_sides(frame: pd.DataFrame, task: Task, outputs: Iterable[str], ledger: Ledger | None) -> set[str]:
    """The names of side columns that some run of these outputs wrote."""
    if ledger is not None:
        ours = {side for output in outputs for written in ledger.columns(output) for side in written.sides}
        strange = {
            side
            for side in side_names(task.output, "all", shares=True)
            if side not in ours and _place(frame, side) is not None
        }
        # Two extracts without a prefix share `extract_…`: a run of another output of this frame wrote them.
        others = map(name_of, frame.columns) if strange else ()
        return ours | {
            side
            for other in others
            for written in ledger.columns(other)
            for side in written.sides
            if side in strange
        }
    if _sources(frame, task) is None:
        return set()
    return {f"{task.output}_{side}" for side in (*SIDES["all"], *SHARED, "explanation", "confidence")}


def _check_sides(frame: pd.DataFrame, task: Task, options: Options, ours: set[str]) -> None:
    for name in side_names(task.output, options.details, shares=options.semantic is not None):
        if _place(frame, name) is not None and name not in ours and options.on_conflict != "overwrite":
            raise OptionsError(
                f"The frame has a column {name!r} already, and no run wrote it: "
                'output="…" gives other names, on_conflict="overwrite" replaces it.'
            )


def _place(frame: pd.DataFrame, name: str) -> int | None:
    found = positions_of(frame.columns, label_of(frame.columns, name))
    if len(found) > 1:
        raise OptionsError(
            f"The frame has {len(found)} columns named {name!r}, and the result would be one of them: "
            'rename them, or take another name with output="…".'
        )
    return found[0] if found else None


def _sources(frame: pd.DataFrame, task: Task) -> pd.Series[Any] | None:
    """The `{output}_source` column, if it is one of ours."""
    at = _place(frame, f"{task.output}_source")
    if at is None:
        return None
    column = frame.iloc[:, at]
    ours = isinstance(column.dtype, pd.CategoricalDtype) and list(column.cat.categories) == list(SOURCES)
    return column if ours else None


def without(plan: Plan, rows: Mask | None) -> Plan:
    """The plan that asks nothing for these rows, nor any text that only they have."""
    if rows is None or not rows.any():
        return plan
    codes = np.where(rows, np.int32(-1), plan.codes)
    kept = np.zeros(len(plan) + 1, dtype=np.bool_)
    kept[codes] = True
    kept[-1] = False
    renumber = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    asked = np.flatnonzero(kept).tolist()
    return replace(
        plan,
        codes=renumber[codes],
        texts=[plan.texts[code] for code in asked],
        keys=b"".join(plan.key(code) for code in asked),
    )


def _what_is_foreign(index: pd.Index[Any], foreign: dict[str, Mask], given: Mask) -> str:
    names = ", ".join(repr(name) for name, rows in foreign.items() if rows.any())
    count = sum(int(rows.sum()) for rows in foreign.values())
    value, was, it = ("value", "wasn't", "it") if count == 1 else ("values", "weren't", "them")
    return (
        f"{count:,} {value} of {names} {was} written by a run ({rows_at(index, given)}): "
        f'on_conflict="keep" keeps {it}, "overwrite" replaces {it}.'
    )


class _Reader:
    """Compares columns with what the store holds under their rows' keys."""

    def __init__(self, frame: pd.DataFrame, plan: Plan, task: Task, ledger: Ledger | None) -> None:
        self._frame = frame
        self._plan = plan
        self._task = task
        self._ledger = ledger
        self._texts: dict[str, Texts | None] = {}

    def foreign(self, name: str, column: pd.Series[Any]) -> Mask:
        """The rows of an output whose value no run wrote."""
        digests = digests_of(column)
        foreign: Mask = np.asarray(digests.any(axis=1))
        if self._ledger is None:
            sources = _sources(self._frame, self._task)
            if sources is not None:
                foreign[sources.isin(_ANSWERED).to_numpy()] = False
            return foreign
        for anchor in anchors_of(self._frame.index, self._plan):
            if self._ledger.column(name, fingerprint(digests, anchor)) is not None:
                return np.zeros(len(column), dtype=np.bool_)
        dated = pd.api.types.infer_dtype(column, skipna=True) in _DATED
        place = [field.name for field in self._task.fields].index(name)
        for stem, codes, keys, field in self._questions(self._ledger, name, place):
            for payloads in (self._ledger.known_payloads, partial(self._ledger.shared_payloads, stem)):
                wanted = np.unique(codes[foreign & (codes >= 0)])
                if len(wanted):
                    known = payload_digests(payloads, keys, wanted, field=field, dated=dated)
                    foreign &= (known[codes] != digests).any(axis=1)
        return foreign

    def _questions(self, ledger: Ledger, name: str, place: int) -> Iterator[tuple[bytes, Codes, bytes, int]]:
        """What the column may answer, this call's question first: stem, codes, keys, the field's place."""
        yield stem_of(self._plan.question), self._plan.codes, self._plan.keys, place
        for stem, spec, field in dict.fromkeys(
            (written.question_stem, written.spec, written.field) for written in ledger.columns(name)
        ):
            texts = None if stem is None or spec is None else self._texts_of(spec)
            if texts is not None and stem is not None:
                yield stem, texts.codes, keys_of(stem, texts.texts), field

    def _texts_of(self, spec: str) -> Texts | None:
        if spec not in self._texts:
            read = TextSpec.from_json(self._frame, spec)
            # "send": a run may have asked for the empty text; where none did, there is no value either.
            self._texts[spec] = None if read is None else texts_from(self._frame, read, "send")
        return self._texts[spec]
