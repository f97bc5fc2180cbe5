"""Near-equal texts as people type them: sharing is hardly ever wrong, and worth it where answers agree."""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def _load_bench() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "semantic.py"
    spec = importlib.util.spec_from_file_location("bench_semantic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _load_bench()
SEEDS = 20


def hashed(texts):
    """Vectors from runs of three letters: near where texts are spelt alike, the same on any machine."""
    vectors = np.zeros((len(texts), 256), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        letters = f" {' '.join(text.lower().split())} "
        for at in range(len(letters) - 2):
            vector[zlib.crc32(letters[at : at + 3].encode()) % 256] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def column():
    return bench.messy(bench.read(), 3_000, 7)


@pytest.fixture(scope="module")
def members(column):
    return bench.members_of(column, hashed(column.texts), None)


@pytest.fixture(scope="module")
def outcomes(members):
    """By shape of the answers."""
    return {shape: [bench.audited(members, shape, seed) for seed in range(SEEDS)] for shape in bench.SHAPES}


def test_texts_of_different_intents_never_share_an_answer(column, members):
    assert len(members.rows) > len(column.texts) / 4
    assert not members.differ.any()


def test_who_takes_an_answer_has_the_same_numbers_in_its_text(column, members):
    numbers = [re.findall(r"\d+", text) for text in column.texts]
    assert sum(bool(each) for each in numbers) > 150
    assert all(numbers[own] == numbers[taken] for own, taken in zip(members.own, members.taken, strict=True))


def test_nobody_takes_the_answer_of_one_who_takes_an_answer(members):
    assert set(members.own.tolist()).isdisjoint(members.taken.tolist())


def test_a_certificate_is_hardly_ever_wrong(outcomes):
    wrong = {shape: sum(each.wrong for each in runs) for shape, runs in outcomes.items()}
    assert max(wrong.values()) <= 0.05 * SEEDS, wrong


def test_where_answers_agree_most_audits_certify_and_a_fifth_is_saved(outcomes):
    for shape in bench.AGREEING:
        assert sum(each.saved >= 0.2 for each in outcomes[shape]) >= SEEDS / 2, shape


def test_where_answers_disagree_nothing_is_shared(outcomes):
    for shape in ("8 % differ", "made to differ"):
        assert [each.saved for each in outcomes[shape]] == [0.0] * SEEDS, shape


def test_what_is_certified_saves_more_than_its_audit_took(outcomes):
    certified = [
        each.certificate for runs in outcomes.values() for each in runs if each.certificate.certified
    ]
    assert len(certified) > SEEDS
    assert all(each.saved > each.audited for each in certified)


def test_the_same_column_gives_the_same_members(column, members):
    again = bench.members_of(column, hashed(column.texts), None)
    assert again.taken.tolist() == members.taken.tolist()


def test_originals_as_they_are_share_next_to_nothing():
    column = bench.column_of(bench.read())
    members = bench.members_of(column, hashed(column.texts), None)
    assert len(members.rows) <= 2
    outcome = bench.audited(members, "none differ", 0)
    assert outcome.certificate.audited == 0
    assert outcome.saved == 0
