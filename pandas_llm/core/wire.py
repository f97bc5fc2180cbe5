"""Chat Completions as bytes: a question becomes a body, a response becomes a message or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from pandas_llm.core import vectors
from pandas_llm.core.errors import (
    ApiError,
    BadRequestError,
    EmptyOutputError,
    LengthError,
    OutputError,
    RefusalError,
    ServerError,
)
from pandas_llm.core.foreign import count, listing, loaded, mapping, word
from pandas_llm.core.prompts import excerpt, fenced, format_note
from pandas_llm.core.refusals import Words, refusal, words_of
from pandas_llm.core.types import Question, Reply, Usage
from pandas_llm.core.vectors import EMBEDDINGS

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
    base64: bool = True
    """Vectors as base64."""


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


def body_maker(question: Question, manner: Manner) -> Callable[[str], bytes]:
    """What renders the request about one text, whatever the API's path."""
    if question.path == EMBEDDINGS:
        return lambda text: vectors.body(question, [text], base64=manner.base64)
    return make_wire(question, manner).body


def messages_of(question: Question, text: str) -> list[dict[str, str]]:
    """The messages a text is asked with, as people read them; a text to embed stands for itself."""
    if question.path == EMBEDDINGS:
        return [{"role": "input", "content": text}]
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
    return message_of(read_body(reply), request_id=request_id_of(reply))


def message_of(body: dict[str, Any], *, request_id: str | None) -> Message:
    """The message in the body of a response with status 200; of an embedding the vector is its content.

    Raises
    ------
    ServerError
        It holds an error, or neither a choice nor a vector.
    """
    if body.get("error"):
        raise _in_200(words_of(body), request_id)
    if "choices" not in body and "data" in body:
        return _vector_message(body, request_id)
    choice = next(iter(listing(body.get("choices"))), None)
    if not isinstance(choice, dict):
        raise ServerError("The response has no choices.", status=200, request_id=request_id)
    if choice.get("error") or choice.get("finish_reason") == "error":
        raise _in_200(words_of(choice), request_id)
    said = mapping(choice.get("message"))
    content = _text_of(said.get("content"))
    finish = word(choice.get("finish_reason"))
    return Message(
        content=content,
        model=word(body.get("model")),
        service_tier=word(body.get("service_tier")),
        finish_reason=finish,
        request_id=request_id,
        usage=usage_of(body.get("usage")),
        logprobs=_logprobs_of(choice),
        problem=_problem_of(content, said.get("refusal"), finish),
    )


def _vector_message(body: dict[str, Any], request_id: str | None) -> Message:
    (vector,) = vectors.vectors_of(body, 1)
    if vector is None:
        raise ServerError("The response has no embedding.", status=200, request_id=request_id)
    model, usage = word(body.get("model")), usage_of(body.get("usage"))
    return Message(vector, model, None, None, request_id, usage, [], None)


def _in_200(words: Words, request_id: str | None) -> ServerError:
    return ServerError(
        f"An error in a 200: {words.message}", status=200, code=words.code, request_id=request_id
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
    logprobs = choice.get("logprobs")
    if not logprobs:
        return []
    tokens = listing(mapping(logprobs).get("content"))
    return tokens if all(isinstance(token, dict) for token in tokens) else []


def usage_of(usage: Any) -> Usage | None:
    """The usage in a response's words, None where there is none."""
    if not isinstance(usage, dict):
        return None
    read = mapping(usage.get("prompt_tokens_details"))
    wrote = mapping(usage.get("completion_tokens_details"))
    return Usage(
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        count(read.get("cached_tokens")),
        count(read.get("cache_write_tokens")),
        count(wrote.get("reasoning_tokens")),
    )


def request_id_of(reply: Reply) -> str | None:
    """The provider's id of a request."""
    return reply.headers.get("x-request-id") or reply.headers.get("apim-request-id")


def read_body(reply: Reply) -> dict[str, Any]:
    """The JSON object of a response with status 200, that of a stream put together.

    Raises
    ------
    ServerError
        It is cut, isn't JSON, or is an error.
    """
    request_id = request_id_of(reply)
    try:
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            body = _joined(_events(reply.body))
        else:
            body = loaded(reply.body)
    except (ValueError, RecursionError):
        raise ServerError(
            "The response isn't whole: it is cut or isn't JSON.", status=200, request_id=request_id
        ) from None
    if not isinstance(body, dict):
        raise ServerError("The response isn't a JSON object.", status=200, request_id=request_id)
    if body.get("error"):
        raise _in_200(words_of(body), request_id)
    return body


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """The chunks of a stream; a stream without its end is not an answer."""
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            return
        if data:
            event = loaded(data)
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
        for part in map(mapping, listing(chunk.get("choices"))):
            delta = mapping(part.get("delta"))
            message["content"] += str(delta.get("content") or "")
            if delta.get("refusal"):
                message["refusal"] = message.get("refusal", "") + str(delta["refusal"])
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            tokens += _logprobs_of(part)
    if tokens:
        choice["logprobs"] = {"content": tokens}
    return {**body, "choices": [choice]}


def error_of(reply: Reply, *, retry_after: float | None = None) -> ApiError:
    """The error in a response whose status isn't 200."""
    try:
        body = orjson.loads(reply.body)
    except ValueError:
        body = None
    words = words_of(body)
    location = reply.headers.get("location")
    if location and 300 <= reply.status < 400:
        message = f"the server redirects to {location}: set base_url to where the API is"
    else:
        message = words.message or excerpt(
            reply.body[:240].decode("utf-8", "replace").strip() or "no text", 240
        )
    words = words._replace(message=message)
    return refusal(reply.status, words, request_id=request_id_of(reply), retry_after=retry_after)


def lesser_manner(error: ApiError, manner: Manner, question: Question) -> Manner | None:
    """The manner that leaves out what a 400 names; None where it names nothing of ours."""
    if question.path == EMBEDDINGS:
        return replace(manner, base64=False) if manner.base64 and _names(error, "encoding_format") else None
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
