"""Guards: whether two texts may share an answer, whatever the question about them is.

A pair may differ only in what is known to be harmless: capitals that are grammar's, spaces, marks that end a
text, greetings and sign-offs, a few polite words, Unicode's ways to write one thing, a slip inside one long
word. Folding a text takes that out; what is left has to be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pandas_llm.core import similar_words as lists
from pandas_llm.core.misspellings import IsWord, is_slip, one_slip_apart
from pandas_llm.core.similar_chunks import CASED, INITIAL, MARKS, Chunk, chunks_of, plain_form
from pandas_llm.core.similar_guards import GUARDS, guard_between, language_of, strip_accents

__all__ = ["GUARDS", "Folded", "fold", "why_not"]


@dataclass(frozen=True, slots=True)
class Folded:
    """What of a text its answer may hang on; two texts with equal `words` may share it."""

    words: tuple[str, ...]
    """Words, codes and inner marks in their order; a capital stays where it may mean something."""
    flat: tuple[str, ...]
    """The same in small letters."""
    style: str
    """How it uses case: `mixed`, `small`, or `capitals` where they say nothing (ALL OF IT, Each Word)."""
    capital: bool
    """Whether the text begins with one."""


def fold(text: str) -> Folded:
    """What of a text its answer may hang on; computed once a text.

    Examples
    --------
    >>> fold("Hi, can I reset my password?!").words
    ('can', 'i', 'reset', 'my', 'password', '?')
    >>> fold("  can I reset my password").words
    ('can', 'i', 'reset', 'my', 'password', '?')
    """
    plain = plain_form(text)
    chunks = chunks_of(plain)
    style = "small" if plain.islower() else "mixed"
    if plain.isupper() and _shouts(chunks):
        style = "capitals"
    flat, words, begin = _line_up(chunks, keep_all=style == "capitals")
    if words is not flat and style == "mixed" and _is_headline(chunks):
        style = "capitals"
        flat, words, begin = _line_up(chunks, keep_all=True)
    if "," in flat:
        flat, words, begin = _without_idle_commas(flat, words, begin)
    end = _end(flat, begin, chunks[-1].mark if chunks else "")
    length = len(flat)
    while length and flat[length - 1] in _IDLE_AT_THE_END:
        length -= 1
    if not length:
        alone = tuple(text.split())
        return Folded(alone, alone, "mixed", False)
    small = (*flat[:length], *end)
    cased = small if words is flat else (*words[:length], *end)
    return Folded(cased, small, style, plain.lstrip()[0].isupper())


def why_not(
    a: Folded, b: Folded, *, is_word: IsWord | None = None, known_words: AbstractSet[str] = frozenset()
) -> str | None:
    """The guard that keeps two texts from sharing an answer; None where they may.

    Parameters
    ----------
    a, b
        Of `fold`. Their order doesn't matter.
    is_word
        Whether a word in small letters is an English one: `vocabulary.__contains__` of the embedded encoder.
        Without it only the words of the package's own lists may be misspelt.
    known_words
        Words in small letters that are no slips, such as those seen often in the column.

    Returns
    -------
    str or None
        One of `GUARDS`.

    Examples
    --------
    >>> why_not(fold("My card was declined."), fold("my card was DECLINED!"))
    'case'
    >>> why_not(fold("My card was declined."), fold("hi, my card was declined"))
    >>> why_not(fold("Cancel order 1001"), fold("Cancel order 1002"))
    'number'
    >>> why_not(fold("Paul sued Anna"), fold("Anna sued Paul"))
    'order'
    """
    if a.words == b.words:
        return None
    if a.flat == b.flat:
        return None if _case_is_manner(a, b) else "case"
    start, end = _difference(a.words, b.words)
    one, other = a.words[start : len(a.words) - end], b.words[start : len(b.words) - end]
    if len(one) == len(other) == 1 and _is_misspelt(a, b, start, is_word, known_words):
        return None
    return guard_between(one, other)


def _difference(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """How many words are the same at the start, and at the end."""
    start, shorter = 0, min(len(a), len(b))
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return start, end


def _line_up(chunks: Sequence[Chunk], keep_all: bool) -> tuple[list[str], list[str], int]:
    """Words and marks in small letters, the same with the capitals that count, the last sentence's start."""
    flat: list[str] = []
    capitals: list[tuple[int, str]] = []
    begin, start = 0, True
    for word, written, mark, shape in chunks:
        if word:
            if start:
                begin = len(flat)
            if keep_all or (shape and (shape == CASED or not start)):
                capitals.append((len(flat), written))
            start = False
            flat.append(word)
        if mark:
            flat.append("." if mark == "!" else mark)
            start = mark in _SENTENCE_ENDS
    if not capitals:
        return flat, flat, begin
    words = flat.copy()
    for at, written in capitals:
        words[at] = written
    return flat, words, begin


def _shouts(chunks: Sequence[Chunk]) -> bool:
    """Whether the capitals of a text in capitals are its writer's mood: it has more than acronyms in it."""
    words = [chunk.word for chunk in chunks if chunk.word]
    if len(words) >= 3 and not lists.CLOSED.isdisjoint(words):
        return True
    return len(words) >= 4 and max(map(len, words)) >= 5


def _is_headline(chunks: Sequence[Chunk]) -> bool:
    """Whether Each Word Has a Capital, function words in the middle among them."""
    words = [chunk for chunk in chunks if chunk.word and chunk.written[0].isalpha()]
    if len(words) < 4 or not all(c.written[0].isupper() or c.word in lists.CLOSED for c in words):
        return False
    return any(c.shape == INITIAL and c.word in lists.CLOSED for c in words[1:])


def _without_idle_commas(flat: list[str], words: list[str], begin: int) -> tuple[list[str], list[str], int]:
    idle = {at for at, word in enumerate(flat) if word == "," and _is_idle(flat, at)}
    if not idle:
        return flat, words, begin
    rest = [word for at, word in enumerate(flat) if at not in idle]
    cased = rest if words is flat else [word for at, word in enumerate(words) if at not in idle]
    return rest, cased, begin - sum(at < begin for at in idle)


def _is_idle(words: Sequence[str], at: int) -> bool:
    """Whether a comma stands where leaving it out changes nothing.

    Elsewhere it may: "let's eat, grandma", "no, it works", "my parents, Anna and Paul".
    """
    if at + 2 >= len(words) or not at:
        return False
    following, then = words[at + 1], words[at + 2]
    if following in lists.SUBORDINATORS:
        return True
    start = max((n for n in range(at) if words[n] in MARKS), default=-1) + 1
    if start and words[start - 1] == ",":
        return False
    if following in lists.CONJUNCTIONS:
        return then in lists.SUBJECTS and words[at - 1] not in lists.EXCEPTABLE
    if words[start] in lists.CLAUSE_OPENERS:
        return following in lists.AUXILIARIES and at - start > 2
    return at - start == 1 and words[start] in lists.ADVERB_OPENERS and following in lists.SUBJECTS


def _end(flat: Sequence[str], begin: int, mark: str) -> tuple[str, ...]:
    """How the last sentence ends: a question without its mark is one by its words' order.

    So "can I go" and "can I go?" end alike, and "I can go" and "I can go?" don't.
    """
    if "?" in flat[begin:]:
        return ("?",)
    if not _asks(flat, begin):
        return ()
    said = mark == "." and not _last_word(flat).endswith(lists.JA_SURELY_ASKED)
    return (".",) if said else ("?",)


def _asks(words: Sequence[str], begin: int) -> bool:
    """Whether a sentence's first words are a question's; rather not, where they may be an order or a wish."""
    first, second = (*words[begin : begin + 2], "", "")[:2]
    if first in lists.WISHING or first in lists.ORDERING:
        return second in (lists.OTHER_PERSONS if first in lists.WISHING else lists.PERSONS)
    if first in lists.AUXILIARIES:
        return second in lists.EN_SUBJECTS
    if first in lists.EN_ASKING:
        return second in lists.AUXILIARIES or (first == "how" and second == "to")
    if first in lists.DE_ASKING:
        return second in (lists.DE_VERBS if first in lists.DE_INTERROGATIVES else lists.DE_PERSONS)
    if first in lists.ES_ASKING:
        return second in lists.ES_VERBS
    return first in lists.FR_ASKING or _asks_in_cjk(first, _last_word(words))


def _asks_in_cjk(first: str, last: str) -> bool:
    return first.startswith(lists.CJK_ASKING) or last.endswith(lists.CJK_ASKED)


def _last_word(words: Sequence[str]) -> str:
    return next((word for word in reversed(words) if word not in MARKS), "")


def _case_is_manner(a: Folded, b: Folded) -> bool:
    """Whether two texts with the same small letters differ in how their writers use capitals, and no more."""
    if "capitals" in (a.style, b.style):
        other = b if a.style == "capitals" else a
        if not lists.CASED_IN_CAPITALS.isdisjoint(a.flat):
            return False
        return other.style == "capitals" or not any(_is_odd(word) for word in other.words)
    small, other = (a, b) if a.style == "small" else (b, a)
    if small.style != "small" or not other.capital:
        return False
    differing = [word for word, plain in zip(other.words, other.flat, strict=True) if word != plain]
    return not any(word.lower() in lists.CASED or _is_odd(word) for word in differing)


def _is_odd(word: str) -> bool:
    """An acronym, a name from inside a program, a password: capitals that no sentence asks for."""
    inner = word[1:] or word
    return inner != inner.lower() and word.lower() not in lists.HARMLESS_ACRONYMS


def _is_misspelt(
    a: Folded, b: Folded, at: int, is_word: IsWord | None, known_words: AbstractSet[str]
) -> bool:
    one, other = a.flat[at], b.flat[at]
    if not one_slip_apart(one, other) or not (one.isalpha() and other.isalpha()):
        return False
    if strip_accents(one) == strip_accents(other):
        return False
    small = a.words[at] == one and b.words[at] == other
    language = language_of(a.flat)
    if not small and (language != "de" or a.words[at][0] != b.words[at][0]):
        return False
    # Names have capitals where the writer has any; the first word has one in any case.
    no_name = small and at > 0 and a.flat[at - 1] not in _SENTENCE_ENDS and a.capital and b.capital
    return is_slip(one, other, language, is_word=is_word, known_words=known_words, no_name=no_name)


# Not the semicolon: it is the question mark of Greek.
_IDLE_AT_THE_END = MARKS - {";"}
_SENTENCE_ENDS = frozenset([".", "!", "?"])
