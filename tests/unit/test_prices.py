"""Prices: of the very model, of the very tier, of each reply by itself, or not at all."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from pandas_llm.core.prices import FREE, Price, price_of
from pandas_llm.core.types import Usage

OPENAI = "https://api.openai.com/v1"
LOOPBACK = "http://127.0.0.1:8000/v1"
NOW = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def price(
    model: str, base_url: str = OPENAI, overrides=None, tier: str | None = None, **more
) -> Price | None:
    return price_of(model, base_url, overrides or {}, tier, **{"now": NOW, **more})


def known(model: str, base_url: str = OPENAI, **more) -> Price:
    found = price(model, base_url, **more)
    assert found is not None
    return found


def test_a_reply_costs_its_tokens_times_the_price():
    luna = known("gpt-6-luna")
    assert (luna.input, luna.output) == (0.1, 0.5)
    assert luna.cost(Usage(input=1_000, output=10)) == pytest.approx(1_000 * 0.1e-6 + 10 * 0.5e-6, rel=1e-12)


def test_cached_and_cache_written_tokens_have_their_own_price():
    usage = Usage(input=10_000, output=0, cached=6_000, cache_written=3_000)
    millionths = 1_000 * 0.1 + 6_000 * 0.01 + 3_000 * 0.125
    assert known("gpt-6-luna").cost(usage) == pytest.approx(millionths / 1e6, rel=1e-12)


def test_a_long_reply_is_priced_by_its_own_length_and_never_by_the_sum():
    luna = known("gpt-6-luna")
    short, at, above = Usage(1_650, 20), Usage(272_000, 20), Usage(272_001, 20)
    assert luna.cost(at) == pytest.approx((272_000 * 0.1 + 20 * 0.5) / 1e6)
    assert luna.cost(above) == pytest.approx((272_001 * 0.2 + 20 * 0.75) / 1e6)
    summed = sum((short for _ in range(1_000)), Usage())
    assert luna.cost(summed) > 1.9 * sum(luna.cost(short) for _ in range(1_000))


def test_cached_tokens_reported_beside_the_input_earn_no_discount():
    assert known("gpt-6-luna").cost(Usage(input=100, cached=5_000)) == pytest.approx(5_000 * 0.01e-6)


def test_the_prices_are_those_of_genai_prices():
    from genai_prices import Usage as Theirs
    from genai_prices import calc_price

    at = datetime.fromtimestamp(NOW, UTC)
    for model in ("gpt-6-luna", "gpt-4o-mini", "o3", "gpt-5.6-luna", "text-embedding-3-small"):
        for taken in (500, 300_000):
            usage = Usage(taken, 100, cached=200, cache_written=50)
            theirs = calc_price(
                Theirs(input_tokens=taken, output_tokens=100, cache_read_tokens=200, cache_write_tokens=50),
                model,
                provider_id="openai",
                genai_request_timestamp=at,
            )
            assert known(model).cost(usage) == pytest.approx(float(theirs.total_price), rel=1e-9), model


@pytest.mark.parametrize(
    "model", ["my-gpt-4o-finetune", "gpt-6-lunatic", "gpt-5-nano-mine", "my-moderation", "gpt-6", "", "llama"]
)
def test_a_model_nobody_knows_has_no_price(model: str):
    assert price(model) is None


@pytest.mark.parametrize(
    ("snapshot", "model"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-6-luna-2026-10-01", "gpt-6-luna"),
        ("gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("gpt-4o-20240806", "gpt-4o"),
        ("GPT-4o-mini", "gpt-4o-mini"),
    ],
)
def test_a_dated_snapshot_has_its_models_price(snapshot: str, model: str):
    assert known(snapshot) == known(model)


def test_a_fine_tuned_model_has_the_price_of_fine_tuned_models_or_none():
    assert known("ft:gpt-4o-mini-2024-07-18:me::abc").input == 0.3
    assert price("ft:gpt-4-0613:me::abc") is None


def test_an_embedding_model_has_a_price_without_output():
    assert known("text-embedding-3-small").cost(Usage(input=1_000_000)) == pytest.approx(0.02)


def test_what_is_billed_by_the_hour_has_no_price_here():
    assert price("whisper-1") is None


def test_the_host_tells_the_provider_and_an_unknown_host_means_openai():
    assert known("gpt-4o-mini", LOOPBACK) == known("gpt-4o-mini")
    assert known("claude-3-5-sonnet-20240620", "https://api.anthropic.com/v1").input == 3.0
    assert price("claude-3-5-sonnet-20240620", LOOPBACK) is None
    assert price("gpt-4o-mini", "https://api.groq.com/openai/v1") is None
    assert known("gpt-4o-mini", "https://mine.openai.azure.com/openai").output == 0.6


def test_a_given_price_wins():
    assert known("gpt-4o-mini", overrides={"gpt-4o-mini": (1.0, 2.0)}).input == 1.0
    two = known("my-model", LOOPBACK, overrides={"my-model": (0.10, 0.40)})
    assert two.cost(Usage(1_000_000, 1_000_000, cached=500_000)) == pytest.approx(0.5)
    three = known("my-model", LOOPBACK, overrides={"my-model": (0.10, 0.01, 0.40)})
    assert three.cost(Usage(1_000_000, 0, cached=500_000)) == pytest.approx(0.055)
    assert known("my-model", overrides={"my-model": (1, 2)}, tier="flex").output == 2.0


def test_the_embedded_model_costs_nothing():
    assert price("local", "local:") is FREE
    assert FREE.cost(Usage(1_000_000, 1_000_000)) == 0.0
    assert math.copysign(1, FREE.cost(Usage())) == 1.0


def test_flex_and_batch_cost_half_where_the_model_has_them():
    standard = known("gpt-6-luna").input
    assert known("gpt-6-luna", tier="flex").input == standard / 2
    assert known("gpt-6-luna", processing="batch").input == standard / 2
    assert known("gpt-6-luna", tier="priority").input == standard * 2


def test_the_standard_price_is_never_passed_off_as_another_tiers():
    assert price("gpt-4o-mini", tier="flex") is None
    assert price("gpt-6-luna", tier="ultrafast") is None
    assert price("gpt-6-luna", tier="batch") is None
    assert price("gpt-6-cyber", processing="batch") is None
    before = datetime(2026, 10, 1, tzinfo=UTC).timestamp()
    assert price("gpt-6-luna", tier="flex", now=before) is None


@pytest.mark.parametrize("tier", [None, "auto", "default"])
def test_the_standard_tier_has_the_standard_price(tier: str | None):
    assert known("gpt-6-luna", tier=tier) == known("gpt-6-luna")


def test_it_is_known_which_models_have_a_flex_price():
    assert known("gpt-6-luna", tier="flex").input == pytest.approx(known("gpt-6-luna").input / 2)
    assert price("gpt-4o-mini", tier="flex") is None
    assert price("gpt-4o-mini", processing="batch") is not None


def test_only_models_whose_cache_writes_are_charged_say_so():
    assert known("gpt-6-luna").writes_cache
    assert not known("gpt-4o-mini").writes_cache
    assert not known("x", overrides={"x": (1, 2)}).writes_cache


def test_a_price_of_the_past_is_asked_with_a_time_of_the_past():
    earlier = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
    assert known("o3", now=earlier).input == 10.0
    assert known("o3").input == 2.0
