"""The Files and the Batch API over HTTP: what is asked of them, and what they reply."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from fakes import contract, faults
from fakes.answers import Json
from fakes.batch_faults import BatchFaults, over_limit, over_limit_azure
from fakes.batch_input import Input
from fakes.batch_rows import Rows
from fakes.batches import UNFINISHED, Batch, Clock
from fakes.faults import Fault
from fakes.files import Files, StoredFile
from fakes.ledger import Violation

if TYPE_CHECKING:
    from fakes.openai_server import FakeOpenAI

ROUTE = re.compile(
    r"(?:/v1|/openai/v1|/openai)/(?P<api>files|batches)(?:/(?P<id>[^/]+))?(?:/(?P<part>content|cancel))?"
)
_OPERATIONS = {
    ("POST", "files", False, None): "upload",
    ("GET", "files", False, None): "files",
    ("GET", "files", True, None): "file",
    ("DELETE", "files", True, None): "delete",
    ("GET", "files", True, "content"): "content",
    ("POST", "batches", False, None): "create",
    ("GET", "batches", False, None): "list",
    ("GET", "batches", True, None): "retrieve",
    ("POST", "batches", True, "cancel"): "cancel",
}
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_FORM = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}


def operation_of(request: web.BaseRequest) -> str | None:
    """Which operation it asks for, None where there is none of this method and address."""
    route = ROUTE.fullmatch(request.path)
    if route is None or (request.path.startswith("/openai/") and "/v1/" not in request.path
                         and "api-version" not in request.query):  # fmt: skip
        return None
    return _OPERATIONS.get((request.method, route["api"], route["id"] is not None, route["part"]))


class BatchApi:
    """All files and batches of a server; `respond` is a request to them."""

    def __init__(self, server: FakeOpenAI, batch_faults: BatchFaults) -> None:
        self._server = server
        self._faults = batch_faults
        self.clock = Clock()
        self.files = Files()
        self.batches: list[Batch] = []

    def clear(self, rows: Rows) -> None:
        """Start anew; `rows` answers from now on."""
        self.close()
        self.batches = []
        self.clock = Clock()
        self._rows = rows

    def close(self) -> None:
        """Let go of the temporary files."""
        self.files.close()
        for batch in self.batches:
            for file in (batch.output, batch.error):
                if file is not None:
                    file.close()

    async def respond(
        self, request: web.BaseRequest, operation: str, body: Json | None, upload: StoredFile | None
    ) -> Fault | StoredFile:
        """The reply: an error or a JSON body as a fault, or a file to be sent."""
        route = ROUTE.fullmatch(request.path)
        assert route is not None
        number = route["id"] or ""
        hit = self._faults.request(operation, self._name(operation, number, body, upload))
        if hit is not None and not hit.done:
            return hit.fault
        match operation:
            case "upload":
                reply = self._upload(body or {}, upload)
            case "create":
                reply = await self._create(body)
            case "list" | "files":
                reply = await self._list(request.query, operation)
            case "retrieve" | "cancel":
                reply = await self._of_batch(operation, number)
            case _:
                reply = self._of_file(operation, number)
        if hit is None:
            return reply
        if isinstance(reply, StoredFile):  # a fault in its delivery
            return replace(hit.fault, body=hit.fault.body or reply.content)
        return hit.fault

    def _name(self, operation: str, number: str, body: Json | None, upload: StoredFile | None) -> str:
        """What a fault's `match` is looked for in."""
        if upload is not None:
            return upload.filename
        if operation == "create":
            file = self.files.get(str((body or {}).get("input_file_id")))
            about = [*((body or {}).get("metadata") or {}).values(), file.filename if file else ""]
            return " ".join(map(str, about))
        if number in self.files:
            return f"{number} {self.files[number].purpose} {self.files[number].filename}"
        return next((self._about(batch) for batch in self.batches if batch.id == number), number)

    def _about(self, batch: Batch) -> str:
        return " ".join([batch.id, batch.input.file.filename, *map(str, (batch.metadata or {}).values())])

    def _violation(self, path: str, message: str, body: Any, param: str | None = None) -> Fault:
        self._server.violations.append(Violation(path, message, body))
        return faults.error(400, None, message, param=param)

    def _upload(self, fields: Mapping[str, Any], file: StoredFile | None) -> Fault:
        if file is None or fields.get("purpose") not in _PURPOSES or set(fields) - _FORM:
            return self._violation(
                "/v1/files", "The form needs 'purpose' and 'file', and no more.", dict(fields)
            )
        if fields["purpose"] == "batch" and not file.filename.endswith(".jsonl"):
            message = "Invalid file format for Batch API. Must be .jsonl"
            return self._violation("/v1/files", message, file.filename)
        file.purpose = fields["purpose"]
        seconds = fields.get("expires_after[seconds]")
        if seconds is not None and not 3600 <= int(seconds) <= 2_592_000:
            return self._violation("/v1/files", "Invalid 'expires_after.seconds'.", dict(fields))
        self.files.keep(file, self.clock.now(), None if seconds is None else float(seconds))
        return _ok("FileObject", file.json())

    def _of_file(self, operation: str, number: str) -> Fault | StoredFile:
        file = self.files.found(number, self.clock.now())
        if file is None:
            return faults.error(404, None, f"No such File object: {number}", param="id")
        if operation == "content":
            return file
        if operation == "delete":
            file.deleted = True
            return _ok("FileDeleted", {"id": number, "object": "file", "deleted": True})
        return _ok("FileObject", file.json())

    async def _create(self, body: Any) -> Fault:
        refusal = contract.problem_with("batches", body)
        if refusal is not None:
            return self._violation("/v1/batches", refusal[0], body, refusal[1])
        too_many = self._too_many_created()
        if too_many is not None:
            return too_many
        file = self.files.found(body["input_file_id"], self.clock.now())
        if file is None or file.purpose != "batch":
            wrong = "Cannot find file" if file is None else "The purpose isn't 'batch' of file"
            message = f"{wrong} {body['input_file_id']}, or organization org-fake does not have access to it."
            return self._violation("/v1/batches", message, body, "input_file_id")
        given = Input(file, body["endpoint"])
        await given.examine(self._server)
        self._server.violations.extend(given.violations)
        metadata = (body.get("metadata") or {}).values()
        course = self._faults.course(" ".join([file.filename, *metadata]))
        batch = Batch(body, given, course, self.clock.now())
        self.batches.append(batch)
        self._rows.created()
        return self._told(batch)

    def _too_many_created(self) -> Fault | None:
        limit, now = self._server.batches_per_hour, self.clock.now()
        created = [each.at["created"] for each in self.batches if each.at["created"] > now - 3600]
        if limit is None or len(created) < limit:
            return None
        wait = created[-limit] + 3600 - now
        message = f"Rate limit reached on batches per hour. Limit: {limit}."
        headers = {"retry-after": str(max(1, int(wait)))}
        return faults.error(429, "rate_limit_exceeded", message, type="requests", headers=headers)

    async def _list(self, query: Mapping[str, str], operation: str) -> Fault:
        every: list[Any] = list(self.batches)
        default, most = 20, 100
        if operation == "files":
            now, default, most = self.clock.now(), 10_000, 10_000
            every = [file for file in self.files.values() if self.files.found(file.id, now)]
            every = [file for file in every if query.get("purpose", file.purpose) == file.purpose]
        else:
            await self._settle(every)
        limit = query.get("limit", str(default))
        if not limit.isdecimal() or not 1 <= int(limit) <= most:
            return self._violation("/v1/batches", f"Invalid 'limit': expected 1 to {most}.", limit, "limit")
        every.reverse()
        ids = [each.id for each in every]
        after = query.get("after")
        if after is not None and after not in ids:
            return faults.error(400, None, f"No such object to list after: {after}", param="after")
        start = ids.index(after) + 1 if after is not None else 0
        page = every[start : start + int(limit)]
        data = [each.json() if isinstance(each, StoredFile) else self._json(each) for each in page]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        more = start + len(page) < len(every)
        said = {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}
        return Fault(body=orjson.dumps(said))

    async def _of_batch(self, operation: str, number: str) -> Fault:
        batch = next((each for each in self.batches if each.id == number), None)
        if batch is None:
            return faults.error(404, None, f"No batch found with id '{number}'.", param="batch_id")
        if operation == "retrieve":
            await self._go_on(batch)
            return self._told(batch, retrieved=True)
        while batch.course.completes_on_cancel and not batch.ended:
            await self._go_on(batch, complete=True)
        async with batch.busy:
            if batch.ended:
                message = f"Cannot cancel a batch with status '{batch.status}'."
                return faults.error(409, None, message)
            if batch.status != "cancelling":
                if batch.status == "in_progress":
                    await self._rows.answer(batch, batch.due(self._server, self.clock.now()))
                self._enter(batch, "cancelling")
        return self._told(batch)

    async def _settle(self, batches: Iterable[Batch]) -> None:
        """By the clock a batch goes on though nobody asks after it."""
        for batch in batches if self._server.batch_seconds > 0 else ():
            while await self._go_on(batch):
                pass

    async def _go_on(self, batch: Batch, *, complete: bool = False) -> bool:
        """Let it go on by one status if its time has come; whether it did."""
        async with batch.busy:
            now = self.clock.now()
            if batch.status == "in_progress":
                await self._rows.answer(batch, batch.due(self._server, now))
            status = batch.following(self._server, now) if not complete else _NEXT.get(batch.status)
            if status == "in_progress":
                beyond = await self._beyond_limit(batch)
                batch.errors = [] if beyond is None else [beyond]
                status = "in_progress" if beyond is None else "failed"
            elif status == "failed":
                batch.errors = list(batch.course.errors) or batch.input.problems
            elif status == "finalizing":
                await self._rows.answer(batch, len(batch.input))
            elif status == "expired":
                self._rows.expire(batch)
            if status is not None:
                self._enter(batch, status)
            return status is not None

    def _enter(self, batch: Batch, status: str) -> None:
        batch.status = status
        batch.at[status] = now = self.clock.now()
        for file in (batch.output, batch.error) if batch.ended else ():
            if file is not None:
                self.files.keep(file, now, batch.keeps_output)

    async def _beyond_limit(self, batch: Batch) -> Json | None:
        """The entry of `errors.data` where the model's enqueued tokens would be too many."""
        limit, model = self._server.enqueued_limit, batch.model
        await self._settle(each for each in self.batches if each.status in UNFINISHED)
        waiting = (each for each in self.batches if each.model == model and each.status in UNFINISHED)
        if limit is None or batch.input.tokens + sum(each.input.tokens for each in waiting) <= limit:
            return None
        if self._server.enqueued_words == "azure":
            return over_limit_azure(limit, model or "")
        return over_limit(limit, model or "")

    def _json(self, batch: Batch, *, retrieved: bool = False) -> Json:
        told = batch.json()
        contract.parse_once("Batch", told)
        fault = self._faults.told(self._about(batch), retrieved=retrieved)
        return told if fault is None else fault.tell(told)

    def _told(self, batch: Batch, *, retrieved: bool = False) -> Fault:
        return Fault(body=orjson.dumps(self._json(batch, retrieved=retrieved)))


_NEXT = {"validating": "in_progress", "in_progress": "finalizing", "finalizing": "completed"}


def _ok(model: str, reply: Json) -> Fault:
    contract.parse_once(model, reply)
    return Fault(body=orjson.dumps(reply))
