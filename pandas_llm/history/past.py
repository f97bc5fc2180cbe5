"""What was: what the store notes of a run, what is said of it, what a frame says of its outputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pandas_llm._version import VERSION
from pandas_llm.columns import Outcome, fingerprints_of, sides_of
from pandas_llm.core.plan import question_id, question_of, stem_of
from pandas_llm.core.types import SOURCES, Progress, Question
from pandas_llm.display.words import about, by_class, money, number
from pandas_llm.history.ended import LastRun
from pandas_llm.history.estimate import Span, in_words, rows_by_fate, table_of
from pandas_llm.history.reused import told
from pandas_llm.local.endpoint import BASE_URL as LOCAL
from pandas_llm.local.endpoint import introduction
from pandas_llm.prepare import Prepared, digest
from pandas_llm.run import Run

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
        "mode": prepared.options.mode,
        "status": "running",
        "version": VERSION,
    }


def opening_lines(prepared: Prepared, run: Run, requests: int, usd: Span | None) -> list[str]:
    """What is known, what will be asked, and what changed: said before the first request."""
    fates = rows_by_fate(prepared, run, requests)
    line = f"{number(len(prepared.frame), 'row')}: {fates['known']:,} known, {requests:,} to ask"
    if requests:
        line += ", price unknown" if usd is None else f", {about((usd[0] + usd[1]) / 2)}"
    examples = _rows_among_examples(prepared)
    parts = [line, *in_words(fates), *([f"{examples:,} among the examples"] if examples else [])]
    lines = [f"{', '.join(parts)}. {_what_is_new(prepared, run)}".strip()]
    store = prepared.call.store
    if store.created and _for_the_first_time(prepared, store.path):
        lines.append(f"Answers are kept in {store.path} (pandas_llm.cache_info()).")
    if requests and prepared.options.semantic is not None:
        lines.append(
            f'dedupe="semantic" keeps the texts that it compares, and their vectors, in {store.path}; '
            "pandas_llm.clear_cache() removes them."
        )
    verb = prepared.call.plan.question.verb
    if requests and prepared.is_local and _for_the_first_time(prepared, ("local", verb)):
        lines += introduction(verb).splitlines()
    return lines


_said: set[Any] = set()


def _for_the_first_time(prepared: Prepared, thing: Any) -> bool:
    """Whether people of this process haven't been told of it; a call that shows nothing tells nobody."""
    new = prepared.options.progress and thing not in _said
    if new:
        _said.add(thing)
    return new


def _rows_among_examples(prepared: Prepared) -> int:
    texts = prepared.call.task.example_texts
    if not texts:
        return 0
    plan = prepared.call.plan
    among = np.array([text in texts for text in plan.texts] + [False])
    return int(among[plan.codes].sum())


def _what_is_new(prepared: Prepared, run: Run) -> str:
    """Which part of the question differs from the one whose answers this output holds by now."""
    store, name = prepared.call.store, prepared.call.task.fields[0].name
    written = next((facts for facts in store.columns(name) if facts.get("answers")), None)
    if written is None or not run.unknown():
        return ""
    changed = _changed_since(prepared, written)
    if not changed:
        return ""
    *others, last = changed
    parts = f"{', '.join(others)} and {last}" if others else last
    return (
        f"New question for {name!r}: {parts} changed since run "
        f"r_{written['run']} ({number(written['answers'], 'answer')} kept)"
    )


def _changed_since(prepared: Prepared, written: Mapping[str, Any]) -> list[str]:
    """The parts of the question that another one, of which the store knows, had otherwise."""
    before = prepared.call.store.question(written["question"])
    if before is None:
        return []
    parts = {part for part, digest in prepared.parts.items() if before["parts"].get(part) != digest}
    if "verb" in parts:
        return ["verb"]
    if (
        question_of(before["stem"].encode("ascii")).base_url == LOCAL
        or prepared.call.plan.question.in_process
    ):
        # Its address is its name once more.
        parts.discard("base_url")
    changed = [part for part in prepared.parts if part in parts]
    spec = prepared.spec.to_json()
    return changed + (["text"] if spec and written["spec"] and spec != written["spec"] else [])


# After the last reply ------------------------------------------------------------------------------------

_NAMED = 3
"""Batches whose ids are told; they are 38 characters each."""
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
    question, facts = run.call.plan.question, ending_of(run)
    run.call.store.end_run(run.id, **facts)
    reused = told(run)
    _last = LastRun(
        id=run.tally.run,
        verb=question.verb,
        model=question.model,
        rows=len(out),
        snapshots=_models_of(run),
        frame=out,
        course=run.tally.course(),
        reason="" if run.choice is None else run.choice.reason,
        routes=None if run.choice is None else table_of(run.choice.routes),
        reuse=None if run.reuse is None else run.reuse.report,
        saved=0.0 if reused is None else reused.usd,
        _reused=() if reused is None else reused.rows(),
        **facts,
    )
    return _last


def ending_of(run: Run) -> dict[str, Any]:
    """What the store notes of a run when it ends."""
    progress = run.progress()
    return {
        "status": _status_of(run, progress),
        "sources": {source: progress.sources[source] for source in SOURCES if progress.sources.get(source)},
        "errors": _errors_of(run),
        "input_tokens": progress.usage.input,
        "output_tokens": progress.usage.output,
        "cost": progress.cost,
        "seconds": progress.seconds,
        "paid": run.tally.paid,
        "in_doubt": run.tally.in_doubt,
        "route": " + ".join(name for name, _ in run.routes_taken.most_common()),
    }


def _status_of(run: Run, progress: Progress) -> str:
    if run.error is not None:
        return "failed"
    if run.open_batches:
        return "submitted"
    return "stopped" if run.interrupted or progress.sources.get("pending") else "done"


def _errors_of(run: Run) -> dict[str, int]:
    """Rows that failed, by error class."""
    plan, answers = run.call.plan, run.answers()
    rows = np.bincount(plan.codes[plan.codes >= 0], minlength=len(plan))
    errors = Counter({"PromptError": run.tally.errors["PromptError"]})
    for code, said in answers.errors.items():
        if answers.sources[code] == "failed":
            errors[said.partition(":")[0]] += int(rows[code])
    return dict(by_class(errors))


def _models_of(run: Run) -> tuple[str, ...]:
    return run.answers().results.models


def sign(prepared: Prepared, run: Run, out: pd.DataFrame, outcome: Outcome) -> None:
    """Write into the frame which question wrote it, and into the store that its values are ours."""
    plan, task, store = prepared.call.plan, outcome.task, prepared.call.store
    question, name = plan.question, question_id(plan.question)
    columns = [column.name for column in task.fields]
    facts = {} if prepared.together is None else prepared.together.facts
    signed = {**attrs_of(out), task.output: {**description(question, columns), **facts}}
    out.attrs["pandas_llm"] = json.dumps(signed)
    answered = [source in ("api", "cache", "batch", "similar") for source in outcome.answers.sources]
    answers = int(np.array([*answered, False])[plan.codes].sum())
    sides = sides_of(task, prepared.options.details, shares=prepared.options.semantic is not None)
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
    known = said.items() if isinstance(said, dict) else ()
    return {output: facts for output, facts in known if _is_description(facts)}


def _is_description(facts: Any) -> bool:
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("question"), str)
        and isinstance(facts.get("columns"), list)
    )


OpenBatch = tuple[str, str, str]
"""Name, run and status of a batch that goes on."""


def interrupted_line(record: LastRun, open_batches: Sequence[OpenBatch] = (), dropped: int = 0) -> str:
    """What Stop says; of batches that go on, how to come back to them and end them.

    `dropped`: requests in flight that nobody waited for.
    """
    answered = record.rows - sum(record.sources.get(source, 0) for source in ("pending", "failed", "skipped"))
    are = "is" if answered == 1 else "are"
    done = f"{answered:,} of {number(record.rows, 'row')} {are} answered and kept ({money(record.cost)}); "
    if not open_batches:
        here = "run the same line again to go on. They are on the exception's .frame too."
    else:
        here = f"{_going_on(open_batches)} The rows are on the exception's .frame too."
    return f"{done}{here}{_dropped(dropped)}"


def cancelled_line(record: LastRun, open_batches: Sequence[OpenBatch] = (), dropped: int = 0) -> str:
    """What a Cancel says, of whatever kind."""
    pending = record.sources.get("pending", 0)
    are = "is" if pending == 1 else "are"
    of_all = f"{pending:,} of {number(record.rows, 'row')} {are} pending"
    if open_batches:
        return f"Stopped watching: {of_all}; {_going_on(open_batches)}{_dropped(dropped)}"
    return f"Cancelled: {of_all}. Run the same line to go on.{_dropped(dropped)}"


def _dropped(n: int) -> str:
    """What became of requests that nobody waited for; empty where there were none."""
    if not n:
        return ""
    was, they, are = ("was", "it", "is") if n == 1 else ("were", "they", "are")
    return (
        f" {number(n, 'request')} in flight {was} dropped: {they} may be billed, and {are} asked again then."
    )


def _going_on(open_batches: Sequence[OpenBatch]) -> str:
    """Which batches go on at the provider, and what to do about them."""
    named = [name for name, _, _ in open_batches]
    more = f" and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    cancels = [f"pandas_llm.cancel({run!r})" for run in dict.fromkeys(run for _, run, _ in open_batches)]
    them, go = ("it", "goes") if len(named) == 1 else ("them", "go")
    end = "cancels" if len(cancels) == 1 else "cancel"
    return (
        f"{number(len(named), 'batch', 'batches')} {go} on at the provider "
        f"({', '.join(named[:_NAMED])}{more}): run the same line to collect {them}, "
        f"{' and '.join(cancels)} {end} {them}."
    )


def budget_line(run: Run, record: LastRun) -> str:
    """What the end of the money says."""
    budget, pending = run.call.budget, record.sources.get("pending", 0)
    assert budget is not None, "without a budget there is no end of it"
    spent = budget.limit - budget.left
    # What is set aside and what is spent differ in the last digits.
    shared = spent > record.cost * (1 + 1e-9) + 1e-12
    cap, cost = money(budget.limit), money(record.cost)
    are = "is" if pending == 1 else "are"
    said = (
        f"the cap of {cap} is shared by all calls under it; {money(spent)} is spent, {cost} of it by this one"
        if shared
        else f"{cost} of {cap} is spent, and the next request could go beyond it"
    )
    return (
        f"max_cost reached: {said}. {number(pending, 'row')} {are} pending. Run the same line with a higher "
        "max_cost to go on; what is answered is not paid again."
    )
