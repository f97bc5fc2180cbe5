"""The connections of this process to one store's file: short transactions that survive damage and removal."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pandas_llm.core.errors import LLMWarning, StoreError
from pandas_llm.io import salvage, sqlite
from pandas_llm.io.owners import PATIENCE, Owners

T = TypeVar("T")

_POWER = 1.0
"""Seconds of commits that a power cut may cost."""

_NETWORK = (
    "The store {path} is on a network file system: it works more slowly there, and only for the processes "
    "of one machine at a time. cache= or $PANDAS_LLM_CACHE can name a local file."
)
_DAMAGED = (
    "The store {path} was damaged. It is kept as {aside}; {carried:,} answers whose checksum holds were "
    "carried over, what is missing is asked again."
)


class Database:
    """One SQLite file, read and written by any thread."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, network: bool | None = None
    ) -> None:
        self.path = path
        self.clock = clock
        self.created = False
        """Whether opening it made the file."""
        sqlite.check_path(path)
        # WAL needs memory shared by all who open the file; None: find out whether it works here.
        self._network = sqlite.on_network(path) if network is None else network
        lock = path.with_name(f"{path.name}.lock")
        # Without a lock file of ours there is nothing to mend: leave no trace beside a foreign file.
        if not lock.exists() and sqlite.kind_of(path, marked=False) == "foreign":
            raise sqlite.foreign(path)
        # Lock order: writing, reading, then the lock file's byte.
        self._writing = threading.RLock()
        self._reading = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inside = False
        self._synced = 0.0
        self._identity: sqlite.Identity = None
        with self._explained("opened"):
            self.owners = Owners(lock, clock)
            self._open()
        if self._network:
            warnings.warn(_NETWORK.format(path=path), LLMWarning, stacklevel=4)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads. It may be called twice, if the file turns out to be damaged."""
        with self._explained("read"):
            self._follow()
            seen = self._identity
            try:
                with self._reading:
                    return work(self._reader_connection())
            except sqlite.FAILURES as error:
                if not sqlite.is_damage(error):
                    raise
            self._mend(seen)
            with self._reading:
                return work(self._reader_connection())

    def commit(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """What `work` returns, once all it wrote is committed; inside another `commit`, with that one.

        `work` may be called twice, if the file turns out to be damaged. `durable`: a power cut can't undo it.
        """
        with self._writing:
            if self._inside:
                return work(self._writer_connection())
            with self._explained("written"):
                try:
                    return self._transaction(work, durable=durable)
                except sqlite.FAILURES as error:
                    if not sqlite.is_damage(error):
                        raise
                self._mend(self._identity)
                return self._transaction(work, durable=durable)

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns, with all the writing it does through this store in one commit."""
        return self.commit(lambda _: work())

    def outside(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, done without a transaction around it, as VACUUM has to be."""
        with self._explained("written"), self._writing:
            self._follow()
            return work(self._writer_connection())

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._writing, self._reading:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None

    def _transaction(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        # All of it inside: a Ctrl-C between two lines must leave neither a lock nor the mark behind.
        try:
            connection = self._begin(durable=durable)
            self._inside = True
            self.owners.beat(connection)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.rollback()
            raise
        finally:
            self._inside = False
        return result

    def _begin(self, *, durable: bool) -> sqlite3.Connection:
        while True:
            self._follow()
            connection = self._writer_connection()
            if connection.in_transaction:  # a Ctrl-C struck between BEGIN and its end
                connection.rollback()
            now = time.monotonic()
            # Without a WAL anything less than FULL can cost the file at a power cut.
            full = durable or self._network or now - self._synced >= _POWER
            connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            if sqlite.identity(self.path) == self._identity:
                self._synced = now if full else self._synced
                return connection
            connection.rollback()

    def _follow(self) -> None:
        # Removed by its user, or mended by another process: nobody would find what the old file gets.
        if sqlite.identity(self.path) != self._identity:
            with self._writing, self._reading:
                self.close()
                self.owners.renew()
                self._open()

    def _writer_connection(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = sqlite.connect(self.path, wal=not self._network)
        return self._writer

    def _reader_connection(self) -> sqlite3.Connection:
        if self._reader is None:
            self._reader = sqlite.connect(self.path, wal=not self._network)
        return self._reader

    def _open(self) -> None:
        mended = None
        with self.owners.alone():
            kind = sqlite.kind_of(self.path, marked=self.owners.marked)
            if kind == "foreign":
                raise sqlite.foreign(self.path)
            if kind == "new":
                sqlite.create(self.path)
                self.created = True
            if kind == "damaged" or not self._opens():
                mended = salvage.replace_damaged(self.path, self.owners.lives)
            self._identity = sqlite.identity(self.path)
        self._tell(mended)

    def _opens(self) -> bool:
        try:
            sqlite.check_format(self._writer_connection(), self.path)
        except sqlite.FAILURES as error:
            self.close()
            if not sqlite.is_damage(error):
                raise
            return False
        except BaseException:
            self.close()
            raise
        return True

    def _mend(self, seen: sqlite.Identity) -> None:
        mended = None
        with self._writing, self._reading:
            self.close()
            with self.owners.alone():
                if sqlite.identity(self.path) == seen:  # else another thread or process was first
                    mended = salvage.replace_damaged(self.path, self.owners.lives)
            self._open()
        self._tell(mended)

    def _tell(self, mended: tuple[Path, int] | None) -> None:
        if mended is not None:
            aside, carried = mended
            text = _DAMAGED.format(path=self.path, aside=aside.name, carried=carried)
            warnings.warn(text, LLMWarning, stacklevel=5)

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except (*sqlite.FAILURES, OSError) as error:
            locked = getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                sqlite3.SQLITE_BUSY,
                sqlite3.SQLITE_LOCKED,
            )
            why = f"another program has held its lock for {PATIENCE:.0f} s" if locked else str(error)
            raise StoreError(f"The store {self.path} can't be {done}: {why}.") from error
