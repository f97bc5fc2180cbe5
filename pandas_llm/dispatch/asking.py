"""What a dispatcher is given, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pandas_llm.core.errors import LLMError
from pandas_llm.core.prices import Price
from pandas_llm.core.types import Endpoint, Question, Request, Result, Task
from pandas_llm.core.wire import Manner


class Source(Protocol):
    """Where workers get requests from."""

    async def take(self, *, at_once: bool = False) -> Request | None:
        """The next request, None when there is no more; with `at_once`, when none is to be had now.

        Who holds one already and waits for another could wait for itself: for money that the first will
        give back, for a call that waits for the first's answer.
        """
        ...

    def put_back(self, request: Request) -> None:
        """Let a request that wasn't sent be taken again."""
        ...

    def drop(self, request: Request) -> None:
        """Give back a request that got no final answer."""
        ...

    def settle(self, result: Result) -> None:
        """Take note of what a request cost, before the next one is taken."""
        ...


class Watcher(Protocol):
    """Who is told of what happens between a request and its result."""

    def sent(self) -> None:
        """A request left."""
        ...

    def back(self) -> None:
        """Its reply, or its failure, is here."""
        ...

    def dropped(self) -> None:
        """Nobody waits for its reply any more."""
        ...

    def retried(self, error: LLMError) -> None:
        """It will be sent again."""
        ...

    def note(self, line: str) -> None:
        """Something that people must be told at the end."""
        ...

    def manner(self, manner: Manner) -> None:
        """The endpoint understands less than was assumed, or has shown that it understands this much."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """What a dispatcher needs to know about a call."""

    question: Question
    task: Task
    endpoint: Endpoint
    price_of: Callable[[str | None], Price | None]
    """The price of the service tier a reply says it was billed at."""
    seconds: float
    """For a whole answer."""
    max_retries: int
    max_concurrency: int
    tokens_of: Callable[[str], int]
    """What a text's request counts against a token limit."""
    flex_or_standard: bool = False
    """Whether the standard tier is asked where the flex tier has no room."""
