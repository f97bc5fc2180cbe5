"""A run in words: pure functions from a Progress to the strings that every painter shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pandas_llm.core.batches import TERMINAL
from pandas_llm.core.errors import in_our_words
from pandas_llm.core.types import SOURCES, Failure, Progress, Usage

Tone = Literal["", "warn", "bad"]

_ERROR_CLASSES = 4
"""As many as fit a line; the others are counted."""
_CLASSES_TOLD = 8
"""As many have a line of their own."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing worth knowing about a live run."""

    text: str
    rank: int
    """Where room is short, the lowest ranks are shown."""
    longer: str = ""
    """The same in full."""
    longer_rank: int = 0
    """The rank of saying it in full."""
    tone: Tone = ""

    @property
    def full(self) -> str:
        """What it says where there is room."""
        return self.longer or self.text


def plain(text: str) -> str:
    r"""`text` on one line, without anything a terminal would obey.

    >>> plain("a\x1b[31m\nb")
    'a [31m b'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def number(n: int, one: str, many: str = "") -> str:
    """How many of something.

    >>> number(1, "row"), number(2_683, "row"), number(0, "reply", "replies")
    ('1 row', '2,683 rows', '0 replies')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """`text` with one full stop, and none behind a quotation.

    >>> sentence("max_cost reached"), sentence("It is full."), sentence("HTTP 401: 'No key.'")
    ('max_cost reached.', 'It is full.', "HTTP 401: 'No key.'")
    """
    return text if text.endswith((".", "!", "?", "'", '"')) else f"{text}."


def title(p: Progress) -> str:
    """What the run is about."""
    return plain(p.title) or "pandas_llm"


def finished(p: Progress) -> int:
    """Rows that are over; `pending` ones aren't, whoever counts them as a source."""
    return p.done - p.sources.get("pending", 0)


def percent(p: Progress) -> str:
    """Share of rows that are over; 100% only when all of them are.

    >>> percent(Progress(rows=100_000, sources={"api": 99_999}))
    '99.9%'
    """
    done = finished(p)
    return "100%" if done >= p.rows else f"{min(99.9, 100 * done / p.rows):.1f}%"


def rows(p: Progress) -> str:
    """`2,683 of 5,000 rows`, or `5,000 rows` when all are over."""
    done = finished(p)
    whole = number(p.rows, "row")
    return whole if done >= p.rows else f"{done:,} of {whole}"


def by_source(p: Progress) -> list[tuple[str, int]]:
    """Rows by source, none that is empty; `pending` last, where a bar shows what is to come."""
    order = sorted(SOURCES, key=lambda source: source == "pending")
    return [(source, p.sources[source]) for source in order if p.sources.get(source)]


def counts(p: Progress) -> str:
    """`438 api, 96 cache, 6 failed`."""
    return ", ".join(f"{n:,} {source}" for source, n in by_source(p))


def money(usd: float) -> str:
    """USD, with two digits that matter.

    >>> [money(x) for x in (1234.4, 1.234, 0.0503, 0.0004, 0.0, float("nan"))]
    ['$1,234', '$1.23', '$0.05', '$0.0004', '$0', 'unknown']
    """
    if math.isnan(usd):
        return "unknown"
    if usd == 0:
        return "$0"
    if usd < 0.000_001:
        return "<$0.000001"
    if usd >= 999.995:
        return f"${usd:,.0f}"
    places = 2 if usd >= 0.1 else 1 - math.floor(math.log10(usd))
    whole, _, cents = f"{usd:.{places}f}".partition(".")
    return f"${whole}.{cents.rstrip('0').ljust(2, '0')}"


def about(usd: float) -> str:
    """USD that are a guess: whole dollars from $10 on.

    >>> [about(x) for x in (48.3, 1234.4, 1.234, 0.000_055, 0.0)]
    ['about $48', 'about $1,234', 'about $1.23', 'about $0.000055', '$0']
    """
    return f"about ${usd:,.0f}" if usd >= 9.95 else f"about {money(usd)}" if usd else money(usd)


def tokens(n: int) -> str:
    """A count of tokens.

    >>> [tokens(n) for n in (950, 1_234, 431_000, 3_400_000)]
    ['950', '1.2k', '431k', '3.4M']
    """
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        # 999,960 is 1.0M, not 1000k.
        if n >= size * 0.9995 and n >= 1_000:
            value = n / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(n)


def used(usage: Usage) -> str:
    """`431k tokens in, 9.6k out`; empty where nothing was used."""
    return "" if usage == Usage() else f"{tokens(usage.input)} tokens in, {tokens(usage.output)} out"


def used_in_full(usage: Usage) -> str:
    """`431k tokens in (120k cached), 9.6k out`; as `used` where nothing was cached."""
    return (
        used(usage).replace(" in,", f" in ({tokens(usage.cached)} cached),") if usage.cached else used(usage)
    )


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> [duration(s) for s in (0.84, 14.2, 75, 3_720, 90_000)]
    ['0.8 s', '14 s', '1 min 15 s', '1 h 2 min', '1 d 1 h']
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for big, small, names in ((86_400, 3_600, ("d", "h")), (3_600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{whole} s"


def speed(rate: float) -> str:
    """Rows a second, or a minute where that would be less than one.

    >>> [speed(r) for r in (161.3, 12.34, 0.5)]
    ['161 rows/s', '12.3 rows/s', '30 rows/min']
    """
    if not math.isfinite(rate):
        return "unknown"
    if 0 < rate < 1:
        return f"{rate * 60:.{0 if rate >= 1 / 6 else 1}f} rows/min"
    return f"{rate:,.{0 if rate >= 99.95 or rate == 0 else 1}f} rows/s"


def rows_a_request(p: Progress) -> float:
    """Rows that a request answers: those of equal text share it."""
    rows = sum(p.sources.get(source, 0) for source in ("api", "batch", "duplicate"))
    answers = rows - p.sources.get("duplicate", 0)
    return rows / answers if answers else 1.0


def by_class(failures: Mapping[str, int]) -> list[tuple[str, int]]:
    """Failed requests by error class, the most frequent first."""
    return sorted(((plain(name), n) for name, n in failures.items() if n), key=lambda e: (-e[1], e[0]))


def failed(p: Progress) -> str:
    """`13 failed`; empty where nothing did."""
    number = sum(p.errors.values())
    return f"{number:,} failed" if number else ""


def errors(p: Progress) -> str:
    """`13 failed: 10 ServerError, 3 RefusalError`; empty where nothing did."""
    said = kinds(p)
    return f"{failed(p)}: {said}" if said else ""


def kinds(p: Progress) -> str:
    """`10 ServerError, 3 RefusalError`; empty where nothing failed."""
    groups = by_class(p.errors)
    said = [f"{n:,} {name}" for name, n in groups[:_ERROR_CLASSES]]
    if more := sum(n for _, n in groups[_ERROR_CLASSES:]):
        said.append(f"{more:,} of other kinds")
    return ", ".join(said)


def retries(p: Progress) -> str:
    """`1 retry`, `35 retries`; empty where there was none."""
    return number(p.retries, "retry", "retries") if p.retries else ""


def spent(p: Progress) -> str:
    """`$0.17`, or `cost unknown`."""
    return "cost unknown" if math.isnan(p.cost) else money(p.cost)


def latency(p: Progress) -> str:
    """`p50 345 ms, p95 691 ms` of the latest replies (nearest rank); empty where there was none."""
    if not p.latencies:
        return ""
    p50, p95 = map(brief, quantiles(p.latencies))
    return f"p50 {p50}, p95 {p95}"


def quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 95 % quantile, by nearest rank."""
    ordered = sorted(seconds)
    p50, p95 = (ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.95))
    return p50, p95


def brief(seconds: float) -> str:
    """`345 ms`, `1.2 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else duration(seconds)


def limit_use(p: Progress) -> tuple[float, str] | None:
    """How much of the tighter limit, requests or tokens a minute, is in use, and its name.

    >>> from pandas_llm.core.types import Allowed
    >>> limit_use(Progress(rate=8.0, allowed=Allowed(rpm=600.0)))
    (0.8, 'rpm')
    """
    a_request = (p.usage.input + p.usage.output) / p.answered if p.answered else 0.0
    uses = [
        (60 * p.rate * amount / limit, name)
        for limit, amount, name in ((p.allowed.rpm, 1.0, "rpm"), (p.allowed.tpm, a_request, "tpm"))
        if limit
    ]
    return max(uses, default=None)


def figures(p: Progress) -> list[Figure]:
    """What a live run has to say, in reading order."""
    to_come = "" if math.isnan(p.projected) else f" → {money(p.projected)}"
    cap = "" if p.max_cost is None else f" (max_cost {money(p.max_cost)})"
    waiting = plain(p.waiting)
    said = (
        Figure(waiting, 1, f"waiting: {waiting}", 2, "warn"),
        Figure(speed(rows_a_request(p) * p.rate) if p.rate else "", 3),
        Figure("" if p.eta is None else f"{duration(p.eta)} left", 2),
        Figure(spent(p), 4, f"{spent(p)}{to_come}{cap}", 5),
        Figure(used(p.usage), 8, used_in_full(p.usage), 12),
        Figure(f"{p.in_flight:,} in flight" if p.in_flight else "", 10),
        Figure(retries(p), 9),
        Figure(failed(p), 6, errors(p), 7, "bad"),
        Figure(f"{duration(p.seconds)} so far", 11),
    )
    return [figure for figure in said if figure.text]


def rows_in(p: Progress) -> str:
    """`2,683 of 5,000 rows in 14 s`."""
    return f"{rows(p)} in {duration(p.seconds)}"


def ended(p: Progress) -> str:
    """How a run that isn't done ended: `stopped`, `failed`, or `submitted` where its batches go on."""
    if p.state in ("running", "done"):
        return ""
    goes_on = any(batch.status not in TERMINAL for batch in p.batches)
    return "submitted" if p.state == "stopped" and goes_on else p.state


def headline(p: Progress) -> str:
    """`2,683 of 5,000 rows in 14 s, stopped`."""
    return ", ".join(part for part in (rows_in(p), ended(p)) if part)


def bill(p: Progress) -> list[str]:
    """What a run took: cost, tokens, speed, retries."""
    # What came by batch came when the provider liked.
    timed = p.answered and p.seconds > 0 and not p.batches
    pace = speed(rows_a_request(p) * p.answered / p.seconds) if timed else ""
    return [part for part in (spent(p), used_in_full(p.usage), pace, retries(p)) if part]


def trouble(p: Progress) -> str:
    """Failures by class and the last one's message; empty where there was none."""
    last = plain(p.last_error)
    return "; the last: ".join(part for part in (errors(p), last) if part) if p.errors else ""


@dataclass(frozen=True, slots=True)
class FailureLine:
    """What is told of one class of failures."""

    number: str
    kind: str
    rows: str
    said: str


def failure_lines(p: Progress) -> list[FailureLine]:
    """The most frequent classes, with their first rows and the latest message."""
    return [
        FailureLine(f"{n:,}", kind, _rows_of(p.failures.get(kind, Failure()), n), _said(p, kind))
        for kind, n in by_class(p.errors)[:_CLASSES_TOLD]
    ]


def _rows_of(found: Failure, n: int) -> str:
    rows = ", ".join(f"{row:,}" for row in sorted(found.rows))
    return f"{rows}, …" if rows and len(found.rows) < n else rows


def _said(p: Progress, kind: str) -> str:
    return clipped(plain(p.failures.get(kind, Failure()).said))


def failures(p: Progress) -> list[str]:
    """The same as lines, in our own words: they are kept where others may read them.

    >>> from pandas_llm.core.types import Failure
    >>> found = Failure((4, 17), "HTTP 500: can't read 'Dear Anna'")
    >>> failures(Progress(errors={"ServerError": 3}, failures={"ServerError": found}))
    ['3 ServerError (rows 4, 17, …): HTTP 500']
    """
    told = failure_lines(p)
    lines = []
    for line in told:
        where = f" ({'rows' if ',' in line.rows else 'row'} {line.rows})" if line.rows else ""
        said = clipped(in_our_words(line.kind, plain(p.failures.get(line.kind, Failure()).said)))
        lines.append(f"{line.number} {line.kind}{where}" + (f": {said}" if said else ""))
    others = sum(n for _, n in by_class(p.errors)[len(told) :])
    return [*lines, *([f"{others:,} of other kinds"] if others else [])]


def clipped(text: str, most: int = 140) -> str:
    """`text`, cut where it is longer."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def saved(p: Progress) -> float:
    """USD that rows with somebody else's answer would have taken, at this run's mean; NaN where unknown."""
    free = sum(p.sources.get(source, 0) for source in ("cache", "duplicate", "similar"))
    return free * p.cost / p.answered if p.answered else math.nan


def report(p: Progress) -> list[str]:
    """The account of a run that is over, in up to four lines of text."""
    return [line for line in (*sums(p), trouble(p), plain(p.note)) if line]


def sums(p: Progress) -> tuple[str, str]:
    """Its first two lines: what became of the rows, and what they took."""
    return f"{title(p)}: {headline(p)}", " · ".join(part for part in (counts(p), *bill(p)) if part)
