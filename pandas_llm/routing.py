"""Which requests go by which route, decided and said before the first one is sent."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pandas_llm import history
from pandas_llm.columns import Seconds, check_in_time
from pandas_llm.core.batches import overlap, sketch
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import question_id
from pandas_llm.core.routes import Choice, choose
from pandas_llm.display.words import duration, number
from pandas_llm.prepare import Prepared
from pandas_llm.run import Leg, Run

_CLASSES = (600.0, 7_200.0)
"""Seconds up to which a deadline is urgent, and standard; what is later is relaxed."""


def plan_legs(prepared: Prepared, run: Run) -> list[str]:
    """Decide what goes by which route: the run's legs. What people are told about it.

    Raises
    ------
    OptionsError
        Answers were needed before now; a batch about an older question still runs.
    """
    said = choose_legs(prepared, run)
    if any(leg.route == "batch" and len(leg.codes) for leg in run.legs):
        _refuse_beside_an_older_question(prepared)
    return said


def choose_legs(prepared: Prepared, run: Run) -> list[str]:
    """The same, whatever else is going on; for estimates."""
    todo = run.unknown()
    if prepared.options.mode == "auto":
        return _by_deadline(prepared, run, todo)
    if prepared.options.mode == "concurrent" or not len(todo):
        return []
    least = prepared.options.batches.min_requests
    if len(todo) >= least:
        run.legs = [Leg("batch", todo)]
        return []
    run.legs = [Leg("concurrent", todo)]
    are, worth = "is" if len(todo) == 1 else "are", f"Batches(min_requests={least})"
    return [
        f"{len(todo):,} to ask {are} fewer than a batch is worth ({worth}): asked at once, at full price."
    ]


def _by_deadline(prepared: Prepared, run: Run, todo: Sequence[int]) -> list[str]:
    """Urgent, standard and relaxed requests each by the cheapest route that should make it."""
    codes, now = np.asarray(todo, dtype=np.intp), time.monotonic()
    left = prepared.seconds_left
    late = np.zeros(len(left), dtype=np.bool_)
    late[codes] = left[codes] <= 0
    check_in_time(prepared.frame, prepared.options.deadline, prepared.call.plan.codes, late)
    classes = np.digitize(left[codes], _CLASSES)
    legs, choices, said = [], [], []
    for each in np.unique(classes):
        chosen = array("i", codes[classes == each].tolist())
        seconds = _finite(left[chosen].min())
        choice = _choice(prepared, run, chosen, seconds)
        until = now + seconds if seconds is not None and choice.recovery else None
        legs.append(Leg(choice.route, chosen, until, may_be_concurrent=True))
        choices.append(choice)
        if len(chosen) < len(codes):
            said.append(f"{len(chosen):,} to ask, {_due(seconds)}:")
        said += choice.lines()
    run.legs = _adopting(run, legs, left, now)
    run.choice = _told_together(legs, choices)
    return said


def _choice(prepared: Prepared, run: Run, codes: Sequence[int], seconds: float | None) -> Choice:
    routes = history.routes_of(run, history.costs_of(run, codes))
    least = prepared.options.batches.min_requests
    if len(codes) < least:
        note = f"{number(len(codes), 'request')}, fewer than Batches(min_requests={least})"
        routes = tuple(
            replace(route, available=False, note=note) if route.name == "batch" and route.available else route
            for route in routes
        )
    return choose(seconds, routes)


def _adopting(run: Run, legs: list[Leg], left: Seconds, now: float) -> list[Leg]:
    """The legs, of which one by batches also minds the deadline of what open batches are about to answer.

    The call that submitted those may be gone: giving them up in time is this one's business.
    """
    adopted = [code for codes in run.in_batches.values() for code in codes]
    if not adopted:
        return legs
    seconds = _finite(left[adopted].min())
    concurrent, *_ = history.routes_of(run, history.costs_of(run, adopted))
    # What concurrent requests would be too late for as well is left to the batch.
    until = now + seconds if seconds is not None and concurrent.seconds[1] <= seconds else None
    at = next((place for place, leg in enumerate(legs) if leg.route == "batch"), None)
    if at is None:
        return [*legs, Leg("batch", (), until, may_be_concurrent=True)]
    first = min((end for end in (until, legs[at].until) if end is not None), default=None)
    return [*legs[:at], replace(legs[at], until=first), *legs[at + 1 :]]


def _told_together(legs: Sequence[Leg], choices: Sequence[Choice]) -> Choice | None:
    """The choice for the most requests, with the reasons of all."""
    if not choices:
        return None
    most = choices[int(np.argmax([len(leg.codes) for leg in legs]))]
    if len(choices) == 1:
        return most
    told = zip(legs, choices, strict=True)
    return replace(
        most, reason="; ".join(f"{len(leg.codes):,} by {one.route}: {one.reason}" for leg, one in told)
    )


def _finite(seconds: float) -> float | None:
    return float(seconds) if seconds < np.inf else None


def _due(seconds: float | None) -> str:
    return "which have time" if seconds is None else f"the first of them in {duration(seconds)}"


def _refuse_beside_an_older_question(prepared: Prepared) -> None:
    """Don't pay for a second batch over the same rows while one with another question still runs."""
    if prepared.options.batches.force:
        return
    plan, task = prepared.call.plan, prepared.call.task
    ours = question_id(plan.question)
    older = [
        shard
        for shard in prepared.call.store.shards.open()
        if shard.facts.get("output") == task.output and shard.facts.get("question") != ours
    ]
    if not older:
        return
    texts = sketch(plan.texts)
    for shard in older:
        if overlap(texts, shard.facts.get("sketch") or ()):
            raise OptionsError(
                f"{shard.name} ({shard.facts.get('status') or shard.state}) of run r_{shard.run} is about to "
                f"answer an older question for {task.output!r}, about the same texts. "
                f'pandas_llm.cancel("r_{shard.run}") stops it (what it has answered is billed); '
                "batches=pandas_llm.Batches(force=True) pays for both."
            )
