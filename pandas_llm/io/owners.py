"""Who claims requests: this process's number, the byte it locks while it lives, its beats.

A process that claims holds one byte of `<store>.lock`, the one with its number. The kernel frees it at
the process's death, however it dies, so its claims are void at once: no clock, no pid that comes back.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pandas_llm.core.errors import StoreError
from pandas_llm.io.shards import open_shards

BEAT = 5.0
"""Seconds between two signs of life of an owner."""

PATIENCE = 30.0
"""Seconds that anybody waits for anybody's lock."""

_MARK = b"the lock of a pandas_llm store\n"
_OPENING = 0  # the byte held by who creates or mends the file; owners count from 1

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int, byte: int) -> bool:
        os.lseek(file, byte, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: int, byte: int) -> None:
        os.lseek(file, byte, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: int, byte: int) -> bool:
        # lockf, never flock: an flock outlives its holder's SIGKILL in a forked child.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(file: int, byte: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


class Owners:
    """The owners of a store's claims, seen from this process."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        # Closing any descriptor of this file would drop all locks of the process: opened once, never closed.
        self._file = _open_lock(path)
        # A process doesn't see its own locks, and trying one it holds would free it.
        self.mine: set[int] = set()
        self._me: int | None = None
        self._beat = 0.0
        self._gaps: list[tuple[float, float]] = []

    @property
    def marked(self) -> bool:
        """Whether a store made the lock file: the file beside it is, or was, ours."""
        if not hasattr(os, "pread"):
            return False
        return os.pread(self._file, len(_MARK), 0) == _MARK

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other process creates or mends the file meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not _try_lock(self._file, _OPENING):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"Another process has been opening {self.path.stem} for {PATIENCE:.0f} s: end it, or "
                    "name another file in cache=."
                )
            time.sleep(0.005)
        try:
            yield
        finally:
            _unlock(self._file, _OPENING)

    def renew(self) -> None:
        """Go over to the lock file that bears the name now, if somebody removed the old one."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self.path.stat(), os.fstat(self._file)):
                return
        self._file = _open_lock(self.path)
        self.mine = set()
        self._me = None

    def me(self, connection: sqlite3.Connection) -> int:
        """The number of this process, taken (inside a write transaction) when it is first needed."""
        while self._me is None:
            self._sweep(connection)
            row = connection.execute(
                "INSERT INTO owners(pid, at) VALUES (?, ?) RETURNING id", (os.getpid(), self.clock())
            ).fetchone()
            # In a file that was made anew the number may still be somebody's: the next one, then.
            if row[0] not in self.mine and _try_lock(self._file, row[0]):
                self._me = row[0]
                self.mine.add(row[0])
                self._beat = self.clock()
        return self._me

    def beat(self, connection: sqlite3.Connection) -> None:
        """Say inside a write transaction that this process lives, if the last time is long enough ago."""
        now = self.clock()
        if self._me is None or 0 <= now - self._beat < BEAT:
            return
        connection.execute(
            "INSERT INTO owners(id, pid, at) VALUES (?, ?, ?) ON CONFLICT(id) DO UPDATE SET at = excluded.at",
            (self._me, os.getpid(), now),
        )
        if now - self._beat > _hung_after(0):
            self._gaps.append((now, now - self._beat))
        self._beat = now

    def is_late(self, timeout: float, since: float) -> bool:
        """Whether others may have taken this process for hung at some moment after `since`."""
        if self._me is None:
            return False
        limit = _hung_after(timeout)
        if self.clock() - self._beat > limit:
            return True
        return any(end > since and gap > limit for end, gap in self._gaps)

    def living(self, connection: sqlite3.Connection, owners: Iterable[object], timeout: float) -> set[object]:
        """Those of the owners that live and have said so lately enough to be waited for; open shards, too."""
        asked = set(owners)
        held = {owner for owner in asked if self.lives(owner)}
        others = [owner for owner in held if owner not in self.mine]
        if others:
            marks = ",".join("?" * len(others))
            beats = connection.execute(f"SELECT id, at FROM owners WHERE id IN ({marks})", others)  # noqa: S608
            oldest = self.clock() - _hung_after(timeout)
            held -= {owner for owner, at in beats.fetchall() if isinstance(at, float) and at < oldest}
        if any(isinstance(owner, int) and owner < 0 for owner in asked):
            held |= asked & {-shard.id for shard in open_shards(connection)}
        return held

    def lives(self, owner: object) -> bool:
        """Whether the process with this number runs, or hangs: whether it holds its byte."""
        if owner in self.mine:
            return True
        # Damage makes owners that are no number, or none that a byte can have.
        if not isinstance(owner, int) or not 0 < owner < 2**62:
            return False
        if not _try_lock(self._file, owner):
            return True
        _unlock(self._file, owner)
        return False

    def _sweep(self, connection: sqlite3.Connection) -> None:
        known = [row[0] for row in connection.execute("SELECT id FROM owners").fetchall()]
        dead = [(owner,) for owner in known if not self.lives(owner)]
        connection.executemany("DELETE FROM owners WHERE id = ?", dead)


def _hung_after(timeout: float) -> float:
    # A short timeout must not make the beats of a healthy process look late.
    return max(2 * timeout, 4 * BEAT)


def _open_lock(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, os.O_RDWR)
    os.write(file, _MARK)
    return file
