"""The store: what was asked, by whom, and every answer that was paid for, in one SQLite file."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pandas_llm.core.errors import OptionsError
from pandas_llm.core.plan import KEY_BYTES, split
from pandas_llm.core.types import Key, Record
from pandas_llm.io import upkeep
from pandas_llm.io.ledger import Ledger
from pandas_llm.io.nostore import NoStore
from pandas_llm.io.records import (
    Kept,
    Payload,
    dictionary_of,
    packed_replies,
    payloads_of,
    record_of,
    seal,
    sealed_record,
    unpacked_replies,
    unseal,
)
from pandas_llm.io.shards import Shards
from pandas_llm.io.similar_texts import SimilarTexts
from pandas_llm.io.sqlite import BLOCK, blocks, check_order, default_path, in_order, marks, sought

__all__ = ["Kept", "NoStore", "Payload", "Store", "default_path", "open_store", "record_of"]

_LOOK_UP = 8_192
"""Keys of one look-up: sorted and in this many, 460,000 a CPU second."""


class Store(Ledger):
    """One file of answers, for all threads of this process and next to other processes.

    Open it with `open_store`: a process must have one of each file.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, network: bool | None = None
    ) -> None:
        super().__init__(path, clock=clock, network=network)
        self.shards = Shards(self)
        self.similar = SimilarTexts(self)
        # A claim of this process that isn't among them is left over, from a release that the disk refused or
        # from a damaged page: this process lives, and would wait for itself for ever.
        self._asking: set[Key] = set()

    def known_payloads(self, keys: bytes | Sequence[Key]) -> Iterator[list[tuple[Key, Payload]]]:
        """What is known of the keys, in chunks and in any order: `record_of` makes a record of a payload.

        A damaged answer counts as missing, and its row is removed so that the key can be claimed again.
        """
        sorted_keys = _sorted(keys)
        for at in range(0, len(sorted_keys), _LOOK_UP * KEY_BYTES):
            chunk = list(split(sorted_keys[at : at + _LOOK_UP * KEY_BYTES]))
            with _without_collector():
                rows = self.read(partial(_answered, keys=chunk))
                good = payloads_of(rows)
            if len(good) < len(rows):
                whole = {key for key, _ in good}
                self._remove_damaged([key for key, _ in rows if key not in whole])
            yield good

    def known(self, keys: bytes | Sequence[Key]) -> Iterator[list[tuple[Key, Record]]]:
        """What is known of the keys, as records."""
        for chunk in self.known_payloads(keys):
            yield [(key, record_of(payload)) for key, payload in chunk]

    def claim(
        self, keys: Sequence[Key], run: int, *, timeout: float = 600.0, replace: bool = False
    ) -> list[Key]:
        """Those of the keys that are this caller's to ask, committed as sent.

        The others are answered already, held by a shard, or claimed by a process that lives, this one
        included. With `replace` the answered ones may be asked again. `timeout`: seconds for one answer; an
        owner that gave no sign of life for twice that long is taken for hung.
        """
        return self._claim(keys, run, timeout, replace=replace, again=False)

    def reclaim(
        self, keys: Sequence[Key], run: int, *, timeout: float = 600.0, replace: bool = False
    ) -> list[Key]:
        """Those of the caller's claims that nobody took while `beat_is_late` said it was taken for hung."""
        return self._claim(keys, run, timeout, replace=replace, again=True)

    def release(self, keys: Sequence[Key]) -> None:
        """Give back claims that weren't answered."""
        self.disown(keys)

        def work(connection: sqlite3.Connection) -> None:
            mine = sorted(self.owners.mine)
            for block in blocks(keys):
                connection.execute(
                    f"DELETE FROM requests WHERE key IN ({marks(block)}) AND value IS NULL "  # noqa: S608
                    f"AND owner IN ({marks(mine)})",
                    (*block, *mine),
                )

        self.commit(work)

    def disown(self, keys: Iterable[Key]) -> None:
        """Mean these claims no longer: they are answered or given up, whether or not the file can tell."""
        self._asking.difference_update(keys)

    def held(self, keys: Sequence[Key], *, timeout: float = 600.0) -> dict[Key, int]:
        """Those of the keys that somebody alive or a shard is asking just now, with that owner's number.

        A key that is neither held nor known was given up, or its owner died (which changes nothing in the
        file: look at each poll, whatever `changed` says): claim it.
        """

        def work(connection: sqlite3.Connection) -> dict[Key, int]:
            rows = sought(
                connection, "SELECT key, owner FROM requests WHERE key = ? AND owner IS NOT NULL", keys
            )
            living = self.owners.living(connection, {owner for _, owner in rows}, timeout)
            return {key: owner for key, owner in rows if owner in living and self._is_meant(key, owner)}

        return self.read(work)

    def changed(self) -> int:
        """A number that is another one after anybody, here or in another process, committed something."""
        return self.read(lambda c: int(c.execute("PRAGMA data_version").fetchone()[0]))

    def beat(self) -> None:
        """Tell the others that this process lives. Whoever holds claims calls it every `BEAT` seconds."""
        self.commit(lambda _: None)

    def beat_is_late(self, timeout: float, since: float = 0.0) -> bool:
        """Whether others may have taken this process for hung, and its claims made before `since` with it.

        Then `reclaim` before sending. `since` is in seconds since 1970.
        """
        return self.owners.is_late(timeout, since)

    def keep(self, rows: Sequence[Kept], *, replace: bool = False) -> None:
        """Write answers; one that is there already stays, unless `replace`."""
        if_open = "" if replace else " WHERE value IS NULL"

        def work(connection: sqlite3.Connection) -> None:
            now, dictionary = self.clock(), _dictionary(connection, rows)
            # Neighbours lie on one page: in any order, a thousand answers dirty a thousand pages.
            for block in blocks(sorted(rows, key=lambda row: row.key)):
                values = [
                    value
                    for row in block
                    for value in (
                        row.key,
                        sealed_record(row.key, row.record),
                        row.run,
                        now,
                        _packed(row, dictionary),
                    )
                ]
                connection.execute(
                    f"INSERT INTO requests(key, value, run, at, raw) VALUES {marks(block, '(?,?,?,?,?)')} "  # noqa: S608
                    "ON CONFLICT(key) DO UPDATE SET owner = NULL, value = excluded.value, "
                    f"run = excluded.run, at = excluded.at, raw = excluded.raw{if_open}",
                    values,
                )

        self.commit(work)

    def raw(self, key: Key) -> tuple[bytes, ...]:
        """Every raw reply behind an answer; none where none is kept or they are damaged."""

        def work(connection: sqlite3.Connection) -> tuple[bytes, ...]:
            row = connection.execute("SELECT raw FROM requests WHERE key = ?", (key,)).fetchone()
            return unpacked_replies(key, row[0], _dictionary(connection, ())) if row else ()

        return self.read(work)

    def info(self) -> dict[str, Any]:
        """`path bytes answers failures sent batches texts runs oldest newest models`: answers by model."""
        return upkeep.info(self)

    def clear(
        self,
        *,
        run: int | None = None,
        model: str | None = None,
        older_than: float | None = None,
        keys: bytes | Sequence[Key] | None = None,
    ) -> int:
        """How many answers and billed failures were removed.

        Those of a run, of a model, older than so many seconds, of these keys; conditions add up. Without
        any, all goes but the fingerprints of written columns (else hand corrections would be overwritten
        later) and what somebody alive is asking. Texts that were compared go with their answers.
        """
        of_keys = None if keys is None else list(split(_sorted(keys)))
        return upkeep.clear(self, upkeep.Selection(run, model, older_than, of_keys))

    def _claim(
        self, keys: Sequence[Key], run: int, timeout: float, *, replace: bool, again: bool
    ) -> list[Key]:
        def work(connection: sqlite3.Connection) -> list[Key]:
            stamp = (self.owners.me(connection), run, self.clock())
            new, answered, own = self.grant(connection, keys, stamp, timeout)
            new.update(answered if replace else (), own if again else ())
            self._asking.update(new)
            return [key for key in keys if key in new]

        return self.commit(work)

    def grant(
        self,
        connection: sqlite3.Connection,
        keys: Sequence[Key],
        stamp: tuple[int, int, float],
        timeout: float,
    ) -> tuple[set[Key], set[Key], set[Key]]:
        """Of the keys, those now claimed for an owner, those answered, those this process asks already.

        Inside a `commit`; `stamp` is the owner, its run and the time. What a shard holds is in none.
        """
        new, answered, own = set[Key](), set[Key](), set[Key]()
        for block in blocks(sorted(keys)):  # neighbours lie on one page: a third of the time
            inserted = self._insert_claims(connection, block, stamp)
            new |= inserted
            rest = [key for key in block if key not in inserted]
            if rest:
                free, done, mine = self._sort_claimed(connection, rest, timeout)
                stolen = [(*stamp, key) for key in free]
                connection.executemany("UPDATE requests SET owner = ?, run = ?, at = ? WHERE key = ?", stolen)
                new.update(free)
                answered.update(done)
                own.update(mine)
        return new, answered, own

    def _insert_claims(
        self, connection: sqlite3.Connection, block: Sequence[Key], stamp: tuple[int, int, float]
    ) -> set[Key]:
        # `WHERE true`: without it SQLite reads ON CONFLICT as a part of the join.
        cursor = connection.execute(
            "INSERT INTO requests(owner, run, at, key) SELECT ?, ?, ?, column1 "  # noqa: S608
            f"FROM (VALUES {marks(block, '(?)')}) WHERE true ON CONFLICT(key) DO NOTHING RETURNING key",
            (*stamp, *block),
        )
        return {row[0] for row in cursor.fetchall()}

    def _sort_claimed(
        self, connection: sqlite3.Connection, keys: Sequence[Key], timeout: float
    ) -> tuple[list[Key], list[Key], list[Key]]:
        """Of keys that have a row: those whose owner is gone, those answered, those of this process.

        What a shard holds is in none of them, answered or not.
        """
        rows = sought(connection, "SELECT key, owner, value IS NOT NULL FROM requests WHERE key = ?", keys)
        if len(rows) < len(keys):
            raise sqlite3.DatabaseError("the table is out of order: a key is there and can't be found")
        living = self.owners.living(connection, {owner for _, owner, _ in rows}, timeout)
        open_ = [(key, owner) for key, owner, done in rows if not done]
        if not all(self._is_meant(key, owner) for key, owner in open_):
            check_order(connection)
        free = [key for key, owner in open_ if not (owner in living and self._is_meant(key, owner))]
        answered = [key for key, owner, done in rows if done and owner not in living]
        own = [key for key, owner in open_ if owner in self.owners.mine]
        return free, answered, own

    def _is_meant(self, key: Key, owner: object) -> bool:
        return owner not in self.owners.mine or key in self._asking

    def _remove_damaged(self, suspects: list[Key]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            rows = _answered(connection, suspects)
            # Another process may have put a good answer there meanwhile.
            whole = {key for key, _ in payloads_of(rows)}
            for key in [key for key, _ in rows if key not in whole]:
                connection.execute("DELETE FROM requests WHERE key = ?", (key,))

        self.commit(work)


_stores: dict[Path, Store] = {}
_inherited: list[Store] = []
_opening = threading.Lock()


def open_store(path: str | os.PathLike[str], *, network: bool | None = None) -> Store:
    """The store in this file, made if there is none; the same object for each file and process.

    `network`: whether the file is on a network file system; None: look.

    Raises
    ------
    OptionsError
        The path can't hold a store, or holds another program's file or one of a later format.
    StoreError
        The disk is full, or fails.
    """
    text = os.fspath(path)
    if "://" in text:
        raise OptionsError(f"cache={text!r}: a database URL is not yet possible; name a file.")
    try:
        real = Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionsError(f"cache={text!r} is no path of a file: {error}.") from error
    with _opening:
        if real not in _stores:
            _stores[real] = Store(real, network=network)
        return _stores[real]


def _leave_behind() -> None:
    # A forked child must not touch its parent's connections, not even to close them: a close would drop
    # what the parent has in its WAL. They are kept so that nothing collects them.
    global _opening  # noqa: PLW0603
    _inherited.extend(_stores.values())
    _stores.clear()
    _opening = threading.Lock()


def _close_all() -> None:
    # The last one to close moves the WAL into the file: a copy of the file alone is then whole. A Ctrl-C
    # that strikes here has nothing left to stop; raised, it would only print a traceback.
    with _deaf():
        for store in list(_stores.values()):
            with contextlib.suppress(sqlite3.Error):
                store.close()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield  # no handler of Python's, or not the thread that runs it
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)
atexit.register(_close_all)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    # 40,000 lists and no cycle among them: looking for one costs a third of the look-up.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _sorted(keys: bytes | Sequence[Key]) -> bytes:
    # Neighbours lie on one page: 460,000 sorted look-ups a CPU second against 300,000.
    joined = keys if isinstance(keys, bytes) else b"".join(keys)
    return np.sort(np.frombuffer(joined, dtype=f"S{KEY_BYTES}")).tobytes()


def _answered(connection: sqlite3.Connection, keys: Sequence[Key]) -> list[tuple[Key, bytes]]:
    if len(keys) <= BLOCK:
        return sought(connection, "SELECT key, value FROM requests WHERE key = ? AND value IS NOT NULL", keys)
    query = f"SELECT key, value FROM requests WHERE key IN ({marks(keys)}) AND value IS NOT NULL"  # noqa: S608
    return in_order(keys, connection.execute(query, keys).fetchall())


def _dictionary(connection: sqlite3.Connection, rows: Sequence[Kept]) -> bytes:
    # Read each time: another process may have cleared the store, and this one's replies must not need
    # a dictionary that is gone.
    row = connection.execute("SELECT value FROM meta WHERE name = 'dictionary'").fetchone()
    known = unseal(b"dictionary", row[0]) if row else None
    first = next((reply for kept in rows for reply in kept.replies), None)
    if known is not None or first is None:
        return known or b"\n"
    made = dictionary_of(first)
    connection.execute(
        "INSERT OR REPLACE INTO meta(name, value) VALUES ('dictionary', ?)", (seal(b"dictionary", made),)
    )
    return made


def _packed(row: Kept, dictionary: bytes) -> bytes | None:
    return packed_replies(row.key, row.replies, dictionary) if row.replies else None
