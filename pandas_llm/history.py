"""What was and what would be: runs, the last run, the estimate of the next, what stands behind a row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm._version import VERSION
from pandas_llm.columns import Outcome, fingerprints_of, side_names
from pandas_llm.core.plan import question_id, stem_of
from pandas_llm.core.tokens import expected_output, range_of, tokens_in
from pandas_llm.core.types import Progress, Usage
from pandas_llm.core.wire import messages_of
from pandas_llm.display.words import money
from pandas_llm.io.encoding import encoder_for
from pandas_llm.prepare import Prepared, digest
from pandas_llm.run import Run

Span = tuple[float, float]
SECONDS_A_REPLY = (0.3, 3.0)
"""A guess for a model nobody has timed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The last run of this process, as it ended.

    `pandas_llm.last_run()` gives it; `.frame` holds what came of it, also where nobody kept the result.
    """

    id: str
    status: str
    """`done`, `stopped` or `failed`."""
    verb: str
    model: str
    rows: int
    sources: Mapping[str, int]
    """Rows by where their answer came from."""
    errors: Mapping[str, int]
    """Failed requests by error class."""
    input_tokens: int
    output_tokens: int
    cost: float
    """USD; NaN where a price is unknown."""
    paid: int
    """Replies that were billed."""
    in_doubt: int
    """Requests that timed out: they may be billed."""
    seconds: float
    snapshots: tuple[Progress, ...] = field(default=(), repr=False)
    """The run about once a second, and at its end."""
    frame: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return "\n".join(_lines(self._rows()))

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("run", f"{self.id} {self.status}"),
            ("asked", f"{self.verb} · {self.model}"),
            ("rows", f"{self.rows:,} ({_counts(self.sources)})"),
            ("tokens", f"{self.input_tokens:,} in, {self.output_tokens:,} out"),
            ("cost", f"{money(self.cost)}, {self.paid:,} replies billed, {self.in_doubt:,} in doubt"),
            ("errors", _counts(self.errors) or "none"),
            ("seconds", f"{self.seconds:,.1f}"),
        ]

    def _repr_html_(self) -> str:
        return _table(self._rows())


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call would send and cost, before anything is sent. Ranges are `(low, high)`."""

    rows: int
    skipped: int
    """Rows without text."""
    duplicates: int
    """Rows that share another row's request."""
    cached: int
    """Rows whose answer is in the store."""
    requests: int
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

    def __str__(self) -> str:
        return "\n".join(_lines(self._rows()))

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("rows", f"{self.rows:,} ({self.skipped:,} without text, {self.duplicates:,} duplicates)"),
            ("known", f"{self.cached:,}"),
            ("requests", f"{self.requests:,}"),
            ("input tokens", _span(self.input_tokens, "{:,.0f}".format)),
            ("output tokens", _span(self.output_tokens, "{:,.0f}".format)),
            ("cost", _span(self.cost, money)),
            ("seconds", _span(self.seconds, "{:,.0f}".format)),
        ]

    def _repr_html_(self) -> str:
        return _table(self._rows())


@dataclass(frozen=True, slots=True)
class Shown:
    """What a row was asked with and what came back."""

    messages: tuple[Mapping[str, str], ...]
    replies: tuple[str, ...] = ()
    """Every raw reply that was billed, as JSON text."""
    key: str | None = None
    note: str = ""

    def __str__(self) -> str:
        parts = [f"{m['role']}:\n{m['content']}" for m in self.messages]
        parts += [f"reply {n}:\n{reply}" for n, reply in enumerate(self.replies, 1)]
        return "\n\n".join([*parts, *([self.note] if self.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{_safe(str(self))}</pre>"


def _lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"{name:<14}{value}" for name, value in rows)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    style = "style='text-align:left;padding:1px 12px 1px 0;border:0'"
    cells = (f"<tr><td {style}>{name}</td><td {style}>{_safe(value)}</td></tr>" for name, value in rows)
    return f"<table style='border-collapse:collapse'>{''.join(cells)}</table>"


def _safe(text: str) -> str:
    # A pair of $ would be typeset as a formula.
    return escape(text).replace("$", "<span>$</span>")


def _span(span: Span, write: Callable[[float], str]) -> str:
    low, high = span
    return write(low) if low == high or math.isnan(low) else f"{write(low)} – {write(high)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)


# What would be -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Costs:
    """Tokens and USD of requests to come."""

    input: Span
    output: Span
    usd: Span | None
    """None where the price is unknown."""


def costs_of(run: Run, todo: list[int]) -> Costs:
    """What asking for these codes is expected to take."""
    question, plan = run.call.plan.question, run.call.plan
    count = encoder_for(question.model)
    fixed = tokens_in(question.system, count) + 10
    total = sum(tokens_in(plan.texts[code], count) for code in todo) + fixed * len(todo)
    taken = range_of(total, exact=count is not None)
    low, high = expected_output(question.schema, question.params, count)
    given = (low * len(todo), high * len(todo))
    price = run.price_of(run.call.options.service_tier)
    usd = None
    if price is not None and todo:
        # Priced as one mean reply times their number: a summed usage would reach the tiers of long ones.
        usd = (
            price.cost(Usage(int(taken[0] / len(todo)), low)) * len(todo),
            price.cost(Usage(math.ceil(taken[1] / len(todo)), high)) * len(todo),
        )
    return Costs(taken, given, usd if todo else (0.0, 0.0))


def estimate_of(prepared: Prepared, run: Run, start: Callable[[], Any]) -> Estimate:
    """The estimate of a call whose known answers are looked up."""
    todo = run.unknown()
    costs = costs_of(run, todo)
    usd = costs.usd or (math.nan, math.nan)
    seconds = _seconds(run, len(todo))
    codes = prepared.call.plan.codes
    asking = int((codes >= 0).sum())
    return Estimate(
        rows=len(codes),
        skipped=int(prepared.texts.skipped.sum()),
        duplicates=asking - len(prepared.call.plan),
        cached=run.tally.sources["cache"],
        requests=len(todo),
        input_tokens=costs.input,
        output_tokens=costs.output,
        cost=usd,
        seconds=seconds,
        routes=_routes(run, usd, seconds),
        _show=lambda i: _would_ask(prepared, i),
        _run=start,
    )


def _seconds(run: Run, requests: int) -> Span:
    options = run.call.options
    waves = math.ceil(requests / options.max_concurrency)
    paced = requests / options.rpm * 60 if options.rpm else 0.0
    low, high = (max(waves * seconds, paced) for seconds in SECONDS_A_REPLY)
    return low, high


def _routes(run: Run, usd: Span, seconds: Span) -> pd.DataFrame:
    none = math.nan
    rows = {"concurrent": (*usd, *seconds), "flex": (none,) * 4, "batch": (none,) * 4}
    columns = ["cost_low", "cost_high", "seconds_low", "seconds_high"]
    standard, flex = run.price_of(None), run.price_of("flex")
    if flex is not None and standard is not None and standard.input:
        share = flex.input / standard.input
        rows["flex"] = (usd[0] * share, usd[1] * share, seconds[0], seconds[1] * 3)
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _would_ask(prepared: Prepared, i: int) -> Shown:
    plan = prepared.call.plan
    code = int(plan.codes[i])
    if code < 0:
        return Shown((), note=f"Row {i} asks nothing: it has no text, or a value that stays.")
    return Shown(tuple(messages_of(plan.question, plan.texts[code])), key=plan.key(code).hex())


# Before the first request --------------------------------------------------------------------------------


def facts_of(prepared: Prepared) -> dict[str, Any]:
    """What the store notes of a run when it starts."""
    question = prepared.call.plan.question
    name = question_id(question)
    prepared.call.store.put_question(
        name,
        {
            "stem": stem_of(question).decode("ascii"),
            "parts": dict(prepared.parts),
            "examples": sorted(prepared.call.task.example_texts),
        },
    )
    return {
        "verb": question.verb,
        "model": question.model,
        "rows": len(prepared.frame),
        "question": name,
        "output": prepared.call.task.output,
        "status": "running",
        "version": VERSION,
    }


def opening_lines(prepared: Prepared, run: Run, requests: int, usd: Span | None) -> list[str]:
    """What is known, what will be asked, and what changed: said before the first request."""
    sources = run.tally.sources
    known = sources["cache"]
    line = f"{len(prepared.frame):,} rows: {known:,} known, {requests:,} to ask"
    if requests:
        line += ", price unknown" if usd is None else f", about {money((usd[0] + usd[1]) / 2)}"
    for n, what in ((sources["skipped"], "without text"), (sources["given"], "given")):
        line += f", {n:,} {what}" if n else ""
    shown = _rows_among_examples(prepared)
    line += f", {shown:,} among the examples" if shown else ""
    lines = [f"{line}. {_what_is_new(prepared, run)}".strip()]
    if prepared.call.store.created and prepared.call.store.path not in _named:
        _named.add(prepared.call.store.path)
        lines.append(f"Answers are kept in {prepared.call.store.path} (pandas_llm.cache_info()).")
    return lines


_named: set[Any] = set()


def _rows_among_examples(prepared: Prepared) -> int:
    texts = prepared.call.task.example_texts
    if not texts:
        return 0
    plan = prepared.call.plan
    among = np.array([text in texts for text in plan.texts] + [False])
    return int(among[plan.codes].sum())


def _what_is_new(prepared: Prepared, run: Run) -> str:
    """Which part of the question differs from the one that last wrote this output."""
    store = prepared.call.store
    name = prepared.call.task.fields[0].name
    written = store.columns(name)
    if not written or not run.unknown():
        return ""
    before = store.question(written[0].get("question", ""))
    if before is None or written[0]["question"] == question_id(prepared.call.plan.question):
        return ""
    changed = [part for part, digest in prepared.parts.items() if before["parts"].get(part) != digest]
    kept = written[0].get("answers", 0)
    return (
        f"New question for {name!r}: {' and '.join(changed) or 'something'} changed since run "
        f"r_{written[0]['run']} ({kept:,} answers kept)"
    )


# After the last reply ------------------------------------------------------------------------------------

_last: LastRun | None = None


def last_run() -> LastRun | None:
    """The last run of this process, None before the first.

    Examples
    --------
    >>> import pandas_llm
    >>> run = pandas_llm.last_run()
    """
    return _last


def remember(run: Run, out: pd.DataFrame) -> LastRun:
    """Note how a run ended, in the store and for `last_run`."""
    global _last  # noqa: PLW0603 — the process's last run
    progress = run.progress()
    question = run.call.plan.question
    facts: dict[str, Any] = {
        "status": "failed" if run.error is not None else "stopped" if run.interrupted else "done",
        "sources": dict(progress.sources),
        "errors": dict(progress.errors),
        "input_tokens": progress.usage.input,
        "output_tokens": progress.usage.output,
        "cost": progress.cost,
        "seconds": progress.seconds,
    }
    run.call.store.end_run(run.id, **facts, paid=run.tally.paid, in_doubt=run.tally.in_doubt)
    _last = LastRun(
        id=run.tally.run,
        verb=question.verb,
        model=question.model,
        rows=len(out),
        paid=run.tally.paid,
        in_doubt=run.tally.in_doubt,
        snapshots=(*run.snapshots, progress),
        frame=out,
        **facts,
    )
    return _last


def sign(prepared: Prepared, run: Run, out: pd.DataFrame, outcome: Outcome) -> None:
    """Write into the frame which question wrote it, and into the store that its values are ours."""
    plan, task, store = prepared.call.plan, prepared.call.task, prepared.call.store
    question, name = plan.question, question_id(plan.question)
    known = json.loads(out.attrs.get("pandas_llm", "{}"))
    known[task.output] = {
        "verb": question.verb,
        "model": question.model,
        "question": name,
        "prompt": digest(question.system),
        "schema": None if question.schema is None else digest(json.dumps(question.schema)),
        "params": dict(question.params),
        "columns": [column.name for column in task.fields],
        "version": VERSION,
    }
    out.attrs["pandas_llm"] = json.dumps(known)
    answers = sum(source in ("api", "cache", "batch") for source in outcome.answers.sources)
    sides = [*side_names(task.output, prepared.options.details)]
    for place, column in enumerate(task.fields):
        beside = [c.name for c in task.fields if c is not column] + sides
        for fingerprint in fingerprints_of(out, outcome).get(column.name, []):
            store.put_column(
                column.name,
                fingerprint,
                run=run.id,
                sides=beside,
                spec=prepared.spec.to_json(),
                question=name,
                field=place,
                answers=answers,
            )


def interrupted_line(record: LastRun) -> str:
    """What Stop says."""
    answered = record.rows - record.sources.get("pending", 0)
    return (
        f"{answered:,} of {record.rows:,} rows are done and kept ({money(record.cost)}); run the same line "
        "again to go on. They are on the exception's .frame too."
    )
