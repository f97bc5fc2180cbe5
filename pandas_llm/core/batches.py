"""Batches as decisions: the provider's statuses, our journal, what a failed one says, whose it is."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pandas_llm.core.foreign import count, listing, mapping, word

# The provider's -----------------------------------------------------------------------------------------

TERMINAL = frozenset({"failed", "completed", "expired", "cancelled"})

_ENDING = TERMINAL | {"finalizing", "cancelling"}
STATUSES: Mapping[str, frozenset[str]] = {
    "validating": _ENDING | {"in_progress"},
    "in_progress": _ENDING,
    "finalizing": TERMINAL | {"cancelling"},
    "cancelling": TERMINAL,
    **dict.fromkeys(TERMINAL, frozenset()),
}
"""What a later look at a batch may find; polls skip steps. A status that isn't here is polled on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the provider refused a batch as a whole."""

    code: str | None
    message: str
    line: int | None = None
    """Of the input file, from 1."""
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInfo:
    """What the provider says of a batch; times are Unix seconds."""

    id: str
    status: str
    endpoint: str | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    problems: tuple[Problem, ...] = ()
    total: int = 0
    """The counts are for people: they say nothing of which rows are in the files."""
    completed: int = 0
    failed: int = 0
    created_at: float | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    """When it was completed, expired, cancelled or failed."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in TERMINAL


def batch_info(body: Mapping[str, Any]) -> BatchInfo:
    """A batch object as a server sends it: anything but its id and its status may be missing or odd.

    Raises
    ------
    ValueError
        It has no id or no status, so it is no batch.
    """
    id_, status = word(body.get("id")), word(body.get("status"))
    if not id_ or not status:
        raise ValueError("a batch has an id and a status")
    counts = mapping(body.get("request_counts"))
    ends = (_time(body, f"{end}_at") for end in ("completed", "expired", "cancelled", "failed"))
    return BatchInfo(
        id=id_,
        status=status,
        endpoint=word(body.get("endpoint")),
        input_file_id=word(body.get("input_file_id")) or None,
        output_file_id=word(body.get("output_file_id")) or None,
        error_file_id=word(body.get("error_file_id")) or None,
        problems=_problems(body.get("errors")),
        total=count(counts.get("total")),
        completed=count(counts.get("completed")),
        failed=count(counts.get("failed")),
        created_at=_time(body, "created_at"),
        in_progress_at=_time(body, "in_progress_at"),
        finalizing_at=_time(body, "finalizing_at"),
        expires_at=_time(body, "expires_at"),
        ended_at=next((end for end in ends if end is not None), None),
        metadata={name: str(value) for name, value in mapping(body.get("metadata")).items()},
        model=word(body.get("model")),
    )


def _problems(errors: Any) -> tuple[Problem, ...]:
    found = listing(mapping(errors).get("data") if isinstance(errors, dict) else errors)
    return tuple(
        Problem(
            code=word(each.get("code")),
            message=word(each.get("message")) or "",
            line=count(each.get("line")) or None,
            param=word(each.get("param")),
        )
        for each in found
        if isinstance(each, dict)
    )


def _time(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    # Servers that only resemble OpenAI's send 0 or a date in words for "not yet".
    return float(value) if isinstance(value, (int, float)) and 0 < value < math.inf else None


# Our journal --------------------------------------------------------------------------------------------

STATES = ("planned", "uploading", "uploaded", "creating", "created", "ended", "harvested")
"""What is written of a shard before each remote step, in order."""

_FOLLOWING: Mapping[str, frozenset[str]] = {
    "planned": frozenset({"uploading", "harvested"}),
    "uploading": frozenset({"uploaded", "harvested"}),
    # Back to uploading: the provider has lost the file. Given up (harvested) only while no batch can exist.
    "uploaded": frozenset({"uploading", "creating", "harvested"}),
    # Back to uploaded: the create was refused, or none of ours is in the provider's list.
    "creating": frozenset({"uploaded", "created"}),
    # Back to uploaded: the batch failed as a whole for the enqueued-token limit; its file is still good.
    "created": frozenset({"uploaded", "ended"}),
    "ended": frozenset({"harvested"}),
    "harvested": frozenset(),
}


def may_follow(state: str, nxt: str) -> bool:
    """Whether a shard in `state` may be noted as `nxt`; the same step may be begun again till it is over."""
    following = _FOLLOWING.get(state, frozenset())
    return nxt in following or (nxt == state and bool(following))


# What a batch that failed as a whole says ---------------------------------------------------------------

PERMANENT = frozenset(
    {
        "duplicate_custom_id",
        "empty_file",
        "invalid_json_line",
        "invalid_request",
        "model_mismatch",
        "model_not_found",
        "too_many_tasks",
        "url_mismatch",
    }
)
"""Validation codes that a second upload of the same file doesn't change."""

_NUMBER = re.compile(
    r"\blimit\W*(?:of|is|at)?\W*(\d[\d,]*(?:\.\d+)?)\s*(k|m|b|thousand|million|billion)?\b", re.IGNORECASE
)
_UNITS = {"": 1.0, "k": 1e3, "t": 1e3, "m": 1e6, "b": 1e9}


def enqueued_limit(problem: Problem) -> float | None:
    """The enqueued-token limit that a batch went over; infinite where no number is named, else None.

    >>> enqueued_limit(Problem("token_limit_exceeded", "… Limit: 2,000,000 enqueued tokens."))
    2000000.0
    """
    if problem.code != "token_limit_exceeded":
        return None
    named = _NUMBER.search(problem.message)
    if named is None:
        return math.inf
    number, unit = named.groups(default="")
    return float(number.replace(",", "")) * _UNITS[unit[:1].lower()]


def rows_blamed(problems: Iterable[Problem]) -> set[int]:
    """The lines of the input file that are named, counted from 0."""
    return {problem.line - 1 for problem in problems if problem.line is not None and problem.line > 0}


# Whose a batch is ---------------------------------------------------------------------------------------

METADATA = ("pandas_llm_run", "pandas_llm_shard", "pandas_llm_sha256")


def metadata(run: int, shard: int, sha256: str) -> dict[str, str]:
    """What a batch carries so that a process which lost its id finds it again."""
    return dict(zip(METADATA, (str(run), str(shard), sha256), strict=True))


def is_ours(info: BatchInfo, ours: Mapping[str, str], input_file_id: str | None) -> bool:
    """Whether a batch in the provider's list is the shard's: by all of its metadata, or by its file."""
    if input_file_id and info.input_file_id == input_file_id:
        return True
    return ours.items() <= info.metadata.items()


# Watching -----------------------------------------------------------------------------------------------


def next_gap(previous: float, poll: tuple[float, float], changed: bool, jitter: float) -> float:
    """Seconds to the next poll: half as long again each time, from the start again when something changed.

    Parameters
    ----------
    previous
        The gap before this poll; 0 before the first.
    poll
        The shortest and the longest gap.
    changed
        Whether the status or a count changed since the last poll.
    jitter
        A random number in [0, 1), for 20 % either way: kernels begun together don't poll together.
    """
    shortest, longest = poll
    gap = shortest if changed else min(longest, max(shortest, previous * 1.5))
    return gap * (0.8 + 0.4 * jitter)


# Whether two sets of texts are about the same rows ------------------------------------------------------

_SKETCHED, _LOOKED_AT = 64, 200_000


def sketch(texts: Iterable[str]) -> list[str]:
    """The 64 smallest hashes of the texts, of at most the first 200,000: 1 kB that knows sets apart."""
    kept: set[bytes] = set()
    worst = b"\xff" * 9
    for text in islice(texts, _LOOKED_AT):
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if digest >= worst or digest in kept:
            continue
        kept.add(digest)
        if len(kept) > _SKETCHED:
            kept.remove(worst if worst in kept else max(kept))
        if len(kept) == _SKETCHED:
            worst = max(kept)
    return [digest.hex() for digest in sorted(kept)]


def overlap(a: Collection[str], b: Collection[str]) -> bool:
    """Whether two sketches share an entry: then their sets share texts."""
    return not set(a).isdisjoint(b)
