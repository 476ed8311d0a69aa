"""The picture of densities: a dot for each animal, a bar for each group's mean."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.config import CELL_TYPES
from pipeline.report.statistics import Floats, Unit

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which people with any kind of colour vision can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Theme:
    """Colours of the paper, of text and axes, and of the mean's bar."""

    paper: str
    ink: str
    faint: str


LIGHT = Theme("#ffffff", "#1c2024", "#c9ced4")
DARK = Theme("#16191d", "#e6e8ea", "#3d444c")


def density_png(found: Sequence[Unit], *, is_simulated: bool, theme: Theme = LIGHT) -> bytes:
    """A PNG with one panel per cell type: cells per mm² of tissue against groups."""
    groups = list(dict.fromkeys(unit.group for unit in found))
    figure = Figure(
        figsize=(max(7.2, 2.4 + 1.5 * len(groups)), 3.9), facecolor=theme.paper, layout="constrained"
    )
    FigureCanvasAgg(figure)
    for axes, cell_type in zip(figure.subplots(1, 2), CELL_TYPES, strict=True):
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
        if values.size:
            axes.hlines(values.mean(), place - 0.3, place + 0.3, color=theme.ink, linewidth=1.6, zorder=2)
    axes.set_xticks(range(len(groups)), [group.replace(" ", "\n", 1) for group in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0.0, 1.12 * top)
    axes.set_ylabel("cells per mm² of tissue", color=theme.ink)
    _dress(axes, theme)


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
