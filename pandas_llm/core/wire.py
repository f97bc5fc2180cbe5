"""Chat Completions as bytes: a question becomes a body, a response becomes a message or an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    EmptyOutputError,
    EndpointError,
    LengthError,
    ModelError,
    OutputError,
    QuotaError,
    RateLimitError,
    RefusalError,
    ServerError,
)
from pandas_llm.core.prompts import excerpt, fenced, format_note
from pandas_llm.core.types import Question, Reply, Usage

CHAT = "/chat/completions"

Format = Literal["json_schema", "json_object", "text"]
"""How an endpoint can be asked for JSON, best first."""

FORMATS: tuple[Format, ...] = ("json_schema", "json_object", "text")


@dataclass(frozen=True, slots=True)
class Manner:
    """What of the API this endpoint and model understand; it changes when a 400 says so, the key doesn't."""

    format: Format = "json_schema"
    logprobs: bool = True
    breakpoint: bool = False
    """An explicit prompt-cache breakpoint after the system message."""
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """The body of every request of a question: a row's text goes between a prefix and a suffix made once."""

    prefix: bytes
    suffix: bytes

    def body(self, text: str) -> bytes:
        """The request that asks about `text`."""
        return self.prefix + orjson.dumps(fenced(text)) + b"}" + self.suffix

    def repair(self, text: str, reply: str, problem: str) -> bytes:
        """The same request with the reply that didn't fit and what is allowed."""
        turns = [{"role": "assistant", "content": reply}, {"role": "user", "content": problem}]
        more = b"".join(b"," + orjson.dumps(turn) for turn in turns)
        return self.prefix + orjson.dumps(fenced(text)) + b"}" + more + self.suffix


def make_wire(question: Question, manner: Manner) -> Wire:
    """The wire of a question as this endpoint understands it."""
    system = question.system
    if question.schema is not None and manner.format != "json_schema":
        system = f"{system}\n\n{format_note(question.schema)}"
    content: Any = system
    if manner.breakpoint:
        content = [{"type": "text", "text": system, "prompt_cache_breakpoint": {"mode": "explicit"}}]
    head = {"model": question.model}
    # The text is the last thing in `messages`, so everything before it is one prefix for prompt caches too.
    prefix = (
        orjson.dumps(head)[:-1]
        + b',"messages":['
        + orjson.dumps({"role": "system", "content": content})
        + b',{"role":"user","content":'
    )
    tail = orjson.dumps(_tail(question, manner))
    return Wire(prefix, b"]," + tail[1:] if tail != b"{}" else b"]}")


def messages_of(question: Question, text: str) -> list[dict[str, str]]:
    """The messages a text is asked with, as people read them."""
    return [{"role": "system", "content": question.system}, {"role": "user", "content": fenced(text)}]


def _tail(question: Question, manner: Manner) -> dict[str, Any]:
    tail: dict[str, Any] = {}
    if question.schema is not None and manner.format == "json_schema":
        schema = {"name": "answer", "strict": True, "schema": question.schema}
        tail["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif question.schema is not None and manner.format == "json_object":
        tail["response_format"] = {"type": "json_object"}
    if question.logprobs and manner.logprobs:
        tail |= {"logprobs": True, "top_logprobs": 20}
    if manner.service_tier is not None:
        tail["service_tier"] = manner.service_tier
    if manner.breakpoint:
        # Without it the provider also writes (and bills) a breakpoint of its own behind every row's text.
        tail["prompt_cache_options"] = {"mode": "explicit"}
    tail |= question.params
    if question.params.get("stream"):
        tail["stream_options"] = {**(question.params.get("stream_options") or {}), "include_usage": True}
    return tail


@dataclass(frozen=True, slots=True)
class Message:
    """What a billed response says."""

    content: str
    model: str | None
    service_tier: str | None
    finish_reason: str | None
    request_id: str | None
    usage: Usage | None
    """None where the server doesn't count."""
    logprobs: list[dict[str, Any]]
    problem: OutputError | None
    """Why the content can't be used, whatever was asked."""


def read_message(reply: Reply) -> Message:
    """The message in a response with status 200.

    Raises
    ------
    ServerError
        The body is cut, isn't JSON, holds an error, or no choice.
    """
    request_id = request_id_of(reply)
    body = _body_of(reply, request_id)
    choice = next(iter(_listing(body.get("choices"))), None)
    if not isinstance(choice, dict):
        raise ServerError("The response has no choices.", status=200, request_id=request_id)
    if choice.get("error") or choice.get("finish_reason") == "error":
        message, code, _ = _error_words(choice)
        raise ServerError(f"An error in a 200: {message}", status=200, code=code, request_id=request_id)
    said = _mapping(choice.get("message"))
    content = _text_of(said.get("content"))
    finish = _word(choice.get("finish_reason"))
    return Message(
        content=content,
        model=_word(body.get("model")),
        service_tier=_word(body.get("service_tier")),
        finish_reason=finish,
        request_id=request_id,
        usage=usage_of(body.get("usage")),
        logprobs=_logprobs_of(choice),
        problem=_problem_of(content, said.get("refusal"), finish),
    )


def _problem_of(content: str, refusal: str | None, finish: str | None) -> OutputError | None:
    if refusal:
        return RefusalError(f"The model refused: {excerpt(refusal)}")
    if finish == "content_filter":
        return RefusalError("The provider filtered the answer (finish_reason content_filter).")
    if finish == "length":
        return LengthError(
            "The reply was cut off (finish_reason length): raise params={'max_completion_tokens': …}."
        )
    if not content or content.isspace():
        return EmptyOutputError(
            "The reply is empty. Reasoning models need room: raise params={'max_completion_tokens': …}."
        )
    return None


def _text_of(content: Any) -> str:
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        return ""
    # Half of a character (a lone surrogate) fits into no file and no column.
    return (
        content
        if content.isascii()
        else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _logprobs_of(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = _listing(_mapping(choice.get("logprobs")).get("content"))
    return tokens if all(isinstance(token, dict) for token in tokens) else []


# Servers that only resemble OpenAI's send anything: one odd reply mustn't end a run.
def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listing(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def usage_of(usage: Any) -> Usage | None:
    """The usage in a response's words, None where there is none."""
    if not isinstance(usage, dict):
        return None
    read = _mapping(usage.get("prompt_tokens_details"))
    wrote = _mapping(usage.get("completion_tokens_details"))
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(read.get("cached_tokens")),
        _count(read.get("cache_write_tokens")),
        _count(wrote.get("reasoning_tokens")),
    )


def _count(tokens: Any) -> int:
    return int(tokens) if isinstance(tokens, (int, float)) and 0 < tokens < math.inf else 0


def request_id_of(reply: Reply) -> str | None:
    """The provider's id of a request."""
    return reply.headers.get("x-request-id") or reply.headers.get("apim-request-id")


def _body_of(reply: Reply, request_id: str | None) -> dict[str, Any]:
    try:
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            body = _joined(_events(reply.body))
        else:
            body = _loaded(reply.body)
    except (ValueError, RecursionError):
        raise ServerError(
            "The response isn't whole: it is cut or isn't JSON.", status=200, request_id=request_id
        ) from None
    if not isinstance(body, dict):
        raise ServerError("The response isn't a JSON object.", status=200, request_id=request_id)
    if body.get("error"):
        message, code, _ = _error_words(body)
        raise ServerError(f"An error in a 200: {message}", status=200, code=code, request_id=request_id)
    return body


def _loaded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        # Half characters and -Infinity aren't JSON; but the reply is paid for, and this reads them.
        return json.loads(data.decode("utf-8", "replace"))


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """The chunks of a stream; a stream without its end is not an answer."""
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            return
        if data:
            event = _loaded(data)
            yield event if isinstance(event, dict) else {}
    raise ValueError("no [DONE]")


def _joined(chunks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One chat completion from its chunks."""
    body: dict[str, Any] = {}
    message: dict[str, Any] = {"content": ""}
    choice: dict[str, Any] = {"message": message}
    tokens: list[dict[str, Any]] = []
    for chunk in chunks:
        body |= {name: value for name, value in chunk.items() if value is not None and name != "choices"}
        for part in map(_mapping, _listing(chunk.get("choices"))):
            delta = _mapping(part.get("delta"))
            message["content"] += str(delta.get("content") or "")
            if delta.get("refusal"):
                message["refusal"] = message.get("refusal", "") + str(delta["refusal"])
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            tokens += _logprobs_of(part)
    if tokens:
        choice["logprobs"] = {"content": tokens}
    return {**body, "choices": [choice]}


# What an error is, by status and code ----------------------------------------------------------------

_MONEY = {
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
}
_FILTERED = {
    "content_filter",
    "content_policy_violation",
    "moderation_blocked",
    "ResponsibleAIPolicyViolation",
}
_TOO_LONG = ("context length", "context window", "context size", "prompt is too long")
_AGAIN = {408, 409, 498, 529}


def error_of(reply: Reply, *, retry_after: float | None = None) -> ApiError:
    """The error in a response whose status isn't 200."""
    try:
        body = orjson.loads(reply.body)
    except ValueError:
        body = None
    message, code, kind = _error_words(body)
    message = message or excerpt(reply.body[:240].decode("utf-8", "replace").strip() or "no text", 240)
    cls = _class_of(reply.status, message.lower(), {code, kind})
    location = reply.headers.get("location")
    if location and 300 <= reply.status < 400:
        message = f"the server redirects to {location}: set base_url to where the API is"
    return cls(
        f"HTTP {reply.status}: {message}",
        status=reply.status,
        code=code or kind,
        request_id=request_id_of(reply),
        retry_after=retry_after,
    )


def lesser_manner(error: ApiError, manner: Manner, question: Question) -> Manner | None:
    """The manner that leaves out what a 400 names; None where it names nothing of ours."""
    if manner.breakpoint and _names(error, "prompt_cache"):
        return replace(manner, breakpoint=False)
    if question.logprobs and manner.logprobs and _names(error, "logprobs"):
        return replace(manner, logprobs=False)
    if question.schema is None or manner.format == "text":
        return None
    if _names(error, "response_format", "json_schema", "json_object"):
        return replace(manner, format=FORMATS[FORMATS.index(manner.format) + 1])
    return None


def _names(error: ApiError, *words: str) -> bool:
    # By its very class: "200 tokens in the response_format schemas" also stands in a text that is too long.
    return (
        type(error) is BadRequestError
        and error.status in (400, 422)
        and any(word in str(error) or word == error.code for word in words)
    )


def _error_words(body: Any) -> tuple[str, str | None, str | None]:
    """An excerpt of the message, code and type of an error body in any of the shapes servers use."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return excerpt(error, 240) if error else "", None, None
    message = error.get("message") or error.get("detail") or ""
    if isinstance(message, list):  # FastAPI's, which also hold the input: not to be shown
        message = "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in map(_mapping, message))
    message = excerpt(message, 240) if message else ""
    param = error.get("param")
    if isinstance(param, str) and param not in message:
        message = f"{message} (param {param})"
    code, kind = error.get("code"), error.get("type")
    if code is None:
        code = _mapping(error.get("innererror")).get("code")
    return message, None if code is None else str(code), None if kind is None else str(kind)


def _class_of(status: int, message: str, codes: set[str | None]) -> type[ApiError]:  # noqa: PLR0911 — a table
    if status == 402 or (400 <= status < 500 and codes & _MONEY):
        return QuotaError
    if status in (401, 403):
        return ContentFilterError if codes & _FILTERED else AuthError
    if status == 429:
        # "Request too large": no wait makes it smaller.
        return BadRequestError if "request too large" in message else RateLimitError
    if status in (404, 405):
        about_model = codes & {"model_not_found", "DeploymentNotFound"} or "model" in message
        return ModelError if about_model else EndpointError
    if status >= 500 or status in _AGAIN:
        return ServerError
    if status < 400:
        return EndpointError
    if "context_length_exceeded" in codes or status == 413 or any(word in message for word in _TOO_LONG):
        return ContextLengthError
    if codes & _FILTERED:
        return ContentFilterError
    return BadRequestError
