"""Errors that end a run say what to do, at which endpoint and for which model."""

import pickle

import pytest

from pandas_llm.core.advice import advised
from pandas_llm.core.errors import (
    ApiError,
    AuthError,
    BadRequestError,
    EndpointError,
    ModelError,
    QuotaError,
    RateLimitError,
    ServerError,
)
from pandas_llm.core.types import Question

QUESTION = Question("http://host:1/v1", "/chat/completions", "classify", "gpt-6-lunna", "s", None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (AuthError("HTTP 401: no", status=401), "set OPENAI_API_KEY or pandas_llm.configure(api_key=…)"),
        (AuthError("HTTP 403: no", status=403), "refuses model 'gpt-6-lunna' to this key"),
        (QuotaError("HTTP 429: no", status=429), "add credit or raise its limit"),
        (ModelError("HTTP 404: no", status=404), "say model= as the server lists it"),
        (EndpointError("HTTP 404: no", status=404), "below base_url http://host:1/v1"),
    ],
)
def test_what_ends_a_run_says_what_to_do(error: ApiError, says: str) -> None:
    said = advised(error, QUESTION)
    first, second = str(said).split("\n")
    assert first == f"HTTP {error.status}: no"
    assert says in second
    assert "http://host:1/v1" in second
    assert "'gpt-6-lunna'" in second
    assert str(pickle.loads(pickle.dumps(said))) == str(said)
    assert said.status == error.status


def test_where_nobody_answers_it_asks_for_the_server() -> None:
    said = str(advised(EndpointError("Nothing answers.", code="connect"), QUESTION))
    assert said == (
        "Nothing answers.\nIs the server of model 'gpt-6-lunna' running, and base_url http://host:1/v1 right?"
    )


@pytest.mark.parametrize("kind", [RateLimitError, ServerError, BadRequestError])
def test_what_is_a_row_s_or_passes_stays_as_it_is(kind: type[ApiError]) -> None:
    assert str(advised(kind("HTTP 400: no", status=400), QUESTION)) == "HTTP 400: no"
