"""Columns that are made of all answers at once, in place of one answer a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pandas as pd

from pandas_llm.columns import Existing, Ledger, check_conflict
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.options import Options
from pandas_llm.core.plan import Plan
from pandas_llm.core.results import Answers
from pandas_llm.core.types import Task


class Together(Protocol):
    """How they are made."""

    @property
    def name(self) -> str:
        """The default output is `{column}_{name}`, or this alone."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a frame says of it, beside the question."""
        ...

    def task(self, asked: Task) -> Task:
        """What comes back, where this was asked."""
        ...

    def answers(self, plan: Plan, answers: Answers) -> Answers:
        """Its values by code."""
        ...


def check_whole(
    frame: pd.DataFrame, task: Task, plan: Plan, options: Options, ledger: Ledger | None
) -> Existing:
    """As `check_conflict`, for columns of which no part can stay.

    Raises
    ------
    OptionsError
        They are there, and not as a run wrote them.
    """
    asked = options if options.on_conflict == "overwrite" else replace(options, on_conflict="keep")
    existing = check_conflict(frame, task, plan, asked, ledger)
    if existing.given is not None:
        raise OptionsError(
            f"{task.output!r} isn't as a run wrote it: values were changed, or rows are gone. "
            'on_conflict="overwrite" makes it anew, output="…" gives another name.'
        )
    return existing
