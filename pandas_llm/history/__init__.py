"""What was and what would be: the last run, the estimate of the next, what stands behind a row."""

from pandas_llm.history.batchfile import read_output
from pandas_llm.history.ended import LastRun
from pandas_llm.history.estimate import (
    Costs,
    Estimate,
    Span,
    costs_of,
    estimate_of,
    routes_of,
    too_dear,
    usd_of,
)
from pandas_llm.history.live import states_of_batches
from pandas_llm.history.paid import paid_by_row
from pandas_llm.history.past import (
    attrs_of,
    budget_line,
    cancelled_line,
    description,
    ending_of,
    facts_of,
    interrupted_line,
    last_run,
    opening_lines,
    remember,
    sign,
)
from pandas_llm.history.reused import reuse_line
from pandas_llm.history.runs import Runs
from pandas_llm.history.shown import Shown

__all__ = [
    "Costs",
    "Estimate",
    "LastRun",
    "Runs",
    "Shown",
    "Span",
    "attrs_of",
    "budget_line",
    "cancelled_line",
    "costs_of",
    "description",
    "ending_of",
    "estimate_of",
    "facts_of",
    "interrupted_line",
    "last_run",
    "opening_lines",
    "paid_by_row",
    "read_output",
    "remember",
    "reuse_line",
    "routes_of",
    "sign",
    "states_of_batches",
    "too_dear",
    "usd_of",
]
