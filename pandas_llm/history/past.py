"""What was: how the last run ended, what the store notes of a run, what a frame says of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm._version import VERSION
from pandas_llm.columns import Outcome, fingerprints_of, sides_of
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import question_id, stem_of
from pandas_llm.core.types import Question
from pandas_llm.display.words import money
from pandas_llm.history.estimate import Span
from pandas_llm.history.tables import counts, lines, table
from pandas_llm.prepare import Prepared, digest
from pandas_llm.run import Run


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
    """As it was asked for."""
    snapshots: tuple[str, ...]
    """The models that answered, as the replies of this run name them."""
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
    frame: Any = field(default=None, repr=False)
    """What came of it."""

    def plot(self) -> Any:
        """How the run went, drawn: not yet here."""
        raise OptionsError("last_run().plot(): not yet. print(pandas_llm.last_run()) says how it went.")

    def __str__(self) -> str:
        return "\n".join(lines(self._rows()))

    __repr__ = __str__

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("run", f"{self.id} {self.status}"),
            ("asked", " · ".join((self.verb, self.model, *(s for s in self.snapshots if s != self.model)))),
            ("rows", f"{self.rows:,} ({counts(self.sources)})"),
            ("tokens", f"{self.input_tokens:,} in, {self.output_tokens:,} out"),
            ("cost", f"{money(self.cost)}, {self.paid:,} replies billed, {self.in_doubt:,} in doubt"),
            ("errors", counts(self.errors) or "none"),
            ("seconds", f"{self.seconds:,.1f}"),
        ]

    def _repr_html_(self) -> str:
        return table(self._rows())


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
    answers = "1 answer" if kept == 1 else f"{kept:,} answers"
    return (
        f"New question for {name!r}: {' and '.join(changed) or 'something'} changed since run "
        f"r_{written[0]['run']} ({answers} kept)"
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
        snapshots=_models_of(run),
        frame=out,
        **facts,
    )
    return _last


def _models_of(run: Run) -> tuple[str, ...]:
    results = run.answers().results.values()
    return tuple(sorted({result.model for result in results if result.model is not None}))


def sign(prepared: Prepared, run: Run, out: pd.DataFrame, outcome: Outcome) -> None:
    """Write into the frame which question wrote it, and into the store that its values are ours."""
    plan, task, store = prepared.call.plan, prepared.call.task, prepared.call.store
    question, name = plan.question, question_id(plan.question)
    columns = [column.name for column in task.fields]
    signed = {**attrs_of(out), task.output: description(question, columns)}
    out.attrs["pandas_llm"] = json.dumps(signed)
    answers = sum(source in ("api", "cache", "batch") for source in outcome.answers.sources)
    sides = sides_of(task, prepared.options.details)
    fingerprints = fingerprints_of(out, outcome)
    # No column has this fingerprint: one that holds given values isn't ours, its side columns are.
    nobodys = [b"given " + name.encode()]
    for place, column in enumerate(task.fields):
        for fingerprint in fingerprints.get(column.name, nobodys):
            store.put_column(
                column.name,
                fingerprint,
                run=run.id,
                sides=sides,
                spec=prepared.spec.to_json(),
                question=name,
                field=place,
                answers=answers,
                output=task.output,
                columns=columns,
                samples=prepared.options.dedupe is False,
            )


def description(question: Question, columns: Sequence[str]) -> dict[str, Any]:
    """What a frame says of the question behind an output."""
    return {
        "verb": question.verb,
        "model": question.model,
        "question": question_id(question),
        "prompt": digest(question.system),
        "schema": None if question.schema is None else digest(json.dumps(question.schema)),
        "params": dict(question.params),
        "columns": list(columns),
        "version": VERSION,
    }


def attrs_of(frame: pd.DataFrame) -> dict[str, Any]:
    """What a frame says of its outputs; nothing where anybody wrote something else there."""
    try:
        said = json.loads(frame.attrs["pandas_llm"])
    except (KeyError, TypeError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def interrupted_line(record: LastRun) -> str:
    """What Stop says."""
    answered = record.rows - record.sources.get("pending", 0)
    return (
        f"{answered:,} of {record.rows:,} rows are done and kept ({money(record.cost)}); run the same line "
        "again to go on. They are on the exception's .frame too."
    )
