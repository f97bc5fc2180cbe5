"""Clicks are seen where messages arrive, and every message goes on; what a kernel lacks does no harm."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from pandas_llm.display import clicks

OURS, OTHER = "a" * 32, "b" * 32
CLICK = {"comm_id": OURS, "data": {"method": "custom", "content": {"event": "click"}}}


def frames(kind: str = "comm_msg", content: dict[str, Any] = CLICK) -> list[bytes]:
    """A message as a front end sends it."""
    session = Session(key=b"secret")
    return [b"address", *session.serialize(session.msg(kind, content))]


def test_a_click_is_read_without_its_signature_being_noted():
    message = frames()
    assert clicks.clicked_comm(message) == OURS
    assert clicks.clicked_comm([zmq.Frame(part) for part in message]) == OURS
    # The kernel reads the same message after us, and refuses one whose signature it has seen.
    session = Session(key=b"secret")
    _, parts = session.feed_identities(message)
    assert session.deserialize(parts)["content"] == CLICK


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("execute_request", {"code": "click"}),
        ("comm_close", CLICK),
        ("comm_msg", {"comm_id": OURS, "data": {"method": "update", "state": {"value": "click"}}}),
        ("comm_msg", {"comm_id": OURS, "data": {"content": None}}),
        ("comm_msg", {"comm_id": OURS}),
    ],
)
def test_nothing_else_is_a_click(kind, content):
    assert clicks.clicked_comm(frames(kind, content)) is None


class Thread7:
    """As much of an ipykernel 7 as is used: a stream whose callback a thread of its own calls."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.shell_stream = SimpleNamespace(on_recv=self._on_recv)
        self.shell_channel_thread = SimpleNamespace(io_loop=SimpleNamespace(add_callback=lambda call: call()))
        self._call: Any = self.shell_channel_thread_main

    async def shell_channel_thread_main(self, message: Any) -> None:
        self.handled.append(message)

    def _on_recv(self, call: Any, *, copy: bool) -> None:
        assert not copy
        self._call = call

    def receive(self, message: Any) -> None:
        asyncio.run(self._call(message))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the kernel that IPython names."""
    import IPython

    def runs(made: Any) -> Any:
        monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=made))
        return made

    return runs


def test_in_ipykernel_7_all_messages_go_on_and_the_thread_is_left_as_it_was(kernel):
    made, seen = kernel(Thread7()), []
    first = clicks.listen(OURS, lambda: seen.append("ours"), busy=True)
    second = clicks.listen(OTHER, lambda: seen.append("other"), busy=True)
    sent = [
        frames(),
        frames("execute_request", {}),
        [b"no message"],
        frames(content={**CLICK, "comm_id": OTHER}),
    ]
    for message in sent:
        made.receive(message)
    assert seen == ["ours", "other"]
    assert made.handled == sent
    first.close()
    made.receive(frames())
    made.receive(frames(content={**CLICK, "comm_id": OTHER}))
    assert seen == ["ours", "other", "other"]
    second.close()
    second.close()
    assert made._call == made.shell_channel_thread_main


def test_a_listener_that_raises_keeps_no_message_back(kernel):
    made = kernel(Thread7())
    listener = clicks.listen(OURS, lambda: 1 / 0, busy=True)
    made.receive(frames())
    assert len(made.handled) == 1
    listener.close()


def test_in_ipykernel_6_messages_are_handed_over_in_their_order(kernel):
    context = zmq.Context()
    ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    ours.bind("inproc://shell")
    theirs.connect("inproc://shell")
    handed, seen = [], []
    kernel(
        SimpleNamespace(
            shell_stream=SimpleNamespace(socket=ours),
            dispatch_shell="dispatch",
            schedule_dispatch=lambda how, message: handed.append((how, [bytes(part) for part in message])),
        )
    )
    listener = clicks.listen(OURS, lambda: seen.append(1), busy=True)
    sent = [frames("execute_request", {}), frames(), frames("is_complete_request", {}), [b"odd"]]
    for message in sent:
        theirs.send_multipart(message)
    listener.look()
    assert seen == [1]
    theirs.send_multipart(sent[0])
    other = threading.Thread(target=listener.look)  # sockets belong to the main thread
    other.start()
    other.join()
    assert handed == []
    listener.look()
    listener.close()
    assert handed == [("dispatch", message) for message in (*sent, sent[0])]
    listener.close()
    assert len(handed) == 5
    context.destroy(linger=0)


def test_in_ipykernel_6_a_cell_that_awaits_finds_the_click_in_the_queue(kernel):
    queue, seen = deque(), []
    kernel(SimpleNamespace(msg_queue=SimpleNamespace(_queue=queue), shell_stream=None))
    listener = clicks.listen(OURS, lambda: seen.append(1), busy=False)
    queue.append((3, "dispatch", (frames("execute_request", {}),)))
    queue.append((4, "dispatch", (frames(),)))
    queue.append((5, "advance", ()))
    for _ in range(3):
        listener.look()
    assert seen == [1]
    queue.append((6, "dispatch", (frames(),)))
    listener.look()
    assert seen == [1, 1]
    listener.close()
    assert len(queue) == 4


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize(
    "made",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(shell_channel_thread=object()),
        SimpleNamespace(shell_stream=SimpleNamespace(), msg_queue=object()),
    ],
)
def test_a_kernel_that_lacks_a_name_has_no_early_clicks(kernel, made, busy):
    kernel(made)
    assert clicks.listen(OURS, lambda: None, busy=busy) is None
    assert clicks._wanted == {}
