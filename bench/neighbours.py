"""Candidates for semantic dedupe on embeddings of real texts: speed, recall, memory. Exits 1 out of bounds.

Usage: python bench/neighbours.py [--cache FOLDER] [--large ROWS] [--texts CSV] [--others]

Encodes 20,000 variations of the shipped BANKING77 rows once (2 to 6 minutes; kept in FOLDER), then takes
about 3 minutes. It needs Linux, 1.5 GB of memory and, in FOLDER, 900 MB of disk. `--others` adds faiss and
usearch where they are installed. One BLAS thread on all sides, and CPU seconds, which other work moves least.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import csv
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from pandas_llm.core.neighbours import Index, pairs_above, unit

FLOOR = 0.95
TEXTS = 20_000
ROWS = 100_000
BLOCK = 2_048

GREETINGS = ("Hi, ", "Hello there! ", "Good morning, ", "Hey team, ", "Dear support, ", "Quick question: ")
THANKS = (" Thanks!", " Thank you in advance.", " Please help.", " Cheers", " Any ideas?")
SLOTS = (
    ("USD", "EUR", "GBP", "AUD", "CHF", "dollars", "euros", "pounds"),
    ("US", "UK", "France", "Spain", "Germany", "China", "Australia", "Poland"),
    ("Mastercard", "Visa", "Apple Pay", "Google Pay", "American Express"),
    ("ATM", "cash machine", "cashpoint"),
    ("today", "yesterday", "this morning", "last week", "two days ago", "on Monday"),
    ("card", "debit card", "bank card", "credit card"),
    ("money", "cash", "funds", "200 pounds", "$50", "a large sum"),
    ("transfer", "bank transfer", "payment"),
    ("account", "bank account", "savings account"),
    ("phone", "mobile", "iPhone", "tablet"),
)
ORDERS = ("Order {n}: {text}", "{text} My order is #{n}.", "{text} (ref. {n})", "Customer {n} asks: {text}")


def typo(text: str, dice: random.Random) -> str:
    words = [found.span() for found in re.finditer(r"[A-Za-z]{4,}", text)] or [(0, len(text))]
    start, stop = dice.choice(words)
    at = dice.randrange(start, max(stop - 1, start + 1))
    pair = text[at : at + 2]
    return text[:at] + dice.choice((pair[::-1], pair[1:], pair[:1] + pair)) + text[at + 2 :]


def greeting(text: str, dice: random.Random) -> str:
    front, behind = dice.choice(((True, False), (True, False), (False, True), (True, True)))
    return dice.choice(GREETINGS) * front + text + dice.choice(THANKS) * behind


def order(text: str, dice: random.Random) -> str:
    return dice.choice(ORDERS).format(n=dice.randrange(1_000, 1_000_000), text=text)


def slot(text: str, dice: random.Random) -> str:
    for words in dice.sample(SLOTS, len(SLOTS)):
        for word in sorted(words, key=len, reverse=True):
            if found := re.search(rf"\b{re.escape(word)}\b", text):
                other = dice.choice([each for each in words if each != word])
                return text[: found.start()] + other + text[found.end() :]
    return f"{text} {dice.choice(SLOTS[4])}"


def case(text: str, dice: random.Random) -> str:
    return dice.choice((text.lower(), text.upper(), text.rstrip("?.!"), text + "??", text.replace("'", "")))


WAYS: tuple[Callable[[str, random.Random], str], ...] = (typo, greeting, order, slot, case)


def variations(texts: Sequence[str], size: int) -> dict[str, int]:
    """Different texts, and which of the real ones each is a near copy of; -1 for two that were joined."""
    dice = random.Random(0)
    made = {text: row for row, text in enumerate(texts)}
    while len(made) < size:
        row = dice.randrange(len(texts))
        text, near = texts[row], row
        if dice.random() < 0.25:
            text, near = text + dice.choice((" ", " Also, ", "\n")) + dice.choice(texts), -1
        for way in dice.sample(WAYS, dice.choice((1, 1, 2, 3))):
            text = way(text, dice)
        made.setdefault(text, near)
    return made


def encoded(file: Path, texts: Sequence[str]) -> np.ndarray:
    """The texts' vectors, read from the file when they were made before."""
    if not file.is_file():
        from pandas_llm.local import weights
        from pandas_llm.local.encoder import Encoder

        print(f"encoding {len(texts):,} texts ...", flush=True)
        np.save(file, Encoder(weights.find()).encode(list(texts)).vectors)
    return np.load(file)


class Noise:
    """What lies between a text's vector and its near copy's: turns, drawn from those that were measured."""

    def __init__(self, vectors: np.ndarray, near: np.ndarray, count: int) -> None:
        copies = np.flatnonzero((near >= 0) & (np.arange(len(near)) >= count))
        x, y = vectors[near[copies]], vectors[copies]
        self.cosines = np.minimum(np.einsum("ij,ij->i", x, y), 1)[:, None]
        self.turns = y - self.cosines * x

    def __call__(self, vectors: np.ndarray, dice: np.random.Generator) -> np.ndarray:
        """A near copy of each of these unit vectors."""
        drawn = dice.integers(len(self.turns), size=len(vectors))
        turn = self.turns[drawn]
        turn -= np.einsum("ij,ij->i", turn, vectors)[:, None] * vectors
        cosine = self.cosines[drawn]
        return cosine * vectors + np.sqrt(1 - cosine**2) * unit(turn)


def grown(file: Path, vectors: np.ndarray, size: int, noise: Noise) -> np.ndarray:
    """The vectors and near copies of them, mixed: `size` rows of float16 on disk."""
    if not file.is_file():
        dice = np.random.default_rng(size)
        places = dice.permutation(size)
        rows = np.lib.format.open_memmap(file, "w+", np.float16, (size, vectors.shape[1]))
        rows[places[: len(vectors)]] = vectors
        for at in range(len(vectors), size, 20_000):
            part = places[at : at + 20_000]
            rows[part] = noise(unit(vectors[dice.integers(len(vectors), size=len(part))]), dice)
        rows.flush()
    return np.load(file, mmap_mode="r")


def blocked_product(vectors: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The pairs of one in `every` blocks of rows with the rows before them, and what all would take."""
    started, found, done = time.process_time(), [], 0
    for at in range(0, len(vectors), BLOCK):
        if at // BLOCK % every != every // 2:
            continue
        for before in range(0, at + 1, BLOCK):
            products = vectors[at : at + BLOCK] @ vectors[before : before + BLOCK].T
            i, j = np.nonzero(products >= FLOOR)
            found.append(np.stack([i + at, j + before])[:, i + at > j + before])
            done += products.size
    seconds = (time.process_time() - started) * len(vectors) * (len(vectors) + BLOCK) / 2 / done
    i, j = np.concatenate(found, axis=1)
    return i, j, seconds


def seconds(work: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """The median of the CPU seconds, and what the last round made."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        made = work()
        taken.append(time.process_time() - started)
    return sorted(taken)[rounds // 2], made


def recall(size: int, i: np.ndarray, j: np.ndarray, found: Any) -> float:
    return float(np.isin(i * size + j, found.i * size + found.j).mean())


Line = tuple[str, str, str, bool | None, str]


def speed(vectors: np.ndarray) -> Iterator[Line]:
    exact = unit(vectors)
    i, j, product = blocked_product(exact, every=4)
    took, found = seconds(lambda: pairs_above(vectors, None, FLOOR))
    note = f"{took:.2f} s and {product:.1f} s (from a quarter of its blocks)"
    yield "candidates, times faster", f"{product / took:.1f}", ">= 8", product / took >= 8, note
    share = recall(len(vectors), i, j, found)
    yield "recall at 0.95", f"{share:.4f}", ">= 0.995", share >= 0.995, f"of {len(i):,} pairs"
    for floor in (0.9, 0.98):
        took, found = seconds(lambda floor=floor: pairs_above(vectors, None, floor), rounds=1)
        yield f"candidates at {floor}, seconds", f"{took:.2f}", "", None, f"{len(found.i):,} pairs"


def adding(vectors: np.ndarray) -> Iterator[Line]:
    before, new = vectors[:-1_000], vectors[-1_000:]
    building, _ = seconds(lambda: Index.build([before]))
    adds = []
    for _ in range(5):
        index = Index.build([before])
        adds.append(seconds(lambda index=index: index.add(new), rounds=1)[0])
    share = sorted(adds)[2] / building
    note = f"{sorted(adds)[2] * 1e3:.0f} ms and {building * 1e3:.0f} ms"
    yield "adding 1,000 rows, share of building", f"{share:.3f}", "< 0.05", share < 0.05, note
    whole, _ = seconds(lambda: index.pairs(FLOOR), rounds=1)
    searching, found = seconds(lambda: index.pairs(FLOOR, first=len(before)))
    share = (sorted(adds)[2] + searching) / (building + whole)
    yield "... and finding their pairs, of all", f"{share:.3f}", "", None, f"{len(found.i):,} pairs"


def growth(vectors: np.ndarray) -> Iterator[Line]:
    for size in (10_000, 30_000, 100_000):
        took, found = seconds(lambda size=size: pairs_above(vectors[:size], None, FLOOR))
        note = f"{took:.2f} s, {len(found.i):,} pairs"
        yield f"microseconds a row at {size:,}", f"{took / size * 1e6:.0f}", "", None, note


def large(file: Path, size: int) -> Iterator[Line]:
    """In a process of its own, so that the peak is this work's."""
    call = [sys.executable, __file__, "--measure", str(file)]
    printed = subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()
    took, share, pairs, truth, resident, start = map(float, printed)
    yield (
        f"microseconds a row at {size:,}",
        f"{took / size * 1e6:.0f}",
        "",
        None,
        f"{took:.1f} s, {pairs:,.0f} pairs",
    )
    note = f"of {truth:,.0f} pairs of 1,000 rows"
    yield f"recall at {size:,}", f"{share:.4f}", ">= 0.995", share >= 0.995, note
    matrix = file.stat().st_size / 2**20
    note = f"{resident:.0f} MB of {matrix:.0f}; the matrix's own pages and {start:.0f} MB of Python count"
    yield (
        "peak memory over the matrix on disk",
        f"{resident / matrix:.2f}",
        "< 2",
        resident / matrix < 2,
        note,
    )


def measure(file: Path) -> None:
    def peak() -> float:
        # Not getrusage: its peak begins with that of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024

    start = peak()
    vectors = np.load(file, mmap_mode="r")
    took, found = seconds(lambda: pairs_above(vectors, None, FLOOR), rounds=1)
    resident = peak()
    rows = np.random.default_rng(1).choice(len(vectors), 1_000, replace=False)
    some = unit(vectors[rows])
    pairs = []
    for at in range(0, len(vectors), BLOCK):
        a, b = np.nonzero(some @ unit(vectors[at : at + BLOCK]).T >= FLOOR)
        pairs.append(np.stack([rows[a], b + at])[:, rows[a] != b + at])
    i, j = np.concatenate(pairs, axis=1)
    share = recall(len(vectors), np.maximum(i, j), np.minimum(i, j), found)
    print(took, share, len(found.i), len(i), resident, start)


def others(vectors: np.ndarray) -> Iterator[Line]:
    """Packages that find neighbours, from nothing to the pairs, with settings as their manuals suggest."""
    vectors = unit(vectors)
    size, width = vectors.shape
    i, j, _ = blocked_product(vectors, every=8)

    def line(name: str, took: float, a: np.ndarray, b: np.ndarray) -> Line:
        share = float(np.isin(i * size + j, np.maximum(a, b) * size + np.minimum(a, b)).mean())
        return name, f"{took:.1f}", "", None, f"seconds; recall {share:.4f}"

    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)
        started = time.process_time()
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, 1_000, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid, index.nprobe = 4, 64, 4
        index.train(vectors)
        index.add(vectors)
        limits, _, b = index.range_search(vectors, FLOOR)
        took = time.process_time() - started
        yield line(
            "faiss, IVF of 1,000, 4 probed", took, np.repeat(np.arange(size), np.diff(limits.astype(int))), b
        )
    if importlib.util.find_spec("usearch"):
        from usearch.index import Index as Graph

        started = time.process_time()
        graph = Graph(ndim=width, metric="cos", dtype="f16", expansion_add=64, expansion_search=32)
        graph.add(np.arange(size), vectors, threads=1)
        near = graph.search(vectors, 16, threads=1)
        took = time.process_time() - started
        a, place = np.nonzero(near.distances <= 1 - FLOOR)
        yield line("usearch, 16 nearest, float16", took, a, near.keys[a, place].astype(int))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pandas-llm-neighbours")
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="rows of the matrix on disk; 0 leaves it out"
    )
    parser.add_argument("--texts", type=Path, help="a larger sample of BANKING77 as csv with text")
    parser.add_argument(
        "--others", action="store_true", help="faiss and usearch too, where they are installed"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure)
        return 0
    given.cache.mkdir(parents=True, exist_ok=True)
    source = given.texts or files("pandas_llm") / "data" / "banking77.csv"
    real = list(dict.fromkeys(row["text"] for row in csv.DictReader(source.read_text().splitlines())))
    made = variations(real, TEXTS)
    stem = f"{len(real)}-{len(made)}"
    texts = encoded(given.cache / f"{stem}.npy", list(made))
    noise = Noise(texts, np.array(list(made.values())), len(real))
    low, middle, high = np.quantile(noise.cosines, [0.1, 0.5, 0.9])
    print(
        f"{len(made):,} texts made from {len(real):,} real ones. The cosine of a near copy: a tenth below "
        f"{low:.2f}, half below {middle:.2f}, a tenth above {high:.2f}."
    )
    vectors = np.array(grown(given.cache / f"{stem}-{ROWS}.npy", texts, ROWS, noise))
    parts = [speed(vectors), adding(vectors), growth(vectors)]
    if given.large:
        file = given.cache / f"{stem}-{given.large}.npy"
        grown(file, vectors, given.large, noise)
        parts.append(large(file, given.large))
    if given.others:
        parts.append(others(vectors))
    held = True
    for part in parts:
        for name, figure, bound, kept, note in part:
            verdict = "" if kept is None else "ok" if kept else "MISSED"
            print(f"{name:<38} {figure:>8} {bound:>9} {verdict:<6} {note}", flush=True)
            held &= kept is not False
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
