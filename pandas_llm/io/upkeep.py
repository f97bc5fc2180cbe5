"""What is in a store, and making it smaller."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandas_llm.core.errors import StoreError
from pandas_llm.core.types import Key
from pandas_llm.io.ledger import Ledger
from pandas_llm.io.shards import Shard, open_shards, remove
from pandas_llm.io.similar_texts import add_gone, count_texts, expect_gone, forget_gone
from pandas_llm.io.sqlite import blocks, marks

_FAILURE = b"[null,["
"""How the payload of a billed failure begins."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers are meant: those that meet every condition given; all of them if none is."""

    run: int | None = None
    model: str | None = None
    older_than: float | None = None
    """Seconds."""
    keys: Sequence[Key] | None = None


def info(store: Ledger) -> dict[str, Any]:
    """The figures of `Store.info`."""
    models = {run["id"]: run.get("model") or "unknown" for run in store.runs()}
    query = (
        "SELECT run, count(value), total(substr(value, 5, 7) = ?), count(*), min(at), max(at) "
        "FROM requests GROUP BY run"
    )
    rows = store.read(lambda c: c.execute(query, (_FAILURE,)).fetchall())
    answers: dict[str, int] = {}
    for run, done, failed, *_ in rows:
        model = models.get(run, "unknown")
        answers[model] = answers.get(model, 0) + done - int(failed)
    return {
        "path": str(store.path),
        "bytes": sum(_size(store.path.with_name(store.path.name + end)) for end in ("", "-wal")),
        "answers": sum(answers.values()),
        "failures": sum(int(row[2]) for row in rows),
        "sent": sum(row[3] - row[1] for row in rows),
        "batches": len(store.read(open_shards)),
        "texts": store.read(count_texts),
        "runs": len(models),
        "oldest": min((row[4] for row in rows if row[4]), default=None),
        "newest": max((row[5] for row in rows if row[5]), default=None),
        "models": {model: count for model, count in answers.items() if count},
    }


def clear(store: Ledger, selection: Selection) -> int:
    """How many answers were removed; see `Store.clear`."""
    runs = store.runs()
    conditions, values = _conditions(store, selection, runs)
    parts: list[Sequence[Key] | None] = [None] if selection.keys is None else list(blocks(selection.keys))

    def work(connection: sqlite3.Connection) -> int:
        shards = open_shards(connection)
        if selection.run is not None and selection == Selection(selection.run):
            for shard in shards:
                if shard.run == selection.run:
                    remove(connection, shard)
        held = [-shard.id for shard in shards]
        removed = 0
        forgetting = selection != Selection() and expect_gone(connection)
        if forgetting and selection == Selection(keys=selection.keys):
            # A text that took another one's answer has none that could be removed.
            add_gone(connection, selection.keys or ())
        for keys in parts:
            where = " AND ".join(conditions if keys is None else [*conditions, f"key IN ({marks(keys)})"])
            given = (*values, *(keys or ()))
            if forgetting:
                going = f"SELECT key FROM requests WHERE {where}"  # noqa: S608
                connection.execute(f"INSERT OR IGNORE INTO temp.gone {going}", given)
            # An answer that a batch is to replace goes; that the batch holds its key stays.
            keep = f"UPDATE requests SET value = NULL, raw = NULL WHERE {where} AND owner IN ({marks(held)})"  # noqa: S608
            removed += connection.execute(keep, (*given, *held)).rowcount
            removed += connection.execute(f"DELETE FROM requests WHERE {where}", given).rowcount  # noqa: S608
        if forgetting:
            forget_gone(connection)
        if selection == Selection():
            running = {run["id"] for run in runs if run.get("status") == "running"}
            _clear_rest(store, connection, running, shards)
        return removed

    removed = store.commit(work, durable=True)
    _shrink(store)
    return removed


def _conditions(
    store: Ledger, selection: Selection, runs: list[dict[str, Any]]
) -> tuple[list[str], list[float]]:
    conditions = ["value IS NOT NULL"]
    values: list[float] = []
    if selection.run is not None:
        conditions.append("run = ?")
        values.append(selection.run)
    if selection.model is not None:
        of_model = [run["id"] for run in runs if run.get("model") == selection.model]
        conditions.append(f"run IN ({marks(of_model)})")
        values += of_model
    if selection.older_than is not None:
        conditions.append("at < ?")
        values.append(store.clock() - selection.older_than)
    return conditions, values


def _clear_rest(
    store: Ledger, connection: sqlite3.Connection, running: set[int], shards: Sequence[Shard]
) -> None:
    owners = {row[0] for row in connection.execute("SELECT DISTINCT owner FROM requests").fetchall()}
    living = [owner for owner in owners if store.owners.lives(owner)] + [-shard.id for shard in shards]
    # NOT IN alone spares rows without an owner.
    dead = f"owner IS NULL OR owner NOT IN ({marks(living)})"
    connection.execute(f"DELETE FROM requests WHERE value IS NULL AND ({dead})", living)  # noqa: S608
    spared = running | {shard.run for shard in shards}
    connection.execute(f"DELETE FROM runs WHERE id NOT IN ({marks(spared)})", [*spared])  # noqa: S608
    numbers = [shard.id for shard in shards]
    connection.execute(f"DELETE FROM batches WHERE id NOT IN ({marks(numbers)})", numbers)  # noqa: S608
    # Whoever harvests a shard has to know what was asked.
    rests = ("facts", "similar", "reuses", "meta WHERE name = 'dictionary'")
    for rest in (*(() if shards else ("questions",)), *rests):
        connection.execute(f"DELETE FROM {rest}")  # noqa: S608


def _shrink(store: Ledger) -> None:
    def work(connection: sqlite3.Connection) -> None:
        free, pages = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count")
        )
        if free * 4 > pages:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # Only room on the disk is at stake: whoever is at work just now goes first.
    with contextlib.suppress(StoreError):
        store.outside(work)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
