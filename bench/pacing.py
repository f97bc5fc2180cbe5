"""Pacing against a simulated server: the share of its limit that is used, and how many 429s that costs."""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from pandas_llm.core.pace import Pace, Sent
from pandas_llm.core.retry import Limits

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
    level: float = 0.0
    token_level: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.rate(0.0) * self.depth
        self.token_level = (self.tokens or 0.0) * self.depth

    def accepts(self, now: float, tokens: float) -> bool:
        gone = max(0.0, now - self.at)
        self.at = max(self.at, now)
        rate = self.rate(now)
        self.level = min(rate * self.depth, self.level + gone * rate)
        if self.tokens is not None:
            self.token_level = min(self.tokens * self.depth, self.token_level + gone * self.tokens)
            if self.token_level < tokens:
                return False
        if self.level < 1:
            return False
        self.level -= 1
        self.token_level -= tokens
        return True

    def limits(self) -> Limits | None:
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

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def share(self, server: Server, start: float, end: float) -> float:
        """Of what the server would have taken between two times."""
        steps = 1_000
        allowed = sum(server.rate(start + (end - start) * (i + 0.5) / steps) for i in range(steps))
        return sum(start <= at < end for at in self.accepted) / (allowed / steps * (end - start))

    def refusals(self, start: float, end: float) -> float:
        """429s among what was sent between two times."""
        bad = sum(start <= at < end for at in self.refused)
        return bad / max(1, bad + sum(start <= at < end for at in self.accepted))


@dataclass
class Simulation:
    """Workers, one first-in-first-out queue with one timer at its head, and a server; no sleeping."""

    pace: Pace
    server: Server
    latency: float
    seconds: float
    tokens: Callable[[random.Random], float] = lambda _: 0.0
    seed: int = 1

    def run(self) -> Outcome:
        dice = random.Random(self.seed)
        outcome, events, count, in_flight, timer = Outcome(), [], 0, 0, -1.0
        now, need, waiting = 0.0, self.tokens(dice), True
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
                up = min(0.02, self.latency / 4) * (0.5 + dice.random())
                heapq.heappush(events, (now + up, count, self.pace.sent(now, need), need, "arrive"))
                count += 1
                need = self.tokens(dice)
            now, _, sent, used, what = heapq.heappop(events)
            if sent is None:
                timer = -1.0
            elif what == "arrive":
                event = self._arrive(now, sent, used, dice, outcome)
                heapq.heappush(events, (event[0], count, sent, used, event[1]))
                count += 1
            else:
                in_flight -= 1
                self._answer(now, sent, used, what)
        return outcome

    def _arrive(
        self, now: float, sent: Sent, tokens: float, dice: random.Random, outcome: Outcome
    ) -> tuple[float, tuple[str, Limits | None]]:
        if self.server.accepts(now, tokens):
            outcome.accepted.append(now)
            return now + self.latency * (0.7 + 0.6 * dice.random()), ("ok", self.server.limits())
        outcome.refused.append(now)
        return now + REFUSAL * (0.5 + dice.random()), ("429", self.server.limits())

    def _answer(self, now: float, sent: Sent, tokens: float, what: tuple[str, Limits | None]) -> None:
        if what[0] == "ok":
            self.pace.succeeded(now, sent, what[1], tokens)
        else:
            missing = max(0.1, (1 - self.server.level) / self.server.rate(now))
            self.pace.refused(now, sent, missing if self.server.retry_after else None, what[1])


def line(name: str, simulation: Simulation) -> tuple[str, float, float, float, float]:
    outcome, end = simulation.run(), simulation.seconds
    start = min(10.0, end / 3)
    server = simulation.server
    return (
        name,
        outcome.share(server, 0, end),
        outcome.share(server, start, end),
        outcome.refusals(0, end),
        outcome.refusals(start, end),
    )


def main() -> int:
    print(f"{'':44}{'share':>8}{'>10 s':>8}{'429':>8}{'>10 s':>8}")
    for latency in (0.05, 2.0):
        for rate in (10, 50, 500):
            most = max(64, int(2 * rate * latency))
            def sim(pace, server, seconds=60.0, **kw):
                return Simulation(pace, server, latency, seconds, **kw)
            const = lambda t, r=rate: r
            rows = []
            rows.append(line(f"declared {rate}/s, {latency} s", sim(Pace(most, rpm=60*rate), Server(const))))
            rows.append(line(f"headers {rate}/s, {latency} s", sim(Pace(most), Server(const, headers=True, retry_after=True))))
            rows.append(line(f"429 alone {rate}/s, {latency} s", sim(Pace(most), Server(const))))
            rows.append(line(f"429 alone {rate}/s, {latency} s, RA", sim(Pace(most), Server(const,retry_after=True))))
            rows.append(line(f"429 alone {rate}/s, {latency} s, deep 10", sim(Pace(most), Server(const, depth=10))))
            ch = lambda t, r=rate: r if t < 40 or t>80 else r/3
            rows.append(line(f"429 alone change {rate}/s, {latency} s", sim(Pace(most), Server(ch), 120.)))
            rows.append(line(f"headers change {rate}/s, {latency} s", sim(Pace(most), Server(ch, headers=True), 120.)))
            for r in rows: print(f"{r[0]:44}"+"".join(f"{x:8.3f}" for x in r[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
