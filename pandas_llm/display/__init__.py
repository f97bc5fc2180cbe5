"""How people see a run: `pick` chooses a painter by where we run; painters read Progress and never write."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, TextIO

from pandas_llm.display.log import Log
from pandas_llm.display.painter import Careful, Painter, Silent
from pandas_llm.display.terminal import Terminal

__all__ = ["Painter", "pick"]

Where = Literal["notebook", "terminal", "log"]


def pick(
    progress: bool,
    *,
    stream: TextIO | None = None,
    where: Where | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Painter:
    """A painter that fits the place we run in and never raises.

    Parameters
    ----------
    progress : bool
        False: nothing is shown.
    stream : text stream, optional
        Where lines go; the standard error by default. Notebooks don't use it.
    where : {"notebook", "terminal", "log"}, optional
        The place; found out by default.
    clock : callable
        Seconds that only grow.

    Returns
    -------
    Painter
        A widget in a notebook, a bar on a terminal, sparse lines anywhere else.
    """
    out = stream if stream is not None else sys.stderr
    # A program without a console has no standard error at all.
    if not progress or (out is None and where != "notebook"):
        return Silent()

    def make() -> Painter:
        place = where or _place(out)
        if place == "notebook":
            from pandas_llm.display.notebook import Notebook

            return Notebook(clock=clock)
        return Terminal(out, clock=clock) if place == "terminal" else Log(out, clock=clock)

    return Careful(make)


def _place(stream: TextIO) -> Where:
    # Whoever runs in a kernel has imported IPython already; importing it to ask would take 0.3 s elsewhere.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    # A process forked off a kernel has its sockets, and may not touch them.
    ours = kernel is not None and getattr(kernel.session, "pid", os.getpid()) == os.getpid()
    if ours and find_spec("ipywidgets") is not None:
        return "notebook"
    # A dumb terminal prints the moves of the cursor instead of making them.
    return "terminal" if stream.isatty() and os.environ.get("TERM") != "dumb" else "log"
