"""The benchmarks' fast server, also for the packed requests to `/v1/responses` that openaivec sends."""

from __future__ import annotations

import json

import server


def packed(ids: list[int]) -> bytes:
    """A response whose text has one answer for each id."""
    text = json.dumps({"assistant_messages": [{"id": n, "body": "ok"} for n in ids]})
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "msg_bench", "role": "assistant", "status": "completed"}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    reply = {
        "id": "resp_bench",
        "object": "response",
        "created_at": 1_793_000_000,
        "status": "completed",
        "model": "bench",
        "output": [{**message, "content": [content]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, **details},
    }
    return json.dumps(reply).encode()


class Answers(server.Answers):
    """Limits, latency and counts are the same on both paths."""

    def reply(self, body: bytes) -> tuple[bytes, float]:
        """A whole response, and the seconds after which it is due."""
        reply, delay = super().reply(body)
        if b"user_messages" in body and reply.startswith(b"HTTP/1.1 200"):
            messages = json.loads(json.loads(body)["input"])["user_messages"]
            reply = server._response(b"200 OK", packed([message["id"] for message in messages]))
        return reply, delay


class Connection(server.Connection):
    """The second path goes the way of the first."""

    def _answer(self, head: bytes, body: bytes) -> bool:
        return super()._answer(head.replace(b"/v1/responses ", b"/v1/chat/completions ", 1), body)


if __name__ == "__main__":
    # Its loop makes whatever stands under these names.
    server.Answers, server.Connection = Answers, Connection
    server.main()
