"""What stands in for a store under `cache=False`."""

# ruff: noqa: ARG002 -- the signatures are the store's
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pandas_llm.core.types import Key, Record
from pandas_llm.io.records import Kept, Payload
from pandas_llm.io.shards import Shard
from pandas_llm.io.similar_texts import Reuse


class NoShards:
    """What stands in for a store's shards: there are none, and none can be planned."""

    def get(self, number: int) -> Shard | None:
        """There is none."""
        return None

    def open(self) -> list[Shard]:
        """None are open."""
        return []

    def past(self, limit: int = 200) -> list[Shard]:
        """Nothing was kept."""
        return []

    def keys(self, number: int) -> bytes:
        """There are none."""
        return b""

    def holding(self, keys: bytes) -> dict[int, npt.NDArray[np.intp]]:
        """Nobody holds anything."""
        return {}


class NoSimilarTexts:
    """What stands in for a store's compared texts: none are kept."""

    def put_texts(
        self, question: str, embedder: str, rows: Iterable[tuple[Key, str, npt.NDArray[Any]]]
    ) -> None:
        """Nothing is kept."""

    def texts(self, question: str, embedder: str) -> Iterator[list[tuple[Key, str]]]:
        """Nothing was kept."""
        return iter(())

    def vectors(self, question: str, embedder: str) -> tuple[bytes, npt.NDArray[np.float16]]:
        """Nothing was kept."""
        return b"", np.empty((0, 0), dtype=np.float16)

    def text_of(self, question: str, key: Key) -> str | None:
        """Nothing was kept."""
        return None

    def put_reuses(self, question: str, rows: Iterable[Reuse]) -> None:
        """Nothing is kept."""

    def reuses(self, question: str, keys: bytes) -> dict[Key, Reuse]:
        """Nothing was kept."""
        return {}

    def shared_payloads(self, question: str, keys: bytes) -> Iterator[list[tuple[Key, Payload]]]:
        """Nothing was kept."""
        return iter(())

    def count(self, question: str) -> int:
        """Nothing was kept."""
        return 0

    def forget(self, question: str | None = None, keys: bytes | Sequence[Key] | None = None) -> None:
        """Nothing was kept."""


class NoStore:
    """What stands in for a store under `cache=False`: everything may be asked, nothing is kept."""

    path = None
    created = False
    shards = NoShards()
    similar = NoSimilarTexts()

    def known_payloads(self, keys: bytes | Sequence[Key]) -> Iterator[list[tuple[Key, Payload]]]:
        """Nothing is known."""
        return iter(())

    def known(self, keys: bytes | Sequence[Key]) -> Iterator[list[tuple[Key, Record]]]:
        """Nothing is known."""
        return iter(())

    def claim(
        self, keys: Sequence[Key], run: int, *, timeout: float = 600.0, replace: bool = False
    ) -> list[Key]:
        """All of them."""
        return list(keys)

    reclaim = claim

    def release(self, keys: Sequence[Key]) -> None:
        """Nothing is claimed."""

    def held(self, keys: Sequence[Key], *, timeout: float = 600.0) -> dict[Key, int]:
        """Nobody else is seen."""
        return {}

    def changed(self) -> int:
        """Nothing changes."""
        return 0

    def beat(self) -> None:
        """Nobody listens."""

    def beat_is_late(self, timeout: float, since: float = 0.0) -> bool:
        """Nobody listens."""
        return False

    def keep(self, rows: Sequence[Kept], *, replace: bool = False) -> None:
        """Nothing is kept."""

    def raw(self, key: Key) -> tuple[bytes, ...]:
        """Nothing was kept."""
        return ()

    def start_run(self, /, **facts: Any) -> int:
        """0: a run that nobody recorded."""
        return 0

    def end_run(self, run: int, /, **facts: Any) -> None:
        """Nothing is kept."""

    def runs(self) -> list[dict[str, Any]]:
        """Nothing was kept."""
        return []

    def put_question(self, name: str, facts: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def question(self, name: str) -> dict[str, Any] | None:
        """Nothing was kept."""
        return None

    def put_column(self, output: str, fingerprint: bytes, /, **facts: Any) -> None:
        """Nothing is kept."""

    def columns(self, output: str) -> list[dict[str, Any]]:
        """Nothing was kept."""
        return []

    def column(self, output: str, fingerprint: bytes) -> dict[str, Any] | None:
        """Nothing was kept."""
        return None

    def put_fact(self, scope: str, name: str, value: Any) -> None:
        """Nothing is kept."""

    def fact(self, scope: str, name: str) -> Any:
        """Nothing was kept."""
        return None
