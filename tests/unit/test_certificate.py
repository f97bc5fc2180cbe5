"""The certificate: never wrong too often, got where it is deserved, and never dearer than what it saves."""

from __future__ import annotations

import doctest
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pandas_llm.core import certificate
from pandas_llm.core.certificate import Audit, least_audit
from pandas_llm.core.compound import Semantic


def _load_bench() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "certificate.py"
    spec = importlib.util.spec_from_file_location("bench_certificate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _load_bench()
LOOSE = Semantic(
    max_error=0.2, confidence=0.9
)  # short audits: small populations come close to what is allowed
EVEN = np.linspace(0.99, 0.9, 1000)


def answer(audit, disagrees, batch=16):
    """Carries an audit through; `disagrees` by member."""
    while not audit.decided:
        for member in audit.next(batch).tolist():
            audit.tell(member, disagrees[member])
    return audit.verdict()


def simulated(shape, size, count, semantic=None):
    bench.SHAPES["tested"] = shape
    return [bench.ours(bench.population("tested", seed, size), seed, semantic, 64) for seed in range(count)]


def test_the_examples_run():
    assert doctest.testmod(certificate).failed == 0


def test_at_the_odds_of_the_truth_the_game_is_fair():
    # Its mean is exactly 1: what every bound here rests on. Weights of 1 to 20, drawn as an audit draws.
    dice = np.random.default_rng(3)
    rows = dice.integers(1, 21, 60).astype(float)
    disagrees = (dice.random(60) < 0.3).astype(np.int8)
    for bet in (certificate.CERTIFYING, certificate.REPORTING):
        ends = []
        for _ in range(1500):
            drawn = np.argsort(dice.exponential(size=60) / rows)[:12]
            game = certificate._Game(rows[drawn], disagrees[drawn], float(rows.sum()))
            ends.append(game.money(bet, float(rows @ disagrees)).sum())
        assert abs(np.mean(ends) - 1) <= 4 * np.std(ends) / math.sqrt(len(ends))
        assert np.std(ends) > 0.3


# A little more disagrees than is allowed, everywhere or in a part; in half of the populations, members have
# very different weights.
BORDERLINE = {
    "everywhere": (lambda rank, dice: np.full(len(rank), dice.uniform(0.2, 0.22)), 150),
    "here and there": (lambda rank, dice: np.full(len(rank), dice.uniform(0.16, 0.22)), 100),
    "below a rank": (lambda rank, dice: np.where(rank < dice.uniform(0.3, 0.9), 0.17, 0.5), 120),
    "at the top": (lambda rank, dice: np.where(rank < 0.3, 0.45, 0.1), 70),
}


def test_a_certificate_is_wrong_no_more_often_than_promised():
    wrong, certified = [], 0
    for shape, size in BORDERLINE.values():
        found = simulated(shape, size, 500, LOOSE)
        # 3 standard deviations of 500 tosses of a coin that falls wrong as often as is allowed.
        assert np.mean([each.wrong for each in found]) <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 500)
        wrong += [each.wrong for each in found]
        certified += sum(each.certified for each in found)
    assert len(wrong) == 2000
    assert np.mean(wrong) <= 0.1
    assert 20 < certified < 400  # neither idle nor reckless


def test_what_next_to_never_disagrees_is_certified_by_120_audits():
    found = [bench.ours(bench.population("0 to 1 %", seed, 4000, heavy=False), seed) for seed in range(100)]
    assert np.mean([each.certified and each.audited <= 120 for each in found]) >= 0.8
    assert not any(each.wrong for each in found)


def test_heavy_members_cost_few_more_audits():
    found = [bench.ours(bench.population("0 to 1 %", seed, 1000, heavy=True), seed) for seed in range(50)]
    assert np.mean([each.certified for each in found]) >= 0.7


def test_where_only_the_less_similar_disagree_a_higher_threshold_is_found():
    found = simulated(lambda rank, dice: np.where(rank < 0.5, 0.0, 0.3), 4000, 40)
    certified = [each for each in found if each.certified]
    assert len(certified) >= 28
    assert all(1000 < each.saved < 2400 for each in certified)


@pytest.mark.parametrize("shape", ["30 %", "all"])
def test_the_hopeless_is_given_up_within_40_audits(shape):
    for seed in range(30):
        outcome = bench.ours(bench.population(shape, seed, 3000), seed)
        assert not outcome.certified
        assert 0 < outcome.audited <= 40


@pytest.mark.parametrize("size", [1, 30, 59, 60, 180, 205, 260, 400])
@pytest.mark.parametrize("threshold", ["auto", 0.9])
def test_the_audits_stay_fewer_than_what_could_still_be_saved(size, threshold):
    for seed in range(4):
        whom = bench.population("2 %", seed, size)
        audit = Audit(whom.similarity, whom.rows, Semantic(threshold=threshold), seed)
        asked = 0
        above = size if threshold == "auto" else int((whom.similarity >= threshold).sum())
        while not audit.decided:
            batch = audit.next(32).tolist()
            asked += len(batch)
            assert 0 < asked < above - asked
            for member in batch:
                audit.tell(member, bool(whom.disagrees[member]))
        found = audit.verdict()
        assert found.audited == asked <= 200
        assert found.saved == len(audit.reused()) <= size - asked


def test_too_few_members_are_refused_before_anything_is_asked():
    assert least_audit(59) is None
    assert least_audit(200) is None
    for size in (1, 59, 200):
        audit = Audit(np.linspace(1, 0.9, size), np.ones(size), Semantic(), 1)
        assert audit.decided
        found = audit.verdict()
        assert (found.certified, found.threshold, found.audited, found.saved) == (False, None, 0, 0)
        assert f"{size} texts" in found.reason
        assert found.rate is None


def test_a_budget_that_cannot_certify_spends_nothing():
    found = Audit(EVEN, np.ones(1000), Semantic(audit=60), 1).verdict()
    assert found.audited == 0
    assert f"{least_audit(1000)} audits or more, and 60 may be asked" in found.reason
    assert Audit(EVEN, np.ones(1000), Semantic(audit=1), 1).decided


def test_the_least_audit_is_what_an_audit_without_disagreement_takes():
    for size in (300, 1000, 20_000):
        found = answer(Audit(np.linspace(1, 0.9, size), np.ones(size), Semantic(), 3), np.zeros(size, bool))
        assert found.certified
        assert abs(found.audited - least_audit(size)) <= 3
        assert found.interval[0] == 0.0
        assert 0.04 < found.interval[1] <= 0.05


def test_the_certificate_says_what_is_reused():
    rows = np.arange(1000) % 3 + 1
    audit = Audit(EVEN, rows, Semantic(), 5)
    found = answer(audit, np.zeros(1000, bool))
    assert found.threshold == EVEN[-1]
    assert found.saved == 1000 - found.audited == len(audit.reused())
    assert found.reused_rows == rows[audit.reused()].sum()
    assert found.rate == 0.0
    assert found.reason.startswith("Certified: at most 5 % of the rows")


def test_what_is_refused_says_both_figures():
    found = answer(Audit(EVEN, np.ones(1000), Semantic(), 5), np.ones(1000, bool))
    assert found.saved == found.reused_rows == 0
    assert "16 of 16 audited texts" in found.reason
    assert "984 requests" in found.reason


def test_the_same_seed_asks_the_same_members():
    whom = bench.population("none, then many", 4, 2000)

    def asked(dice):
        audit, order = Audit(whom.similarity, whom.rows, Semantic(), dice), []
        while not audit.decided:
            batch = audit.next(20).tolist()
            order += batch
            for member in reversed(batch):  # the order of the telling doesn't matter
                audit.tell(member, bool(whom.disagrees[member]))
        return order, audit.verdict()

    assert asked(11) == asked(11) == asked(np.random.default_rng(11))
    assert asked(11)[0] != asked(12)[0]


def test_members_are_drawn_in_proportion_to_their_rows():
    rows = np.where(np.arange(1000) < 100, 9, 1)  # half of the rows are held by a tenth of the members
    first = [Audit(EVEN, rows, Semantic(), seed).next(1)[0] for seed in range(300)]
    assert abs(np.mean(np.array(first) < 100) - 0.5) < 4 * math.sqrt(0.25 / 300)


def test_an_audit_without_an_answer_counts_as_a_disagreement():
    failing = np.zeros(1000, object)
    failing[::3] = None
    found = answer(Audit(EVEN, np.ones(1000), Semantic(), 2), failing)
    assert not found.certified
    assert found.failed == found.disagreements > 0


def test_what_has_no_similarity_is_never_asked_nor_reused():
    similarity = np.where(np.arange(1000) % 4 == 0, np.nan, EVEN)
    audit = Audit(similarity, np.ones(1000), Semantic(), 1)
    found = answer(audit, np.zeros(1000, bool))
    assert found.certified
    assert found.saved + found.audited == 750
    assert not np.isnan(similarity[audit.reused()]).any()
    for nobody in (np.full(5, np.nan), np.array([])):
        nothing = Audit(nobody, np.ones(len(nobody)), Semantic(), 1)
        assert nothing.decided
        assert nothing.verdict().reason == "No text is similar enough to another to take its answer."
        assert nothing.curve() == ()


def test_equal_similarities_stand_or_fall_together():
    audit = Audit(np.full(1000, 0.97), np.ones(1000), Semantic(), 1)
    assert len(audit.curve()) == 1
    assert answer(audit, np.zeros(1000, bool)).threshold == 0.97
    refused = answer(Audit(np.full(1000, 0.97), np.ones(1000), Semantic(), 1), np.arange(1000) % 4 == 0)
    assert refused.threshold is None


@pytest.mark.parametrize("disagrees", [False, True])
def test_one_member_with_half_of_all_rows_keeps_its_own_answer_and_the_rest_is_certified(disagrees):
    rows = np.ones(1000)
    rows[999] = 1000
    answers = np.zeros(1000, bool)
    answers[999] = disagrees
    for seed in range(5):
        audit = Audit(EVEN, rows, Semantic(), seed)
        found = answer(audit, answers)
        assert found.certified
        assert found.reused_rows == found.saved == len(audit.reused()) < 1000


def test_a_threshold_that_was_given_is_only_reported_on():
    rng = np.random.default_rng(0)
    disagrees = rng.random(1000) < 0.15
    audit = Audit(EVEN, np.ones(1000), Semantic(threshold=0.93), 1)
    found = answer(audit, disagrees)
    above = EVEN >= 0.93
    assert found.threshold == 0.93
    assert not found.certified
    assert found.saved == above.sum() - found.audited
    assert found.interval[0] <= disagrees[above].mean() <= found.interval[1]
    assert found.reason.startswith("Reused as told")
    clean = answer(Audit(EVEN, np.ones(1000), Semantic(threshold=0.93), 1), np.zeros(1000, bool))
    assert clean.certified
    assert clean.interval[1] <= 0.05


def test_a_threshold_that_was_given_to_too_few_reports_what_half_of_them_say():
    audit = Audit(np.linspace(1, 0.9, 9), np.ones(9), Semantic(threshold=0.5), 1)
    found = answer(audit, np.zeros(9, bool))
    assert (found.audited, found.saved, found.certified) == (4, 5, False)
    nobody = Audit(np.linspace(0.98, 0.9, 9), np.ones(9), Semantic(threshold=0.99), 1).verdict()
    assert (nobody.threshold, nobody.saved) == (0.99, 0)


def test_the_curve_holds_the_truth_between_its_bounds():
    held = []
    for seed in range(8):
        whom = bench.population("more and more", seed, 2000)
        for point in bench.audited(whom, seed)[0].curve():
            above = whom.similarity >= point.threshold
            rate = (whom.rows * whom.disagrees)[above].sum() / whom.rows[above].sum()
            held.append(point.low <= rate <= point.high)
            assert (point.members, point.rows) == (above.sum(), whom.rows[above].sum())
            assert point.disagreements <= point.audited
    assert len(held) == 160
    assert np.mean(held) >= 0.9


def test_the_interval_holds_at_every_look():
    # Looked at after every 4 answers, an interval for a fixed number would miss far more often than promised.
    missed = 0
    for seed in range(40):
        whom = bench.population("5 to 10 %", seed, 1000)
        audit = Audit(whom.similarity, whom.rows, Semantic(threshold=0.5, confidence=0.8, audit=16), seed)
        truth, out = (whom.rows @ whom.disagrees) / whom.rows.sum(), False
        while not audit.decided:
            for member in audit.next(4).tolist():
                audit.tell(member, bool(whom.disagrees[member]))
            low, high = audit.verdict().interval
            out = out or not low - 0.005 <= truth <= high + 0.005
        missed += out
    assert missed <= 16


def test_an_audit_cut_short_certifies_nothing():
    audit = Audit(EVEN, np.ones(1000), Semantic(), 1)
    batch = audit.next(16).tolist()
    for member in batch[:5]:
        audit.tell(member, False)
    assert sorted(audit.next(16).tolist()) == sorted(batch[5:])  # those that are still awaited
    found = audit.verdict()
    assert (found.certified, found.threshold, found.saved, found.audited) == (False, None, 0, 5)
    assert found.reason == "Cut short before it was decided."


def test_an_answer_nobody_awaits_is_refused():
    audit = Audit(EVEN, np.ones(1000), Semantic(), 1)
    member = int(audit.next(16)[0])
    audit.tell(member, False)
    with pytest.raises(ValueError, match=f"Member {member} isn't awaited"):
        audit.tell(member, False)


def test_where_any_error_is_allowed_one_agreement_does():
    found = answer(Audit(EVEN, np.ones(1000), Semantic(max_error=1.0), 1), np.arange(1000) % 2 == 0)
    assert found.certified
    assert found.audited <= 16


def test_rows_below_one_are_refused():
    with pytest.raises(ValueError, match="1 or more"):
        Audit([0.9, 0.8], [1, 0], Semantic(), 1)


def test_it_takes_little_more_than_an_interval_whose_size_was_fixed():
    # 59 agreements, by Clopper and Pearson, which may be looked at only once.
    assert bench.clopper_pearson(0, 59, 0.05) <= 0.05 < bench.clopper_pearson(0, 58, 0.05)
    assert least_audit(1_000_000) <= 59 * 1.25
