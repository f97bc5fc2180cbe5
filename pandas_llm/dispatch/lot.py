"""What a batch dispatcher is given, and a shard as one call follows it."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pandas_llm.core.budget import Budget
from pandas_llm.core.compound import Batches
from pandas_llm.core.lines import input_line
from pandas_llm.core.plan import Plan
from pandas_llm.core.prices import Price
from pandas_llm.core.types import BatchProgress, Misfit, Task
from pandas_llm.io.journal import Journal
from pandas_llm.io.shards import Shard
from pandas_llm.io.store import Payload, Store


class Collector(Protocol):
    """Who is told what becomes of codes beside their Results."""

    def found(self, code: int, payload: Payload) -> bool:
        """Another call paid for this answer; False where it isn't one to us."""
        ...

    def pend(self, codes: Iterable[int], reason: str) -> None:
        """These get no answer in this run, and why."""
        ...

    def note(self, line: str) -> None:
        """Something that people must be told at the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Filing:
    """What a batch dispatcher needs to know about a call."""

    plan: Plan
    task: Task
    body: Callable[[str], bytes]
    """A text's request."""
    url: str
    """As batch files spell the API's path."""
    settings: Batches
    wait: bool
    """False: submit, collect what is there, and return."""
    store: Store
    journal: Journal
    run: int
    facts: Mapping[str, Any]
    """What the store notes of each shard: output, question, sketch."""
    price: Price | None
    tokens_of: Callable[[str], int]
    """What a text's request counts against the enqueued-token limit."""
    seconds: float
    max_retries: int
    replace: bool
    """Whether answers that are known may be asked again."""
    budget: Budget | None
    estimate: Callable[[str], float]
    repair: Callable[[Mapping[int, Misfit]], Awaitable[bool]]
    """Asks once more, concurrently, for replies that didn't fit; whether each of them has its Result."""
    is_late: Callable[[int], bool]
    """Whether so many missing answers must be asked concurrently now, for the deadline."""
    concurrent_at_last: bool
    """Whether what batches lose is handed back, to be asked concurrently."""

    @property
    def scope(self) -> str:
        """The name of this endpoint and model in the store's facts."""
        question = self.plan.question
        return f"{question.base_url} {question.model}"

    def line(self, code: int) -> bytes:
        """A request as a line of an input file."""
        return input_line(self.plan.key(code), self.url, self.body(self.plan.texts[code]))

    def lines(self, codes: Iterable[int]) -> Iterator[bytes]:
        """Requests as the lines of an input file."""
        return (self.line(code) for code in codes)


@dataclass(slots=True, eq=False)
class Lot:
    """A shard as this call follows it."""

    shard: Shard
    codes: Sequence[int] = field(default_factory=lambda: array("i"))
    """Those of this call's requests that are in it."""
    note: str = ""
    """Why it waits."""
    refused: int = 0
    """How often its batch failed for the enqueued-token limit."""
    looked_again: bool = False
    """Whether it was completed without a file, and was asked about once more."""
    cancelling: bool = False
    late: bool = False
    """Whether it was cancelled for the deadline."""
    over: bool = False
    """Whether this call is done with it."""

    @property
    def status(self) -> str:
        """The provider's word; before it has one, ours."""
        return str(self.shard.facts.get("status") or self.shard.state)

    @property
    def tokens(self) -> int:
        """What it counts against the enqueued-token limit, estimated."""
        return int(self.shard.facts.get("tokens") or 0)

    def progress(self, now: float) -> BatchProgress:
        """What people see of it; `now` is in seconds since 1970."""
        facts = self.shard.facts
        expires, changed = facts.get("expires_at"), facts.get("changed_at")
        begun = facts.get("created_at") or self.shard.at
        ended = facts.get("ended_at") or now
        return BatchProgress(
            name=self.shard.name,
            status=self.status,
            requests=facts.get("requests") or len(self.codes),
            completed=facts.get("completed") or 0,
            failed=facts.get("failed") or 0,
            seconds=max(0.0, ended - begun),
            expires_in=None if expires is None or self.over else expires - now,
            quiet=0.0 if changed is None or self.over else max(0.0, now - changed),
            note=self.note,
        )
