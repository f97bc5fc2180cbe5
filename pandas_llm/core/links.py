"""Who may take whose answer: the nearest earlier text that differs in nothing but what is harmless."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import groupby

from pandas_llm.core.similar import Folded, why_not

_WORD = re.compile(r"[^\W\d_]+")
OFTEN = 5
"""A word that so many texts have is a word, however it is spelt."""


@dataclass(frozen=True, slots=True)
class Link:
    """A text that may take another one's answer."""

    to: int
    """The number of that one: known texts first, then new ones."""
    similarity: float


@dataclass(frozen=True, slots=True)
class Links:
    """What came of candidate pairs."""

    by_text: Mapping[int, Link]
    """By the number of a new text (from 0)."""
    pairs: int
    """Candidates that were looked at."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Of these, by the guard that refused."""


def links_among(
    folded: Callable[[int], Folded],
    known: int,
    pairs: Iterable[tuple[int, int, float]],
    *,
    guards: bool = True,
    is_word: Callable[[str], bool] | None = None,
    known_words: AbstractSet[str] = frozenset(),
) -> Links:
    """Each new text linked to the nearest text before it that the guards allow.

    Nobody takes the answer of a text that takes an answer itself: neither typos nor case are transitive.

    Parameters
    ----------
    folded
        A text by its number: `known` known ones, then the new ones.
    pairs
        `(i, j, similarity)` in the order of `i`, the new text's number from 0; `j` is the number of a text
        that is known or stands before it, the nearest first.
    guards
        False: any candidate will do.
    """
    found: dict[int, Link] = {}
    refused: Counter[str] = Counter()
    seen = 0
    for i, candidates in groupby(pairs, key=lambda pair: pair[0]):
        for _, j, similarity in candidates:
            if j - known in found:
                continue
            seen += 1
            guard = (
                why_not(folded(known + i), folded(j), is_word=is_word, known_words=known_words)
                if guards
                else None
            )
            if guard is None:
                found[i] = Link(j, similarity)
                break
            refused[guard] += 1
    return Links(found, seen, refused)


def words_seen_often(texts: Iterable[str]) -> frozenset[str]:
    """Words, in small letters, that at least five of the texts have."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    return frozenset(word for word, count in counts.items() if count >= OFTEN)


def agree(own: Sequence[object], taken: Sequence[object], fields: Collection[int]) -> bool:
    """Whether two answers are the same in these fields."""
    return all(own[at] == taken[at] for at in fields)
