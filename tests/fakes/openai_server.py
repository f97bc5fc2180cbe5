"""A real HTTP server on loopback: answers as the OpenAI API does, checks what it is sent, bills each reply.

In a test::

    with FakeOpenAI(rpm=600) as server:
        server.fault("row 3", faults.REFUSAL)
        client = OpenAI(base_url=server.base_url, api_key="test")

As a process: `python tests/fakes/openai_server.py --port-file F --set latency=0.2`. `GET /__bill` gives the
bill, `POST /__set` changes settings: `{"rpm": 60, "fault": {"name": "REFUSAL", "match": "row", "times": 1}}`.
`/__batches` and `/__files` give what the Batch API holds; `/__set` also does `batch_fault`, `storm`, `clear`,
`release_batches`, and `advance`, which moves the clock of files and batches by seconds.
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
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

if __package__ in (None, ""):  # run as a script, whose first path entry is this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import orjson
from aiohttp import web
from fakes import answers, batch_api, contract, control, delivery, faults, files, replies
from fakes.answers import Answer, Json
from fakes.batch_api import BatchApi
from fakes.batch_faults import BatchFault, BatchFaults
from fakes.batch_rows import Rows
from fakes.batches import Batch, Clock
from fakes.faults import Fault, Match
from fakes.files import Files, StoredFile
from fakes.ledger import Bill, Prices, Seen, Settings, Violation
from fakes.limits import Limits
from fakes.model import Model

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
        self._batch_faults = BatchFaults()
        self._batches = BatchApi(self, self._batch_faults)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._crashes: list[Exception] = []
        self._in_flight = 0
        self.clear()

    def clear(self) -> None:
        """Forget what was seen and billed, the prompt cache and the limits' levels; faults stay."""
        self._requests: list[Seen] = []
        self._violations: list[Violation] = []
        self._statuses: Counter[int] = Counter()
        self._max_in_flight = self._in_flight
        self._model = Model(self)
        self._limits = Limits(self)
        self._batches.clear(Rows(self._model, self._faults, self._batch_faults))

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
        return self._model.bill

    def fault(self, match: Match, fault: Fault, times: int | None = None) -> None:
        """Let `fault` hit the requests whose row text contains `match`, at most `times` times.

        `match` may be a function of (n, text), n from 0 in the order of arrival; None is any request. Of
        several that match, the one asked for first hits.
        """
        self._faults.add(match, fault, times)

    @property
    def clock(self) -> Clock:
        """The time of its files and batches; `clock.advance(seconds)` moves it on."""
        return self._batches.clock

    @property
    def batches(self) -> list[Batch]:
        """Every batch that was created, in order."""
        return self._batches.batches

    @property
    def files(self) -> Files:
        """Every file by id, uploaded or made, deleted ones too."""
        return self._batches.files

    def release_batches(self) -> None:
        """Batches go on from where `hold_batches` held them."""
        self.hold_batches = False

    def batch_fault(self, fault: str | BatchFault, match: Match = None, times: int | None = None) -> None:
        """Let a fault of `batch_faults.NAMED`, or one of that kind, hit; `times` None: as often as it says.

        `match` as in `fault`: a line's fault looks at the row's text, others at the file's name, the batch's
        id and its metadata.
        """
        self._batch_faults.add(fault, match, times)

    def storm(self, rate: float, seed: int = 0, kinds: Sequence[Fault] = faults.TRANSIENT) -> None:
        """Let this share of requests fail in one of these ways; a seed hits the same texts and tries."""
        self._faults.storm(rate, seed, kinds)

    def clear_faults(self) -> None:
        """Faults and storm are over."""
        self._faults.clear()
        self._batch_faults.clear()

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
        self._batches.close()
        # Transports close in the next turn of the loop; without it their sockets are left to the collector.
        await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/__"):
            return await control.respond(self, request)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        try:
            return await self._respond(request)
        except ConnectionError:  # the client has gone
            return web.Response()
        except Exception as crash:  # noqa: BLE001 - it would be lost in this thread; leaving the server raises it
            self._crashes.append(crash)
            return await self._say(request, faults.error(500, message=f"The fake crashed: {crash!r}"))
        finally:
            self._in_flight -= 1
            self._tasks.discard(task)

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if batch_api.ROUTE.fullmatch(request.path):
            return await self._batch_request(request)
        n = next(self._model.arrivals)
        unread = self._faults.unread()
        if unread is not None:
            return await self._say(request, unread)
        seen = await self._see(request)
        wrong = self._misrouted(request, seen) or self._invalid(request, seen)
        fault = (None if wrong else self._faults.pick(n, seen.text)) or Fault()
        if wrong is None and (fault.status // 100 == 2 or fault.billed):
            wrong = self._limits.refusal(seen.body) or self._model.unsupported(seen.body)
        elif wrong is None:
            wrong = fault
        if wrong is not None:
            return await self._say(request, wrong)
        if request.path.endswith("/embeddings"):
            return await self._embeddings(request, seen, fault)
        return await self._chat(request, seen, fault)

    async def _batch_request(self, request: web.BaseRequest) -> web.StreamResponse:
        """A request to the Files or the Batch API, which has no row's text and knows other faults."""
        operation = batch_api.operation_of(request)
        upload, body = await files.receive(request) if operation == "upload" else (None, await _json(request))
        seen = self._note(request, {**body, "filename": upload.filename} if upload else body)
        reply: Fault | StoredFile | None = self._unauthorized(seen)
        try:
            if operation is None:
                reply = faults.error(404, message=f"Invalid URL ({request.method} {request.path})")
            elif reply is None:
                reply = await self._batches.respond(request, operation, body, upload)
        finally:
            if upload is not None and not upload.id:  # it wasn't kept
                upload.close()
        if isinstance(reply, StoredFile):
            self._statuses[200] += 1
            return await files.send(request, reply, {"x-request-id": f"req_{len(self._requests):08}"})
        return await self._say(request, reply)

    async def _see(self, request: web.BaseRequest) -> Seen:
        body = await _json(request)
        return self._note(request, body, answers.row_text(body) if isinstance(body, dict) else "")

    def _note(self, request: web.BaseRequest, body: Any, text: str = "") -> Seen:
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
        models = Fault(body=orjson.dumps(self._models())) if route["api"] == "models" else None
        return self._unauthorized(seen) or models

    def _unauthorized(self, seen: Seen) -> Fault | None:
        key = seen.headers.get("api-key") or seen.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is None or key == self.api_key:
            return None
        masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) > 8 else "***"
        return faults.error(401, "invalid_api_key", f"Incorrect API key provided: {masked}.")

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

    async def _chat(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> web.StreamResponse:
        body, text = seen.body, seen.text
        warm = self._model.is_warm(body)
        await self._take_time(text)
        answer = self._model.answer(text, body)
        if fault.alter is not None:
            answer = fault.alter(answer, body)
        await asyncio.sleep(answer.delay)
        reply = self._model.completion(body, answer, len(self._requests), warm=warm)
        sent = next(each for each in (fault.body, answer.raw, reply) if each is not None)
        if fault.billed or (fault.billed is None and not fault.dropped):
            self._model.charge(text, reply if fault.billed else sent)
        if body.get("stream") and sent is reply and not fault.dropped:
            include = bool((body.get("stream_options") or {}).get("include_usage"))
            chunks = list(replies.chunks(reply, include_usage=include))
            contract.parse_once("ChatCompletionChunk", *chunks)
            self._statuses[fault.status] += 1
            return await delivery.stream(request, chunks, fault, {**self._headers(), **answer.headers})
        return await self._say(request, replace(fault, body=_bytes(sent)), answer.headers)

    async def _embeddings(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> web.StreamResponse:
        await self._take_time(seen.text)
        reply, texts, tokens = self._model.embeddings(seen.body)
        if fault.billed or (fault.billed is None and not fault.dropped):
            self._model.charge_embeddings(texts, tokens)
        return await self._say(request, replace(fault, body=fault.body or _bytes(reply)))

    async def _take_time(self, text: str) -> None:
        seconds = self.latency(text) if callable(self.latency) else self.latency
        if seconds:
            await asyncio.sleep(seconds)

    async def _say(
        self, request: web.BaseRequest, fault: Fault, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        self._statuses[0 if fault.dropped else fault.status] += 1
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


async def _json(request: web.BaseRequest) -> Any:
    """The body, {} where there is none, None where it isn't JSON."""
    raw = await request.content.read()
    try:
        return orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        return None


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
            control.change(server, name, json.loads(value))
        if args.port_file:
            # Renamed into place: who waits for the file must never read half a number.
            unfinished = args.port_file.with_suffix(".part")
            unfinished.write_text(server.root.rpartition(":")[2])
            unfinished.rename(args.port_file)
        threading.Event().wait()


if __name__ == "__main__":
    main()
