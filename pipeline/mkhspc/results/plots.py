"""The picture of densities: a dot for each animal or slide, a bar for the mean of several."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mkhspc.charts import LIGHT, OKABE_ITO, VERMILION, Theme, new_figure, png_of, style_axes
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.results.statistics import Floats, Unit

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Shapes of dots, one for each colour, so that groups differ in black and white too."""
BETWEEN_PANELS = 0.06
"""The room between two panels, as a share of a panel's width."""
LETTERS_PER_LINE = 11
"""Letters of a group's name in one line below the axis: more would run into the neighbour's."""


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
    figure = new_figure(inches, theme, layout=ConstrainedLayoutEngine(wspace=BETWEEN_PANELS))
    panels = figure.subplots(1, len(cell_types), squeeze=False)[0]
    for axes, cell_type in zip(panels, cell_types, strict=True):
        _panel(axes, [unit for unit in found if unit.cell_type == cell_type], groups, theme)
        axes.set_title(_title(found, cell_type), loc="left")
        style_axes(axes, theme, grid="y")
    if is_simulated:
        figure.suptitle("SIMULATED DATA", color=VERMILION, fontsize=11, fontweight="bold")
    return png_of(figure)


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
    # a `$` in the name of a group is not mathematics
    axes.set_xticks(range(len(groups)), [_on_lines(group) for group in groups], parse_math=False)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0.0, 1.12 * top)
    axes.set_ylabel("cells per mm² of tissue")


def _on_lines(group: str) -> str:
    return "\n".join(textwrap.wrap(group, LETTERS_PER_LINE))


def _swarm(values: Floats, near: float) -> Floats:
    """Sideways offsets that keep dots of nearly equal value apart; `values` ascend."""
    offsets: list[float] = []
    run = 0
    for i, value in enumerate(values.tolist()):
        run = run + 1 if i and value - values[i - 1] < near else 0
        offsets.append(0.09 * ((run + 1) // 2) * (1 if run % 2 else -1))
    return np.array(offsets)
