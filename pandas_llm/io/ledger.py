"""What the store knows beside answers: runs, questions, who wrote a column, what an endpoint understands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pandas_llm.io.database import Database
from pandas_llm.io.records import seal, unseal


class Ledger(Database):
    """The part of a store that is read by people: small, sealed JSON."""

    def start_run(self, /, **facts: Any) -> int:
        """The number of a new run; users see it as `r_41`. It never comes back."""

        def work(connection: Any) -> int:
            row = connection.execute(
                "INSERT INTO runs(at, owner) VALUES (?, ?) RETURNING id",
                (self.clock(), self.owners.me(connection)),
            ).fetchone()
            run: int = row[0]
            connection.execute("UPDATE runs SET facts = ? WHERE id = ?", (_sealed(b"%d" % run, facts), run))
            return run

        return self.commit(work)

    def end_run(self, run: int, /, **facts: Any) -> None:
        """Add to what is known of a run; a power cut can't undo it, nor anything committed before."""

        def work(connection: Any) -> None:
            row = connection.execute("SELECT facts FROM runs WHERE id = ?", (run,)).fetchone()
            known = _opened(b"%d" % run, row[0]) if row else None
            connection.execute(
                "UPDATE runs SET facts = ? WHERE id = ?",
                (_sealed(b"%d" % run, {**(known or {}), **facts}), run),
            )

        self.commit(work, durable=True)

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first: `id`, `at` (seconds since 1970) and what was said of them.

        A run whose process is gone and which still says `status="running"` was killed, and says so.
        """
        rows = self.read(lambda c: c.execute("SELECT id, at, owner, facts FROM runs ORDER BY id").fetchall())
        lives = {owner: self.owners.lives(owner) for owner in {row[2] for row in rows}}
        runs = []
        for run, at, owner, sealed in rows:
            facts = _opened(b"%d" % run, sealed)
            if facts is None:
                continue
            if facts.get("status") == "running" and not lives[owner]:
                facts["status"] = "killed"
            runs.append({"id": run, "at": at, **facts})
        return runs

    def put_question(self, name: str, facts: Mapping[str, Any]) -> None:
        """Remember the fixed part of a question under its id."""
        row = (name, _sealed(name.encode(), facts))
        self.commit(lambda c: c.execute("INSERT OR REPLACE INTO questions(id, facts) VALUES (?, ?)", row))

    def question(self, name: str) -> dict[str, Any] | None:
        """The fixed part of a question."""
        row = self.read(lambda c: c.execute("SELECT facts FROM questions WHERE id = ?", (name,)).fetchone())
        return _opened(name.encode(), row[0]) if row else None

    def put_column(self, output: str, fingerprint: bytes, /, **facts: Any) -> None:
        """Remember that a run wrote this column: `run=`, `sides=`, `spec=`, `question=`."""
        row = (output, fingerprint, _sealed(output.encode() + fingerprint, facts))
        self.commit(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO columns(output, fingerprint, facts) VALUES (?, ?, ?)", row
            )
        )

    def columns(self, output: str) -> list[dict[str, Any]]:
        """What was written under this name, newest first: `fingerprint` and what was said of it."""
        query = "SELECT fingerprint, facts FROM columns WHERE output = ? ORDER BY id DESC"
        rows = self.read(lambda c: c.execute(query, (output,)).fetchall())
        opened = (
            (fingerprint, _opened(output.encode() + fingerprint, sealed)) for fingerprint, sealed in rows
        )
        return [{"fingerprint": fingerprint, **facts} for fingerprint, facts in opened if facts is not None]

    def column(self, output: str, fingerprint: bytes) -> dict[str, Any] | None:
        """What was said of a column when a run wrote it; None if none did."""
        query = "SELECT facts FROM columns WHERE output = ? AND fingerprint = ?"
        row = self.read(lambda c: c.execute(query, (output, fingerprint)).fetchone())
        return _opened(output.encode() + fingerprint, row[0]) if row else None

    def put_fact(self, scope: str, name: str, value: Any) -> None:
        """Remember what was learnt, about an endpoint and model for instance."""
        row = (scope, name, self.clock(), _sealed(f"{scope}\0{name}".encode(), value))
        self.commit(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO facts(scope, name, at, value) VALUES (?, ?, ?, ?)", row
            )
        )

    def fact(self, scope: str, name: str) -> Any:
        """What was learnt; None if nothing was."""
        query = "SELECT value FROM facts WHERE scope = ? AND name = ?"
        row = self.read(lambda c: c.execute(query, (scope, name)).fetchone())
        return _opened(f"{scope}\0{name}".encode(), row[0]) if row else None


def _sealed(name: bytes, value: Any) -> bytes:
    return seal(name, json.dumps(value, default=str).encode("ascii"))


def _opened(name: bytes, sealed: object) -> Any:
    payload = unseal(name, sealed)
    return None if payload is None else json.loads(payload)
