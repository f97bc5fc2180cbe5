"""The whole library over a damaged store: no wrong value, no crash, and what is whole isn't paid again."""

from __future__ import annotations

import random
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.openai_server import FakeOpenAI

import pandas_llm
from pandas_llm.errors import LLMWarning
from pandas_llm.io.store import open_store

N = 400
PAGE = 4096
PLACES = 16
IN_DANGER = PLACES + PLACES // 8
"""Answers that a store which suddenly takes no more may cost: those in flight, those being saved."""
KEY = "sk-test-0123456789"


def rows(n: int = N) -> pd.DataFrame:
    return pd.DataFrame({"body": [f"row {i}" for i in range(n)]})


def said(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    return frame.llm.generate(
        "body", "Repeat it.", output="said", progress=False, max_concurrency=PLACES, **options
    )


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as running:  # one for all: its port is a part of every key
        yield running
    assert running.violations == []


@pytest.fixture
def server(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> FakeOpenAI:
    monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    fake.clear()
    fake.latency = 0.0
    fake.answer = lambda text, body: f"later: {text}"
    return fake


@dataclass(frozen=True)
class Files:
    """A store as it lies on the disk, by the end of its files' names."""

    contents: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Files:
        return cls({each.name.removeprefix(path.name): each.read_bytes() for each in path.parent.iterdir()})

    def put(self, path: Path, **changed: bytes | None) -> None:
        """Lay the files down; `wal=None` leaves one out, `file=b"…"` changes it."""
        given = {"" if name == "file" else f"-{name}": content for name, content in changed.items()}
        for end, content in {**self.contents, **given}.items():
            if content is not None:
                path.with_name(path.name + end).write_bytes(content)


@pytest.fixture(scope="module")
def open_files(fake: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A store of N answers as a killed process leaves it: the latest ones are in the WAL alone."""
    path = tmp_path_factory.mktemp("whole") / "store.sqlite3"
    fake.answer = lambda text, body: f"first: {text}"
    with pandas_llm.option_context(base_url=fake.base_url, api_key=KEY, cache=path):
        said(rows())
    files = Files.of(path)
    open_store(path).close()
    return files


@pytest.fixture(scope="module")
def closed_files(open_files: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same store after an orderly end: one file."""
    path = tmp_path_factory.mktemp("closed") / "store.sqlite3"
    open_files.put(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    files = Files.of(path)
    assert set(files.contents) == {"", ".lock"}
    return files


def assert_right(out: pd.DataFrame, server: FakeOpenAI) -> int:
    """How many rows were paid again. Every row has its own text, so another row's answer would be seen."""
    sources = Counter(out["said_source"])
    assert set(sources) <= {"cache", "api"}
    by_source = {"cache": "first", "api": "later"}
    expected = [f"{by_source[s]}: {b}" for b, s in zip(out["body"], out["said_source"], strict=True)]
    assert list(out["said"]) == expected
    assert server.bill.completions == sources["api"], "what the frame says was paid is what was"
    assert set(server.bill.texts.values()) <= {1}
    return sources["api"]


def lost_by(server: FakeOpenAI, store: Path) -> int:
    """How many answers a damaged store has lost; with the next call all is well again."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = said(rows())
        lost = assert_right(out, server)
        again = said(rows())
    assert {each.category for each in warned} <= {LLMWarning}
    asides = [path for path in store.parent.glob("*.damaged-*") if path.name.endswith("Z")]
    told = [str(each.message) for each in warned if "was damaged" in str(each.message)]
    assert len(told) == len(asides), "what is moved aside is told, and kept"
    print(
        "AGAIN",
        Counter(again["said_source"]),
        server.bill.completions - lost,
        [str(w.message)[-150:] for w in warned],
    )
    assert set(again["said_source"]) == {"cache"}
    assert list(again["said"]) == list(out["said"])
    assert server.bill.completions == lost, "nothing is paid a third time"
    open_store(store).close()
    connection = sqlite3.connect(store)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return lost


# A file that lay there ------------------------------------------------------------------------------------


def cut_in_half(content: bytes, dice: random.Random) -> bytes:
    return content[: len(content) // PAGE // 2 * PAGE]


def cut_within_a_page(content: bytes, dice: random.Random) -> bytes:
    return content[: len(content) * 3 // 4 // PAGE * PAGE + dice.randrange(1, PAGE)]


def with_a_zeroed_page(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(content) // PAGE) * PAGE
    return content[:at] + bytes(PAGE) + content[at + PAGE :]


def with_a_zeroed_header(content: bytes, dice: random.Random) -> bytes:
    return bytes(100) + content[100:]


def with_a_zeroed_first_page(content: bytes, dice: random.Random) -> bytes:
    return bytes(PAGE) + content[PAGE:]


def zeroed(content: bytes, dice: random.Random) -> bytes:
    return bytes(len(content))


def with_a_page_in_another_s_place(content: bytes, dice: random.Random) -> bytes:
    source, target = (dice.randrange(1, len(content) // PAGE) * PAGE for _ in range(2))
    return content[:target] + content[source : source + PAGE] + content[target + PAGE :]


def with_flipped_bits(content: bytes, dice: random.Random) -> bytes:
    image = bytearray(content)
    for _ in range(dice.choice((1, 3, 30))):
        image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
    return bytes(image)


DAMAGE: list[tuple[Callable[[bytes, random.Random], bytes], int, float]] = [
    # what is done to the file, how many seeds, the share of answers it may cost
    (cut_in_half, 1, 1.0),
    (cut_within_a_page, 2, 1.0),
    (with_a_zeroed_page, 8, 1.0),
    (with_a_zeroed_header, 1, 1.0),
    (with_a_zeroed_first_page, 1, 1.0),
    (zeroed, 1, 1.0),
    (with_a_page_in_another_s_place, 6, 1.0),
    (with_flipped_bits, 12, 1.0),
]


@pytest.mark.parametrize(
    ("damage", "seed", "most"),
    [
        pytest.param(damage, seed, most, id=f"{damage.__name__}-{seed}")
        for damage, seeds, most in DAMAGE
        for seed in range(seeds)
    ],
)
def test_a_damaged_file_gives_no_wrong_value_and_what_is_whole_is_not_paid_again(
    server: FakeOpenAI,
    closed_files: Files,
    own_settings: Path,
    damage: Callable[[bytes, random.Random], bytes],
    seed: int,
    most: float,
) -> None:
    closed_files.put(own_settings, file=damage(closed_files.contents[""], random.Random(seed)))
    c = sqlite3.connect(own_settings.parent / "x.db")
    (own_settings.parent / "x.db").write_bytes(closed_files.contents[""])
    recs = [k + v for k, v in c.execute("select key,value from requests")]
    c.close()
    img = own_settings.read_bytes()
    whole = sum(r in img for r in recs)
    assert all(r in closed_files.contents[""] for r in recs)
    lost = lost_by(server, own_settings)
    print(N - whole, "LOST", damage.__name__, seed, lost)
    assert lost <= most * N
