"""A real HTTP server on loopback: answers as the OpenAI API does, checks what it is sent, bills each reply.

In a test::

    with FakeOpenAI(rpm=600) as server:
        server.fault("row 3", faults.REFUSAL)
        client = OpenAI(base_url=server.base_url, api_key="test")

As a process: `python tests/fakes/openai_server.py --port-file F --set latency=0.2`. `GET /__bill` gives the
bill, `POST /__set` changes settings: `{"rpm": 60, "fault": {"name": "REFUSAL", "match": "row", "times": 1}}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

if __package__ in (None, ""):  # run as a script, whose first path entry is this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import orjson
from aiohttp import web
from fakes import answers, contract, delivery, faults, replies
from fakes.answers import Answer, Json
from fakes.faults import Fault, Match
from fakes.ledger import Bill, Prices, Seen, Settings, Violation
from fakes.limits import Limits

__all__ = ["Answer", "Bill", "FakeOpenAI", "Fault", "Prices", "Seen", "Violation", "faults"]

_ROUTE = re.compile(
    r"(?:/v1|/openai/v1|/openai/deployments/(?P<deployment>[^/]+))/(?P<api>chat/completions|embeddings|models)"
)


class FakeOpenAI(Settings):
    """A server in a thread of its own, on a free port of 127.0.0.1; a context manager.

    Leaving it raises what went wrong inside the server, such as an exception of `answer`.
    """

    def __init__(self, port: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self._port = port
        self._faults = faults.Faults()
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._crashes: list[Exception] = []
        self._in_flight = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was seen and billed, the prompt cache and the limits' levels; faults stay."""
        self._requests: list[Seen] = []
        self._violations: list[Violation] = []
        self._statuses: Counter[int] = Counter()
        self._bill = Bill()
        self._arrived = 0
        self._max_in_flight = self._in_flight
        self._warm: set[tuple[str, ...]] = set()
        self._limits = Limits(self)

    @property
    def root(self) -> str:
        """The address without a path: Azure's `azure_endpoint`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"{self.root}/v1"

    @property
    def requests(self) -> list[Seen]:
        """Every request that was read, in the order of arrival, refused ones too."""
        return self._requests

    @property
    def violations(self) -> list[Violation]:
        """Requests that no OpenAI server would take; tests assert that there are none."""
        return self._violations

    @property
    def statuses(self) -> Counter[int]:
        """How many requests ended with each status; 0 is a connection that was dropped."""
        return self._statuses

    @property
    def seen_429(self) -> int:
        """How many 429 were sent."""
        return self._statuses[429]

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and aren't answered yet."""
        return self._in_flight

    @property
    def max_in_flight(self) -> int:
        """The most there have been at once."""
        return self._max_in_flight

    @property
    def bill(self) -> Bill:
        """What was produced so far: a snapshot."""
        with self._lock:
            return replace(self._bill, texts=self._bill.texts.copy())

    def fault(self, match: Match, fault: Fault, times: int | None = None) -> None:
        """Let `fault` hit the requests whose row text contains `match`, at most `times` times.

        `match` may be a function of (n, text), n from 0 in the order of arrival; None is any request. Of
        several that match, the one asked for first hits.
        """
        self._faults.add(match, fault, times)

    def storm(self, rate: float, seed: int = 0, kinds: Sequence[Fault] = faults.TRANSIENT) -> None:
        """Let this share of requests fail in one of these ways; a seed hits the same texts and tries."""
        self._faults.storm(rate, seed, kinds)

    def clear_faults(self) -> None:
        """Faults and storm are over."""
        self._faults.clear()

    def __enter__(self) -> Self:
        contract.warm_up()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-openai", daemon=True)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._crashes and kind is None:
            raise self._crashes[0]

    async def _start(self) -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        await web.SockSite(runner, listener, backlog=1024).start()
        self._port = listener.getsockname()[1]
        return runner

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._runner.cleanup()
        # Transports close in the next turn of the loop; without it their sockets are left to the collector.
        await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/__"):
            return await self._control(request)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        n, self._arrived = self._arrived, self._arrived + 1
        try:
            return await self._respond(request, n)
        except ConnectionError:  # the client has gone
            return web.Response()
        except Exception as crash:  # noqa: BLE001 - it would be lost in this thread; leaving the server raises it
            self._crashes.append(crash)
            return await self._say(request, faults.error(500, message=f"The fake crashed: {crash!r}"))
        finally:
            self._in_flight -= 1
            self._tasks.discard(task)

    async def _respond(self, request: web.BaseRequest, n: int) -> web.StreamResponse:
        unread = self._faults.unread()
        if unread is not None:
            return await self._say(request, unread)
        seen = await self._see(request)
        wrong = self._misrouted(request, seen) or self._invalid(request, seen)
        fault = (None if wrong else self._faults.pick(n, seen.text)) or Fault()
        if wrong is None and (fault.status // 100 == 2 or fault.billed):
            wrong = self._limits.refusal(seen.body) or self._unsupported(seen.body)
        elif wrong is None:
            wrong = fault
        if wrong is not None:
            return await self._say(request, wrong)
        if request.path.endswith("/embeddings"):
            return await self._embeddings(request, seen, fault)
        return await self._chat(request, seen, fault)

    async def _see(self, request: web.BaseRequest) -> Seen:
        raw = await request.content.read()
        try:
            body = orjson.loads(raw) if raw else {}
        except orjson.JSONDecodeError:
            body = None
        text = answers.row_text(body) if isinstance(body, dict) else ""
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(time.monotonic(), request.path, headers, body, text)
        self._requests.append(seen)
        return seen

    def _misrouted(self, request: web.BaseRequest, seen: Seen) -> Fault | None:
        """The reply to what never reaches a model: a wrong address or key, the list of models."""
        route = _ROUTE.fullmatch(request.path)
        if route is None or (route["deployment"] and "api-version" not in request.query):
            return faults.error(404, message=f"Invalid URL ({request.method} {request.path})")
        if request.method != ("GET" if route["api"] == "models" else "POST"):
            return faults.error(405, message=f"Not allowed to {request.method} on {request.path}.")
        key = seen.headers.get("api-key") or seen.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and key != self.api_key:
            masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) > 8 else "***"
            return faults.error(401, "invalid_api_key", f"Incorrect API key provided: {masked}.")
        return Fault(body=orjson.dumps(self._models())) if route["api"] == "models" else None

    def _invalid(self, request: web.BaseRequest, seen: Seen) -> Fault | None:
        """The refusal of what no server of this API would take, or of an unknown model."""
        body: Any = seen.body
        if "/deployments/" in request.path and isinstance(body, dict):
            body = {"model": request.path.split("/")[3], **body}
        problem = contract.problem_with("embeddings" if request.path.endswith("embeddings") else "chat", body)
        if problem is not None:
            self._violations.append(Violation(request.path, problem[0], seen.body))
            return faults.error(400, None, problem[0], param=problem[1])
        if self.models is not None and body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            return faults.error(404, "model_not_found", message)
        return None

    def _unsupported(self, body: Json) -> Fault | None:
        """The refusal of what this server was told not to know."""
        kind = (body.get("response_format") or {}).get("type")
        if kind in self.refuse_formats:
            message = f"Invalid parameter: 'response_format' of type '{kind}' is not supported."
            return faults.error(400, "unsupported_value", message, param="response_format")
        if self.refuse_logprobs and body.get("logprobs"):
            return faults.LOGPROBS_REFUSED
        if self.refuse_breakpoint and replies.has_breakpoint(body):
            return faults.BREAKPOINT_REFUSED
        return None

    async def _chat(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> web.StreamResponse:
        body, text = seen.body, seen.text
        prefix = replies.cache_prefix(body)
        entry = (body.get("model", ""), prefix or "", body.get("prompt_cache_key") or "")
        warm = entry in self._warm
        await self._take_time(text)
        answer = self._answered(text, body)
        if fault.alter is not None:
            answer = fault.alter(answer, body)
        await asyncio.sleep(answer.delay)
        usage: Json | None = replies.usage_of(
            body, answer.content or answer.refusal or "", warm=warm, reasoning=self.reasoning_tokens
        )
        if answer.usage is not None:
            usage = {**(usage or {}), **answer.usage} if answer.usage else None
        reply = replies.completion(body, answer, usage, len(self._requests))
        if answer.ordinary:
            contract.parse_once("ChatCompletion", reply)
        if prefix:
            self._warm.add(entry)
        sent = next(each for each in (fault.body, answer.raw, reply) if each is not None)
        delivered = fault.transport not in ("reset_before", "reset_after", "hang")
        if fault.billed or (fault.billed is None and delivered):
            self._charge(text, reply if fault.billed else sent)
        if body.get("stream") and sent is reply and delivered:
            include = bool((body.get("stream_options") or {}).get("include_usage"))
            chunks = list(replies.chunks(reply, include_usage=include))
            contract.parse_once("ChatCompletionChunk", *chunks)
            self._statuses[fault.status] += 1
            return await delivery.stream(request, chunks, fault, {**self._headers(), **answer.headers})
        return await self._say(request, replace(fault, body=_bytes(sent)), answer.headers)

    def _answered(self, text: str, body: Json) -> Answer:
        said = self.answer(text, body) if self.answer is not None else Answer()
        answer = Answer(content=said) if isinstance(said, str) else said
        likely = answer.label_probabilities or self.label_probabilities
        if answer.content is None and answer.refusal is None:
            answer = replace(answer, content=answers.default_content(text, body, likely))
        if body.get("logprobs") and answer.logprobs is None and answer.content:
            labels = answers.labels_of(body) or list(likely or ())
            answer = replace(answer, logprobs=answers.logprobs_of(answer.content, labels, likely))
        return answer

    async def _embeddings(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> web.StreamResponse:
        body = seen.body
        await self._take_time(seen.text)
        texts = list(map(str, replies.embedding_inputs(body)))
        size = body.get("dimensions") or (3072 if "3-large" in body["model"] else 1536)
        vectors = [(self.embed or replies.embedding_of)(text, size) for text in texts]
        tokens = sum(map(replies.count, texts))
        reply = replies.embeddings(body, vectors, tokens)
        if body.get("encoding_format") != "base64":  # which the SDK's type doesn't know, only its client
            contract.parse_once("CreateEmbeddingResponse", reply)
        if fault.billed or (fault.billed is None and fault.transport in ("whole", "slow", "truncated")):
            with self._lock:
                self._bill.add_embeddings(texts, tokens, self.prices)
        return await self._say(request, replace(fault, body=fault.body or _bytes(reply)))

    async def _take_time(self, text: str) -> None:
        seconds = self.latency(text) if callable(self.latency) else self.latency
        if seconds:
            await asyncio.sleep(seconds)

    def _charge(self, text: str, sent: bytes | Json) -> None:
        try:
            reply = orjson.loads(sent) if isinstance(sent, bytes) else sent
        except orjson.JSONDecodeError:
            return
        if isinstance(reply, dict) and isinstance(reply.get("usage"), dict):
            with self._lock:
                self._bill.add_completion(text, reply, self.prices)

    async def _say(
        self, request: web.BaseRequest, fault: Fault, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        dropped = fault.transport in ("reset_before", "reset_after", "hang")
        self._statuses[0 if dropped else fault.status] += 1
        return await delivery.deliver(
            request, fault, fault.body or b"", {**self._headers(), **(headers or {})}
        )

    def _headers(self) -> dict[str, str]:
        return {"x-request-id": f"req_{len(self._requests):08}", **self._limits.headers()}

    def _models(self) -> Json:
        ids = sorted(self.models or ("gpt-6-luna",))
        return {
            "object": "list",
            "data": [
                {"id": each, "object": "model", "created": 1_790_000_000, "owned_by": "fake"} for each in ids
            ],
        }

    async def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        """`/__bill` and `/__set`, for a server that runs as a process."""
        if request.path == "/__set":
            for name, value in orjson.loads(await request.content.read()).items():
                self._change(name, value)
        counts = {"requests": len(self._requests), "max_in_flight": self._max_in_flight}
        statuses = {str(status): number for status, number in self._statuses.items()}
        said = {**counts, "statuses": statuses, "violations": len(self._violations)}
        said |= {each.name: getattr(self.bill, each.name) for each in fields(Bill)}
        return web.Response(body=orjson.dumps(said), content_type="application/json")

    def _change(self, name: str, value: Any) -> None:
        match name:
            case "clear":
                self.clear()
                self.clear_faults()
            case "fault":
                self.fault(value.get("match"), getattr(faults, value["name"]), value.get("times"))
            case "storm":
                self.storm(**value)
            case _:
                setattr(self, name, Prices(**value) if name == "prices" else value)


def _bytes(sent: bytes | Json) -> bytes:
    return sent if isinstance(sent, bytes) else orjson.dumps(sent)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A server that answers as the OpenAI API does.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="where the port is written once it is open")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="a setting: latency=0.2"
    )
    args = parser.parse_args()
    settings = dict(each.split("=", 1) for each in args.set)
    with FakeOpenAI(args.port) as server:
        for name, value in settings.items():
            server._change(name, json.loads(value))
        if args.port_file:
            # Renamed into place: who waits for the file must never read half a number.
            unfinished = args.port_file.with_suffix(".part")
            unfinished.write_text(server.root.rpartition(":")[2])
            unfinished.rename(args.port_file)
        threading.Event().wait()


if __name__ == "__main__":
    main()
