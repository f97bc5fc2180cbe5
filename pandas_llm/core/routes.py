"""Deadline routing: the cheapest way of getting answers that should be there in time.

As queue managers for LLM serving route requests by their deadlines (QLM, arXiv 2407.00047), on the
client's side: what a server would evict, we take back from a batch and ask for concurrently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RouteName = Literal["concurrent", "flex", "batch"]

BATCH_BOUND = 86_400.0
"""Seconds after which the provider gives up a batch."""
BATCH_PAST = (420.0, 3_600.0, BATCH_BOUND)
"""Median, 90 % and bound that OpenRouter published of 230,000 batches; for whoever has no past here."""
_FEWEST = 5
_LONG = 7_200.0
_TIE = 1.02
"""Estimates that are 2 % apart are the same."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way of getting the answers, and what it is expected to take."""

    name: RouteName
    cost: tuple[float, float] | None
    """USD, low and high; None where the price is unknown."""
    seconds: tuple[float, float]
    """Low and high; of a batch the median and 90 %."""
    bound: float = math.inf
    """Seconds after which it is over, answered or not."""
    available: bool = True
    note: str = ""
    """Why it isn't available, or what to know of it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which route is taken, and why."""

    route: RouteName
    recovery: bool
    """Whether a batch is given up for concurrent requests when the time left gets short."""
    reason: str
    routes: tuple[Route, ...]

    def lines(self) -> list[str]:
        """One line a route with its price and time, then the choice and its reason."""
        width = max(len(route.name) for route in self.routes)
        told = [f"{route.name:<{width}}  {_figures(route)}" for route in self.routes]
        return [*told, f"{self.route}: {self.reason}."]


def concurrent_seconds(
    requests: int,
    tokens: float,
    *,
    rpm: float | None,
    tpm: float | None,
    max_concurrency: int,
    latency: tuple[float, float] = (0.3, 3.0),
) -> tuple[float, float]:
    """Seconds that concurrent requests take, low and high: what of places, requests and tokens is scarcest.

    Parameters
    ----------
    requests, tokens
        To be sent; tokens of prompts and answers together.
    rpm, tpm
        Limits a minute; None where unknown.
    max_concurrency
        Requests in flight.
    latency
        Seconds of a reply, low and high.
    """
    paced = max(requests / rpm * 60 if rpm else 0.0, tokens / tpm * 60 if tpm else 0.0)
    waves = math.ceil(requests / max_concurrency)
    low, high = latency
    return max(waves * low, paced), max(waves * high, paced)


def batch_seconds(past: Sequence[float]) -> tuple[float, float, float]:
    """Median, 90 % and bound of the time a batch takes, from at least five own ones, else as published."""
    own = sorted(seconds for seconds in past if 0 <= seconds < math.inf)
    if len(own) < _FEWEST:
        return BATCH_PAST
    # The next one up, not between: of five batches the slowest is what to reckon with.
    return _quantile(own, 0.5), _quantile(own, 0.9), BATCH_BOUND


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def choose(seconds_left: float | None, routes: Sequence[Route]) -> Choice:
    """The cheapest route that should make it, the quicker of those that cost the same.

    A batch should make it where twice its 90 % fit into the time left; and where half of all batches are
    back before what is missing must be asked for concurrently, if more than two hours are left: then it costs
    no more than concurrent requests, and nothing comes late. Where nothing should make it, the quickest is
    taken. `seconds_left=None` is no deadline.

    Raises
    ------
    ValueError
        No route is available.
    """
    usable = [route for route in routes if route.available]
    if not usable:
        raise ValueError("no route is available")
    finish = min((_high(route) for route in usable if route.name == "concurrent"), default=math.inf)
    in_time = [route for route in usable if _makes_it(route, seconds_left, finish)]
    if in_time:
        least = min(map(_usd, in_time))
        cheapest = [route for route in in_time if _usd(route) <= least * _TIE]
        chosen = min(cheapest, key=_high)
        reason = _reason(chosen, cheapest, in_time, seconds_left)
    else:
        chosen = min(usable, key=lambda route: (_high(route), _usd(route)))
        reason = f"nothing should be done in {_time(max(0.0, seconds_left or 0.0))}; it is the quickest"
    recovery = chosen.name == "batch" and seconds_left is not None and not must_recover(seconds_left, finish)
    if recovery:
        reason += f"; what is missing {_time(_finish_in(finish))} before the deadline is asked concurrently"
    return Choice(chosen.name, recovery, reason, tuple(routes))


def must_recover(seconds_left: float, concurrent_high: float) -> bool:
    """Whether a batch has to be given up now, so that concurrent requests can still finish its rows."""
    return seconds_left <= _finish_in(concurrent_high)


def _finish_in(concurrent_high: float) -> float:
    # A cancelled batch is mostly over within a minute; and an estimate is an estimate.
    return concurrent_high * 1.1 + 60


def _makes_it(route: Route, seconds_left: float | None, finish: float) -> bool:
    if seconds_left is None:
        return True
    if route.name != "batch":
        return _high(route) <= seconds_left
    if 2 * _high(route) <= seconds_left:
        return True
    return seconds_left > _LONG and not must_recover(seconds_left - route.seconds[0], finish)


def _high(route: Route) -> float:
    high = route.seconds[1]
    return math.inf if math.isnan(high) else high


def _usd(route: Route) -> float:
    if route.cost is None or math.isnan(route.cost[1]):
        return math.inf
    return route.cost[1]


# In words -----------------------------------------------------------------------------------------------


def _reason(
    chosen: Route, cheapest: Sequence[Route], in_time: Sequence[Route], seconds_left: float | None
) -> str:
    within = "" if seconds_left is None else f" that should be done in {_time(seconds_left)}"
    if len(in_time) == 1:
        return f"the only one{within}" if within else "the only one there is"
    if _usd(chosen) == math.inf:
        return f"the quickest{within and ' of those'}{within}; prices are unknown"
    equals = [route.name for route in cheapest if route is not chosen]
    tie = f" (as cheap as {' and '.join(equals)}, and quicker)" if equals else ""
    return f"the cheapest{within}{tie}"


def _figures(route: Route) -> str:
    if not route.available:
        return f"not available: {route.note}" if route.note else "not available"
    cost = "price unknown" if _usd(route) == math.inf else _between(*map(_money, route.cost or ()))
    seconds = _between(*map(_time, route.seconds))
    bound = f", at most {_time(route.bound)}" if route.bound < math.inf else ""
    return f"{cost}, {seconds}{bound}" + (f" ({route.note})" if route.note else "")


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} – {high}"


def _money(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.6f}".rstrip("0")


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "an unknown time"
    for size, unit in ((3_600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
