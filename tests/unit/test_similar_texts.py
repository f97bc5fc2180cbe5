"""What semantic dedupe keeps: it comes back as it was or not at all, and goes with the answers it is of."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import random
import sqlite3
import stat
import subprocess
import sys
import time
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.stopwatch import within

from pandas_llm.core.errors import LLMWarning
from pandas_llm.core.types import Record, Usage
from pandas_llm.io import sqlite
from pandas_llm.io.nostore import NoSimilarTexts, NoStore
from pandas_llm.io.similar_texts import Reuse, SimilarTexts
from pandas_llm.io.store import Kept, Store, open_store

QUESTION, OTHER = "a" * 32, "b" * 32
SMALL = "text-embedding-3-small/8"
WIDTH = 8


def key(i: int) -> bytes:
    return hashlib.blake2b(b"%d" % i, digest_size=16).digest()


def joined(*numbers: int) -> bytes:
    return b"".join(map(key, numbers))


def text(i: int) -> str:
    return f"Where is my parcel {i}? – Grüße, 請問"


def vector(i: int, width: int = WIDTH) -> np.ndarray:
    found = np.random.default_rng(i).standard_normal(width).astype(np.float32)
    return found / np.linalg.norm(found)


def rows(numbers) -> list[tuple[bytes, str, np.ndarray]]:
    return [(key(i), text(i), vector(i)) for i in numbers]


def reuse(member: int, answered_as: int, run: int = 1) -> Reuse:
    return Reuse(key(member), key(answered_as), 0.97 + member / 1e6, 0.9512345678901234, 0.05, 0.95, run)


def texts(store: Store, question: str = QUESTION, embedder: str = SMALL) -> dict[bytes, str]:
    pairs = [pair for chunk in store.similar.texts(question, embedder) for pair in chunk]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def vectors(store: Store, question: str = QUESTION, embedder: str = SMALL) -> dict[bytes, bytes]:
    keys, matrix = store.similar.vectors(question, embedder)
    assert matrix.dtype == np.float16
    assert len(keys) == 16 * len(matrix)
    return {keys[16 * i : 16 * i + 16]: row.tobytes() for i, row in enumerate(matrix)}


def expected_vectors(numbers) -> dict[bytes, bytes]:
    return {key(i): vector(i).astype(np.float16).tobytes() for i in numbers}


def kept(i: int, run: int = 1) -> Kept:
    return Kept(key(i), Record(["bug"], None, Usage(1, 2)), (b"reply",), run)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path):
    opened = open_store(path)
    yield opened
    opened.close()


# Texts and vectors --------------------------------------------------------------------------------------


def test_texts_and_vectors_come_back_as_they_were_put(store):
    store.similar.put_texts(QUESTION, SMALL, iter(rows(range(3000))))
    assert texts(store) == {key(i): text(i) for i in range(3000)}
    assert vectors(store) == expected_vectors(range(3000))
    assert store.similar.text_of(QUESTION, key(7)) == text(7)
    assert store.similar.text_of(QUESTION, key(3000)) is None
    assert store.similar.count(QUESTION) == store.info()["texts"] == 3000


def test_questions_and_embedders_are_kept_apart(store):
    store.similar.put_texts(QUESTION, SMALL, rows([1, 2]))
    store.similar.put_texts(QUESTION, "local", rows([2, 3]))
    store.similar.put_texts(OTHER, SMALL, [(key(9), "", vector(9))])
    assert set(texts(store)) == set(vectors(store)) == {key(1), key(2)}
    assert set(vectors(store, embedder="local")) == {key(2), key(3)}
    assert texts(store, OTHER) == {key(9): ""}
    assert texts(store, OTHER, "local") == vectors(store, OTHER, "local") == {}
    assert [store.similar.text_of(QUESTION, key(i)) for i in (3, 9)] == [text(3), None]
    assert [store.similar.count(question) for question in (QUESTION, OTHER, "c")] == [3, 1, 0]
    assert store.info()["texts"] == 4


def test_new_vectors_come_behind_those_that_were_there(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(1500)))
    before, _ = store.similar.vectors(QUESTION, SMALL)
    store.similar.put_texts(QUESTION, SMALL, rows(range(1400, 2000)))
    after, matrix = store.similar.vectors(QUESTION, SMALL)
    assert after.startswith(before)
    assert matrix.shape == (2000, WIDTH)


def test_what_is_there_is_not_written_again_and_what_changed_is(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(10)))
    written = store.commit(lambda c: c.total_changes)
    store.similar.put_texts(QUESTION, SMALL, rows(range(10)))
    assert store.commit(lambda c: c.total_changes) - written <= 3, "signs of life"
    store.similar.put_texts(QUESTION, SMALL, [(key(3), "another text", vector(99))])
    assert texts(store)[key(3)] == "another text"
    assert vectors(store)[key(3)] == vector(99).astype(np.float16).tobytes()
    assert store.similar.count(QUESTION) == 10


def test_vectors_of_another_length_than_the_newest_are_left_out(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(5)))
    store.similar.put_texts(QUESTION, SMALL, [(key(i), text(i), vector(i, 3)) for i in range(5, 8)])
    keys, matrix = store.similar.vectors(QUESTION, SMALL)
    assert matrix.shape == (3, 3)
    assert sorted(keys[at : at + 16] for at in (0, 16, 32)) == sorted(map(key, range(5, 8)))
    with pytest.raises(ValueError, match="same shape"):
        store.similar.put_texts(OTHER, SMALL, [*rows([1]), (key(2), text(2), vector(2, 3))])
    assert store.similar.count(OTHER) == 0


def test_a_reader_between_two_chunks_keeps_nobody_from_writing(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(3000)))
    chunks = store.similar.texts(QUESTION, SMALL)
    seen = dict(next(chunks))
    store.similar.put_texts(QUESTION, SMALL, rows(range(2000, 4000)))
    for chunk in chunks:
        seen.update(chunk)
    assert seen == {key(i): text(i) for i in range(3000)}


def test_a_hundred_thousand_are_written_and_read_in_little_time_and_memory(store):
    count, width = 100_000, 384
    matrix = np.random.default_rng(0).random((count, width), dtype=np.float32)
    matrix *= 0.05
    before = time.process_time()
    store.similar.put_texts(QUESTION, SMALL, ((key(i), text(i), matrix[i]) for i in range(count)))
    written = time.process_time()
    keys, read = store.similar.vectors(QUESTION, SMALL)
    done = time.process_time()
    # CPU seconds: other programs on the machine don't count. Without any, 3 and 0.4.
    assert written - before < 10
    within(done - written, 1.5)
    place = {keys[16 * i : 16 * i + 16]: i for i in range(count)}
    order = [place[key(i)] for i in range(count)]
    assert np.array_equal(read[order], matrix.astype(np.float16))
    del read, matrix
    tracemalloc.start()
    _, read = store.similar.vectors(QUESTION, SMALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * read.nbytes


# Reuses -------------------------------------------------------------------------------------------------


def test_who_took_whose_answer_is_known(store):
    store.similar.put_reuses(QUESTION, (reuse(i, i + 1) for i in range(0, 20_000, 2)))
    store.similar.put_reuses(OTHER, [reuse(1, 2)])
    found = store.similar.reuses(QUESTION, joined(*range(20_000)))
    assert found == {key(i): reuse(i, i + 1) for i in range(0, 20_000, 2)}
    assert store.similar.reuses(QUESTION, b"") == store.similar.reuses("c", joined(1, 2)) == {}
    assert store.similar.reuses(OTHER, joined(1, 2)) == {key(1): reuse(1, 2)}
    newer = replace(reuse(0, 7, run=3), max_error=float("inf"))
    store.similar.put_reuses(QUESTION, [newer])
    assert store.similar.reuses(QUESTION, joined(0, 0)) == {key(0): newer}


def test_the_answer_that_a_text_took_is_found_under_its_key(store):
    store.keep([kept(1), kept(2)])
    store.similar.put_reuses(QUESTION, [reuse(11, 1), reuse(12, 1), reuse(13, 2), reuse(14, 5)])
    found = store.similar.shared_payloads(QUESTION, joined(2, 11, 12, 13, 14))
    answers = {member: payload[0] for chunk in found for member, payload in chunk}
    assert answers == {key(i): ["bug"] for i in (11, 12, 13)}
    assert [*store.similar.shared_payloads(OTHER, joined(11))] in ([], [[]])


def test_by_whose_agreement_an_answer_was_taken_is_kept(store):
    with_function = replace(reuse(1, 2), agreement="notebook.close@1f0c9e2a")
    store.similar.put_reuses(QUESTION, [with_function, reuse(3, 4)])
    assert store.similar.reuses(QUESTION, joined(1, 3)) == {key(1): with_function, key(3): reuse(3, 4)}


# Forgetting ---------------------------------------------------------------------------------------------


def fill(store: Store) -> list[int]:
    """Three runs' answers 0-9, 10-19 and 20-29; each i + 100 took the answer of i."""
    runs = [store.start_run(status="done", model=model) for model in ("luna", "luna", "nova")]
    store.keep([kept(i, runs[i // 10]) for i in range(30)])
    store.similar.put_texts(QUESTION, SMALL, rows([*range(30), *range(100, 130)]))
    store.similar.put_texts(QUESTION, "local", rows(range(30)))
    store.similar.put_reuses(QUESTION, [reuse(i + 100, i) for i in range(30)])
    return runs


def assert_left(store: Store, numbers) -> None:
    every = joined(*range(200))
    assert set(texts(store)) == set(vectors(store)) == {key(i) for n in numbers for i in (n, n + 100)}
    assert set(texts(store, embedder="local")) == {key(i) for i in numbers}
    assert store.similar.reuses(QUESTION, every) == {key(i + 100): reuse(i + 100, i) for i in numbers}


def test_texts_and_reuses_go_with_the_answers_they_are_of(store):
    runs = fill(store)
    assert store.clear(run=runs[0]) == 10
    assert_left(store, range(10, 30))
    assert store.clear(model="nova", keys=joined(12, 22, 999)) == 1
    left = [i for i in range(10, 30) if i != 22]
    assert_left(store, left)
    assert store.clear(older_than=3600) == 0
    assert_left(store, left)
    assert store.clear(model="luna") == 10
    assert_left(store, [i for i in left if i >= 20])


def test_clearing_by_keys_drops_the_texts_that_took_an_answer_too(store):
    fill(store)
    assert store.clear(keys=joined(1, 102)) == 1
    every = {*range(30), *range(100, 130)}
    assert set(texts(store)) == {key(i) for i in every - {1, 101, 102}}
    assert set(store.similar.reuses(QUESTION, joined(*every))) == {
        key(i) for i in range(100, 130) if i not in (101, 102)
    }


def test_clearing_everything_empties_both(store):
    fill(store)
    size = store.info()["bytes"]
    assert store.clear() == 30
    assert_left(store, [])
    assert store.info()["texts"] == 0
    assert store.info()["bytes"] < size
    assert store.clear(run=1) == 0


def test_an_answer_that_a_batch_is_to_replace_takes_its_text_with_it(store):
    fill(store)
    shard, _ = store.shards.plan([key(3)], 1, timeout=600, replace=True)
    assert store.clear(keys=joined(3)) == 1
    assert store.held([key(3)]) == {key(3): -shard.id}
    assert_left(store, [i for i in range(30) if i != 3])


def test_forgetting_by_question_by_key_and_all(store):
    fill(store)
    store.similar.put_texts(OTHER, SMALL, rows([1, 2]))
    store.similar.put_reuses(OTHER, [reuse(101, 1)])
    store.similar.forget(QUESTION, joined(1, 999))
    assert_left(store, [i for i in range(30) if i != 1])
    assert set(texts(store, OTHER)) == {key(1), key(2)}
    assert set(store.similar.reuses(OTHER, joined(101))) == {key(101)}
    store.similar.forget(keys=[key(1), key(2)])
    assert_left(store, [i for i in range(30) if i not in (1, 2)])
    assert texts(store, OTHER) == store.similar.reuses(OTHER, joined(101)) == {}
    store.similar.put_texts(OTHER, SMALL, rows([5]))
    store.similar.forget(QUESTION)
    assert_left(store, [])
    assert set(texts(store, OTHER)) == {key(5)}
    store.similar.forget()
    assert store.info()["texts"] == 0
    store.similar.forget(keys=joined(1))


# Damage, other processes, earlier versions --------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "text_is_lost", "vector_is_lost"),
    [
        ("vector = substr(vector, 1, 9) || x'ff' || substr(vector, 11)", False, True),
        ("text = substr(text, 1, 9) || x'ff' || substr(text, 11)", True, False),
        ("vector = 7, text = NULL", True, True),
        ("key = x'00112233445566778899aabbccddeeff'", True, True),
        ("key = 5", True, True),
    ],
)
def test_what_is_damaged_is_left_out_and_can_be_put_again(store, damage, text_is_lost, vector_is_lost):
    store.similar.put_texts(QUESTION, SMALL, rows(range(4)))
    store.commit(lambda c: c.execute(f"UPDATE similar SET {damage} WHERE key = ?", (key(2),)))
    whole = {key(0), key(1), key(3)}
    assert set(texts(store)) == (whole if text_is_lost else {*whole, key(2)})
    assert set(vectors(store)) == (whole if vector_is_lost else {*whole, key(2)})
    assert store.similar.text_of(QUESTION, key(2)) == (None if text_is_lost else text(2))
    store.similar.put_texts(QUESTION, SMALL, rows([2]))
    assert texts(store) == {key(i): text(i) for i in range(4)}
    assert vectors(store) == expected_vectors(range(4))


def test_a_text_in_another_s_place_is_none(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(2)))
    store.similar.put_texts(OTHER, "local", rows(range(2)))
    store.similar.put_texts(OTHER, SMALL, rows([0]))
    swap = "UPDATE similar SET {} WHERE question = ? AND embedder = ?"
    store.commit(lambda c: c.execute(swap.format("question = 'c'"), (QUESTION, SMALL)))
    store.commit(lambda c: c.execute(swap.format("embedder = 'other'"), (OTHER, "local")))
    assert texts(store, "c") == vectors(store, "c") == vectors(store, OTHER, "other") == {}
    assert vectors(store, OTHER) == expected_vectors([0])


@pytest.mark.parametrize(
    "damage", ["facts = substr(facts, 1, 20)", "facts = 1", "answered_as = member", "answered_as = 'x'"]
)
def test_a_damaged_reuse_is_none(store, damage):
    store.similar.put_reuses(QUESTION, [reuse(1, 2), reuse(3, 2)])
    store.commit(lambda c: c.execute(f"UPDATE reuses SET {damage} WHERE member = ?", (key(1),)))
    assert store.similar.reuses(QUESTION, joined(1, 3)) == {key(3): reuse(3, 2)}


@pytest.mark.parametrize("lost", ["a page of texts", "the first page"])
def test_what_is_whole_is_carried_over_from_a_damaged_file(store, lost):
    store.keep([kept(i) for i in range(300)])
    store.similar.put_texts(QUESTION, SMALL, rows(range(2000)))
    store.similar.put_reuses(QUESTION, [reuse(i, i + 1) for i in range(0, 1000, 2)])
    store.commit(lambda c: c.execute("UPDATE similar SET text = x'00' WHERE key = ?", (key(7),)))
    store.close()
    content = bytearray(store.path.read_bytes())
    at = content.index(vector(1500).astype(np.float16).tobytes()) // 4096 * 4096
    start = at if lost == "a page of texts" else 0
    content[start : start + 4096] = bytes(4096)
    store.path.write_bytes(content)
    with pytest.warns(LLMWarning, match="300 answers"):
        found = texts(store)
    assert (key(1500) in found) == (lost == "the first page")
    assert len(found) >= 1950
    assert key(7) not in found, "half of it was damaged"
    assert all(found[key(i)] == text(i) for i in range(2000) if key(i) in found)
    assert vectors(store) == expected_vectors(i for i in range(2000) if key(i) in found)
    assert len(store.similar.reuses(QUESTION, joined(*range(1000)))) == 500


def test_of_twenty_damaged_files_none_gives_what_was_not_put(tmp_path):
    whole = tmp_path / "whole.sqlite3"
    store = Store(whole)
    store.similar.put_texts(QUESTION, SMALL, rows(range(150)))
    store.similar.put_reuses(QUESTION, [reuse(i, i + 1) for i in range(150)])
    store.close()
    original, lock = whole.read_bytes(), store.owners.path.read_bytes()
    good_vectors = expected_vectors(range(150))
    found = 0
    for seed in range(20):
        dice, path = random.Random(seed), tmp_path / f"{seed}.sqlite3"
        image = bytearray(original)
        for _ in range(dice.randint(1, 60)):
            image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
        path.write_bytes(image)
        path.with_name(f"{path.name}.lock").write_bytes(lock)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LLMWarning)
            store = Store(path)
            pairs = [pair for chunk in store.similar.texts(QUESTION, SMALL) for pair in chunk]
            assert set(pairs) <= {(key(i), text(i)) for i in range(150)}
            assert vectors(store).items() <= good_vectors.items()
            for member, taken in store.similar.reuses(QUESTION, joined(*range(150))).items():
                assert taken in [reuse(i, i + 1) for i in range(150) if key(i) == member]
            found += len(pairs)
            store.similar.put_texts(QUESTION, SMALL, rows(range(150)))
            store.clear(keys=joined(*range(75)))
            store.clear()
            store.close()
    assert 1500 < found < 20 * 150


CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
from test_similar_texts import QUESTION, SMALL, reuse, rows
from pandas_llm.io.store import open_store
store = open_store(sys.argv[1])
print(flush=True)
sys.stdin.readline()
for n in range(20):
    store.similar.put_texts(QUESTION, SMALL, rows(range(100 * n, 100 * n + 150)))
    store.similar.put_reuses(QUESTION, [reuse(i, i + 1) for i in range(100 * n, 100 * n + 100)])
"""


def test_two_processes_that_write_the_same_texts_keep_each_once(store):
    places = [str(folder) for folder in Path(__file__).parents[:3]]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store.path), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert texts(store) == {key(i): text(i) for i in range(2050)}
    assert vectors(store) == expected_vectors(range(2050))
    assert len(store.similar.reuses(QUESTION, joined(*range(2050)))) == 2000
    assert store.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [(b"ok",)]


def test_the_files_stay_readable_by_their_user_alone(store):
    store.similar.put_texts(QUESTION, SMALL, rows(range(100)))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in store.path.parent.iterdir()}
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("lacks", [("batches", "similar", "reuses"), ("similar", "reuses")])
def test_a_file_of_an_earlier_version_gets_the_tables(path, lacks):
    sqlite.create(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in lacks:
            connection.execute(f"DROP TABLE {table}")
        connection.execute("VACUUM")
    store = Store(path)
    assert texts(store) == vectors(store) == store.similar.reuses(QUESTION, joined(1)) == {}
    fill(store)
    store.close()
    again = Store(path)
    assert_left(again, range(30))
    assert again.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [(b"ok",)]
    again.close()


def test_a_file_of_an_earlier_version_is_mended(path):
    store = Store(path)
    store.keep([kept(i) for i in range(300)])
    for table in ("batches", "similar", "reuses"):
        store.commit(lambda c, table=table: c.execute(f"DROP TABLE {table}"))
    store.outside(lambda c: c.execute("VACUUM"))
    store.close()
    content = path.read_bytes()
    path.write_bytes(bytes(4096) + content[4096:])
    with pytest.warns(LLMWarning, match="300 answers"):
        store = Store(path)
    assert texts(store) == vectors(store) == {}
    store.similar.put_texts(QUESTION, SMALL, rows([1]))
    assert texts(store) == {key(1): text(1)}
    store.close()


def test_the_definitions_of_all_tables_fit_on_the_first_page(path):
    sqlite.create(path)
    assert path.read_bytes()[100] == 0x0D, "else no table could be found again when that page is lost"


# Without a store ----------------------------------------------------------------------------------------


def test_without_a_store_nothing_is_kept():
    similar = NoStore().similar
    similar.put_texts(QUESTION, SMALL, rows([1]))
    similar.put_reuses(QUESTION, [reuse(1, 2)])
    similar.forget()
    assert list(similar.texts(QUESTION, SMALL)) == []
    keys, matrix = similar.vectors(QUESTION, SMALL)
    assert (keys, len(matrix), matrix.dtype) == (b"", 0, np.float16)
    assert similar.text_of(QUESTION, key(1)) is None
    assert similar.reuses(QUESTION, key(1)) == {}
    assert list(similar.shared_payloads(QUESTION, key(1))) == []
    assert similar.count(QUESTION) == 0
    names = [name for name in vars(SimilarTexts) if not name.startswith("_")]
    assert len(names) == 9
    for name in names:
        ours, theirs = (inspect.signature(getattr(c, name)) for c in (NoSimilarTexts, SimilarTexts))
        assert ours == theirs, name
