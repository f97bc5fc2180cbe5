"""The last run of this process, as it ended: its figures, in text, as a page and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from pandas_llm.core.course import Course
from pandas_llm.display.words import money, number
from pandas_llm.history.pages import run_page
from pandas_llm.history.tables import counts, lines
from pandas_llm.run.reuse import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The last run of this process, as it ended.

    `pandas_llm.last_run()` gives it; `.frame` holds what came of it, also where nobody kept the result.
    """

    id: str
    status: str
    """`done`, `stopped`, `failed`, or `submitted` where batches go on at the provider."""
    verb: str
    model: str
    """As it was asked for."""
    snapshots: tuple[str, ...]
    """The models that answered, as the replies of this run name them."""
    rows: int
    sources: Mapping[str, int]
    """Rows by where their answer came from."""
    errors: Mapping[str, int]
    """Rows that failed, by error class; also those that couldn't be sent."""
    input_tokens: int
    output_tokens: int
    cost: float
    """USD; NaN where a price is unknown."""
    paid: int
    """Replies that were billed."""
    in_doubt: int
    """Requests that timed out, or were dropped in flight: they may be billed."""
    seconds: float
    route: str = ""
    """How the requests were sent: `concurrent`, `flex`, `batch`, or several, as in `batch + concurrent`."""
    reason: str = ""
    """Why by this route, where there was a choice."""
    routes: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """Index `concurrent`, `flex`, `batch`: what each was expected to take, where there was a choice."""
    reuse: Report | None = None
    """What `dedupe="semantic"` compared, audited and saved; None without it."""
    saved: float = 0.0
    """USD that weren't spent because near-equal texts shared answers, less what their vectors cost."""
    _reused: Sequence[tuple[str, str]] = field(default=(), repr=False)
    """`reuse` in words."""
    course: Course = field(default=Course(), repr=False, compare=False)
    """How it went: answers, cost and latency over its time."""
    frame: Any = field(default=None, repr=False)
    """What came of it."""

    def plot(self) -> Figure:
        """How the run went, drawn: progress and speed, latency, cost by source, errors.

        Returns
        -------
        matplotlib.figure.Figure
            Any notebook shows it; in a script, `.savefig(path)` writes it.

            - Requests that ended, over time, and how many did per second.
            - Latency of the replies, with median and 95th percentile (±6 %, the width of a bin). A batch
              has none.
            - Cost by source. What known, repeated and near-equal rows would have cost is hatched: it isn't
              spent, and estimated as this run's mean cost of an answer times these rows; for near-equal
              rows it is `.saved`.
            - Rows that failed, by error.

        Raises
        ------
        OptionsError
            matplotlib isn't installed: `pip install 'pandas-llm-accessor[plot]'`.

        Examples
        --------
        >>> import pandas as pd
        >>> import pandas_llm
        >>> tickets = pd.DataFrame({"body": ["It crashes.", "Thank you!"]})
        >>> out = tickets.llm.classify("body", ["bug", "praise"], model="local")  # doctest: +SKIP
        >>> pandas_llm.last_run().plot().savefig("run.png")  # doctest: +SKIP
        """
        from pandas_llm.history.drawing import draw

        return draw(self)

    def __str__(self) -> str:
        return "\n".join(lines(self._rows()))

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        billed = number(self.paid, "reply", "replies")
        taken = ": ".join(part for part in (self.route, self.reason) if part)
        return [
            ("run", f"{self.id} {self.status}"),
            ("asked", " · ".join((self.verb, self.model, *(s for s in self.snapshots if s != self.model)))),
            *([("route", taken)] if taken not in ("", "concurrent") else []),
            ("rows", f"{self.rows:,}" + (f" ({counts(self.sources)})" if self.sources else "")),
            *self._reused,
            ("tokens", f"{self.input_tokens:,} in, {self.output_tokens:,} out"),
            (
                "cost",
                f"{money(self.cost)}, {billed} billed, {self.in_doubt:,} in doubt",
            ),
            ("errors", counts(self.errors) or "none"),
            ("seconds", f"{self.seconds:,.1f}"),
        ]

    def _repr_html_(self) -> str:
        return run_page(self, self._rows())
