"""The garbage collector's long pauses, kept out of runs."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

WORTH_IT = 1_000
"""Requests; below it nobody notices a pause."""

_lock = threading.Lock()
_runs = 0
_ours = False


@contextlib.contextmanager
def steady_heap(requests: int) -> Iterator[None]:
    """Let the collector leave alone what was there before a long run.

    With pandas, openai and pydantic loaded a full collection walks half a million objects, stops the event
    loop for 80 to 130 ms and takes 15 % of a run's CPU, to find nothing. What the run itself makes is
    collected as ever. Who froze the heap before (a server, before it forks) keeps it frozen.
    """
    global _runs, _ours  # noqa: PLW0603 — the collector is the process's
    if requests < WORTH_IT:
        yield
        return
    with _lock:
        _runs += 1
        if _runs == 1 and gc.isenabled() and not gc.get_freeze_count():
            _ours = True
            gc.freeze()
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if _runs == 0 and _ours:
                _ours = False
                gc.unfreeze()
