"""A fast server for benchmarks: a valid completion to every chat request, as quickly as Python can.

`python bench/server.py --latency 0.2 --port-file F [--rpm 600 --depth 1.0] [--answer label]`. Its content is
`{"label": <the first enum value in the body>}`, or "ok" where the body has no enum. `GET /__stats` counts.
It checks nothing: that is the business of `tests/fakes/openai_server.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import re
import socket
import time
from pathlib import Path

_ENUM = re.compile(rb'"enum"\s*:\s*\[\s*("(?:[^"\\]|\\.)*"|-?\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)


LEARNING_SECONDS = 10.0
"""Refusals after this long count as late: by then a client has had the time to learn the limit."""


class Limit:
    """A continuously refilled bucket of requests; it starts full. Without a rate it never says no."""

    def __init__(self, rpm: float | None, depth: float) -> None:
        self.rpm = rpm
        self.rate = (rpm or 0.0) / 60
        self.size = self.level = max(1.0, self.rate * depth)
        self.at = time.monotonic()

    def wait(self) -> float:
        """0.0 if the request is taken, else the seconds until one would be."""
        now = time.monotonic()
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level >= 1.0:
            self.level -= 1.0
            return 0.0
        return (1.0 - self.level) / self.rate

    def headers(self) -> bytes:
        """What OpenAI tells of the limit."""
        told = {"limit": f"{self.rpm:.0f}", "remaining": f"{int(self.level)}"}
        told["reset"] = f"{(self.size - self.level) / self.rate:.3f}s"
        return "".join(f"x-ratelimit-{name}-requests: {value}\r\n" for name, value in told.items()).encode()


class Answers:
    """What is replied to a body, and how often it was."""

    def __init__(
        self, latency: float, limit: Limit | None, fixed: str | None, *, headers: bool = True
    ) -> None:
        self.latency = latency
        self.limit = limit
        self.fixed = fixed
        self.headers = headers
        self.requests = self.refused = self.refused_late = 0
        self.started: float | None = None
        self.loop = asyncio.get_running_loop()
        self._made: dict[tuple[bytes | None, int], tuple[bytes, bytes]] = {}

    def reply(self, body: bytes) -> tuple[bytes, float]:
        """A whole response, and the seconds after which it is due."""
        self.requests += 1
        told = b""
        if self.limit is not None:
            wait = self.limit.wait()
            told = self.limit.headers() if self.headers else b""
            self.started = self.started or self.limit.at
            if wait:
                self.refused += 1
                self.refused_late += self.limit.at > self.started + LEARNING_SECONDS
                return _refusal(wait, told), 0.0
        # A text that speaks of "enum" has its quotes escaped in the body, so only a schema matches.
        found = None if self.fixed is not None else _ENUM.search(body)
        made = self._made.get(key := (found and found[1], len(body) // 4))
        if made is None:
            made = self._made[key] = _completion(*key, self.fixed)
        head, rest = made
        return b"%b%bx-request-id: req_%d\r\n\r\n%b" % (head, told, self.requests, rest), self.latency

    def stats(self) -> bytes:
        """The counts, as a response."""
        return _response(
            b"200 OK",
            b'{"requests": %d, "429": %d, "429_late": %d}' % (self.requests, self.refused, self.refused_late),
        )


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: requests of one connection are answered in their order."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._buffer = b""
        self._busy = False
        self._close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is whole; the rest waits for its end."""
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        while self._buffer:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._close = _CLOSE.search(head) is not None
            if self._answer(head, body):
                return

    def _answer(self, head: bytes, body: bytes) -> bool:
        """Reply; True where the reply is due later and what follows on this connection waits for it."""
        delay = 0.0
        if _CHUNKED.search(head):
            reply = _response(b"411 Length Required", b'{"error": {"message": "send a Content-Length"}}')
            self._close = True
        elif head.startswith(b"POST") and b"/chat/completions" in head[:120]:
            reply, delay = self._answers.reply(body)
        elif head.startswith(b"GET /__stats"):
            reply = self._answers.stats()
        else:
            reply = _response(b"404 Not Found", b'{"error": {"message": "Invalid URL", "code": null}}')
        if delay > 0:
            self._busy = True
            self._answers.loop.call_later(delay, self._due, reply)
            return True
        self._send(reply)
        return False

    def _due(self, reply: bytes) -> None:
        self._busy = False
        self._send(reply)
        self._next()

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)
            if self._close:
                self._transport.close()


def _completion(label: bytes | None, tokens: int, fixed: str | None) -> tuple[bytes, bytes]:
    """The head and the rest of a 200, between which headers may stand."""
    content = "ok" if label is None else f'{{"label":{label.decode()}}}'
    if fixed is not None:
        content = json.dumps({"label": fixed})
    said = -(-len(content.encode()) // 4)
    reply = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_793_000_000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": tokens, "completion_tokens": said, "total_tokens": tokens + said},
    }
    head, _, rest = _response(b"200 OK", json.dumps(reply).encode()).partition(b"\r\n\r\n")
    return head + b"\r\n", rest


def _refusal(wait: float, told: bytes) -> bytes:
    error = {"message": "Rate limit reached on requests.", "type": "requests", "param": None}
    body = json.dumps({"error": {**error, "code": "rate_limit_exceeded"}}).encode()
    told += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (math.ceil(wait), math.ceil(wait * 1000))
    return _response(b"429 Too Many Requests", body, told)


def _response(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (status, len(body))
    return head + headers + b"\r\n" + body


async def _serve(args: argparse.Namespace) -> None:
    limit = Limit(args.rpm, args.depth) if args.rpm else None
    answers = Answers(args.latency, limit, args.answer, headers=not args.no_headers)
    listener = socket.create_server(("127.0.0.1", args.port), backlog=4096)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers), sock=listener)
    if args.port_file:
        # Renamed into place: who waits for the file must never read half a number.
        unfinished = args.port_file.with_suffix(".part")
        unfinished.write_text(str(listener.getsockname()[1]))
        unfinished.rename(args.port_file)
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="where the port is written once it is open")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--rpm", type=float, help="requests a minute; none: no limit")
    parser.add_argument("--depth", type=float, default=1.0, help="seconds of its rate that the limit holds")
    parser.add_argument("--no-headers", action="store_true", help="tell of the limit by 429s alone")
    parser.add_argument("--answer", help="the label of every reply")
    gc.freeze()
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
