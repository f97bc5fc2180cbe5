"""What the store knows before anything is sent: answers, and which codes a batch is about to answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np

from pandas_llm.core.plan import Plan
from pandas_llm.core.types import Key
from pandas_llm.dispatch.harvest import Harvest
from pandas_llm.io.records import UNREAD, Kept, Payload
from pandas_llm.io.store import NoStore, Store
from pandas_llm.run.sheet import Sheet, record_of_result

LOOK_UP_KEYS = 16_384
"""Keys looked up together: sorted, they are read from the file in its own order."""
_TOGETHER = 512
"""Answers read and written back in one commit."""


def look_up_answers(plan: Plan, store: Store | NoStore, sheet: Sheet) -> None:
    """Write down what was paid for before."""
    halves = np.frombuffer(plan.keys, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    for start in range(0, len(order), LOOK_UP_KEYS):
        codes = order[start : start + LOOK_UP_KEYS].tolist()
        keys = [plan.key(code) for code in codes]
        at = dict(zip(keys, codes, strict=True))
        for found in store.known_payloads(b"".join(keys)):
            sheet.answered_before(found, at)


def settle_left_overs(store: Store | NoStore, *, seconds: float, concurrent: bool) -> None:
    """Settle the shards of dead processes that nobody would come back to.

    One whose every answer is kept only wants closing; no row leads to it any more. One without a batch is
    void for a call that asks its rows `concurrent`ly; a batched one goes on with it.
    """
    if isinstance(store, NoStore):
        return
    shards = store.shards
    for shard in shards.open():
        answered = shard.state == "ended" and shard.id not in shards.holding(shards.keys(shard.id))
        void = concurrent and shard.state in ("planned", "uploading", "uploaded")
        mine = shards.take(shard, timeout=seconds) if answered or void else None
        if mine is None:
            continue
        if mine.state != shard.state:  # its driver was at it just now
            shards.leave(mine)
        elif answered:
            shards.close(mine)
        else:
            shards.dissolve(mine)


def look_up_batches(
    plan: Plan, store: Store | NoStore, unknown: Callable[[], Sequence[int]]
) -> Mapping[int, Sequence[int]]:
    """By the number of an open shard, those of the unknown codes that it is about to answer."""
    if not store.shards.open():
        return {}
    todo = unknown()
    keys = b"".join(map(plan.key, todo))
    return {
        number: [todo[place] for place in places.tolist()]
        for number, places in store.shards.holding(keys).items()
    }


def read_unread(
    plan: Plan,
    store: Store | NoStore,
    sheet: Sheet,
    harvest_of: Callable[[Sequence[int]], Harvest],
    run: int,
) -> None:
    """Read replies that were kept without their question at hand, and keep what they say.

    One that can't be read any more is dropped, and its code unknown.
    """
    if isinstance(store, NoStore):
        return
    while sheet.unread:
        codes = {plan.key(code): code for code in sheet.unread[-_TOGETHER:]}
        del sheet.unread[-_TOGETHER:]
        for code in codes.values():
            sheet.sources[code] = ""
        harvest = harvest_of(list(codes.values()))
        replies = {key: store.raw(key) for key in codes}
        results = {key: harvest.read_reply(key, reply[0]) for key, reply in replies.items() if reply}
        kept = [Kept(key, record_of_result(each), each.replies, run) for key, each in results.items()]
        others = _keep_unread(store, kept)
        if lost := [key for key, reply in replies.items() if not reply]:
            store.clear(keys=lost)
        for key, result in results.items():
            if key in others:
                sheet.known(codes[key], others[key])
            else:
                sheet.told(codes[key], result, time.monotonic())


def _keep_unread(store: Store, rows: Sequence[Kept]) -> Mapping[Key, Payload]:
    """Keep those that nobody else has read meanwhile; what others made of the rest. Each is counted once."""

    def work() -> dict[Key, Payload]:
        found = dict(chain(*store.known_payloads([row.key for row in rows])))
        others = {key: said for key, said in found.items() if said[0] is not None or said[1][0] != UNREAD}
        store.keep([row for row in rows if row.key not in others], replace=True)
        return others

    return store.together(work)
