"""A shard's way to the provider and back: each remote step is in the store's journal before it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import BinaryIO, TypeVar, cast

from pandas_llm.core.batches import BatchInfo, is_ours, metadata
from pandas_llm.core.errors import ApiError, BadRequestError, EndpointError, LLMError, ServerError
from pandas_llm.core.lines import check_lines
from pandas_llm.core.retry import wait_before_retry
from pandas_llm.dispatch.aside import aside
from pandas_llm.io.provider import Provider
from pandas_llm.io.shards import Shard, Shards

T = TypeVar("T")

_UPLOAD_SECONDS = 900.0
"""For 200 MB over a slow line."""
_CREATE_SECONDS = 60.0
_BLOCK = 1 << 20
_CONNECT_TRIES = 3
_FILE_TRIES = 6
"""How often a batch is created whose file the provider says it can't find: it needs seconds to see it."""


class Courier:
    """Takes shards to the provider and brings their files back.

    The SDK sends no idempotency key: a create whose reply was lost may have made a batch, which is looked
    for in the provider's list before another one is made.
    """

    def __init__(self, shards: Shards, provider: Provider, *, max_retries: int, settles: float) -> None:
        self._shards = shards
        self._provider = provider
        self._max_retries = max_retries
        self._settles = settles
        """Seconds that a create may go on after the process that asked for it died."""

    async def upload(self, shard: Shard, lines: Callable[[], Iterable[bytes]], alone: asyncio.Lock) -> Shard:
        """The shard with its file at the provider, written and checked here before, `alone`."""
        with tempfile.TemporaryFile() as file:
            spool = cast("BinaryIO", file)
            async with alone:
                sha256, size = await aside(_write, spool, lines)
                await aside(_check, spool, shard)
            shard = await self.note(shard, "uploading", sha256=sha256, bytes=size)
            name = f"pandas_llm-r_{shard.run}-{shard.id}.jsonl"
            file_id = await self._tried(lambda: self._provider.upload(name, spool, _UPLOAD_SECONDS))
        return await self.note(shard, "uploaded", input_file_id=file_id)

    async def create(self, shard: Shard) -> Shard:
        """The shard with a batch of its own, found or made."""
        # A process died between the two, or never heard whether there is one.
        info = await self._find_settled(shard) if shard.state == "creating" else None
        shard = await self.note(shard, "creating", creating_at=time.time())
        tries = 0
        while info is None:
            try:
                info = await self._create(shard)
            except ApiError as error:
                tries += 1
                wait = self._wait(error, tries)
                if wait is None:
                    if not isinstance(error, ServerError):  # a clear no: there is no batch
                        await self.note(shard, "uploaded")
                    raise
                await asyncio.sleep(wait)
                info = await self.find(shard)
        return await self.seen(shard, info, "created")

    async def find_only(self, shard: Shard) -> Shard:
        """The shard with its batch if there is one already; else it is back at its file."""
        info = await self._find_settled(shard)
        return await (self.note(shard, "uploaded") if info is None else self.seen(shard, info, "created"))

    async def find(self, shard: Shard) -> BatchInfo | None:
        """The shard's batch in the provider's list."""
        ours = metadata(shard.run, shard.id, shard.facts["sha256"])
        refused = shard.facts.get("refused") or ()
        for info in await self._tried(self._provider.recent):
            if info.id not in refused and is_ours(info, ours, shard.facts.get("input_file_id")):
                return info
        return None

    async def _find_settled(self, shard: Shard) -> BatchInfo | None:
        """The shard's batch, once a create that was asked for a moment ago can't make it any more."""
        info = await self.find(shard)
        wait = min(self._settles, shard.facts.get("creating_at", 0.0) + self._settles - time.time())
        if info is None and wait > 0:
            await asyncio.sleep(wait)
            info = await self.find(shard)
        return info

    async def poll(self, shard: Shard) -> tuple[Shard, BatchInfo]:
        """The shard as the provider sees it now."""
        info = await self._provider.retrieve(shard.facts["batch_id"])
        return await self.seen(shard, info), info

    async def cancel(self, shard: Shard) -> Shard:
        """The shard whose batch the provider is stopping; polls tell when it has."""
        info = await self.ask_to_cancel(shard)
        return shard if info is None else await self.seen(shard, info)

    async def ask_to_cancel(self, shard: Shard) -> BatchInfo | None:
        """The batch that is being stopped; None where it is over already."""
        try:
            return await self._tried(lambda: self._provider.cancel(shard.facts["batch_id"]))
        except (BadRequestError, ServerError) as error:
            if error.status not in (400, 409):
                raise
            return None

    async def forget_batch(self, shard: Shard) -> Shard:
        """The shard back at its file: its batch was refused as a whole, and isn't to be found again."""
        refused = [*(shard.facts.get("refused") or ()), shard.facts["batch_id"]]
        gone = dict.fromkeys(("batch_id", "status", "output_file_id", "error_file_id", "ended_at"))
        return await self.note(shard, "uploaded", refused=refused, **gone)

    async def fetch(self, file_id: str, into: BinaryIO) -> None:
        """Download a file whole."""
        await self._tried(lambda: self._provider.download(file_id, into, _UPLOAD_SECONDS))

    async def delete_files(self, shard: Shard) -> None:
        """Delete a harvested shard's files at the provider."""
        for name in ("input_file_id", "output_file_id", "error_file_id"):
            if file_id := shard.facts.get(name):
                # Its answers are in the store by now: a file that stays costs nothing, and expires.
                with contextlib.suppress(ApiError):
                    await self._tried(partial(self._provider.delete, file_id))

    async def seen(self, shard: Shard, info: BatchInfo, state: str | None = None) -> Shard:
        """Note what the provider says of a batch, where it is news."""
        facts = {
            "batch_id": info.id,
            "status": info.status,
            "total": info.total,
            "completed": info.completed,
            "failed": info.failed,
            "created_at": info.created_at,
            "expires_at": info.expires_at,
            "ended_at": info.ended_at,
            "output_file_id": info.output_file_id,
            "error_file_id": info.error_file_id,
        }
        if state is None and all(shard.facts.get(name) == value for name, value in facts.items()):
            return shard
        return await self.note(shard, state, **facts, changed_at=time.time())

    async def note(self, shard: Shard, state: str | None = None, **facts: object) -> Shard:
        """The shard with this in the journal, which a power cut can't undo."""
        return await aside(self._shards.note, shard, state, **facts)

    async def _create(self, shard: Shard) -> BatchInfo:
        return await self._provider.create(
            shard.facts["input_file_id"],
            shard.facts["url"],
            metadata(shard.run, shard.id, shard.facts["sha256"]),
            _CREATE_SECONDS,
        )

    async def _tried(self, act: Callable[[], Awaitable[T]]) -> T:
        """What `act` returns, tried again where it may help; only for what can be done twice."""
        tries = 0
        while True:
            try:
                return await act()
            except ApiError as error:
                tries += 1
                wait = self._wait(error, tries)
                if wait is None:
                    raise
                await asyncio.sleep(wait)

    def _wait(self, error: ApiError, tries: int) -> float | None:
        """Seconds before the next try; None where there is none."""
        jitter = random.random()  # noqa: S311 — spreads retries, guards nothing
        passes = isinstance(error, EndpointError) and error.status is None and tries < _CONNECT_TRIES
        if passes or (_is_unseen(error) and tries < _FILE_TRIES):
            return 0.5 * 2.0 ** (tries - 1) * (0.5 + jitter)
        return wait_before_retry(error, tries, max_retries=self._max_retries, jitter=jitter)


def _is_unseen(error: ApiError) -> bool:
    """Whether the provider doesn't see a file yet that it has just taken."""
    said = str(error).lower()
    return isinstance(error, BadRequestError) and "file" in said and ("find" in said or "found" in said)


def advised_about_batches(error: LLMError) -> LLMError:
    """The error with what to do where an endpoint has no Batch API."""
    if not isinstance(error, EndpointError) or error.status not in (404, 405, 501):
        return error
    said = f'{str(error).rstrip(".")}. Has this endpoint a Batch API? mode="concurrent" needs none.'
    return EndpointError(said, status=error.status, code=error.code, request_id=error.request_id)


def _write(spool: BinaryIO, lines: Callable[[], Iterable[bytes]]) -> tuple[str, int]:
    """Write lines; their hash and their size."""
    digest, size = hashlib.sha256(), 0
    for line in lines():
        whole = line + b"\n"
        digest.update(whole)
        size += spool.write(whole)
    return digest.hexdigest(), size


def _check(spool: BinaryIO, shard: Shard) -> None:
    spool.seek(0)
    facts = shard.facts
    limits = {"max_requests": facts["max_requests"], "max_bytes": facts["max_bytes"]}
    check_lines(spool, model=facts["model"], url=facts["url"], **limits)
