"""Clicks on a button while the cell that waits for them still runs.

The kernel answers a front end's messages between cells. A click on Cancel is seen earlier, where messages
arrive: in ipykernel 7 that is a thread of its own; in ipykernel 6 the waiting thread looks into the socket,
or into the queue where a cell awaits and the kernel reads the socket itself. Messages are only looked at: all
of them, the click too, go on to the kernel, in their order.

All ways use names that ipykernel doesn't promise. Where one is missing there is no early click, and the
kernel's Stop is left.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_DELIMITER = b"<IDS|MSG>"
"""Between the addresses of a message and its frames: signature, header, parent, metadata, content."""


class Listener(Protocol):
    """Somebody who notices clicks early."""

    def look(self) -> None:
        """Called by the waiting thread, about 20 times a second."""
        ...

    def close(self) -> None:
        """Nobody wants to know any more."""
        ...


def listen(comm_id: str, clicked: Callable[[], None], *, busy: bool) -> Listener | None:
    """Have `clicked` called at each click on a button, from whatever thread sees it; None where none can.

    Parameters
    ----------
    comm_id
        The button's, `button.comm.comm_id`.
    clicked
        May only set a flag: in ipykernel 7 it runs in the thread that all messages come through.
    busy
        Whether the waiting thread keeps the kernel's loop from running. The socket may be read only then:
        beside the loop that would change the messages' order.
    """
    kernel = _kernel()
    with contextlib.suppress(Exception):
        if getattr(kernel, "shell_channel_thread", None) is not None:
            return _InItsThread(kernel, comm_id, clicked)
        if kernel is not None and not busy:
            return _InTheQueue(kernel, comm_id, clicked)
        # Sockets belong to their thread: a call in another one doesn't keep the kernel from reading.
        if kernel is not None and threading.current_thread() is threading.main_thread():
            return _InTheSocket(kernel, comm_id, clicked)
    return None


def clicked_comm(frames: Sequence[Any]) -> str | None:
    """The comm of the button that a raw message says was clicked, None where it says something else.

    `Session.deserialize` would note its signature, and the kernel then refuse it as one it has seen.
    """
    parts = [bytes(getattr(frame, "bytes", frame)) for frame in frames]
    begin = parts.index(_DELIMITER)
    if json.loads(parts[begin + 2]).get("msg_type") != "comm_msg":
        return None
    content = json.loads(parts[begin + 5])
    sent = content.get("data", {}).get("content") or {}
    return content.get("comm_id") if sent.get("event") == "click" else None


def _kernel() -> Any:
    with contextlib.suppress(Exception):
        from IPython import get_ipython

        return get_ipython().kernel
    return None


_wanted: dict[str, Callable[[], None]] = {}
"""Who is to be told, by comm: all panels of a process share one ear."""
_lock = threading.Lock()


class _InItsThread:
    """ipykernel 7: the thread that reads the shell socket tells us first, then goes on as it would."""

    def __init__(self, kernel: Any, comm_id: str, clicked: Callable[[], None]) -> None:
        stream, loop = kernel.shell_stream, kernel.shell_channel_thread.io_loop
        self._pass_on = kernel.shell_channel_thread_main
        self._have_called: Callable[[Any], None] = lambda what: loop.add_callback(
            lambda: stream.on_recv(what, copy=False)
        )
        self._comm_id = comm_id
        with _lock:
            _wanted[comm_id] = clicked
            if len(_wanted) == 1:
                self._have_called(self._hear)

    async def _hear(self, message: Any) -> None:
        with contextlib.suppress(Exception):
            if told := _wanted.get(clicked_comm(message) or ""):
                told()
        await self._pass_on(message)

    def look(self) -> None:
        """Nothing: the other thread looks."""

    def close(self) -> None:
        """The last one who listened leaves the thread as it was."""
        with _lock:
            if _wanted.pop(self._comm_id, None) is not None and not _wanted:
                self._have_called(self._pass_on)


class _InTheSocket:
    """ipykernel 6: the main thread owns the socket and is ours; what it reads is handed over at the end."""

    def __init__(self, kernel: Any, comm_id: str, clicked: Callable[[], None]) -> None:
        self._socket = kernel.shell_stream.socket
        self._schedule, self._dispatch = kernel.schedule_dispatch, kernel.dispatch_shell
        self._comm_id = comm_id
        self._clicked = clicked
        self._messages: list[Any] = []

    def look(self) -> None:
        """Read what has come."""
        while self._socket.poll(0):
            message = self._socket.recv_multipart(copy=False)
            self._messages.append(message)
            with contextlib.suppress(Exception):
                if clicked_comm(message) == self._comm_id:
                    self._clicked()

    def close(self) -> None:
        """Let the kernel have the messages, behind those it has read itself."""
        messages, self._messages = self._messages, []
        for message in messages:
            self._schedule(self._dispatch, message)


class _InTheQueue:
    """ipykernel 6 while a cell awaits: the kernel reads the socket, and queues it behind the cell."""

    def __init__(self, kernel: Any, comm_id: str, clicked: Callable[[], None]) -> None:
        self._queued = kernel.msg_queue._queue
        self._comm_id = comm_id
        self._clicked = clicked
        self._newest = -1

    def look(self) -> None:
        """Look at what has come."""
        for number, _, arguments in list(self._queued):
            if number <= self._newest:
                continue
            self._newest = number
            with contextlib.suppress(Exception):
                if clicked_comm(arguments[0]) == self._comm_id:
                    self._clicked()

    def close(self) -> None:
        """Nothing was taken."""
