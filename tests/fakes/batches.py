"""Batches as a provider keeps them: the object, and the status that follows by a clock that tests move."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from fakes.answers import Json
from fakes.batch_faults import Course
from fakes.batch_input import Input
from fakes.files import StoredFile
from fakes.ledger import Settings

WINDOW = 24 * 3600
ENDED = ("failed", "completed", "expired", "cancelled")
UNFINISHED = ("in_progress", "finalizing", "cancelling")
_numbers = itertools.count(1)  # a process never uses an id twice, also not on another server's port


class Clock:
    """The server's time: the wall's, and what it was moved on."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let so much time be over at once."""
        self._ahead += seconds


class Batch:
    """One batch; tests look at its attributes."""

    def __init__(self, asked: Json, given: Input, course: Course, now: float) -> None:
        self.id = f"batch_{next(_numbers):08}"
        self.status = "validating"
        self.endpoint: str = asked["endpoint"]
        self.metadata: Mapping[str, str] | None = asked.get("metadata")
        self.input_file_id: str = asked["input_file_id"]
        self.keeps_output: float | None = (asked.get("output_expires_after") or {}).get("seconds")
        self.input = given
        self.course = course
        self.at: dict[str, float] = {"created": now}
        """When it was created and entered each status."""
        self.errors: list[Json] = []
        self.answered = 0
        self.counts: Counter[str] = Counter()
        self.usage: Counter[str] = Counter()
        self.output: StoredFile | None = None
        self.error: StoredFile | None = None
        self.busy = asyncio.Lock()
        self.order = _order(given, course.order)

    def __repr__(self) -> str:
        return f"<Batch {self.id} {self.status} {self.answered}/{len(self.input)}>"

    @property
    def custom_ids(self) -> list[str]:
        """Of its lines, in the file's order."""
        return self.input.custom_ids

    @property
    def lines(self) -> list[Json]:
        """Its input lines, parsed."""
        return [self.input.line(index) for index in range(len(self.input))]

    @property
    def model(self) -> str | None:
        """Of its lines."""
        return self.input.model

    @property
    def ended(self) -> bool:
        """Whether its status is one that stays."""
        return self.status in ENDED

    def due(self, settings: Settings, now: float) -> int:
        """How many rows are answered by now while it is in progress."""
        total = len(self.input)
        if self.course.expires is not None:
            return int(total * self.course.expires)
        duration = settings.batch_seconds - settings.validating_seconds
        if self.course.stalls or duration <= 0:
            return 0
        since = min(now - self.at["created"], WINDOW) - settings.validating_seconds
        return max(self.answered, min(total, int(total * since / duration)))

    def following(self, settings: Settings, now: float) -> str | None:
        """The status whose time has come, if any."""
        held = self.status == ("in_progress" if settings.hold_batches is True else settings.hold_batches)
        status, at = self._ahead(settings)
        end = self.at["created"] + WINDOW
        if self.status == "in_progress" and now >= end and (held or at > end):
            return "expired"
        return status if now >= at and not held else None

    def _ahead(self, settings: Settings) -> tuple[str, float]:
        """The status that follows, and when."""
        course, created = self.course, self.at["created"]
        match self.status:
            case "validating":
                bad = self.input.problems or course.errors
                return "failed" if bad else "in_progress", created + settings.validating_seconds
            case "in_progress" if course.expires is not None:
                return "expired", created
            case "in_progress":
                return "finalizing", math.inf if course.stalls else created + settings.batch_seconds
            case "finalizing":
                seconds = max(settings.finalizing_seconds, course.finalizing)
                return "completed", self.at["finalizing"] + seconds
            case "cancelling":
                return "cancelled", self.at["cancelling"] + settings.cancelling_seconds
        return "", math.inf

    def json(self) -> Json:
        """The batch object of the API."""
        started = self.status not in ("validating", "failed")
        counts = {name: self.counts[name] for name in ("completed", "failed")}
        stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output.id if self.output is not None and self.ended else None,
            "error_file_id": self.error.id if self.error is not None and self.ended else None,
            "created_at": int(self.at["created"]),
            "expires_at": int(self.at["created"]) + WINDOW,
            **{f"{name}_at": int(self.at[name]) if name in self.at else None for name in stamps},
            "request_counts": {"total": len(self.input) if started else 0, **counts},
            "usage": self._usage() if self.ended and self.usage else None,
            "metadata": self.metadata,
        }

    def _usage(self) -> Json:
        spent = self.usage
        return {
            "input_tokens": spent["input"],
            "input_tokens_details": {"cached_tokens": spent["cached"]},
            "output_tokens": spent["output"],
            "output_tokens_details": {"reasoning_tokens": spent["reasoning"]},
            "total_tokens": spent["input"] + spent["output"],
        }


def _order(given: Input, order: str) -> Sequence[int]:
    """In which order the rows are answered and written: shuffled, the same each time, never the input's."""
    places = range(len(given))
    if order == "given" or len(places) < 2:
        return places
    shuffled = list(places)
    random.Random(f"{given.custom_ids[0]} {len(places)}").shuffle(shuffled)
    return places[::-1] if order == "reversed" or shuffled == list(places) else shuffled
