"""Mending a damaged store: a new file takes over all that can be found in the old one and is whole."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pandas_llm.core.plan import split
from pandas_llm.io.pages import answers_on, free_pages
from pandas_llm.io.records import unseal
from pandas_llm.io.shards import Shard, keys_of_shard, shard_of
from pandas_llm.io.similar_texts import is_whole_reuse, is_whole_text
from pandas_llm.io.sqlite import FAILURES, MAGIC, PAGE, connection_to, create, marks

_ENDS = ("", "-wal", "-shm", "-journal")


def replace_damaged(path: Path, alive: Callable[[object], bool]) -> tuple[Path, int]:
    """Where the damaged file was moved, and how many answers the new one took over from it.

    Only while no other process opens the file, and with no connection of this one. Others that have it
    open notice at their next transaction that the name belongs to another file.
    """
    fresh = path.with_name(f"{path.name}.mending")
    _remove(fresh)
    _remove(path.with_name(f"{path.name}.headless"))
    create(fresh)
    first_page = fresh.read_bytes()[:PAGE]
    # Opened before and closed after SQLite has it: closing it would drop SQLite's locks.
    with path.open("rb") as file:
        old = connection_to(path)
        try:
            with contextlib.suppress(*FAILURES):
                old.execute("PRAGMA writable_schema=ON")  # reads on past a damaged definition
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                old.execute("BEGIN IMMEDIATE")  # others' commits wait until the name is the new file's
            if not _has_tables(old):
                old.close()
                old = _reheaded(path, first_page)
            with contextlib.closing(connection_to(fresh)) as new:
                carried = _carry(old, new, alive) + _carry_hidden(path, file, new)
            aside = _free_name(path)
            for end in _ENDS:
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
            fresh.rename(path)
        finally:
            # SQLite sees that its file has moved, and leaves the new one's WAL alone.
            old.close()
            _remove(path.with_name(f"{path.name}.headless"))
    return aside, carried


def _carry(old: sqlite3.Connection, new: sqlite3.Connection, alive: Callable[[object], bool]) -> int:
    new.execute("BEGIN IMMEDIATE")
    shards, carried = _carry_shards(old, new, alive), 0
    held = {-shard.id for shard in shards}
    for row in _requests(old):
        key, owner, value = row[:3]
        if isinstance(key, bytes) and unseal(key, value) is not None:
            carried += _insert_answer(new, row, owner if owner in held else None)
        elif isinstance(key, bytes) and value is None and (owner in held or alive(owner)):
            _insert(new, "requests", row)
            if owner not in held:
                _insert_owner(new, owner)
    for shard in shards:
        _hold_again(new, shard)
    old.text_factory = lambda text: text.decode("utf-8", "replace")
    for name, value in _readable(old, "SELECT name, value FROM meta"):
        if unseal(str(name).encode(), value) is not None:
            _insert(new, "meta", (name, value))
    for row in _readable(old, "SELECT * FROM runs"):
        if unseal(b"%d" % row[0], row[3]) is not None:  # a damaged number could be the last there is
            _insert(new, "runs", row)
    for table in ("questions", "columns", "facts"):  # verified when they are read
        for row in _readable(old, f"SELECT * FROM {table}"):  # noqa: S608
            _insert(new, table, row)
    _carry_similar(old, new)
    new.execute("COMMIT")
    return carried


def _carry_similar(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """The texts that were compared, their vectors, and who took whose answer."""
    for row in _from_both_ends(old, "similar", "id"):
        if is_whole_text(row[1:]):
            _insert(new, "similar", (None, *row[1:]))  # a damaged number could be another's
    for row in _from_both_ends(old, "reuses", "question", "member"):
        if is_whole_reuse(row):
            _insert(new, "reuses", row)


def _carry_shards(
    old: sqlite3.Connection, new: sqlite3.Connection, alive: Callable[[object], bool]
) -> list[Shard]:
    """The open ones; past ones are carried over, too."""
    query = "SELECT id, run, state, at, facts, owner FROM batches ORDER BY id"
    shards = []
    for *row, owner in [*_readable(old, query), *_readable(old, f"{query} DESC")]:
        shard = shard_of(row)
        if shard is None:
            continue
        driver = owner if alive(owner) else None
        keys = next(_until_damage(old, "SELECT keys FROM batches WHERE id = ?", (shard.id,)), (None,))[0]
        # Found from both ends, it is carried over once.
        if _insert(new, "batches", (shard.id, shard.run, driver, shard.state, shard.at, row[4], keys)):
            if driver is not None:
                _insert_owner(new, driver)
            if shard.state != "harvested":
                shards.append(shard)
    return shards


def _hold_again(new: sqlite3.Connection, shard: Shard) -> None:
    """A claim of each key the shard was planned with, but for those that are answered.

    Its batch will answer them, whether their claims or answers were readable or not.
    """
    claims = ((key, -shard.id, shard.run, shard.at) for key in split(keys_of_shard(new, shard.id)))
    new.executemany("INSERT OR IGNORE INTO requests(key, owner, run, at) VALUES (?, ?, ?, ?)", claims)


def _carry_hidden(path: Path, file: BinaryIO, new: sqlite3.Connection) -> int:
    """How many answers more there were on pages that nothing leads to."""
    wal = path.with_name(f"{path.name}-wal")
    # A page of which the WAL has a newer version, or that was cleared, holds what isn't valid any more.
    if file.read(len(MAGIC)) != MAGIC or (wal.exists() and wal.stat().st_size):
        return 0
    free, carried = free_pages(file), 0
    new.execute("BEGIN IMMEDIATE")
    for number in range(2, path.stat().st_size // PAGE + 1):
        for row in answers_on(file, number) if number not in free else ():
            if isinstance(row[0], bytes) and unseal(row[0], row[2]) is not None:
                carried += _insert_answer(new, row)
    new.execute("COMMIT")
    return carried


def _insert_answer(new: sqlite3.Connection, row: Iterable[Any], owner: object = None) -> int:
    key, _, *rest = row
    statement = (
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET owner = NULL, "
        # A damaged table can have a claim and an answer of one key.
        "value = excluded.value, run = excluded.run, at = excluded.at, raw = excluded.raw WHERE value IS NULL"
    )
    with contextlib.suppress(sqlite3.Error):
        return new.execute(statement, (key, owner, *rest)).rowcount
    return 0


def _requests(old: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    # Many short ranges, each from both ends: a bad page hides no more than what lies on it.
    for first in range(256):
        bounds = (bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 17)
        ranged = "SELECT * FROM requests WHERE key >= ? AND key < ? ORDER BY key"
        done = yield from _until_damage(old, ranged, bounds)
        if not done:
            yield from _until_damage(old, f"{ranged} DESC", bounds)


def _from_both_ends(old: sqlite3.Connection, table: str, *key: str) -> Iterator[tuple[Any, ...]]:
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{column} {direction}" for column in key)
        done = yield from _until_damage(old, f"SELECT * FROM {table} ORDER BY {order}", ())  # noqa: S608
        if done:
            return


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    yield from _until_damage(old, query, ())


def _until_damage(
    old: sqlite3.Connection, query: str, bounds: Sequence[object]
) -> Generator[tuple[Any, ...], None, bool]:
    # Damaged sizes overflow Python's numbers or its memory before SQLite notices them.
    try:
        yield from old.execute(query, bounds)
    except (*FAILURES, OverflowError, MemoryError):
        return False
    return True


def _insert_owner(new: sqlite3.Connection, owner: object) -> None:
    _insert(new, "owners", (owner, None, time.time()))  # so that its number isn't given again


def _insert(new: sqlite3.Connection, table: str, row: Iterable[Any]) -> int:
    values = tuple(row)
    with contextlib.suppress(sqlite3.Error):
        return new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks(values)})", values).rowcount  # noqa: S608
    return 0


def _free_name(path: Path) -> Path:
    stem = f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem if not n else f"{stem}-{n}") for n in range(1_000))
    return next(name for name in names if not name.exists())


def _remove(path: Path) -> None:
    for end in _ENDS:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _has_tables(connection: sqlite3.Connection) -> bool:
    try:
        return (b"requests",) in connection.execute("SELECT name FROM sqlite_master").fetchall()
    except FAILURES:
        return False


def _reheaded(path: Path, first_page: bytes) -> sqlite3.Connection:
    """A copy of a file whose first page is damaged, with an empty store's in its place.

    That page says where each table begins: on the same page in every store of this format.
    """
    copy = path.with_name(f"{path.name}.headless")
    for end in ("", "-wal"):
        made = copy.with_name(copy.name + end)
        made.touch(mode=0o600)  # a new file would be readable by all
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{end}", made)
    head = bytearray(first_page)
    head[18:20] = b"\2\2"  # with what is in the WAL
    head[28:32] = (copy.stat().st_size // PAGE).to_bytes(4, "big")
    with copy.open("r+b") as file:
        file.write(head)
    connection = connection_to(copy)
    with contextlib.suppress(*FAILURES):
        connection.execute("PRAGMA writable_schema=ON")
    return connection
