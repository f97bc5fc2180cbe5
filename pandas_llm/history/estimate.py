"""What a call would send and cost: the estimate, and the sums that a run is begun on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pandas_llm.core.errors import OptionsError
from pandas_llm.core.prices import Price, price_of
from pandas_llm.core.tokens import expected_output, range_of, tokens_in
from pandas_llm.core.types import Question, Usage
from pandas_llm.core.wire import messages_of
from pandas_llm.display.words import about, duration, money, number
from pandas_llm.history.tables import Shown, lines, table
from pandas_llm.io.encoding import encoder_for
from pandas_llm.prepare import Prepared
from pandas_llm.run import Run

SECONDS_A_REPLY = (0.3, 3.0)
"""A guess for a model nobody has timed here."""
SECONDS_A_BATCH = (60.0, 86_400.0)
"""The provider promises a day and is often much quicker."""


class Span(NamedTuple):
    """A range: `.low` and `.high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call would send and cost, before anything is sent. Ranges have a `.low` and a `.high`."""

    rows: int
    skipped: int
    """Rows without text."""
    duplicates: int
    """Rows that share the request of another."""
    cached: int
    """Rows whose answer is in the store."""
    requests: int
    unasked: Mapping[str, int]
    """Rows that ask for nothing, for other reasons: `unsendable`, `failed`, `unknown`, `given`."""
    input_tokens: Span
    output_tokens: Span
    cost: Span
    """USD; NaN where the price is unknown."""
    seconds: Span
    routes: pd.DataFrame
    """Index `concurrent`, `flex`, `batch`; NaN where there is no such route or price."""
    _show: Callable[[int], Shown] = field(repr=False)
    _run: Callable[[], Any] = field(repr=False)

    def show(self, i: int) -> Shown:
        """The exact messages that row `i` (its position) would be asked with."""
        return self._show(i)

    def run(self) -> Any:
        """Do it: the result of the call that was estimated."""
        return self._run()

    def write_jsonl(self, path: str | Path) -> Path:  # noqa: ARG002 - it comes with batches
        """A file for the Batch API: not yet here."""
        raise OptionsError("Estimate.write_jsonl: not yet. .run() asks for the same rows.")

    def __str__(self) -> str:
        return "\n".join(lines(self._rows()))

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        others = in_words({"duplicate": self.duplicates, "skipped": self.skipped, **self.unasked})
        return [
            ("rows", f"{self.rows:,}" + (f" ({', '.join(others)})" if others else "")),
            ("known", f"{self.cached:,}"),
            ("requests", f"{self.requests:,}"),
            ("input tokens", _between(self.input_tokens, "{:,.0f}".format)),
            ("output tokens", _between(self.output_tokens, "{:,.0f}".format)),
            ("cost", _between(self.cost, money)),
            ("time", _between(self.seconds, duration)),
        ]

    def _repr_html_(self) -> str:
        return table(self._rows())


def rows_by_fate(prepared: Prepared, run: Run, requests: int) -> dict[str, int]:
    """Each row once: `known`, `asked` (a request of its own), `duplicate`, and why others ask for nothing."""
    sources, unasked = run.tally.sources, prepared.unasked
    fates = {
        "known": sources["cache"],
        "asked": requests,
        "skipped": unasked["skipped"],
        "unsendable": unasked["failed"],
        "failed": sources["failed"] - unasked["failed"],
        "unknown": sources["pending"],
        "given": unasked["given"],
    }
    return {**fates, "duplicate": len(prepared.frame) - sum(fates.values())}


def in_words(fates: Mapping[str, int]) -> list[str]:
    """Those rows that neither are known nor have a request of their own, by why; nothing where there is none.

    >>> in_words({"duplicate": 1, "skipped": 0, "failed": 2})
    ['1 duplicate', '2 failed before (retry_failed=True buys them again)']
    """
    failed = fates.get("failed", 0)
    them = "it" if failed == 1 else "them"
    said = {
        "duplicate": number(fates.get("duplicate", 0), "duplicate"),
        "failed": f"{failed:,} failed before (retry_failed=True buys {them} again)",
        "unknown": f'{fates.get("unknown", 0):,} unknown (cache="only" sends nothing)',
        "unsendable": f"{fates.get('unsendable', 0):,} that can't be sent",
        "skipped": f"{fates.get('skipped', 0):,} without text",
        "given": f"{fates.get('given', 0):,} given",
    }
    return [words for fate, words in said.items() if fates.get(fate)]


def _between(span: Span, write: Callable[[float], str]) -> str:
    low, high = span
    return write(low) if low == high or math.isnan(low) else f"{write(low)} – {write(high)}"


def too_dear(usd: Span) -> str:
    """What a call is refused with whose cost nobody has agreed to: `about $48 (41–60): say max_cost=60`."""
    low, high = usd
    digits = 10.0 ** (math.floor(math.log10(high)) - 1)
    cap = math.ceil(round(high / digits, 6)) * digits
    cap_words = f"{cap:.12f}".rstrip("0").rstrip(".")
    low_words, high_words = (about(end).removeprefix("about $").removeprefix("$") for end in (low, high))
    return (
        f"{about((low + high) / 2)} ({low_words}–{high_words}): say max_cost={cap_words} "
        "(confirm_above=None switches this question off)"
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """Tokens and USD of requests to come."""

    input: Span
    output: Span
    requests: int
    usd: Span | None = None
    """None where the price is unknown."""

    def at(self, price: Price | None) -> Span | None:
        """USD at a price."""
        n = self.requests
        if price is None or not n:
            return None if n else Span(0.0, 0.0)
        # Priced as one mean reply times their number: a summed usage would reach the tiers of long ones.
        low = price.cost(Usage(int(self.input.low / n), int(self.output.low / n))) * n
        high = price.cost(Usage(math.ceil(self.input.high / n), math.ceil(self.output.high / n))) * n
        return Span(low, high)


_UNKNOWN = Span(math.nan, math.nan)


def costs_of(run: Run, todo: Sequence[int]) -> Costs:
    """What asking for these codes is expected to take."""
    question, plan = run.call.plan.question, run.call.plan
    count = encoder_for(question.model)
    fixed = tokens_in(question.system, count) + 10
    total = sum(tokens_in(plan.texts[code], count) for code in todo) + fixed * len(todo)
    taken = range_of(total, exact=count is not None)
    low, high = expected_output(question.schema, question.params, count)
    costs = Costs(Span(*taken), Span(low * len(todo), high * len(todo)), len(todo))
    return replace(costs, usd=costs.at(run.price_of(run.call.options.service_tier)))


def estimate_of(prepared: Prepared, run: Run, start: Callable[[], Any]) -> Estimate:
    """The estimate of a call whose known answers are looked up."""
    todo = run.unknown()
    costs = costs_of(run, todo)
    seconds = _seconds(run, costs)
    fates = rows_by_fate(prepared, run, len(todo))
    return Estimate(
        rows=len(prepared.frame),
        skipped=fates["skipped"],
        duplicates=fates["duplicate"],
        cached=fates["known"],
        requests=len(todo),
        unasked={fate: fates[fate] for fate in ("unsendable", "failed", "unknown", "given")},
        input_tokens=costs.input,
        output_tokens=costs.output,
        cost=costs.usd or _UNKNOWN,
        seconds=seconds,
        routes=_routes(run, costs, seconds),
        _show=lambda i: _would_ask(prepared, i),
        _run=start,
    )


def _seconds(run: Run, costs: Costs) -> Span:
    options = run.call.options
    waves = math.ceil(costs.requests / options.max_concurrency)
    paced = costs.requests / options.rpm * 60 if options.rpm else 0.0
    if options.tpm:
        paced = max(paced, (costs.input.low + costs.output.low) / options.tpm * 60)
    return Span(*(max(waves * seconds, paced) for seconds in SECONDS_A_REPLY))


def _routes(run: Run, costs: Costs, seconds: Span) -> pd.DataFrame:
    question, options = run.call.plan.question, run.call.options
    elsewhere: list[Span | None] = [None, None]
    if options.model != "local" and question.model not in options.prices:
        flex, batch = run.price_of("flex"), _batch_price(question)
        elsewhere = [None if price is None else costs.at(price) for price in (flex, batch)]
    rows = {
        "concurrent": (*(costs.at(run.price_of(None)) or _UNKNOWN), *seconds),
        "flex": (*(elsewhere[0] or _UNKNOWN), seconds.low, seconds.high * 3),
        "batch": (*(elsewhere[1] or _UNKNOWN), *SECONDS_A_BATCH),
    }
    columns = ["cost_low", "cost_high", "seconds_low", "seconds_high"]
    routes = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype="float64")
    # Where a way of asking has no price, nobody knows that it exists.
    routes.loc[routes["cost_low"].isna() & (routes.index != "concurrent")] = math.nan
    return routes


def _batch_price(question: Question) -> Price | None:
    return price_of(question.model, question.base_url, {}, processing="batch", now=time.time())


def _would_ask(prepared: Prepared, i: int) -> Shown:
    plan = prepared.call.plan
    rows = len(plan.codes)
    if not -rows <= i < rows:
        raise OptionsError(f"There is no row {i}: the call has {rows:,}; rows are counted as in iloc.")
    code = int(plan.codes[i])
    if code < 0:
        return Shown((), note=_why_not(prepared, i, i % rows))
    return Shown(tuple(messages_of(plan.question, plan.texts[code])), key=plan.key(code).hex())


def _why_not(prepared: Prepared, i: int, row: int) -> str:
    given = prepared.existing.given
    if given is not None and given[row]:
        return f"Row {i} asks nothing: it has a value that no run wrote, and that stays."
    if row in prepared.texts.failed:
        return f"Row {i} can't be sent. {prepared.texts.failed[row]}"
    return f"Row {i} asks nothing: it has no text."
