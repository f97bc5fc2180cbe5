"""Near-equal texts on data: rows as people type them, simulated answers, and what an audit makes of both.

`python bench/semantic.py [--data a.csv] [--seeds 200]`: neighbours, guards, links of 20,000 rows once, then
audits over many seeds. Prints figures beside their bounds; exits 1 when one misses.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pandas_llm.core.certificate import Audit, Certificate
from pandas_llm.core.compound import Semantic
from pandas_llm.core.links import links_among, words_seen_often
from pandas_llm.core.neighbours import pairs_above
from pandas_llm.core.similar import fold
from pandas_llm.run.reuse import FLOOR

if TYPE_CHECKING:
    from run import Line

ROWS, SEEDS, SEMANTIC = 20_000, 200, Semantic()
Embed: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Flags: TypeAlias = npt.NDArray[np.bool_]


# A column ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """The distinct texts of a column, in the order in which they first come."""

    texts: Sequence[str]
    rows: Sequence[int]
    """How many rows hold each."""
    labels: Sequence[str]
    """What a model that makes no mistake says to each."""


def column_of(rows: Sequence[tuple[str, str]]) -> Column:
    """The column of rows of text and label."""
    counts, labels = Counter(text for text, _ in rows), dict(reversed(rows))
    return Column(list(counts), list(counts.values()), [labels[text] for text in counts])


def messy(originals: Sequence[tuple[str, str]], count: int, seed: int) -> Column:
    """Rows made from some texts with their labels, a few of these far more often than others."""
    dice = random.Random(seed)
    often = [dice.paretovariate(1.2) for _ in originals]
    chosen = dice.choices(originals, often, k=count)
    return column_of([(mistyped(text, dice), label) for text, label in chosen])


def mistyped(text: str, dice: random.Random) -> str:
    """A text as the next customer would write it; four in ten copy it."""
    for change in dice.sample(CHANGES, dice.choice((0, 0, 1, 1, 2))):
        text = change(text, dice)
    return text


def _greeted(text: str, dice: random.Random) -> str:
    return f"{dice.choice(('Hi', 'Hello', 'Hello team', 'Good morning'))}, {text}"


def _thanked(text: str, dice: random.Random) -> str:
    return f"{text} {dice.choice(('Thanks!', 'Thank you.', 'Kind regards', 'Thanks in advance'))}"


def _cased(text: str, dice: random.Random) -> str:
    return text.upper() if dice.random() < 0.2 else text.lower()


def _marked(text: str, dice: random.Random) -> str:
    return text.rstrip(".?! ") + dice.choice(("", "", "...", "!!", "?"))


def _spaced(text: str, dice: random.Random) -> str:
    return dice.choice((f" {text}", f"{text}\n", text.replace(" ", "  ", 1)))


def _slipped(text: str, dice: random.Random) -> str:
    """Two letters swapped, one doubled or one left out, inside a word."""
    words = [found.span() for found in re.finditer(r"[A-Za-z]{5,}", text)]
    if not words:
        return text
    start, end = dice.choice(words)
    at = dice.randrange(start + 1, end - 2)
    a, b = text[at], text[at + 1]
    return text[:at] + dice.choice((b + a, a + a + b, b)) + text[at + 2 :]


def _with_order(text: str, dice: random.Random) -> str:
    return f"{text} Order {dice.randrange(10_000, 100_000)}."


CHANGES = (_greeted, _thanked, _cased, _marked, _spaced, _slipped, _with_order)


# Who may take whose answer ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Members:
    """The texts that may take the answer of another."""

    similarity: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    own: npt.NDArray[np.int64]
    """The text's number."""
    taken: npt.NDArray[np.int64]
    """The number of the text whose answer it is."""
    differ: Flags
    """Whose label isn't that of the other, by the data alone."""
    texts: int
    """Distinct ones, so requests without any of this."""
    refused: Mapping[str, int]


def members_of(column: Column, vectors: npt.NDArray[Any], is_word: Callable[[str], bool] | None) -> Members:
    """The real thing, as a run does it: neighbours, guards, links."""
    found = pairs_above(vectors, None, FLOOR)
    folded = [fold(text) for text in column.texts]
    pairs = zip(found.i.tolist(), found.j.tolist(), found.similarity.tolist(), strict=True)
    often = words_seen_often(column.texts)
    links = links_among(folded.__getitem__, 0, pairs, is_word=is_word, known_words=often)
    label = column.labels
    return Members(
        np.array([link.similarity for link in links.by_text.values()]),
        np.array([column.rows[i] for i in links.by_text], np.int64),
        np.array(list(links.by_text), np.int64),
        np.array([link.to for link in links.by_text.values()], np.int64),
        np.array([label[i] != label[link.to] for i, link in links.by_text.items()], bool),
        len(column.texts),
        links.refused,
    )


def encoded(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """The embedded encoder's vectors; kept in the folder for temporary files, since they take minutes."""
    from pandas_llm.local.encoder import load
    from pandas_llm.local.weights import find

    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=12).hexdigest()
    kept = Path(tempfile.gettempdir()) / f"pandas-llm-bench-{digest}.npy"
    if not kept.exists():
        np.save(kept, load(find()).encode(texts).vectors)
    vectors: npt.NDArray[np.float32] = np.load(kept)
    return vectors


# Answers, and the audit -------------------------------------------------------------------------------


def at_random(chance: float) -> Callable[[Members, np.random.Generator], Flags]:
    return lambda members, dice: dice.random(len(members.rows)) < chance


def among_the_least(members: Members, dice: np.random.Generator) -> Flags:
    """Next to none, and three in ten of the sixth that is least similar."""
    low = members.similarity < np.quantile(members.similarity, 1 / 6)
    return np.asarray(dice.random(len(low)) < np.where(low, 0.3, 0.003))


def by_groups(members: Members, dice: np.random.Generator) -> Flags:
    """The answers that are taken are odd ones, in one of 25: everyone who takes one differs."""
    odd = dice.random(members.texts) < 0.04
    return np.asarray(odd[members.taken])


SHAPES: Mapping[str, Callable[[Members, np.random.Generator], Flags]] = {
    "none differ": at_random(0.0),
    "0.5 % differ": at_random(0.005),
    "2 % differ": at_random(0.02),
    "4 % differ": at_random(0.04),
    "5.5 % differ": at_random(0.055),
    "8 % differ": at_random(0.08),
    "the least similar differ": among_the_least,
    "4 % of the groups differ": by_groups,
    "made to differ": at_random(1.0),
}
AGREEING = ("none differ", "0.5 % differ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an audit made of one set of answers."""

    certificate: Certificate
    error: float
    """The true share of rows that reuse an answer and have another one of their own."""
    saved: float
    """The share of requests that weren't sent, net of the audit."""

    @property
    def wrong(self) -> bool:
        """Whether it promised what isn't so."""
        return self.certificate.certified and self.error > SEMANTIC.max_error

    @property
    def dear(self) -> bool:
        """Whether it asked more for the audit than it saved."""
        return self.certificate.certified and self.certificate.audited > self.certificate.saved


def audited(members: Members, shape: str, seed: int) -> Outcome:
    """One audit of answers of a shape, as a run carries it through."""
    differs = members.differ | SHAPES[shape](members, np.random.default_rng([seed, *shape.encode()]))
    audit = Audit(members.similarity, members.rows, SEMANTIC, seed)
    while not audit.decided:
        for member in audit.next(16).tolist():
            audit.tell(member, bool(differs[member]))
    reused = audit.reused()
    rows = members.rows[reused]
    error = float(rows @ differs[reused]) / max(1, int(rows.sum()))
    return Outcome(audit.verdict(), error, len(reused) / members.texts)


# The table --------------------------------------------------------------------------------------------


def lines(data: Path | None = None, seeds: int = SEEDS) -> Iterator[Line]:
    """Every figure beside its bound."""
    from run import Line

    from pandas_llm.local.words import vocabulary

    words = vocabulary()
    is_word = None if words is None else words.__contains__
    originals = read(data)
    began = time.perf_counter()
    column = messy(originals, ROWS, 1)
    vectors = encoded(column.texts)
    linking = time.perf_counter()
    members = members_of(column, vectors, is_word)
    took = f"vectors {linking - began:.0f} s, links {time.perf_counter() - linking:.1f} s"
    may = f"{members.texts:,} different texts of {len(originals):,} originals; {took}"
    yield Line(
        "20,000 rows: texts that may take an answer", len(members.rows) / members.texts, None, note=may
    )
    yield Line(
        "  of these, of another intent", float(members.differ.mean()), None, note=_said(members.refused)
    )
    dearer = 0
    for shape in SHAPES:
        outcomes = [audited(members, shape, seed) for seed in range(seeds)]
        dearer += sum(each.dear for each in outcomes)
        yield from _judged(shape, outcomes)
    yield Line("certificates that took more audits than they saved", dearer, 0, least=False)
    yield from _raw(originals, is_word)


def _judged(shape: str, outcomes: Sequence[Outcome]) -> Iterator[Line]:
    from run import Line

    certified = [each for each in outcomes if each.certificate.certified]
    asked = np.mean([each.certificate.audited for each in outcomes])
    saved = np.mean([each.saved for each in certified]) if certified else 0.0
    note = f"{asked:.0f} audits; {saved:.1%} of the requests saved"
    if shape in AGREEING:
        share = sum(each.saved >= 0.2 for each in outcomes) / len(outcomes)
        yield Line(f"{shape}: certified, and 20 % saved", share, 0.5, note=note)
    else:
        bound = 0.0 if shape == "made to differ" else None
        yield Line(f"{shape}: certified", len(certified) / len(outcomes), bound, least=False, note=note)
    wrong = sum(each.wrong for each in outcomes) / len(outcomes)
    worst = max((each.error for each in certified), default=0.0)
    yield Line("  wrongly so", wrong, 0.05, least=False, note=f"{worst:.1%} differ in the worst case")


def _raw(originals: Sequence[tuple[str, str]], is_word: Callable[[str], bool] | None) -> Iterator[Line]:
    """The texts as they are: what is honestly to be had."""
    from run import Line

    column = column_of(originals)
    members = members_of(column, encoded(column.texts), is_word)
    best = audited(members, "none differ", 0)
    note = f"{len(members.rows)} may take an answer. {best.certificate.reason}"
    yield Line(f"the {len(originals):,} originals: share saved at best", best.saved, None, note=note)


def _said(refused: Mapping[str, int]) -> str:
    most = sorted(refused.items(), key=lambda each: -each[1])
    return "pairs refused: " + ", ".join(f"{name} {count:,}" for name, count in most[:6])


def read(path: Path | None = None) -> list[tuple[str, str]]:
    """Texts and intents of the rows that are shipped, or of a larger file like it."""
    source = path or Path(str(files("pandas_llm") / "data" / "banking77.csv"))
    with source.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def main() -> None:
    """Print the table and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a larger sample of BANKING77, with text and category")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    missed = 0
    for line in lines(args.data, args.seeds):
        print(line, flush=True)
        missed += not line.holds
    if missed:
        raise SystemExit(f"{missed} missed")


if __name__ == "__main__":
    main()
