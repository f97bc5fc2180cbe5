"""Vectors for the texts that a semantic call compares: a run of their own, with a bill of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pandas_llm import history
from pandas_llm.blocking import Stop, run_blocking
from pandas_llm.connect import drive
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.options import Options
from pandas_llm.core.tally import Tally
from pandas_llm.core.vectors import floats
from pandas_llm.io.http import require_key
from pandas_llm.prepare import Ask, Prepared, prepare
from pandas_llm.run import Run
from pandas_llm.run.reuse import Embed, Vectors
from pandas_llm.run.ways import Inner
from pandas_llm.verbs import embed

_COLUMN = "text"
_AT_ONCE = 1_000
"""Texts that the local model embeds where nothing may be sent: it takes 10 s for them."""


def embedder_for(prepared: Prepared, outer: Run, *, sends: bool = True) -> Embed:
    """How a call's texts become vectors: by what `Semantic(embed=…)` names, by default as `embed` does.

    With `sends=False` only vectors that are known are got, and a few of the local model.

    Raises
    ------
    OptionsError, AuthError
        What the vectors would fail of for sure: an extra that isn't installed, a price that isn't known.
    """
    options = prepared.options
    assert options.semantic is not None, "who compares texts says how"
    chosen = options.semantic.embed
    model = embed.model_id(chosen, options.model)
    ask = Ask(
        "embed",
        _COLUMN,
        _COLUMN + "_vector",
        None,
        None,
        embed.task,
        embedder=chosen if callable(chosen) else None,
    )
    own = _own_options(options, model)

    def asking(texts: Sequence[str]) -> Prepared:
        frame = pd.DataFrame({_COLUMN: pd.Series(list(texts), dtype=object)})
        return prepare(frame, ask, own, prepared.call.budget)

    if sends:
        _check(asking(()))

    async def vectors(texts: Sequence[str]) -> Vectors:
        # Rows of 50,000 texts take a second, and the loop may be somebody else's.
        asked = await asyncio.to_thread(asking, texts)
        run = await _ended(asked, outer, sends=sends)
        return await asyncio.to_thread(_read, run, asked.call.plan.codes.tolist(), texts)

    return vectors


def reusable(prepared: Prepared, run: Run) -> Sequence[int] | None:
    """The codes that may take the answer of a near-equal text; None where nobody knows without asking."""
    todo = run.unknown()
    if run.reuse is None:
        return None
    run.reuse.embed = embedder_for(prepared, run, sends=False)
    with Stop(run) as stop:
        asked = run_blocking(partial(run.reuse.begin, todo), stop, lambda: None)
    if stop.strikes:
        raise KeyboardInterrupt
    if asked is None or run.reuse.report.note:
        return None
    waiting = {*asked}
    return [code for code in todo if code not in waiting]


def _check(asked: Prepared) -> None:
    question, options = asked.call.plan.question, asked.options
    if question.in_process:
        return
    require_key(options.client, options.api_key, options.base_url)
    if asked.call.budget is not None and Run(asked.call, _tally(asked)).price_of(None) is None:
        raise OptionsError(
            f"The price of {question.model!r}, which texts are compared with, isn't known, so max_cost can't "
            f"be kept: say prices={{{question.model!r}: (input, 0)}}, USD per million tokens, or "
            'Semantic(embed="local").'
        )


def _read(run: Run, codes: Sequence[int], texts: Sequence[str]) -> Vectors:
    """The vectors of a run that ended, a place each text."""
    model, sheet = run.call.plan.question.model, run.sheet
    held = sheet.fields[0]
    made = {
        code: _direction(floats(held[code])) for code in set(codes) if code >= 0 and held[code] is not None
    }
    known = _known_to(run, texts)
    rows = [made.get(code) if known(row) else None for row, code in enumerate(codes)]
    failed = [code for code in codes if code >= 0 and made.get(code) is None]
    # Rows that wait for money are told of by the call that these vectors are for.
    went_wrong = 0 if run.interrupted or run.out_of_money else len(failed)
    why = sheet.errors.get(failed[0], "a vector without a direction") if went_wrong else ""
    return Vectors(model, rows, run.tally.cost, _words(), went_wrong, why)


def _direction(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """The vector at length 1; None where it has no direction."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / length).astype(np.float32) if 0 < length < np.inf else None


def _own_options(options: Options, model: Any) -> Options:
    return replace(
        options,
        model=model,
        params={},
        mode="concurrent",
        wait=True,
        deadline=None,
        service_tier=None,
        dedupe="exact",
        cache=True if options.cache in ("only", "refresh") else options.cache,
        on_null="skip",
        on_error="column",
        details="none",
        client=None if model == "local" or callable(model) else options.client,
    )


async def _ended(own: Prepared, outer: Run, *, sends: bool) -> Run:
    """The run that embeds, when it has; its error is raised. What stops the outer one stops it."""
    run = Run(own.call, _tally(own))
    await asyncio.to_thread(run.look_up)
    unknown = len(run.unknown())
    if not sends and unknown > (_AT_ONCE if own.is_local else 0):
        raise OptionsError(f"{unknown:,} texts have no vectors yet.")
    if run.has_work:
        run.id = own.call.store.start_run(**history.facts_of(own))
        run.tally.run = f"r_{run.id}"
        try:
            with outer.beside(Inner(run, len(own.frame))):
                await drive(run, own)
        finally:
            run.answers()
            own.call.store.end_run(run.id, **history.ending_of(run))
    if run.error is not None:
        raise run.error
    return run


def _tally(own: Prepared) -> Tally:
    return Tally(run="", title=own.title, rows=len(own.frame), now=time.monotonic())


def _known_to(run: Run, texts: Sequence[str]) -> Callable[[int], bool]:
    """Whether an embedder knows the words of a text, by its place: the local one tells."""
    if run.call.options.model != "local":
        return lambda _: True
    from pandas_llm.local.words import MOST_UNKNOWN, unknown_shares

    shares = unknown_shares(texts)
    return lambda row: shares[row] <= MOST_UNKNOWN


def _words() -> Callable[[str], bool] | None:
    """Whether a word is one, by the local encoder's vocabulary; None where it isn't installed."""
    from pandas_llm.local.words import vocabulary

    known = vocabulary()
    return None if known is None else known.__contains__
