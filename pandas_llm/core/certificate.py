"""From which similarity on answers may be shared, decided by asking a few of the texts that would share.

*Promised:* of the rows that reuse an answer, at most `max_error` would have got another one of their own,
with probability `confidence` or more, whatever the texts are and whenever the audit stopped. Members that
were asked for the audit keep their own answer and are no part of this share.

*How:* members (texts) are drawn without replacement, each time with a probability proportional to their rows.
So the chance that the next one disagrees is the share of disagreeing rows among those not yet drawn [2]_. If
`total` rows disagree, betting on agreement at the odds that this makes fair is a game without gain. Money
grown to 1 / (1 - confidence) refutes `total` [1]_, and every greater one, at whose odds it had grown more.

*Several thresholds:* the first is the lowest, where most is saved. If the answers say that it won't do, the
audit moves up; it takes along what its money would be (never more than it began with) had as few disagreed as
could ever have made a certificate wrong there. If fewer did, no certificate there could be wrong; else the
true `total` left no less. So at the odds of the truth all is one game, and a certificate can be wrong only if
that game reaches 1 / (1 - confidence): at most with probability 1 - confidence (Ville), however the next
threshold is chosen. Fixed thresholds from the highest down, as BARGAIN has them for cascades [3]_, are valid
too, but each takes a certificate of its own: four ask twice as many, and save more only where much disagrees.

References
----------
.. [1] Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting. JRSS-B 86, 2024.
.. [2] Shekhar et al.: Risk-limiting financial audits via weighted sampling without replacement. UAI 2023.
.. [3] Zeighami, Shankar, Parameswaran: Cut costs, not accuracy. SIGMOD 2026 (arXiv 2509.02896).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.compound import Semantic

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]
Dice: TypeAlias = np.random.Generator | int
Bet: TypeAlias = tuple[Floats, Floats]
"""Parts of the money that are staked on each draw, and how much of it is played with each part."""

CANDIDATES = 20  # thresholds; 200 audits couldn't tell more of them apart
# A stake of 0.85 grows fastest where 0.15 × max_error of the rows disagree; a disagreement leaves 15 % of it.
# What is set aside pays for a second threshold; 0.25 would cost 1 in 10 certificates by 120 audits.
CERTIFYING: Bet = (np.array([0.0, 0.85]), np.array([0.15, 0.85]))
# For bounds of any rate, not just of one that could be certified.
REPORTING: Bet = (np.array([0.2, 0.4, 0.6, 0.85]), np.array([0.1, 0.1, 0.2, 0.6]))
REPORTING_LOW: Bet = (np.array([0.01, 0.03, 0.1, 0.3, 0.6]), np.full(5, 0.2))
PLAUSIBLE = 1.28  # a rate is too low to be true where what was seen, or more, has a chance of 10 %
MARGIN = 0.7  # just above the topmost disagreement seen there are others, unseen


@dataclass(frozen=True, slots=True)
class Certificate:
    """What an audit found, and from which similarity on answers are shared."""

    threshold: float | None
    """None: nothing is reused. One that was given stays, certified or not."""
    certified: bool
    audited: int
    """Distinct members that were asked, over all thresholds tried."""
    disagreements: int
    """Of these, with those that `failed`: got no answer."""
    failed: int
    rate: float | None
    """Estimated share of rows that reuse an answer (at the threshold tried last, if nothing is certified) and
    would get another one of their own. None: nobody was asked there."""
    interval: tuple[float, float]
    """Of `rate`; each end holds with the confidence asked for, however long the audit took."""
    saved: int
    """Requests that aren't sent, net of the audit: the members that reuse an answer."""
    reused_rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Point:
    """Disagreement among all members at or above a threshold; bounds for this threshold by itself."""

    threshold: float
    members: int
    rows: int
    audited: int
    disagreements: int
    rate: float | None
    low: float
    high: float


class Audit:
    """Which members to ask next, and when enough is known.

    Parameters
    ----------
    similarity
        Of each member, a text that would take the answer of another, to that other. NaN: never reused.
    rows
        How many rows hold the text of each member; 1 or more.
    semantic
        If its threshold is given, the audit only reports; it ends when it knows on which side of `max_error`
        the rate lies.
    dice
        A numpy Generator or a seed; the same one and the same answers ask the same members.

    Examples
    --------
    >>> audit = Audit(np.linspace(0.99, 0.9, 2000), np.ones(2000), Semantic(), 7)
    >>> while not audit.decided:
    ...     for member in audit.next(16):
    ...         audit.tell(member, False)  # its own answer is the one that it would have taken
    >>> found = audit.verdict()
    >>> found.certified, found.audited, found.saved
    (True, 74, 1926)
    """

    def __init__(
        self, similarity: npt.ArrayLike, rows: npt.ArrayLike, semantic: Semantic, dice: Dice
    ) -> None:
        given, self._weights = np.asarray(similarity, float), np.asarray(rows, float)
        if given.ndim != 1 or given.shape != self._weights.shape or not (self._weights >= 1).all():
            raise ValueError("similarity and rows are two sequences of one length; rows are 1 or more.")
        # At an error of 1, which is allowed, the odds would be infinite.
        self._error, self._odds = min(semantic.max_error, 1 - 1e-6), 1 / (1 - semantic.confidence)
        self._budget, self._wanted = semantic.audit, semantic.threshold
        self._bet = CERTIFYING if self._wanted == "auto" else REPORTING
        self._dice = np.random.default_rng(dice)
        # From here on a member is its place in falling similarity, a threshold how many are at or above it.
        known = np.flatnonzero(~np.isnan(given))
        self._members = known[np.argsort(-given[known], kind="stable")]
        self._similarity, self._rows = given[self._members], self._weights[self._members]
        self._ends = _ends(self._similarity, self._wanted)
        # Forecasts look at an order of their own: the real one must not be known in advance.
        self._rehearsal = self._dice.exponential(size=len(known)) / self._rows
        self._answers = np.full(len(known), -1, np.int8)
        self._queue: list[int] = []
        self._batch: list[int] = []
        self._drawn: list[int] = []
        self._awaited: dict[int, int] = {}
        self._tried: list[tuple[int, int]] = []  # which threshold, and how many were drawn before it
        self._money, self._certified, self._failed, self._reason = 1.0, False, 0, ""
        if not len(self._ends):
            self._reason = "No text is similar enough to another to take its answer."
            return
        if self._wanted != "auto":
            self._begin(0)
        self._settle()

    @property
    def decided(self) -> bool:
        """Whether no further answer is needed."""
        return bool(self._reason)

    def next(self, n: int = 16) -> Indices:
        """The members to ask now, at most `n` (fewer may decide it); those still awaited, if any are."""
        if not self._awaited and not self.decided:
            most = min(int(self._room()[self._tried[-1][0]]), self._decisive(max(1, n)))
            self._batch, self._queue = self._queue[:most], self._queue[most:]
            self._awaited = {int(self._members[place]): place for place in self._batch}
        return np.array(list(self._awaited), np.intp)

    def tell(self, member: int, disagrees: bool | None) -> None:
        """Whether the member's own answer differs from the one it would have taken: for labels, isn't equal.

        None: no answer was got. That counts as a disagreement, since nothing says that the texts which fail
        are those that would have agreed.
        """
        place = self._awaited.pop(member, None)
        if place is None:
            raise ValueError(f"Member {member} isn't awaited: tell of those that next() gave, each once.")
        self._failed += disagrees is None
        self._answers[place] = disagrees is None or bool(disagrees)
        if not self._awaited:
            self._drawn += self._batch
            self._settle()

    def verdict(self) -> Certificate:
        """What is known now; an audit that was cut short certifies nothing."""
        reused, (rate, interval) = self.reused(), self._found()
        lowest = float(self._similarity[self._end() - 1]) if self._certified else None
        return Certificate(
            threshold=lowest if isinstance(self._wanted, str) else float(self._wanted),
            certified=self._certified,
            audited=int((self._answers >= 0).sum()),
            disagreements=int((self._answers == 1).sum()),
            failed=self._failed,
            rate=rate,
            interval=interval,
            saved=len(reused),
            reused_rows=int(self._weights[reused].sum()),
            reason=self._reason or "Cut short before it was decided.",
        )

    def reused(self) -> Indices:
        """The members that take the answer of another: at or above the threshold, and not asked."""
        end = self._end() if self._certified or (self._tried and self._wanted != "auto") else 0
        return self._members[:end][self._answers[:end] < 0]

    def curve(self) -> tuple[Point, ...]:
        """The disagreement at each candidate threshold, from the highest down, with bounds; for a plot."""
        return tuple(self._point(end) for end in self._ends.tolist())

    def _point(self, end: int) -> Point:
        # Draws made at a higher threshold left out the lower members: they say nothing of all of these.
        apart = [before for tried, before in self._tried if self._ends[tried] < end]
        places = np.array([each for each in self._drawn[: min(apart, default=None)] if each < end], np.intp)
        rows, asked = float(self._rows[:end].sum()), self._answers[:end]
        game = _Game(self._rows[places], self._answers[places], rows)
        return Point(
            threshold=float(self._similarity[end - 1]),
            members=end,
            rows=int(rows),
            audited=int((asked >= 0).sum()),
            disagreements=int((asked == 1).sum()),
            rate=float(game.disagrees.mean()) if len(places) else None,
            low=game.least(self._odds) / rows,
            high=game.most(REPORTING, self._odds) / rows,
        )

    def _end(self) -> int:
        return int(self._ends[self._tried[-1][0]])

    def _begin(self, threshold: int) -> None:
        """Shuffle those not yet asked, the more rows the sooner: each rings after an exponential time."""
        room = int(self._room()[threshold])
        self._tried.append((threshold, len(self._drawn)))
        rows, answers = self._rows[: self._end()], self._answers[: self._end()]
        left = np.flatnonzero(answers < 0)
        self._queue = left[np.argsort(self._dice.exponential(size=len(left)) / rows[left])].tolist()
        self._pool = float(rows[left].sum())
        # With fewer disagreeing rows than this, no certificate of this threshold would be wrong.
        heaviest = float(np.sort(rows[left])[::-1][:room].sum())
        self._never = self._error * (self._pool - heaviest)

    def _game(self) -> _Game:
        places = np.array(self._drawn[self._tried[-1][1] :], np.intp)
        return _Game(self._rows[places], self._answers[places], self._pool)

    def _won(self, game: _Game) -> Floats:
        """Against the most disagreement that the promise allows among those that are left to reuse."""
        return self._money * game.money(self._bet, game.found + self._error * game.left)

    def _settle(self) -> None:
        most = f"{self._error * 100:.3g} %"
        promise = f"at most {most} of the rows that reuse an answer would have got another one"
        if self._drawn and self._won(self._game()).sum() >= self._odds:
            self._certified = True
            self._reason = f"Certified: {promise}, with {100 - 100 / self._odds:.4g} % confidence."
        elif self._wanted == "auto":
            self._reconsider()
        elif self._found()[1][0] > self._error or self._room()[0] == 0:
            self._reason = f"Reused as told: {len(self._drawn)} audits didn't certify that {promise}."

    def _reconsider(self) -> None:
        """Stay at this threshold, move up with the money that is left, or give up."""
        room, kept, current = self._room(), 1.0, len(self._ends)
        if self._tried:
            game, current = self._game(), self._tried[-1][0]
            if self._hopeful(self._won(game), current, room):
                return
            kept = min(1.0, float(game.money(self._bet, max(game.found, self._never)).sum()))
        start = self._money * kept * self._bet[1]
        possible = (each for each in range(current)[::-1] if self._hopeful(start, each, room))
        lowest = next(possible, None)
        if lowest is None:
            self._reason = self._why_not(int(room.max()))
            return
        higher = (each for each in possible if self._ends[each] <= MARGIN * self._ends[lowest])
        self._money *= kept
        self._begin(next(higher, lowest) if self._tried else lowest)

    def _room(self) -> Indices:
        """How many may be asked yet at each threshold: audits stay fewer than what could still be saved."""
        asked = np.cumsum(self._answers >= 0)[self._ends - 1]
        done = len(self._drawn)
        return np.maximum(0, np.minimum(self._budget - done, (self._ends - asked - done - 1) // 2))

    def _hopeful(self, money: Floats, threshold: int, room: Indices) -> bool:
        """Whether the room would do at the lowest rate that may well have shown what was seen."""
        draws, answers = int(room[threshold]), self._answers[: self._ends[threshold]]
        fastest = math.log1p(self._bet[0].max() * self._error / (1 - self._error))
        rate = _plausible(int((answers == 1).sum()), int((answers >= 0).sum()))
        if rate >= self._error or draws * fastest < math.log(self._odds / money.sum()):
            return False
        left = np.flatnonzero(answers < 0)
        rows, first = self._rows[left], np.argpartition(self._rehearsal[left], draws)[:draws]
        after = np.array([rows.sum() - rows[first].sum()])
        growth = _growth(self._bet, rate, self._error, float(rows.sum()), after)
        return _first(money, np.array([draws]), growth, self._odds) is not None

    def _decisive(self, most: int) -> int:
        """How many agreements would certify, if fewer than `most`."""
        draws, game = np.arange(1, most + 1), self._game()
        after = game.left * (1 - np.minimum(draws / len(self._queue), 1.0))
        growth = _growth(self._bet, 0.0, self._error, game.left, after)
        return _first(self._won(game), draws, growth, self._odds) or most

    def _found(self) -> tuple[float | None, tuple[float, float]]:
        """The rate among those that could be drawn at this threshold and weren't, and its bounds."""
        game = self._game() if self._tried else None
        if game is None or not len(game.rows):
            return None, (0.0, 1.0)
        bet, odds = (self._bet, self._odds / self._money) if self._certified else (REPORTING, self._odds)
        bounds = np.array([game.least(self._odds), game.most(bet, odds)])
        low, high = np.clip((bounds - game.found) / game.left, 0.0, 1.0).tolist()
        return float(game.disagrees.mean()), (low, high)

    def _why_not(self, room: int) -> str:
        asked, members, differed = len(self._drawn), len(self._members), int((self._answers == 1).sum())
        if asked:
            return (
                f"Not certified, nothing is reused: {differed} of {asked} audited texts got another answer; "
                f"{members - asked:,} requests at most could be saved, for {room} more audits."
            )
        least = least_audit(members, self._error, 1 - 1 / self._odds)
        takes = f"{least} audits or more" if least else "more audits than it saves"
        return (
            f"Not certified, nothing was asked: {members:,} texts could take the answer of another; "
            f"that takes {takes}, and {room} may be asked."
        )


@dataclass(frozen=True, slots=True)
class _Game:
    """The draws at one threshold, in their order, from what was a `pool` of so many rows."""

    rows: Floats
    disagrees: npt.NDArray[np.int8]
    pool: float

    @property
    def found(self) -> float:
        return float(self.rows @ self.disagrees)

    @property
    def left(self) -> float:
        return self.pool - float(self.rows.sum())

    def money(self, bet: Bet, total: float) -> Floats:
        """What each stake on agreement became at the odds of `total` disagreeing rows; it rises with them."""
        stakes, shares = bet
        weighted = self.rows * self.disagrees
        drawn, found = np.cumsum(self.rows) - self.rows, np.cumsum(weighted) - weighted
        chance = np.clip((total - found) / (self.pool - drawn), 0.0, 1 - 1e-12)
        payout = np.where(self.disagrees == 1, 0.0, 1 / (1 - chance))
        with np.errstate(over="ignore"):
            return np.asarray(shares * np.prod(1 + stakes[:, None] * (payout - 1), axis=1))

    def most(self, bet: Bet, odds: float) -> float:
        """The most disagreeing rows that aren't refuted."""
        low, high = self.found, self.found + self.left
        for _ in range(30 if self.money(bet, high).sum() >= odds else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if self.money(bet, middle).sum() >= odds else (middle, high)
        return high

    def least(self, odds: float) -> float:
        """The fewest: what the most agreeing rows leave."""
        return self.pool - _Game(self.rows, 1 - self.disagrees, self.pool).most(REPORTING_LOW, odds)


def least_audit(members: int, max_error: float = 0.05, confidence: float = 0.95) -> int | None:
    """The fewest audits that could certify so many members of one row each; None: more than they can save."""
    draws = np.arange(1, (members - 1) // 2 + 1)
    growth = _growth(CERTIFYING, 0.0, max_error, float(members), np.asarray(members - draws, float))
    return _first(CERTIFYING[1], draws, growth, 1 / (1 - confidence))


def _first(money: Floats, draws: Indices, growth: Floats, odds: float) -> int | None:
    enough = np.flatnonzero(money @ np.exp(np.minimum(draws * growth, 600.0)) >= odds)
    return int(draws[enough[0]]) if len(enough) else None


def _growth(bet: Bet, rate: float, error: float, before: float, after: Floats) -> Floats:
    """Mean logarithm of what a draw makes of each stake, if `error` is the rate of the rows left after."""
    stakes, after = bet[0][:, None], np.maximum(after, 1e-9)
    chance = rate + (error - rate) * after * np.log(before / after) / np.maximum(before - after, 1e-9)
    return np.asarray((1 - rate) * np.log1p(stakes * chance / (1 - chance)) + rate * np.log1p(-stakes))


def _plausible(disagreed: float, asked: int) -> float:
    """The lower limit of a rate, by the cube of Wilson and Hilferty for the mean of a Poisson."""
    disagreed = max(disagreed, 1e-9)
    root = max(0.0, 1 - 1 / (9 * disagreed) - PLAUSIBLE / (3 * math.sqrt(disagreed)))
    return disagreed * root**3 / max(asked, 1)


def _ends(similarity: Floats, wanted: float | str) -> Indices:
    """How many stand at or above each threshold: the one given, or some at equal distances in number."""
    thresholds = np.array([wanted])
    if isinstance(wanted, str):
        places = np.ceil(len(similarity) * np.arange(1, CANDIDATES + 1) / CANDIDATES).astype(int) - 1
        thresholds = similarity[places[places >= 0]]
    ends = np.unique(np.searchsorted(-similarity, -thresholds, side="right"))
    return ends[ends > 0]
