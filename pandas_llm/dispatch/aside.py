"""One thread beside the event loop for what blocks it: rendering files, reading the store's journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_pool: ThreadPoolExecutor | None = None


async def aside(act: Callable[..., T], *args: Any, **options: Any) -> T:
    """What `act` returns, done in the process's one such thread.

    One, because each thread that allocates keeps memory of its own: with six a run of 120,000 rows grew by
    20 MB more.
    """
    global _pool  # noqa: PLW0603 — one thread a process
    _pool = _pool or ThreadPoolExecutor(1, "pandas_llm-aside")
    return await asyncio.get_running_loop().run_in_executor(_pool, partial(act, *args, **options))


def _leave_behind() -> None:
    global _pool  # noqa: PLW0603
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)
