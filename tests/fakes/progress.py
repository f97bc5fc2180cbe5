"""A run as painters see it: halfway through, with a bit of everything."""

from __future__ import annotations

from pandas_llm.core.types import Progress, Usage

RUNNING = Progress(
    title="classify · body · gpt-6-luna",
    rows=5_000,
    sources={"api": 1_598, "cache": 738, "duplicate": 334, "failed": 13},
    asked=3_600,
    answered=1_611,
    usage=Usage(431_000, 9_580, cached=120_000),
    cost=0.1712,
    projected=0.4567,
    max_cost=5.0,
    errors={"ServerError": 5, "SchemaMismatchError": 8},
    last_error="SchemaMismatchError: the reply 'mixed' is none of 'good', 'bad'",
    retries=35,
    in_flight=64,
    rate=161.3,
    eta=14.6,
    seconds=9.9,
)
