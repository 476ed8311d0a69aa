"""The picture of densities: a dot for each animal or slide, a bar for the mean of several."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.results.statistics import Floats, Unit

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which people with any kind of colour vision can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DOTS_PER_INCH = 160
BETWEEN_PANELS = 0.06
"""Room between two panels, as a share of a panel's width."""
LETTERS_A_LINE = 11
"""Of a group's name below the axis, so that neighbours do not run into each other."""


@dataclass(frozen=True)
class Theme:
    """Colours of the paper, of text and axes, and of the mean's bar."""

    paper: str
    ink: str
    faint: str


LIGHT = Theme("#ffffff", "#1c2024", "#c9ced4")
DARK = Theme("#16191d", "#e6e8ea", "#3d444c")


def density_png(
    found: Sequence[Unit],
    *,
    is_simulated: bool,
    theme: Theme = LIGHT,
    cell_types: Sequence[CellType] = CELL_TYPES,
) -> bytes:
    """A PNG with one panel per cell type: cells per mm² of tissue against groups."""
    groups = list(dict.fromkeys(unit.group for unit in found))
    inches = len(cell_types) * max(4.4, 1.2 + 0.75 * len(groups)), 3.9
    figure = Figure(
        figsize=inches, facecolor=theme.paper, layout=ConstrainedLayoutEngine(wspace=BETWEEN_PANELS)
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(cell_types), squeeze=False)[0]
    for axes, cell_type in zip(panels, cell_types, strict=True):
        _panel(axes, [unit for unit in found if unit.cell_type == cell_type], groups, theme)
        axes.set_title(_title(found, cell_type), color=theme.ink, fontsize=10.5, loc="left")
    if is_simulated:
        figure.suptitle("SIMULATED DATA", color="#D55E00", fontsize=11, fontweight="bold")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def _title(found: Sequence[Unit], cell_type: str) -> str:
    words = {unit.counted_as for unit in found if unit.cell_type == cell_type}
    return f"{cell_type.upper()}: {', '.join(sorted(words)) or 'nothing searched'}"


def _panel(axes: Axes, found: Sequence[Unit], groups: Sequence[str], theme: Theme) -> None:
    top = max([unit.per_mm2 for unit in found], default=0.0) or 1.0
    for place, group in enumerate(groups):
        values = np.sort([unit.per_mm2 for unit in found if unit.group == group])
        colour, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
        axes.scatter(
            place + _swarm(values, 0.04 * top), values, s=42, color=colour, marker=marker,
            edgecolors=theme.paper, linewidths=0.8, zorder=3,
        )  # fmt: skip
        if values.size > 1:
            axes.hlines(values.mean(), place - 0.3, place + 0.3, color=theme.ink, linewidth=1.6, zorder=2)
    # a `$` in the name of a group is no mathematics
    axes.set_xticks(range(len(groups)), [_on_lines(group) for group in groups], parse_math=False)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0.0, 1.12 * top)
    axes.set_ylabel("cells per mm² of tissue", color=theme.ink)
    _dress(axes, theme)


def _on_lines(group: str) -> str:
    return "\n".join(textwrap.wrap(group, LETTERS_A_LINE))


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.grid(axis="y", color=theme.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def _swarm(values: Floats, near: float) -> Floats:
    """Sideways offsets that keep dots of nearly equal value apart; `values` ascend."""
    offsets: list[float] = []
    run = 0
    for i, value in enumerate(values.tolist()):
        run = run + 1 if i and value - values[i - 1] < near else 0
        offsets.append(0.09 * ((run + 1) // 2) * (1 if run % 2 else -1))
    return np.array(offsets)
