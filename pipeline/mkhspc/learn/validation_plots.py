"""Pictures of a classifier's out-of-fold predictions: curves, groups and calibration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from mkhspc.charts import BLUE, LIGHT, VERMILION, Theme, new_figure, png_of, style_axes
from mkhspc.learn.metrics import Predictions, metrics_of

SQUARE_INCHES = (4.2, 3.9)
"""Width and height of a curve's picture, in inches."""
MAX_CALIBRATION_BINS = 10
MIN_CELLS_PER_BIN = 15
"""Cells that a point of the calibration curve stands for, at least: the standard error of a share is then
at most 0.13."""


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
    figure = new_figure(inches, theme, layout="constrained")
    axes = figure.subplots()
    draw(axes, cells, theme)
    style_axes(axes, theme)
    return png_of(figure)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y)


def _roc(axes: Axes, cells: Predictions, theme: Theme) -> None:
    false_share, true_share, _ = roc_curve(cells.labels, cells.probability)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle="--")
    axes.plot(false_share, true_share, color=BLUE, linewidth=1.8)
    truth, positive = cells.labels, cells.predicted
    axes.plot(np.mean(positive[~truth]), np.mean(positive[truth]), "o", color=VERMILION, markersize=7)
    _unit_square(axes, "negatives called positive", "positives found (recall)")
    axes.set_title("ROC; dot: the thresholds in use", loc="left")


def _precision_recall(axes: Axes, cells: Predictions, theme: Theme) -> None:
    precision, recall, _ = precision_recall_curve(cells.labels, cells.probability)
    axes.axhline(float(np.mean(cells.labels)), color=theme.faint, linewidth=1, linestyle="--")
    axes.step(recall, precision, where="post", color=BLUE, linewidth=1.8)
    truth, positive = cells.labels, cells.predicted
    if positive.any():
        axes.plot(np.mean(positive[truth]), np.mean(truth[positive]), "o", color=VERMILION, markersize=7)
    _unit_square(axes, "positives found (recall)", "right when called positive (precision)")
    axes.set_title("Precision and recall; dashed: by chance", loc="left")


def _groups(axes: Axes, cells: Predictions, theme: Theme) -> None:
    names = np.unique(cells.groups)
    for row, name in enumerate(names):
        figures = metrics_of(cells.where(cells.groups == name))
        for key, colour, shift in (("recall", BLUE, -0.12), ("precision", VERMILION, 0.12)):
            figure = figures[key]
            if figure is not None:
                axes.plot(figure.value, row + shift, "o", color=colour, markersize=6)
    counts = [(cells.groups == name).sum() for name in names]
    axes.set_yticks(
        range(len(names)),
        [f"{name} ({count})" for name, count in zip(names, counts, strict=True)],
        parse_math=False,  # a `$` in the name of a group is not mathematics
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.set_title("By group not seen (cells):\nrecall blue, precision orange", loc="left")


def calibration_bins(cells: Predictions) -> list[tuple[float, float, int]]:
    """Mean probability, share of positives and number of cells, in bins of about equal number."""
    count = int(np.clip(len(cells) // MIN_CELLS_PER_BIN, 1, MAX_CALIBRATION_BINS))
    order = np.argsort(cells.probability, kind="stable")
    return [
        (float(cells.probability[rows].mean()), float(cells.labels[rows].mean()), len(rows))
        for rows in np.array_split(order, count)
        if len(rows)
    ]


def _calibration(axes: Axes, cells: Predictions, theme: Theme) -> None:
    given, observed, _ = zip(*calibration_bins(cells), strict=True)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle="--")
    axes.plot(given, observed, "o-", color=BLUE, linewidth=1.4, markersize=6)
    _unit_square(axes, "probability given", "share that is positive")
    axes.set_title("Calibration; dashed: perfect", loc="left")


def _histogram(axes: Axes, cells: Predictions, theme: Theme) -> None:
    edges = np.linspace(0.0, 1.0, 21).tolist()
    for chosen, colour, label in ((cells.labels, BLUE, "positive"), (~cells.labels, VERMILION, "negative")):
        axes.hist(cells.probability[chosen], edges, histtype="step", color=colour, linewidth=1.6, label=label)
    axes.set(xlim=(-0.02, 1.02), xlabel="probability given", ylabel="cells")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
    axes.set_title("Probabilities by label", loc="left")
