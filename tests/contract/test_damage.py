"""The whole library over a damaged store: no wrong value, no crash, and what is whole isn't paid again."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import children
from fakes.children import until
from fakes.openai_server import FakeOpenAI
from fakes.stopwatch import on_time

import pandas_llm
from pandas_llm.errors import LLMWarning, OptionsError, StoreError
from pandas_llm.io.records import seal
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

    def records(self) -> list[bytes]:
        """Each answer as its bytes lie in the file: its key, then its value."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "store.sqlite3")
            self.put(path)
            connection = sqlite3.connect(path)
            found = connection.execute("SELECT CAST(key || value AS BLOB) FROM requests").fetchall()
            connection.close()
        return [record for (record,) in found]

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
    connection.execute("PRAGMA wal_checkpoint").fetchall()
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


def lost_by(server: FakeOpenAI, store: Path, *, again: int = 0) -> int:
    """How many answers a damaged store has lost; it comes to rest with at most `again` more paid for."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = said(rows())
        lost = assert_right(out, server)
        for _ in range(6):
            at_rest = said(rows())
            assert list(at_rest["said"].str.split(": ").str[1]) == list(out["body"])
            if set(at_rest["said_source"]) == {"cache"}:
                break
    assert set(at_rest["said_source"]) == {"cache"}
    assert server.bill.completions <= lost + again
    assert {each.category for each in warned} <= {LLMWarning}
    asides = [path for path in store.parent.glob("*.damaged-*") if path.name.endswith("Z")]
    told = [str(each.message) for each in warned if "was damaged" in str(each.message)]
    assert len(told) == len(asides), "what is moved aside is told, and kept"
    if asides:
        assert_sound(store)
    return lost


def assert_sound(store: Path) -> None:
    open_store(store).close()
    connection = sqlite3.connect(store)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def warned_of(server: FakeOpenAI, **options: Any) -> tuple[pd.DataFrame, list[str]]:
    """A call's frame, and what it warned of."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = said(rows(), **options)
    return out, [str(each.message) for each in warned]


# A file that lay there ------------------------------------------------------------------------------------


def cut_in_half(content: bytes, dice: random.Random) -> bytes:
    return content[: len(content) // PAGE // 2 * PAGE]


def cut_within_a_page(content: bytes, dice: random.Random) -> bytes:
    return content[: len(content) * 3 // 4 // PAGE * PAGE + dice.randrange(1, PAGE)]


def with_a_zeroed_header(content: bytes, dice: random.Random) -> bytes:
    return bytes(100) + content[100:]


def with_a_zeroed_first_page(content: bytes, dice: random.Random) -> bytes:
    return bytes(PAGE) + content[PAGE:]


def with_a_zeroed_page(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(2, len(content) // PAGE) * PAGE
    return content[:at] + bytes(PAGE) + content[at + PAGE :]


def with_a_zeroed_root(content: bytes, dice: random.Random) -> bytes:
    return content[:PAGE] + bytes(PAGE) + content[2 * PAGE :]


def zeroed(content: bytes, dice: random.Random) -> bytes:
    return bytes(len(content))


def with_a_page_in_another_s_place(content: bytes, dice: random.Random) -> bytes:
    source, target = (dice.randrange(2, len(content) // PAGE) * PAGE for _ in range(2))
    return content[:target] + content[source : source + PAGE] + content[target + PAGE :]


def with_other_digits(content: bytes, dice: random.Random) -> bytes:
    return content.replace(b"first: row 7", b"first: row 8")


def with_one_flipped_bit(content: bytes, dice: random.Random) -> bytes:
    image = bytearray(content)
    image[dice.randrange(2 * PAGE, len(image))] ^= 1 << dice.randrange(8)
    return bytes(image)


def with_thirty_flipped_bits(content: bytes, dice: random.Random) -> bytes:
    image = bytearray(content)
    for _ in range(30):
        image[dice.randrange(len(image))] ^= 1 << dice.randrange(8)
    return bytes(image)


LEAF = 30  # answers on one page, at most
DAMAGE = [
    # What is done to the file, with how many seeds; how many answers that are whole may be out of reach, and
    # how many may be paid a third time: what is inserted beside a damaged key or page can be hidden by it.
    (cut_in_half, 1, 0, 0),
    (cut_within_a_page, 2, LEAF, 0),
    (with_a_zeroed_header, 1, 0, 0),
    (with_a_zeroed_first_page, 1, 0, 0),
    (with_a_zeroed_page, 6, 0, 0),
    (with_a_zeroed_root, 1, 0, 0),
    (zeroed, 1, 0, 0),
    (with_other_digits, 1, 0, 0),
    (with_a_page_in_another_s_place, 6, LEAF, N),
    (with_one_flipped_bit, 12, LEAF, LEAF),
    (with_thirty_flipped_bits, 8, 4 * LEAF, N),
]


@pytest.mark.parametrize(
    ("damage", "seed", "unreachable", "again"),
    [
        pytest.param(damage, seed, unreachable, again, id=f"{damage.__name__}-{seed}")
        for damage, seeds, unreachable, again in DAMAGE
        for seed in range(seeds)
    ],
)
def test_a_damaged_file_gives_no_wrong_value_and_what_is_whole_is_not_paid_again(
    server: FakeOpenAI,
    closed_files: Files,
    own_settings: Path,
    damage: Callable[[bytes, random.Random], bytes],
    seed: int,
    unreachable: int,
    again: int,
) -> None:
    image = damage(closed_files.contents[""], random.Random(seed))
    whole = sum(record in image for record in closed_files.records())
    closed_files.put(own_settings, file=image)
    lost = lost_by(server, own_settings, again=again)
    assert lost <= N - whole + unreachable


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_wal_loses_no_more_than_it_held(
    server: FakeOpenAI, open_files: Files, own_settings: Path, seed: int
) -> None:
    dice = random.Random(seed)
    wal = open_files.contents["-wal"]
    damage = (cut_within_a_page, with_one_flipped_bit, with_a_zeroed_page, with_thirty_flipped_bits)[seed]
    # In its second half: SQLite reads a WAL up to the first bad frame, and one at its head hides all of it.
    half = len(wal) // 2
    open_files.put(own_settings, wal=wal[:half] + damage(wal[half:], dice))
    assert lost_by(server, own_settings) < N


def test_without_its_wal_a_file_has_what_was_moved_into_it(
    server: FakeOpenAI, open_files: Files, own_settings: Path
) -> None:
    open_files.put(own_settings, wal=None)
    lost_by(server, own_settings)


@pytest.mark.parametrize("shm", [None, b"", bytes(32_768), b"\xff" * 32_768], ids=["no", "empty", "0", "1"])
def test_the_shm_file_holds_nothing_that_could_be_lost(
    server: FakeOpenAI, open_files: Files, own_settings: Path, shm: bytes | None
) -> None:
    open_files.put(own_settings, shm=shm)
    assert lost_by(server, own_settings) == 0


def test_a_lost_lock_file_loses_nothing(server: FakeOpenAI, open_files: Files, own_settings: Path) -> None:
    open_files.put(own_settings)
    own_settings.with_name(f"{own_settings.name}.lock").unlink()
    assert lost_by(server, own_settings) == 0


# A file that isn't ours -----------------------------------------------------------------------------------


def foreign_database(path: Path, files: Files) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE requests(key BLOB PRIMARY KEY, value BLOB)")
    connection.commit()
    connection.close()


def text_file(path: Path, files: Files) -> None:
    path.write_text("id,body\n1,where is my invoice\n")


def picture(path: Path, files: Files) -> None:
    path.write_bytes(b"\x89PNG" + random.Random(1).randbytes(3 * PAGE - 4))


def of_a_later_format(path: Path, files: Files) -> None:
    files.put(path)
    _set_format(path, 2)


def _set_format(path: Path, number: int) -> None:
    connection = sqlite3.connect(path)
    sealed = seal(b"format", str(number).encode())
    connection.execute("UPDATE meta SET value = ? WHERE name = 'format'", (sealed,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("make", [foreign_database, text_file, picture, of_a_later_format])
def test_a_file_that_is_not_ours_costs_nothing_and_stays_as_it_is(
    server: FakeOpenAI, closed_files: Files, own_settings: Path, make: Callable[[Path, Files], None]
) -> None:
    make(own_settings, closed_files)
    before = own_settings.read_bytes()
    with pytest.raises(OptionsError, match=r"store\.sqlite3.*(another program's file|newer format)"):
        said(rows())
    assert own_settings.read_bytes() == before
    assert server.requests == []


def test_a_file_of_an_earlier_format_is_read(
    server: FakeOpenAI, closed_files: Files, own_settings: Path
) -> None:
    closed_files.put(own_settings)
    _set_format(own_settings, 0)
    assert lost_by(server, own_settings) == 0


# While it runs --------------------------------------------------------------------------------------------


class Moment:
    """Does something to the store at one request in the middle of a run, on the server's side."""

    def __init__(self, server: FakeOpenAI, at: int, deed: Callable[[], object]) -> None:
        self.paid = 0
        """Replies that had been billed by then."""

        def answer(text: str, body: Any) -> str:
            if text == f"row {at}":
                self.paid = server.bill.completions
                deed()
            return f"later: {text}"

        server.answer = answer


@pytest.mark.parametrize("ends", [("",), ("", "-wal", "-shm"), ("", "-wal", "-shm", ".lock")])
def test_a_store_removed_while_a_run_goes_on_keeps_what_comes_after(
    server: FakeOpenAI, own_settings: Path, ends: tuple[str, ...]
) -> None:
    server.latency = 0.005
    moment = Moment(server, 200, lambda: [Path(f"{own_settings}{end}").unlink() for end in ends])
    out, told = warned_of(server)
    assert_right(out, server)
    assert server.bill.completions == N
    assert told == []
    # A call of another process would read this file.
    again = said(rows())
    assert 0 < (again["said_source"] == "api").sum() <= moment.paid
    assert set(again["said_source"][220:]) == {"cache"}
    assert_sound(own_settings)


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_a_companion_removed_while_a_run_goes_on_costs_no_answer(
    server: FakeOpenAI, own_settings: Path, end: str
) -> None:
    server.latency = 0.005
    Moment(server, 200, Path(f"{own_settings}{end}").unlink)
    out, _ = warned_of(server)
    assert_right(out, server)
    assert server.bill.completions == N
    again, _ = warned_of(server)
    assert list(again["said"]) == list(out["said"])
    assert_sound(own_settings)


def test_a_folder_in_the_store_s_place_ends_the_run_with_one_error(
    server: FakeOpenAI, own_settings: Path
) -> None:
    server.latency = 0.01

    def replace() -> None:
        own_settings.unlink()
        own_settings.mkdir()

    moment = Moment(server, 200, replace)
    with pytest.raises(StoreError, match=r"store\.sqlite3 can't be written: .*directory") as caught:
        said(rows())
    frame = caught.value.frame
    assert frame["said"].notna().sum() == server.bill.completions
    # It is noticed at the next commit: those that were sent until then came back, too.
    assert server.bill.completions <= moment.paid + PLACES + IN_DANGER


SPOIL = """
import sqlite3
say(ready=True)
while not os.path.exists({store!r} + ".go"):
    time.sleep(0.002)
other = sqlite3.connect({store!r}, timeout=10, isolation_level=None)
other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
file = os.open({store!r}, os.O_RDWR)
half = os.path.getsize({store!r}) // 8192 * 4096
os.pwrite(file, bytes(half), half)
other.execute("PRAGMA user_version=1")  # from now on nobody trusts what he has in memory
os._exit(0)
"""


def test_a_damaged_page_met_in_the_middle_of_a_run_is_mended_there(
    server: FakeOpenAI, closed_files: Files, own_settings: Path, tmp_path: Path
) -> None:
    closed_files.put(own_settings)
    server.latency = 0.02
    child = children.start(SPOIL.format(store=str(own_settings)), tmp_path / "child")
    until(lambda: child.said.get("ready"), why=lambda: child.stderr)
    Moment(server, 600, Path(f"{own_settings}.go").touch)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = said(rows(1000))
    assert child.wait() == 0, child.stderr
    assert_right(out, server)
    assert ["was damaged" in str(each.message) for each in warned] == [True]
    assert Counter(out["said_source"]) == {"cache": N, "api": 1000 - N}
    again, told = warned_of(server)
    assert told == []
    assert list(again["said"].str.split(": ").str[1]) == list(again["body"])
    assert_sound(own_settings)


# A place that takes nothing -------------------------------------------------------------------------------

READ_ONLY = """
folder = {folder!r}
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write anywhere
for name in ("file/store.sqlite3", "folder/store.sqlite3", "none/store.sqlite3"):
    try:
        tickets(3).llm.classify("body", LABELS, cache=os.path.join(folder, name), progress=False)
    except Exception as error:
        say(**{{name: f"{{type(error).__name__}}: {{error}}"}})
"""


def test_a_read_only_store_or_folder_is_refused_before_anything_is_paid(
    server: FakeOpenAI, closed_files: Files, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("file", "folder", "none"):
            (folder / each).mkdir(0o755)
        for each in ("file", "folder"):
            closed_files.put(folder / each / "store.sqlite3")
        for path in (folder / "file").iterdir():
            path.chmod(0o444)
        (folder / "file").chmod(0o777)
        for path in (folder / "folder").iterdir():
            path.chmod(0o666)
        (folder / "folder").chmod(0o555)
        (folder / "none").chmod(0o555)
        child = children.start(READ_ONLY.format(folder=name), tmp_path / "child")
        assert child.wait() == 0, child.stderr
        (folder / "folder").chmod(0o755)
        (folder / "none").chmod(0o755)
    assert len(child.said) == 3
    for store, error in child.said.items():
        assert error.startswith("OptionsError: "), error
        assert store in error
        assert "can't be written to" in error
    assert server.requests == []


FULL = """
frame = pd.DataFrame({{"body": [f"row {{i}}" for i in range(1200)]}})
options = dict(output="said", max_concurrency=16, progress=False, cache={store!r})
try:
    out = frame.llm.generate("body", "Repeat it.", **options)
    say(sources=dict(out["said_source"].value_counts().astype(object)))
except StoreError as error:
    out, said = error.frame, error.frame["said"].dropna()
    say(error=str(error), answered=len(said), right=int((said == "later: " + out["body"][said.index]).sum()))
    say(pending=int(out["said_error"].str.contains("Pending: StoreError: .* is full").sum()))
"""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 400 KB."""
    with tempfile.TemporaryDirectory() as name:
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", name]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk; test_resume has one of RLIMIT_FSIZE")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def test_a_disk_that_fills_up_ends_the_run_with_one_error_before_more_is_paid(
    server: FakeOpenAI, tmp_path: Path, small_disk: Path
) -> None:
    server.latency = 0.01
    store = small_disk / "store.sqlite3"
    script = FULL.format(store=str(store))
    child = children.start(script, tmp_path / "full")
    assert child.wait() == 0, child.stderr
    assert child.stderr == "", "one error, and no thread's"
    said, paid = child.said, server.bill.completions
    assert said["error"].startswith(f"The store {store} can't be written: ")
    assert "full" in said["error"]
    assert said["pending"] == 1200 - paid
    assert said["answered"] == said["right"] == paid < 1200, "every answer that was paid for is on the frame"
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    server.latency = 0.0
    child = children.start(script, tmp_path / "again")
    assert child.wait() == 0, child.stderr
    kept = child.said["sources"]["cache"]
    assert paid - kept <= IN_DANGER
    on_time(paid > kept, "the disk was full at a moment when all that was paid for was saved")
    assert server.bill.completions == 1200 + paid - kept


def test_with_a_rollback_journal_all_goes_as_with_a_wal(server: FakeOpenAI, own_settings: Path) -> None:
    with pytest.warns(LLMWarning, match="network file system"):
        store = open_store(own_settings, network=True)
    out = said(rows())
    assert_right(out, server)
    assert not own_settings.with_name(f"{own_settings.name}-wal").exists()
    assert set(said(rows())["said_source"]) == {"cache"}
    assert server.bill.completions == N
    # And after damage.
    store.close()
    content = own_settings.read_bytes()
    own_settings.write_bytes(with_a_zeroed_page(content, random.Random(0)))
    again, told = warned_of(server)
    assert list(again["said"]) == list(out["said"])
    assert server.bill.completions <= N + LEAF
    assert len(told) <= 1


HOLD = """
import sqlite3
say(ready=True)
while not os.path.exists({store!r} + ".go"):
    time.sleep(0.002)
other = sqlite3.connect({store!r}, isolation_level=None, timeout=10)
other.execute("BEGIN EXCLUSIVE")
say(held=True)
time.sleep(2)
other.execute("COMMIT")
"""


@pytest.mark.parametrize("network", [False, True], ids=["wal", "rollback journal"])
def test_a_store_that_another_program_locks_for_two_seconds_is_waited_for(
    server: FakeOpenAI, own_settings: Path, tmp_path: Path, network: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LLMWarning)
        open_store(own_settings, network=network)
    server.latency = 0.01
    child = children.start(HOLD.format(store=str(own_settings)), tmp_path / "child")
    until(lambda: child.said.get("ready"), why=lambda: child.stderr)
    moment = Moment(server, 100, Path(f"{own_settings}.go").touch)
    frames: list[tuple[pd.DataFrame, list[str]]] = []
    call = threading.Thread(target=lambda: frames.append(warned_of(server)))
    call.start()
    until(lambda: child.said.get("held"), why=lambda: child.stderr)
    time.sleep(0.1)  # what was at the writer is committed, or waits
    before = server.bill.completions
    time.sleep(1.5)
    assert server.bill.completions <= before + IN_DANGER, "nothing is bought that can't be kept"
    call.join()
    out, told = frames[0]
    assert told == []
    assert_right(out, server)
    assert moment.paid < server.bill.completions == N
