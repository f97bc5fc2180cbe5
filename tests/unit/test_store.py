"""The store in one process: what is kept comes back whole or not at all, and is kept before it is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import inspect
import os
import random
import sqlite3
import stat
import sys
import threading
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from pandas_llm.core.errors import LLMWarning, OptionsError, StoreError
from pandas_llm.core.types import Record, Usage
from pandas_llm.io import sqlite
from pandas_llm.io.journal import Journal, NoJournal
from pandas_llm.io.records import payloads_of, record_of, seal, sealed_record
from pandas_llm.io.store import Kept, NoStore, Store, default_path, open_store

REPLY = b'{"id":"chatcmpl-%d","choices":[{"message":{"content":"bug"}}],"usage":{"total_tokens":%d}}'

ROWS = 250


def key(i: int) -> bytes:
    return hashlib.blake2b(b"%d" % i, digest_size=16).digest()


def record(i: int) -> Record:
    return Record(
        [f"label {i}"], None, Usage(100 + i, 7, 3, 2, 1), "gpt-6-luna", None, "stop", f"req_{i}", 0.25, 1
    )


def kept(i: int, run: int = 1) -> Kept:
    return Kept(key(i), record(i), (REPLY % (i, i),), run)


def known(store: Store, keys: list[bytes]) -> dict[bytes, Record]:
    return dict(pair for chunk in store.known(keys) for pair in chunk)


def flip(path: Path, needle: bytes) -> None:
    """Damage one bit of the first occurrence of some bytes, as a disk would."""
    content = bytearray(path.read_bytes())
    content[content.index(needle)] ^= 1
    path.write_bytes(content)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store.sqlite3")
    yield opened
    opened.close()


# Records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "original",
    [
        record(1),
        Record(None, ("RefusalError", "I can't"), Usage(1, 2), "m", "flex", "content_filter", None, 1.5, 3),
        Record([None, "\ud800 lone", 10**30, [1.5, True], {"ä": []}], None, Usage()),
        Record([], None, Usage()),
    ],
)
def test_a_record_comes_back_equal(original):
    ((found, payload),) = payloads_of([(key(1), sealed_record(key(1), original))])
    assert found == key(1)
    assert record_of(payload) == original


def test_fields_that_a_later_version_adds_are_passed_over():
    payload = [["bug"], None, [1, 2, 3, 4, 5], "m", None, "stop", "r", 0.5, 2]
    plain = Record(["bug"], None, Usage(1, 2, 3, 4, 5), "m", None, "stop", "r", 0.5, 2)
    assert record_of(payload) == plain
    assert record_of([*payload, True, "a new field"]) == replace(plain, batch=True)


def test_only_a_record_of_a_batch_has_the_field_that_says_so():
    fields = {}
    for batch in (False, True):
        answer = replace(record(1), batch=batch)
        ((_, payload),) = payloads_of([(key(1), sealed_record(key(1), answer))])
        assert record_of(payload) == answer
        fields[batch] = len(payload)
    assert fields == {False: 9, True: 10}, "what earlier versions wrote stays as it is"


def test_a_record_under_another_key_or_of_another_type_is_missing():
    sealed = sealed_record(key(1), record(1))
    assert payloads_of([(key(2), sealed), (key(1), 7), (key(1), b""), (key(1), sealed)]) == payloads_of(
        [(key(1), sealed)]
    )


# Answers ------------------------------------------------------------------------------------------------


def test_what_was_kept_is_known(store):
    store.keep([kept(i) for i in range(600)])
    keys = [key(i) for i in range(1000)]
    expected = {key(i): record(i) for i in range(600)}
    assert known(store, keys) == expected
    assert dict(pair for chunk in store.known(b"".join(keys)) for pair in chunk) == expected
    assert list(store.known([])) == []


def test_an_answer_stays_unless_it_is_to_be_replaced(store):
    store.keep([kept(1)])
    other = Kept(key(1), record(2), (), 1)
    store.keep([other])
    assert known(store, [key(1)]) == {key(1): record(1)}
    store.keep([other], replace=True)
    assert known(store, [key(1)]) == {key(1): record(2)}


def test_raw_replies_come_back_as_they_were(store):
    replies = (REPLY % (1, 1), b"", "ä\n".encode() * 5000)
    store.keep([kept(0), Kept(key(1), record(1), replies, 1), Kept(key(2), record(2), (), 1)])
    assert store.raw(key(0)) == (REPLY % (0, 0),)
    assert store.raw(key(1)) == replies
    assert store.raw(key(2)) == store.raw(key(3)) == ()


def test_raw_replies_of_one_server_take_a_tenth(store):
    store.keep([kept(i) for i in range(200)])
    sizes = store.read(lambda c: c.execute("SELECT length(raw) FROM requests").fetchall())
    assert sum(size for (size,) in sizes) < 0.4 * sum(len(REPLY % (i, i)) for i in range(200))


def test_damaged_raw_replies_are_none(store):
    store.keep([kept(1)])
    store.commit(lambda c: c.execute("UPDATE requests SET raw = substr(raw, 1, 9) || x'00'"))
    assert store.raw(key(1)) == ()


# Claims -------------------------------------------------------------------------------------------------


def test_each_key_is_claimed_once(store):
    store.keep([kept(0)])
    keys = [key(i) for i in range(300)]
    assert store.claim(keys, 1) == keys[1:]
    assert store.claim(keys, 2) == [], "this process asks them already, in another run perhaps"
    assert set(store.held(keys)) == set(keys[1:])


def test_released_claims_are_free_and_answered_ones_are_not(store):
    keys = [key(1), key(2)]
    store.claim(keys, 1)
    store.keep([kept(1)])
    store.release(keys)
    assert store.held(keys) == {}
    assert store.claim(keys, 2) == [key(2)]


def test_a_claim_that_this_process_gave_up_and_the_file_still_has_is_free(store):
    store.claim([key(1), key(2)], 1)
    store.disown([key(1)])  # as after a release that a full disk refused
    assert list(store.held([key(1), key(2)])) == [key(2)]
    assert store.claim([key(1), key(2)], 2) == [key(1)]
    assert list(store.held([key(1)])) == [key(1)]


def test_a_claim_left_over_in_a_table_out_of_order_makes_a_new_file(store):
    store.keep([kept(i) for i in range(500)])
    store.claim([key(1000)], 1)
    store.disown([key(1000)])
    store.close()
    content = bytearray(store.path.read_bytes())
    pages = sorted({content.index(key(i)) // 4096 * 4096 for i in range(500)})
    content[pages[-1] : pages[-1] + 4096] = content[pages[-2] : pages[-2] + 4096]
    store.path.write_bytes(content)
    with pytest.warns(LLMWarning, match="was damaged"):
        assert store.claim([key(1000)], 1) == [key(1000)]
    found = known(store, [key(i) for i in range(500)])
    assert 400 < len(found) < 500
    assert store.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [(b"ok",)]


def test_answers_to_be_replaced_may_be_claimed_and_stay_when_that_fails(store):
    store.keep([kept(1)])
    assert store.claim([key(1), key(2)], 2, replace=True) == [key(1), key(2)]
    store.release([key(1), key(2)])
    assert known(store, [key(1), key(2)]) == {key(1): record(1)}


@pytest.mark.parametrize("owner", [999, None, -4, 2**62, "x", 0.5])
def test_claims_of_owners_that_no_process_can_be_are_void(store, owner):
    store.commit(lambda c: c.execute("INSERT INTO requests(key, owner) VALUES (?, ?)", (key(1), owner)))
    assert store.held([key(1)]) == {}
    assert store.claim([key(1)], 1) == [key(1)]
    assert list(store.held([key(1)])) == [key(1)]


def test_a_process_that_slept_for_long_claims_again(tmp_path):
    clock = Clock()
    store = Store(tmp_path / "store.sqlite3", clock=clock)
    assert not store.beat_is_late(60), "it claimed nothing yet"
    store.claim([key(1), key(2)], 1)
    claimed_at = clock.now
    clock.now += 100
    store.beat()
    assert not store.beat_is_late(60, claimed_at)
    clock.now += 200
    assert store.beat_is_late(60, claimed_at)
    store.beat()
    assert store.beat_is_late(60, claimed_at), "a beat after the sleep mustn't hide it"
    assert not store.beat_is_late(60, clock.now), "claims made after it are safe"
    store.close()


def test_reclaiming_gives_what_nobody_took(store):
    keys = [key(1), key(2), key(3)]
    store.claim(keys, 1)
    store.keep([kept(1)])
    store.release([key(2)])
    assert store.claim(keys[:1], 1) == []
    assert store.reclaim(keys, 1) == [key(2), key(3)]


def test_changes_are_noticed(store):
    before = store.changed()
    assert store.changed() == before
    store.keep([kept(1)])
    assert store.changed() != before


def test_what_is_done_together_is_undone_together(store):
    def work():
        store.keep([kept(1)])
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        store.together(work)
    assert known(store, [key(1)]) == {}


# Files --------------------------------------------------------------------------------------------------


def test_the_files_are_for_this_user_only(tmp_path):
    store = open_store(tmp_path / "a" / "store.sqlite3")
    assert store.created
    store.claim([key(1)], 1)
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in store.path.parent.iterdir()} == {
        "store.sqlite3": 0o600,
        "store.sqlite3-wal": 0o600,
        "store.sqlite3-shm": 0o600,
        "store.sqlite3.lock": 0o600,
    }
    assert (
        stat.S_IMODE((tmp_path / "a").stat().st_mode)
        == stat.S_IMODE(store.path.parent.stat().st_mode)
        == 0o700
    )
    store.close()


def test_one_file_is_one_store(tmp_path):
    (tmp_path / "folder").mkdir()
    store = open_store(tmp_path / "store.sqlite3")
    assert open_store(str(tmp_path / "folder" / ".." / "store.sqlite3")) is store
    (tmp_path / "link").symlink_to(tmp_path / "store.sqlite3")
    assert open_store(tmp_path / "link") is store


def test_the_default_is_in_the_user_s_data_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_path().name == "store.sqlite3"
    assert default_path().parent.name == "pandas_llm"
    assert not default_path().exists()


def test_the_default_s_folders_are_made_however_many_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a" / "new" / "home"))
    assert open_store(default_path()).path.exists()


def test_paths_that_can_hold_no_store_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "fifo")
    for path, says in [
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "store.sqlite3", "can't be made"),
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path / "misspelt" / "folder" / "store.sqlite3", "no folder '.*misspelt'"),
        ("/proc/nothing/store.sqlite3", "can't be made"),
        ("postgresql://host/db", "not yet"),
        ("a\0b", "NUL|null"),
    ]:
        with pytest.raises(OptionsError, match=says):
            open_store(path)


def test_another_program_s_file_is_not_touched(tmp_path):
    with sqlite3.connect(tmp_path / "theirs.db") as connection:
        connection.execute("CREATE TABLE requests(key TEXT)")
    connection.close()
    (tmp_path / "data.csv").write_bytes(b"a,b\n" * 1024)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for path in before:
        with pytest.raises(OptionsError, match="another program's file"):
            open_store(path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path / "store.sqlite3").touch(0o644)
    store = open_store(tmp_path / "store.sqlite3")
    store.keep([kept(1)])
    assert known(store, [key(1)]) == {key(1): record(1)}
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_file_of_a_later_format_is_refused_by_its_writer_s_version(tmp_path):
    path = tmp_path / "store.sqlite3"
    sqlite.create(path)
    with sqlite3.connect(path) as connection:
        for name, text in ((b"format", b"2"), (b"written by", b"7.8.9")):
            connection.execute("UPDATE meta SET value = ? WHERE name = ?", (seal(name, text), name.decode()))
    connection.close()
    with pytest.raises(OptionsError, match=r"pandas_llm 7\.8\.9, in a newer format .*pip install -U"):
        open_store(path)


def test_a_removed_file_is_made_again(store):
    store.keep([kept(1)])
    store.claim([key(9)], 1)
    for path in store.path.parent.iterdir():
        path.unlink()
    assert known(store, [key(1)]) == {}
    store.keep([kept(2)])
    assert store.claim([key(9)], 1) == [key(9)]
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT count(*) FROM requests WHERE value IS NOT NULL").fetchone() == (1,)
    other.close()


def test_without_shared_memory_a_rollback_journal_serves(tmp_path):
    with pytest.warns(LLMWarning, match="network file system"):
        store = Store(tmp_path / "store.sqlite3", network=True)
    store.claim([key(1)], 1)
    store.keep([kept(1)])
    assert known(store, [key(1)]) == {key(1): record(1)}
    assert store.read(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == (b"delete",)
    store.close()


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount():
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/me/my\\040disk xfs rw 0 0\n"
    )
    assert sqlite.file_system(Path("/var/x"), mounts) == "ext4"
    assert sqlite.file_system(Path("/home/me/x"), mounts) == "nfs4"
    assert sqlite.file_system(Path("/home/me/my disk/x"), mounts) == "xfs"
    assert sqlite.file_system(Path("/homer/x"), mounts) == "ext4"


def test_a_full_disk_is_a_store_error_that_names_the_file(store):
    store.outside(lambda c: c.execute("PRAGMA max_page_count=16").fetchall())
    with pytest.raises(StoreError, match=r"store\.sqlite3 can't be written: .*full") as caught:
        store.keep([kept(i) for i in range(500)])
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert known(store, [key(1)]) == {}


def test_a_ctrl_c_at_any_line_of_a_transaction_leaves_no_lock_behind(store):
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_name not in ("_transaction", "_begin"):
            return trace if event == "call" else None
        lines += event == "line"
        if lines == strike:
            lines += 1
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    for strike in range(1, 60):
        lines = 0
        sys.settrace(trace)
        try:
            store.keep([kept(strike)])
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        with contextlib.closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
    assert strike > 15
    store.keep([kept(1000)])
    assert key(1000) in known(store, [key(1000)])


# Damage -------------------------------------------------------------------------------------------------


def test_a_damaged_answer_is_missing_and_can_be_bought_again(store):
    store.keep([kept(i) for i in range(3)])
    store.close()
    flip(store.path, b"label 1")
    assert known(store, [key(i) for i in range(3)]) == {key(0): record(0), key(2): record(2)}
    assert store.claim([key(1)], 1) == [key(1)]
    store.keep([kept(1)])
    assert known(store, [key(1)]) == {key(1): record(1)}


def test_a_damaged_file_is_moved_aside_and_what_is_whole_carried_over(store):
    run = store.start_run(verb="classify")
    store.put_fact("endpoint", "format", "json_schema")
    store.put_column("label", b"f", run=run)
    store.keep([kept(i, run) for i in range(2000)])
    store.claim([key(9999)], run)
    store.close()
    content = bytearray(store.path.read_bytes())
    page = content.rindex(b"label 1") // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    store.path.write_bytes(content)
    with pytest.warns(
        LLMWarning, match=r"was damaged. It is kept as store\.sqlite3\.damaged-\d{8}T\d{6}Z; 1,\d\d\d answers"
    ):
        found = known(store, [key(i) for i in range(2000)])
    assert 1900 < len(found) < 2000
    assert all(value == record(int(value.output[0].split()[1])) for value in found.values())
    (aside,) = store.path.parent.glob("store.sqlite3.damaged-*Z")
    assert aside.stat().st_size == len(content)
    assert store.raw(next(iter(found))) != ()
    assert store.runs()[0]["verb"] == "classify"
    assert store.fact("endpoint", "format") == "json_schema"
    assert store.column("label", b"f") == {"run": run}
    assert list(store.held([key(9999)])) == [key(9999)], "this process still asks it"
    assert store.start_run() > run


def test_a_file_without_its_first_page_loses_no_answer(store):
    run = store.start_run(verb="classify")
    store.keep([kept(i, run) for i in range(2000)])
    store.close()
    content = store.path.read_bytes()
    store.path.write_bytes(bytes(4096) + content[4096:])
    with pytest.warns(LLMWarning, match="2,000 answers whose checksum holds were carried over"):
        assert len(known(store, [key(i) for i in range(2000)])) == 2000
    assert store.runs()[0]["verb"] == "classify"
    assert store.raw(key(7)) == (REPLY % (7, 7),)
    assert not list(store.path.parent.glob("*headless*"))


def test_answers_that_nothing_leads_to_are_found_and_cleared_ones_stay_cleared(store):
    run = store.start_run()
    long = Kept(key(5000), Record(["x" * 3000], None, Usage()), (b"y" * 3000,), run)  # on several pages
    middling = Kept(key(5001), record(1), (random.Random(1).randbytes(9000),), run)  # its answer is on one
    store.keep([kept(i, run) for i in range(2000)] + [long, middling])
    cleared = sorted(key(i) for i in range(2000))[:300]
    assert store.clear(keys=cleared) == 300
    assert store.read(lambda c: c.execute("PRAGMA freelist_count").fetchone()) > (0,)
    store.close()
    content = store.path.read_bytes()
    root = 4096
    on_it = [i for i in range(2000) if key(i) in content[root : root + 4096]]
    store.path.write_bytes(content[:root] + bytes(4096) + content[root + 4096 :])
    with pytest.warns(LLMWarning, match="was damaged"):
        found = known(store, [key(i) for i in range(2000)] + [key(5000), key(5001)])
    expected = {key(i): record(i) for i in range(2000) if key(i) not in cleared and i not in on_it}
    expected[key(5001)] = record(1)
    assert {k: found[k] for k in found if k != key(5000)} == expected
    assert store.raw(key(next(i for i in range(2000) if key(i) in expected))) != ()
    assert store.raw(key(5001)) == ()


@pytest.mark.parametrize("place", [0, 18, 68, 100])
def test_a_damaged_header_is_recognised_as_ours(tmp_path, place):
    path = tmp_path / "store.sqlite3"
    first = Store(path)
    first.keep([kept(1)])
    first.close()
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        store = Store(path)
        found = known(store, [key(1)])
        store.keep([kept(1)])
    assert found in ({}, {key(1): record(1)})
    assert known(store, [key(1)]) == {key(1): record(1)}
    assert bool(said) == bool(list(tmp_path.glob("*.damaged-*")))
    store.close()


def test_of_forty_damaged_files_none_gives_a_wrong_value(tmp_path):
    whole = tmp_path / "whole.sqlite3"
    store = Store(whole)
    run = store.start_run(verb="classify", model="m")
    store.keep([kept(i, run) for i in range(ROWS)])
    store.close()
    original, lock = whole.read_bytes(), store.owners.path.read_bytes()
    lost = []
    for seed in range(40):
        path = tmp_path / f"{seed}.sqlite3"
        path.write_bytes(_damaged(original, random.Random(seed)))
        path.with_name(f"{path.name}.lock").write_bytes(lock)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LLMWarning)
            lost.append(_lost_and_bought_again(Store(path), run))
    assert 0 < sum(lost) < 40 * ROWS / 2


def _lost_and_bought_again(store: Store, run: int) -> int:
    keys = [key(i) for i in range(ROWS)]
    first = None
    # What is inserted splits pages: that can hide an answer behind a damaged key, or show one again.
    for _ in range(6):
        found = known(store, keys)
        found |= known(store, [k for k in keys if k not in found])  # as who waits for them looks again
        assert all(found[k] == record(i) for i, k in enumerate(keys) if k in found), store.path
        assert all(store.raw(k) in ((), (REPLY % (i, i),)) for i, k in enumerate(keys)), store.path
        missing = {k: i for i, k in enumerate(keys) if k not in found}
        first = len(missing) if first is None else first
        if not missing:
            break
        store.keep([kept(missing[k], run) for k in store.claim(list(missing), run)])
        store.runs()
    assert not missing, store.path
    store.close()
    return first


def _damaged(content: bytes, dice: random.Random) -> bytes:
    image = bytearray(content)
    pages = len(image) // 4096
    kind = dice.randrange(4)
    if kind == 0:  # zeroed page
        page = dice.randrange(pages) * 4096
        image[page : page + 4096] = bytes(4096)
    elif kind == 1:  # a page in another's place
        source, target = (dice.randrange(1, pages) * 4096 for _ in range(2))
        image[target : target + 4096] = content[source : source + 4096]
    else:
        for _ in range(dice.randint(1, 30)):
            image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
    return bytes(image)


# Ledger -------------------------------------------------------------------------------------------------


def test_runs_are_numbered_and_told_in_order(store):
    first = store.start_run(verb="classify", status="running", cost=float("nan"))
    second = store.start_run(verb="extract")
    store.end_run(first, status="done", rows=3)
    assert first < second
    runs = store.runs()
    assert [run["id"] for run in runs] == [first, second]
    assert (runs[0]["verb"], runs[0]["status"], runs[0]["rows"]) == ("classify", "done", 3)
    assert runs[0]["cost"] != runs[0]["cost"], "an unknown price stays unknown"


def test_a_run_whose_process_died_was_killed(store):
    run = store.start_run(status="running")
    assert store.runs()[0]["status"] == "running"
    store.commit(lambda c: c.execute("UPDATE runs SET owner = 12345 WHERE id = ?", (run,)))
    assert store.runs()[0]["status"] == "killed"


def test_questions_columns_and_facts_come_back(store):
    store.put_question("q1", {"verb": "classify", "schema": {"b": 1, "a": 2}})
    assert store.question("q1") == {"verb": "classify", "schema": {"b": 1, "a": 2}}
    assert list(store.question("q1")["schema"]) == ["b", "a"]
    assert store.question("q2") is None
    for fingerprint in (b"1", b"2", b"1"):
        store.put_column("label", fingerprint, run=1, sides=["label_error"])
    assert [column["fingerprint"] for column in store.columns("label")] == [b"1", b"2"]
    assert store.column("label", b"2") == {"run": 1, "sides": ["label_error"]}
    assert store.column("label", b"3") is None
    assert store.fact("e", "format") is None
    store.put_fact("e", "format", "json_object")
    store.put_fact("e", "format", "text")
    assert store.fact("e", "format") == "text"


def test_the_figures_of_a_store(store):
    run = store.start_run(model="luna")
    failure = Record(None, ("RefusalError", "no"), Usage())
    store.keep([kept(1, run), kept(2, 77), Kept(key(3), failure, (), run)])
    store.claim([key(4)], run)
    info = store.info()
    assert (info["answers"], info["failures"], info["sent"], info["runs"]) == (2, 1, 1, 1)
    assert info["models"] == {"luna": 1, "unknown": 1}
    assert info["path"] == str(store.path)
    assert info["bytes"] > 0
    assert info["oldest"] <= info["newest"]


def test_answers_are_cleared_by_what_is_said_of_them(tmp_path):
    clock = Clock()
    store = Store(tmp_path / "store.sqlite3", clock=clock)
    old, new = store.start_run(model="a"), store.start_run(model="b")
    store.keep([kept(i, old) for i in range(10)])
    clock.now += 1000
    store.keep([kept(i, new) for i in range(10, 20)])
    assert store.clear(run=old, model="b") == 0
    assert store.clear(keys=[key(0), key(1), key(99)]) == 2
    assert store.clear(older_than=500, keys=key(2)) == 1
    assert store.clear(older_than=500) == 7
    assert store.clear(model="b", run=new) == 10
    store.close()


def test_clearing_everything_leaves_fingerprints_and_what_is_being_asked(store):
    store.put_question("q", {})
    store.put_fact("e", "format", "text")
    store.put_column("label", b"f", run=1)
    store.start_run(status="done")
    going_on = store.start_run(status="running")
    store.keep([kept(i) for i in range(500)])
    store.claim([key(1000)], going_on)
    size = store.info()["bytes"]
    assert store.clear() == 500
    assert store.question("q") is store.fact("e", "format") is None
    assert store.column("label", b"f") == {"run": 1}
    assert [run["id"] for run in store.runs()] == [going_on]
    assert list(store.held([key(1000)])) == [key(1000)]
    assert store.info()["bytes"] < size / 2
    store.keep([kept(1)])
    assert store.raw(key(1)) == (REPLY % (1, 1),)


# Journal ------------------------------------------------------------------------------------------------


def test_an_answer_is_in_the_file_before_it_is_told(store):
    seen = []

    async def main():
        other = sqlite3.connect(store.path)
        query = "SELECT count(*) FROM requests WHERE key = ? AND value IS NOT NULL"
        async with Journal(store, 1) as journal:
            for i in range(50):
                journal.keep(
                    [kept(i)], lambda i=i: seen.append((i, other.execute(query, (key(i),)).fetchone()[0]))
                )
                await asyncio.sleep(0)
            await journal.drain()
            assert len(seen) == 50
        other.close()

    asyncio.run(main())
    assert seen == [(i, 1) for i in range(50)]


def test_a_commit_takes_what_gathered_during_the_last_one(store):
    async def main():
        async with Journal(store, 1) as journal:
            for i in range(2000):
                journal.keep([kept(i)], int)
                if i % 10 == 0:
                    await asyncio.sleep(0)
            await journal.slack(100)
            assert journal.unsaved < 100
            await journal.drain()
            assert journal.unsaved == 0

    asyncio.run(main())
    (commits,) = store.read(lambda c: c.execute("SELECT count(DISTINCT at) FROM requests").fetchone())
    assert commits < 500
    assert len(known(store, [key(i) for i in range(2000)])) == 2000


def test_closing_a_journal_gives_back_its_claims_and_ends_its_thread(store):
    async def main():
        journal = Journal(store, 1)
        keys = [key(i) for i in range(5)]
        assert await journal.claim(keys) == keys
        assert not journal.is_late(keys[0])
        journal.keep([kept(0)], int)
        journal.release(keys[1:2])
        assert await journal.reclaim(keys[2:3]) == keys[2:3]
        assert set(store.held(keys)) == set(keys[2:])
        await journal.close()
        await journal.close()
        assert store.held(keys) == {}
        assert set(known(store, keys)) == {key(0)}
        with pytest.raises(StoreError, match="closed"):
            journal.keep([kept(9)], int)

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if "journal" in thread.name]


def test_an_abandoned_journal_gives_back_its_claims(store):
    async def main():
        journal = Journal(store, 1)
        await journal.claim([key(1)])
        journal.keep([kept(2)], int)

    asyncio.run(main())
    for thread in threading.enumerate():
        if "journal" in thread.name:
            thread.join(5)
    assert store.held([key(1)]) == {}
    assert set(known(store, [key(2)])) == {key(2)}


def test_a_journal_whose_loop_was_closed_is_abandoned_with_all_it_was_given(store):
    loop = asyncio.new_event_loop()
    journal = Journal(store, 1)
    loop.run_until_complete(journal.claim([key(1), key(2)]))
    loop.run_until_complete(_keeping(journal, kept(2)))
    loop.close()
    held = store.claim([key(7)], 1)
    journal.abandon()
    journal.abandon()
    journal.release([key(1)])  # as what is left of the run does when it is collected
    assert store.held([key(1), key(2), key(7)]) == dict.fromkeys(held, 1), "another run's claim stays"
    assert set(known(store, [key(1), key(2)])) == {key(2)}
    assert not [thread for thread in threading.enumerate() if "journal" in thread.name]
    with pytest.raises(StoreError, match="closed"):
        asyncio.run(journal.claim([key(1)]))


async def _keeping(journal, answer):
    journal.keep([answer], int)


def test_a_closed_loop_is_free_to_go_though_its_journal_was_never_closed(store):
    loop = asyncio.new_event_loop()
    journal = Journal(store, 1)
    loop.run_until_complete(journal.claim([key(1)]))
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    journal.abandon()


def test_replies_that_come_at_once_are_all_counted_before_a_request_leaves(store):
    async def main():
        async with Journal(store, 1) as journal:
            asyncio.get_running_loop().call_soon(lambda: [journal.keep([kept(i)], int) for i in range(9)])
            waiting = asyncio.ensure_future(journal.slack(2))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (journal.unsaved, waiting.done()) == (9, False)
            await waiting
            assert journal.unsaved < 2

    asyncio.run(main())


def test_a_cancelled_caller_loses_no_answer_and_leaves_no_claim(store):
    async def main():
        async with Journal(store, 1) as journal:
            started = asyncio.Event()

            async def work():
                for i in range(100):
                    journal.keep([kept(i)], int)
                started.set()
                await journal.claim([key(500)])
                await journal.slack(1)
                await journal.claim([key(501)])

            task = asyncio.create_task(work())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await journal.drain()
            await journal.drain()
            assert set(store.held([key(500)])) <= {key(500)}

    asyncio.run(main())
    assert len(known(store, [key(i) for i in range(100)])) == 100
    assert store.held([key(500), key(501)]) == {}


def test_a_broken_store_is_told_to_all_who_wait_and_tried_once_more_at_the_end(store):
    told = []

    async def main():
        store.outside(lambda c: c.execute("PRAGMA max_page_count=16").fetchall())
        journal = Journal(store, 1)
        for i in range(500):
            journal.keep([kept(i)], lambda i=i: told.append(i))
        waiting = [journal.drain(), journal.slack(10), journal.claim([key(i) for i in range(1000, 2000)])]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
        assert "full" in str(journal.broken)
        assert told == []
        store.outside(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchall())
        await journal.close()
        assert journal.unsaved == 0

    asyncio.run(main())
    assert sorted(told) == list(range(500))
    assert len(known(store, [key(i) for i in range(500)])) == 500


def test_an_answer_that_can_not_be_saved_is_an_error_at_the_end(store):
    async def main():
        store.outside(lambda c: c.execute("PRAGMA max_page_count=16").fetchall())
        async with Journal(store, 1) as journal:
            for i in range(500):
                journal.keep([kept(i)], int)

    with pytest.raises(StoreError, match="full"):
        asyncio.run(main())
    store.outside(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchall())


def test_without_a_store_everything_may_be_asked_and_is_told():
    told = []

    async def main():
        async with NoJournal() as journal:
            assert await journal.claim([key(1)]) == await journal.reclaim([key(1)]) == [key(1)]
            journal.keep([kept(1)], lambda: told.append(1))
            assert told == [], "as with a journal, never inside the call"
            await journal.slack(1)
            await journal.drain()
            journal.release([key(1)])
            assert not journal.is_late(key(1))

    asyncio.run(main())
    assert told == [1]


@pytest.mark.parametrize(("nothing", "real"), [(NoStore, Store), (NoJournal, Journal)])
def test_what_stands_in_has_the_signatures_of_the_real_one(nothing, real):
    names = [
        name
        for name, found in vars(nothing).items()
        if inspect.isfunction(found) and not name.startswith("__")
    ]
    assert len(names) >= 7
    for name in names:
        ours, theirs = (
            inspect.signature(getattr(c, name)).replace(return_annotation=None) for c in (nothing, real)
        )
        assert ours == theirs, name
