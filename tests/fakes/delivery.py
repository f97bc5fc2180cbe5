"""How a reply travels: whole, slowly, cut short, as a stream, or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web
from fakes.faults import Fault

_PIECES = 8


async def deliver(
    request: web.BaseRequest, fault: Fault, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send a reply in the way of the fault."""
    headers = {"content-type": "application/json", **headers, **fault.headers}
    match fault.transport:
        case "reset_before" | "reset_after":
            return reset(request)
        case "hang":
            await _hang(request, fault.seconds)
            return reset(request)
        case "slow" | "truncated":
            return await _in_pieces(request, fault, body, headers)
        case _:
            return web.Response(status=fault.status, body=body, headers=headers)


async def stream(
    request: web.BaseRequest, chunks: Iterable[Mapping[str, Any]], fault: Fault, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Send chunks as server-sent events; cut after the third, or end them with `[DONE]`."""
    response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
    await response.prepare(request)
    for number, chunk in enumerate(chunks):
        if number == 3 and fault.transport in ("cut", "truncated") and request.transport is not None:
            # Not by a reset, which would take back what the client hasn't read yet.
            request.transport.close()
            return response
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await asyncio.sleep(fault.seconds / _PIECES)
    await response.write(b"data: [DONE]\n\n")
    return response


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Drop the connection with a TCP reset: closing it politely would look like a short reply."""
    transport = request.transport
    if transport is not None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _hang(request: web.BaseRequest, seconds: float) -> None:
    # Until the client gives up: it would count as in flight for ever.
    end = time.monotonic() + seconds
    while request.transport is not None and time.monotonic() < end:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def _in_pieces(
    request: web.BaseRequest, fault: Fault, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=fault.status, headers=headers)
    response.content_length = len(body)
    await response.prepare(request)
    step = -(-len(body) // _PIECES)
    for start in range(0, len(body) if fault.transport == "slow" else len(body) // 2, step):
        await response.write(body[start : start + step])
        await asyncio.sleep(fault.seconds / _PIECES)
    if fault.transport == "truncated" and request.transport is not None:
        request.transport.close()
    return response
