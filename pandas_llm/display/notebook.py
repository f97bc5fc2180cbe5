"""A run in a notebook: a live panel with a Cancel button, replaced at the end, in its place, by static HTML.

Only the thread that runs the cell may paint: what other threads publish lands in whichever cell runs then.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pandas_llm.core.types import Progress
from pandas_llm.display.batches import open_batches
from pandas_llm.display.clicks import Listener, listen
from pandas_llm.display.panel import STYLE, panel
from pandas_llm.display.summary import bundle, said, summary

_EVERY = 1 / 4
"""Seconds between paints."""
_ONE_CLICK = 1.0
"""Seconds in which a second click is the same one: nobody has read yet that it would drop paid answers."""


class Notebook:
    """The panel."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._painted_at = -math.inf
        self._handle: Any = None
        self._widgets: _Widgets | None = None
        self._cancel: Callable[[], None] | None = None
        self._listener: Listener | None = None
        self._clicked = False
        """Set by whatever thread sees a click; it may do no more than that."""
        self._cancelled_at: float | None = None

    def say(self, line: str) -> None:
        """A line of its own in the cell's output."""
        _publish(said(line))

    def open(self, p: Progress, cancel: Callable[[], None] | None = None, *, busy: bool = False) -> None:
        """The panel, published as a raw bundle.

        ipywidgets 7 ignores the `display_id` of `display(widget)`, and a front end without widgets shows
        the HTML that stands beside it.
        """
        self._cancel = cancel
        self._widgets = widgets = _Widgets(cancels=cancel is not None, foot=_KEPT if busy else _AWAITED)
        if cancel is not None:
            self._listen(widgets, busy=busy)
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
        self._hear()
        now = self._clock()
        if now - self._painted_at < _EVERY:
            return
        self._painted_at = now
        # A frame that can't be drawn is left out: the button must go on.
        with contextlib.suppress(Exception):
            ends = self._cancelled_at is not None
            self._widgets.view.value = panel(p, datetime.now(), ends=ends)  # noqa: DTZ005 — the reader's own time
            self._widgets.name_button(p, ends=ends)

    def close(self, p: Progress) -> None:
        """The static summary in the panel's place."""
        listener, widgets = self._listener, self._widgets
        self._listener = self._widgets = None
        try:
            if listener is not None:
                listener.close()
        finally:
            if self._handle is None:
                _publish(bundle(p))
            else:
                self._handle.update(bundle(p), raw=True)
            if widgets is not None:
                widgets.close(summary(p) if _captured() else "")

    def _listen(self, widgets: _Widgets, *, busy: bool) -> None:
        comm_id = getattr(widgets.button.comm, "comm_id", None)
        if comm_id is not None:
            self._listener = listen(comm_id, self._click, busy=busy)
        if self._listener is None:
            # A kernel of another kind may tell us while it isn't busy; one that is tells us too late.
            widgets.button.on_click(lambda _: self._click())
            widgets.say(_TOO_LATE if busy else _AWAITED)

    def _click(self) -> None:
        self._clicked = True

    def _hear(self) -> None:
        clicked, self._clicked = self._clicked, False
        if not clicked or self._cancel is None:
            return
        now = self._clock()
        if self._cancelled_at is None or now - self._cancelled_at >= _ONE_CLICK:
            self._cancelled_at = now if self._cancelled_at is None else self._cancelled_at
            self._cancel()
            self._painted_at = -math.inf


class _Widgets:
    """What the panel consists of; few, for each leaves some state in a file that nbclient writes."""

    def __init__(self, *, cancels: bool, foot: str) -> None:
        from ipywidgets import HTML, Button, HBox, Layout, VBox

        self.view = HTML()
        self.button = Button(description="Cancel", icon="stop", layout=Layout(width="auto"))
        self.foot = HTML(layout=Layout(flex="1 1 300px"))
        self.say(foot if cancels else "")
        shown = [self.button, self.foot] if cancels else [self.foot]
        below = HBox(shown, layout=Layout(flex_flow="row wrap", align_items="center"))
        self.box = VBox([self.view, below], layout=Layout(max_width="920px"))
        self._all: list[Any] = [self.box, below, self.view, self.button, self.foot]

    def name_button(self, p: Progress, *, ends: bool) -> None:
        """What the next click would do."""
        watches = bool(open_batches(p)) and not p.in_flight
        if not ends:
            self.button.description = "Stop watching" if watches else "Cancel"
            self.button.tooltip = _STOPS_WATCHING if watches else _CANCELS
            return
        self.button.icon = "hourglass-half"
        self.button.description = "Drop what is in flight" if p.in_flight else "Ending…"
        self.button.tooltip = "Wait no longer. What is in flight may be billed, and is asked again."
        flying = f": waiting up to 5 s for {p.in_flight:,} in flight" if p.in_flight else ""
        goes_on = " The batches go on." if open_batches(p) else ""
        self.say(f"Nothing more is sent{flying}.{goes_on}")

    def say(self, text: str) -> None:
        """The words beside the button, and the style sheet: whatever is sent least often carries it."""
        # There clicks arrive only between cells (microsoft/vscode-jupyter#17360).
        code = (
            " In VS Code only Stop works while the cell runs." if text and "VSCODE_PID" in os.environ else ""
        )
        self.foot.value = f'{STYLE}<div class="pandas-llm"><span class="soft">{text}{code}</span></div>'

    def close(self, instead: str) -> None:
        """Leave nothing, or `instead` in the panel's place.

        Emptied first: nbclient stores the last state of every widget in the notebook.
        """
        kept = [self.box, self.view] if instead else []
        for widget in self._all:
            if hasattr(widget, "children"):
                widget.children = (self.view,) if widget in kept else ()
            elif isinstance(getattr(widget, "value", None), str):
                widget.value = instead if widget in kept else ""
        for widget in self._all:
            if widget not in kept:
                for part in (widget.layout, getattr(widget, "style", None), widget):
                    if part is not None:
                        part.close()


_KEPT = (
    "Answers are kept as they come. Cancel returns the frame with what is there; the kernel's Stop raises "
    "Interrupted, with the same on its .frame."
)
_AWAITED = (
    "Answers are kept as they come. Cancel returns the frame with what is there; the kernel's Stop raises."
)
_TOO_LATE = (
    "Answers are kept as they come. This kernel may hear of clicks only when the cell is over: then use its "
    "Stop, which raises Interrupted with the frame on .frame."
)
_CANCELS = "Send nothing more and return the frame with what is there. The same line goes on later."
_STOPS_WATCHING = (
    "Stop watching and return what is there. The batches go on: the same line collects them later."
)


def _captured() -> bool:
    """Whether an Output widget takes what this cell publishes: it shows no update of what it has taken."""
    from ipywidgets import Output, Widget
    from ipywidgets.widgets import widget

    # `Widget.widgets` is deprecated in ipywidgets 8, and all there is in 7.
    alive = getattr(widget, "_instances", None)
    return any(
        isinstance(each, Output) and each.msg_id
        for each in list((Widget.widgets if alive is None else alive).values())
    )


def _publish(data: dict[str, Any], **how: Any) -> Any:
    from IPython.display import display

    show: Any = display  # its signature is only half typed
    return show(data, raw=True, **how)
