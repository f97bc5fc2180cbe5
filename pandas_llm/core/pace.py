"""How fast requests may leave: arithmetic on a given time, one object per endpoint and model.

Two token buckets and a concurrency limit. The rates are the declared ones, else those the headers name, else
what the server was measured to accept between two refusals; one 429 alone is no limit, it only waits. Nothing
is reserved ahead: who waits asks again, so a level that headers correct moves those who already wait. Not
thread-safe: the caller holds a lock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pandas_llm.core.retry import Limits, Measured, Refusals
from pandas_llm.core.types import Allowed

DEPTH = 0.5  # seconds of the rate; 1.0 drew a 429 from a server bucket of one second, even at 98.5 %
MARGIN = 0.98  # of a limit that was learnt, not declared
_SHORTEST = 0.001  # seconds; a shorter timer would spin
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds after a 429 that names none; doubled while nothing goes through
_CERTAIN, _TOLERATED = 0.1, 0.03  # share of 429s that shows a limit; and that isn't worth going slower for
_LEAST_FACTOR, _RECOVERY = 0.02, 0.005  # of the rate; back a second
_FORGET = 60.0  # seconds of silence, after which what refusals taught is no longer true
_EPSILON = 1e-9


class Sent(NamedTuple):
    """A request on its way: handed back with what became of it."""

    number: int
    at: float
    tokens: float
    total: float
    """Tokens sent up to here, these included."""


class Bucket:
    """A token bucket that may be lent what the server itself has left."""

    __slots__ = ("_at", "credit", "depth", "level", "rate")

    def __init__(self, rate: float, now: float, *, full: bool) -> None:
        self.rate = rate
        self.depth = max(1.0, DEPTH * rate)
        self.level = self.depth if full else 0.0
        self.credit = 0.0
        self._at = now

    def refill(self, now: float) -> None:
        """Let the time since the last call run in; borrowed, at no more than twice the rate."""
        gain = (now - self._at) * self.rate
        if gain <= 0:
            return
        self._at = now
        level = self.level + gain
        if self.credit > 0.0 and level < self.depth:
            lent = min(gain, self.credit, self.depth - level)
            self.credit -= lent
            level += lent
        self.level = min(self.depth, level)

    def shortfall(self, amount: float) -> float:
        """Seconds until `amount` is there; more than the bucket holds goes when it is full."""
        missing = min(amount, self.depth) - self.level
        if missing <= _EPSILON:
            return 0.0
        lent = min(missing / 2, self.credit)
        return max(_SHORTEST, (missing - lent) / self.rate)

    def correct(self, remaining: float, since: float, latency: float, *, lend: bool) -> None:
        """Follow the server's own count: what it had left `latency` ago, and what was sent since."""
        # What was sent since isn't taken off: at a start most of it is refused and costs the server nothing.
        self.level = min(self.level, remaining + self.rate * (latency + 0.1))
        credit = MARGIN * remaining - since - 2 - max(0.0, self.level)
        self.credit = max(0.0, credit) if lend else 0.0

    def change(self, rate: float, now: float) -> None:
        """Fill at another rate from now on."""
        self.refill(now)
        self.rate = rate
        self.depth = max(1.0, DEPTH * rate)
        self.level = min(self.level, self.depth)

    def settle(self, back: float) -> None:
        """Give back what was taken too much, or take what was missing."""
        self.level = min(self.depth, self.level + back)


class Concurrency:
    """Requests in flight: up by one after 25 successes, down by a quarter when the server can't."""

    __slots__ = ("_ceiling", "_clean", "limit", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = most
        self._ceiling = most
        self._clean = 0

    def succeeded(self) -> None:
        """Count a success; probe at most 10 % above the last ceiling."""
        if self.limit >= self.most:
            return
        self._clean = (self._clean + 1) % 25
        if self._clean:
            return
        if self.limit < self._ceiling + max(1, self._ceiling // 10):
            self.limit += 1
        else:
            # 25 more went well at the probe's end: that is the new ceiling.
            self._ceiling = self.limit

    def cut(self, least: float = 1.0) -> None:
        """Cut by a quarter, but not below `least`."""
        self._ceiling = self.limit
        self.limit = max(1, min(self.limit, max(int(self.limit * 0.75), math.ceil(least))))
        self._clean = 0

    def allow(self, most: int) -> None:
        """Set the hard ceiling."""
        if self.limit == self.most:
            self.limit = self._ceiling = most
        self.most = most
        self.limit = min(self.limit, most)


class Pace:
    """How fast requests to one endpoint and model may leave.

    Who has a place in flight asks `take` until it says 0.0, calls `sent` as the bytes leave, and reports the
    outcome with what `sent` returned. No more than `limit` requests may be in flight.

    Parameters
    ----------
    max_concurrency
        The hard ceiling of `limit`, where it starts.
    rpm, tpm
        Declared requests and tokens a minute; they go before anything the server says or does.
    """

    def __init__(
        self, max_concurrency: int = 64, *, rpm: float | None = None, tpm: float | None = None
    ) -> None:
        self._rpm, self._tpm = rpm, tpm
        self._learnt = Limits()
        self._measured, self._refusals = Measured(), Refusals()
        self._concurrency = Concurrency(max_concurrency)
        self._number, self._total, self._latency = 0, 0.0, 0.0
        self._held_until, self._reason, self._pause = -math.inf, "", _PAUSE
        self._cut_number = 0  # what was sent up to here and is refused belongs to one burst
        self._followed = 0  # the newest request whose headers were read: older replies tell of older limits
        self._known_number = 0  # what was sent up to here left before the rate was known
        self._factor, self._factor_at = 1.0, 0.0
        self._to_cut, self._next_cut = False, -math.inf
        self._idle = True
        self._marks = ((0.0, 0), (0.0, 0))  # when how many had been sent, 2.5 to 5 s ago and since
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._set_rates(0.0)

    @property
    def limit(self) -> int:
        """Requests that may be in flight just now."""
        return self._concurrency.limit

    @property
    def allowed(self) -> Allowed:
        """What may leave just now."""
        rpm, tpm = (None if each is None else 60 * each.rate for each in (self._requests, self._tokens))
        return Allowed(rpm, tpm, self.limit)

    @property
    def rate(self) -> float | None:
        """Requests a second; None while no limit is known."""
        return None if self._requests is None else self._requests.rate

    def declare(
        self,
        now: float,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        """Take over what a later call declares; None leaves what an earlier one did."""
        if now - self._marks[1][0] > _FORGET:
            self._measured, self._factor, self._pause = Measured(), 1.0, _PAUSE
            self._concurrency = Concurrency(self._concurrency.most)
            self._set_rates(now)
        if (rpm or self._rpm, tpm or self._tpm) != (self._rpm, self._tpm):
            self._rpm, self._tpm = rpm or self._rpm, tpm or self._tpm
            self._factor = 1.0
            self._set_rates(now)
        if max_concurrency is not None and max_concurrency != self._concurrency.most:
            self._concurrency.allow(max_concurrency)

    def take(self, now: float, tokens: float = 0.0) -> float:
        """Take a slot and say 0.0, or take nothing and say in how many seconds to ask again."""
        if now < self._held_until:
            return max(_SHORTEST, self._held_until - now)
        wait = 0.0
        requests, budget = self._requests, self._tokens
        if requests is not None:
            requests.refill(now)
            wait = requests.shortfall(1.0)
        if budget is not None:
            budget.refill(now)
            wait = max(wait, budget.shortfall(tokens))
        if wait > 0.0:
            return wait
        if requests is not None:
            requests.level -= 1.0
        if budget is not None:
            budget.level -= tokens
        return 0.0

    def sent(self, now: float, tokens: float = 0.0) -> Sent:
        """Note that a request leaves, with the tokens it was admitted for."""
        if self._idle or now - self._marks[1][0] > 2.5:
            self._mark(now)
        self._number += 1
        self._total += tokens
        return Sent(self._number, now, tokens, self._total)

    def idle(self) -> None:
        """Note that nobody has anything to send: how fast it went says nothing of how fast it may go."""
        self._idle = True

    def succeeded(
        self, now: float, sent: Sent, limits: Limits | None = None, used_tokens: float | None = None
    ) -> None:
        """Note a success: what its headers say, and the tokens it really took."""
        latency = now - sent.at
        self._latency += (latency - self._latency) / (16 if self._latency else 1)
        self._concurrency.succeeded()
        if sent.number > self._cut_number:
            self._pause = _PAUSE
        if self._tokens is not None and used_tokens is not None:
            self._tokens.settle(sent.tokens - used_tokens)
        if limits is not None and sent.number > self._followed:
            self._follow(now, sent, limits)
        if self._factor < 1.0 and now - self._factor_at >= 1.0:
            self._factor = min(1.0, self._factor + _RECOVERY * (now - self._factor_at))
            self._factor_at = now
            self._set_rates(now)
        if self._measured.clean(now, self._number):
            self._set_rates(now)

    def refused(
        self, now: float, sent: Sent, retry_after: float | None = None, limits: Limits | None = None
    ) -> None:
        """Note a 429: everybody waits; where too many of them come, less is sent from now on."""
        if limits is not None and sent.number > self._followed:
            self._follow(now, sent, limits)
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.level, bucket.credit = min(bucket.level, 0.0), 0.0
        first, pause = sent.number > self._cut_number, retry_after or self._pause
        if retry_after or first:
            self.hold(now + pause, "Retry-After" if retry_after else "rate limit")
        if first:
            self._cut_number = self._number
            self._pause = self._pause if retry_after else min(_LONGEST_PAUSE, 2 * self._pause)
            self._measured.burst(now, self._number, self._marks[0], now - sent.at)
            self._to_cut = True
        self._refusals.add(sent.number, self._number if first else None)
        self._measured.refused(sent.number)
        if self._refusals.exceed(_TOLERATED):
            self._slow_down(now, sent, pause)

    def timed_out(self, now: float, sent: Sent) -> None:  # noqa: ARG002 - every event has its time
        """Note a request without an answer in time: it cuts the concurrency like a 429."""
        if sent.number > self._cut_number:
            self._cut_number = self._number
            self._concurrency.cut()

    def hold(self, until: float, reason: str = "rate limit") -> None:
        """Nothing leaves before `until`."""
        if until > self._held_until:
            self._held_until, self._reason = until, reason

    def waiting(self, now: float) -> tuple[float, str]:
        """Seconds until something can leave, and why: `Retry-After`, `rate limit`, `rpm`, `tpm` or `""`."""
        if now < self._held_until:
            return self._held_until - now, self._reason
        for bucket, reason in ((self._requests, "rpm"), (self._tokens, "tpm")):
            if bucket is not None:
                bucket.refill(now)
                wait = bucket.shortfall(1.0)
                if wait > 0.0:
                    return wait, reason
        return 0.0, ""

    def _mark(self, now: float) -> None:
        silent = self._idle or now - self._marks[1][0] > 5.0
        self._marks = ((now, self._number) if silent else self._marks[1], (now, self._number))
        if silent:
            self._idle = False
            self._measured.start(self._marks[0])
            self._refusals = Refusals()

    def _slow_down(self, now: float, sent: Sent, pause: float) -> None:
        unknown = self._rpm is None and self._learnt.requests is None
        if unknown and (self.rate is not None or self._refusals.exceed(_CERTAIN)):
            self._measured.follow()
        if self._to_cut and now >= self._next_cut:
            self._to_cut, self._next_cut = False, now + max(2.0, 2 * pause)
            if not unknown and sent.number > self._known_number:
                self._factor, self._factor_at = max(_LEAST_FACTOR, 0.9 * self._factor), now
            # By Little's law the known rate needs this many in flight: fewer would only be slower.
            self._concurrency.cut(least=1.2 * self._latency * (self.rate or 0.0))
        self._set_rates(now)

    def _follow(self, now: float, sent: Sent, limits: Limits) -> None:
        """Take over the limits of a response's headers, and how much of them the server had left."""
        self._followed = sent.number
        learnt = self._learnt
        if limits.requests not in (None, learnt.requests) or limits.tokens not in (None, learnt.tokens):
            self._learnt = Limits(limits.requests or learnt.requests, limits.tokens or learnt.tokens)
            self._known_number = self._number
            self._set_rates(now)
        for bucket, remaining, since, declared in (
            (self._requests, limits.remaining_requests, self._number - sent.number, self._rpm),
            (self._tokens, limits.remaining_tokens, self._total - sent.total, self._tpm),
        ):
            if bucket is not None and remaining is not None:
                bucket.refill(now)
                bucket.correct(remaining, since, now - sent.at, lend=declared is None)

    def _set_rates(self, now: float) -> None:
        requests = self._per_second(self._rpm, self._learnt.requests)
        if requests is None and self._measured.rate < math.inf:
            requests = self._measured.rate
        self._requests = self._bucket(self._requests, requests, now)
        self._tokens = self._bucket(self._tokens, self._per_second(self._tpm, self._learnt.tokens), now)

    def _per_second(self, declared: float | None, learnt: float | None) -> float | None:
        if declared is not None:
            return declared / 60 * self._factor
        return None if learnt is None else learnt / 60 * MARGIN * self._factor

    def _bucket(self, bucket: Bucket | None, rate: float | None, now: float) -> Bucket | None:
        if bucket is None or rate is None:
            # Full only at the very start: what a limit learnt on the way allows is spent already.
            return None if rate is None else Bucket(rate, now, full=not self._number)
        bucket.change(rate, now)
        return bucket
