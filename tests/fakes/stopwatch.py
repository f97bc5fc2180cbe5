"""Bounds on time: a machine that stood still for a moment misses one, a slow library misses it each time."""

from __future__ import annotations


class TooSlowError(AssertionError):
    """A bound was missed. Such a test, and no other, is run again (`--only-rerun` in pyproject.toml)."""


def within(seconds: float, most: float, what: str = "") -> None:
    """Fail where it took `most` seconds or longer."""
    on_time(seconds < most, f"{seconds:.3f} s, which isn't below {most:g} s{what and ': '}{what}")


def on_time(kept: bool, found: object) -> None:
    """Fail where what hangs on the machine's speed, as refusals by a limit do, isn't as it should be."""
    if not kept:
        raise TooSlowError(found)
