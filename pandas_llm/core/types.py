"""The values that travel through a run: frozen, and a bad one can't be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from pandas_llm.core.errors import LLMError

Key: TypeAlias = bytes
"""16 bytes: the hash of everything that can change the answer."""

Values: TypeAlias = list[Any]
"""What a reply became: one JSON value per field of the task, in the fields' order."""

SOURCES = ("api", "batch", "cache", "duplicate", "similar", "given", "skipped", "pending", "failed")
"""Where a row's answer came from, in the order the panel shows them."""

Kind = Literal["text", "int", "float", "bool", "datetime", "category", "object", "vector"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens billed. It adds up, but price each reply alone: tiers make a summed price wrong."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Part of `input` that the provider read from its prompt cache."""
    cache_written: int = 0
    """Part of `input` that the provider wrote to its prompt cache."""
    reasoning: int = 0
    """Part of `output` that the model thought and didn't show."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.cache_written + other.cache_written,
            self.reasoning + other.reasoning,
        )


@dataclass(frozen=True, slots=True)
class Field:
    """One output column."""

    name: str
    kind: Kind
    categories: tuple[Any, ...] = ()
    """For `kind="category"`: exactly these, in this order, of the labels' own type."""


class Reader(Protocol):
    """How a reply's text becomes values."""

    def __call__(self, content: str, /) -> Values:
        """Values in the order of the fields; `SchemaMismatchError` saying what is wrong otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of every row of a call: the verb's fixed messages, its answer's schema, its columns."""

    verb: str
    output: str
    """The name the answer goes by; the first part of side columns' names."""
    system: str
    """The fixed part of the prompt, byte-identical for every row of a call."""
    schema: Mapping[str, Any] | None
    """Strict JSON schema of the reply; None where any text will do."""
    fields: tuple[Field, ...]
    """The columns that come back. A field for the confidence, if asked for, is the last one."""
    read: Reader
    """Reply text -> values, the confidence left out."""
    allowed: str = ""
    """What a repair says is allowed."""
    labels: tuple[str | int, ...] = ()
    """The labels a confidence is computed over; empty where none was asked for."""
    example_texts: frozenset[str] = frozenset()
    """The examples' inputs: rows with such a text are counted in the run's line."""

    @property
    def confidence(self) -> bool:
        """Whether log-probabilities are asked for."""
        return bool(self.labels)


@dataclass(frozen=True, slots=True)
class Question:
    """The fixed part of what a column is asked. Its text and this are all that can change an answer."""

    base_url: str
    """With port and path, without a slash at the end."""
    path: str
    """The API path below it: `/chat/completions`, `/embeddings`."""
    verb: str
    model: str
    system: str
    schema: Mapping[str, Any] | None
    params: Mapping[str, Any] = field(default_factory=dict)
    logprobs: bool = False

    @property
    def in_process(self) -> bool:
        """Whether it is answered here: nothing leaves the process, nobody bills it."""
        return self.base_url.startswith("local:")


@dataclass(frozen=True, slots=True)
class Request:
    """One text to be answered, under its key. Made when a worker takes it, never ahead for all rows."""

    key: Key
    text: str
    misfit: Misfit | None = None
    """A reply to it that was billed in a batch and is to be repaired."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response, read whole."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    seconds: float
    """From the first byte sent to the last byte read."""


class Endpoint(Protocol):
    """A server that speaks the OpenAI API, or something in this process that answers as one."""

    base_url: str
    """The part of it that goes into keys: with port and path, without a slash at the end."""

    async def send(self, path: str, body: bytes, seconds: float) -> Reply:
        """The response to a POST of `body`.

        Raises
        ------
        EndpointError
            Nobody answers there: refused, unknown host, TLS.
        ServerError
            The connection was lost (`code="connection"`), or `seconds` passed (`code="timeout"`).
        """
        ...

    async def close(self) -> None:
        """Give back the connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one request: an output or an error, never both, never neither."""

    key: Key
    output: Values | None = None
    error: LLMError | None = None
    usage: Usage = Usage()
    cost: float = 0.0
    """USD of all its attempts; NaN where a price is unknown."""
    model: str | None = None
    """As the response names it."""
    service_tier: str | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    latency: float = 0.0
    """Seconds of the last attempt."""
    attempts: int = 0
    """Requests sent for it."""
    in_doubt: int = 0
    """Attempts that timed out: they may be billed, nobody here can know."""
    replies: tuple[bytes, ...] = ()
    """Every raw reply that was billed, for `show`."""
    batch: bool = False
    """Whether the Batch API answered, at its price."""

    def __post_init__(self) -> None:
        if (self.output is None) == (self.error is None):
            raise ValueError("a Result holds either an output or an error")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A billed reply that didn't fit the schema: what a repair begins with."""

    content: str
    problem: str
    """What is wrong with it, in words for the model."""
    result: Result
    """What it would come to without a repair: an error, with its usage, cost and raw reply."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store keeps of a Result: an answer, or a failure that was billed."""

    output: Values | None
    error: tuple[str, str] | None
    """Class name and message of a billed failure."""
    usage: Usage
    model: str | None = None
    service_tier: str | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    latency: float = 0.0
    attempts: int = 1
    batch: bool = False
    """Whether it was billed at the Batch API's price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """One batch of a run at one moment."""

    name: str
    """The provider's id, or `batch file 3` before there is one."""
    status: str
    """The provider's word; before it has one, what is being done: `uploading`, `creating`."""
    requests: int
    completed: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Since the provider took it."""
    expires_in: float | None = None
    """Seconds until the provider gives up on what is missing."""
    quiet: float = 0.0
    """Seconds since its status or counts last changed."""
    note: str = ""
    """Why it waits: `enqueued-token limit of gpt-6-luna (2,000,000)`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What one class of failures looks like."""

    rows: tuple[int, ...] = ()
    """A few of its rows, counted as in `iloc`."""
    said: str = ""
    """Its latest message."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an endpoint allows of one model just now; None where no limit is known."""

    rpm: float | None = None
    """Requests a minute, declared or learnt."""
    tpm: float | None = None
    """Tokens a minute."""
    in_flight: int | None = None
    """Requests in flight: falls where the server can't take more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run at one moment. Watchers get this and can't touch the run."""

    run: str = ""
    title: str = ""
    """`classify · body · gpt-6-luna`, for people."""
    rows: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    """Rows done so far by source; what is missing to `rows` is still to come."""
    asked: int = 0
    """Requests this run set out to send."""
    answered: int = 0
    """Of these, how many ended, well or not."""
    usage: Usage = Usage()
    cost: float = 0.0
    projected: float = float("nan")
    """Of the whole run at today's rate per request; NaN while nothing is known."""
    max_cost: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    """Rows that failed by error class; those that couldn't be sent, too."""
    last_error: str = ""
    """The latest failure, one line, for people."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """By error class, where and what: at least of those in `errors` that concern single rows."""
    retries: int = 0
    in_flight: int = 0
    rate: float = 0.0
    """Requests ended per second over the last 10 s; what came from the store doesn't count."""
    speeds: Sequence[float] = ()
    """The same for each interval of the run so far, the first one first."""
    eta: float | None = None
    """Seconds to go; None while nothing is known."""
    waiting: str = ""
    """Why nothing is sent just now: `rate limit, 12 s (Retry-After)`; empty when something is."""
    allowed: Allowed = Allowed()
    """What the endpoint allows, as far as it is known."""
    batches: Sequence[BatchProgress] = ()
    """The batches this run waits for, in the order of their submission."""
    latencies: Sequence[float] = ()
    """Seconds of the latest replies, at most 512."""
    seconds: float = 0.0
    state: Literal["running", "done", "stopped", "failed"] = "running"
    note: str = ""
    """One line said at the end, `pending` rows and why."""

    @property
    def done(self) -> int:
        """Rows that have their answer, or will not get one in this run."""
        return sum(self.sources.values())
