"""Pairs that must never share an answer, and pairs that should: written by hand, and made by script.

No threshold helps here: "went through" and "did not go through" are as near as two copies. So the guards are
tested alone, as if every pair were a candidate.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import pandas_llm
from pandas_llm.core.links import words_seen_often
from pandas_llm.core.misspellings import IsWord
from pandas_llm.core.similar import GUARDS, Folded, fold, why_not
from pandas_llm.local import words

DATA = Path(__file__).parents[1] / "data"
NAMES = ("Paul", "Anna", "Omar", "Mary", "Ivan", "Wei", "Sofía", "Jürgen", "Zoë", "Amir")


def pairs(name: str) -> list[dict[str, str]]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def rows() -> list[str]:
    data = Path(pandas_llm.__file__).parent / "data" / "banking77.csv"
    with data.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def vocabulary() -> IsWord:
    known = words.vocabulary()
    if known is None:
        pytest.skip("the embedded encoder isn't installed")
    return known.__contains__


@pytest.fixture(params=["the package's lists", "the local vocabulary"])
def is_word(request: pytest.FixtureRequest) -> IsWord | None:
    return None if request.param.startswith("the package") else vocabulary()


def merged(
    made: Iterable[tuple[str, str]], is_word: IsWord | None, known_words: frozenset[str] = frozenset()
) -> tuple[int, list[tuple[str, str]]]:
    """How many pairs there were, and those that would share an answer, in either order."""
    folds: dict[str, Folded] = {}

    def folded(text: str) -> Folded:
        if text not in folds:
            folds[text] = fold(text)
        return folds[text]

    count, found = 0, []
    for a, b in made:
        count += 1
        there = why_not(folded(a), folded(b), is_word=is_word, known_words=known_words)
        back = why_not(folded(b), folded(a), is_word=is_word, known_words=known_words)
        assert (there is None) == (back is None), (a, b)
        assert there is None or there in GUARDS
        if there is None:
            found.append((a, b))
    return count, found


# Written by hand ---------------------------------------------------------------------------------------


def test_no_hard_negative_is_merged(is_word: IsWord | None) -> None:
    hard = [(pair["a"], pair["b"]) for pair in pairs("hard_negatives")]
    assert len(hard) >= 300
    assert merged(hard, is_word)[1] == []
    often = words_seen_often(text for pair in hard for text in pair)
    assert merged(hard, is_word, often)[1] == []


@pytest.mark.parametrize(
    "dress",
    [str.upper, str.lower, lambda text: f"Hi, {text} Thanks!", lambda text: f"  {text}\n"],
    ids=["capitals", "small letters", "a greeting", "white space"],
)
def test_no_hard_negative_is_merged_whose_other_side_is_dressed_up(
    is_word: IsWord | None, dress: Callable[[str], str]
) -> None:
    hard = pairs("hard_negatives")
    if dress in (str.upper, str.lower):  # US and us, Maßen and MASSEN: who takes that away makes copies
        hard = [pair for pair in hard if fold(dress(pair["a"])).flat != fold(pair["b"]).flat]
    assert merged(((dress(pair["a"]), pair["b"]) for pair in hard), is_word)[1] == []


def test_most_near_copies_are_merged(is_word: IsWord | None) -> None:
    copies = [(pair["a"], pair["b"]) for pair in pairs("near_copies")]
    assert len(copies) >= 150
    assert len(merged(copies, is_word)[1]) >= 0.6 * len(copies)


def test_the_share_of_merged_paraphrases_is_told(
    is_word: IsWord | None, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    said = [(pair["a"], pair["b"]) for pair in pairs("paraphrases")]
    count, found = merged(said, is_word)
    assert count >= 100
    record_property("merged_paraphrases", len(found) / count)
    with capsys.disabled():
        print(f"{len(found)} of {count} paraphrases share an answer")


# Made by script ----------------------------------------------------------------------------------------


def numbers_changed(text: str, dice: random.Random) -> Iterator[tuple[str, str]]:
    """The text with another number in each place where it has one, and where one is put in."""
    for found in re.finditer(r"\d+", text):
        start, end = found.span()
        yield text, f"{text[:start]}{int(found[0]) + dice.choice([1, 9, 10, 100])}{text[end:]}"
    said = text.split(" ")
    at, number = dice.randint(0, len(said)), dice.randint(2, 99_999)
    other = dice.choice([number + 1, number * 10, -number, number / 10, int(str(number)[::-1] + "7")])
    with_number = " ".join([*said[:at], str(number), *said[at:]])
    yield with_number, " ".join([*said[:at], str(other), *said[at:]])
    yield text, with_number
    kinds = [
        ("order {}", number, number + 1),
        ("€{}", number, other),
        ("{} EUR", number, other),
        ("{}%", number, other),
        ("on the {}th", 4 + number % 7, 11 + number % 7),
        ("{} days", "two", "three"),
        ("{}", "٣", "٤"),
        ("{}", "2026-11-20", "2026-11-02"),
    ]
    written, one, two = dice.choice(kinds)
    a, b = (" ".join([*said[:at], written.format(each), *said[at:]]) for each in (one, two))
    yield a, b


def negated(text: str, dice: random.Random) -> Iterator[tuple[str, str]]:
    """The text with one negation put in, at every place where one might stand."""
    told = text.split(" ")
    for at in range(len(told) + 1):
        said = dice.choice(["not", "never", "no", "n't", "don't", "without", "NOT", "nicht", "no longer"])
        yield text, " ".join([*told[:at], said, *told[at:]])
    for found in re.finditer(r"\b(is|are|was|do|does|did|have|has|had|would|could)\b", text, re.IGNORECASE):
        yield text, f"{text[: found.end()]}n't{text[found.end() :]}"
    for found in re.finditer(r"\b(can) ", text, re.IGNORECASE):
        yield text, f"{text[: found.end() - 1]}'t {text[found.end() :]}"
    for found in re.finditer(r"n't\b|\bnot ", text):
        yield text, text[: found.start()] + text[found.end() :]


def swapped(text: str, dice: random.Random) -> Iterator[tuple[str, str]]:
    """Two names that change places in the text, and two of its own told that do."""
    told, (one, other) = text.split(" "), dice.sample(NAMES, 2)
    first, second = sorted(dice.sample(range(len(told) + 1), 2)) if len(told) > 1 else (0, 1)

    def naming(a: str, b: str) -> str:
        return " ".join([*told[:first], a, *told[first:second], b, *told[second:]])

    yield naming(one, other), naming(other, one)
    yield naming(one.lower(), other.lower()), naming(other.lower(), one.lower())
    yield f"{one} told {other}: {text}", f"{other} told {one}: {text}"
    yield f"{one} told {other}: {text}", f"Hi, {other} told {one}: {text}"
    if len(told) > 3:
        at, to = sorted(dice.sample(range(1, len(told) - 1), 2))
        moved = [*told[:at], told[to], *told[at + 1 : to], told[at], *told[to + 1 :]]
        if moved != told:
            yield text, " ".join(moved)


@pytest.mark.parametrize("change", [numbers_changed, negated, swapped])
def test_no_row_shares_the_answer_of_itself_changed(
    is_word: IsWord | None, change: Callable[[str, random.Random], Iterator[tuple[str, str]]]
) -> None:
    real, dice = rows(), random.Random(7)
    made = [pair for text in real for pair in change(text, dice)]
    count, found = merged(made, is_word, words_seen_often(real))
    assert count > 1_000
    assert found == []


def test_no_row_shares_the_answer_of_another_row_that_differs_in_a_word(is_word: IsWord | None) -> None:
    """Each word in turn becomes another one of the column, as near in spelling as there is one."""
    real, dice = rows(), random.Random(8)
    known = Counter(word for text in real for word in re.findall(r"[a-z]{3,}", text.lower()))
    by_length: dict[int, list[str]] = {}
    for word in sorted(known):
        by_length.setdefault(len(word), []).append(word)
    made = []
    for text in real:
        found = list(re.finditer(r"[a-z]{3,}", text))
        for each in dice.sample(found, min(3, len(found))):
            others = [word for word in by_length[len(each[0])] if word != each[0]] if each[0] in known else []
            if others:
                nearest = max(others, key=lambda word: sum(map(str.__eq__, word, each[0])))
                made.append((text, text[: each.start()] + nearest + text[each.end() :]))
    count, found_pairs = merged(made, is_word, words_seen_often(real))
    assert count > 900
    assert found_pairs == []
