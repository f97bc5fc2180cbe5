"""What a reply costs: USD per million tokens of one model, worked out once and multiplied per reply."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pandas_llm.core.types import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

Tier = str | None
Processing = Literal["batch"] | None

_STANDARD = (None, "auto", "default", "standard")
# A snapshot of the same model: -2024-07-18, -20240718, @20240307, -0125, -001, -latest, -v1:0.
_SNAPSHOT = re.compile(r"([-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{3,4}|latest))?(-v\d+(:\d+)?)?")


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens, for replies of more than `above` input tokens."""

    above: int
    input: float
    cached: float
    written: float
    output: float
    reasoning: float


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model on one endpoint.

    Examples
    --------
    >>> price = price_of("my-model", "http://localhost:8000/v1", {"my-model": (0.10, 0.40)}, now=0.0)
    >>> price.cost(Usage(input=1_000_000, output=500_000))
    0.3
    """

    rates: tuple[Rates, ...]
    """By `above`, rising; the first one's is 0."""
    writes_cache: bool = False
    """Whether writing to the prompt cache is charged: then an explicit breakpoint pays."""
    per_reply: float = 0.0
    """USD of a reply, whatever its length."""

    @property
    def input(self) -> float:
        """USD per million input tokens, uncached, below every threshold."""
        return self.rates[0].input

    @property
    def output(self) -> float:
        """USD per million output tokens."""
        return self.rates[0].output

    def cost(self, usage: Usage) -> float:
        """USD of one reply. Sums of replies mustn't be priced: a threshold would count them as one."""
        taken = usage.input
        rates = self.rates[0]
        if len(self.rates) > 1:
            for higher in self.rates[1:]:
                if taken > higher.above:
                    rates = higher
        if usage.cached or usage.cache_written or usage.reasoning:
            # A server that reports cached tokens beside the input, not in it, mustn't earn us a discount.
            fresh = max(0, taken - usage.cached - usage.cache_written)
            millionths = (
                fresh * rates.input
                + usage.cached * rates.cached
                + usage.cache_written * rates.written
                + (usage.output - usage.reasoning) * rates.output
                + usage.reasoning * rates.reasoning
            )
        else:
            millionths = taken * rates.input + usage.output * rates.output
        return millionths / 1_000_000 + self.per_reply


FREE = Price((Rates(0, 0.0, 0.0, 0.0, 0.0, 0.0),))


def price_of(
    model: str,
    base_url: str,
    overrides: Mapping[str, Sequence[float]],
    tier: Tier = None,
    *,
    processing: Processing = None,
    now: float,
) -> Price | None:
    """The price of a model, or None where nobody knows it.

    Parameters
    ----------
    model
        The id as it is sent.
    base_url
        The endpoint. Its host tells the provider; OpenAI's prices go for hosts nobody knows.
    overrides
        `{model: (input, output)}` or `(input, cached, output)`, USD per million tokens. They win.
    tier
        The service tier that is billed. Other tiers than the standard one have a price only where the
        data has one for this model: the standard price is never passed off as another tier's.
    processing
        `"batch"` for the Batch API, likewise.
    now
        Unix time in seconds: prices change on dates.
    """
    if model in overrides:
        return _given(overrides[model])
    if base_url.startswith("local:"):
        return FREE
    found = _find(model, base_url)
    if found is None:
        return None
    info, own = found
    when = datetime.fromtimestamp(now, UTC)
    context = _context(tier, processing)
    if context and not (own and _has_variant(info, context, when)):
        return None
    return _from_data(info.get_prices(when, context))


def _given(price: Sequence[float]) -> Price:
    read, write = float(price[0]), float(price[-1])
    cached = float(price[1]) if len(price) == 3 else read
    return Price((Rates(0, read, cached, read, write, write),))


def _context(tier: Tier, processing: Processing) -> dict[str, str]:
    context = {} if tier in _STANDARD else {"service_tier": str(tier)}
    return context | ({"processing": processing} if processing else {})


def _find(model: str, base_url: str) -> tuple[ModelInfo, bool] | None:
    """The model's entry, and whether it is the provider's own (another's has no tiers there)."""
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    provider = _provider_at(base_url, snapshot.providers)
    info = provider.find_model(model, all_providers=snapshot.providers)
    if info is None or not _is_model(model.lower(), info):
        return None
    return info, any(info is own for own in provider.models)


def _provider_at(base_url: str, providers: Sequence[Provider]) -> Provider:
    for provider in providers:
        if re.match(provider.api_pattern, base_url):
            return provider
    return next(provider for provider in providers if provider.id == "openai")


def _is_model(model: str, info: ModelInfo) -> bool:
    """Whether the id names this very model, or a dated snapshot of it.

    The data also matches by prefix and by part, and would give `gpt-5-nano-mine` the price of `gpt-5-nano`.
    """
    if model.startswith("ft:"):
        return info.id.startswith("ft:")
    return any(
        re.fullmatch(text, model) if pattern else _names(model, text)
        for pattern, text in [(False, info.id), *_clauses(info.match)]
    )


def _clauses(match: Any) -> Iterator[tuple[bool, str]]:
    """What the data matches by, flat: (whether it is a pattern, its text)."""
    for kind, value in vars(match).items():
        if isinstance(value, list):
            for clause in value:
                yield from _clauses(clause)
        else:
            yield kind == "regex", str(value).lower() if kind != "regex" else str(value)


def _names(model: str, name: str) -> bool:
    before, found, after = model.partition(name.rstrip("-@"))
    # A path or a region may stand before it: models/gemini-2.5-pro, us.anthropic.claude-3-haiku-20240307.
    return bool(found) and (not before or before[-1] in "/.:") and _SNAPSHOT.fullmatch(after) is not None


def _has_variant(info: ModelInfo, context: Mapping[str, str], when: datetime) -> bool:
    """Whether each part of the context has a price of its own: the data falls back without a word."""
    variants = [v for v in info.price_variants or () if v.constraint is None or v.constraint.active(when)]
    return all(
        any(v.when == {key: value} and v.prices.input_mtok is not None for v in variants)
        for key, value in context.items()
    )


def _from_data(prices: ModelPrice) -> Price | None:
    if prices.input_mtok is None or prices.output_citation_mtok is not None:
        # Billed by what no reply reports to us: hours, characters, citations.
        return None
    units = (
        prices.input_mtok,
        prices.cache_read_mtok,
        prices.cache_write_mtok,
        prices.output_mtok,
        prices.output_reasoning_mtok,
    )
    starts = sorted({0} | {tier.start for unit in units for tier in getattr(unit, "tiers", ())})
    rates = []
    for start in starts:
        read, cached, written, output, reasoning = (_rate(unit, start) for unit in units)
        read = read or 0.0
        output = output or 0.0
        rates.append(
            Rates(
                above=start,
                input=read,
                cached=read if cached is None else cached,
                written=read if written is None else written,
                output=output,
                reasoning=output if reasoning is None else reasoning,
            )
        )
    per_reply = (_rate(prices.requests_kcount, 0) or 0.0) / 1_000
    return Price(tuple(rates), prices.cache_write_mtok is not None, per_reply)


def _rate(unit: Any, start: int) -> float | None:
    """USD per million for replies above `start` input tokens."""
    if unit is None:
        return None
    price = getattr(unit, "base", unit)
    for tier in getattr(unit, "tiers", ()):
        if start >= tier.start:
            price = tier.price
    value = float(price)
    return value if math.isfinite(value) else None
