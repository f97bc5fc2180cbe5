"""What was and what would be: the last run, the estimate of the next, what stands behind a row."""

from pandas_llm.history.estimate import Costs, Estimate, Span, costs_of, estimate_of, too_dear
from pandas_llm.history.paid import paid_by_row
from pandas_llm.history.past import (
    LastRun,
    attrs_of,
    budget_line,
    description,
    facts_of,
    interrupted_line,
    last_run,
    opening_lines,
    remember,
    sign,
)
from pandas_llm.history.tables import Shown

__all__ = [
    "Costs",
    "Estimate",
    "LastRun",
    "Shown",
    "Span",
    "attrs_of",
    "budget_line",
    "costs_of",
    "description",
    "estimate_of",
    "facts_of",
    "interrupted_line",
    "last_run",
    "opening_lines",
    "paid_by_row",
    "remember",
    "sign",
    "too_dear",
]
