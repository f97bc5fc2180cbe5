"""Whether a confidence can be believed: accuracy by confidence, and how far the two are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm.evaluate import gold as cells

BINS = 10
_EDGES = np.arange(BINS + 1) / BINS


def reliability_of(frame: pd.DataFrame, output: Any, right: Sequence[bool | None]) -> pd.DataFrame | None:
    """Accuracy by bin of confidence; None where no judged row has one.

    Ten bins of equal width, as in Guo et al. (2017): the first is [0, 0.1], the last (0.9, 1].

    Parameters
    ----------
    frame, output
        The confidence is the column `"{output}_confidence"`.
    right
        By row whether the answer is right; None for rows that aren't judged.

    Examples
    --------
    >>> frame = pd.DataFrame({"label": ["a", "b"], "label_confidence": [0.95, 0.35]})
    >>> reliability_of(frame, "label", [True, False])["rows"].tolist()
    [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    """
    name = f"{output[0] if isinstance(output, tuple) else output}_confidence"
    if len(cells.places_of(frame, name)) != 1:
        return None
    given = pd.to_numeric(cells.column_of(frame, name), errors="coerce")
    confidence = given.to_numpy(dtype=np.float64, na_value=math.nan)
    # A NaN is in no range.
    counts = np.array([value is not None for value in right], dtype=np.bool_)
    counts &= (confidence >= 0) & (confidence <= 1)
    if not counts.any():
        return None
    sure = confidence[counts]
    hits = np.array([bool(value) for value in right])[counts]
    # Compared with the edges themselves: 0.7 * 10 may be more than 7.
    bins = np.searchsorted(_EDGES[1:-1], sure, side="left")
    rows = np.bincount(bins, minlength=BINS)
    sums = pd.DataFrame(
        {
            weight: np.bincount(bins, values, BINS)
            for weight, values in (("confidence", sure), ("accuracy", hits))
        },
        index=pd.IntervalIndex.from_breaks(_EDGES, name="bin"),
    )
    table = sums.div(pd.Series(rows, index=sums.index).where(rows > 0), axis=0)
    table.insert(0, "rows", rows)
    return table


def ece_of(reliability: pd.DataFrame | None) -> float:
    """Expected calibration error: the bins' |accuracy - confidence|, weighted by their rows."""
    if reliability is None:
        return math.nan
    gaps = (reliability["accuracy"] - reliability["confidence"]).abs()
    rows = reliability["rows"]
    return float((gaps * rows).sum() / rows.sum())
