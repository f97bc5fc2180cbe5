"""The guards' names: what two texts differ in that keeps them from sharing an answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pandas_llm.core import similar_words as lists
from pandas_llm.core.misspellings import one_slip_apart
from pandas_llm.core.similar_chunks import MARKS

GUARDS = (
    "language",
    "order",
    "negation",
    "number",
    "date",
    "unit",
    "question",
    "code",
    "name",
    "case",
    "spelling",
    "punctuation",
    "word",
)
"""What refuses a pair. Where several do, one is named; `word` is any other word."""

_SIGNIFICANT = ("negation", "number", "date", "unit", "question", "code", "name")


def guard_between(one: Sequence[str], other: Sequence[str]) -> str:
    """The guard for the words in which two texts differ, from the first of them to the last."""
    changed = set(one) ^ set(other)
    if not changed or (len(changed) < 7 and len(one) == len(other) and _in_small(one) == _in_small(other)):
        return "order"
    if len(changed) > 3 and _speak_differently(one, other):
        return "language"
    kinds = set(map(_kind, changed))
    if "cjk" in kinds:
        kinds |= _cjk_kinds("".join(one), "".join(other))
    few = len(changed) < 5 and "cjk" not in kinds
    if few and _are_spelt_alike(one, other):
        return "spelling"
    if len(one) == len(other) == 1 and _is_negated(one[0].lower(), other[0].lower()):
        return "negation"
    guard = next((guard for guard in _SIGNIFICANT if guard in kinds), None)
    if guard is None and few:
        guard = _form(one, other)
    return guard or ("order" if "order" in kinds else "punctuation" if kinds == {"punctuation"} else "word")


def language_of(words: Iterable[str]) -> str | None:
    """The language whose function words are in the majority; None where there are none, or as many."""
    votes: dict[str, int] = {}
    for word in words:
        language = lists.LANGUAGE_OF.get(word)
        if language is not None:
            votes[language] = votes.get(language, 0) + 1
    best = sorted(votes.items(), key=lambda vote: vote[1], reverse=True)[:2]
    return best[0][0] if best and (len(best) == 1 or best[0][1] > best[1][1]) else None


def strip_accents(word: str) -> str:
    """The word without accents, dots and tildes."""
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


@lru_cache(maxsize=65_536)
def _kind(word: str) -> str:
    kind = lists.KIND_OF.get(word.lower())
    if kind is None and word in MARKS:
        kind = "question" if word == "?" else "punctuation"
    if kind is None and word.isalpha():
        kind = "cjk" if _tongue(word) == "CJK" else "name" if word != word.lower() else "word"
    return kind or _kind_of_code(word)


def _kind_of_code(word: str) -> str:
    letters = sum(map(str.isalpha, word))
    if any(map(str.isnumeric, word)):
        return "code" if letters > 3 else "number"
    if any(unicodedata.category(char) == "Sc" for char in word):
        return "unit"
    if any(char in word for char in ("@/.=<>_\\#+*&|" if letters else "=<>+*/\\&|^~_{}[]")):
        return "code"
    return "word" if letters else "punctuation"


@lru_cache(maxsize=65_536)
def _tongue(word: str) -> str:
    """The language of a function word, the script of what isn't Latin; kana and ideographs count as one."""
    letter = next(filter(str.isalpha, word), "")
    script = unicodedata.name(letter, "").split(" ")[0] if letter else "LATIN"
    if script == "LATIN":
        return lists.LANGUAGE_OF.get(word.lower(), "")
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script


def _speak_differently(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether each side has words that tell its language, and none of the other's."""
    here, there = set(map(_tongue, one)), set(map(_tongue, other))
    here.discard("")
    there.discard("")
    return bool(here and there) and here.isdisjoint(there)


def _cjk_kinds(one: str, other: str) -> set[str]:
    """What the characters say in which two texts without spaces differ."""
    if sorted(one) == sorted(other):
        return {"order"}
    changed = set(one) ^ set(other)
    kinds = {kind for kind, chars in lists.CJK_KINDS.items() if not chars.isdisjoint(changed)}
    if any((ending in one) != (ending in other) for ending in lists.JA_NEGATIONS):
        kinds.add("negation")
    return kinds


def _is_negated(one: str, other: str) -> bool:
    """Whether one word is the other with an "un-" before it or a "-less" behind."""
    short, long = (one, other) if len(one) < len(other) else (other, one)
    if long.endswith(short):
        return long.removesuffix(short) in lists.NEGATIVE_PREFIXES
    stem = short.removesuffix("ful")
    return long.startswith(stem) and long.removeprefix(stem) in lists.NEGATIVE_SUFFIXES


def _in_small(words: Sequence[str]) -> set[str]:
    return set(map(str.lower, words))


def _are_spelt_alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether accents, spaces or hyphens between letters make the difference."""
    a, b = "".join(one).lower(), "".join(other).lower()
    a, b = a.replace("-", ""), b.replace("-", "")
    return a.isalpha() and b.isalpha() and (a == b or strip_accents(a) == strip_accents(b))


def _form(one: Sequence[str], other: Sequence[str]) -> str | None:
    """Whether two pieces without a word of weight differ in their marks alone, or in one letter."""
    a, b = ("".join(filter(str.isalnum, "".join(words))) for words in (one, other))
    if a.lower() == b.lower():
        return "punctuation"
    return (
        "spelling"
        if len(one) == len(other) == 1 and min(len(a), len(b)) > 4 and one_slip_apart(a, b)
        else None
    )
