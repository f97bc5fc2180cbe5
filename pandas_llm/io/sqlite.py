"""One SQLite file that is ours: made, opened, recognised."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pandas_llm._version import VERSION
from pandas_llm.core.errors import OptionsError
from pandas_llm.io.owners import PATIENCE
from pandas_llm.io.records import seal, unseal

FORMAT = 1
_APPLICATION = 0x70644C4D  # "pdLM"
MAGIC = b"SQLite format 3\x00"
PAGE = 4096
# SQLite keeps each table's definition word by word on page 1: a file whose header is damaged still
# says what it is.
_MARK = "/* of a pandas_llm store */"
_TABLES = {
    # `raw` comes last: what is long behind an answer costs its look-up nothing.
    "requests": "key BLOB PRIMARY KEY, owner INTEGER, value BLOB, run INTEGER, at REAL, raw BLOB",
    # AUTOINCREMENT: a number never comes back, neither an owner's nor a run's.
    "owners": "id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER, at REAL",
    "meta": "name TEXT PRIMARY KEY, value BLOB",
    "runs": "id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, owner INTEGER, facts BLOB",
    "questions": "id TEXT PRIMARY KEY, facts BLOB",
    "columns": "id INTEGER PRIMARY KEY, output TEXT, fingerprint BLOB, facts BLOB, "
    "UNIQUE(output, fingerprint)",
    "facts": "scope TEXT, name TEXT, at REAL, value BLOB, PRIMARY KEY(scope, name)",
    # From here on last: each table of a file without them begins where it does in a new one. And its keys are
    # last in it: a megabyte that nobody reads at a poll.
    "batches": "id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER, owner INTEGER, state TEXT, at REAL, "
    "facts BLOB, keys BLOB",
    "similar": "id INTEGER PRIMARY KEY, question TEXT, embedder TEXT, key BLOB, vector BLOB, text BLOB, "
    "UNIQUE(question, key, embedder)",
    "reuses": "question TEXT, member BLOB, answered_as BLOB, facts BLOB, PRIMARY KEY(question, member)",
}
_LATER = ("batches", "similar", "reuses")
"""Tables that files of earlier versions don't have."""
_EFFECTIVE = os.access in os.supports_effective_ids
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "fuse", "9p", "ceph", "glusterfs", "beegfs", "afs")

FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file makes the sqlite3 module raise."""

Kind = Literal["new", "ours", "damaged", "foreign"]
T = TypeVar("T")
Identity: TypeAlias = tuple[int, int] | None


BLOCK = 256
"""Rows of one writing statement."""


def marks(values: Collection[object], mark: str = "?") -> str:
    """One placeholder a value."""
    return ",".join([mark] * len(values))


def blocks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, as many at a time as one statement takes."""
    return (values[at : at + BLOCK] for at in range(0, len(values), BLOCK))


def sought(connection: sqlite3.Connection, query: str, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """The rows that a query by one key finds for each of the keys."""
    # One by one, each from the root of the tree: in a damaged one a search that goes on from the last key's
    # place sees other rows than the insert of a claim, and who waits for a key would wait for ever.
    return in_order(keys, [row for key in keys for row in connection.execute(query, (key,)).fetchall()])


def in_order(keys: Sequence[bytes], rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows; `sqlite3.DatabaseError` if one begins with a key that isn't among these."""
    # SQLite doesn't see a page in another's place: it finds, and gives, the row of another key.
    if not set(keys).issuperset([row[0] for row in rows]):
        raise sqlite3.DatabaseError("the table is out of order: one key is found for another")
    return rows


def identity(path: Path) -> Identity:
    """Which file bears the name now; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def default_path() -> Path:
    """Where the store is when nobody says otherwise: the user's data directory."""
    from platformdirs import user_data_path

    return user_data_path("pandas_llm", appauthor=False) / "store.sqlite3"


def check_path(path: Path) -> None:
    """Refuse a path that can't hold a store; make its folder, for this user only."""
    try:
        if path.is_dir():
            raise OptionsError(
                f"cache={str(path)!r} is a folder: name a file in it, as {path / 'store.sqlite3'}."
            )
        if path.exists() and not path.is_file():
            raise OptionsError(f"cache={str(path)!r} is not a regular file: name another one.")
        missing = [parent for parent in reversed(path.parents) if not parent.exists()]
        # One new folder is meant; two in a row are a path misspelt, and a second store nobody finds again.
        if len(missing) > 1 and path != default_path().resolve():
            raise OptionsError(
                f"cache={str(path)!r}: there is no folder {str(missing[0])!r}. Make it first, or name a file "
                "in a folder that is there."
            )
        for folder in missing:
            folder.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(exist_ok=True)  # raises if that is a file
    except OptionsError:
        raise
    except (OSError, ValueError) as error:
        raise OptionsError(
            f"cache={str(path)!r} can't be made: {error}. Name a file you can write to."
        ) from error
    for place in (path, path.parent):
        # SQLite writes beside the file, too: a writable file in a read-only folder is no use.
        if place.exists() and not os.access(place, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
            raise OptionsError(
                f"cache={str(path)!r}: {place} can't be written to. Name another file in cache=."
            )


def kind_of(path: Path, *, marked: bool) -> Kind:
    """What the file is, by its bytes; `marked` tells that a lock file of ours stands beside it.

    Only while this process has no connection to it: closing the file here would drop SQLite's locks.
    """
    if not path.exists() or path.stat().st_size == 0:
        return "new"
    with path.open("rb") as file:
        head = file.read(65_536)
    ours = int.from_bytes(head[68:72], "big") == _APPLICATION or _MARK.encode() in head
    if head.startswith(MAGIC):
        if not ours:
            return "foreign"
        # A damaged version number makes SQLite take the file for read-only.
        return "ours" if set(head[18:20]) <= {1, 2} else "damaged"
    whole = path.stat().st_size % PAGE == 0
    return "damaged" if whole and (ours or marked) else "foreign"


def foreign(path: Path) -> OptionsError:
    """The refusal to touch another program's file."""
    return OptionsError(
        f"cache={str(path)!r} is another program's file: name a new one, it is made when needed."
    )


def create(path: Path) -> None:
    """An empty store. Its header says whose it is from the first commit on."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)  # SQLite gives the files beside it the same mode
    with contextlib.closing(connection_to(path)) as connection:
        # Before WAL: what is written under WAL isn't in the file itself for a while.
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id={_APPLICATION}")
        for name in _TABLES:
            _create_table(connection, name)
        for name, text in (("format", str(FORMAT)), ("written by", VERSION)):
            sealed = seal(name.encode(), text.encode())
            connection.execute("INSERT INTO meta(name, value) VALUES (?, ?)", (name, sealed))
        connection.execute("COMMIT")


def connect(path: Path, *, wal: bool) -> sqlite3.Connection:
    """A connection to a file that exists, in WAL mode or with a rollback journal."""
    connection = connection_to(path)
    try:
        _set_journal(connection, "WAL" if wal else "DELETE")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file of a later format, make what an earlier one lacks.

    Raises
    ------
    sqlite3.DatabaseError
        The file is damaged.
    """
    rows = connection.execute(
        "SELECT name, value FROM meta WHERE name IN ('format', 'written by')"
    ).fetchall()
    meta = {name: unseal(name, value) for name, value in rows}
    if meta.get(b"format") is None:
        raise sqlite3.DatabaseError("the format is damaged")
    if int(meta[b"format"] or b"0") > FORMAT:
        writer = (meta.get(b"written by") or b"a later version").decode()
        raise OptionsError(
            f"cache={str(path)!r} was written by pandas_llm {writer}, in a newer format than {VERSION} "
            "reads: pip install -U pandas-llm-accessor, or name another file in cache=."
        )
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master").fetchall()}
    for name in _LATER:
        if name.encode() not in there:
            _create_table(connection, name)
    for name in _TABLES:
        connection.execute(f"SELECT * FROM {name} LIMIT 1").fetchall()  # noqa: S608


def check_order(connection: sqlite3.Connection) -> None:
    """`sqlite3.DatabaseError` if rows are where a search doesn't find them: 0.2 s for a million answers."""
    if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] not in ("ok", b"ok"):
        raise sqlite3.DatabaseError("the table is out of order: a claim that was given back still stands")


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged, rather than locked, full or forbidden."""
    if isinstance(error, UnicodeDecodeError):  # SQLite's message quotes the damaged bytes
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return type(error) is sqlite3.DatabaseError
    # Our SQL is fixed: a table or column it doesn't find, a value too big, means a damaged schema or page.
    return code & 0xFF in {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_NOTADB,
    }


def on_network(path: Path) -> bool:
    """Whether the file's system is one where WAL's shared memory doesn't work."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return file_system(path, mounts).startswith(_NETWORK)


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system a path is on, from the text of /proc/mounts."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        _, point, found, *_ = [*line.split(" "), "", "", ""]
        point = point.encode("latin-1", "replace").decode("unicode_escape")  # \040 is a blank
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind


def connection_to(path: Path) -> sqlite3.Connection:
    """A connection to a file that exists, as it is."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",  # never make a file here: it would get the umask's mode
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    # Damage turns blobs into texts that are no UTF-8, and decoding them would fail the whole look-up.
    connection.text_factory = bytes
    return connection


def _create_table(connection: sqlite3.Connection, name: str) -> None:
    tail = " WITHOUT ROWID" if name in ("requests", "reuses") else ""
    # IF NOT EXISTS isn't kept in the definition.
    connection.execute(f"CREATE TABLE IF NOT EXISTS {name} {_MARK} ({_TABLES[name]}){tail}")


def _set_journal(connection: sqlite3.Connection, mode: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        # "locked" comes at once here, whatever the timeout.
        try:
            connection.execute(f"PRAGMA journal_mode={mode}").fetchall()
        except sqlite3.OperationalError as error:
            if is_damage(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
