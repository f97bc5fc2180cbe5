"""When answers are needed: one deadline for all rows, or a column of them."""

from __future__ import annotations

import difflib
import math
import re
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm.columns.spec import excerpt, label_of, name_of, positions_of
from pandas_llm.columns.texts import rows_at
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import Codes

Seconds = npt.NDArray[np.float64]

_WAYS = 'deadline is "20min", "6h", a timedelta, a datetime, or a column of these'
_NEITHER = "is neither a span of time nor a moment"
_UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3_600, "hr": 3_600}
_UNITS |= {"hour": 3_600, "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800}
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(sorted(_UNITS, key=len, reverse=True))})s?[\s,]*")


def deadlines_of(frame: pd.DataFrame, deadline: Any, codes: Codes, texts: int, now: float) -> Seconds | None:
    """By code, the seconds left until the first of its rows needs the answer; infinite where none does.

    What is below 0 is over: that is refused where there is something to ask for, not here.

    Parameters
    ----------
    frame : DataFrame
        Where `deadline` is one of its columns, each row has its own; missing ones have time.
    deadline : str, timedelta, datetime, column label or None
        A span from now, or a moment; one without a zone is in this machine's.
    codes, texts
        One a row, and how many there are.
    now : float
        Unix time in seconds.

    Raises
    ------
    OptionsError
        It can't be read.
    """
    if deadline is None:
        return None
    at = column_of(frame, deadline)
    if at is None:
        return np.full(texts, _left_for_all(frame, deadline, now))
    left = np.full(texts, math.inf)
    column = frame.iloc[:, at].tolist()
    read: dict[tuple[type, Any], float] = {}
    for row in np.flatnonzero(codes >= 0).tolist():
        value = column[row]
        if _is_missing(value):
            continue
        known = (type(value), value) if isinstance(value, (str, date, timedelta)) else None
        seconds = read.get(known) if known else None
        if seconds is None:
            seconds = _seconds(value, now)
            if seconds is None:
                raise OptionsError(f"{_where(frame, deadline, row)}: {_shown(value)} {_NEITHER}. {_WAYS}.")
            if known:
                read[known] = seconds
        left[codes[row]] = min(left[codes[row]], seconds)
    return left


def check_in_time(frame: pd.DataFrame, deadline: Any, codes: Codes, late: npt.NDArray[np.bool_]) -> None:
    """Refuse to ask for answers that were needed before now.

    Parameters
    ----------
    frame, deadline, codes
        As above.
    late
        By code, whether it is to be asked and its time is over.

    Raises
    ------
    OptionsError
        There are such codes.
    """
    rows = np.append(late, False)[codes]
    if not rows.any():
        return
    at = column_of(frame, deadline)
    if at is None:
        raise OptionsError(f"deadline: {_shown(deadline)} is in the past. {_WAYS}, from now on.")
    first = int(np.flatnonzero(rows)[0])
    more = f" ({rows_at(frame.index, rows)})" if rows.sum() > 1 else ""
    raise OptionsError(
        f"{_where(frame, deadline, first)}: {_shown(frame.iloc[first, at])} is in the past{more}. "
        "A missing value is a row that has time."
    )


def column_of(frame: pd.DataFrame, deadline: Any) -> int | None:
    """Where the column of deadlines stands; None where there is one deadline for all rows."""
    if isinstance(deadline, str):
        label = label_of(frame.columns, deadline)
    elif isinstance(deadline, (tuple, int)) and not isinstance(deadline, bool):
        label = deadline
    else:
        return None
    found = positions_of(frame.columns, label)
    if len(found) > 1:
        raise OptionsError(f"deadline: the frame has {len(found)} columns named {excerpt(deadline)}.")
    return found[0] if found else None


def _left_for_all(frame: pd.DataFrame, deadline: Any, now: float) -> float:
    seconds = None if _is_missing(deadline) else _seconds(deadline, now)
    if seconds is not None:
        return seconds
    hint = ""
    if isinstance(deadline, str):
        names = {name_of(label).lower(): label for label in frame.columns}
        near = difflib.get_close_matches(deadline.lower()[:200], names, n=1)
        hint = f" Did you mean the column {excerpt(names[near[0]])}?" if near else ""
        hint = f" and no column.{hint}"
    raise OptionsError(f"deadline: {_shown(deadline)} {_NEITHER}{hint or '.'} {_WAYS}.")


def _where(frame: pd.DataFrame, deadline: Any, row: int) -> str:
    mask = np.zeros(len(frame), dtype=np.bool_)
    mask[row] = True
    return f"deadline, column {excerpt(deadline)}, {rows_at(frame.index, mask)}"


def _shown(value: Any) -> str:
    """A deadline in few words."""
    return str(value) if isinstance(value, (date, timedelta)) else excerpt(value)


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _seconds(value: Any, now: float) -> float | None:
    """Seconds from now; None where nobody can read it."""
    try:
        if isinstance(value, (timedelta, np.timedelta64)):
            return float(pd.Timedelta(value).total_seconds())
        if isinstance(value, (datetime, np.datetime64)):
            return _moment(value) - now
        if isinstance(value, date):  # its end: "by the 3rd" is until midnight
            return _moment(datetime(value.year, value.month, value.day) + timedelta(days=1)) - now  # noqa: DTZ001
        if isinstance(value, str):
            return _read(value.strip(), now)
    except (ValueError, OverflowError):
        pass
    return None


def _read(text: str, now: float) -> float | None:
    span = _span(text)
    if span is not None:
        return span
    if "day" in text:  # as pandas writes a timedelta: 0 days 06:00:00
        return float(pd.Timedelta(text).total_seconds())
    moment = None if text.replace(".", "", 1).isdigit() else _moment(text)
    # What is half a date is one of the year 1 to the parser, as in "may" and "1h30".
    return None if moment is None or moment < 0 else moment - now


def _span(text: str) -> float | None:
    """`20min`, `1h 30min`, `2 days`; None where it is no span."""
    total, at, sign = 0.0, 0, 1
    if text.startswith("-"):
        sign, at = -1, 1
    begun = at
    while (part := _PART.match(text, at)) is not None:
        total, at = total + float(part[1]) * _UNITS[part[2]], part.end()
    return sign * total if at == len(text) > begun else None


def _moment(value: Any) -> float:
    """Unix time in seconds; what has no zone is in this machine's."""
    return pd.Timestamp(value).to_pydatetime(warn=False).timestamp()
