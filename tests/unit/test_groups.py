"""Texts in groups: each beside the first one of which it is a near copy, by vectors and guards."""

import numpy as np
import pytest

from pandas_llm.core.groups import MOST, groups_among


def by_hand(vectors, threshold):
    """What groups are: each vector with the nearest earlier one that begins a group."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    heads, first = [], []
    for at, vector in enumerate(unit):
        near = unit[heads] @ vector if heads else np.zeros(0)
        if len(near) and near.max() >= threshold:
            first.append(heads[int(near.argmax())])
        else:
            heads.append(at)
            first.append(at)
    return np.array(first)


def clouds(seed, rows=600, centres=6, spread=0.25):
    dice = np.random.default_rng(seed)
    middle = dice.standard_normal((centres, 16))
    return (middle[dice.integers(0, centres, rows)] + spread * dice.standard_normal((rows, 16))).astype("f4")


def angles(*degrees):
    return [np.array([np.cos(d), np.sin(d)], np.float32) for d in np.radians(degrees)]


@pytest.mark.parametrize("seed", range(4))
def test_crowds_far_larger_than_what_is_looked_at_are_grouped_as_by_hand(seed):
    vectors = clouds(seed)
    assert len(vectors) > 4 * MOST
    found = groups_among([str(n) for n in range(len(vectors))], list(vectors), 0.9, guards=False)
    right = by_hand(vectors, 0.9)
    assert (found.first == right).mean() > 0.95
    assert abs(len(np.unique(found.first)) - len(np.unique(right))) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_every_text_is_as_near_to_its_groups_first_as_is_said(seed):
    vectors = clouds(seed, spread=0.4)
    found = groups_among([str(n) for n in range(len(vectors))], list(vectors), 0.85, guards=False)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (found.first <= np.arange(len(vectors))).all()
    assert (found.first[found.first] == found.first).all()
    cosines = (unit * unit[found.first]).sum(axis=1)
    np.testing.assert_allclose(found.similarity, cosines, atol=1e-5)
    assert cosines.min() >= 0.85 - 1e-5


def test_near_is_not_handed_on():
    # 0° and 20° are near, 20° and 40° are, 0° and 40° aren't.
    found = groups_among(["a", "b", "c"], angles(0, 20, 40), 0.93, guards=False)
    assert found.first.tolist() == [0, 0, 2]


def test_guards_keep_apart_what_is_as_near_as_can_be():
    texts = ["Cancel order 1001", "Cancel order 1002", "hi, cancel order 1001"]
    same = angles(0, 0, 0)
    assert groups_among(texts, same, 0.9).first.tolist() == [0, 1, 0]
    assert groups_among(texts, same, 0.9, guards=False).first.tolist() == [0, 0, 0]


def test_what_has_no_vector_or_no_direction_stays_alone():
    vectors = [None, np.zeros(2, np.float32), np.array([np.nan, 1], np.float32), *angles(5, 6)]
    found = groups_among(list("abcde"), vectors, 0.9, guards=False)
    assert found.first.tolist() == [0, 1, 2, 3, 3]
    assert found.similarity[:4].tolist() == [1.0] * 4
    assert groups_among([], [], 0.9).first.tolist() == []
