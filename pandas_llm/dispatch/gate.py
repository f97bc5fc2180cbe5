"""The gate before the network: one FIFO of waiters, one timer at its head, one pace for the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from pandas_llm.core.pace import Concurrency, Pace
from pandas_llm.core.retry import Limits
from pandas_llm.core.types import Usage


@dataclass(slots=True)
class Traffic:
    """What the process knows of one endpoint and model, shared by all its calls."""

    pace: Pace
    lock: threading.Lock = field(default_factory=threading.Lock)
    successes: int = 0
    """Replies that came, ever: a 403 after one is about a text, not about the key."""


_traffic: dict[tuple[str, str], Traffic] = {}
_traffic_lock = threading.Lock()


def traffic_to(base_url: str, model: str) -> Traffic:
    """The traffic of an endpoint and model."""
    with _traffic_lock:
        return _traffic.setdefault((base_url, model), Traffic(Pace()))
