"""Shards in the store: each input file of a batch on its way, who drives it, and which keys it holds.

An open shard holds its keys as an owner does: its claims bear its number below zero. No process has to live
for that, and nobody is granted such a key, not even to replace an answer, before the shard is closed.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pandas_llm.core.batches import may_follow
from pandas_llm.core.errors import StoreError
from pandas_llm.core.plan import KEY_BYTES, split
from pandas_llm.core.types import Key
from pandas_llm.io.records import seal, unseal

if TYPE_CHECKING:
    import sqlite3

    from pandas_llm.io.store import Store

_COLUMNS = "id, run, state, at, facts"
_KEPT = 1_000
"""Shards whose history is kept: each poll reads over them."""
_LOOK_UP = 8_192


class ShardTakenError(StoreError):
    """Another call drives the shard now, or it is gone; `Shards.get` tells which."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file on its way, as the store had it when it was read."""

    id: int
    run: int
    state: str
    """One of `core.batches.STATES`."""
    facts: Mapping[str, Any] = field(hash=False)
    at: float
    """When it was planned, in seconds since 1970."""

    @property
    def name(self) -> str:
        """The provider's id of its batch; `batch file 3` before there is one."""
        return self.facts.get("batch_id") or f"batch file {self.id}"


class Shards:
    """The shards of a store, for any thread; never inside `Store.together`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # The file names the process that drives a shard; which of its calls does, these tell.
        self._driven: set[int] = set()
        self._turn = threading.Lock()

    def plan(
        self, keys: Sequence[Key], run: int, /, *, timeout: float, replace: bool, **facts: Any
    ) -> tuple[Shard | None, list[Key]]:
        """A new shard in state `planned`, driven by this call, and those of the keys it got, in their order.

        The rules are those of `Store.claim`. None, and no key, where all are answered or held. One durable
        commit. `facts["replace"]` says that its answers are to replace others.
        """
        store = self._store
        granted: list[Key] = []

        def work(connection: sqlite3.Connection) -> Shard | None:
            now = store.clock()
            row = connection.execute(
                "INSERT INTO batches(run, owner, state, at) VALUES (?, ?, 'planned', ?) RETURNING id",
                (run, store.owners.me(connection), now),
            ).fetchone()
            shard = Shard(row[0], run, "planned", {**facts, **({"replace": True} if replace else {})}, now)
            new, answered, _ = store.grant(connection, keys, (-shard.id, run, now), timeout)
            if replace:
                # An answer that is to be replaced bears the mark, too: the batch that buys it is bought once.
                marked = [(-shard.id, key) for key in sorted(answered)]
                connection.executemany("UPDATE requests SET owner = ? WHERE key = ?", marked)
                new |= answered
            granted[:] = [key for key in keys if key in new]
            if not granted:
                connection.execute("DELETE FROM batches WHERE id = ?", (shard.id,))
                return None
            sealed = seal(_keys_name(shard.id), b"".join(granted))
            connection.execute("UPDATE batches SET keys = ? WHERE id = ?", (sealed, shard.id))
            return _written(connection, shard)

        return self._drive(work), granted

    def note(self, shard: Shard, state: str | None = None, /, **facts: Any) -> Shard:
        """The shard in this state and with these facts, once a power cut can't undo it; a fact None goes.

        Raises
        ------
        ShardTakenError
            Another call drives it now, or it is gone.
        """

        def work(connection: sqlite3.Connection) -> Shard:
            now = self._own(connection, shard)
            known = {name: fact for name, fact in {**now.facts, **facts}.items() if fact is not None}
            return _written(connection, replace(now if state is None else _moved(now, state), facts=known))

        return self._store.commit(work, durable=True)

    def get(self, number: int) -> Shard | None:
        """The shard with this number, a harvested one too."""
        return next(iter(self._select("WHERE id = ?", number)), None)

    def open(self) -> list[Shard]:
        """Those that aren't harvested, oldest first."""
        return self._store.read(open_shards)

    def past(self, limit: int = 200) -> list[Shard]:
        """Those that are harvested, newest first."""
        return self._select("WHERE state = 'harvested' ORDER BY id DESC LIMIT ?", limit)

    def keys(self, number: int) -> bytes:
        """Its keys as planned, end to end in the order of its lines; none once harvested, or if damaged."""
        return self._store.read(lambda connection: keys_of_shard(connection, number))

    def holding(self, keys: bytes) -> dict[int, npt.NDArray[np.intp]]:
        """Which open shards hold any of these keys (end to end), and where among them those keys stand.

        A key that was answered since the shard was planned isn't held any more.
        """
        shards = self.open()
        if not shards or not keys:
            return {}
        # Half of a key tells nearly all; what it lets through by chance, the file doesn't.
        halves, planned = _halves(keys), [_halves(self.keys(shard.id)) for shard in shards]
        whole = all(map(len, planned))
        suspects = (
            np.flatnonzero(np.isin(halves, np.concatenate(planned))) if whole else np.arange(len(halves))
        )
        owners = np.zeros(len(suspects), dtype=np.int64)
        for at in range(0, len(suspects), _LOOK_UP):
            chunk = [keys[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in suspects[at : at + _LOOK_UP].tolist()]
            found = self._store.read(partial(_holders, keys=chunk))
            owners[at : at + _LOOK_UP] = [found.get(key, 0) for key in chunk]
        holders = {shard.id: suspects[owners == -shard.id] for shard in shards}
        return {number: held for number, held in holders.items() if len(held)}

    def take(self, shard: Shard, *, timeout: float) -> Shard | None:
        """The shard as it is now, this call its driver; None if it is over or another live call drives it.

        `timeout`: seconds; a process that gave no sign of life for twice that long is taken for hung.
        """
        owners = self._store.owners

        def work(connection: sqlite3.Connection) -> Shard | None:
            now, owner = _found(connection, shard)
            busy = owner in owners.living(connection, {owner}, timeout)
            if (
                now is None
                or now.state == "harvested"
                or (busy and (owner not in owners.mine or now.id in self._driven))
            ):
                return None
            me = owners.me(connection)
            connection.execute("UPDATE batches SET owner = ? WHERE id = ?", (me, now.id))
            return now

        return self._drive(work)

    def leave(self, shard: Shard) -> None:
        """Drive it no longer."""

        def work(connection: sqlite3.Connection) -> None:
            with contextlib.suppress(ShardTakenError):
                self._own(connection, shard)
                connection.execute("UPDATE batches SET owner = NULL WHERE id = ?", (shard.id,))

        # What the disk refuses is no loss: for this process the set decides, and for others its death.
        with contextlib.suppress(StoreError):
            self._store.commit(work)
        self._driven.discard(shard.id)

    def close(self, shard: Shard) -> None:
        """Harvested: all it held without an answer is free, in one durable commit; nobody drives it."""

        def work(connection: sqlite3.Connection) -> None:
            now = self._own(connection, shard)
            free_keys(connection, now)
            _written(connection, _moved(now, "harvested"))
            connection.execute("UPDATE batches SET owner = NULL, keys = NULL WHERE id = ?", (now.id,))
            connection.execute("DELETE FROM batches WHERE state = 'harvested' AND id <= ?", (now.id - _KEPT,))

        self._store.commit(work, durable=True)
        self._driven.discard(shard.id)

    def dissolve(self, shard: Shard) -> None:
        """Remove it and free all it held: there is nothing of it at the provider."""

        def work(connection: sqlite3.Connection) -> None:
            remove(connection, self._own(connection, shard))

        self._store.commit(work, durable=True)
        self._driven.discard(shard.id)

    def _select(self, rest: str, value: int) -> list[Shard]:
        query = f"SELECT {_COLUMNS} FROM batches {rest}"  # noqa: S608
        return self._store.read(lambda connection: _whole(connection.execute(query, (value,))))

    def _drive(self, work: Callable[[sqlite3.Connection], Shard | None]) -> Shard | None:
        """What `work` says after a durable commit, this call its driver."""
        # Between the commit and the set another thread would take the shard for left over.
        with self._turn:
            shard = self._store.commit(work, durable=True)
            if shard is not None:
                self._driven.add(shard.id)
        return shard

    def _own(self, connection: sqlite3.Connection, shard: Shard) -> Shard:
        """The shard as it is now, if this process drives it."""
        now, owner = _found(connection, shard)
        if now is None:
            raise ShardTakenError(
                f"{shard.name} of run r_{shard.run} is no longer in the store {self._store.path}: somebody "
                "cleared the run, or removed the file. Run the line again."
            )
        if owner not in self._store.owners.mine or now.state == "harvested":
            raise ShardTakenError(
                f"{shard.name} of run r_{shard.run} is collected by another call now: this process gave no "
                "sign of life for long. Run the line again."
            )
        return now


def open_shards(connection: sqlite3.Connection) -> list[Shard]:
    """Those that aren't harvested, oldest first. A damaged one is none: nobody could ever harvest it."""
    query = f"SELECT {_COLUMNS} FROM batches WHERE state != 'harvested' ORDER BY id"  # noqa: S608
    return _whole(connection.execute(query))


def shard_of(row: Sequence[Any]) -> Shard | None:
    """The shard in a row of id, run, state, time and sealed facts; None if it isn't as it was written."""
    number, run, state, at, sealed = row
    state = state.decode("utf-8", "replace") if isinstance(state, bytes) else state
    payload = unseal(_facts_name(number, run, state, at), sealed)
    return None if payload is None else Shard(number, run, state, json.loads(payload), at)


def keys_of_shard(connection: sqlite3.Connection, number: int) -> bytes:
    """See `Shards.keys`."""
    row = connection.execute("SELECT keys FROM batches WHERE id = ?", (number,)).fetchone()
    return (unseal(_keys_name(number), row[0]) if row else None) or b""


def remove(connection: sqlite3.Connection, shard: Shard) -> None:
    """Free what a shard holds, and forget it."""
    free_keys(connection, shard)
    connection.execute("DELETE FROM batches WHERE id = ?", (shard.id,))


def free_keys(connection: sqlite3.Connection, shard: Shard) -> None:
    """Give back what a shard holds."""
    keys = keys_of_shard(connection, shard.id)
    # By key: nothing leads from an owner to its claims but a look at every answer.
    held, values = "owner = ?", list[tuple[Any, ...]]([(-shard.id,)])
    if keys:
        held, values = "owner = ? AND key = ?", [(-shard.id, key) for key in sorted(split(keys))]
    connection.executemany(f"DELETE FROM requests WHERE {held} AND value IS NULL", values)  # noqa: S608
    connection.executemany(f"UPDATE requests SET owner = NULL WHERE {held}", values)  # noqa: S608


def _moved(shard: Shard, state: str) -> Shard:
    if not may_follow(shard.state, state):
        raise ValueError(f"a shard doesn't go from {shard.state} to {state}")
    return replace(shard, state=state)


def _written(connection: sqlite3.Connection, shard: Shard) -> Shard:
    sealed = seal(
        _facts_name(shard.id, shard.run, shard.state, shard.at), json.dumps(shard.facts).encode("ascii")
    )
    values = (shard.state, sealed, shard.id)
    connection.execute("UPDATE batches SET state = ?, facts = ? WHERE id = ?", values)
    return shard


def _found(connection: sqlite3.Connection, shard: Shard) -> tuple[Shard | None, object]:
    """The shard as it is now, and who drives it."""
    query = f"SELECT {_COLUMNS}, owner FROM batches WHERE id = ?"  # noqa: S608
    row = connection.execute(query, (shard.id,)).fetchone()
    now = shard_of(row[:-1]) if row else None
    # In a file that was made anew a number comes back.
    if now is None or (now.run, now.at) != (shard.run, shard.at):
        return None, None
    return now, row[-1]


def _whole(rows: Iterable[Sequence[Any]]) -> list[Shard]:
    return [shard for shard in map(shard_of, rows) if shard is not None]


def _holders(connection: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, int]:
    marks = ",".join("?" * len(keys))
    query = f"SELECT key, owner FROM requests WHERE key IN ({marks}) AND owner < 0"  # noqa: S608
    return dict(connection.execute(query, keys).fetchall())


def _halves(keys: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(keys, dtype=np.uint64)[::2]


def _facts_name(number: object, run: object, state: object, at: object) -> bytes:
    # All that a query reads outside the seal: a flipped bit there mustn't move a shard to another state.
    return f"batch {number} {run} {state} {at}".encode()


def _keys_name(number: int) -> bytes:
    return b"keys of batch %d" % number
