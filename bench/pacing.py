"""Pacing against a simulated server: the share of its limit that is used, and how many 429s that costs."""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pandas_llm.core.pace import Pace, Sent
from pandas_llm.core.retry import Limits

Bounds: TypeAlias = tuple[float, float]
"""The least share of the limit and the most 429s, after the first ten seconds."""

REFUSAL = 0.03  # seconds that a 429 takes, whatever an answer takes


@dataclass
class Server:
    """A token bucket for requests and one for tokens, as providers are known to keep them."""

    rate: Callable[[float], float]
    """Requests a second at a time, so that a limit may change."""
    depth: float = 1.0
    """Seconds of the rate."""
    tokens: float | None = None
    """A second."""
    headers: bool = False
    retry_after: bool = False
    others: float = 0.0
    """The share of the limit that other clients take, evenly."""
    moody: float = 0.0
    """The share of requests that it refuses whatever the limit says."""
    level: float = 0.0
    token_level: float = 0.0
    at: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(2))

    def __post_init__(self) -> None:
        self.level = self.rate(0.0) * self.depth
        self.token_level = (self.tokens or 0.0) * self.depth

    def accepts(self, now: float, tokens: float) -> bool:
        """Whether a request that arrives now goes through."""
        gone = max(0.0, now - self.at)
        self.at = max(self.at, now)
        rate = self.rate(now)
        self.level = min(rate * self.depth, self.level + gone * rate * (1 - self.others))
        if self.tokens is not None:
            self.token_level = min(self.tokens * self.depth, self.token_level + gone * self.tokens)
            if self.token_level < tokens:
                return False
        if self.level < 1 or self.dice.random() < self.moody:
            return False
        self.level -= 1
        self.token_level -= tokens
        return True

    def limits(self) -> Limits | None:
        """What its headers say."""
        if not self.headers:
            return None
        return Limits(
            requests=60 * self.rate(self.at),
            tokens=None if self.tokens is None else 60 * self.tokens,
            remaining_requests=float(int(self.level)),
            remaining_tokens=None if self.tokens is None else float(int(self.token_level)),
        )


@dataclass
class Outcome:
    """What a simulated run came to."""

    accepted: list[tuple[float, float]] = field(default_factory=list)
    """When, and for how many tokens."""
    refused: list[float] = field(default_factory=list)

    def share(self, server: Server, start: float, end: float) -> float:
        """What went through between two times, of what the limit would have allowed."""
        if server.tokens is not None:
            went = sum(tokens for at, tokens in self.accepted if start <= at < end)
            return went / (server.tokens * (end - start))
        steps = 1_000
        width = (end - start) / steps
        allowed = sum(server.rate(start + (step + 0.5) * width) * width for step in range(steps))
        return sum(start <= at < end for at, _ in self.accepted) / allowed

    def refusals(self, start: float, end: float) -> float:
        """The share of 429s in what was sent between two times."""
        refused = sum(start <= at < end for at in self.refused)
        return refused / max(1, refused + sum(start <= at < end for at, _ in self.accepted))


@dataclass
class Simulation:
    """Workers, one first-in-first-out queue with one timer at its head, and a server; no sleeping."""

    pace: Pace
    server: Server
    latency: float
    seconds: float
    tokens: Callable[[random.Random], float] = lambda _: 0.0
    refusal: float = REFUSAL
    seed: int = 1
    start: float = 0.0

    def run(self) -> Outcome:
        """Send as fast as the pace lets us until the time is up."""
        dice = random.Random(self.seed)
        outcome, count, in_flight, timer = Outcome(), 0, 0, -1.0
        events: list[tuple[float, int, Sent | None, float, Any]] = []
        now, need, waiting = self.start, self.tokens(dice), True
        while now < self.seconds:
            while waiting and in_flight < self.pace.limit:
                wait = self.pace.take(now, need)
                if wait > 0:
                    if timer <= now:
                        timer = now + wait
                        # A real timer is late by a little.
                        heapq.heappush(events, (timer + 0.001 * dice.random(), count, None, need, "arrive"))
                        count += 1
                    break
                in_flight += 1
                there = now + up(self.latency) * (0.5 + dice.random())
                heapq.heappush(events, (there, count, self.pace.sent(now, need), need, "arrive"))
                count += 1
                need = self.tokens(dice)
            now, _, sent, used, what = heapq.heappop(events)
            if sent is None:
                timer = -1.0
            elif what == "arrive":
                event = self._arrive(now, used, dice, outcome)
                heapq.heappush(events, (event[0], count, sent, used, event[1]))
                count += 1
            else:
                in_flight -= 1
                self._answer(now, sent, used, what)
        return outcome

    def _arrive(
        self, now: float, tokens: float, dice: random.Random, outcome: Outcome
    ) -> tuple[float, tuple[str, Limits | None]]:
        if self.server.accepts(now, tokens):
            outcome.accepted.append((now, tokens))
            return now + self.latency * (0.7 + 0.6 * dice.random()), ("ok", self.server.limits())
        outcome.refused.append(now)
        return now + self.refusal * (0.5 + dice.random()), ("429", self.server.limits())

    def _answer(self, now: float, sent: Sent, tokens: float, what: tuple[str, Limits | None]) -> None:
        if what[0] == "ok":
            self.pace.succeeded(now, sent, what[1], tokens)
        else:
            missing = max(0.1, (1 - self.server.level) / self.server.rate(now))
            self.pace.refused(now, sent, missing if self.server.retry_after else None, what[1])


def constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def dip(rate: float) -> Callable[[float], float]:
    """A limit that falls to a third after 30 s and comes back after 60."""
    return lambda now: rate / 3 if 30 <= now < 60 else rate


def unlimited(most: int, latency: float, **more: Any) -> Server:
    """A server with room for everything; its rate is all that so many in flight can ask of it."""
    return Server(constant(most / (latency + up(latency))), depth=1e6, retry_after=True, **more)


def up(latency: float) -> float:
    """Seconds that a request is on its way to the server, on average."""
    return min(0.02, latency / 4)


def after_quiet(most: int, latency: float, calls: int = 6) -> Simulation:
    """Calls of two rows, a second apart, with a 429 each; then one that wants all there is."""
    pace, now = Pace(most), 0.0
    for _ in range(calls):
        pace.declare(now)
        refused, accepted = pace.sent(now), pace.sent(now)
        pace.refused(now + REFUSAL, refused)
        pace.succeeded(now + latency, accepted)
        again = now + REFUSAL + pace.take(now + REFUSAL)
        pace.succeeded(again + latency, pace.sent(again))
        pace.idle()
        now = again + latency + 1.0
    return Simulation(pace, unlimited(most, latency), latency, now + 20.0, start=now)


def scenarios(rate: float, latency: float, seconds: float) -> Iterator[tuple[str, Simulation, Bounds]]:
    """Every way to know a limit, at one limit and latency, with what it has to keep."""
    most = max(64, int(2 * rate * latency))
    learnt: dict[str, Any] = {"latency": latency, "seconds": seconds}

    def of(pace: Pace, server: Server, **more: Any) -> Simulation:
        return Simulation(pace, server, **{**learnt, **more})

    limit = constant(rate)
    seen: dict[str, Any] = {"headers": True, "retry_after": True}
    yield "declared", of(Pace(most, rpm=60 * rate), Server(limit)), (0.98, 0.0)
    yield "headers", of(Pace(most), Server(limit, **seen)), (0.95, 0.0)
    yield "headers, others take 30 %", of(Pace(most), Server(limit, **seen, others=0.3)), (0.6, 0.05)
    yield "429s and Retry-After", of(Pace(most), Server(limit, retry_after=True)), (0.8, 0.05)
    yield "429s alone", of(Pace(most), Server(limit)), (0.8, 0.05)
    yield "429s alone, 10 s deep", of(Pace(most), Server(limit, depth=10)), (0.8, 0.05)
    yield "429s alone, slow as answers", of(Pace(most), Server(limit), refusal=latency), (0.8, 0.05)
    if rate < 50:
        yield "no limit, 2 % refused", of(Pace(64), unlimited(64, latency, moody=0.02)), (0.4, 0.03)
        yield "six small calls, a 429 each", after_quiet(64, latency), (0.95, 0.0)
    if rate < 500:
        yield "headers, limit dips", of(Pace(most), Server(dip(rate), **seen), seconds=110), (0.9, 0.05)
        yield "429s alone, limit dips", of(Pace(most), Server(dip(rate)), seconds=110), (0.7, 0.05)
    # 80 tokens a request, and room for 40: tokens are what there is too little of.
    wanted: dict[str, Any] = {"tokens": lambda dice: 20 + 180 * dice.random() ** 2}
    yield (
        "tokens, declared",
        of(Pace(most, tpm=2_400 * rate), Server(limit, tokens=40 * rate), **wanted),
        (0.95, 0.01),
    )
    yield "tokens, headers", of(Pace(most), Server(limit, tokens=40 * rate, **seen), **wanted), (0.9, 0.01)


def main() -> int:
    """Print the table; 1 where a bound isn't kept."""
    missed = 0
    print(f"{'after 10 s, of the limit:':44}{'used':>8}{'429s':>8}{'  (first 10 s: 429s)'}")
    for latency in (0.05, 2.0):
        for rate, seconds in ((10, 60), (50, 60), (500, 30)):
            for name, simulation, (least, most) in scenarios(rate, latency, seconds):
                outcome, end = simulation.run(), simulation.seconds
                start = max(10, simulation.start)
                used, refused = outcome.share(simulation.server, start, end), outcome.refusals(start, end)
                ok = used >= least and refused <= most
                missed += not ok
                print(
                    f"{rate:5}/s, {latency:4} s: {name:28}{used:8.3f}{refused:8.3f}"
                    f"{outcome.refusals(0, 10):12.3f}{'' if ok else f'   missed: {least}, {most}'}"
                )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
