"""What the fake server saw and billed, and what can be set on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fakes.answers import Answer, Json


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    at: float
    """By `time.monotonic`."""
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Json
    text: str
    """The row's text, without its fence."""

    @property
    def authorized(self) -> bool:
        """Whether an Authorization header came."""
        return "authorization" in self.headers


@dataclass(frozen=True, slots=True)
class Violation:
    """A body that no OpenAI server would take."""

    path: str
    message: str
    body: Any


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens."""

    input: float = 0.10
    output: float = 0.50
    cached: float = 0.01
    cache_write: float = 0.125
    embedding: float = 0.02
    flex: float = 0.5
    """What the flex tier costs of the standard price."""
    batch: float = 0.5
    """What a batch costs of the standard price."""


@dataclass(slots=True)
class Bill:
    """What was produced so far, and its price in USD."""

    completions: int = 0
    embeddings: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float = 0.0
    texts: Counter[str] = field(default_factory=Counter)
    """How often each row's text was billed, live and in batches together."""
    batches: int = 0
    """Batches that were created, those that failed too."""
    batch_completions: int = 0
    """Completions billed in batches; `completions` are the live ones."""
    batch_embeddings: int = 0
    batch_rows: Counter[str] = field(default_factory=Counter)
    """How often each custom_id was billed."""

    def add_completion(
        self, text: str, reply: Mapping[str, Any], prices: Prices, row: str | None = None
    ) -> None:
        """Bill a reply by its usage; `row`: the custom_id of a batch's row."""
        usage = reply["usage"]
        prompt, said = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        details = usage.get("prompt_tokens_details") or {}
        cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
        dear = (prompt - cached - written) * prices.input + said * prices.output
        dear += cached * prices.cached + written * prices.cache_write
        tier = prices.flex if reply.get("service_tier") == "flex" else 1.0
        self.cost += dear / 1e6 * (tier if row is None else prices.batch)
        if row is None:
            self.completions += 1
        else:
            self.batch_completions += 1
            self.batch_rows[row] += 1
        self.texts[text] += 1
        self.input_tokens += prompt
        self.output_tokens += said
        self.cached_tokens += cached
        self.cache_write_tokens += written
        self.reasoning_tokens += (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0

    def add_embeddings(
        self, texts: Sequence[str], tokens: int, prices: Prices, row: str | None = None
    ) -> None:
        """Bill one request for the vectors of these texts; `row` as above."""
        self.texts.update(texts)
        self.input_tokens += tokens
        self.cost += tokens * prices.embedding / 1e6 * (1.0 if row is None else prices.batch)
        if row is None:
            self.embeddings += 1
        else:
            self.batch_embeddings += 1
            self.batch_rows[row] += 1


@dataclass(kw_only=True)
class Settings:
    """What can be set, at the start or while the server runs."""

    answer: Callable[[str, Json], str | Answer] | None = None
    """(text, body) -> content or Answer; None: a valid reply made from the text."""
    label_probabilities: Mapping[Any, float] | None = None
    """What log-probabilities say of the labels, raw: they needn't add up to 1."""
    embed: Callable[[str, int], Sequence[float]] | None = None
    """(text, dimensions) -> vector; None: texts that share words are near."""
    latency: float | Callable[[str], float] = 0.0
    """Seconds, or text -> seconds."""
    rpm: float | None = None
    tpm: float | None = None
    depth: float = 1.0
    """Seconds of its rate that a limit's bucket holds."""
    rate_headers: str = "full"
    """`"full"`: x-ratelimit-* on every reply, Retry-After on a 429; `"retry-after"`: only that; `"none"`."""
    refuse_formats: Collection[str] = ()
    """Types of response_format that get a 400 naming it."""
    refuse_breakpoint: bool = False
    refuse_logprobs: bool = False
    api_key: str | None = None
    """None: any key, or none at all, is right."""
    models: Collection[str] | None = None
    """None: any model id is known."""
    reasoning_tokens: int = 0
    batch_seconds: float = 0.0
    """How long after its creation a batch is `in_progress`, its rows answered bit by bit; 0: as quick as
    possible. At each retrieve a batch goes on by one status, if its time has come."""
    validating_seconds: float = 0.0
    finalizing_seconds: float = 0.0
    cancelling_seconds: float = 0.0
    hold_batches: bool | str = False
    """A status that no batch leaves until `release_batches()`; True: `in_progress`."""
    enqueued_limit: int | None = None
    """Prompt tokens per model in unfinished batches; a batch beyond it fails when it is validated."""
    enqueued_words: str = "openai"
    """Whose words tell of that limit: `"openai"` or `"azure"`."""
    batches_per_hour: int | None = None
    batch_requests: int = 50_000
    """Lines, and texts to embed, that a batch may hold."""
    batch_bytes: int = 200_000_000
    prices: Prices = field(default_factory=Prices)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in SETTINGS:
            raise AttributeError(f"The fake server has no setting {name!r}; it has {', '.join(SETTINGS)}.")
        object.__setattr__(self, name, value)


SETTINGS = tuple(each.name for each in fields(Settings))
