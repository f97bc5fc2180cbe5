"""The certificate of the semantic cache, simulated: how often it is wrong, how often got, at what price.

`python bench/certificate.py [populations a line]` prints three tables: ours over populations of several
shapes; what other valid procedures make of the same; one threshold beside Clopper and Pearson's interval.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.certificate import CERTIFYING, Audit, _Game, least_audit
from pandas_llm.core.compound import Semantic

Floats: TypeAlias = npt.NDArray[np.float64]
ERROR, CONFIDENCE, BUDGET = 0.05, 0.95, 200


@dataclass(frozen=True, slots=True)
class Population:
    """Members that would reuse an answer, and which of them would get another one of their own."""

    similarity: Floats
    rows: Floats
    disagrees: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an audit made of a population."""

    certified: bool
    audited: int
    saved: int
    wrong: bool
    """Certified, and more than allowed disagree of the rows that reuse."""
    wrong_of_all: bool
    """The same, of all rows at or above the threshold."""
    best: int
    """Members at or above the lowest threshold that would be right."""


def population(shape: str, seed: int, size: int = 1000, heavy: bool | None = None) -> Population:
    """One of a shape: the chance of disagreement by rank, from the most similar (0) to the least (1)."""
    dice = np.random.default_rng([seed, len(shape), *shape.encode()])
    rank = (np.arange(size) + 0.5) / size
    chance = SHAPES[shape](rank, dice)
    rows = np.ones(size)
    if dice.random() < 0.5 if heavy is None else heavy:
        rows = np.minimum(np.floor(1 + dice.pareto(1.5, size)), 200.0)
    order = dice.permutation(size)
    return Population((1 - rank * 0.15)[order], rows[order], (dice.random(size) < chance)[order])


def even(low: float, high: float) -> Callable[[Floats, np.random.Generator], Floats]:
    return lambda rank, dice: np.full(len(rank), dice.uniform(low, high))


def below(rank: Floats, dice: np.random.Generator) -> Floats:
    """Next to none down to some rank, many below."""
    few, many = dice.choice([0, 0.003]), dice.choice([0.1, 0.3, 0.5])
    return np.where(rank < dice.choice([0.3, 0.5, 0.7, 0.9]), few, many)


def sliding(rank: Floats, dice: np.random.Generator) -> Floats:
    return np.asarray(1 / (1 + np.exp(-15 * (rank - dice.uniform(0.3, 1.0)))))


SHAPES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "0 to 1 %": even(0, 0.01),
    "1 %": even(0.01, 0.01),
    "2 %": even(0.02, 0.02),
    "none, then many": below,
    "more and more": sliding,
    "5 to 6 %": even(0.05, 0.06),
    "5 to 10 %": even(0.05, 0.1),
    "30 %": even(0.3, 0.3),
    "all": even(1, 1),
    "only the most similar": lambda rank, dice: np.where(
        rank < dice.uniform(0.05, 0.4), dice.uniform(0.1, 0.5), 0
    ),
}


def audited(
    whom: Population, seed: int, semantic: Semantic | None = None, batch: int = 16
) -> tuple[Audit, int]:
    """An audit carried through, and how many it asked."""
    audit, asked = Audit(whom.similarity, whom.rows, semantic or Semantic(), seed), 0
    while not audit.decided:
        for member in audit.next(batch).tolist():
            audit.tell(member, bool(whom.disagrees[member]))
            asked += 1
    return audit, asked


def ours(whom: Population, seed: int, semantic: Semantic | None = None, batch: int = 16) -> Outcome:
    audit, asked = audited(whom, seed, semantic, batch)
    return outcome(whom, asked, audit.reused(), semantic.max_error if semantic else ERROR)


def outcome(whom: Population, asked: int, reused: npt.NDArray[np.intp], error: float = ERROR) -> Outcome:
    """What came of it, from how many were asked and who reuses an answer."""
    order = np.argsort(-whom.similarity)
    errors = np.cumsum((whom.rows * whom.disagrees)[order]) / np.cumsum(whom.rows[order])
    right = np.flatnonzero(errors <= error)
    above = whom.similarity >= whom.similarity[reused].min(initial=math.inf)
    return Outcome(
        certified=len(reused) > 0,
        audited=asked,
        saved=len(reused),
        wrong=_over(whom, reused, error),
        wrong_of_all=_over(whom, np.flatnonzero(above), error),
        best=int(right[-1]) + 1 if len(right) else 0,
    )


def _over(whom: Population, members: npt.NDArray[np.intp], error: float) -> bool:
    rows = whom.rows[members]
    return float(rows @ whom.disagrees[members]) > error * float(rows.sum()) + 1e-9


def rival(whom: Population, seed: int, *, thresholds: int, union: bool) -> Outcome:
    """Fixed thresholds on one shuffle, from the highest down until one fails, or all at once at 1/M each.

    Both are as patient as they can be: they give up when nothing may be asked any more.
    """
    order = np.argsort(-whom.similarity)
    rows, disagrees = whom.rows[order], whom.disagrees[order].astype(np.int8)
    size = len(rows)
    rings = np.random.default_rng(seed).exponential(size=size) / rows
    ends = np.unique(np.ceil(size * np.arange(1, thresholds + 1) / thresholds).astype(int))
    ends = ends[[least_audit(int(end), ERROR, CONFIDENCE) is not None for end in ends]]
    stake = (CERTIFYING[0][1:], np.ones(1))
    asked, best = np.zeros(size, bool), 0
    odds = 1 / (1 - CONFIDENCE) * (len(ends) if union else 1)

    def proved(end: int, draws: npt.NDArray[np.intp]) -> bool:
        game = _Game(rows[draws], disagrees[draws], float(rows[:end].sum()))
        known = float((rows * disagrees * asked)[:end].sum())
        total = known + ERROR * float(rows[:end][~asked[:end]].sum())
        return bool(game.money(stake, total).sum() >= odds)

    for end in (size,) if union else ends.tolist():
        shuffled = np.argsort(rings[:end])
        for count in range(8, end, 8):
            draws = shuffled[:count]
            new = draws[~asked[draws]]
            spent = int(asked.sum()) + len(new)
            if spent > BUDGET or spent >= end - count:
                break
            asked[new] = True
            held = [each for each in (ends.tolist() if union else [end]) if proved(each, draws[draws < each])]
            best = max([best, *held])
            if best == end:
                break
        if best < end:
            break
    return outcome(whom, int(asked.sum()), order[np.flatnonzero(~asked[:best])])


def clopper_pearson(errors: int, asked: int, alpha: float) -> float:
    """The upper limit of a rate after a number of audits that was fixed in advance."""
    low, high = errors / asked, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        tail = sum(math.comb(asked, k) * middle**k * (1 - middle) ** (asked - k) for k in range(errors + 1))
        low, high = (middle, high) if tail > alpha else (low, middle)
    return high


def line(name: str, outcomes: list[Outcome]) -> str:
    certified = np.array([each.certified for each in outcomes])
    asked = np.array([each.audited for each in outcomes])
    saved, best = sum(each.saved for each in outcomes), sum(each.best for each in outcomes)
    wrong = np.mean([each.wrong for each in outcomes])
    of_all = np.mean([each.wrong_of_all for each in outcomes])
    return (
        f"{name:36}{certified.mean():10.1%}{(certified & (asked <= 120)).mean():10.1%}{asked.mean():9.0f}"
        f"{asked.max():6.0f}{saved / max(1, best):10.1%}{wrong:9.2%}{of_all:9.2%}"
    )


HEADER = (
    f"{'':36}{'certified':>10}{'by 120':>10}{'audits':>9}{'most':>6}{'saved*':>10}{'wrong':>9}{'of all':>9}"
)


def tightness() -> str:
    """How many agreements it takes at one threshold, beside an interval that may be looked at only once."""
    fixed = next(n for n in range(1, 1000) if clopper_pearson(0, n, 1 - CONFIDENCE) <= ERROR)
    lines = [f"{'disagreements':>15}{'once, fixed size':>20}{'at every look, 20,000 members':>34}"]
    for errors in range(4):
        once = next(n for n in range(fixed, 1000) if clopper_pearson(errors, n, 1 - CONFIDENCE) <= ERROR)
        # The disagreements come first: the order changes next to nothing.
        always = next(n for n in range(fixed, 1000) if _certified(errors, n, 20_000))
        lines.append(f"{errors:15}{once:20}{always:34}")
    return "\n".join(lines)


def _certified(errors: int, asked: int, size: int) -> bool:
    game = _Game(np.ones(asked), (np.arange(asked) < errors).astype(np.int8), float(size))
    return bool(game.money(CERTIFYING, game.found + ERROR * game.left).sum() >= 1 / (1 - CONFIDENCE))


def main(count: int = 400) -> None:
    print(f"{count} populations a line, max_error {ERROR}, confidence {CONFIDENCE}, at most {BUDGET} audits")
    print("* of what could be saved at the lowest threshold that is right\n\n" + HEADER)
    for size in (400, 1000, 5000):
        for shape in SHAPES:
            began = time.process_time()
            outcomes = [ours(population(shape, seed, size), seed) for seed in range(count)]
            each = (time.process_time() - began) / count * 1e3
            print(line(f"{size:5,}  {shape}", outcomes) + f"{each:7.1f} ms", flush=True)
    ways: dict[str, Callable[[Population, int], Outcome]] = {"ours": ours}
    for thresholds in (20, 4, 2):
        for union in (False, True):
            name = f"{thresholds} {'at once, union bound' if union else 'from the highest down'}"
            ways[name] = functools.partial(rival, thresholds=thresholds, union=union)
    for shape in ("0 to 1 %", "2 %", "none, then many", "more and more", "5 to 6 %"):
        print(f"\n{shape}, 2,000 members\n{HEADER}")
        for name, way in ways.items():
            outcomes = [way(population(shape, seed, 2000), seed) for seed in range(count // 4)]
            print(line(f"  {name}", outcomes), flush=True)
    print("\nAudits to certify at one threshold\n" + tightness())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
