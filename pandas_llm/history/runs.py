"""The list of runs: a DataFrame that a notebook shows in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from pandas_llm.display.words import money, number
from pandas_llm.history.tables import counts
from pandas_llm.reports import page as html

_HEADS = {"when": "when (UTC)"}
_NUMBERS = ("rows", "tokens", "cost")


class Runs(pd.DataFrame):
    """A DataFrame like any other, but for how a notebook shows it; what is made of it is a plain one."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str | None:
        if not pd.get_option("display.notebook_repr_html"):
            return None
        most = pd.get_option("display.max_rows") or len(self)
        names = list(map(str, self.columns))
        rows = [
            [_HEADS.get(name, name) for name in names],
            *(list(map(_in_words, names, row)) for row in self.head(most).itertuples(index=False)),
        ]
        said = f"{number(len(self), 'run')}, the newest first" if len(self) else "No run yet"
        if len(self) > most:
            more = len(self) - most
            said += f"; {more:,} more {'is' if more == 1 else 'are'}n't shown"
        right = [at for at, name in enumerate(names) if name in _NUMBERS]
        return html.page(html.table(rows, right=right), html.note(f"{said}."), widest=1_200)


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return counts(value) or "none"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unknown" if name == "cost" else "–"
    if name == "cost":
        return money(value)
    return f"{value:,.0f}" if name in _NUMBERS else str(value)
