"""Files that were uploaded or made, in unnamed temporary files: they go with the process, however it ends."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from fakes.answers import Json

_BLOCK = 1 << 18
_BOUNDARY = re.compile(r'multipart/.*\bboundary="?([^";]+)')
_NAMES = re.compile(r'\b(name|filename)="([^"]*)"')
_numbers = itertools.count(1)  # a process never uses an id twice, also not on another server's port


class StoredFile:
    """One file; `content` is what was stored, also after it was deleted."""

    def __init__(self, purpose: str, filename: str) -> None:
        self.id = ""
        self.purpose = purpose
        self.filename = filename
        self.bytes = 0
        self.created_at = 0
        self.expires_at: int | None = None
        self.deleted = False
        self._handle = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115 - lives as long as its server
        self._flushed = True

    def __repr__(self) -> str:
        return f"<StoredFile {self.id} {self.purpose} {self.filename} {self.bytes} B>"

    def append(self, data: bytes) -> None:
        """Add to its end."""
        self._handle.write(data)
        self.bytes += len(data)
        self._flushed = False

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        if self._handle.closed:  # the server was cleared while a request that nobody waits for went on
            raise ConnectionResetError(f"{self!r} is gone.")
        if not self._flushed:
            self._handle.flush()
            self._flushed = True
        return os.pread(self._handle.fileno(), self.bytes if size is None else size, offset)

    @property
    def content(self) -> bytes:
        """All of it."""
        return self.read()

    def lines(self) -> Iterator[bytes]:
        """Its lines without their ends, split at `\\n` alone; a last line may lack its end."""
        offset, rest = 0, b""
        while block := self.read(offset, _BLOCK):
            offset += len(block)
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def close(self) -> None:
        self._handle.close()

    def json(self) -> Json:
        """The file object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files(dict[str, StoredFile]):
    """All files by id, deleted ones too."""

    def keep(self, file: StoredFile, now: float, seconds: float | None = None) -> StoredFile:
        """Give it an id and its times; without `seconds` it stays 30 days, as a batch's files do."""
        file.id = f"file-{next(_numbers):08}"
        file.created_at = int(now)
        file.expires_at = int(now + (30 * 86_400 if seconds is None else seconds))
        self[file.id] = file
        return file

    def found(self, number: str, now: float) -> StoredFile | None:
        """The file, unless it was deleted or has expired."""
        file = self.get(number)
        gone = file is None or file.deleted or (file.expires_at is not None and file.expires_at <= now)
        return None if gone else file

    def close(self) -> None:
        for file in self.values():
            file.close()
        self.clear()


async def receive(request: web.BaseRequest) -> tuple[StoredFile | None, Mapping[str, Any]]:
    """The file of an upload and the form's other fields; no file where the request isn't such a form.

    aiohttp's own reader of forms changes the filters of warnings, which are the whole process's, for moments:
    in this thread that would make warnings vanish, or appear, in the tests' own.
    """
    fields: dict[str, Any] = {}
    found = _BOUNDARY.search(request.headers.get("content-type", ""))
    if found is None:
        await request.content.read()
        return None, fields
    delimiter = b"\r\n--" + found[1].encode()
    file: StoredFile | None = None
    name, rest = "", b"\r\n"

    def take(data: bytes) -> None:
        if name == "file" and file is not None:
            file.append(data)
        elif name:
            fields[name] = fields.get(name, "") + data.decode()

    try:
        async for block in request.content.iter_chunked(_BLOCK):
            rest += block
            while (at := rest.find(delimiter)) >= 0 and (end := rest.find(b"\r\n\r\n", at)) >= 0:
                take(rest[:at])
                said = dict(_NAMES.findall(rest[at:end].decode()))
                name, rest = said.get("name", ""), rest[end + 4 :]
                if name == "file":
                    file = StoredFile("", said.get("filename", ""))
            if at < 0:
                take(rest[: -len(delimiter)])
                rest = rest[-len(delimiter) :]
        take(rest[: rest.find(delimiter)])
    except BaseException:
        if file is not None:
            file.close()
        raise
    return file, fields


async def send(request: web.BaseRequest, file: StoredFile, headers: Mapping[str, str]) -> web.StreamResponse:
    """The file's bytes as they are."""
    response = web.StreamResponse(headers={"content-type": "application/octet-stream", **headers})
    response.content_length = file.bytes
    await response.prepare(request)
    # Not a step beyond the end: a client that has it all may let the file be closed meanwhile.
    for offset in range(0, file.bytes, _BLOCK):
        await response.write(file.read(offset, _BLOCK))
    return response
