"""Estimates, the last run, runs and what stands behind a row, as pages in a notebook."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pandas_llm.core.errors import LLMError
from pandas_llm.core.foreign import mapping
from pandas_llm.core.types import Progress
from pandas_llm.core.wire import message_of
from pandas_llm.display.words import duration, money, number
from pandas_llm.history.tables import between, readable
from pandas_llm.reports import page as html

if TYPE_CHECKING:
    from pandas_llm.history.ended import LastRun
    from pandas_llm.history.estimate import Estimate
    from pandas_llm.history.shown import Shown

Facts = Sequence[tuple[str, str]]

_UNASKED = {
    "unsendable": "failed",
    "failed": "failed",
    "given": "given",
    "unknown": "pending",
    "batched": "pending",
}
"""The colour of rows that an estimate doesn't ask, by why."""


def estimate_page(estimate: Estimate, title: str, rows: Facts) -> str:
    """What a call would send and cost."""
    sources = {"cache": estimate.cached, "duplicate": estimate.duplicates, "skipped": estimate.skipped}
    for fate, n in estimate.unasked.items():
        sources[_UNASKED[fate]] = sources.get(_UNASKED[fate], 0) + n
    cost = "price unknown" if math.isnan(estimate.cost.low) else between(*estimate.cost, money)
    figure = f"{number(estimate.requests, 'request')}, {cost}" if estimate.requests else "nothing to ask"
    return html.page(
        html.head("Estimate", title, figure),
        html.bar(Progress(rows=estimate.rows, sources=sources), "to ask"),
        html.facts(rows),
        _ways(estimate),
    )


def _ways(estimate: Estimate) -> str:
    """The routes beside each other, where there is a choice."""
    known = estimate.routes.dropna(subset="seconds_low")
    if len(known) < 2 or not estimate.requests:
        return ""
    rows = [["route", "cost", "time"]]
    for route, cost_low, cost_high, seconds_low, seconds_high in known.itertuples():
        cost = "unknown" if math.isnan(cost_low) else between(cost_low, cost_high, money)
        rows.append([str(route), cost, between(seconds_low, seconds_high, duration)])
    return html.table(rows)


def run_page(run: LastRun, rows: Facts) -> str:
    """How a run ended. Of its facts, those that the head and the bar say aren't repeated."""
    models = (run.model, *(snapshot for snapshot in run.snapshots if snapshot != run.model))
    said = ("run", "asked", "rows", "seconds")
    return html.page(
        html.head(
            run.status.capitalize(),
            " · ".join((run.id, run.verb, *models)),
            f"{number(run.rows, 'row')} in {duration(run.seconds)}",
            colour=html.COLOURS.get(run.status, ""),
        ),
        html.bar(Progress(rows=run.rows, sources=run.sources)),
        html.facts([fact for fact in rows if fact[0] not in said]),
    )


def shown_page(shown: Shown) -> str:
    """What a row was asked with and what came back; of replies the text first, all of it on a click."""
    messages = (html.note(m["role"]) + html.box(m["content"]) for m in shown.messages)
    many = len(shown.replies) > 1
    replies = (_reply(f"reply {n}" if many else "reply", reply) for n, reply in enumerate(shown.replies, 1))
    first, _, rest = shown.note.partition("\n")
    return html.page(
        html.note(f"key {shown.key}") if shown.key else "",
        *messages,
        *replies,
        html.note(first) if first else "",
        html.box(rest) if rest else "",
    )


def _reply(name: str, reply: str) -> str:
    content = _content_of(reply)
    if content is None:
        return html.note(name) + html.box(readable(reply))
    whole = html.folded(
        f"the whole {name}, {len(reply.encode('utf-8', 'replace')):,} bytes", html.box(readable(reply))
    )
    return html.note(name) + html.box(content) + whole


def _content_of(reply: str) -> str | None:
    """What the model said; None where the reply isn't a chat completion that says something."""
    try:
        body = dict(mapping(json.loads(reply)))
        # What isn't a completion has an embedding for content: numbers that say nothing to a reader.
        message = message_of(body, request_id=None) if "choices" in body else None
    except (ValueError, RecursionError, LLMError):
        return None
    if message is None:
        return None
    return message.content or (str(message.problem) if message.problem else None)
