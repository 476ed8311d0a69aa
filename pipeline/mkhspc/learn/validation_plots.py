"""Pictures of a classifier's out-of-fold predictions: curves, groups and calibration."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from mkhspc.learn.metrics import Predictions, figures_of

BLUE, VERMILION = "#0072B2", "#D55E00"
"""Two of Okabe and Ito's colours, which people with any kind of colour vision can tell apart."""
DOTS_PER_INCH = 150
SQUARE_INCHES = (4.2, 3.9)
MOST_BINS = 10
CELLS_PER_BIN = 15


@dataclass(frozen=True)
class Theme:
    """Colours of the paper, of text and axes, and of what should stay in the background."""

    paper: str
    ink: str
    faint: str


LIGHT = Theme("#ffffff", "#1c2024", "#c9ced4")
DARK = Theme("#16191d", "#e6e8ea", "#3d444c")


def pictures_of(cells: Predictions, theme: Theme = LIGHT) -> dict[str, bytes]:
    """PNG files by name, one panel each, so that a page can put them side by side or below each other."""
    groups_inches = 1.6 + 0.32 * len(np.unique(cells.groups))
    return {
        "roc": _png(_roc, SQUARE_INCHES, cells, theme),
        "precision_recall": _png(_precision_recall, SQUARE_INCHES, cells, theme),
        "calibration": _png(_calibration, SQUARE_INCHES, cells, theme),
        "probabilities": _png(_histogram, SQUARE_INCHES, cells, theme),
        "groups": _png(_groups, (4.8, groups_inches), cells, theme),
    }


def _png(
    draw: Callable[[Axes, Predictions, Theme], None],
    inches: tuple[float, float],
    cells: Predictions,
    theme: Theme,
) -> bytes:
    figure = Figure(figsize=inches, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes, cells, theme)
    _dress(axes, theme)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return out.getvalue()


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.grid(color=theme.faint, linewidth=0.5)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, color=theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)


def _roc(axes: Axes, cells: Predictions, theme: Theme) -> None:
    false_share, true_share, _ = roc_curve(cells.labels, cells.probability)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle="--")
    axes.plot(false_share, true_share, color=BLUE, linewidth=1.8)
    truth, said = cells.labels, cells.predicted
    axes.plot(np.mean(said[~truth]), np.mean(said[truth]), "o", color=VERMILION, markersize=7)
    _unit_square(axes, "negatives called positive", "positives found (recall)")
    axes.set_title("ROC; dot: the thresholds in use", loc="left")


def _precision_recall(axes: Axes, cells: Predictions, theme: Theme) -> None:
    precision, recall, _ = precision_recall_curve(cells.labels, cells.probability)
    axes.axhline(float(np.mean(cells.labels)), color=theme.faint, linewidth=1, linestyle="--")
    axes.step(recall, precision, where="post", color=BLUE, linewidth=1.8)
    truth, said = cells.labels, cells.predicted
    if said.any():
        axes.plot(np.mean(said[truth]), np.mean(truth[said]), "o", color=VERMILION, markersize=7)
    _unit_square(axes, "positives found (recall)", "right when called positive (precision)")
    axes.set_title("Precision and recall; dashed: by chance", loc="left")


def _groups(axes: Axes, cells: Predictions, theme: Theme) -> None:
    names = np.unique(cells.groups)
    for row, name in enumerate(names):
        figures = figures_of(cells.where(cells.groups == name))
        for key, colour, shift in (("recall", BLUE, -0.12), ("precision", VERMILION, 0.12)):
            figure = figures[key]
            if figure is not None:
                axes.plot(figure.value, row + shift, "o", color=colour, markersize=6)
    counts = [(cells.groups == name).sum() for name in names]
    axes.set_yticks(
        range(len(names)),
        [f"{name} ({count})" for name, count in zip(names, counts, strict=True)],
        parse_math=False,  # a `$` in the name of a group is no mathematics
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.set_title("By group not seen (cells):\nrecall blue, precision orange", loc="left")


def calibration_bins(cells: Predictions) -> list[tuple[float, float, int]]:
    """Mean probability, share of positives and number of cells, in bins of about equal number."""
    count = int(np.clip(len(cells) // CELLS_PER_BIN, 1, MOST_BINS))
    order = np.argsort(cells.probability, kind="stable")
    return [
        (float(cells.probability[rows].mean()), float(cells.labels[rows].mean()), len(rows))
        for rows in np.array_split(order, count)
        if len(rows)
    ]


def _calibration(axes: Axes, cells: Predictions, theme: Theme) -> None:
    said, was, _ = zip(*calibration_bins(cells), strict=True)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle="--")
    axes.plot(said, was, "o-", color=BLUE, linewidth=1.4, markersize=6)
    _unit_square(axes, "probability given", "share that is positive")
    axes.set_title("Calibration; dashed: perfect", loc="left")


def _histogram(axes: Axes, cells: Predictions, theme: Theme) -> None:
    edges = np.linspace(0.0, 1.0, 21).tolist()
    for chosen, colour, label in ((cells.labels, BLUE, "positive"), (~cells.labels, VERMILION, "negative")):
        axes.hist(cells.probability[chosen], edges, histtype="step", color=colour, linewidth=1.6, label=label)
    axes.set(xlim=(-0.02, 1.02), xlabel="probability given", ylabel="cells")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    axes.set_title("Probabilities by label", loc="left")
