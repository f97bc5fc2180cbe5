"""The store between real processes: claims, kill -9, hung owners, two writers, forks, mending."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fakes.stopwatch import within

from pandas_llm.core.types import Record, Usage
from pandas_llm.io.store import Kept, Store, open_store

PREAMBLE = """
import hashlib, os, sys, time, warnings
from pandas_llm.core.types import Record, Usage
from pandas_llm.io.store import Kept, open_store
def key(i): return hashlib.blake2b(b"%d" % i, digest_size=16).digest()
def kept(i): return Kept(key(i), Record([f"label {i}"], None, Usage(1, 2)), (b"reply %d" % i,), 1)
def say(*words): print(*words, flush=True)
path = sys.argv[1]
"""


def key(i: int) -> bytes:
    return hashlib.blake2b(b"%d" % i, digest_size=16).digest()


def kept(i: int) -> Kept:
    return Kept(key(i), Record([f"label {i}"], None, Usage(1, 2)), (b"reply %d" % i,), 1)


def known(store: Store, numbers: range) -> int:
    return sum(len(chunk) for chunk in store.known_payloads([key(i) for i in numbers]))


@contextlib.contextmanager
def process(path: Path, script: str):
    """Another Python that runs a script, its lines on `.stdout`."""
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ended(child) -> str:
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    return out


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path):
    opened = open_store(path)
    yield opened
    opened.close()


CLAIMS = """
store = open_store(path)
store.claim([key(i) for i in range(100)], 1)
say("claimed")
say(sys.stdin.readline() and len(store.reclaim([key(i) for i in range(100)], 1)))
"""


def test_two_processes_claim_each_key_once(path):
    script = """
store = open_store(path)
say("ready"); sys.stdin.readline()
for start in range(0, 2000, 50):
    for k in store.claim([key(i) for i in range(start, start + 50)], 1): say(k.hex())
say("done"); sys.stdin.readline()
"""
    with process(path, script) as one, process(path, script) as two:
        for child in (one, two):
            assert child.stdout.readline() == "ready\n"
        for child in (one, two):
            child.stdin.write("go\n")
            child.stdin.flush()
        claimed = [list(iter(child.stdout.readline, "done\n")) for child in (one, two)]
    assert len(claimed[0]) + len(claimed[1]) == 2000
    assert {line.strip() for lines in claimed for line in lines} == {key(i).hex() for i in range(2000)}


def test_kill_9_voids_claims_at_once(path, store):
    keys = [key(i) for i in range(100)]
    with process(path, CLAIMS) as child:
        assert child.stdout.readline() == "claimed\n"
        assert store.claim(keys, 2) == []
        assert set(store.held(keys)) == set(keys)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert store.held(keys) == {}
        assert store.claim(keys, 2) == keys


def test_a_fork_that_outlives_its_parent_keeps_no_claims(path, store):
    script = """
store = open_store(path)
store.claim([key(1)], 1)
if os.fork() == 0:
    time.sleep(60)
say("forked"); sys.stdin.readline()
"""
    with process(path, script) as child:
        assert child.stdout.readline() == "forked\n"
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        try:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            assert store.claim([key(1)], 2) == [key(1)]
        finally:
            for pid in children:
                os.kill(int(pid), signal.SIGKILL)


def test_claims_of_a_hung_process_are_taken_and_it_notices(path, store):
    keys = [key(i) for i in range(100)]
    with process(path, CLAIMS) as child:
        assert child.stdout.readline() == "claimed\n"
        child.send_signal(signal.SIGSTOP)
        store.commit(lambda c: c.execute("UPDATE owners SET at = at - 1000"))
        assert store.claim(keys[:30], 2, timeout=600) == []
        assert store.claim(keys[:30], 2, timeout=400) == keys[:30]
        child.send_signal(signal.SIGCONT)
        out, err = child.communicate("go\n", timeout=30)
        assert out == "70\n", err


def test_two_processes_write_two_thousand_rows_each_and_nobody_is_locked_out(path, store):
    script = """
store = open_store(path)
first = int(sys.stdin.readline())
for start in range(first, first + 2000, 8):
    block = list(range(start, start + 8))
    assert len(store.claim([key(i) for i in block], 1)) == 8
    store.keep([kept(i) for i in block])
"""
    with process(path, script) as one, process(path, script) as two:
        for child, first in ((one, "0\n"), (two, "2000\n")):
            child.stdin.write(first)
            child.stdin.flush()
        ended(one), ended(two)
    assert known(store, range(4000)) == 4000
    assert store.read(lambda c: c.execute("PRAGMA integrity_check").fetchall()) == [(b"ok",)]


def test_processes_that_open_a_new_file_together_share_it(path):
    script = """
store = open_store(path)
store.keep([kept(os.getpid())])
say(store.created, os.getpid()); sys.stdin.readline()
"""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(path, script)) for _ in range(4)]
        lines = [child.stdout.readline().split() for child in children]
    assert sorted(created for created, _ in lines) == ["False", "False", "False", "True"]
    store = Store(path)
    assert sum(known(store, range(int(pid), int(pid) + 1)) for _, pid in lines) == 4
    store.close()


def test_two_processes_that_meet_a_damaged_file_mend_it_once(path):
    whole = Store(path)
    whole.keep([kept(i) for i in range(3000)])
    whole.close()
    content = bytearray(path.read_bytes())
    page = content.rindex(b"label 7") // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)
    script = """
warnings.simplefilter("ignore")
store = open_store(path)
say("ready"); sys.stdin.readline()
found = sum(len(c) for c in store.known_payloads([key(i) for i in range(3000)]))
store.keep([kept(os.getpid() + 10_000)])
say(found, os.getpid() + 10_000)
"""
    with process(path, script) as one, process(path, script) as two:
        for child in (one, two):
            assert child.stdout.readline() == "ready\n"
        for child in (one, two):
            child.stdin.write("go\n")
            child.stdin.flush()
        outcomes = [ended(child).split() for child in (one, two)]
    assert len([p for p in path.parent.glob("*.damaged-*") if not p.name.endswith(("-wal", "-shm"))]) == 1
    assert all(2900 < int(found) < 3000 for found, _ in outcomes)
    store = Store(path)
    assert all(known(store, range(int(n), int(n) + 1)) == 1 for _, n in outcomes)
    store.close()


def test_a_file_replaced_by_another_process_is_followed_and_its_wal_left_alone(path, store):
    store.keep([kept(1)])
    store.claim([key(5)], 1)
    with process(
        path, "store = open_store(path); store.keep([kept(2)]); say('kept'); sys.stdin.readline()"
    ) as child:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).rename(path.with_name("old" + suffix))
        assert child.stdout.readline() == "kept\n"
        store.keep([kept(3)])  # closes the old file while the child has the new one open
        assert known(store, range(1, 4)) == 2
        other = sqlite3.connect(path)
        assert other.execute("SELECT count(*) FROM requests WHERE value IS NOT NULL").fetchone() == (2,)
        other.close()


def test_a_forked_child_and_its_parent_both_write(path, store):
    script = """
store = open_store(path)
store.keep([kept(1)]); store.claim([key(9)], 1)
pid = os.fork()
if pid == 0:
    mine = open_store(path)
    assert mine is not store
    assert mine.claim([key(9)], 1) == [], "the parent asks it"
    for i in range(100, 300): mine.keep([kept(i)])
    os._exit(0)
for i in range(300, 500): store.keep([kept(i)])
assert os.waitpid(pid, 0)[1] == 0
assert list(store.held([key(9)])) == [key(9)]
say("done")
"""
    with process(path, script) as child:
        assert ended(child) == "done\n"
    assert known(store, range(500)) == 401


def test_a_killed_writer_loses_nothing_that_was_committed(path, store):
    script = """
store = open_store(path)
for i in range(100_000):
    store.keep([kept(i)])
    say(i)
"""
    with process(path, script) as child:
        for _ in range(200):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
    committed = 200 + len([number for number in rest if number.isdigit()]) - 1
    assert known(store, range(committed)) == committed


def test_at_its_end_a_process_leaves_one_whole_file(path):
    with process(path, "open_store(path).keep([kept(1)])") as child:
        ended(child)
    assert {p.name for p in path.parent.iterdir()} == {"store.sqlite3", "store.sqlite3.lock"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}


def test_a_ctrl_c_while_the_interpreter_closes_the_store_is_quiet(path):
    script = """
import signal
store = open_store(path)
store.keep([kept(1)])
close = store.close
def close_when_struck():
    os.kill(os.getpid(), signal.SIGINT)
    close()
store.close = close_when_struck
"""
    with process(path, script) as child:
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (0, "", "")
    assert {p.name for p in path.parent.iterdir()} == {"store.sqlite3", "store.sqlite3.lock"}


def test_what_this_user_may_not_write_is_refused():
    script = """
from pandas_llm.core.errors import OptionsError
if os.getuid() == 0: os.setuid(65534)
for name in ("readonly.sqlite3", "locked/store.sqlite3"):
    try: open_store(os.path.join(path, name))
    except OptionsError as error: say(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        Path(folder, "readonly.sqlite3").touch(0o444)
        Path(folder, "locked").mkdir(0o555)
        with process(Path(folder), script) as child:
            out = ended(child)
        assert out.count("can't be written to") == 2, out
        assert [p.name for p in Path(folder, "locked").iterdir()] == []
        Path(folder, "locked").chmod(0o755)


def test_two_hundred_thousand_answers_are_looked_up_in_seconds_of_cpu(path, store):
    keys = sorted(key(i) for i in range(200_000))
    answer = Record(["bug"], None, Usage(120, 7), "gpt-6-luna", "default", "stop", "chatcmpl-1", 0.3, 1)
    for start in range(0, len(keys), 2048):
        store.keep([Kept(k, answer, (), 1) for k in keys[start : start + 2048]])
    joined = b"".join(key(i) for i in range(200_000))
    before = time.process_time()
    found = sum(len(chunk) for chunk in store.known_payloads(joined))
    seconds = time.process_time() - before
    assert found == 200_000
    within(seconds, 2, "0.6 s on a quiet machine")
