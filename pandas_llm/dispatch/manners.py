"""What the store remembers of how an endpoint and model can be asked."""

from __future__ import annotations

from pandas_llm.core.prices import Price
from pandas_llm.core.types import Question
from pandas_llm.core.wire import FORMATS, Manner
from pandas_llm.io.store import NoStore, Store

CACHED_PROMPT_TOKENS = 1024
"""A fixed part this long is worth a prompt cache, and a first request that warms it."""


def first_manner(
    store: Store | NoStore, question: Question, fixed_tokens: int, tier: str | None, price: Price | None
) -> tuple[Manner, bool]:
    """How to begin to ask here, and whether a first request alone has something to settle for the others."""
    known = store.fact(_scope(question), "format")
    long = fixed_tokens >= CACHED_PROMPT_TOKENS
    manner = Manner(
        format=known if known in FORMATS else "json_schema",
        breakpoint=long and price is not None and price.writes_cache,
        service_tier=tier,
    )
    return manner, long or (question.schema is not None and known not in FORMATS)


def remember(store: Store | NoStore, question: Question, manner: Manner) -> None:
    """Note the answer format that has shown to work here."""
    if question.schema is not None:
        store.put_fact(_scope(question), "format", manner.format)


def _scope(question: Question) -> str:
    return f"{question.base_url} {question.model}"
