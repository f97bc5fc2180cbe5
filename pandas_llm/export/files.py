"""A file and its provenance put in place whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pandas_llm._version import VERSION
from pandas_llm.export.cells import as_json


def publish(path: Path, write: Callable[[Path], int], facts: Mapping[str, Any]) -> None:
    """Let `write` fill a draft beside `path`, describe it, and put both in place."""
    token = secrets.token_hex(6)
    draft, notes = (path.with_name(f".pandas_llm-{token}.{kind}") for kind in ("draft", "json"))
    try:
        rows = write(draft)
        about = {
            "file": path.name,
            **facts,
            "rows": rows,
            "sha256": digest(draft),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pandas_llm": VERSION,
        }
        notes.write_text(json.dumps(as_json(about), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        for written in (*_files(draft), notes):
            _sync(written)
        _place(draft, notes, path)
    finally:
        _remove(draft)
        _remove(notes)


def provenance_path(path: Path) -> Path:
    """Where the provenance of `path` is."""
    return path.with_name(f"{path.name}.provenance.json")


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the sorted lines `<sha256>  <name>` of its files."""
    if path.is_dir():
        lines = (f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(draft: Path, notes: Path, path: Path) -> None:
    # The provenance first: after a crash in between, the same line runs again, as `path` isn't there.
    beside = provenance_path(path)
    is_new = not beside.exists()
    old = draft.with_suffix(".old")
    notes.replace(beside)
    try:
        if draft.is_dir() and path.is_dir():
            path.rename(old)  # a folder can't be replaced in one step
        draft.replace(path)
    except OSError:
        if old.exists():
            old.rename(path)
        if is_new:
            beside.unlink()
        raise
    _remove(old)


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
