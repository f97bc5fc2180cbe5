"""Groups of texts that say the same: each text beside the first one of which it is a near copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pandas_llm.core.links import Links, links_among, words_seen_often
from pandas_llm.core.neighbours import Pairs, pairs_above
from pandas_llm.core.similar import Folded, fold

Vector = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

MOST = 100
"""Neighbours that a text is compared with at once: the nearest."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Which group each text is in."""

    first: Numbers
    """By text, the number of its group's first text; its own where it is that."""
    similarity: npt.NDArray[np.float64]
    """To that text; 1 to itself."""


def groups_among(
    texts: Sequence[str],
    vectors: Sequence[Vector | None],
    threshold: float,
    *,
    guards: bool = True,
    is_word: Callable[[str], bool] | None = None,
) -> Groups:
    """Each text in the group of the nearest text before it that begins one, and that the guards allow.

    Every text of a group was compared with its first one: neither typos nor case are transitive.

    Parameters
    ----------
    texts
        Distinct ones.
    vectors
        One a text; what has none stays alone.
    threshold
        The least similarity to a group's first text, above 0.
    guards
        False: similarity alone decides.
    is_word
        Whether a word in small letters is one, as for `why_not`.

    Examples
    --------
    >>> near = [np.array(v, np.float32) for v in ([1, 0.01], [0, 1], [1, 0])]
    >>> groups_among(["It is late.", "Thanks", "it is late"], near, 0.9).first.tolist()
    [0, 1, 0]
    """
    first, similarity = np.arange(len(texts)), np.ones(len(texts))
    known_words = words_seen_often(texts) if guards else frozenset()

    @cache
    def folded(number: int) -> Folded:
        return fold(texts[number])

    def linked(settled: Numbers, pairs: Pairs, numbers: Numbers) -> Links:
        # A group's first text stands before all others of it.
        earlier = numbers[pairs.j] < numbers[len(settled) + pairs.i]
        found = (column[earlier].tolist() for column in pairs)
        return links_among(
            lambda at: folded(int(numbers[at])),
            len(settled),
            zip(*found, strict=True),
            guards=guards,
            is_word=is_word,
            known_words=known_words,
        )

    loose, settled = np.flatnonzero([_is_comparable(vector) for vector in vectors]), np.arange(0)
    while loose.size:
        numbers = np.concatenate([settled, loose])
        known = _rows(vectors, settled) if settled.size else None
        pairs = pairs_above(_rows(vectors, loose), known, threshold, most=MOST)
        links = linked(settled, pairs, numbers).by_text
        first[loose], similarity[loose] = loose, 1.0
        for at, link in links.items():
            first[loose[at]], similarity[loose[at]] = numbers[link.to], link.similarity
        again = _misled(pairs, np.array([*links], dtype=np.int64), len(settled), len(loose))
        again |= np.isin(first[loose], loose[again])
        settled = np.concatenate([settled, loose[~again & (first[loose] == loose)]])
        loose = loose[again]
    return Groups(first, similarity)


def _is_comparable(vector: Vector | None) -> bool:
    return vector is not None and bool(np.isfinite(vector).all())


def _rows(vectors: Sequence[Vector | None], numbers: Numbers) -> npt.NDArray[Any]:
    return np.array([vectors[number] for number in numbers.tolist()])


def _misled(pairs: Pairs, members: Numbers, known: int, new: int) -> npt.NDArray[np.bool_]:
    """By new text, whether it may begin a group only because members of others filled all its places.

    Of thousands of near copies the nearest hundred can all be members, and their first text isn't seen.
    """
    is_member = np.zeros(known + new, dtype=np.bool_)
    is_member[known + members] = True
    crowded = np.bincount(pairs.i, minlength=new) >= MOST
    skipped = np.bincount(pairs.i[is_member[pairs.j]], minlength=new) > 0
    return crowded & skipped & ~is_member[known:]
