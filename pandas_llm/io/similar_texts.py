"""What `dedupe="semantic"` keeps: the texts it compared, their vectors, and who took whose answer.

The only texts of a user that the store holds, each by its question and key. A key's answer goes with them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pandas_llm.core.plan import KEY_BYTES, split
from pandas_llm.core.types import Key
from pandas_llm.io.records import Payload, seal, unseal
from pandas_llm.io.sqlite import in_order, marks

if TYPE_CHECKING:
    import sqlite3

    from pandas_llm.io.store import Store

_WRITTEN = 2_048
"""Rows of one commit: 2 to 6 MB, which other writers wait 50 ms for."""
_READ = 1_024
_LOOK_UP = 8_192
_FACTS = struct.Struct("<4dq")
_HALF = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class Reuse:
    """One text that took another one's answer, and on what grounds."""

    member: Key
    answered_as: Key
    similarity: float
    threshold: float
    max_error: float
    confidence: float
    run: int
    agreement: str = ""
    """The function that told whether two answers agree; empty where they had to be equal."""


class SimilarTexts:
    """The compared texts of a store and what was reused among them, for any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put_texts(
        self, question: str, embedder: str, rows: Iterable[tuple[Key, str, npt.NDArray[Any]]]
    ) -> None:
        """Keep texts with their vectors, in commits of a few megabytes; what is there already costs little.

        Vectors are of unit length, or near it: they are kept as float16. `embedder` says all that makes
        vectors comparable: the model, and how many dimensions were asked of it.
        """
        statement = (
            "INSERT INTO similar(question, embedder, key, vector, text) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT(question, key, embedder) DO UPDATE SET vector = excluded.vector, "
            "text = excluded.text WHERE vector IS NOT excluded.vector OR text IS NOT excluded.text"
        )
        left = iter(rows)
        # Neighbours lie on one page of the index.
        while batch := sorted(islice(left, _WRITTEN), key=lambda row: row[0]):
            vectors = np.stack([vector for *_, vector in batch]).astype(_HALF)
            values = [
                (
                    question,
                    embedder,
                    key,
                    seal(_vector_name(question, embedder) + key, vector.tobytes()),
                    seal(_text_name(question) + key, _packed(text)),
                )
                for (key, text, _), vector in zip(batch, vectors, strict=True)
            ]
            self._store.commit(partial(_execute_many, statement=statement, values=values))

    def texts(self, question: str, embedder: str) -> Iterator[list[tuple[Key, str]]]:
        """The texts of which vectors of this embedder are kept, in chunks, oldest first."""
        name = _text_name(question)
        for chunk in self._payloads("text", name, self._ids(question, embedder)):
            yield [(key, _unpacked(packed)) for key, packed in chunk]

    def vectors(self, question: str, embedder: str) -> tuple[bytes, npt.NDArray[np.float16]]:
        """Keys, end to end, and their vectors, one a row; oldest first, so that new ones come last.

        What is damaged is left out, and so is a vector of another length than the newest.
        """
        ids, name = self._ids(question, embedder), _vector_name(question, embedder)
        newest_first = self._payloads("vector", name, ids[::-1])
        width = next((len(chunk[-1][1]) for chunk in newest_first if chunk), 0)
        if not width:
            return b"", np.empty((0, 0), dtype=np.float16)
        # Filled in place: a list of the vectors before it would be all of them twice.
        matrix, keys, end = np.empty((len(ids), width), dtype=np.uint8), bytearray(), 0
        for chunk in self._payloads("vector", name, ids):
            alike = [(key, vector) for key, vector in chunk if len(vector) == width]
            joined = np.frombuffer(b"".join([vector for _, vector in alike]), dtype=np.uint8)
            begin, end = end, end + len(alike)
            matrix[begin:end] = joined.reshape(-1, width)
            keys += b"".join([key for key, _ in alike])
        return bytes(keys), matrix[:end].view(_HALF)

    def text_of(self, question: str, key: Key) -> str | None:
        """One compared text; None if it isn't kept, or damaged."""
        query = "SELECT text FROM similar WHERE question = ? AND key = ?"
        rows = self._store.read(lambda connection: connection.execute(query, (question, key)).fetchall())
        opened = (unseal(_text_name(question) + key, sealed) for (sealed,) in rows)
        return next((_unpacked(packed) for packed in opened if packed is not None), None)

    def put_reuses(self, question: str, rows: Iterable[Reuse]) -> None:
        """Keep who took whose answer; a member's last one counts."""
        statement = "INSERT OR REPLACE INTO reuses(question, member, answered_as, facts) VALUES (?, ?, ?, ?)"
        left = iter(rows)
        while batch := sorted(islice(left, _WRITTEN), key=lambda reuse: reuse.member):
            values = [
                (question, reuse.member, reuse.answered_as, _sealed_facts(question, reuse)) for reuse in batch
            ]
            self._store.commit(partial(_execute_many, statement=statement, values=values))

    def reuses(self, question: str, keys: bytes) -> dict[Key, Reuse]:
        """Those of the keys, end to end, that took another one's answer. A damaged one is left out."""
        found: dict[Key, Reuse] = {}
        # Neighbours lie on one page.
        sorted_keys = np.sort(np.frombuffer(keys, dtype=f"S{KEY_BYTES}")).tobytes()
        for at in range(0, len(sorted_keys), _LOOK_UP * KEY_BYTES):
            chunk = list(split(sorted_keys[at : at + _LOOK_UP * KEY_BYTES]))
            rows = self._store.read(partial(_reused, question=question, keys=chunk))
            opened = (_reuse_of(question, *row) for row in rows)
            found.update((reuse.member, reuse) for reuse in opened if reuse is not None)
        return found

    def shared_payloads(self, question: str, keys: bytes) -> Iterator[list[tuple[Key, Payload]]]:
        """The stored answers that these keys took, each under the key that took it."""
        reuses = self.reuses(question, keys)
        members: dict[Key, list[Key]] = {}
        for reuse in reuses.values():
            members.setdefault(reuse.answered_as, []).append(reuse.member)
        for chunk in self._store.known_payloads(b"".join(sorted(members))):
            yield [(member, payload) for key, payload in chunk for member in members[key]]

    def count(self, question: str) -> int:
        """How many texts of a question are kept."""
        return self._store.read(lambda connection: count_texts(connection, question))

    def forget(self, question: str | None = None, keys: bytes | Sequence[Key] | None = None) -> None:
        """Drop texts, vectors and reuses: all, of a question, of keys and of what took their answers."""

        def work(connection: sqlite3.Connection) -> None:
            if keys is None:
                where, values = ("", ()) if question is None else (" WHERE question = ?", (question,))
                for table in ("similar", "reuses"):
                    connection.execute(f"DELETE FROM {table}{where}", values)  # noqa: S608
            elif expect_gone(connection):
                add_gone(connection, split(keys) if isinstance(keys, bytes) else keys)
                forget_gone(connection, question)

        self._store.commit(work)

    def _ids(self, question: str, embedder: str) -> npt.NDArray[np.int64]:
        """The rows of an embedder's vectors in the order they lie in the file, which is that of writing."""
        query = "SELECT id FROM similar WHERE question = ? AND embedder = ?"

        def work(connection: sqlite3.Connection) -> npt.NDArray[np.int64]:
            rows = connection.execute(query, (question, embedder))
            return np.unique(np.fromiter((row[0] for row in rows), dtype=np.int64))

        return self._store.read(work)

    def _payloads(
        self, column: str, name: bytes, ids: npt.NDArray[np.int64]
    ) -> Iterator[list[tuple[Key, bytes]]]:
        """What is whole of a column in these rows, in chunks: nobody waits while a caller is at work."""
        for at in range(0, len(ids), _READ):
            chunk = ids[at : at + _READ].tolist()
            rows = self._store.read(partial(_selected, column=column, ids=chunk))
            opened = [(key, unseal(name + key, sealed)) for key, sealed in rows if isinstance(key, bytes)]
            yield [(key, payload) for key, payload in opened if payload is not None]


def count_texts(connection: sqlite3.Connection, question: str | None = None) -> int:
    """How many texts are kept, of a question or of all."""
    where, values = ("", ()) if question is None else ("WHERE question = ?", (question,))
    query = f"SELECT count(*) FROM (SELECT DISTINCT question, key FROM similar {where})"  # noqa: S608
    return int(connection.execute(query, values).fetchone()[0])


def expect_gone(connection: sqlite3.Connection) -> bool:
    """Whether there is anything that could be forgotten; then an empty list of keys to forget is made."""
    query = "SELECT EXISTS(SELECT 1 FROM similar) OR EXISTS(SELECT 1 FROM reuses)"
    if not connection.execute(query).fetchone()[0]:
        return False
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS gone(key BLOB PRIMARY KEY) WITHOUT ROWID")
    connection.execute("DELETE FROM temp.gone")
    return True


def add_gone(connection: sqlite3.Connection, keys: Iterable[Key]) -> None:
    """Put keys on the list of `expect_gone`."""
    connection.executemany("INSERT OR IGNORE INTO temp.gone VALUES (?)", ((key,) for key in keys))


def forget_gone(connection: sqlite3.Connection, question: str | None = None) -> None:
    """Drop what is kept of the keys on the list, and of those that took their answers."""
    where, values = ("", ()) if question is None else ("AND question = ?", (question,))
    for statement in (
        f"INSERT OR IGNORE INTO temp.gone SELECT member FROM reuses WHERE answered_as IN temp.gone {where}",  # noqa: S608
        f"DELETE FROM similar WHERE id IN (SELECT id FROM similar WHERE key IN temp.gone {where})",  # noqa: S608
        f"DELETE FROM reuses WHERE member IN temp.gone {where}",  # noqa: S608
    ):
        connection.execute(statement, values)
    connection.execute("DELETE FROM temp.gone")


def is_whole_text(row: Sequence[Any]) -> bool:
    """Whether a row of question, embedder, key, vector and text is as it was written."""
    question, embedder, key, vector, text = row
    return (
        isinstance(key, bytes)
        and unseal(_vector_name(str(question), str(embedder)) + key, vector) is not None
        and unseal(_text_name(str(question)) + key, text) is not None
    )


def is_whole_reuse(row: Sequence[Any]) -> bool:
    """Whether a row of question, member, answered_as and sealed facts is as it was written."""
    return _reuse_of(str(row[0]), *row[1:]) is not None


def _selected(connection: sqlite3.Connection, *, column: str, ids: Sequence[int]) -> list[tuple[Any, Any]]:
    query = f"SELECT key, {column} FROM similar WHERE id IN ({marks(ids)}) ORDER BY id"  # noqa: S608
    return connection.execute(query, ids).fetchall()


def _reused(connection: sqlite3.Connection, *, question: str, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
    query = f"SELECT member, answered_as, facts FROM reuses WHERE question = ? AND member IN ({marks(keys)})"  # noqa: S608
    return in_order(keys, connection.execute(query, (question, *keys)).fetchall())


def _execute_many(
    connection: sqlite3.Connection, *, statement: str, values: Sequence[tuple[Any, ...]]
) -> None:
    connection.executemany(statement, values)


def _sealed_facts(question: str, reuse: Reuse) -> bytes:
    facts = (reuse.similarity, reuse.threshold, reuse.max_error, reuse.confidence, reuse.run)
    name = _reuse_name(question, reuse.member, reuse.answered_as)
    return seal(name, _FACTS.pack(*facts) + reuse.agreement.encode())


def _reuse_of(question: str, member: object, answered_as: object, sealed: object) -> Reuse | None:
    if not (isinstance(member, bytes) and isinstance(answered_as, bytes)):
        return None
    facts = unseal(_reuse_name(question, member, answered_as), sealed)
    if facts is None:
        return None
    similarity, threshold, max_error, confidence, run = _FACTS.unpack_from(facts)
    agreement = facts[_FACTS.size :].decode("utf-8", "replace")
    return Reuse(member, answered_as, similarity, threshold, max_error, confidence, run, agreement)


def _packed(text: str) -> bytes:
    # Little memory: set-up with zlib's defaults costs ten times the compression of a short text.
    deflate = zlib.compressobj(6, zlib.DEFLATED, -12, 4)
    return deflate.compress(text.encode()) + deflate.flush()


def _unpacked(packed: bytes) -> str:
    return zlib.decompress(packed, -12).decode()


def _text_name(question: str) -> bytes:
    return b"text\0%b\0" % question.encode()


def _vector_name(question: str, embedder: str) -> bytes:
    return b"vector\0%b\0%b\0" % (question.encode(), embedder.encode())


def _reuse_name(question: str, member: Key, answered_as: Key) -> bytes:
    return b"reuse\0%b\0%b%b" % (question.encode(), member, answered_as)
