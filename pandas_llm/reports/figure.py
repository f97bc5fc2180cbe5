"""A figure that any notebook shows once, drawn without pyplot: no window, no backend, no global state.

matplotlib is an extra: importing this file where it is missing raises the error that says how to get it.
"""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

from pandas_llm.core.errors import OptionsError

try:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Text
except ImportError as missing:
    raise OptionsError(
        f"plot() needs matplotlib, which can't be imported here ({missing}): "
        "pip install 'pandas-llm-accessor[plot]', or matplotlib alone."
    ) from None

__all__ = ["INK", "LINE", "PALE", "Drawing", "PowerNorm", "dress", "literal", "say"]

INK, PALE, LINE = "#24292f", "#6a6f76", "#d8dade"
"""Words, lesser words, lines: all on white, whatever page the figure stands on."""
_SHARPNESS = 2
"""Pixels of the PNG for each one that a page gives it."""
_WIDE_LETTERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Arial Unicode MS"),
)
"""Fonts for the letters that matplotlib's own doesn't have; the first one that is installed is taken."""


class Drawing(Figure):
    """A matplotlib `Figure`: `savefig(path)` writes it, `axes` may be drawn on."""

    def __init__(self, width: float, height: float) -> None:
        """So many inches."""
        room = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12, wspace=0.05, hspace=0.04)
        super().__init__(figsize=(width, height), dpi=100, facecolor="white", layout=room)

    def __repr__(self) -> str:
        return 'A matplotlib figure: a notebook shows it, .savefig("run.png") writes it.'

    def savefig(self, fname: Any, **how: Any) -> None:
        """Write the figure, as `Figure.savefig`; on white also where a dark style is set."""
        super().savefig(fname, **{"facecolor": "white", **how})

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # IPython knows how to show a Figure only once pyplot is imported.
        data = BytesIO()
        self.savefig(data, format="png", dpi=_SHARPNESS * self.get_dpi())
        png = data.getvalue()
        # Bytes 16 to 20 of a PNG are its width.
        return png, {"width": int.from_bytes(png[16:20]) // _SHARPNESS}

    def finished(self) -> Drawing:
        """The figure, once its words are in it: every letter is drawn by a font that has it, none by TeX."""
        _print_our_own_way()
        installed = set(fontManager.get_font_names())
        more = [name for name in _WIDE_LETTERS if name in installed][:1]
        for text in self.findobj(Text):
            assert isinstance(text, Text), "as was asked for"
            text.set_usetex(False)
            text.set_fontfamily([*text.get_fontfamily(), *more])
        return self


def _print_our_own_way() -> None:
    """Have IPython show a Drawing by its own PNG: pyplot, once imported, would have a coarser one shown."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(Drawing, Drawing._repr_png_)


def literal(text: str) -> str:
    r"""`text` in which matplotlib sees no formula.

    >>> print(literal("$1 or $2"))
    \$1 or \$2
    """
    return text.replace("$", r"\$")


def dress(axes: Any, title: str, remark: str = "") -> None:
    """A panel's look: its title, small words below it, and colours that no style of the session changes."""
    axes.set_title(literal(title), loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=19)
    words = axes.annotate(
        literal(remark), (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
        fontsize=8.5, color=PALE, va="bottom",
    )  # fmt: skip
    # The title keeps its height free; its width may not push the panel aside.
    words.set_in_layout(False)
    axes.set_facecolor("white")
    axes.tick_params(which="both", colors=INK, labelsize=8.5, length=3, width=0.8)
    axes.grid(visible=False)
    for side, spine in axes.spines.items():
        spine.set(color=LINE, linewidth=1, visible=side in ("left", "bottom"))


def say(axes: Any, text: str) -> None:
    """Words in a panel that has nothing to draw."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
    axes.text(0.5, 0.5, literal(text), transform=axes.transAxes, ha="center", va="center",
              fontsize=9.5, color=PALE, linespacing=1.6)  # fmt: skip
