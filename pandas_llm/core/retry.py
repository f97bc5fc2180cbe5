"""Whether a failed request is sent again, and after how long; what headers and refusals say of limits."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import NamedTuple

from pandas_llm.core.errors import RateLimitError, ServerError

_FIRST, _LONGEST = 0.5, 30.0  # seconds of back-off
_TIMEOUTS = 2  # each one may be billed


def wait_before_retry(
    error: BaseException, attempt: int, *, max_retries: int, jitter: float, timeouts: int = 0
) -> float | None:
    """Seconds to wait before a request is sent again; None where it isn't.

    Parameters
    ----------
    error
        What the last attempt ended in.
    attempt
        Failed attempts of this request that count, the last one included: 1 after the first. A rate limit
        counts only where nothing else succeeded since, so the caller decides; its wait is never None.
    max_retries
        Attempts after the first, at most.
    jitter
        A random number in [0, 1): full jitter, so that requests that failed together don't return together.
    timeouts
        How many of this request's attempts timed out, the last one included.
    """
    longest = min(_LONGEST, _FIRST * 2.0 ** min(attempt - 1, 16))
    backoff = jitter * longest
    if isinstance(error, RateLimitError):
        # Never at once: where the server names no time, at least the whole of this step is waited.
        return error.retry_after + backoff if error.retry_after else longest + backoff
    if not isinstance(error, ServerError) or attempt > max_retries:
        return None
    if error.code == "timeout" and timeouts >= _TIMEOUTS:
        return None
    return (error.retry_after or 0.0) + backoff


class ErrorWindow:
    """The share of failures among the last 200 finished requests; what `max_error_rate` is held against."""

    __slots__ = ("_failed", "_last")

    SIZE = 200
    FEWEST = 20

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=self.SIZE)
        self._failed = 0

    def add(self, failed: bool) -> None:
        """Note a request that ended for good."""
        if len(self._last) == self.SIZE:
            self._failed -= self._last[0]
        self._last.append(failed)
        self._failed += failed

    @property
    def rate(self) -> float:
        """The share that failed, 0.0 before the first."""
        return self._failed / len(self._last) if self._last else 0.0

    def tripped(self, max_rate: float) -> bool:
        """Whether more than `max_rate` failed, among at least 20."""
        return len(self._last) >= self.FEWEST and self.rate > max_rate


class Refusals:
    """The share of 429s in the latest traffic, each burst's weight fading: one alone is no limit."""

    __slots__ = ("_refused", "_sent", "_until")

    FEWEST = 3
    _FADE = 0.9

    def __init__(self) -> None:
        self._refused = self._sent = 0.0
        self._until: int | None = None

    def add(self, number: int, sent: int | None) -> None:
        """Note that request `number` was refused; the first of a burst tells how many were sent so far."""
        if sent is not None:
            # What went before the first refusal of all was the server's bucket, not its rate.
            since = number - 1 if self._until is None else self._until
            self._sent = self._FADE * self._sent + sent - since
            self._refused *= self._FADE
            self._until = sent
        self._refused += 1

    def exceed(self, share: float) -> bool:
        """Whether more than this share was refused, and not by chance."""
        return self._refused >= self.FEWEST and self._refused > share * self._sent


class _Mark(NamedTuple):
    """Where a measure may begin."""

    at: float
    number: int
    """Requests sent before."""
    full: bool
    """Whether the server's bucket may have been full, not empty as at a refusal."""


class Measured:
    """A server's limit, learnt from its refusals alone.

    At each refusal the server's bucket is empty, so what it accepted between two of them is its rate times
    the time between. Before the first it may have been full; that a bucket holds a second's worth is assumed.
    The rate follows the measure down at once. The first one is a guess, above which half as much again is
    tried every second (four round trips, where these are slow); later ones are raised 5 % after ten clean
    seconds, then 10, 20, 40 %, so that a limit that was lifted is found again. Where corrections in a row
    don't help, the refusals aren't about the rate, and nothing was learnt.
    """

    __slots__ = (
        "_before",
        "_falls",
        "_followed",
        "_from",
        "_guess_for",
        "_mark",
        "_raise_at",
        "_refused",
        "_step",
        "_sure",
        "_to",
        "rate",
    )

    _LEAST_SPAN = 0.5  # seconds; a shorter measure is noise
    _CLEAN, _GUESS = 10.0, 1.0
    _IN_VAIN = 6
    _SLOWEST = 0.05  # requests a second

    def __init__(self) -> None:
        self.rate = self._before = math.inf
        self._sure, self._guess_for = False, self._GUESS
        self._step, self._raise_at = 0.05, math.inf
        self._falls, self._followed = 0, False
        self.start((0.0, 0))

    def start(self, since: tuple[float, int]) -> None:
        """After a silence, what was accepted before says nothing: nobody tried to send more."""
        self._from = self._to = self._mark = _Mark(*since, full=True)
        self._refused = 0

    def burst(self, now: float, number: int, since: tuple[float, int], delay: float) -> None:
        """The first refusal of a burst, `delay` after it was sent.

        `number` requests were sent so far; `since` says when how many of the latest ones had still to leave.
        """
        if self.rate == math.inf and since[0] > self._mark.at:
            self.start(since)
        if self._to.at - self._from.at >= self._LEAST_SPAN:
            # Since the last refusal or the last raise: what went before says nothing of today's limit.
            self._from, self._refused = self._mark, 0
        self._before = self.rate
        self._to = self._mark = _Mark(now, number, full=False)
        self._sure = self.rate < math.inf
        self._guess_for = max(self._GUESS, 4 * delay)
        self._step, self._raise_at = 0.05, now + self._CLEAN if self._sure else math.inf
        self._followed = False

    def refused(self, number: int) -> None:
        """Count a request of the span that was refused."""
        self._refused += self._from.number < number <= self._to.number

    def follow(self) -> None:
        """Take what was sent in the span and not refused for the limit."""
        self._falls += self._sure and not self._followed
        self._followed = True
        if self._falls > self._IN_VAIN:
            self.rate = self._before = math.inf
            self._falls = 0
            self.start((self._to.at, self._to.number))
            return
        span = self._to.at - self._from.at + self._from.full
        accepted = self._to.number - self._from.number - self._refused
        if accepted <= 0:
            # Nothing at all went through: the server is closed for a while, which says nothing of its rate.
            return
        if self._before == math.inf:
            rate = accepted / max(self._LEAST_SPAN, span)
            self._step, self._raise_at = 0.5, self._to.at + self._guess_for
        elif span < self._LEAST_SPAN:
            rate = self._before * 0.9
        else:
            rate = min(self._before * 0.95, max(accepted / span, self._before * 0.1))
        self.rate = max(rate, self._SLOWEST)

    def clean(self, now: float, number: int) -> bool:
        """Raise the rate where it was used for long enough without a refusal; whether it changed."""
        if now < self._raise_at:
            return False
        used = (number - self._mark.number) / (now - self._mark.at)
        self._mark = _Mark(now, number, full=False)
        self._raise_at = now + (self._CLEAN / 2 if self._sure else self._guess_for)
        if used < 0.5 * self.rate:
            return False
        self._falls = 0
        self.rate *= 1 + self._step
        if self._sure:
            self._step = min(0.4, self._step * 2)
        return True


@dataclass(frozen=True, slots=True)
class Limits:
    """What a response says of the endpoint's rate limits; None where it is silent."""

    requests: float | None = None
    """A minute."""
    tokens: float | None = None
    """A minute."""
    remaining_requests: float | None = None
    remaining_tokens: float | None = None


def parse_limits(headers: Mapping[str, str]) -> Limits | None:
    """The `x-ratelimit-*` headers of a response (names in lower case), or None where there are none.

    A limit that takes more than a minute to be whole again isn't one of a minute (Groq's requests and
    OpenAI's free tier count by the day): it says nothing of the pace and is left out.
    """
    requests = _limit(headers, "requests")
    tokens = _limit(headers, "tokens")
    if requests is None and tokens is None:
        return None
    return Limits(
        requests=requests,
        tokens=tokens,
        remaining_requests=None if requests is None else _number(headers, "remaining", "requests"),
        remaining_tokens=None if tokens is None else _number(headers, "remaining", "tokens"),
    )


def _limit(headers: Mapping[str, str], kind: str) -> float | None:
    limit = _number(headers, "limit", kind)
    if not limit:
        return None
    whole_again = parse_duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
    return None if whole_again is not None and whole_again > 61 else limit


def _number(headers: Mapping[str, str], what: str, kind: str) -> float | None:
    text = headers.get(f"x-ratelimit-{what}-{kind}")
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def parse_duration(text: str) -> float | None:
    """Seconds in a duration.

    Examples
    --------
    >>> parse_duration("1h2m"), parse_duration("6m0s"), parse_duration("120ms"), parse_duration("soon")
    (3720.0, 360.0, 0.12, None)
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or found.end() == 0:
        return _seconds(text)
    return sum(float(part) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True) if part)


def parse_retry_after(headers: Mapping[str, str], now_wall: float) -> float | None:
    """Seconds that a response asks us to wait, however long; None where it doesn't say.

    Parameters
    ----------
    headers
        Names in lower case. `retry-after-ms` wins over `retry-after`, which holds seconds or a date.
    now_wall
        Unix time in seconds. A date is measured against the response's own `date` where it has one:
        an hour's difference between two clocks would be an hour's wait.
    """
    wait = _seconds(headers.get("retry-after-ms", ""))
    if wait is not None:
        return max(0.0, wait / 1_000)
    text = headers.get("retry-after", "")
    wait = _seconds(text)
    if wait is not None:
        return max(0.0, wait)
    at = _http_date(text)
    if at is None:
        return None
    sent = _http_date(headers.get("date", ""))
    return max(0.0, at - (now_wall if sent is None else sent))


def _seconds(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _http_date(text: str) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # A date without a zone is UTC; left naive, it would be read in this machine's zone.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
