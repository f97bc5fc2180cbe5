"""The rate limits of the fake server: a bucket of requests, a bucket of tokens, and what it tells of them."""

from __future__ import annotations

import math
import time

from fakes import faults, replies
from fakes.answers import Json
from fakes.faults import Fault
from fakes.ledger import Settings


class Bucket:
    """A continuously refilled token bucket, as deep as `depth` seconds of its rate; it starts full."""

    def __init__(self) -> None:
        self.level = 0.0
        self._at: float | None = None
        self._shape: tuple[float, float] | None = None

    def refill(self, per_minute: float, depth: float, now: float) -> None:
        rate, size = per_minute / 60, max(1.0, per_minute / 60 * depth)
        if self._shape != (rate, size) or self._at is None:
            self._shape, self.level = (rate, size), size
        else:
            self.level = min(size, self.level + (now - self._at) * rate)
        self._at = now

    def wait(self, amount: float) -> float:
        """Seconds until `amount` is there, 0.0 if it is now; what is bigger than the bucket needs it full."""
        if self._shape is None:
            return 0.0
        rate, size = self._shape
        lacking = min(amount, size) - self.level
        return lacking / rate if lacking > 1e-9 else 0.0

    def until_full(self) -> float:
        rate, size = self._shape or (1.0, self.level)
        return max(0.0, (size - self.level) / rate)


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `1.2s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    return f"{seconds:.3g}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60)}s"


class Limits:
    """Both limits, as the settings have them at the moment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = {"requests": Bucket(), "tokens": Bucket()}

    def refusal(self, body: Json) -> Fault | None:
        """The 429 where a limit is reached; else the request is counted against both.

        It counts as OpenAI says: the maximum of the cap on the output and the tokens of the prompt.
        """
        cap = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        amounts = {"requests": 1.0, "tokens": float(max(cap, replies.prompt_tokens(body)))}
        tpm = self._settings.tpm
        if tpm is not None and amounts["tokens"] > tpm:
            asked = f"Limit {tpm:.0f}, Requested {amounts['tokens']:.0f}"
            return _refused("tokens", f"Request too large on tokens per min (TPM): {asked}.", {})
        waits = {kind: bucket.wait(amounts[kind]) for kind, _, bucket in self._refilled()}
        kind = max(waits, key=waits.__getitem__, default="requests")
        wait = waits.get(kind, 0.0)
        if wait == 0:
            for kind in waits:
                self._buckets[kind].level -= amounts[kind]
            return None
        said = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
        message = f"Rate limit reached on {kind} per min. Please try again in {duration(wait)}."
        return _refused(kind, message, {} if self._settings.rate_headers == "none" else said)

    def headers(self) -> dict[str, str]:
        """The x-ratelimit headers, where they are told."""
        headers = {}
        for kind, limit, bucket in self._refilled() if self._settings.rate_headers == "full" else ():
            headers[f"x-ratelimit-limit-{kind}"] = f"{limit:.0f}"
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
            headers[f"x-ratelimit-reset-{kind}"] = duration(bucket.until_full())
        return headers

    def _refilled(self) -> list[tuple[str, float, Bucket]]:
        found = []
        for kind, limit in (("requests", self._settings.rpm), ("tokens", self._settings.tpm)):
            if limit is not None:
                self._buckets[kind].refill(limit, self._settings.depth, time.monotonic())
                found.append((kind, limit, self._buckets[kind]))
        return found


def _refused(kind: str, message: str, headers: dict[str, str]) -> Fault:
    return faults.error(429, "rate_limit_exceeded", message, type=kind, headers=headers)
