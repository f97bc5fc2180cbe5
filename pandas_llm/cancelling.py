"""Cancelling the batches of a run from any process: stop them, wait, and keep what they have answered."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pandas_llm.blocking import Stop, run_blocking
from pandas_llm.core.errors import Interrupted, OptionsError
from pandas_llm.core.options import Options
from pandas_llm.core.plan import Plan, question_of
from pandas_llm.core.types import Misfit, Task
from pandas_llm.dispatch.batch import Batch
from pandas_llm.dispatch.lot import Filing
from pandas_llm.io.http import require_key
from pandas_llm.io.journal import Journal
from pandas_llm.io.provider import Provider, open_provider
from pandas_llm.io.shards import Shard
from pandas_llm.io.store import Payload, Store
from pandas_llm.prepare import store_of
from pandas_llm.settings import resolve


def cancel_batches(run_id: str) -> bool:
    """Whether the run had open batches: they are over then, and their answers in the store, unread."""
    found = re.fullmatch(r"r_(\d+)", run_id)
    options, _ = resolve({})
    store = store_of(options)
    shards = [shard for shard in store.shards.open() if found and shard.run == int(found[1])]
    if not shards or not isinstance(store, Store):
        return False
    require_key(options.client, options.api_key, options.base_url)
    errand = _Errand(store, shards, options)
    with Stop(errand) as stop:
        run_blocking(errand.go, stop, lambda: None)
    if stop.strikes:
        raise Interrupted(f"The provider has been told to cancel the batches of {run_id}; wait for it later.")
    return True


class _Errand:
    """Nobody's question: answers are kept as they come, for whoever asks the same again."""

    def __init__(self, store: Store, shards: list[Shard], options: Options) -> None:
        self._store = store
        self._shards = shards
        self._options = options
        self._batches: list[Batch] = []

    async def go(self) -> None:
        """Cancel each, wait until it is over, keep what it answered."""
        options = self._options
        provider = open_provider(client=options.client, api_key=options.api_key, base_url=options.base_url)
        try:
            went = await asyncio.gather(
                *(self._end(shard, provider) for shard in self._shards), return_exceptions=True
            )
        finally:
            await provider.close()
        for outcome in went:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _end(self, shard: Shard, provider: Provider) -> None:
        async with Journal(self._store, shard.run, timeout=self._options.seconds) as journal:
            batch = Batch(self._filing(shard, journal), provider, (), {shard.id: ()}, self)
            self._batches.append(batch)
            batch.cancel()
            async with contextlib.aclosing(batch.results()) as results:
                async for _ in results:
                    pass

    def stop(self) -> None:
        """Wait no longer."""
        for batch in self._batches:
            batch.stop()

    def found(self, code: int, payload: Payload) -> bool:  # noqa: ARG002 — nothing is asked here
        """Nothing was asked."""
        return True

    def pend(self, codes: Iterable[int], reason: str) -> None:
        """Nobody waits."""

    def note(self, line: str) -> None:
        """Nobody is told."""

    def _filing(self, shard: Shard, journal: Journal) -> Filing:
        facts = self._store.question(shard.facts["question"])
        if facts is None:
            raise OptionsError(
                f"The question of {shard.name} isn't in the store any more; "
                f"pandas_llm.clear_cache(run='r_{shard.run}') gives it up."
            )
        question = question_of(facts["stem"].encode("ascii"))
        return Filing(
            plan=Plan(question, np.zeros(0, dtype=np.int32), (), b""),
            task=Task(question.verb, "", question.system, question.schema, (), _unread),
            body=str.encode,
            url=shard.facts["url"],
            settings=self._options.batches,
            wait=True,
            store=self._store,
            journal=journal,
            run=shard.run,
            facts={},
            price=None,
            tokens_of=len,
            seconds=self._options.seconds,
            max_retries=self._options.max_retries,
            replace=False,
            budget=None,
            estimate=lambda _: 0.0,
            repair=_unrepaired,
            is_late=lambda _: False,
            concurrent_at_last=False,
        )


def _unread(content: str) -> list[Any]:
    raise AssertionError(f"nothing was asked here, so nothing of {len(content)} characters is read")


async def _unrepaired(misfits: Mapping[int, Misfit]) -> bool:
    raise AssertionError(f"nothing was asked here, so none of {len(misfits)} replies misfits")
