"""The one door from ordinary code into async code, and it closes behind you.

One daemon thread with one event loop serves the process; the calling thread waits in slices and is the one
that paints. Whatever ends the wait, the work is asked to stop and then waited for: nothing is sent, or paid
for, after Stop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar

from pandas_llm.core.errors import Interrupted, OptionsError

T = TypeVar("T")
SLICE_SECONDS = 0.05
"""The calling thread wakes this often: to paint, and because not every system interrupts an untimed wait."""
GRACE_SECONDS = 5.0
"""How long requests in flight get after the first Ctrl-C."""


class Stoppable(Protocol):
    """Work that can be asked to stop from another thread, and from a signal handler."""

    def stop(self) -> None:
        """Send nothing more; let what is in flight come back."""
        ...


class _LoopThread:
    """The process's event loop, in a thread that lives on so that connections can be kept."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # Somebody's nest_asyncio.apply() replaces asyncio.Task for the whole process, and on Python 3.14
        # every loop then loses its current task. A loop that builds C tasks itself isn't touched by it.
        with contextlib.suppress(ImportError):
            from _asyncio import Task

            self.loop.set_task_factory(
                lambda loop, coro, **more: Task(coro, loop=loop, **_given(more) if more else {})
            )
        self.thread = threading.Thread(target=self.loop.run_forever, name="pandas_llm-loop", daemon=True)
        self.thread.start()


def _given(more: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in more.items() if value is not None}


_shared: _LoopThread | None = None
_shared_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    global _shared  # noqa: PLW0603 — one loop a process
    with _shared_lock:
        if _shared is None or not _shared.thread.is_alive():
            _shared = _LoopThread()
        return _shared.loop


def _leave_behind() -> None:
    # A forked child has its parent's loop without the thread, and perhaps the lock in the middle of its use.
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


def end_by_signal() -> None:
    """Have an `Interrupted` that nobody catches end the process by the signal.

    Python ends so for KeyboardInterrupt itself, not for its kinds: the script would merely fail, and the loop
    of a shell go on to its next round, and bill.
    """
    if sys.excepthook is sys.__excepthook__ and threading.current_thread() is threading.main_thread():
        sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    sys.__excepthook__(kind, error, trace)
    # A prompt goes on.
    is_script = not hasattr(sys, "ps1") and not sys.flags.interactive
    if isinstance(error, Interrupted) and is_script and os.name == "posix":
        atexit.register(_end)


def _end() -> None:
    # What else is to be done at the end is done first; it calls this again, which then does nothing.
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


class Stop:
    """What ends work early: the first strike asks it to stop, a second one or 5 s drop what is in flight.

    As a context manager it takes Ctrl-C for a strike instead of letting a KeyboardInterrupt hit whatever line
    runs just then: between the start of the work and the wait for it, nobody would stop the work.
    """

    def __init__(self, stoppable: Stoppable) -> None:
        self.strikes = 0
        """How often it was interrupted: then the call raises; what was only cancelled returns."""
        self._stoppable = stoppable
        self._asked = 0
        self._deadline = math.inf
        self._dropped = False
        self._before: Any = None

    def strike(self, *_: object) -> None:
        """Stop; the next time, drop."""
        self.strikes += 1
        self.cancel()

    def cancel(self) -> None:
        """The same without an interruption: somebody has pressed a button."""
        self._asked += 1
        self._deadline = time.monotonic() + (GRACE_SECONDS if self._asked == 1 else 0.0)
        if self._asked == 1:
            self._stoppable.stop()

    def drops(self) -> bool:
        """Whether what is in flight is to be dropped now. True once: a second cancel would cut off saving."""
        if self._dropped or time.monotonic() < self._deadline:
            return False
        self._dropped = True
        return True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            # A handler of asyncio.run or of a kernel tells a loop, and we block it until we are done.
            if handler is signal.default_int_handler or (callable(handler) and _in_a_loop()):
                self._before = handler
                signal.signal(signal.SIGINT, self.strike)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Job(Generic[T]):
    """Work that goes on in the process's loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.done = threading.Event()
        self._loop = _loop()
        self._loop.call_soon_threadsafe(self._begin, work)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._task = self._loop.create_task(work())
        self._task.add_done_callback(lambda _: self.done.set())

    def drop(self) -> None:
        """Cancel it; it is over when `done` says so."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._task.cancel()

    def result(self) -> T | None:
        """What it came to, None where it was dropped."""
        return None if self._task.cancelled() else self._task.result()


def run_blocking(
    work: Callable[[], Coroutine[Any, Any, T]], stop: Stop, tick: Callable[[], None]
) -> T | None:
    """The result of `await work()`; None where it was dropped.

    Parameters
    ----------
    work
        Makes the coroutine; it runs on the process's own loop.
    stop
        Entered by the caller, who reads its strikes afterwards.
    tick
        Called by the waiting thread about 20 times a second: the place to paint.
    """
    raised: BaseException | None = None
    job = _Job(work)
    while not job.done.is_set():
        try:
            if stop.drops():
                job.drop()
            if raised is None:
                tick()
            job.done.wait(SLICE_SECONDS)
        except KeyboardInterrupt:  # from a handler that isn't ours to replace
            stop.strike()
        except BaseException as error:  # noqa: BLE001 — a SIGTERM's SystemExit, an alarm's TimeoutError
            raised = raised or error
            stop.strike()
    if raised is not None:
        raise raised
    return job.result()


async def run_here(work: Coroutine[Any, Any, T], stop: Stop, tick: Callable[[], None]) -> T | None:
    """The result of `await work` on the running loop; None where it was dropped.

    Cancelling it is Stop: the work ends first, in 5 s at most or at a second cancel, then CancelledError is
    raised.
    """
    return await _watched(work, stop, tick)


def run_in_notebook_loop(
    work: Callable[[], Coroutine[Any, Any, T]], stop: Stop, tick: Callable[[], None]
) -> T | None:
    """As `run_blocking`, on the running loop of a notebook: for clients and callables bound to it."""
    if not _in_a_loop():
        return asyncio.run(_watched(work(), stop, tick))
    loop = asyncio.get_running_loop()
    _nest(loop)
    return loop.run_until_complete(_watched(work(), stop, tick))


async def _watched(work: Coroutine[Any, Any, T], stop: Stop, tick: Callable[[], None]) -> T | None:
    task = asyncio.ensure_future(work)
    raised: BaseException | None = None
    while not task.done():
        try:
            if stop.drops():
                task.cancel()
            if raised is None:
                tick()
            await asyncio.wait({task}, timeout=SLICE_SECONDS)
        except GeneratorExit:  # the loop is gone, and with it all that could be waited for
            raise
        except BaseException as error:  # noqa: BLE001 — cancelled, or a signal handler's exception
            raised = raised or error
            stop.strike()
    if raised is None:
        return None if task.cancelled() else task.result()
    if not task.cancelled():
        task.exception()  # looked at, or asyncio complains that nobody did
    raise raised


def _nest(loop: asyncio.AbstractEventLoop) -> None:
    try:
        import nest_asyncio2 as nest
    except ImportError:
        if sys.version_info >= (3, 14):
            raise OptionsError(
                'loop="notebook" on Python 3.14 needs nest-asyncio2 (pip install nest-asyncio2): '
                "nest-asyncio 1.6.0 breaks the loop there."
            ) from None
        import nest_asyncio as nest
    try:
        nest.apply(loop)
    except ValueError as error:
        raise OptionsError(
            f'loop="notebook" can\'t nest in this loop ({error}); use the default, "own".'
        ) from None
