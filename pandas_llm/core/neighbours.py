"""Near neighbours by cosine: the pairs of vectors above a floor, in numpy alone.

*Heads:* a vector's coordinates along the `HEAD` main axes of all vectors, and the length of what they leave
out. With heads h and rests r, x·y = h·h' + r·r' <= h·h' + |r||r'|, so products of 65 numbers in place of 384
or 1,536 show which pairs can reach the floor; only those are multiplied out. This loses nothing.

*Cells:* random rows are centroids. Every row is at home with the nearest, and its neighbours are looked for
in the cells whose centroids are almost as near: the closer two rows are, the more alike they see the
centroids, so how near "almost" is follows from the floor. This loses a few pairs in 10,000 (`MARGIN`).

One cell is exact, and what few rows get. The axes come from subspace iteration [1]_.

References
----------
.. [1] Halko, Martinsson, Tropp: Finding structure with randomness. SIAM Review 53, 2011.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.errors import OptionsError

Vectors: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.int64]
Packed: TypeAlias = npt.NDArray[np.uint64]

HEAD = 64  # the quickest of 48, 64, 96, 128; it holds 83 % of the squared length of short texts' vectors
# In distances of two rows at the floor. Recall of 100,000 rows' pairs at 0.95: 0.13 .9982, 0.16 .9993,
# 0.19 .9997, 0.25 1.0000; at 0.90: .9919, .9970, .9986, .9998. From 0.19 to 0.25 the time grows by a fifth.
MARGIN = 0.19
PROBES = (
    16  # cells a row looks into at most: 5 on average, but hundreds are alike to thousands of near copies
)
CELLS = (
    1.6  # × √queries; half and twice as many cost the same within a tenth, at 100,000 and at 1,000,000 rows
)
EXACT = 400_000_000  # pairs looked at for which one cell will do: 20,000 rows among themselves, 0.6 s
SAMPLE = 4_000  # rows that the axes are made from
BLOCK = 2_048  # rows at once: 2,048 × 2,048 products are 16 MB
CHUNK = 32_768  # queries at once; each chunk visits every cell, so small ones cost calls
CROWD = 200  # candidates of a row that are multiplied out, those with the nearest heads; or 2 × `most`
HELD = 8_000_000  # candidates held before the farthest are dropped: 64 MB
LARGEST = 1 << 24  # rows at most, so that a candidate is one number
ROUNDING = np.float32(1e-3)  # the product of two heads in float16 is off by less
EQUAL = np.float32(1e-6)  # the product of a unit vector with itself is off by less


class Pairs(NamedTuple):
    """Pairs of rows in the order of `i`, each with its nearest `j` first."""

    i: Ids
    j: Ids
    similarity: Floats


def unit(vectors: Vectors) -> Floats:
    """The vectors at length 1, in float32; a zero vector stays one.

    Raises
    ------
    OptionsError
        A number in them is infinite or not a number.
    """
    return _Stack([vectors]).take(np.arange(len(vectors)))


def pairs_above(
    new: Vectors,
    known: Vectors | None,
    floor: float,
    *,
    cells: int | None = None,
    most: int = 100,
    seed: int = 0,
) -> Pairs:
    """The neighbours of each new row, among `known` and the rows of `new` before it.

    Parameters
    ----------
    new, known
        One vector a row, of any length, in float16 or float32; they may be memory maps.
    floor
        The lowest cosine of a pair, above 0.
    cells
        How many cells the rows are laid into; by default chosen from their number. 1 is exact.
    most
        How many neighbours a row keeps: the nearest, and the earliest of equals. Thousands of copies of one
        text would make millions of pairs; in such crowds, the nearest by their heads are kept.
    seed
        Draws the centroids; the same seed gives the same pairs.

    Returns
    -------
    Pairs
        `i` counts the rows of `new`. `j` counts those of `known` first: row k of `new` is `len(known) + k`.
        Zero vectors have no neighbours.

    Examples
    --------
    >>> pairs_above(np.array([[1, 0], [0, 1], [2, 0.1]]), None, 0.95).j
    array([0])
    """
    blocks = [new] if known is None else [known, new]
    index = Index.build(blocks, queries=len(new), cells=cells, seed=seed)
    return index.pairs(floor, first=len(index) - len(new), most=most)


class Index:
    """Vectors in cells, to be searched and added to.

    Examples
    --------
    >>> index = Index.build([np.eye(3)])
    >>> index.search(np.array([[0, 1, 0.1]]), 0.9).j
    array([1])
    """

    def __init__(self, blocks: Sequence[Vectors], arrays: Mapping[str, Vectors]) -> None:
        """The index whose `arrays()` these are; `blocks` hold its vectors in their order."""
        self._stack = _Stack(blocks)
        self._axes: Floats = arrays["axes"]
        self._centroids: Floats = arrays["centroids"]
        self._heads: Vectors = arrays["heads"]
        self._homes: npt.NDArray[np.int32] = arrays["homes"]
        if len(self._stack) != len(self._homes):
            raise OptionsError(
                f"The index is of {len(self._homes):,} vectors; {len(self._stack):,} were given. Give those "
                "it was built from and those added, in that order, or build it anew."
            )

    @classmethod
    def build(
        cls,
        blocks: Sequence[Vectors],
        *,
        queries: int | None = None,
        cells: int | None = None,
        seed: int = 0,
    ) -> Index:
        """The index of the vectors in `blocks`, for so many queries at once: by default, one a vector."""
        stack = _Stack(blocks)
        queries = len(stack) if queries is None else queries
        if cells is None:
            cells = 1 if queries * len(stack) <= EXACT else round(CELLS * queries**0.5)
        dice = np.random.default_rng(seed)
        axes = _main_axes(stack.take(_draw(dice, len(stack), SAMPLE)), dice)
        drawn = stack.take(_draw(dice, len(stack), max(cells, 1))) @ axes
        # An index of nothing has one cell for what will come.
        centroids = drawn if len(drawn) else np.zeros((1, axes.shape[1]), np.float32)
        lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
        made: dict[str, Vectors] = {
            "axes": axes,
            "centroids": centroids / np.where(lengths > 0, lengths, 1),
            "heads": np.empty((0, axes.shape[1] + 1), np.float16),
            "homes": np.empty(0, np.int32),
        }
        index = cls([], made)
        for block in blocks:
            index.add(block)
        return index

    def __len__(self) -> int:
        return len(self._homes)

    def arrays(self) -> dict[str, Vectors]:
        """What makes this index again from its vectors; `heads` and `homes` have a row for each of them."""
        return {
            "axes": self._axes,
            "centroids": self._centroids,
            "heads": self._heads,
            "homes": self._homes,
        }

    def add(self, vectors: Vectors) -> None:
        """Put vectors behind those here. The cells stay: build anew when there are several times as many."""
        new = _Stack([vectors])
        heads = self._heads_of(new)
        homes = [self._nearness(heads[rows]).argmax(axis=1) for rows in _slices(len(heads), BLOCK)]
        self._stack = _Stack([*self._stack.blocks, vectors])
        self._heads = np.concatenate([self._heads, heads]) if len(self) else heads
        self._homes = np.concatenate([self._homes, *homes]).astype(np.int32)

    def search(self, queries: Vectors, floor: float, *, most: int = 100) -> Pairs:
        """The neighbours `j` here of the queries `i`, as `pairs_above` finds them."""
        stack = _Stack([queries])
        return self._seek(_Seekers(stack, self._heads_of(stack), 0, own=False), floor, most)

    def pairs(self, floor: float, *, first: int = 0, most: int = 100) -> Pairs:
        """The pairs among the vectors here whose later row is `first` or after it; `i` counts from there."""
        found = self._seek(_Seekers(self._stack, self._heads, first, own=True), floor, most)
        return Pairs(found.i - first, found.j, found.similarity)

    def _seek(self, seekers: _Seekers, floor: float, most: int) -> Pairs:
        if not 0 < floor <= 1 or most < 1:
            raise OptionsError(
                "Neighbours have a similarity above 0, of 1 at most, and each row keeps at least one: got "
                f"{floor!r} and most={most!r}."
            )
        cells = _Groups(self._homes, len(self._centroids))
        chunks = _slices(len(seekers.heads), CHUNK, seekers.first)
        found = [self._candidates(seekers, rows, cells, floor, max(CROWD, 2 * most)) for rows in chunks]
        i, j = _unpacked(np.concatenate([np.empty(0, np.uint64), *found]))
        if seekers.own:
            # A pair is found from one of its rows or from both. Of a million rows np.unique needs 80 MB more.
            pair = np.maximum(i, j) * len(self) + np.minimum(i, j)
            pair.sort()
            i, j = np.divmod(pair[np.diff(pair, prepend=-1) > 0], len(self))
        similarity = np.empty(len(i), np.float32)
        for part in _slices(len(i), BLOCK):
            x, y = seekers.stack.take(i[part]), self._stack.take(j[part])
            similarity[part] = np.einsum("ij,ij->i", x, y)
        kept = similarity >= np.float32(floor) - EQUAL
        return _nearest(i[kept], j[kept], np.minimum(similarity[kept], 1), most)

    def _candidates(self, seekers: _Seekers, rows: slice, cells: _Groups, floor: float, most: int) -> Packed:
        """Pairs of these seekers whose heads let them reach the floor."""
        heads = seekers.heads[rows].astype(np.float32)
        one_cell = len(self._centroids) == 1
        found: list[Packed] = [np.empty(0, np.uint64)]
        held = 0
        for seeker, member in self._visits(heads, cells, floor):
            i = seeker + rows.start
            if seekers.own and one_cell and member[0] > i[-1]:
                continue  # all rows meet here, so each need only look behind itself
            bounds = heads[seeker] @ self._heads[member].astype(np.float32).T
            at_i, at_j = _best(bounds, np.float32(floor) - ROUNDING, most)
            i, j = i[at_i], member[at_j]
            new = _packed(i, j, bounds[at_i, at_j])
            found.append(new[i > j if one_cell else i != j] if seekers.own else new)
            held += len(new)
            if held > HELD:
                found, held = [_first(found, most)], 0
        return _first(found, most)

    def _visits(self, heads: Floats, cells: _Groups, floor: float) -> Iterator[tuple[Ids, Ids]]:
        """Which of these heads meet which rows, a block of each at a time."""
        margin = np.float32(MARGIN * (2 - 2 * floor) ** 0.5) + ROUNDING
        rows, probed = [], []
        for part in _slices(len(heads), BLOCK):
            near = self._nearness(heads[part])
            row, cell = _best(near, near.max(axis=1, keepdims=True) - margin, PROBES)
            rows.append(row + part.start)
            probed.append(cell)
        guest = np.concatenate(rows)
        guests = _Groups(np.concatenate(probed), len(self._centroids))
        for number in range(len(self._centroids)):
            visitors, members = guest[guests[number]], cells[number]
            for some in _slices(len(visitors), BLOCK):
                for others in _slices(len(members), BLOCK):
                    yield visitors[some], members[others]

    def _nearness(self, heads: Vectors) -> Floats:
        return heads[:, :-1].astype(np.float32) @ self._centroids.T

    def _heads_of(self, stack: _Stack) -> Vectors:
        _check_widths({stack.width, len(self._axes)})
        heads = np.empty((len(stack), self._axes.shape[1] + 1), np.float16)
        for rows in _slices(len(stack), BLOCK):
            vectors = stack.take(np.arange(rows.start, rows.stop))
            head = vectors @ self._axes
            rest = np.einsum("ij,ij->i", vectors, vectors) - np.einsum("ij,ij->i", head, head)
            heads[rows, :-1] = head
            heads[rows, -1] = np.sqrt(np.maximum(rest, 0))
        return heads


class _Seekers(NamedTuple):
    """The rows whose neighbours are looked for, from `first` on; `own` when they are rows of the index."""

    stack: _Stack
    heads: Vectors
    first: int
    own: bool


class _Stack:
    """Vectors in one or more pieces, counted through; read as unit vectors, a few rows at a time."""

    def __init__(self, blocks: Sequence[Vectors]) -> None:
        self.blocks = list(blocks)
        for block in self.blocks:
            if block.ndim != 2 or not block.shape[1] or block.dtype.kind not in "fiu":
                raise OptionsError(
                    f"Vectors are a matrix of numbers, one vector a row; got {block.dtype} in {block.shape}."
                )
        _check_widths({block.shape[1] for block in self.blocks})
        self.width = self.blocks[0].shape[1] if self.blocks else 0
        self._starts = np.cumsum([0, *map(len, self.blocks)])
        if len(self) > LARGEST:
            raise OptionsError(f"{len(self):,} vectors are too many at once; {LARGEST:,} are possible.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, ids: Ids) -> Floats:
        """These rows at length 1, in float32; zero vectors stay as they are."""
        if len(self.blocks) == 1:
            vectors = self.blocks[0][ids].astype(np.float32)
        else:
            vectors = np.empty((len(ids), self.width), np.float32)
            for block, start in zip(self.blocks, self._starts, strict=False):
                inside = np.flatnonzero((ids >= start) & (ids < start + len(block)))
                vectors[inside] = block[ids[inside] - start]
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        odd = np.flatnonzero(~np.isfinite(lengths))
        if odd.size:
            raise OptionsError(
                f"Vector {ids[odd[0]]:,} holds something infinite or not a number. Embed its text again."
            )
        vectors /= np.where(lengths > 0, lengths, 1)[:, None]
        return vectors


class _Groups:
    """Which places of an array hold which number, each group in order."""

    def __init__(self, numbers: npt.NDArray[Any], count: int) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self._bounds = np.searchsorted(numbers[self._order], np.arange(count + 1))

    def __getitem__(self, number: int) -> Ids:
        return self._order[self._bounds[number] : self._bounds[number + 1]]


def _best(scores: Floats, floor: Any, most: int) -> tuple[Ids, Ids]:
    """Rows and columns of the scores from `floor` on, in a row the `most` highest; the first among equals."""
    hits = scores >= floor
    crowded = np.flatnonzero(np.count_nonzero(hits, axis=1) > most)
    if crowded.size:
        # The products of equal vectors differ by rounding; a slope steeper than that puts the earlier first.
        some = np.linspace(0, 1e-4, scores.shape[1], dtype=np.float32) - scores[crowded]
        kept = np.argpartition(some, most - 1, axis=1)[:, :most]
        hits[crowded] = False
        hits[crowded[:, None], kept] = True
    row, column = np.divmod(np.flatnonzero(hits), scores.shape[1])
    return row, column


def _packed(i: Ids, j: Ids, bound: Floats) -> Packed:
    """Candidates in 24, 16 and 24 bits: such numbers sort by `i`, then the nearest first, then by `j`."""
    packed: Packed = i.astype(np.uint64)
    for part, bits in ((np.clip((1 - bound) * 65535, 0, 65535), 16), (j, 24)):
        packed = (packed << np.uint64(bits)) + part.astype(np.uint64)
    return packed


def _unpacked(packed: Packed) -> tuple[Ids, Ids]:
    return (packed >> np.uint64(40)).astype(np.int64), (packed & np.uint64(LARGEST - 1)).astype(np.int64)


def _first(parts: list[Packed], most: int) -> Packed:
    """Candidates in order, and no more than the `most` nearest of a row."""
    packed = np.sort(np.concatenate(parts))
    return packed[_rank(_unpacked(packed)[0]) < most]


def _nearest(i: Ids, j: Ids, similarity: Floats, most: int) -> Pairs:
    order = np.lexsort((j, -similarity, i))
    order = order[_rank(i[order]) < most]
    return Pairs(i[order], j[order], similarity[order])


def _rank(grouped: Ids) -> Ids:
    """The place of each within its run of equal numbers."""
    starts = np.flatnonzero(np.diff(grouped, prepend=-1))
    place: Ids = np.arange(len(grouped)) - np.repeat(starts, np.diff(starts, append=len(grouped)))
    return place


def _main_axes(vectors: Floats, dice: np.random.Generator) -> Floats:
    width = vectors.shape[1]
    axes = np.linalg.qr(dice.standard_normal((width, min(HEAD, width)), dtype=np.float32))[0]
    for _ in range(3):
        axes = np.linalg.qr(vectors.T @ (vectors @ axes))[0]
    return axes


def _draw(dice: np.random.Generator, size: int, count: int) -> Ids:
    return np.sort(dice.choice(size, min(count, size), replace=False))


def _slices(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))


def _check_widths(widths: set[int]) -> None:
    if len(widths) > 1:
        raise OptionsError(
            f"Vectors of {' and '.join(map(str, sorted(widths)))} numbers can't be compared: different "
            "models or `dimensions` made them. Embed all texts alike."
        )
