"""What goes wrong with batches on request: a request, a batch's course, what is told of it, a line."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fakes import faults
from fakes.answers import Answer, Json, labels_of
from fakes.faults import Fault, Match

Operation = Literal["upload", "files", "file", "delete", "content", "create", "list", "retrieve", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRequest:
    """A reply in place of the right one; `done`: what was asked for happens all the same."""

    operation: Operation
    fault: Fault
    done: bool = False
    match: str | None = None
    """Where the caller doesn't say which."""
    times: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a batch goes; decided when it is created."""

    errors: Sequence[Json] = ()
    """It fails in validation."""
    expires: float | None = None
    """It expires with this share of its rows answered, without the clock being moved."""
    stalls: bool = False
    """No row is ever answered."""
    finalizing: float = 0.0
    order: Literal["shuffled", "reversed", "given"] = "shuffled"
    completes_on_cancel: bool = False
    """It is complete when the cancelling arrives."""
    line: OnLine | None = None
    """What becomes of each of its lines."""
    times: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a batch object says in place of the truth."""

    tell: Callable[[Json], Json]
    retrieved: bool = False
    """Only where a batch is retrieved."""
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLine:
    """What a row's line becomes: (line, request body) -> the bytes in its place, with their line ends."""

    spoil: Callable[[Json, Json], bytes]
    file: Literal["output", "error"] = "output"
    counted: Literal["completed", "failed"] = "completed"
    billed: bool = False
    """False where the client can't have the answer: asked again, it is billed once."""
    last: bool = False
    """Only the line that ends the file."""
    times: int | None = 1


BatchFault = OnRequest | Course | Told | OnLine


def dumps(line: Json) -> bytes:
    """A line with its end; U+2028 and its like stay as they are."""
    return orjson.dumps(line) + b"\n"


def problem(code: str, message: str, line: int | None = None) -> Json:
    """An entry of `errors.data`."""
    return {"code": code, "line": line, "message": message, "param": None}


def over_limit(limit: int, model: str = "gpt-6-luna") -> Json:
    """The enqueued tokens are too many, in OpenAI's words."""
    message = f"Enqueued token limit reached for {model} in organization org-fake. Limit: {limit:,} enqueued"
    again = "tokens. Please try again once some in_progress batches have been completed."
    return problem("token_limit_exceeded", f"{message} {again}")


def over_limit_azure(limit: int, model: str = "gpt-6-luna") -> Json:
    """The same in Azure's words."""
    message = f"The number of enqueued tokens has surpassed the configured limit of {limit / 1000:g}K"
    return problem("token_limit_exceeded", f"{message} for the deployment '{model}'.")


def http_error(fault: Fault, file: Literal["output", "error"] = "error", **more: Any) -> OnLine:
    """The request got this HTTP error within the batch."""

    def spoil(line: Json, _body: Json) -> bytes:
        response = {
            **line["response"],
            "status_code": fault.status,
            "body": orjson.loads(fault.body or b"{}"),
        }
        return dumps({**line, "response": response})

    return OnLine(spoil=spoil, file=file, counted="failed", **more)


def _status_0(line: Json, _body: Json) -> bytes:
    return dumps({**line, "response": {"status_code": 0, "request_id": "", "body": {}}, "error": None})


def _error_in_200(line: Json, _body: Json) -> bytes:
    body = {"error": {"message": "Provider returned error", "type": "server_error", "code": "502"}}
    return dumps({**line, "response": {**line["response"], "status_code": 200, "body": body}})


def _twice(line: Json, body: Json) -> bytes:
    return dumps(line) + dumps(_with_content(line, lambda content: _other(content, body)))


def _separators(line: Json, _body: Json) -> bytes:
    reply = {**line["response"]["body"], "system_fingerprint": "fp\u2028\u2029\x85fake"}
    spoiled = {**line, "response": {**line["response"], "body": reply}}
    return dumps(
        _with_content(
            spoiled, lambda said: said if said.startswith(("{", "[")) else f"{said}\u2028\u2029\x85."
        )
    )


def _not_json(line: Json, _body: Json) -> bytes:
    return dumps(line)[:-40] + b"\n"


def _vllm(line: Json, _body: Json) -> bytes:
    error = {"object": "error", "message": "The prompt is too long.", "type": "BadRequestError", "code": 400}
    response = {"status_code": 400, "request_id": f"vllm-{line['id']}"}
    return dumps(
        {"id": f"vllm-{line['id']}", "custom_id": line["custom_id"], "response": response, "error": error}
    )


def _with_content(line: Json, change: Callable[[str], str]) -> Json:
    response = line["response"]
    reply = response["body"]
    if not reply.get("choices"):
        return line
    choice = reply["choices"][0]
    content = change(choice["message"]["content"] or "")
    changed = {**reply, "choices": [{**choice, "message": {**choice["message"], "content": content}}]}
    return {**line, "response": {**response, "body": changed}}


def _other(content: str, body: Json) -> str:
    """Another valid answer: another label where labels are asked for."""
    others = [label for label in labels_of(body) if f'"{label}"' not in content]
    alter = faults.outside(others[0]).alter if others else None
    return (alter(Answer(content=content), body).content if alter else None) or f"{content} indeed"


def _quiet(told: Json) -> Json:
    return told if told["status"] in ("completed", "failed", "expired", "cancelled") else {
        **told, "request_counts": {"total": told["request_counts"]["total"], "completed": 0, "failed": 0}
    }  # fmt: skip


def _none_failed(told: Json) -> Json:
    counts = told["request_counts"]
    all_done = {"total": counts["total"], "completed": counts["completed"] + counts["failed"], "failed": 0}
    return {**told, "request_counts": all_done}


_BAD_REQUEST = faults.error(400, "invalid_value", "Invalid value for this request.", param="messages")
_NO_FILE = faults.error(400, None, "Cannot find file, or organization org-fake does not have access to it.")
_DELETED = faults.error(404, None, "No such File object.", param="id")

NAMED: dict[str, BatchFault] = {
    # A request fails. `_exists`: what it asked for was done.
    "upload_500": OnRequest(operation="upload", fault=faults.INTERNAL),
    "upload_reset": OnRequest(operation="upload", fault=faults.RESET_AFTER),
    "upload_500_exists": OnRequest(operation="upload", fault=faults.INTERNAL, done=True),
    "upload_reset_exists": OnRequest(operation="upload", fault=faults.RESET_AFTER, done=True),
    "create_500": OnRequest(operation="create", fault=faults.INTERNAL),
    "create_500_exists": OnRequest(operation="create", fault=faults.INTERNAL, done=True),
    "create_reset": OnRequest(operation="create", fault=faults.RESET_AFTER),
    "create_reset_exists": OnRequest(operation="create", fault=faults.RESET_AFTER, done=True),
    "create_timeout": OnRequest(operation="create", fault=faults.hang()),
    "create_timeout_exists": OnRequest(operation="create", fault=faults.hang(), done=True),
    "create_429": OnRequest(operation="create", fault=faults.rate_limited("1")),
    "cannot_find_file": OnRequest(operation="create", fault=_NO_FILE, times=2),
    "retrieve_500": OnRequest(operation="retrieve", fault=faults.INTERNAL),
    "retrieve_reset": OnRequest(operation="retrieve", fault=faults.RESET_AFTER),
    "retrieve_timeout": OnRequest(operation="retrieve", fault=faults.hang()),
    "retrieve_404": OnRequest(operation="retrieve", fault=faults.error(404, None, "No batch found.")),
    "list_500": OnRequest(operation="list", fault=faults.INTERNAL),
    "cancel_500": OnRequest(operation="cancel", fault=faults.INTERNAL),
    "cancel_500_exists": OnRequest(operation="cancel", fault=faults.INTERNAL, done=True),
    "delete_500": OnRequest(operation="delete", fault=faults.INTERNAL),
    "content_502": OnRequest(operation="content", fault=faults.HTML_502),
    "content_cut": OnRequest(operation="content", fault=faults.TRUNCATED, done=True),
    "content_reset": OnRequest(operation="content", fault=faults.RESET_AFTER),
    "output_deleted": OnRequest(operation="content", fault=_DELETED, match="batch_output", times=None),
    # A batch goes another way.
    "token_limit": Course(errors=[over_limit(2_000_000)]),
    "token_limit_azure": Course(errors=[over_limit_azure(30_000)]),
    "rejected": Course(errors=[problem("invalid_json_line", "This line is not parseable as valid JSON.", 1)]),
    "rejected_whole": Course(errors=[problem("empty_file", "The input file could not be accessed.")]),
    "expired_half": Course(expires=0.5),
    "expired_none": Course(expires=0.0),
    "stall": Course(stalls=True),
    "long_finalizing": Course(finalizing=600.0),
    "cancel_race": Course(completes_on_cancel=True),
    "reversed": Course(order="reversed", times=None),
    "all_failed": Course(line=http_error(_BAD_REQUEST, times=None)),
    "all_missing": Course(line=OnLine(spoil=lambda _line, _body: b"")),
    "all_429": Course(line=http_error(faults.rate_limited(), times=None)),
    # A batch object says something else.
    "unknown_status": Told(tell=lambda told: {**told, "status": "paused"}, retrieved=True, times=2),
    "none_failed": Told(tell=_none_failed),
    "counts_frozen": Told(tell=_quiet),
    "no_counts": Told(tell=lambda told: {**told, "request_counts": None}),
    "metadata_dropped": Told(tell=lambda told: {**told, "metadata": None}),
    # A line is another one, or none.
    "missing": OnLine(spoil=lambda _line, _body: b""),
    "doubled": OnLine(spoil=_twice, billed=True),
    "status_0": OnLine(spoil=_status_0, file="error"),
    "error_in_200": OnLine(spoil=_error_in_200),
    "error_in_output": http_error(_BAD_REQUEST, "output"),
    "bad_request": http_error(_BAD_REQUEST),
    "rate_limited": http_error(faults.rate_limited()),
    "server_error": http_error(faults.INTERNAL),
    "truncated": OnLine(spoil=lambda line, _body: dumps(line)[:-40], last=True),
    "separators": OnLine(spoil=_separators, billed=True, times=None),
    "not_object": OnLine(spoil=lambda _line, _body: b'"ok"\n'),
    "not_json": OnLine(spoil=_not_json),
    "blank": OnLine(spoil=lambda line, _body: b"\n" + dumps(line)[:-1] + b"\r\n", billed=True),
    "vllm": OnLine(spoil=_vllm, counted="failed"),
}


class BatchFaults:
    """The batch faults that stand, in the order they were asked for."""

    def __init__(self) -> None:
        self._standing: list[list[Any]] = []  # [match, fault, times left or None]
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, fault: str | BatchFault, match: Match, times: int | None) -> None:
        """Of a line's fault, all that a given `match` means; else as often as the fault says."""
        if isinstance(fault, str):
            if fault not in NAMED:
                raise ValueError(f"There is no batch fault {fault!r}; there are {', '.join(NAMED)}.")
            fault = NAMED[fault]
        left = fault.times if times is None else times
        if times is None and match is not None and isinstance(fault, OnLine):
            left = None
        if match is None and isinstance(fault, OnRequest):
            match = fault.match
        with self._lock:
            self._standing.append([match, fault, left])

    def clear(self) -> None:
        with self._lock:
            self._standing.clear()
            self._asked.clear()

    def request(self, operation: str, name: str) -> OnRequest | None:
        """What hits a request."""
        return self._pick(operation, name, lambda f: isinstance(f, OnRequest) and f.operation == operation)

    def course(self, name: str) -> Course:
        """How a batch that is created goes."""
        return self._pick("course", name, lambda f: isinstance(f, Course)) or Course()

    def told(self, name: str, *, retrieved: bool) -> Told | None:
        """What is told of a batch."""
        return self._pick("told", name, lambda f: isinstance(f, Told) and (retrieved or not f.retrieved))

    def line(self, text: str, *, last: bool) -> OnLine | None:
        """What becomes of a row's line."""
        return self._pick("line", text, lambda f: isinstance(f, OnLine) and (last or not f.last))

    def _pick(self, kind: str, name: str, fits: Callable[[BatchFault], bool]) -> Any:
        if not self._standing:
            return None
        with self._lock:
            number, self._asked[kind] = self._asked[kind], self._asked[kind] + 1
            for entry in self._standing:
                if fits(entry[1]) and faults.matches(entry[0], number, name):
                    if entry[2] is not None:
                        entry[2] -= 1
                        if entry[2] <= 0:
                            self._standing.remove(entry)
                    return entry[1]
        return None
