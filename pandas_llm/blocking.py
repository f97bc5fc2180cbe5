"""The one door from ordinary code into async code, and it closes behind you.

One daemon thread with one event loop serves the process; the calling thread waits in slices and is the one
that paints. Ctrl-C asks the work to stop, then waits for it to end: nothing is sent, or paid for, after Stop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pandas_llm.core.errors import OptionsError

T = TypeVar("T")
SLICE_SECONDS = 0.05
"""The calling thread wakes this often: to paint, and because not every system interrupts an untimed wait."""
GRACE_SECONDS = 5.0
"""How long requests in flight get after the first Ctrl-C."""


class Stoppable(Protocol):
    """Work that can be asked to stop from another thread."""

    def stop(self) -> None:
        """Send nothing more; let what is in flight come back."""
        ...


class _LoopThread:
    """The process's event loop, in a thread that lives on so that connections can be kept."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        # Somebody's nest_asyncio.apply() replaces asyncio.Task for the whole process, and on Python 3.14
        # every loop then loses its current task. A loop that builds C tasks itself isn't touched by it.
        with contextlib.suppress(ImportError):
            from _asyncio import Task

            self.loop.set_task_factory(lambda loop, coro, **more: Task(coro, loop=loop, **_given(more)))
        self.thread = threading.Thread(target=self.loop.run_forever, name="pandas_llm-loop", daemon=True)
        self.thread.start()


def _given(more: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in more.items() if value is not None}


_shared: _LoopThread | None = None
_shared_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    global _shared  # noqa: PLW0603 — one loop a process; a forked child needs its own
    with _shared_lock:
        if _shared is None or not _shared.thread.is_alive() or _shared.pid != os.getpid():
            _shared = _LoopThread()
        return _shared.loop


def run_blocking(
    work: Callable[[], Coroutine[Any, Any, T]], stoppable: Stoppable, tick: Callable[[], None]
) -> tuple[T | None, bool]:
    """The result of `await work()` and whether Ctrl-C came; None where a second one dropped it.

    Parameters
    ----------
    work
        Makes the coroutine; it runs on the process's own loop.
    stoppable
        What the first Ctrl-C stops. A second one, or 5 s, cancels what is in flight.
    tick
        Called by the waiting thread about 20 times a second: the place to paint.
    """
    future = asyncio.run_coroutine_threadsafe(work(), _loop())
    deadline: float | None = None
    while True:
        try:
            tick()
            return future.result(SLICE_SECONDS), deadline is not None
        except concurrent.futures.CancelledError:
            return None, True
        except TimeoutError:
            if future.done():
                raise
            if deadline is not None and time.monotonic() > deadline:
                future.cancel()
        except KeyboardInterrupt:
            if deadline is None:
                stoppable.stop()
                deadline = time.monotonic() + GRACE_SECONDS
            else:
                deadline = 0.0


def run_in_notebook_loop(
    work: Callable[[], Coroutine[Any, Any, T]], stoppable: Stoppable, tick: Callable[[], None]
) -> tuple[T | None, bool]:
    """The same on the running loop of a notebook, for clients and callables that are bound to it."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ticking(work(), tick)), False
    _nest(loop)
    task = loop.create_task(_ticking(work(), tick))
    try:
        return loop.run_until_complete(task), False
    except KeyboardInterrupt:
        stoppable.stop()
        # Without this the task lives on in the notebook's loop and goes on sending, and costing.
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            return loop.run_until_complete(asyncio.wait_for(task, GRACE_SECONDS)), True
        return None, True


async def _ticking(work: Coroutine[Any, Any, T], tick: Callable[[], None]) -> T:
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            tick()
            await asyncio.wait({task}, timeout=SLICE_SECONDS)
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait({task})


def _nest(loop: asyncio.AbstractEventLoop) -> None:
    try:
        import nest_asyncio2 as nest
    except ImportError:
        if sys.version_info >= (3, 14):
            raise OptionsError(
                'loop="notebook" on Python 3.14 needs nest-asyncio2 (pip install nest-asyncio2): nest-asyncio '
                "1.6.0 breaks the loop there."
            ) from None
        import nest_asyncio as nest
    try:
        nest.apply(loop)
    except ValueError as error:
        raise OptionsError(
            f'loop="notebook" can\'t nest in this loop ({error}); use the default, "own".'
        ) from None
