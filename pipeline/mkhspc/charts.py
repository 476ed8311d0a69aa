"""How the charts of every page look: colours on light and dark paper, and a figure as part of the page.

This module imports matplotlib, so import it only where a page is drawn.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which people with any kind of colour vision can tell apart
(https://jfly.uni-koeln.de/color/)."""
BLUE, VERMILION = OKABE_ITO[:2]
DOTS_PER_INCH = 150
"""Pixels an inch of a picture: sharp on a screen with two device pixels a CSS pixel, too."""


@dataclass(frozen=True)
class Theme:
    """Colours of the paper, of text and marks, and of what stays in the background."""

    paper: str
    ink: str
    faint: str


LIGHT = Theme("#ffffff", "#1c2024", "#c9ced4")
DARK = Theme("#16191d", "#e6e8ea", "#3d444c")
THEMES = {"light": LIGHT, "dark": DARK}
"""The themes by the name that CSS has for them in `prefers-color-scheme`."""


def new_figure(inches: tuple[float, float], theme: Theme, **settings: Any) -> Figure:
    """Returns an empty figure of this width and height; `settings` go to matplotlib's `Figure`."""
    figure = Figure(figsize=inches, facecolor=theme.paper, **settings)
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, theme: Theme, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Gives axes, their labels and their left title the project's look; call it when they are set."""
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.grid(axis=grid, color=theme.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, color=theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def png_of(figure: Figure) -> bytes:
    """Returns the figure as a PNG file; the same figure gives the same bytes with the same matplotlib."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def data_uri(png: bytes) -> str:
    """Returns the `src` of an image whose PNG file is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
