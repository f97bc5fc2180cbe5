"""What a painter is, one that shows nothing, and one that keeps painting from breaking a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pandas_llm.core.types import Progress


class Painter(Protocol):
    """Shows a run to people. It may be told often; it decides how often it paints."""

    def say(self, line: str) -> None:
        """One line that stays, said before the first request."""
        ...

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:
        """The run begins.

        Parameters
        ----------
        p
            Where it stands.
        cancel
            What a button calls that ends the run early; a second time, it drops what is in flight.
        busy
            Whether the thread that paints keeps a kernel from reading its messages meanwhile.
        """
        ...

    def paint(self, p: Progress) -> None:
        """The run goes on; called every 50 ms or so."""
        ...

    def close(self, p: Progress) -> None:
        """The run is over, whichever way: leave what is to stay."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:
        """Nothing."""

    def paint(self, p: Progress) -> None:
        """Nothing."""

    def close(self, p: Progress) -> None:
        """Nothing."""


class Careful:
    """Another painter that never raises: what went wrong once is not tried again.

    Only `close` is tried all the same: without it a live widget would stay in the notebook for good, and
    the account of what was bought would be lost for one bad repaint.

    Parameters
    ----------
    make : callable
        Makes the painter when it is first needed, so that a stream that can't even be asked does no harm.
    """

    def __init__(self, make: Callable[[], Painter]) -> None:
        self._make = make
        self._painter: Painter | None = None
        self._broken = False

    def say(self, line: str) -> None:
        """As `Painter.say`."""
        self._try(lambda painter: painter.say(line))

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:
        """As `Painter.open`."""
        self._try(lambda painter: painter.open(p, cancel, busy=busy))

    def paint(self, p: Progress) -> None:
        """As `Painter.paint`."""
        self._try(lambda painter: painter.paint(p))

    def close(self, p: Progress) -> None:
        """As `Painter.close`."""
        self._broken = False
        self._try(lambda painter: painter.close(p))

    def _try(self, act: Callable[[Painter], None]) -> None:
        if self._broken:
            return
        try:
            if self._painter is None:
                self._painter = self._make()
            act(self._painter)
        except Exception:  # noqa: BLE001  whatever a screen does, the run goes on
            self._broken = True
