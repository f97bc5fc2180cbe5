"""What the answers of a column cost, in whichever run they were paid for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm.columns import label_of, positions_of
from pandas_llm.core.plan import Plan, question_id
from pandas_llm.core.prices import Price, price_of
from pandas_llm.core.types import Question, Usage
from pandas_llm.io.store import NoStore, Store, record_of
from pandas_llm.settings import resolve

Dollars = npt.NDArray[np.float64]


def paid_by_row(
    frame: pd.DataFrame, store: Store | NoStore, plans: Sequence[Plan], column: str, output: str
) -> list[float]:
    """USD by row, each key's on its first row: what the frame says, else its record at today's price.

    A frame says what was billed in its own run, and that is nothing where the answer was known before.
    NaN where nobody knows.
    """
    billed = _column(frame, f"{output}_cost", math.nan)
    paid = np.zeros(len(frame))
    open_ = np.ones(len(frame), dtype=np.bool_)
    for plan in plans:
        asks = open_ & (plan.codes >= 0)
        codes = plan.codes[asks]
        by_code = np.bincount(codes, weights=billed[asks], minlength=len(plan))
        by_code = np.where(by_code > 0, by_code, _recorded(store, plan))
        rows = np.flatnonzero(asks)
        first, at = np.unique(codes, return_index=True)
        settled = np.isfinite(by_code)
        paid[rows[at]] = np.where(settled[first], by_code[first], 0.0)
        open_[rows] = ~settled[codes]
    # What no record is of was billed as the frame says, if it was billed in that run.
    answered = frame.iloc[:, positions_of(frame.columns, label_of(frame.columns, column))[0]].notna()
    unknown = open_ & answered.to_numpy()
    from_store = _sources(frame, output) == "cache"
    paid[unknown] = np.where(from_store, math.nan, billed)[unknown]
    return paid.tolist()


def _recorded(store: Store | NoStore, plan: Plan) -> Dollars:
    """By code, what the record says was used, at today's price; NaN where there is none, or no price."""
    price = cache(partial(_price, plan.question))
    costs = {}
    for chunk in store.known_payloads(plan.keys):
        for key, payload in chunk:
            record = record_of(payload)
            costs[key] = _cost(price(record.service_tier, batch=record.batch), record.usage)
    # Who took the answer of a near-equal text paid nothing; its own answer, where it has one, was paid for.
    shared = dict.fromkeys(store.similar.reuses(question_id(plan.question), plan.keys), 0.0)
    costs = {**shared, **costs}
    return np.array([costs.get(plan.key(code), math.nan) for code in range(len(plan))], dtype=np.float64)


def _price(question: Question, tier: str | None, *, batch: bool) -> Price | None:
    prices = resolve({})[0].prices
    # Of a batch a response says that its tier is the default one: it isn't billed as such.
    priced = partial(price_of, question.model, question.base_url, prices, now=time.time())
    return priced(processing="batch") if batch else priced(tier)


def _cost(price: Price | None, usage: Usage) -> float:
    # Replies without usage aren't free: only what answers for nothing is.
    if price is None or (usage == Usage() and price.input):
        return math.nan
    return price.cost(usage)


def _column(frame: pd.DataFrame, name: str, missing: float) -> Dollars:
    at = positions_of(frame.columns, label_of(frame.columns, name))
    if not at:
        return np.full(len(frame), missing)
    return pd.to_numeric(frame.iloc[:, at[0]], errors="coerce").to_numpy(dtype=np.float64, na_value=missing)


def _sources(frame: pd.DataFrame, output: str) -> npt.NDArray[Any]:
    at = positions_of(frame.columns, label_of(frame.columns, f"{output}_source"))
    return frame.iloc[:, at[0]].astype(object).to_numpy() if at else np.full(len(frame), "", dtype=object)
