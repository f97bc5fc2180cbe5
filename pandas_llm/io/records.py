"""Answers as bytes that tell when they were damaged, and back."""

from __future__ import annotations

import json
import zlib
from binascii import crc32
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from pandas_llm.core.types import Key, Record, Usage

Payload: TypeAlias = list[Any]
"""A record as the list of its fields, in order; the usage is a list of five ints. See `record_of`."""

UNREAD = "Unread"
"""The error of an answer that was collected without its question at hand: it is read when it is met."""

_SUM = 4
_WINDOW = 2048
# What orjson can't write or would read back changed (lone surrogates, integers over 64 bits) goes
# through json; no JSON begins with this byte, so orjson refuses it and nobody has to look for it.
_WIDE = b"~"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, or a billed failure, on its way into the store."""

    key: Key
    record: Record
    replies: tuple[bytes, ...]
    """Every raw reply that was billed."""
    run: int


def seal(name: bytes, payload: bytes) -> bytes:
    """The payload behind a checksum over it and its name."""
    return crc32(payload, crc32(name)).to_bytes(_SUM, "big") + payload


def unseal(name: bytes, sealed: object) -> bytes | None:
    """The payload, None if it isn't what was sealed under this name.

    The name is in the sum because a page of the file can stand whole in another page's place.
    """
    if not isinstance(sealed, bytes):  # a flipped bit turns a value into a number, too
        return None
    payload = sealed[_SUM:]
    return payload if sealed[:_SUM] == crc32(payload, crc32(name)).to_bytes(_SUM, "big") else None


def sealed_record(key: Key, record: Record) -> bytes:
    """A record as the store keeps it."""
    usage = record.usage
    payload = [
        record.output,
        record.error,
        [usage.input, usage.output, usage.cached, usage.cache_written, usage.reasoning],
        record.model,
        record.service_tier,
        record.finish_reason,
        record.request_id,
        record.latency,
        record.attempts,
        *([True] if record.batch else ()),
    ]
    return seal(key, _dumps(payload))


def record_of(payload: Payload) -> Record:
    """The record of a payload; a payload of a later version may have more fields behind ours."""
    output, error, usage, *rest = payload[:10]
    return Record(output, tuple(error) if error else None, Usage(*usage), *rest)


def payloads_of(rows: Sequence[tuple[Any, Any]]) -> list[tuple[Key, Payload]]:
    """The payloads of those rows of keys and sealed records whose checksum holds."""
    loads, number = orjson.loads, int.from_bytes
    try:  # the only loop that 200,000 answers from the store pass: no call of ours inside
        return [
            (key, loads(payload))
            for key, sealed in rows
            if crc32(payload := sealed[_SUM:], crc32(key)) == number(sealed[:_SUM], "big")
        ]
    except (TypeError, orjson.JSONDecodeError):
        opened = ((key, unseal(key, sealed)) for key, sealed in rows)
        return [(key, _loads(payload)) for key, payload in opened if payload is not None]


def packed_replies(key: Key, replies: Iterable[bytes], dictionary: bytes) -> bytes:
    """Raw replies, compressed: with a reply of the same server as dictionary, a tenth of their size."""
    plain = b"".join(len(reply).to_bytes(_SUM, "big") + reply for reply in replies)
    # A window of 2 KB and little memory: set-up with zlib's defaults costs ten times the compression.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -11, 4, zlib.Z_DEFAULT_STRATEGY, dictionary)
    total = crc32(plain, crc32(key)).to_bytes(_SUM, "big")
    return total + deflate.compress(plain) + deflate.flush()


def unpacked_replies(key: Key, packed: object, dictionary: bytes) -> tuple[bytes, ...]:
    """The raw replies; none if they are damaged, or the dictionary is not theirs."""
    if not isinstance(packed, bytes):
        return ()
    try:
        plain = zlib.decompressobj(-11, dictionary).decompress(packed[_SUM:])
    except zlib.error:
        return ()
    if unseal(key, packed[:_SUM] + plain) is None:
        return ()
    replies, at = [], 0
    while at < len(plain):
        end = at + _SUM + int.from_bytes(plain[at : at + _SUM], "big")
        replies.append(plain[at + _SUM : end])
        at = end
    return tuple(replies)


def dictionary_of(reply: bytes) -> bytes:
    """What of a reply serves as dictionary for the others: zlib sees no further than its window."""
    return reply[-_WINDOW:] or b"\n"


def _dumps(payload: Payload) -> bytes:
    try:
        return orjson.dumps(payload)
    except TypeError:
        return _WIDE + json.dumps(payload).encode("ascii")


def _loads(payload: bytes) -> Payload:
    loaded: Payload = json.loads(payload[1:]) if payload[:1] == _WIDE else orjson.loads(payload)
    return loaded
