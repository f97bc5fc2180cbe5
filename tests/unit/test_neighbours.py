"""Near neighbours: exact where few, nearly so in cells, and nothing that crowds or odd numbers break."""

import numpy as np
import pytest

from pandas_llm.core import neighbours
from pandas_llm.core.errors import OptionsError
from pandas_llm.core.neighbours import Index, pairs_above, unit

WIDTH = 96


def clustered(size, *, copies=5, noise=0.28, seed=0):
    """Unit vectors around `size / copies` centres, of which those of a centre are near to 0.95 alike."""
    dice = np.random.default_rng(seed)
    centres = dice.standard_normal((size // copies, WIDTH)) * np.geomspace(3, 0.3, WIDTH)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    shifts = dice.standard_normal((size, WIDTH)) * dice.uniform(0, noise, (size, 1)) / WIDTH**0.5
    return unit(dice.permutation(np.repeat(centres, copies, axis=0) + shifts))


def all_pairs(vectors, floor, first=0):
    products = unit(vectors) @ unit(vectors).T
    i, j = np.nonzero(np.tril(products, -1) >= floor)
    return {(a - first, b) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a >= first}


def as_set(pairs):
    return set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


@pytest.fixture(scope="module")
def vectors():
    return clustered(2_000)


@pytest.mark.parametrize("floor", [0.9, 0.95, 0.99])
def test_few_rows_are_compared_exactly(vectors, floor):
    few = vectors[:700]
    found = pairs_above(few, None, floor)
    assert as_set(found) == all_pairs(few, floor) != set()
    assert np.allclose(found.similarity, np.einsum("ij,ij->i", few[found.i], few[found.j]), atol=1e-6)


def test_new_rows_are_compared_with_known_ones_and_those_before_them(vectors):
    known, new = vectors[:500], vectors[500:800]
    assert as_set(pairs_above(new, known, 0.95)) == all_pairs(vectors[:800], 0.95, first=500) != set()


@pytest.mark.parametrize("floor", [0.9, 0.95])
def test_cells_find_almost_all_pairs(vectors, floor):
    truth = all_pairs(vectors, floor)
    found = as_set(pairs_above(vectors, None, floor, cells=80))
    assert found <= truth
    assert len(found) >= 0.99 * len(truth) > 500


def test_blocks_and_chunks_leave_no_seams(vectors, monkeypatch):
    whole = pairs_above(vectors, None, 0.95, cells=30)
    monkeypatch.setattr(neighbours, "BLOCK", 61)
    monkeypatch.setattr(neighbours, "CHUNK", 307)
    monkeypatch.setattr(neighbours, "HELD", 100)
    assert as_set(pairs_above(vectors, None, 0.95, cells=30)) == as_set(whole)
    assert as_set(pairs_above(vectors, None, 0.95)) == all_pairs(vectors, 0.95)


def test_a_row_has_its_nearest_neighbour_first():
    found = pairs_above(np.array([[1.0, 0.2], [1.0, 0.1], [1.0, 0.0]]), None, 0.9)
    assert list(zip(found.i, found.j, strict=True)) == [(1, 0), (2, 1), (2, 0)]


@pytest.mark.parametrize("cells", [1, 20])
def test_of_many_copies_a_row_keeps_the_earliest(cells):
    found = pairs_above(np.ones((400, 8), np.float16), None, 0.95, cells=cells, most=3)
    assert np.bincount(found.i).max() == 3
    assert set(found.j) == {0, 1, 2}
    assert set(found.i) == set(range(1, 400))


def test_a_row_keeps_the_nearest_of_many_neighbours(vectors):
    best = pairs_above(vectors, None, 0.9, most=1)
    every = pairs_above(vectors, None, 0.9)
    nearest = np.zeros(len(vectors))
    np.maximum.at(nearest, every.i, every.similarity)
    first = every.similarity == nearest[every.i]
    assert len(best.i) == len(set(every.i)) < len(every.i)
    assert as_set(best) <= set(zip(every.i[first].tolist(), every.j[first].tolist(), strict=True))


def test_equal_vectors_reach_a_floor_of_one(vectors):
    twice = np.concatenate([vectors[:300], vectors[:300]])
    for kind in (np.float32, np.float16):
        found = pairs_above(twice.astype(kind), None, 1.0, cells=9)
        assert as_set(found) == {(i + 300, i) for i in range(300)}
        assert found.similarity.max() <= 1


def test_lengths_do_not_matter(vectors):
    longer = vectors[:500] * np.geomspace(0.01, 100, 500, dtype=np.float32)[:, None]
    assert as_set(pairs_above(longer, None, 0.95)) == all_pairs(vectors[:500], 0.95)


def test_zero_vectors_are_like_nothing():
    found = pairs_above(np.array([[0.0, 0], [0, 0], [1, 0], [1, 0]]), None, 1e-3, cells=4)
    assert as_set(found) == {(3, 2)}
    assert unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_with_its_row(odd):
    vectors = np.ones((5, 4), np.float32)
    vectors[3, 1] = odd
    with pytest.raises(OptionsError, match="Vector 3 holds"):
        pairs_above(vectors, None, 0.9)
    with pytest.raises(OptionsError, match="Vector 3 holds"):
        unit(vectors)


@pytest.mark.parametrize("floor", [0, -0.5, 1.01, np.nan])
def test_a_floor_outside_of_its_range_is_refused(floor):
    with pytest.raises(OptionsError, match="above 0"):
        pairs_above(np.eye(3), None, floor)


def test_no_vector_and_one_vector_have_no_pairs():
    nothing = np.empty((0, 4), np.float32)
    assert len(pairs_above(nothing, None, 0.9).i) == 0
    assert len(pairs_above(nothing, np.eye(4), 0.9).i) == 0
    assert len(pairs_above(np.eye(4)[:1], None, 0.9).i) == 0
    assert as_set(pairs_above(np.eye(4)[:1], np.eye(4), 0.9)) == {(0, 0)}
    assert as_set(pairs_above(np.eye(4)[[1, 1]], nothing, 0.9)) == {(1, 0)}
    assert unit(nothing).shape == (0, 4)


def test_vectors_of_two_models_are_refused():
    with pytest.raises(OptionsError, match="3 and 4 numbers"):
        pairs_above(np.eye(3), np.eye(4), 0.9)
    with pytest.raises(OptionsError, match="3 and 4 numbers"):
        Index.build([np.eye(3)]).search(np.eye(4), 0.9)
    with pytest.raises(OptionsError, match="a matrix"):
        unit(np.ones(4))


def test_a_seed_gives_the_same_pairs_again(vectors):
    first, again = (pairs_above(vectors, None, 0.9, cells=200, seed=4) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_index_that_grew_finds_what_one_built_at_once_finds(vectors):
    grown = Index.build([vectors[:1_400]], cells=40)
    grown.add(vectors[1_400:1_900])
    grown.add(vectors[1_900:])
    truth = all_pairs(vectors, 0.95, first=1_400)
    found = as_set(grown.pairs(0.95, first=1_400))
    assert len(grown) == 2_000
    assert found <= truth
    assert len(found) >= 0.99 * len(truth)


def test_an_index_of_nothing_can_grow():
    index = Index.build([np.empty((0, 3))])
    assert len(index.search(np.eye(3), 0.9).i) == 0
    index.add(np.eye(3))
    assert as_set(index.search(np.eye(3)[[2]], 0.9)) == {(0, 2)}


def test_queries_are_searched_without_becoming_part(vectors):
    index = Index.build([vectors[:1_600]], cells=40)
    found = index.search(vectors[1_600:], 0.95)
    products = vectors[1_600:] @ vectors[:1_600].T
    truth = set(zip(*(at.tolist() for at in np.nonzero(products >= 0.95)), strict=True))
    assert len(index) == 1_600
    assert as_set(found) <= truth
    assert len(as_set(found)) >= 0.99 * len(truth) > 100


def test_an_index_comes_back_from_its_arrays(vectors, tmp_path):
    index = Index.build([vectors.astype(np.float16)], cells=40)
    np.savez(tmp_path / "index.npz", **index.arrays())
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float16))
    with np.load(tmp_path / "index.npz") as arrays:
        again = Index([np.load(tmp_path / "vectors.npy", mmap_mode="r")], arrays)
    assert all(np.array_equal(a, b) for a, b in zip(index.pairs(0.95), again.pairs(0.95), strict=True))
    with pytest.raises(OptionsError, match="of 2,000 vectors; 10 were given"):
        Index([vectors[:10]], index.arrays())
