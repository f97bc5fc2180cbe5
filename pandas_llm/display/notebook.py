"""A run in a notebook: a live widget, replaced at the end, in the same output, by static HTML.

Only the thread that runs the cell may paint: what other threads publish lands in whichever cell runs then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from pandas_llm.core.types import Progress
from pandas_llm.display import batches, words
from pandas_llm.display.summary import FONT, GREY, RED, batch_lines, bundle, escape, heading, said

_EVERY = 1 / 4
"""Seconds between paints."""


class Notebook:
    """The widget."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._painted_at = -math.inf
        self._handle: Any = None
        self._widgets: tuple[Any, ...] = ()

    def say(self, line: str) -> None:
        """A line of its own in the cell's output."""
        _publish(said(line))

    def open(self, p: Progress) -> None:
        """The widget, published as a raw bundle.

        ipywidgets 7 ignores the `display_id` of `display(widget)`, and a front end without widgets shows
        the HTML that stands beside it.
        """
        from ipywidgets import HTML, IntProgress, Layout, VBox

        top, figures = HTML(), HTML()
        bar = IntProgress(max=max(1, p.rows), layout=Layout(width="100%", height="14px", margin="0"))
        box = VBox([top, bar, figures], layout=Layout(max_width="860px"))
        self._widgets = (top, bar, figures, box)
        self.paint(p)
        view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
        self._handle = _publish(
            {"application/vnd.jupyter.widget-view+json": view, **bundle(p)}, display_id=True
        )

    def paint(self, p: Progress) -> None:
        """The widget brought up to date, 4 times a second at most."""
        now = self._clock()
        if not self._widgets or now - self._painted_at < _EVERY:
            return
        self._painted_at = now
        top, bar, figures, _ = self._widgets
        top.value = top_line(p)
        figures.value = figures_line(p)
        bar.value = words.finished(p)
        troubled = p.waiting or any(map(batches.stalled, p.batches))
        bar.bar_style = "warning" if troubled else "info"

    def close(self, p: Progress) -> None:
        """The static summary in the widget's place."""
        if self._handle is None:
            _publish(bundle(p))
        else:
            self._handle.update(bundle(p), raw=True)
        # Emptied first: nbclient stores the last state of every widget in the notebook.
        for widget in self._widgets:
            if hasattr(widget, "children"):
                widget.children = ()
            elif isinstance(widget.value, str):
                widget.value = ""
        for widget in self._widgets:
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:
                    part.close()
        self._widgets = ()


def top_line(p: Progress) -> str:
    """Title and count."""
    return (
        f'<div style="{FONT}">{heading(p)} &nbsp; {escape(words.rows(p))} '
        f'<span style="color:{GREY}">· {words.percent(p)}</span></div>'
    )


def figures_line(p: Progress) -> str:
    """The live figures, how many rows came from where, and a line for each batch."""
    colours = {"": GREY, "warn": "#b7791f", "bad": RED}
    shown = [f'<span style="color:{colours[f.tone]}">{escape(f.full)}</span>' for f in words.figures(p)]
    if p.done:
        shown.insert(0, escape(words.counts(p)))
    return f'<div style="{FONT};color:{GREY};white-space:normal">{" · ".join(shown)}{batch_lines(p)}</div>'


def _publish(data: dict[str, Any], **how: Any) -> Any:
    from IPython.display import display

    show: Any = display  # its signature is only half typed
    return show(data, raw=True, **how)
