"""Batches in words: pure functions from the batches of a Progress to the strings that painters show.

The provider's own word for the status stands in all of them: counts that are full say nothing while it is
`finalizing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pandas_llm.core.batches import TERMINAL
from pandas_llm.core.types import BatchProgress, Progress
from pandas_llm.display.words import Figure, duration, number, plain

STALLED_SECONDS = 30 * 60.0
"""As long without a change, a batch at work is said to stall; nothing is done about it."""

_AT_WORK = ("validating", "in_progress", "finalizing")
# As a batch goes, from its end: what is done is told before what is to come.
_ORDER = (
    *("completed", "expired", "cancelled", "failed"),
    *("cancelling", "finalizing", "in_progress", "validating"),
)
_LISTED = 8
"""Batches that are told one by one; of more only the sum."""


def is_over(batch: BatchProgress) -> bool:
    """Whether the provider will do nothing more about it."""
    return batch.status in TERMINAL


def open_batches(p: Progress) -> list[BatchProgress]:
    """Those that go on."""
    return [batch for batch in p.batches if not is_over(batch)]


def counted(batch: BatchProgress) -> str:
    """How far it is.

    >>> counted(BatchProgress(name="b", status="finalizing", requests=1_000, completed=990, failed=10))
    '990 of 1,000, 10 failed'
    """
    return _of(batch.completed, batch.requests, batch.failed)


def stalled(batch: BatchProgress) -> str:
    """How long nothing has changed, in a batch that should be at work; empty below half an hour.

    >>> stalled(BatchProgress(name="b", status="in_progress", requests=15, quiet=2_530.0))
    'no change for 42 min'
    """
    if batch.status not in _AT_WORK or batch.quiet < STALLED_SECONDS:
        return ""
    return f"no change for {duration(batch.quiet // 60 * 60)}"


def expires(batch: BatchProgress) -> str:
    """`expires in 23 h 12 min`; empty where nobody said, or it is over."""
    if batch.expires_in is None or is_over(batch):
        return ""
    left = batch.expires_in
    return f"expires in {duration(left // 60 * 60 if left >= 600 else left)}" if left > 0 else "expires now"


def line(batch: BatchProgress) -> str:
    """All there is to say of one batch.

    >>> line(BatchProgress(name="batch_abc", status="in_progress", requests=1_000, completed=61, seconds=75))
    'batch_abc: in_progress · 61 of 1,000 · 1 min 15 s so far'
    """
    so_far = "" if batch.seconds < 1 else duration(batch.seconds)
    took = so_far and (f"in {so_far}" if is_over(batch) else f"{so_far} so far")
    said = (counted(batch), took, expires(batch), stalled(batch), plain(batch.note))
    return f"{plain(batch.name)}: {plain(batch.status)} · {' · '.join(part for part in said if part)}"


def summed(batches: Sequence[BatchProgress]) -> str:
    """Where they are together: `3 batches: 1 completed, 2 in_progress, 61,000 of 120,000`; one by itself."""
    if len(batches) < 2:
        return "".join(f"{plain(batch.status)}, {counted(batch)}" for batch in batches)
    statuses = Counter(plain(batch.status) for batch in batches)
    told = sorted(statuses, key=lambda word: _ORDER.index(word) if word in _ORDER else len(_ORDER))
    totals = [sum(getattr(batch, name) for batch in batches) for name in ("completed", "requests", "failed")]
    by_status = ", ".join(f"{statuses[word]:,} {word}" for word in told)
    return f"{number(len(batches), 'batch', 'batches')}: {by_status}, {_of(*totals)}"


def figures(p: Progress) -> list[Figure]:
    """What the batches of a live run have to say, in reading order."""
    if not p.batches:
        return []
    live = open_batches(p)
    first = min((b for b in live if expires(b)), key=lambda b: b.expires_in or 0.0, default=None)
    slowest = max(live, key=lambda b: (bool(stalled(b)), b.quiet), default=None)
    notes = dict.fromkeys(plain(batch.note) for batch in live if batch.note)
    named = f"{plain(p.batches[0].name)}: {summed(p.batches)}" if len(p.batches) == 1 else ""
    said = (
        Figure(summed(p.batches), 0, named, 9),
        Figure("" if slowest is None else stalled(slowest), 1, tone="warn"),
        Figure("; ".join(notes), 2, tone="warn"),
        Figure("" if first is None else expires(first), 3),
    )
    return [figure for figure in said if figure.text]


def lines(p: Progress) -> list[str]:
    """A line a batch, or one for all of many."""
    return [line(batch) for batch in p.batches] if len(p.batches) <= _LISTED else [summed(p.batches)]


def most_telling(p: Progress) -> list[BatchProgress]:
    """As many as a table has room for: those that go on first, the stalled ones before all."""
    ranked = sorted(p.batches, key=lambda batch: (is_over(batch), not stalled(batch)))
    return ranked[:_LISTED] if len(p.batches) > _LISTED else list(p.batches)


def news(p: Progress, told: Sequence[BatchProgress]) -> list[str]:
    """What a log says of batches whose status, note or stall isn't what it was when last told."""
    before = {batch.name: _mark(batch) for batch in told}
    changed = [batch for batch in p.batches if before.get(batch.name) != _mark(batch)]
    # Hundreds that begin together are one line, not hundreds.
    return [line(batch) for batch in changed] if len(changed) <= _LISTED else [summed(p.batches)]


def _mark(batch: BatchProgress) -> tuple[str, bool, str]:
    return batch.status, bool(stalled(batch)), batch.note


def _of(completed: int, requests: int, failed: int) -> str:
    return f"{completed:,} of {requests:,}" + (f", {failed:,} failed" if failed else "")
