"""Every error and warning, in one tree; which class it is decides what happens next.

LLMError
├── OptionsError(ValueError)         before any call
│   ├── PromptError  SchemaError  NeedsModelError
├── ApiError(status, code, request_id)
│   ├── AuthError  QuotaError  ModelError  EndpointError      stop the run
│   ├── RateLimitError  ServerError                           asked again
│   └── BadRequestError                                       the row's
│       ├── ContextLengthError  ContentFilterError
├── OutputError                      the row's, usage kept
│   ├── RefusalError  LengthError  SchemaMismatchError  EmptyOutputError
├── BatchError                       what is missing is planned again
├── StoreError                       stops the run
└── RowErrors  TooManyErrors         raised at the end
Interrupted(KeyboardInterrupt) · LLMWarning(UserWarning)
├── IncompleteWarning  BudgetWarning  PriceWarning
"""

from __future__ import annotations

import re
import traceback
from typing import Any, ClassVar

__all__ = [
    "ApiError",
    "AuthError",
    "BadRequestError",
    "BatchError",
    "BudgetWarning",
    "ContentFilterError",
    "ContextLengthError",
    "EmptyOutputError",
    "EndpointError",
    "IncompleteWarning",
    "Interrupted",
    "LLMError",
    "LLMWarning",
    "LengthError",
    "ModelError",
    "NeedsModelError",
    "OptionsError",
    "OutputError",
    "PriceWarning",
    "PromptError",
    "QuotaError",
    "RateLimitError",
    "RefusalError",
    "RowErrors",
    "SchemaError",
    "SchemaMismatchError",
    "ServerError",
    "StoreError",
    "TooManyErrors",
]


class LLMError(Exception):
    """The root of all errors of this package.

    Attributes
    ----------
    frame : DataFrame or None
        What was answered before the error, where a request had been sent; else None.
    """

    stops_run: ClassVar[bool] = False
    frame: Any = None

    def _render_traceback_(self) -> list[str]:
        # IPython prints this in place of 40 lines of ours: where in the caller's code, and what.
        return [*_callers_line(self), f"{type(self).__name__}: {self}"]


class OptionsError(LLMError, ValueError):
    """Something in the call can't be right; nothing was sent."""


class PromptError(OptionsError):
    """A column, a template field or a cell that can't become a prompt."""


class SchemaError(OptionsError):
    """A schema that strict JSON schema mode can't express."""


class NeedsModelError(OptionsError):
    """The embedded model is missing, or the verb needs a language model."""


class ApiError(LLMError):
    """The endpoint's answer was an error, or there was none.

    Attributes
    ----------
    status : int or None
        The HTTP status; None where no response arrived.
    code : str or None
        The provider's `error.code`, or our word for a transport failure (`"timeout"`, `"connection"`).
    request_id : str or None
        The provider's id of the request, for its support.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        # Only the message goes to args: the rest travels in __dict__, so that every error pickles.
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after


class AuthError(ApiError):
    """401 or 403: no key, a wrong one, or no access."""

    stops_run = True


class QuotaError(ApiError):
    """402, or a 429 for want of money."""

    stops_run = True


class ModelError(ApiError):
    """404: the endpoint has no such model."""

    stops_run = True


class EndpointError(ApiError):
    """Nothing answers at the base URL: refused, unknown host, TLS, or not an API at all."""

    stops_run = True


class RateLimitError(ApiError):
    """429: paced and asked again."""


class ServerError(ApiError):
    """5xx, 408, 409, 498, 529, a lost connection, a truncated body, an error in a 200."""


class BadRequestError(ApiError):
    """Any other 4xx: this row's request is refused."""


class ContextLengthError(BadRequestError):
    """The row's text is longer than the model takes."""


class ContentFilterError(BadRequestError):
    """The provider's filter refused the row's text."""


class OutputError(LLMError):
    """A reply that was billed and can't be used; it is remembered and not bought again."""


class RefusalError(OutputError):
    """The model refused, or its answer was filtered."""


class LengthError(OutputError):
    """The reply was cut off; nothing of it is used."""


class SchemaMismatchError(OutputError):
    """The reply isn't among the labels, or doesn't fit the schema, after one repair."""


class EmptyOutputError(OutputError):
    """The reply has no text."""


class BatchError(LLMError):
    """A batch lost this row's request."""


class StoreError(LLMError):
    """The store's file can't be read or written."""

    stops_run = True


class RowErrors(LLMError):
    """Some rows failed and `on_error="raise"` was asked for; `.frame` has all the others."""


class TooManyErrors(LLMError):
    """More than `max_error_rate` of the last requests failed for good; nothing more was sent."""


_INSTEAD = {
    "EndpointError": "nothing answers at base_url",
    "SchemaMismatchError": "the reply doesn't fit what was asked for",
    "RefusalError": "the model refused, or its answer was filtered",
}
_OURS = ("PromptError", "LengthError", "EmptyOutputError", "StoreError")


def in_our_words(kind: str, said: str) -> str:
    """What an error says without any word of a model, a provider or a cell: others may read it.

    Nobody can tell a cell's text from the message that quotes a part of it, so all that is foreign goes.

    >>> in_our_words("SchemaMismatchError", "'born 1961' is none of the labels, which are 'a', 'b'")
    "the reply doesn't fit what was asked for"
    >>> in_our_words("BadRequestError", "HTTP 400: can't read born 1961")
    'HTTP 400'
    """
    if kind in _OURS:
        return said
    status = re.match(r"HTTP \d{3}", said)
    return _INSTEAD.get(kind) or (status[0] if status else re.split(r"['\"“:]", said)[0].strip())


def _callers_line(error: BaseException) -> list[str]:
    """The line that called this package, as far as an error's way is known."""
    way = list(traceback.walk_tb(error.__traceback__))
    names = [frame.f_globals.get("__name__", "") for frame, _ in way]
    entered = next((i for i, name in enumerate(names) if name.startswith("pandas_llm.")), len(way))
    if not entered:
        return []
    (step,) = traceback.StackSummary.extract(iter(way[entered - 1 : entered]))
    return [f"line {step.lineno}: {step.line}"] if step.line else []


class Interrupted(KeyboardInterrupt):
    """Stop or Ctrl-C; what was answered is in the store and on `.frame`."""

    frame: Any = None

    def _render_traceback_(self) -> list[str]:
        # IPython prints this one line instead of forty of ours.
        return [f"Interrupted: {self}"]


class LLMWarning(UserWarning):
    """The root of all warnings of this package."""


class IncompleteWarning(LLMWarning):
    """Some rows have no answer."""


class BudgetWarning(LLMWarning):
    """`max_cost` was reached; the other rows are pending."""


class PriceWarning(LLMWarning):
    """A price isn't known; costs are NaN."""
