"""Near texts by their vectors: rows grouped with those that say the same, and rows nearest to a query."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm.call import level_of_caller
from pandas_llm.columns import TextSpec, label_of, name_of, positions_of, read_spec, texts_from
from pandas_llm.core.errors import IncompleteWarning, OptionsError, RowErrors
from pandas_llm.core.groups import groups_among
from pandas_llm.core.neighbours import unit
from pandas_llm.core.plan import Plan
from pandas_llm.core.results import Answers
from pandas_llm.core.types import Field, Task
from pandas_llm.core.vectors import floats
from pandas_llm.display.words import number
from pandas_llm.local.words import MOST_UNKNOWN, unknown_shares, vocabulary
from pandas_llm.prepare import Ask

_ROWS = 65_536
"""Vectors compared at once: 400 MB of the longest."""
_EMBEDDED_MODEL = "local/"


# Groups ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grouping:
    """How rows are grouped: columns that are made of all vectors at once."""

    threshold: float
    guards: bool
    name: str = "group"

    def __post_init__(self) -> None:
        threshold: Any = self.threshold
        if threshold == "auto":
            raise OptionsError(
                'threshold="auto" is for dedupe="semantic", where answers show which texts may share one; '
                "here it is a number above 0 and at most 1."
            )
        is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
        if not is_number or not 0 < float(threshold) <= 1:
            raise OptionsError(f"threshold is a number above 0 and at most 1; got {threshold!r}.")
        if not isinstance(self.guards, bool):
            raise OptionsError(f"guards is True or False; got {self.guards!r}.")

    @property
    def facts(self) -> dict[str, Any]:
        """How rows were grouped."""
        return {"verb": "dedupe", "threshold": float(self.threshold), "guards": self.guards}

    def task(self, asked: Task) -> Task:
        """The three columns."""
        output = asked.output
        fields = (
            Field(output, "int"),
            Field(f"{output}_size", "int"),
            Field(f"{output}_similarity", "float"),
        )
        return replace(asked, verb="dedupe", fields=fields)

    def answers(self, plan: Plan, answers: Answers) -> Answers:
        """Group, its rows and the similarity to its first text, by code; None where there is no vector."""
        (vectors,) = answers.fields
        codes = [code for code, vector in enumerate(vectors) if vector is not None]
        texts = [plan.texts[code] for code in codes]
        strange = _strange(plan.question.model, texts)
        found = groups_among(
            texts,
            [None if odd else floats(vectors[code]) for code, odd in zip(codes, strange, strict=True)],
            self.threshold,
            guards=self.guards,
            is_word=_words(),
        )
        firsts, group = np.unique(found.first, return_inverse=True)
        rows = np.bincount(plan.codes[plan.codes >= 0], minlength=len(plan))[codes]
        sizes = np.bincount(group, weights=rows, minlength=len(firsts)).astype(np.int64)
        columns: tuple[list[Any], ...] = tuple([None] * len(plan) for _ in range(3))
        made = (group.tolist(), sizes[group].tolist(), found.similarity.tolist())
        for column, values in zip(columns, made, strict=True):
            for code, value in zip(codes, values, strict=True):
                column[code] = value
        return replace(answers, fields=columns)


def _strange(model: str, texts: Sequence[str]) -> list[bool]:
    """Which texts a model knows too little of; the embedded one tells."""
    if not model.startswith(_EMBEDDED_MODEL):
        return [False] * len(texts)
    return [share > MOST_UNKNOWN for share in unknown_shares(texts)]


def _words() -> Callable[[str], bool] | None:
    known = vocabulary()
    return None if known is None else known.__contains__


# Search ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Search:
    """What is looked for, and where."""

    frame: pd.DataFrame
    label: Any
    """Of the column with the similarity."""
    k: int

    def nearest(self, embedded: pd.DataFrame) -> pd.DataFrame:
        """The rows whose texts are nearest to the last one of the frame with the vectors."""
        *vectors, query = embedded.iloc[:, -2].tolist()
        *errors, why = embedded.iloc[:, -1].tolist()
        if query is None:
            raise RowErrors(f"The query has no vector, so nothing was compared. {why}")
        self._tell_of_missing(errors)
        similarity = np.full(len(vectors), -np.inf)
        known = [row for row, vector in enumerate(vectors) if vector is not None]
        to = unit(np.array([query]))[0]
        for at in range(0, len(known), _ROWS):
            rows = known[at : at + _ROWS]
            cosines = unit(np.array([vectors[row] for row in rows])) @ to
            # Equal vectors' products differ in the digits behind these, by their places in the matrix.
            similarity[rows] = np.round(cosines.astype(np.float64), 6)
        best = np.argsort(-similarity, kind="stable")[: min(self.k, len(known))]
        found = self.frame.iloc[best].copy()
        found[self.label] = similarity[best]
        return found

    def _tell_of_missing(self, errors: Sequence[Any]) -> None:
        missing = [error for error in errors if isinstance(error, str)]
        if missing:
            has = "has" if len(missing) == 1 else "have"
            text = f"{len(missing):,} of {number(len(errors), 'row')} {has} no vector. {missing[0]}"
            warnings.warn(text, IncompleteWarning, stacklevel=level_of_caller())


def search(frame: pd.DataFrame, ask: Ask, query: str, k: int) -> tuple[pd.DataFrame, Ask]:
    """What is to be embedded, and what then finds the `k` rows of the frame nearest to the query.

    Raises
    ------
    PromptError, OptionsError
        The text is no column; the query no text; no name is left for the similarity.
    """
    if not isinstance(query, str) or not query.strip():
        raise OptionsError(f"query is a text; got {query!r}.")
    given: Any = k
    if isinstance(given, bool) or not isinstance(given, numbers.Integral) or int(given) < 1:
        raise OptionsError(f"k is how many rows to find, a whole number from 1 on; got {k!r}.")
    spec = read_spec(frame, ask.text)
    looked_for = _Search(frame, _label(frame, spec), int(k))
    texts = texts_from(frame, spec)
    rows = [None if code < 0 else texts.texts[code] for code in texts.codes.tolist()]
    column = "text" if spec.single is None else spec.single
    beside = pd.DataFrame({column: pd.Series([*rows, query], dtype=object)})
    return beside, replace(ask, text=column, finish=looked_for.nearest)


def _label(frame: pd.DataFrame, spec: TextSpec) -> Any:
    names = ["similarity", *([] if spec.single is None else [f"{spec.single}_similarity"])]
    for name in names:
        label = label_of(frame.columns, name)
        if not positions_of(frame.columns, label):
            return label
    taken = " and ".join(map(repr, map(name_of, names)))
    raise OptionsError(f"The frame has {taken} already, where the similarity would stand: rename them.")
