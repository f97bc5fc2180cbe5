"""The input file of a batch: where its lines lie, and what a validation of the whole file finds wrong."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import orjson
from fakes import contract, replies
from fakes.answers import Json
from fakes.files import StoredFile
from fakes.ledger import Settings, Violation

KINDS = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings"}
_KEYS = {"custom_id", "method", "url", "body"}
_MOST_PROBLEMS = 100


class Input:
    """The lines of one file, read but not held: 40,000 bodies would be 100 MB."""

    def __init__(self, file: StoredFile, endpoint: str) -> None:
        self.file = file
        self.endpoint = endpoint
        self.kind = KINDS.get(endpoint, "")
        self.custom_ids: list[str] = []
        self.model: str | None = None
        self.tokens = 0
        self.texts = 0
        self.problems: list[Json] = []
        """What makes the whole batch fail, as it stands in `errors.data`."""
        self.violations: list[Violation] = []
        """What the client should have known before."""
        self.refused: dict[int, tuple[str, str | None]] = {}
        """(message, param) of the lines whose bodies no live server would take either."""
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def line(self, index: int) -> Json:
        """One line, parsed."""
        start, end = self._starts[index], self._starts[index + 1]
        parsed: Json = orjson.loads(self.file.read(start, end - start))
        return parsed

    def blame(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        """Note a problem; the client is told of the first hundred."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append({"code": code, "line": line, "message": message, "param": param})

    async def examine(self, settings: Settings) -> None:
        """Look at every line."""
        seen: set[str] = set()
        for number, line in enumerate(self.file.lines(), 1):
            self._starts.append(self._starts[-1] + len(line) + 1)
            asked = self._asked(line, number)
            if asked is not None:
                self._look_at(asked, number, seen)
            if number % 256 == 0:
                await asyncio.sleep(0)
        self._look_at_the_whole(settings)
        # What the client can't know aren't violations: those are only told when the batch is validated.
        self.violations += [Violation("/v1/batches", each["message"], each) for each in self.problems]
        if settings.models is not None and self.model is not None and self.model not in settings.models:
            self.blame("model_not_found", f"The provided model '{self.model}' is not supported.")

    def _look_at_the_whole(self, settings: Settings) -> None:
        if len(self) == 0:
            self.blame(
                "empty_file",
                "The input file is empty. Please ensure that the batch contains at least one request.",
            )
        if max(len(self), self.texts) > settings.batch_requests:
            what = "requests" if len(self) > settings.batch_requests else "embedding inputs"
            self.blame(
                "too_many_tasks",
                f"The number of {what} in the input file exceeds the maximum allowed value of"
                f" {settings.batch_requests:,}.",
            )
        if self.file.bytes > settings.batch_bytes:
            self.blame(
                "file_too_large",
                f"The input file is larger than the maximum of {settings.batch_bytes} bytes.",
            )

    def _asked(self, line: bytes, number: int) -> Json | None:
        try:
            asked = orjson.loads(line)
        except orjson.JSONDecodeError:
            asked = None
        if isinstance(asked, dict):
            return asked
        self.blame("invalid_json_line", "This line is not parseable as valid JSON.", number)
        return None

    def _look_at(self, asked: Json, number: int, seen: set[str]) -> None:
        custom_id, body = asked.get("custom_id"), asked.get("body")
        if set(asked) != _KEYS or not isinstance(custom_id, str) or not isinstance(body, dict):
            wrong = min(set(asked) ^ _KEYS, default="custom_id")
            self.blame("invalid_request", f"Missing, unknown or invalid parameter: '{wrong}'.", number, wrong)
            return
        self.custom_ids.append(custom_id)
        if custom_id in seen:
            message = "The custom_id for this request is a duplicate of the custom_id in another request."
            self.blame("duplicate_custom_id", message, number, "custom_id")
        seen.add(custom_id)
        if asked["method"] != "POST":
            self.blame("invalid_request", f"Invalid method: {asked['method']!r}.", number, "method")
        if asked["url"] != self.endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            self.blame("url_mismatch", message, number, "url")
        self._look_at_body(body, number)

    def _look_at_body(self, body: Json, number: int) -> None:
        model: Any = body.get("model")
        self.model = model if self.model is None and isinstance(model, str) else self.model
        if model != self.model:
            message = "The model of this request doesn't match the rest of the file."
            self.blame("model_mismatch", message, number, "body.model")
        if body.get("stream"):
            self.blame("invalid_request", "Streaming is not supported in a batch.", number, "body.stream")
            return
        if not self.kind:
            return
        refusal = contract.problem_with(self.kind, body)
        if refusal is not None:
            self.refused[number - 1] = refusal
            self.violations.append(Violation(f"{self.endpoint} in a batch", refusal[0], body))
            return
        self.tokens += replies.prompt_tokens(body)
        self.texts += len(replies.embedding_inputs(body)) if self.kind == "embeddings" else 0
