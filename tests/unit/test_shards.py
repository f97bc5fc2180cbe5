"""Shards in the store: each key in one open shard, each with one driver, the journal whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from pandas_llm.core.errors import LLMWarning, StoreError
from pandas_llm.core.plan import split
from pandas_llm.core.types import Record, Usage
from pandas_llm.io import sqlite
from pandas_llm.io.nostore import NoShards
from pandas_llm.io.shards import Shard, Shards, ShardTakenError
from pandas_llm.io.store import Kept, NoStore, Store, open_store

DEAD = 4_000_000


def key(i: int) -> bytes:
    return hashlib.blake2b(b"%d" % i, digest_size=16).digest()


def keys(*numbers: int) -> list[bytes]:
    return [key(i) for i in numbers]


def kept(i: int, label: str = "bug") -> Kept:
    return Kept(key(i), Record([label], None, Usage(1, 2), batch=True), (b"reply",), 1)


def known(store: Store, wanted: list[bytes]) -> dict[bytes, str]:
    return {found: record.output[0] for chunk in store.known(wanted) for found, record in chunk}


def plan(store: Store, *numbers: int, run: int = 1, replace: bool = False, **facts) -> Shard:
    shard, granted = store.shards.plan(keys(*numbers), run, timeout=600, replace=replace, **facts)
    assert shard is not None
    assert granted == keys(*numbers)
    return shard


def positions(store: Store, *numbers: int) -> dict[int, list[int]]:
    return {number: held.tolist() for number, held in store.shards.holding(b"".join(keys(*numbers))).items()}


def harvest(store: Store, shard: Shard) -> None:
    for state in ("uploading", "uploaded", "creating", "created", "ended"):
        shard = store.shards.note(shard, state)
    store.shards.close(shard)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path):
    opened = open_store(path)
    yield opened
    opened.close()


# Planning -----------------------------------------------------------------------------------------------


def test_a_shard_gets_what_is_free_in_its_order(store):
    store.keep([kept(1)])
    store.claim(keys(2), 1)
    plan(store, 3)
    store.commit(lambda c: c.execute("INSERT INTO requests(key, owner) VALUES (?, ?)", (key(4), DEAD)))
    shard, granted = store.shards.plan(keys(6, 1, 2, 3, 4, 5), 7, timeout=600, replace=False, model="luna")
    assert granted == keys(6, 4, 5)
    assert (shard.run, shard.state, shard.facts) == (7, "planned", {"model": "luna"})
    assert shard.name == f"batch file {shard.id}"
    assert store.shards.keys(shard.id) == b"".join(granted)
    assert store.shards.get(shard.id) == shard
    assert store.held(keys(1, 2, 3, 4)) == {key(2): 1, key(3): -1, key(4): -shard.id}


def test_where_all_is_answered_or_held_no_shard_is_made(store):
    store.keep([kept(1)])
    plan(store, 2)
    assert store.shards.plan(keys(1, 2), 1, timeout=600, replace=False) == (None, [])
    assert store.shards.plan([], 1, timeout=600, replace=True) == (None, [])
    assert len(store.shards.open()) == 1


def test_answers_to_be_replaced_are_held_though_they_are_known(store):
    store.keep([kept(1), kept(2)])
    shard = plan(store, 1, 2, 3, replace=True)
    assert shard.facts == {"replace": True}
    assert known(store, keys(1, 2)) == dict.fromkeys(keys(1, 2), "bug")
    assert store.shards.plan(keys(1, 2, 3), 2, timeout=600, replace=True) == (None, [])
    assert positions(store, 1, 2, 3) == {shard.id: [0, 1, 2]}
    store.keep([kept(1, "praise")], replace=True)
    assert positions(store, 1, 2, 3) == {shard.id: [1, 2]}
    harvest(store, shard)
    assert known(store, keys(1, 2, 3)) == {key(1): "praise", key(2): "bug"}
    assert store.claim(keys(1, 2, 3), 2, replace=True) == keys(1, 2, 3)


@pytest.mark.parametrize("replace", [False, True])
def test_nobody_is_granted_what_an_open_shard_holds(store, replace):
    store.keep([kept(9)])
    shard = plan(store, 1, 2)
    assert store.claim(keys(1, 2), 2, replace=replace) == []
    assert store.reclaim(keys(1, 2), 2, replace=replace) == []
    store.release(keys(1, 2))
    assert store.held(keys(1, 2, 3, 9)) == dict.fromkeys(keys(1, 2), -shard.id)
    store.shards.leave(shard)
    store.close()
    assert Store(store.path).claim(keys(1, 2, 3), 2, replace=replace) == keys(3)


def test_fifty_thousand_keys_are_planned_in_few_commits_of_the_file_s_time(store):
    many = keys(*range(50_000))
    before = store.changed()
    shard, granted = store.shards.plan(many, 1, timeout=600, replace=False)
    assert granted == many
    assert store.changed() - before <= 1
    held = store.shards.holding(b"".join(many[::-1]))
    assert len(held[shard.id]) == 50_000


def test_threads_that_plan_the_same_keys_get_each_once(store):
    wanted, got = keys(*range(400)), []

    def work():
        got.append(store.shards.plan(wanted, 1, timeout=600, replace=False)[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one for some in got for one in some) == sorted(wanted)


# The journal --------------------------------------------------------------------------------------------


def test_each_step_is_in_the_file_before_it_is_told(store):
    shard = plan(store, 1, model="luna")
    steps = [("uploading", {"sha256": "ab"}), ("uploaded", {"input_file_id": "file-1"}), ("creating", {})]
    for state, facts in [*steps, ("created", {"batch_id": "batch_7", "total": 1}), (None, {"completed": 1})]:
        shard = store.shards.note(shard, state, **facts)
        with contextlib.closing(sqlite3.connect(store.path)) as other:
            assert other.execute("SELECT state FROM batches").fetchone() == (shard.state,)
        assert store.shards.get(shard.id) == shard
    assert shard.name == "batch_7"
    back = store.shards.note(shard, "uploaded", batch_id=None)
    assert back.facts == {
        "model": "luna",
        "sha256": "ab",
        "input_file_id": "file-1",
        "total": 1,
        "completed": 1,
    }
    assert store.shards.note(shard).facts == back.facts, "what another watcher knew is older"
    with pytest.raises(ValueError, match="from uploaded to ended"):
        store.shards.note(back, "ended")
    with pytest.raises(ValueError, match="from creating to harvested"):
        store.shards.close(store.shards.note(back, "creating"))


def test_a_harvested_shard_frees_what_wasn_t_answered(store):
    first, second = plan(store, 1, 2, 3), plan(store, 4)
    store.keep([kept(2)])
    harvest(store, first)
    assert store.shards.open() == [store.shards.get(second.id)]
    assert store.shards.past() == [store.shards.get(first.id)]
    assert store.shards.get(first.id).state == "harvested"
    assert store.shards.keys(first.id) == b""
    assert store.held(keys(1, 2, 3, 4)) == {key(4): -second.id}
    assert store.claim(keys(1, 2, 3, 4), 2) == keys(1, 3)
    assert store.shards.take(first, timeout=600) is None
    harvest(store, second)
    assert [shard.id for shard in store.shards.past()] == [second.id, first.id]
    assert [shard.id for shard in store.shards.past(1)] == [second.id]


def test_the_oldest_history_goes(store):
    first = plan(store, 1)
    harvest(store, first)
    store.commit(lambda c: c.execute("UPDATE sqlite_sequence SET seq = seq + 999 WHERE name = 'batches'"))
    harvest(store, plan(store, 2))
    assert store.shards.get(first.id) is None
    assert len(store.shards.past()) == 1


def test_a_shard_without_a_batch_is_dissolved(store):
    shard = plan(store, 1, 2)
    store.shards.dissolve(shard)
    assert store.shards.get(shard.id) is None
    assert plan(store, 1, 2).id > shard.id


def test_what_is_no_json_is_refused_before_it_is_written(store):
    with pytest.raises(TypeError):
        store.shards.plan(keys(1), 1, timeout=600, replace=False, bad=object())
    assert store.shards.open() == []
    assert store.claim(keys(1), 1) == keys(1)


# Holding ------------------------------------------------------------------------------------------------


def test_each_key_is_found_where_it_stands(store):
    first, second = plan(store, 1, 2, 3), plan(store, 4, 5)
    twin = key(4)[:8] + bytes(8)  # the same half
    asked = [key(9), key(5), key(3), twin, key(1), key(4)]
    held = store.shards.holding(b"".join(asked))
    assert {number: found.tolist() for number, found in held.items()} == {first.id: [2, 4], second.id: [1, 5]}
    store.keep([kept(1), kept(3)])
    assert positions(store, 1, 2, 3) == {first.id: [1]}
    store.keep([kept(2)])
    assert positions(store, 1, 2, 3) == {}
    assert store.shards.holding(b"") == {}


def test_what_a_shard_with_a_damaged_list_holds_is_found_and_freed(store):
    shard = plan(store, 1, 2, 3)
    store.commit(lambda c: c.execute("UPDATE batches SET keys = substr(keys, 1, 30)"))
    assert store.shards.keys(shard.id) == b""
    assert positions(store, 9, 2, 1) == {shard.id: [1, 2]}
    harvest(store, shard)
    assert store.claim(keys(1, 2, 3), 1) == keys(1, 2, 3)


@pytest.mark.parametrize(
    "damage", ["state = 'created'", "facts = substr(facts, 1, 9)", "facts = 7", "run = 5", "state = NULL"]
)
def test_a_damaged_shard_is_none_and_holds_nothing(store, damage):
    shard, other = plan(store, 1, model="luna"), plan(store, 2)
    store.commit(lambda c: c.execute(f"UPDATE batches SET {damage} WHERE id = 1"))
    assert store.shards.get(shard.id) is None
    assert store.shards.open() == [other]
    assert store.held(keys(1, 2)) == {key(2): -other.id}
    assert store.claim(keys(1, 2), 1) == keys(1)


# One driver ---------------------------------------------------------------------------------------------


def test_of_two_calls_in_two_threads_one_drives(store):
    shard = plan(store, 1)
    assert store.shards.take(shard, timeout=600) is None, "who planned it drives it"
    store.shards.leave(shard)
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.append(store.shards.take(shard, timeout=600))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, taken)) == [False] * 7 + [True]
    store.shards.leave(shard)
    store.shards.leave(shard)
    newer = store.shards.take(shard, timeout=600)
    assert store.shards.note(newer, "uploading").state == "uploading"


def test_a_driver_that_hung_is_replaced_and_told(path):
    clock = Clock()
    store = Store(path, clock=clock)
    shard = plan(store, 1)
    # Another process, as far as the file can tell: the byte of owner 2 is its own.
    store.commit(lambda c: c.execute("INSERT INTO owners(id, pid, at) VALUES (2, 1, ?)", (clock.now,)))
    with locked(store, 2):
        store.commit(lambda c: c.execute("UPDATE batches SET owner = 2"))
        assert store.shards.take(shard, timeout=60) is None
        with pytest.raises(ShardTakenError, match="batch file 1 of run r_1 is collected by another call now"):
            store.shards.note(shard, "uploading")
        store.shards.leave(shard)
        clock.now += 1000
        assert store.shards.take(shard, timeout=60) == shard
    assert store.shards.note(shard, "uploading").state == "uploading"
    store.close()


@contextlib.contextmanager
def locked(store: Store, byte: int):
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); "
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2])); print(flush=True); sys.stdin.readline()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(store.owners.path), str(byte)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        child.stdout.readline()
        yield
    finally:
        child.communicate()


CHILD = """
import hashlib, sys
from pandas_llm.io.store import open_store
def key(i): return hashlib.blake2b(b"%d" % i, digest_size=16).digest()
store = open_store(sys.argv[1])
for n in range(1_000_000):
    shard, _ = store.shards.plan([key(i) for i in range(40 * n, 40 * n + 40)], 1, timeout=600, replace=False)
    for state in ("uploading", "uploaded", "creating", "created")[: n % 5]:
        shard = store.shards.note(shard, state, batch_id=f"batch_{shard.id}")
    print(shard.id, flush=True)
"""


def test_kill_9_leaves_every_shard_with_its_keys_and_without_a_driver(path, store):
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, cwd=root
    ) as child:
        for _ in range(12):
            told = int(child.stdout.readline())
        (first, *_) = store.shards.open()
        assert store.shards.take(first, timeout=600) is None, "it lives"
        child.send_signal(signal.SIGKILL)
    shards = store.shards.open()
    assert [shard.id for shard in shards][:told] == list(range(1, told + 1))
    assert {shard.state for shard in shards} >= {"planned", "uploading", "uploaded", "creating", "created"}
    for shard in shards:
        own = list(split(store.shards.keys(shard.id)))
        assert own == keys(*range(40 * (shard.id - 1), 40 * shard.id))
        assert store.held(own) == dict.fromkeys(own, -shard.id)
        assert store.shards.take(shard, timeout=600) == shard
    ahead = keys(*range(40 * len(shards), 40 * len(shards) + 100))
    assert store.claim(ahead, 2) == ahead, "nothing else was left behind"


def test_a_shard_of_a_removed_file_is_not_taken_for_one_of_the_new_file(store):
    old = plan(store, 1)
    for file in store.path.parent.iterdir():
        file.unlink()
    new = plan(store, 2)
    assert new.id == old.id
    with pytest.raises(ShardTakenError, match="no longer in the store"):
        store.shards.note(old, "uploading")
    assert store.shards.take(old, timeout=600) is None
    store.shards.leave(old)
    assert isinstance(ShardTakenError(""), StoreError)


# Clearing -----------------------------------------------------------------------------------------------


def test_clearing_a_run_dissolves_its_shards(store):
    runs = [store.start_run(), store.start_run()]
    mine, other = plan(store, 1, 2, run=runs[0]), plan(store, 3, run=runs[1])
    store.keep([Kept(key(1), kept(1).record, (), runs[0])])
    assert store.clear(run=runs[0], model="another") == 0
    assert store.shards.get(mine.id) == mine
    assert store.clear(run=runs[0]) == 1
    assert store.shards.open() == [other]
    assert store.claim(keys(1, 2, 3), 2) == keys(1, 2)
    with pytest.raises(ShardTakenError, match=rf"r_{runs[0]} is no longer .* Run the line again"):
        store.shards.note(mine, "uploading")


def test_clearing_everything_spares_open_shards_and_what_they_need(store):
    runs = [store.start_run(status="done"), store.start_run(status="done")]
    store.put_question("q", {"verb": "classify"})
    store.keep([kept(1), kept(2)])
    harvest(store, plan(store, 9, run=runs[0]))
    shard = plan(store, 2, 3, run=runs[1], replace=True)
    assert store.info()["batches"] == 1
    assert store.clear() == 2
    assert known(store, keys(1, 2)) == {}
    assert [run["id"] for run in store.runs()] == [runs[1]]
    assert store.question("q") == {"verb": "classify"}
    assert store.shards.past() == []
    assert store.shards.open() == [shard]
    assert positions(store, 1, 2, 3) == {shard.id: [1, 2]}
    store.keep([kept(2, "praise")], replace=True)
    harvest(store, shard)
    assert store.clear() == 1
    assert store.question("q") is None


# Files of earlier versions, damaged files ---------------------------------------------------------------


def before_there_were_batches(path: Path) -> None:
    sqlite.create(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE batches")
        connection.execute("VACUUM")


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.filterwarnings("ignore:The store .* is on a network")
def test_a_file_of_the_version_before_gets_the_table(path, network):
    before_there_were_batches(path)
    store = Store(path, network=network)
    store.keep([kept(1)])
    shard = plan(store, 2)
    store.close()
    again = Store(path, network=network)
    assert known(again, keys(1)) == {key(1): "bug"}
    assert again.shards.open() == [shard]
    assert again.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [(b"ok",)]
    again.close()
    store.close()


def test_a_file_of_the_version_before_is_mended(path):
    store = Store(path)
    store.keep([kept(i) for i in range(300)])
    store.commit(lambda c: c.execute("DROP TABLE batches"))
    store.outside(lambda c: c.execute("VACUUM"))
    store.close()
    content = path.read_bytes()
    path.write_bytes(bytes(4096) + content[4096:])
    with pytest.warns(LLMWarning, match="300 answers"):
        store = Store(path)
    assert len(known(store, keys(*range(300)))) == 300
    assert store.shards.open() == []
    plan(store, 999)
    store.close()


@pytest.mark.parametrize("lost", ["its claims", "its first page"])
def test_open_shards_are_carried_over_from_a_damaged_file(store, lost):
    store.keep([kept(i) for i in range(2000)])
    numbers = range(5000, 9000)
    first = plan(store, *numbers, model="luna")
    store.keep([kept(i) for i in range(5000, 5100)])
    store.keep([kept(20_000)])
    second = plan(store, 20_000, 20_001, replace=True)
    past = plan(store, 30_000)
    harvest(store, past)
    first = store.shards.note(first, "uploading")
    store.close()
    content = bytearray(store.path.read_bytes())
    page = content.index(key(7000)) // 4096 * 4096 if lost == "its claims" else 0
    content[page : page + 4096] = bytes(4096)
    store.path.write_bytes(content)
    with pytest.warns(LLMWarning, match="was damaged"):
        assert len(known(store, keys(*range(2000)))) > 1800
    assert store.shards.open() == [first, second]
    assert [shard.id for shard in store.shards.past()] == [past.id]
    assert store.shards.keys(first.id) == b"".join(keys(*numbers))
    held = store.shards.holding(b"".join(keys(*numbers)))[first.id].tolist()
    assert held[-3900:] == list(range(100, 4000)), "those whose page is lost, too"
    assert positions(store, 20_000, 20_001) == {second.id: [0, 1]}
    assert store.shards.take(first, timeout=600) is None, "this call still drives it"
    assert store.shards.note(first, "uploaded").state == "uploaded"
    assert plan(store, 40_000).id > past.id


def test_of_twenty_damaged_files_none_tells_of_a_shard_what_was_not(tmp_path):
    whole = tmp_path / "whole.sqlite3"
    store = Store(whole)
    store.keep([kept(i) for i in range(60)])
    shards = {shard.id: shard for shard in (plan(store, *range(100 * n, 100 * n + 90)) for n in range(1, 5))}
    for shard in shards.values():
        store.shards.leave(shard)
    store.close()
    original, lock = whole.read_bytes(), store.owners.path.read_bytes()
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
            for shard in store.shards.open():
                assert shard == shards[shard.id]
                wanted = keys(*range(100 * shard.id, 100 * shard.id + 90))
                assert store.shards.keys(shard.id) in (b"", b"".join(wanted))
                store.shards.holding(b"".join(wanted))
                taken = store.shards.take(shard, timeout=600)
                found += taken is not None
                if taken is not None:
                    harvest(store, taken)
            everything = keys(*range(600))
            for _ in range(3):  # what is inserted splits pages, and can hide an answer behind a damaged key
                answered = set(known(store, everything))
                store.claim([k for k in everything if k not in answered], 1)
            assert answered | set(store.held(everything)) == set(everything)
            store.close()
    assert found > 40


# Without a store ----------------------------------------------------------------------------------------


def test_without_a_store_there_are_no_shards():
    shards = NoStore().shards
    assert shards.open() == shards.past() == []
    assert shards.holding(key(1)) == {}
    assert shards.get(1) is None
    assert shards.keys(1) == b""
    for name in ("open", "past", "holding", "get", "keys"):
        assert inspect.signature(getattr(NoShards, name)) == inspect.signature(getattr(Shards, name))
