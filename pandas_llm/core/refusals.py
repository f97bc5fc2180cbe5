"""What an error is, by status and code: the class decides who is asked again and what ends a run."""

from __future__ import annotations

from typing import Any, NamedTuple

from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    EndpointError,
    ModelError,
    QuotaError,
    RateLimitError,
    ServerError,
)
from pandas_llm.core.foreign import mapping
from pandas_llm.core.prompts import excerpt

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


class Words(NamedTuple):
    """What an error body says."""

    message: str
    """An excerpt; empty where there is none."""
    code: str | None
    kind: str | None
    """Its `type`."""


def words_of(body: Any) -> Words:
    """The words of an error body in any of the shapes servers use."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return Words(excerpt(error, 240) if error else "", None, None)
    message = error.get("message") or error.get("detail") or ""
    if isinstance(message, list):  # FastAPI's, which also hold the input: not to be shown
        message = "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in map(mapping, message))
    message = excerpt(message, 240) if message else ""
    param = error.get("param")
    if isinstance(param, str) and param not in message:
        message = f"{message} (param {param})"
    code, kind = error.get("code"), error.get("type")
    if code is None:
        code = mapping(error.get("innererror")).get("code")
    return Words(message, None if code is None else str(code), None if kind is None else str(kind))


def refusal(
    status: int, words: Words, *, request_id: str | None = None, retry_after: float | None = None
) -> ApiError:
    """The error that a status and these words are."""
    cls = _class_of(status, words.message.lower(), {words.code, words.kind})
    return cls(
        f"HTTP {status}: {words.message}",
        status=status,
        code=words.code or words.kind,
        request_id=request_id,
        retry_after=retry_after,
    )


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
