"""What goes wrong on request: refusals, broken connections, useless answers, storms."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fakes.answers import Answer, Json, labels_of

Match = str | Callable[[int, str], bool] | None
Transport = Literal["whole", "reset_before", "reset_after", "truncated", "slow", "hang", "cut"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What the server does in place of answering well."""

    status: int = 200
    body: bytes | None = None
    """None: the answer to the request."""
    headers: Mapping[str, str] = field(default_factory=dict)
    transport: Transport = "whole"
    seconds: float = 0.0
    """How long a slow body or a hanging request takes."""
    alter: Callable[[Answer, Json], Answer] | None = None
    """Spoils the answer."""
    billed: bool | None = None
    """None: what has status 2xx and carries usage is billed, and a connection without reply isn't."""

    @property
    def dropped(self) -> bool:
        """Whether no reply arrives at all."""
        return self.transport in ("reset_before", "reset_after", "hang")


def error_body(message: str, *, type: str, param: str | None = None, code: str | None = None) -> bytes:  # noqa: A002
    """An error in OpenAI's shape."""
    return json.dumps({"error": {"message": message, "type": type, "param": param, "code": code}}).encode()


def error(
    status: int,
    code: str | None = None,
    message: str = "",
    *,
    type: str = "invalid_request_error",  # noqa: A002
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    billed: bool | None = None,
) -> Fault:
    """An HTTP error in OpenAI's shape."""
    body = error_body(message or f"The request failed: {code or status}.", type=type, param=param, code=code)
    return Fault(status, body, dict(headers or {}), billed=billed)


def rate_limited(retry_after: str | None = None, milliseconds: str | None = None) -> Fault:
    """429 `rate_limit_exceeded`; `retry_after` is sent as it is: seconds, an HTTP date, nonsense."""
    headers = {"retry-after": retry_after, "retry-after-ms": milliseconds}
    said = {name: value for name, value in headers.items() if value is not None}
    return error(429, "rate_limit_exceeded", "Rate limit reached.", type="requests", headers=said)


def hang(seconds: float = 3600, *, billed: bool = False) -> Fault:
    """No answer for so long, then the connection is dropped."""
    return Fault(transport="hang", seconds=seconds, billed=billed)


def slow_body(seconds: float = 0.3) -> Fault:
    """Headers at once, then the body drop by drop."""
    return Fault(transport="slow", seconds=seconds)


def outside(label: str = "no such label") -> Fault:
    """The label is one that wasn't allowed."""

    def other_label(answer: Answer, body: Json) -> Answer:
        labels = labels_of(body)
        said = json.loads(answer.content or "null")
        if not isinstance(said, dict):
            return replace(answer, content=label)
        last = list(said)[-1]
        spoiled = {key: label if value in labels or key == last else value for key, value in said.items()}
        return replace(answer, content=json.dumps(spoiled))

    return Fault(alter=other_label)


def saying(answer: Answer) -> Fault:
    """This answer in place of the usual one."""
    return Fault(alter=lambda _usual, _body: answer)


def _half(answer: Answer, _body: Json) -> Answer:
    content = answer.content or ""
    return replace(answer, content=content[: len(content) // 2], finish_reason="length", logprobs=None)


SLOW_DOWN = error(429, "slow_down", "Please slow down your requests.", type="requests")
FLEX_UNAVAILABLE = error(429, "resource_unavailable", "Resource Unavailable", type="resource_unavailable")
CREDIT_BALANCE_EXHAUSTED = error(
    429, "credit_balance_exhausted", "Your credit balance is exhausted.", type="billing_error"
)
INSUFFICIENT_QUOTA = error(
    429,
    "insufficient_quota",
    "You exceeded your current quota, please check your plan.",
    type="insufficient_quota",
)
PAYMENT_REQUIRED = error(402, "payment_required", "Payment is required.", type="billing_error")
UNAUTHORIZED = error(401, "invalid_api_key", "Incorrect API key provided.")
FORBIDDEN = error(
    403, "unsupported_country_region_territory", "Country not supported.", type="request_forbidden"
)
CONTENT_FORBIDDEN = error(403, "moderation_blocked", "The input was flagged.", type="request_forbidden")
MODEL_NOT_FOUND = error(404, "model_not_found", "The model does not exist or you do not have access to it.")
REQUEST_TIMEOUT = error(408, "request_timeout", "The request timed out.", type="timeout")
CONFLICT = error(409, "conflict", "The resource is locked.", type="conflict_error")
CAPACITY_EXCEEDED = error(498, "capacity_exceeded", "Flex tier capacity exceeded.", type="capacity_error")
INTERNAL = error(500, None, "The server had an error.", type="server_error")
BAD_GATEWAY = error(502, None, "Bad gateway.", type="server_error")
OVERLOADED = error(503, "server_is_overloaded", "The engine is overloaded.", type="service_unavailable")
SITE_OVERLOADED = error(529, "overloaded_error", "Overloaded", type="overloaded_error")
CONTEXT_LENGTH = error(
    400, "context_length_exceeded", "This model's maximum context length is 128000 tokens.", param="messages"
)
CONTENT_FILTER = error(
    400, "content_filter", "The response was filtered by the content policy.", param="prompt"
)
FORMAT_REFUSED = error(
    400,
    "unsupported_value",
    "'response_format' of type 'json_schema' is not supported.",
    param="response_format",
)
LOGPROBS_REFUSED = error(
    400, "unsupported_parameter", "'logprobs' is not supported with this model.", param="logprobs"
)
BREAKPOINT_REFUSED = error(
    400, "unknown_parameter", "Unknown parameter: 'messages[0].content[0].prompt_cache_breakpoint'.",
    param="messages[0].content[0].prompt_cache_breakpoint",
)  # fmt: skip
RESET_BEFORE = Fault(transport="reset_before")
RESET_AFTER = Fault(transport="reset_after")
TRUNCATED = Fault(transport="truncated")
CUT_STREAM = Fault(transport="cut")
NOT_JSON = Fault(body=b"upstream said: OK", billed=False)
HTML_502 = Fault(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"content-type": "text/html"})
ERROR_IN_200 = Fault(
    body=error_body("Provider returned error", type="server_error", code="502"), billed=False
)
EMPTY = Fault(alter=lambda answer, _: replace(answer, content="", logprobs=None))
REFUSAL = Fault(alter=lambda answer, _: replace(answer, content=None, refusal="I can't help with that."))
CUT_OFF = Fault(alter=_half)
FILTERED = Fault(alter=lambda answer, _: replace(answer, content="", finish_reason="content_filter"))
INVALID_JSON = Fault(
    alter=lambda answer, _: replace(answer, content=f"{(answer.content or '')[:-1]},", logprobs=None)
)
OUTSIDE_LABEL = outside()

TRANSIENT = (
    rate_limited("0", "10"), INTERNAL, BAD_GATEWAY, OVERLOADED, SITE_OVERLOADED, CAPACITY_EXCEEDED,
    REQUEST_TIMEOUT, CONFLICT, RESET_BEFORE, RESET_AFTER, NOT_JSON, HTML_502, ERROR_IN_200,
)  # fmt: skip
"""What passes when asked again and costs nothing: what a storm is made of, unless told otherwise."""


class Faults:
    """The faults that stand, in the order they were asked for, and the storm."""

    def __init__(self) -> None:
        self._standing: list[list[Any]] = []  # [match, fault, times left or None]
        self._storm: tuple[float, int, Sequence[Fault]] | None = None
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, match: Match, fault: Fault, times: int | None) -> None:
        with self._lock:
            self._standing.append([match, fault, times])

    def storm(self, rate: float, seed: int, kinds: Sequence[Fault]) -> None:
        self._storm = (rate, seed, kinds) if rate else None
        self._tries.clear()

    def clear(self) -> None:
        with self._lock:
            self._standing.clear()
        self._storm = None

    def unread(self) -> Fault | None:
        """The reset that hits the next request before its body is read, if one stands first."""
        with self._lock:
            for entry in self._standing[:1]:
                if entry[0] is None and entry[1].transport == "reset_before":
                    return self._taken(entry)
        return None

    def pick(self, n: int, text: str) -> Fault | None:
        """What hits the n-th request. A storm depends on text and try alone, not on the order of arrival."""
        with self._lock:
            for entry in self._standing:
                if matches(entry[0], n, text):
                    return self._taken(entry)
        if self._storm is None:
            return None
        rate, seed, kinds = self._storm
        self._tries[text] += 1
        digest = hashlib.sha256(
            f"{seed}\0{self._tries[text]}\0{text}".encode("utf-8", "surrogatepass")
        ).digest()
        if int.from_bytes(digest[:8]) >= rate * 2**64:
            return None
        return kinds[int.from_bytes(digest[8:16]) % len(kinds)]

    def _taken(self, entry: list[Any]) -> Fault:
        if entry[2] is not None:
            entry[2] -= 1
            if entry[2] <= 0:
                self._standing.remove(entry)
        fault: Fault = entry[1]
        return fault


def matches(match: Match, n: int, text: str) -> bool:
    if callable(match):
        return match(n, text)
    return match is None or match in text
