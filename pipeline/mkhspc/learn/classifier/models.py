"""The models that can be trained, how an ensemble averages them, its calibration and its threshold.

Each member gives log-odds, and an ensemble is their mean. Calibration (Platt, in Advances in Large
Margin Classifiers, 2000) turns log-odds into a probability, and the threshold turns that into yes or no.
The features of a network, hundreds to thousands a cell, reach a member as a few principal components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from threadpoolctl import threadpool_limits

ModelName = Literal["auto", "random-forest", "logistic", "boosting"]
ThresholdFor = Literal["f1", "recall", "balanced"]
Ensemble = tuple[str, ...]
"""The names of its members, which are keys of `MEMBERS`. Files call it `recipe`."""
Floats = NDArray[np.float64]
Labels = NDArray[np.int8]

LOG_ODDS_LIMIT = 9.2
"""Log-odds stay within those of 1 in 10,000, which no set of labels is large enough to tell from 0."""
BOOSTING_FROM = 1000
"""The number of labels from which `auto` tries boosting: with 170 and 600 of real marrow it added nothing."""
RECALL_AIM = 0.90
"""The share of positives that `--threshold-for recall` keeps."""
DEEP_COMPONENTS = 32
"""The most principal components that stand for the deep features: half as many as there are features of
shape, colour and texture (67), so that a network can add to these but not drown them. A round number:
16 and 64 do about as well on simulated slides and on real marrow."""
MIN_CELLS_PER_COMPONENT = 4
"""The fewest cells for each component: directions found in fewer are mostly chance."""
_MIN_SLOPE = 1e-3
"""The smallest slope of a calibration: almost flat, but never negative."""
_MIN_ROWS_FOR_THREADS = 20_000
"""Rows from which several threads are faster than one."""


def _logistic(seed: int) -> Any:
    # ranks instead of values: a strange cell cannot pull the model along, and skewed features need no
    # transform of their own. On 170, 600 and 2,951 cells of real marrow, by patient, this had the
    # ROC area of power-transformed features (0.82) in a twentieth of the time; C was the best of 0.03 to 1
    return Pipeline(
        [
            ("ranks", QuantileTransformer(n_quantiles=10, random_state=seed)),
            ("scale", StandardScaler()),
            ("model", LogisticRegression(C=0.03, class_weight="balanced", max_iter=5000, random_state=seed)),
        ]
    )


def _random_forest(seed: int) -> Any:
    return RandomForestClassifier(200, class_weight="balanced", random_state=seed)


def _extra_trees(seed: int) -> Any:
    return ExtraTreesClassifier(100, min_samples_leaf=4, class_weight="balanced", random_state=seed)


def _boosting(seed: int) -> Any:
    # 31 bins a feature instead of 255: a sixth of the time (which goes into weighted quantiles, a bin at a
    # time), and the same ROC area within 0.003 on 600 and 2,996 cells of real marrow, by patient
    return HistGradientBoostingClassifier(
        max_bins=31,
        max_iter=100,
        learning_rate=0.05,
        max_leaf_nodes=6,
        min_samples_leaf=8,
        l2_regularization=5.0,
        class_weight="balanced",
        early_stopping=False,
        random_state=seed,
    )


MEMBERS: Mapping[str, Callable[[int], Any]] = {
    "logistic": _logistic,
    "random-forest": _random_forest,
    "extra-trees": _extra_trees,
    "boosting": _boosting,
}


def ensembles(model: ModelName, labels: int) -> list[Ensemble]:
    """The ensembles to choose from for so many labels, the simplest first."""
    if model != "auto":
        return [(model,)]
    choices: list[Ensemble] = [("logistic",), ("extra-trees",), ("logistic", "extra-trees")]
    if labels >= BOOSTING_FROM:
        choices += [("boosting",), ("logistic", "extra-trees", "boosting")]
    return choices


def components(cells: int, deep: int) -> int:
    """Principal components that stand for `deep` columns in a fit on so many cells.

    0 where the columns are no more than that: then they stay themselves.
    """
    most = min(DEEP_COMPONENTS, max(1, cells // MIN_CELLS_PER_COMPONENT))
    return most if deep > most else 0


def fit_member(name: str, features: Floats, labels: Labels, seed: int, deep: int = 0) -> Any:
    """A fitted scikit-learn estimator; the same for the same arguments.

    Args:
        features: (n, f). Components of deep columns are found in these n cells alone.
        labels: (n,), both classes present.
        deep: how many of the f columns, the last ones, are a network's.
    """
    model, kept = MEMBERS[name](seed), components(len(labels), deep)
    if kept:
        model = Pipeline([("columns", _reduced(features.shape[1], deep, kept, seed)), ("model", model)])
    with _few_threads(len(labels)):
        model.fit(features, labels)
    if kept:
        # as a file brings it back: of another order in memory, BLAS makes other last digits
        found = model[0].named_transformers_["deep"][-1]
        found.components_ = np.ascontiguousarray(found.components_)
    return model


def _reduced(columns: int, deep: int, kept: int, seed: int) -> ColumnTransformer:
    """The columns as they are, but for the last `deep`, of which `kept` principal components remain."""
    # standardised first, for a network's columns have no common scale. The randomised solver takes a fifth
    # of the full one's time on 3,000 cells and is the same for the same seed. A pipeline of nothing
    # keeps columns as they are; plain "passthrough" would put a FunctionTransformer, which can hold
    # any function, into the classifier's file
    solver = PCA(kept, svd_solver="randomized", random_state=seed)
    return ColumnTransformer(
        [
            ("named", Pipeline([("same", "passthrough")]), slice(0, columns - deep)),
            (
                "deep",
                Pipeline([("scale", StandardScaler()), ("components", solver)]),
                slice(columns - deep, columns),
            ),
        ]
    )


def _few_threads(rows: int) -> Any:
    # threads of OpenMP and BLAS cost more than they save on few rows, a hundredfold on a busy machine; and
    # sums by one thread are the same whatever the number of cores
    return threadpool_limits(1 if rows < _MIN_ROWS_FOR_THREADS else None)


def log_odds(member: Any, features: Floats) -> Floats:
    """A member's log-odds of 'positive' per row, within `LOG_ODDS_LIMIT`."""
    with _few_threads(len(features)):
        positive = member.predict_proba(features)[:, 1]
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(positive) - np.log1p(-positive)
    return np.clip(odds, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)


@dataclass(frozen=True)
class Calibration:
    """probability = 1 / (1 + exp(-(slope * log-odds + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, odds: Floats) -> Floats:
        probability: Floats = 1.0 / (1.0 + np.exp(-(self.slope * odds + self.intercept)))
        return probability


def calibrate(odds: Floats, labels: Labels) -> Calibration:
    """The calibration that fits log-odds of cells which the model had not seen.

    Uses Platt's smoothed targets; a slope that would turn the model's order round is cut at almost
    nothing, which gives every cell the same probability.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] * odds + parameters[1]
        residual = 1.0 / (1.0 + np.exp(-z)) - target
        gradient = np.array([residual @ odds, residual.sum()])
        return float(np.sum(np.logaddexp(0.0, z) - target * z)), gradient

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(_MIN_SLOPE, None), (None, None)]
    )
    return Calibration(float(found.x[0]), float(found.x[1]))


def constant(labels: Labels) -> Calibration:
    """The calibration for labels of a single class: one probability, near 0 or 1, for every cell."""
    share = (labels.sum() + 0.5) / (len(labels) + 1.0)
    return Calibration(0.0, float(np.log(share / (1.0 - share))))


def log_loss(probability: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood, in nats a cell."""
    return float(-np.mean(np.log(np.where(labels == 1, probability, 1.0 - probability))))


def best_threshold(probability: Floats, labels: Labels, aim: ThresholdFor) -> float:
    """The threshold, midway between two neighbouring probabilities, that serves `aim` best.

    f1: the highest F1. balanced: the highest balanced accuracy. recall: the highest threshold that
    keeps `RECALL_AIM` of the positives. Of equals the highest wins.

    Args:
        probability: (n,), of cells that the model had not seen.
        labels: (n,), both classes present.
    """
    values = np.unique(probability)
    cuts = np.concatenate([values[:1] / 2, (values[1:] + values[:-1]) / 2])[::-1]
    positives, negatives = np.sort(probability[labels == 1]), np.sort(probability[labels == 0])
    true_positives = len(positives) - np.searchsorted(positives, cuts)
    false_positives = len(negatives) - np.searchsorted(negatives, cuts)
    recall = true_positives / len(positives)
    if aim == "recall":
        return float(cuts[np.argmax(recall >= RECALL_AIM)])
    if aim == "f1":
        merit = 2 * true_positives / (true_positives + false_positives + len(positives))
    else:
        merit = recall + 1.0 - false_positives / len(negatives)
    return float(cuts[np.argmax(merit)])


def mean_odds(members: Sequence[Floats]) -> Floats:
    """The log-odds of an ensemble: the mean of its members'."""
    odds: Floats = np.mean(members, axis=0)
    return odds
