"""How good predictions are: metrics of cells that the classifier had not seen, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mkhspc.learn import intervals
from mkhspc.learn.intervals import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions of n cells of one type.

    Attributes:
        labels, predicted, baseline: (n,) bool: the label, the classifier's answer, and the
            commoner label of the groups that the classifier had learned from.
        probability: (n,) float64.
        inclusion_probs: (n,) float64, NaN where not known.
    """

    cell_ids: NDArray[np.str_]
    slide_ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    labels: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    baseline: NDArray[np.bool_]
    probability: Floats
    policies: NDArray[np.str_]
    inclusion_probs: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: NDArray[np.bool_]) -> Predictions:
        """Some of the cells."""
        return Predictions(**{name: values[chosen] for name, values in vars(self).items()})


def metrics_of(cells: Predictions, weights: Floats | None = None) -> dict[str, Estimate | None]:
    """The metrics of a classifier by name, which files call its figures; None where one is not defined.

    accuracy, recall, precision, specificity, f1, balanced_accuracy and prevalence as usual, of the
    positive class; baseline_accuracy: of always giving the commoner label; accuracy_gain: accuracy
    less that of the baseline; roc_auc: the chance that a positive scores above a negative;
    brier: mean squared error of the probability.

    Args:
        weights: (n,) how many cells of the population each cell stands for; None for itself.
    """
    weight = np.ones(len(cells)) if weights is None else weights
    by_group = _ByGroup(cells, weight)
    truth, positive = cells.labels, cells.predicted
    figures = {
        "accuracy": by_group.share(truth == positive, np.ones_like(truth)),
        "recall": by_group.share(truth & positive, truth),
        "precision": by_group.share(truth & positive, positive),
        "specificity": by_group.share(~truth & ~positive, ~truth),
        "f1": by_group.f1(),
        "balanced_accuracy": by_group.balanced_accuracy(),
        "prevalence": by_group.share(truth, np.ones_like(truth)),
        "baseline_accuracy": by_group.share(_majority(cells, weight) == truth, np.ones_like(truth)),
        "accuracy_gain": by_group.gain(_majority(cells, weight)),
        "brier": by_group.brier(),
    }
    return figures if weights is not None else {**figures, "roc_auc": by_group.roc_auc()}


def _majority(cells: Predictions, weight: Floats) -> NDArray[np.bool_]:
    """The baseline's answers: for every cell the one label that is right most often here.

    That is kinder to the baseline than the majority of each fold's other groups, which can be
    wrong about the group held out; the better of the two is taken.
    """
    one_for_all = np.full(len(cells), 2 * weight[cells.labels].sum() >= weight.sum())
    by_fold = weight[cells.baseline == cells.labels].sum()
    return cells.baseline if by_fold > weight[one_for_all == cells.labels].sum() else one_for_all


class _ByGroup:
    """Sums over the cells of each group."""

    def __init__(self, cells: Predictions, weight: Floats) -> None:
        self._cells, self._weight = cells, weight
        self._names, self._group = np.unique(cells.groups, return_inverse=True)

    def _sum(self, values: NDArray[np.generic]) -> Floats:
        weighted = self._weight * values.astype(np.float64)
        return np.bincount(self._group, weighted, len(self._names)).astype(np.float64)

    def _effective(self, values: NDArray[np.generic]) -> float:
        """The effective sample size of weighted cells (Kish, Survey Sampling, 1965)."""
        weight = self._weight[values.astype(bool)]
        return float(weight.sum() ** 2 / np.sum(weight**2)) if len(weight) else 0.0

    def share(self, hits: NDArray[np.bool_], tries: NDArray[np.bool_]) -> Estimate | None:
        return intervals.share(self._sum(hits), self._sum(tries), self._effective(tries))

    def f1(self) -> Estimate | None:
        truth, positive = self._cells.labels, self._cells.predicted
        hits, either = self._sum(truth & positive), self._sum(truth | positive)
        return intervals.share(2 * hits, hits + either, self._effective(truth | positive))

    def balanced_accuracy(self) -> Estimate | None:
        truth, positive = self._cells.labels, self._cells.predicted
        halves = [(truth & positive, truth), (~truth & ~positive, ~truth)]
        hits = [self._sum(hit) for hit, _ in halves]
        tries = [self._sum(tried) for _, tried in halves]
        if not all(total.sum() > 0 for total in tries):
            return None
        values = [float(h.sum() / t.sum()) for h, t in zip(hits, tries, strict=True)]
        cells = [self._effective(tried) for _, tried in halves]
        with np.errstate(invalid="ignore"):
            left_out = sum((h.sum() - h) / (t.sum() - t) for h, t in zip(hits, tries, strict=True)) / 2
        if not np.isfinite(left_out).all():  # one group holds a whole class: nothing can be left out
            left_out = np.zeros(0)
        return intervals.bounded(
            sum(values) / 2,
            sum(intervals.shrunk(v, n) for v, n in zip(values, cells, strict=True)) / 2,
            left_out,
            sum(intervals.variance_of_share(v, n) for v, n in zip(values, cells, strict=True)) / 4,
        )

    def gain(self, baseline: NDArray[np.bool_]) -> Estimate:
        truth = self._cells.labels
        gains = (truth == self._cells.predicted).astype(np.float64) - (truth == baseline)
        cells, total = self._sum(np.ones(len(truth))), self._weight.sum()
        mean = float(self._weight @ gains / total)
        # one more cell on either side: without any disagreement the spread is not known to be 0
        n = self._effective(np.ones(len(truth)))
        spread = (float(self._weight @ gains**2 / total) * n + 1.0) / (n + 1.0) - mean**2
        return intervals.difference(self._sum(gains), cells, max(spread, 0.0) / n)

    def brier(self) -> Estimate:
        squares = (self._cells.probability - self._cells.labels) ** 2
        n, total = self._effective(np.ones(len(squares))), self._weight.sum()
        spread = float(self._weight @ squares**2 / total - (self._weight @ squares / total) ** 2)
        return intervals.difference(self._sum(squares), self._sum(np.ones(len(squares))), spread / n)

    def roc_auc(self) -> Estimate | None:
        truth, score = self._cells.labels, self._cells.probability
        value = roc_auc(truth, score)
        if value is None:
            return None
        left_out = [
            roc_auc(truth[self._group != g], score[self._group != g]) for g in range(len(self._names))
        ]
        known = [area for area in left_out if area is not None]
        positives, negatives = float(truth.sum()), float((~truth).sum())
        centre = intervals.shrunk(value, min(positives, negatives))
        return intervals.bounded(
            value,
            centre,
            np.array(known) if len(known) == len(left_out) else np.zeros(0),
            auc_variance(centre, positives, negatives),
        )


def auc_variance(area: float, positives: float, negatives: float) -> float:
    """Variance of a ROC area of independent cells (Hanley and McNeil, Radiology 143, 1982)."""
    of_positives = (positives - 1) * (area / (2 - area) - area**2)
    of_negatives = (negatives - 1) * (2 * area**2 / (1 + area) - area**2)
    return (area * (1 - area) + of_positives + of_negatives) / (positives * negatives)


def roc_auc(labels: NDArray[np.bool_], score: Floats) -> float | None:
    """Area under the ROC curve (Mann and Whitney's U by the number of pairs); None for one class."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(score)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))
