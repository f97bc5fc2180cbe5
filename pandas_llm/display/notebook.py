"""A run in a notebook: a live panel with a Cancel button, replaced at the end, in its place, by static HTML.

Only the thread that runs the cell may paint: what other threads publish lands in whichever cell runs then.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pandas_llm.core.types import Progress
from pandas_llm.display.batches import open_batches
from pandas_llm.display.clicks import Listener, listen
from pandas_llm.display.panel import STYLE, errors_table, errors_title, panel
from pandas_llm.display.summary import bundle, said

_EVERY = 1 / 4
"""Seconds between paints."""
_ERRORS_EVERY = 1.0
"""The list of errors is read, not watched."""


class Notebook:
    """The panel."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._painted_at = self._errors_painted_at = -math.inf
        self._handle: Any = None
        self._widgets: _Widgets | None = None
        self._cancel: Callable[[], None] | None = None
        self._clicks = 0
        """Seen so far; the thread that sees them may do no more than count."""
        self._heard = 0
        self._listener: Listener | None = None

    def say(self, line: str) -> None:
        """A line of its own in the cell's output."""
        _publish(said(line))

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:
        """The panel, published as a raw bundle.

        ipywidgets 7 ignores the `display_id` of `display(widget)`, and a front end without widgets shows
        the HTML that stands beside it.
        """
        self._cancel = cancel
        self._widgets = widgets = _Widgets(p, cancels=cancel is not None)
        if cancel is not None:
            self._listener = listen(widgets.button.comm.comm_id, self._clicked, busy=busy)
            if self._listener is None:
                # A kernel of another kind may tell us while it isn't busy; one that is tells us too late.
                widgets.button.on_click(lambda _: self._clicked())
                if busy:
                    widgets.foot.value = _foot(_TOO_LATE)
        self.paint(p)
        view = {"version_major": 2, "version_minor": 0, "model_id": widgets.box.model_id}
        self._handle = _publish(
            {"application/vnd.jupyter.widget-view+json": view, **bundle(p)}, display_id=True
        )

    def paint(self, p: Progress) -> None:
        """The panel brought up to date, 4 times a second at most; a click is heard at once."""
        if self._widgets is None:
            return
        if self._listener is not None:
            self._listener.look()
        self._hear(p)
        now = self._clock()
        if now - self._painted_at < _EVERY:
            return
        self._painted_at = now
        self._widgets.name_button(p)
        self._widgets.view.value = panel(p, datetime.now())  # noqa: DTZ005 — the reader's own time of the day
        if p.errors and now - self._errors_painted_at >= _ERRORS_EVERY:
            self._errors_painted_at = now
            self._widgets.show_errors(p)

    def close(self, p: Progress) -> None:
        """The static summary in the panel's place."""
        if self._listener is not None:
            self._listener.close()
        if self._handle is None:
            _publish(bundle(p))
        else:
            self._handle.update(bundle(p), raw=True)
        if self._widgets is not None:
            self._widgets.close()
        self._widgets = self._listener = None

    def _clicked(self) -> None:
        self._clicks += 1

    def _hear(self, p: Progress) -> None:
        while self._heard < self._clicks and self._cancel is not None:
            self._heard += 1
            self._cancel()
            if self._widgets is not None:
                self._widgets.say_cancelled(p)


class _Widgets:
    """What the panel consists of."""

    def __init__(self, p: Progress, *, cancels: bool) -> None:
        from ipywidgets import HTML, Accordion, Button, HBox, Layout, VBox

        self.style, self.view, self.errors = HTML(STYLE), HTML(), HTML()
        self.list = Accordion([self.errors], selected_index=None, layout=Layout(display="none"))
        self.button = Button(
            description="Cancel", icon="stop", tooltip=_tooltip(p), layout=Layout(width="auto")
        )
        self.foot = HTML(_foot(_KEPT), layout=Layout(flex="1 1 300px"))
        self.list.add_class("pandas-llm-errors")
        below = HBox([self.button, self.foot], layout=Layout(flex_flow="row wrap", align_items="center"))
        parts = [self.style, self.view, self.list, *([below] if cancels else [])]
        self.box = VBox(parts, layout=Layout(max_width="920px"))
        self._all = (self.box, below, self.list, self.style, self.view, self.errors, self.button, self.foot)

    def show_errors(self, p: Progress) -> None:
        """The list of errors; it stays folded or unfolded as the reader left it."""
        self.errors.value = errors_table(p)
        self.list.set_title(0, errors_title(p))
        self.list.layout.display = None

    def name_button(self, p: Progress) -> None:
        """Batches go on whatever is pressed here: only the watching ends."""
        if self.button.icon == "stop":
            self.button.description = "Stop watching" if open_batches(p) and not p.in_flight else "Cancel"

    def say_cancelled(self, p: Progress) -> None:
        """What happens after a click, and what the next one would do."""
        self.button.icon = "hourglass-half"
        self.button.description = "Drop what is in flight" if p.in_flight else "Cancelling…"
        waits = f"waiting up to 5 s for {p.in_flight:,} in flight" if p.in_flight else "almost over"
        self.foot.value = _foot(f"Cancelling: nothing more is sent, {waits}.")

    def close(self) -> None:
        """Empty them first: nbclient stores the last state of every widget in the notebook."""
        for widget in self._all:
            if hasattr(widget, "children"):
                widget.children = ()
            elif isinstance(getattr(widget, "value", None), str):
                widget.value = ""
        for widget in self._all:
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:
                    part.close()


_KEPT = (
    "Answers are kept as they come. Cancel returns the frame with what is there; the kernel's Stop raises "
    "Interrupted, with the same on its .frame."
)

_TOO_LATE = (
    "Answers are kept as they come. This kernel hears of clicks only when the cell is over: use its Stop, "
    "which raises Interrupted with the frame on .frame."
)


def _tooltip(p: Progress) -> str:
    if open_batches(p):
        return "Stop watching and return what is there. The batches go on: the same line collects them later."
    return "Send nothing more and return the frame with what is there. The same line goes on later."


def _foot(text: str) -> str:
    # There clicks arrive only between cells (microsoft/vscode-jupyter#17360).
    code = " In VS Code only Stop works while the cell runs." if "VSCODE_PID" in os.environ else ""
    return f'<div class="pandas-llm"><span class="soft">{text}{code}</span></div>'


def _publish(data: dict[str, Any], **how: Any) -> Any:
    from IPython.display import display

    show: Any = display  # its signature is only half typed
    return show(data, raw=True, **how)
