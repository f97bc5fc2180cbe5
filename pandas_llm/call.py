"""One call, from its arguments to its frame: everything is decided before the first request is sent."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import warnings
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any

import pandas as pd

from pandas_llm import history
from pandas_llm.blocking import Stop, end_by_signal, run_blocking, run_here, run_in_notebook_loop
from pandas_llm.cancelling import cancel_batches
from pandas_llm.columns import Outcome, with_results
from pandas_llm.connect import drive
from pandas_llm.core.budget import Budget
from pandas_llm.core.errors import (
    BudgetWarning,
    IncompleteWarning,
    Interrupted,
    LLMWarning,
    OptionsError,
    PriceWarning,
    RowErrors,
    StoreError,
    in_our_words,
)
from pandas_llm.core.options import Options
from pandas_llm.core.tally import Tally
from pandas_llm.display import Painter, pick
from pandas_llm.display.words import number, sentence
from pandas_llm.embedding import embedder_for, reusable
from pandas_llm.history import Estimate, LastRun
from pandas_llm.io.http import require_key
from pandas_llm.prepare import Ask, Prepared, prepare
from pandas_llm.routing import choose_legs, plan_legs
from pandas_llm.run import Run

_live: list[weakref.ref[Run]] = []


def cancel(run_id: str) -> None:
    """Let a run end early, its batches included: its call returns what is there, the rest pending.

    Raises
    ------
    OptionsError
        No such run is going on here, and none of its batches at the provider.
    """
    run_id = str(run_id)
    runs = [run for run in _going_on() if run.tally.run == run_id]
    for run in runs:
        run.cancel()
    if not runs and not cancel_batches(run_id):
        raise OptionsError(
            f"No run {run_id!r} is going on in this process, and it has no open batch; pandas_llm.runs() "
            "lists them."
        )


def _going_on() -> list[Run]:
    return [run for ref in list(_live) if (run := ref()) is not None]


def answer(frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> pd.DataFrame:
    """The frame with its new columns; the caller's thread waits and paints."""
    prepared = prepare(frame, ask, options, budget)
    painter = pick(options.progress)
    run = _started(prepared, painter)
    # To the very end: one Ctrl-C too many must not cost the frame.
    with Stop(run) as stop:
        if run.has_work:
            nested = options.loop == "notebook"
            wait = run_in_notebook_loop if nested else run_blocking
            with _shown(prepared, painter, run, stop, busy=not nested):
                wait(lambda: drive(run, prepared), stop, lambda: _paint(painter, run))
        return _ended(prepared, run, stop)


def answer_async(
    frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None
) -> Coroutine[Any, Any, pd.DataFrame]:
    """The same as a coroutine of the caller's loop; its arguments are checked now."""
    return _answered(prepare(frame, ask, options, budget))


async def _answered(prepared: Prepared) -> pd.DataFrame:
    painter = pick(prepared.options.progress)
    run = await asyncio.to_thread(_started, prepared, painter)
    if run.has_work:
        stop = Stop(run)
        with _shown(prepared, painter, run, stop):
            await run_here(drive(run, prepared), stop, lambda: _paint(painter, run))
    # Comparing 100,000 texts takes seconds, on a loop that others may share.
    outcome = None if prepared.together is None else await asyncio.to_thread(_outcome_of, prepared, run)
    return _ended(prepared, run, outcome=outcome)


def series_answer(frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Any:
    """The new columns of a Series' call: one Series, or a frame where it asks for more."""
    return _only_new(frame, answer(frame, ask, options, budget))


def series_async(
    frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None
) -> Coroutine[Any, Any, Any]:
    """The same as a coroutine; its arguments are checked now."""
    return _series_answered(frame, answer_async(frame, ask, options, budget))


async def _series_answered(frame: pd.DataFrame, answered: Coroutine[Any, Any, pd.DataFrame]) -> Any:
    return _only_new(frame, await answered)


def estimate(frame: pd.DataFrame, ask: Ask, options: Options, budget: Budget | None) -> Estimate:
    """What a call would cost. Nothing is sent."""
    prepared = prepare(frame, ask, options, budget)
    run = Run(prepared.call, _tally(prepared))
    run.look_up()
    choose_legs(prepared, run)
    return history.estimate_of(
        prepared, run, lambda: answer(frame, ask, options, budget), reusable(prepared, run)
    )


def _only_new(frame: pd.DataFrame, out: pd.DataFrame) -> Any:
    new = out.iloc[:, len(frame.columns) :]
    return new.iloc[:, 0] if len(new.columns) == 1 else new


# Before the first request ------------------------------------------------------------------------------


def _started(prepared: Prepared, painter: Painter) -> Run:
    """A run that knows what is paid for, has said what it is about to do, and may begin."""
    for orphan in _going_on():
        orphan.let_go_if_orphaned()
    run = Run(prepared.call, _tally(prepared))
    run.look_up()
    if run.reuse is not None and run.has_work:
        run.reuse.embed = embedder_for(prepared, run)
    todo = run.unknown()
    run.tally.asked = len(todo)
    options = prepared.options
    if run.has_work and not prepared.call.plan.question.in_process:
        require_key(options.client, options.api_key, options.base_url)
    said = plan_legs(prepared, run)
    usd = history.usd_of(run, todo)
    _check_money(run, usd)
    store = prepared.call.store
    run.id = store.start_run(**history.facts_of(prepared))
    run.tally.run = f"r_{run.id}"
    run.read_unread()
    for line in (*history.opening_lines(prepared, run, len(todo), usd), *said):
        painter.say(line)
    return run


def _tally(prepared: Prepared) -> Tally:
    tally = Tally(
        run="",
        title=prepared.title,
        rows=len(prepared.frame),
        now=time.monotonic(),
        max_cost=prepared.options.max_cost,
    )
    tally.sources.update(prepared.unasked)
    if unsendable := prepared.unsendable:
        latest = next(reversed(unsendable.values()))
        tally.failed("PromptError", latest.removeprefix("PromptError: "), unsendable, len(unsendable))
    return tally


def _check_money(run: Run, usd: history.Span | None) -> None:
    options, model = run.call.options, run.call.plan.question.model
    if usd is None:
        if run.call.budget is not None:
            raise OptionsError(
                f"The {_unknown_price(run)} of {model!r} isn't known, so max_cost can't be kept: say "
                f"prices={{{model!r}: (input, output)}}, USD per million tokens."
            )
        return
    if options.confirm_above is None or run.call.budget is not None:
        return
    if (usd.low + usd.high) / 2 > options.confirm_above:
        raise OptionsError(history.too_dear(usd))


def _unknown_price(run: Run) -> str:
    """Which of a model's prices isn't known: a route may lack one where the model has one."""
    routes = [*run.routes_taken] or [leg.route for leg in run.legs]
    unknown = next((route for route in routes if run.route_price(route) is None), "concurrent")
    tier = run.call.options.service_tier if unknown == "concurrent" else unknown
    named = tier not in (None, "auto", "default") and run.price_of(None) is not None
    return f"{tier} price" if named else "price"


# The run -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(
    prepared: Prepared, painter: Painter, run: Run, stop: Stop, *, busy: bool = False
) -> Iterator[None]:
    """A run while people see it; whatever cuts it off carries the frame of what came back."""
    # Weakly: who closes a loop under a run gets rid of it.
    ref = weakref.ref(run)
    _live.append(ref)
    try:
        painter.open(run.progress(), stop.cancel, busy=busy)
        yield
        run.answers()
        # Who cancels when all is there has cancelled nothing.
        run.interrupted = run.interrupted and bool(stop.strikes or run.tally.sources["pending"])
    except GeneratorExit:  # nobody is there to be told
        raise
    except BaseException as error:
        run.interrupted = True
        _ended_early(prepared, run, error)
        raise
    finally:
        _live.remove(ref)
        # Whatever goes wrong here: a panel that stays would keep a kernel's messages.
        try:
            run.answers()
            pending = run.tally.sources["pending"]
            notes = [history.reuse_line(run)]
            if pending:
                are = "is" if pending == 1 else "are"
                notes.append(
                    f"{number(pending, 'row')} {are} pending: {sentence(run.reason_in(in_our_words))}"
                )
            run.tally.note = " ".join(filter(None, notes))
            run.tally.state = "failed" if run.error else "stopped" if pending or run.interrupted else "done"
        finally:
            painter.close(run.progress())


def _paint(painter: Painter, run: Run) -> None:
    with contextlib.suppress(Exception):  # no picture is worth a run
        painter.paint(run.progress())


# After the last reply ----------------------------------------------------------------------------------


def _ended(
    prepared: Prepared, run: Run, stop: Stop | None = None, outcome: Outcome | None = None
) -> pd.DataFrame:
    """The frame of a run that ended; or what ended it, with the frame on it."""
    out = _frame_of(prepared, run, outcome)
    record = _remembered(run, out)
    if run.error is not None:
        raise _with(run.error, out)
    assert record is not None, "a run that couldn't be noted has an error"
    if stop is not None and stop.strikes:
        end_by_signal()
        raise _with(
            Interrupted(history.interrupted_line(record, run.open_batches, run.dropped_requests)), out
        )
    try:
        _warn(prepared, run, record)
    except Warning as warning:  # where warnings are errors
        raise _with(warning, out)  # noqa: B904 — it is the same one
    failed = record.sources.get("failed", 0)
    if prepared.options.on_error == "raise" and failed:
        first = next(iter(run.answers().errors.values()), None) or next(iter(prepared.texts.failed.values()))
        raise _with(
            RowErrors(
                f"{failed:,} of {number(record.rows, 'row')} failed; .frame has all the others. {first}"
            ),
            out,
        )
    return out if prepared.finish is None else prepared.finish(out)


def _ended_early(prepared: Prepared, run: Run, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # what cut the run off is what the caller must hear of
        out = _frame_of(prepared, run)
        _with(error, out)
        _remembered(run, out)


def _outcome_of(prepared: Prepared, run: Run) -> Outcome:
    plan, answers = prepared.call.plan, run.answers()
    return Outcome(
        task=prepared.shown,
        texts=prepared.texts,
        plan=plan,
        answers=answers if prepared.together is None else prepared.together.answers(plan, answers),
        given=prepared.existing.given,
        shares=prepared.options.semantic is not None,
    )


def _frame_of(prepared: Prepared, run: Run, outcome: Outcome | None = None) -> pd.DataFrame:
    try:
        outcome = outcome or _outcome_of(prepared, run)
        out = with_results(
            prepared.frame, outcome, details=prepared.options.details, stale=prepared.existing.stale
        )
    except BaseException as error:
        with contextlib.suppress(StoreError):
            status = "failed" if isinstance(error, Exception) else "stopped"
            prepared.call.store.end_run(run.id, status=status)
        raise
    try:
        history.sign(prepared, run, out, outcome)
    except StoreError as error:  # the answers are here all the same
        run.error = run.error or error
    return out


def _remembered(run: Run, out: pd.DataFrame) -> LastRun | None:
    try:
        return history.remember(run, out)
    except StoreError as error:
        run.error = run.error or error
        return None


def _with(error: Any, out: pd.DataFrame) -> Any:
    error.frame = out
    return error


_warned_of_price: set[tuple[str, str]] = set()


def _warn(prepared: Prepared, run: Run, record: LastRun) -> None:
    level = level_of_caller()
    model = run.call.plan.question.model
    pending = record.sources.get("pending", 0)
    missing = record.sources.get("failed", 0) + pending
    if run.out_of_money:
        warnings.warn(history.budget_line(run, record), BudgetWarning, stacklevel=level)
    if record.cost != record.cost and (what := (_unknown_price(run), model)) not in _warned_of_price:
        _warned_of_price.add(what)
        text = (
            f"The {what[0]} of {model!r} isn't known: its costs are NaN. Say "
            f"prices={{{model!r}: (input, output)}}, USD per million tokens."
        )
        warnings.warn(text, PriceWarning, stacklevel=level)
    if (run.interrupted or run.batch_cancelled) and pending:
        warnings.warn(
            history.cancelled_line(record, run.open_batches, run.dropped_requests),
            IncompleteWarning,
            stacklevel=level,
        )
    elif prepared.options.details == "none" and missing:
        has = "has" if missing == 1 else "have"
        text = f'{missing:,} of {number(record.rows, "row")} {has} no answer; details="errors" says why.'
        warnings.warn(text, IncompleteWarning, stacklevel=level)
    if run.no_confidence:
        text = f"{model!r} gives no log-probabilities here: the confidence is missing."
        warnings.warn(text, LLMWarning, stacklevel=level)
    for note in run.notes:
        warnings.warn(note, LLMWarning, stacklevel=level)


def level_of_caller() -> int:
    """The `stacklevel`, seen from who calls this, of the line that called the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pandas_llm."):
        frame, level = frame.f_back, level + 1
    return level
