"""SQLite's pages, read without SQLite: for answers that no search finds, as what leads to them is damaged.

The format is described at https://www.sqlite.org/fileformat2.html, sections 1.5, 1.6 and 2.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

from pandas_llm.io.sqlite import PAGE

Row: TypeAlias = tuple[Any, ...]

_INTERIOR, _LEAF = 0x02, 0x0A  # of an index, which a table without rowid is
_LOCAL_MOST = (PAGE - 12) * 64 // 255 - 23
_LOCAL_LEAST = (PAGE - 12) * 32 // 255 - 23
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""Bytes of a value by its type, below 12: null, integers, a float, the constants 0 and 1."""


def free_pages(file: BinaryIO) -> set[int]:
    """The numbers of the pages that are in no table: what was cleared may still stand there."""
    free: set[int] = set()
    trunk = _numbers(_page(file, 1)[32:36])[0]
    while trunk and trunk not in free:
        free.add(trunk)
        following, count, *leaves = _numbers(_page(file, trunk))
        free.update(leaves[:count])
        trunk = following
    return free


def answers_on(file: BinaryIO, number: int) -> Iterator[Row]:
    """The rows of a page, if it is one of the table of requests; damaged ones may be among them."""
    page = _page(file, number)
    if len(page) < PAGE or page[0] not in (_INTERIOR, _LEAF):
        return
    start = 12 if page[0] == _INTERIOR else 8
    count = min(int.from_bytes(page[3:5], "big"), (PAGE - start) // 2)
    for (at,) in struct.iter_unpack(">H", page[start : start + 2 * count]):
        try:
            row = _row(page, at + (4 if page[0] == _INTERIOR else 0))
        except (IndexError, struct.error):
            continue
        if len(row) == 6:
            yield row


def _row(page: bytes, at: int) -> Row:
    size, at = _varint(page, at)
    local = size
    if size > _LOCAL_MOST:  # the rest is on other pages; an answer's beginning is here
        local = _LOCAL_LEAST + (size - _LOCAL_LEAST) % (PAGE - 4)
        local = local if local <= _LOCAL_MOST else _LOCAL_LEAST
    record = page[at : at + local]
    end, at = _varint(record, 0)
    kinds = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
    row = []
    at = end
    for kind in kinds:
        width = _SIZES[kind] if kind < 12 else (kind - 12) // 2
        row.append(_value(kind, record[at : at + width], width))
        at += width
    return tuple(row)


def _value(kind: int, content: bytes, width: int) -> Any:
    if len(content) < width or kind == 0 or (kind >= 12 and kind % 2):
        return None  # cut off, or a text: there is none in this table
    if kind >= 12:
        return content
    if kind == 7:
        return struct.unpack(">d", content)[0]
    return kind - 8 if kind in (8, 9) else int.from_bytes(content, "big", signed=True)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(at, at + 8):
        number = number << 7 | content[place] & 0x7F
        if content[place] < 0x80:
            return number, place + 1
    return number << 8 | content[at + 8], at + 9


def _page(file: BinaryIO, number: int) -> bytes:
    file.seek((number - 1) * PAGE)
    return file.read(PAGE)


def _numbers(page: bytes) -> tuple[int, ...]:
    whole = page[: len(page) // 4 * 4] or bytes(8)
    return struct.unpack(f">{len(whole) // 4}I", whole)
