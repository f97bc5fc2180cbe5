"""The rows of a batch, answered by the model of live requests: the lines of its output and error files."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Literal

import orjson
from fakes import answers, faults
from fakes.answers import Json
from fakes.batch_faults import BatchFaults, OnLine, dumps
from fakes.batches import Batch
from fakes.faults import Fault, Faults
from fakes.files import StoredFile
from fakes.model import Model

_EXPIRED = "This request could not be executed before the completion window expired."
_OK = Fault()


class Rows:
    """Answers rows, writes and bills them."""

    def __init__(self, model: Model, faults: Faults, batch_faults: BatchFaults) -> None:
        self._model = model
        self._faults = faults
        self._batch_faults = batch_faults
        self._numbers = itertools.count(1_000_000)  # apart from those of live replies

    def created(self) -> None:
        """A batch was created."""
        self._model.charge_batch()

    async def answer(self, batch: Batch, count: int) -> None:
        """Go on until so many of its rows are answered."""
        while batch.answered < count:
            place = batch.answered
            batch.answered += 1
            self._answer(batch, batch.order[place], last=batch.answered == len(batch.input))
            if batch.answered % 64 == 0:
                await asyncio.sleep(0)

    def expire(self, batch: Batch) -> None:
        """Say of each row that wasn't answered that it expired."""
        for index in batch.order[batch.answered :]:
            error = {"code": "batch_expired", "message": _EXPIRED}
            line = {"id": _id(batch, index), "custom_id": batch.custom_ids[index], "response": None}
            self._write(batch, "error", "failed", dumps({**line, "error": error}))

    def _answer(self, batch: Batch, index: int, *, last: bool) -> None:
        body = batch.input.line(index)["body"]
        text = answers.row_text(body)
        fault = self._refusal(batch, index) or self._faults.pick(next(self._model.arrivals), text) or _OK
        if fault.status // 100 == 2 or fault.billed:
            fault = self._model.unsupported(body) or fault
        spoiled = None
        if fault.status // 100 == 2 and not fault.dropped:
            spoiled = batch.course.line or self._batch_faults.line(text, last=last)
        row = batch.custom_ids[index] if spoiled is None or spoiled.billed else None
        reply = self._reply(batch, body, text, fault, row)
        response = {"status_code": fault.status, "request_id": f"req_{batch.id}_{index:06}", "body": reply}
        line = {"id": _id(batch, index), "custom_id": batch.custom_ids[index], "response": response}
        self._put(batch, {**line, "error": None}, fault, spoiled, body)

    def _put(self, batch: Batch, line: Json, fault: Fault, spoiled: OnLine | None, body: Json) -> None:
        if fault.dropped:  # what has no HTTP status at all
            lost = {"status_code": 0, "request_id": "", "body": {}}
            self._write(batch, "error", "completed", dumps({**line, "response": lost}))
        elif fault.status // 100 != 2:
            self._write(batch, "error", "failed", dumps(line))
        elif spoiled is not None:
            self._write(batch, spoiled.file, spoiled.counted, spoiled.spoil(line, body))
        else:
            self._write(batch, "output", "completed", dumps(line))

    def _refusal(self, batch: Batch, index: int) -> Fault | None:
        refused = batch.input.refused.get(index)
        return faults.error(400, None, refused[0], param=refused[1]) if refused else None

    def _reply(self, batch: Batch, body: Json, text: str, fault: Fault, row: str | None) -> Any:
        """The body of the response, billed; `row`: its custom_id, None where it isn't billed."""
        if fault.dropped or (fault.status // 100 != 2 and not fault.billed):
            return _json(fault.body or b"{}")
        billed = row is not None and fault.billed is not False
        if batch.input.kind == "embeddings":
            made, texts, tokens = self._model.embeddings(body)
            if billed:
                self._model.charge_embeddings(texts, tokens, row=row)
                batch.usage["input"] += tokens
            return made if fault.body is None else _json(fault.body)
        made = self._completion(body, text, fault)
        sent = made if fault.body is None else _json(fault.body)
        if billed:
            self._model.charge(text, made if fault.billed else sent, row=row)
            _add_usage(batch, made if fault.billed else sent)
        return sent

    def _completion(self, body: Json, text: str, fault: Fault) -> Any:
        answer = self._model.answer(text, body)
        if fault.alter is not None:
            answer = fault.alter(answer, body)
        warm = self._model.is_warm(body)
        made = self._model.completion(body, answer, next(self._numbers), warm=warm)
        made["service_tier"] = answer.service_tier or "default"
        if answer.raw is None:
            return made
        return answer.raw if isinstance(answer.raw, dict) else _json(answer.raw)

    def _write(self, batch: Batch, name: Literal["output", "error"], counted: str, line: bytes) -> None:
        batch.counts[counted] += 1
        if not line:
            return
        file: StoredFile | None = getattr(batch, name)
        if file is None:
            file = StoredFile("batch_output", f"{batch.id}_{name}.jsonl")
            setattr(batch, name, file)
        file.append(line)


def _id(batch: Batch, index: int) -> str:
    return f"batch_req_{batch.id[6:]}_{index:06}"


def _json(body: bytes) -> Any:
    """What a body holds; what isn't JSON travels as a string."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")


def _add_usage(batch: Batch, reply: Any) -> None:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if isinstance(usage, dict):
        batch.usage["input"] += usage.get("prompt_tokens") or 0
        batch.usage["output"] += usage.get("completion_tokens") or 0
        details = usage.get("prompt_tokens_details") or {}
        batch.usage["cached"] += details.get("cached_tokens") or 0
        details = usage.get("completion_tokens_details") or {}
        batch.usage["reasoning"] += details.get("reasoning_tokens") or 0
