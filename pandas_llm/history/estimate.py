"""What a call would send and cost: the estimate, and the sums that a run is begun on."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pandas_llm.core.certificate import least_audit
from pandas_llm.core.errors import LLMWarning, OptionsError
from pandas_llm.core.prices import Price
from pandas_llm.core.routes import Route, RouteName, batch_seconds, concurrent_seconds
from pandas_llm.core.tokens import answer_tokens, prompt_tokens, range_of, tokens_in
from pandas_llm.core.types import Usage
from pandas_llm.core.vectors import EMBEDDINGS, requests_for
from pandas_llm.core.wire import messages_of
from pandas_llm.display.words import about, duration, money, number
from pandas_llm.history.batchfile import Written, write_input
from pandas_llm.history.pages import estimate_page
from pandas_llm.history.shown import Shown
from pandas_llm.history.tables import between, lines
from pandas_llm.io.encoding import encoder_for
from pandas_llm.prepare import Prepared
from pandas_llm.run import Run

ROUTES: tuple[RouteName, ...] = ("concurrent", "flex", "batch")
FLEX_SLOWER = 3.0
"""A guess: flex is served when there is room."""


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
    reusable: int | None = None
    """Of these, how many `dedupe="semantic"` saves if its audit certifies it; None where that isn't known
    before the texts are embedded."""
    unasked: Mapping[str, int]
    """Rows that ask for nothing, for other reasons: `unsendable`, `failed`, `unknown`, `batched`, `given`."""
    input_tokens: Span
    output_tokens: Span
    cost: Span
    """USD, by the route that the call's `mode` takes; NaN where the price is unknown."""
    seconds: Span
    """By the same route; of a batch the median and what 90 % keep."""
    routes: pd.DataFrame
    """Index `concurrent`, `flex`, `batch`; NaN where there is no such route or price."""
    _title: str = field(default="", repr=False)
    """`classify · body · gpt-6-luna`."""
    _reusable: str = field(default="", repr=False)
    """The same in words."""
    _show: Callable[[int], Shown] = field(repr=False)
    _write: Callable[[Path, bool], Written] = field(repr=False)
    _run: Callable[[], Any] = field(repr=False)

    def show(self, i: int) -> Shown:
        """The exact messages that row `i` (its position) would be asked with."""
        return self._show(i)

    def run(self) -> Any:
        """Do it: the result of the call that was estimated."""
        return self._run()

    def write_jsonl(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """The path of a batch's input file: a line for each request that `requests` counts.

        A line is what `mode="batch"` would upload: `custom_id` (the request's key in hex), `method`, `url`
        and `body`. The file is put in place when it is whole; it holds your texts, so that its owner alone
        may read it. `pandas_llm.read_batch_output` reads what a batch made of it.

        Parameters
        ----------
        path : str or Path
            The file, `*.jsonl`.
        overwrite : bool
            Replace what is there.

        Raises
        ------
        OptionsError
            Before anything is written: the path exists, its folder doesn't, nothing is to be asked.

        Warns
        -----
        LLMWarning
            The file is larger than one batch may be.

        Examples
        --------
        >>> import tempfile
        >>> import pandas as pd
        >>> import pandas_llm
        >>> tickets = pd.DataFrame({"body": ["It crashes.", "Thank you!"]})
        >>> estimate = pandas_llm.llm(tickets).estimate.classify("body", ["bug", "praise"], cache=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = estimate.write_jsonl(f"{folder}/tickets.jsonl")
        ...     len(written.read_bytes().splitlines())
        2
        """
        written = self._write(Path(path).expanduser(), overwrite)
        if written.files > 1:
            warnings.warn(written.said, LLMWarning, stacklevel=2)
        return written.path

    def __str__(self) -> str:
        return "\n".join(lines(self._rows()))

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        others = in_words({"duplicate": self.duplicates, "skipped": self.skipped, **self.unasked})
        return [
            ("rows", f"{self.rows:,}" + (f" ({', '.join(others)})" if others else "")),
            ("known", f"{self.cached:,}"),
            ("requests", f"{self.requests:,}"),
            *([("reusable", self._reusable)] if self._reusable else []),
            ("input tokens", between(*self.input_tokens, "{:,.0f}".format)),
            ("output tokens", between(*self.output_tokens, "{:,.0f}".format)),
            ("cost", between(*self.cost, money)),
            ("time", between(*self.seconds, duration)),
        ]

    def _repr_html_(self) -> str:
        return estimate_page(self, self._title, self._rows())


def rows_by_fate(prepared: Prepared, run: Run, requests: int) -> dict[str, int]:
    """Each row once: `known`, `asked` (a request of its own), `duplicate`, and why others ask for nothing."""
    sources, unasked = run.tally.sources, prepared.unasked
    batched = sum(run.sheet.rows_of(code) for codes in run.in_batches.values() for code in codes)
    # Before anything is sent: what a cancelled batch left, read or not, is known too.
    unread = sum(map(run.sheet.rows_of, run.sheet.unread))
    fates = {
        "known": sources["cache"] + sources["similar"] + sources["batch"] + sources["duplicate"] + unread,
        "asked": requests,
        "skipped": unasked["skipped"],
        "unsendable": unasked["failed"],
        "failed": sources["failed"] - unasked["failed"],
        "unknown": sources["pending"] - batched,
        "batched": batched,
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
        "batched": f"{fates.get('batched', 0):,} in open batches",
        "unsendable": f"{fates.get('unsendable', 0):,} that can't be sent",
        "skipped": f"{fates.get('skipped', 0):,} without text",
        "given": f"{fates.get('given', 0):,} given",
    }
    return [words for fate, words in said.items() if fates.get(fate)]


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
_TO_THE_END = ("completed", "expired")


def costs_of(run: Run, todo: Sequence[int], route: str | None = None) -> Costs:
    """What asking for these codes is expected to take, by this route, else the one that the call takes."""
    question, plan = run.call.plan.question, run.call.plan
    count = encoder_for(question.model)
    fixed = prompt_tokens(question, count)
    total = sum(tokens_in(plan.texts[code], count) for code in todo) + fixed * len(todo)
    taken = range_of(total, exact=count is not None)
    low, high = answer_tokens(question, count)
    costs = Costs(Span(*taken), Span(low * len(todo), high * len(todo)), len(todo))
    return replace(costs, usd=costs.at(run.route_price(route or _route_of(run, len(todo)))))


def usd_of(run: Run, todo: Sequence[int]) -> Span | None:
    """What a call is expected to cost, by the routes it takes; None where a price is unknown."""
    if len(run.legs) < 2:
        return costs_of(run, todo).usd
    each = [costs_of(run, leg.codes, leg.route).usd for leg in run.legs]
    known = [usd for usd in each if usd is not None]
    return Span(*map(sum, zip(*known, strict=True))) if len(known) == len(each) else None


def _seconds_of(run: Run, costs: Costs, routes: Sequence[Route]) -> Span:
    """How long a call is expected to take; where it goes by several routes, as long as the longest."""
    parts: list[tuple[str, Sequence[Route]]] = [(_route_of(run, costs.requests), routes)]
    if len(run.legs) > 1:
        parts = [(leg.route, routes_of(run, costs_of(run, leg.codes))) for leg in run.legs]
    spans = [route.seconds for name, each in parts for route in each if route.name == name]
    return Span(*map(max, zip(*spans, strict=True)))


def _route_of(run: Run, requests: int) -> RouteName:
    """The route that a call takes, as far as that is known before it begins."""
    options = run.call.options
    if run.choice is not None:
        return run.choice.route
    if options.mode == "batch" and requests >= options.batches.min_requests:
        return "batch"
    return "flex" if options.service_tier == "flex" else "concurrent"


def routes_of(run: Run, costs: Costs) -> tuple[Route, ...]:
    """What each route is expected to take: `concurrent`, `flex`, `batch`."""
    options, n, packed = run.call.options, costs.requests, run.call.plan.question.path == EMBEDDINGS
    ends = [
        concurrent_seconds(
            requests_for(n, tokens) if packed else n,
            tokens,
            rpm=options.rpm,
            tpm=options.tpm,
            max_concurrency=options.max_concurrency,
        )
        for tokens in map(sum, zip(costs.input, costs.output, strict=True))
    ]
    low, high = ends[0][0], ends[1][1]
    median, most, bound = batch_seconds(_past_batches(run))
    flex, batch = (_price_elsewhere(run, name, n) for name in ("flex", "batch"))
    unpriced = "" if run.call.plan.question.in_process else f"no price of {options.model} is known there"
    return (
        Route("concurrent", costs.at(run.route_price("concurrent")), (low, high)),
        Route(
            "flex", costs.at(flex), (low, high * FLEX_SLOWER), available=flex is not None,
            note="" if flex else unpriced,
        ),
        Route(
            "batch", costs.at(batch), (median, most), bound, available=batch is not None,
            note="" if batch else unpriced,
        ),
    )  # fmt: skip


def _past_batches(run: Run) -> list[float]:
    """Seconds that batches at this endpoint took, as far as the store knows."""
    here = run.call.plan.question.base_url
    facts = [shard.facts for shard in run.call.store.shards.past() if shard.facts.get("base_url") == here]
    # What was refused or cancelled ended early.
    times = [(f.get("created_at"), f.get("ended_at")) for f in facts if f.get("status") in _TO_THE_END]
    return [ended - created for created, ended in times if created is not None and ended is not None]


def _price_elsewhere(run: Run, route: RouteName, requests: int) -> Price | None:
    """The price of a route that isn't every model's. Where there is none, nobody knows that it exists."""
    options = run.call.options
    question = run.call.plan.question
    given = question.in_process or question.model in options.prices
    # A price that was given says nothing of the route; where the route is asked for it is taken.
    return None if given and route != _route_of(run, requests) else run.route_price(route)


def table_of(routes: Iterable[Route]) -> pd.DataFrame:
    """The routes as people see them; NaN where there is no such route or price."""
    rows = {
        route.name: (*(route.cost or _UNKNOWN), *route.seconds) if route.available else (math.nan,) * 4
        for route in routes
    }
    columns = ["cost_low", "cost_high", "seconds_low", "seconds_high"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype="float64")
    return found.reindex(ROUTES)


def estimate_of(
    prepared: Prepared, run: Run, start: Callable[[], Any], members: Sequence[int] | None = None
) -> Estimate:
    """The estimate of a call whose known answers are looked up; `members` may take another text's answer."""
    todo = run.unknown()
    reusable, in_words = _reusable(run, members)
    costs = costs_of(run, todo)
    routes = routes_of(run, costs)
    fates = rows_by_fate(prepared, run, len(todo))
    return Estimate(
        rows=len(prepared.frame),
        skipped=fates["skipped"],
        duplicates=fates["duplicate"],
        cached=fates["known"],
        requests=len(todo),
        reusable=reusable,
        unasked={fate: fates[fate] for fate in ("unsendable", "failed", "unknown", "batched", "given")},
        input_tokens=costs.input,
        output_tokens=costs.output,
        cost=usd_of(run, todo) or _UNKNOWN,
        seconds=_seconds_of(run, costs, routes),
        routes=table_of(routes),
        _title=prepared.title,
        _reusable=in_words,
        _show=lambda i: _would_ask(prepared, i),
        _write=lambda path, overwrite: write_input(run, todo, path, overwrite=overwrite),
        _run=start,
    )


def _reusable(run: Run, members: Sequence[int] | None) -> tuple[int | None, str]:
    """Requests that near-equal texts save where all of an audit agree, and the same in words."""
    semantic = run.call.options.semantic
    if semantic is None or not run.unknown():
        return (None, "") if semantic is None else (0, "")
    if members is None:
        return None, "not known before the texts are embedded"
    if not members:
        return 0, "none: no text may take the answer of another"
    usd = costs_of(run, members).usd
    each = None if usd is None else Span(usd.low / len(members), usd.high / len(members))
    n, condition = len(members), "less those that the audit asks"
    if semantic.threshold == "auto":
        audit = least_audit(n, semantic.max_error, semantic.confidence)
        if audit is None or audit > semantic.audit:
            needed = "more audits than that saves" if audit is None else f"{audit} audits"
            return 0, f"none: {number(n, 'text')} may take the answer of another, which takes {needed}"
        n, condition = n - audit, "if the audit certifies it"
    saved = "" if each is None else f" ({between(each.low * n, each.high * n, money)})"
    return n, f"{n:,}{saved}, {condition}"


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
