"""What open batches are doing: the provider's last known words, asked for again where that is quick."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from pandas_llm.blocking import Stop, run_blocking
from pandas_llm.core.batches import BatchInfo
from pandas_llm.core.options import Options
from pandas_llm.io.provider import Provider, open_provider
from pandas_llm.io.shards import Shard
from pandas_llm.io.store import NoStore, Store

_NOTED = ("status", "total", "completed", "failed", "expires_at", "ended_at")
LOOK_SECONDS = 5.0
"""For all batches together: whoever lists runs doesn't wait for a provider."""


def states_of_batches(store: Store | NoStore, options: Options) -> dict[int, str]:
    """By run, the provider's words for its open batches: `in_progress, validating`.

    They are brought up to date where these options lead to the endpoint that has them, and it answers in 5 s.
    """
    shards = store.shards.open()
    news: dict[int, BatchInfo] = {}
    if shards and not isinstance(store, NoStore):
        with contextlib.suppress(Exception):  # the last known words will do
            news = _look(store, shards, options)
    words: dict[int, dict[str, None]] = {}
    for shard in shards:
        known = shard.facts.get("status") or shard.state
        word = news[shard.id].status if shard.id in news else str(known)
        words.setdefault(shard.run, {})[word] = None
    return {run: ", ".join(each) for run, each in words.items()}


def _look(store: Store, shards: Iterable[Shard], options: Options) -> dict[int, BatchInfo]:
    """By shard, what the provider says now; what is news is in the store then."""
    if not (options.client or options.api_key or options.base_url):
        return {}
    submitted = [shard for shard in shards if shard.state == "created"]
    if not submitted:
        return {}
    provider = open_provider(client=options.client, api_key=options.api_key, base_url=options.base_url)
    # An id means nothing to another endpoint.
    theirs = [shard for shard in submitted if shard.facts.get("base_url") == provider.base_url]
    news = _asked(provider, theirs)
    for shard in theirs:
        if shard.id in news and news[shard.id].status != shard.facts.get("status"):
            with contextlib.suppress(Exception):
                _note(store, shard, news[shard.id], options.seconds)
    return news


def _asked(provider: Provider, shards: Iterable[Shard]) -> dict[int, BatchInfo]:
    """By shard, what the provider says in time."""
    found: dict[int, BatchInfo] = {}

    async def one(shard: Shard) -> None:
        found[shard.id] = await provider.retrieve(shard.facts["batch_id"], LOOK_SECONDS)

    async def each() -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await asyncio.gather(*map(one, shards), return_exceptions=True)
        except TimeoutError:
            pass
        finally:
            await provider.close()

    with Stop(_Nothing()) as stop:
        run_blocking(each, stop, lambda: None)
    return found


def _note(store: Store, shard: Shard, info: BatchInfo, timeout: float) -> None:
    """Write down the provider's word, unless another call drives the shard: that one will."""
    mine = store.shards.take(shard, timeout=timeout)
    if mine is None:
        return
    try:
        if mine.state == shard.state:
            facts = {name: getattr(info, name) for name in _NOTED}
            store.shards.note(mine, **facts, changed_at=time.time())
    finally:
        store.shards.leave(mine)


class _Nothing:
    """What a look can stop: nothing that it began."""

    def stop(self) -> None:
        """Nothing."""
