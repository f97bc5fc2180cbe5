"""What stands in for a store under `cache=False`."""

# ruff: noqa: ARG002 -- the signatures are the store's
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pandas_llm.core.types import Key, Record
from pandas_llm.io.records import Kept, Payload


class NoStore:
    """What stands in for a store under `cache=False`: everything may be asked, nothing is kept."""

    path = None
    created = False

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
