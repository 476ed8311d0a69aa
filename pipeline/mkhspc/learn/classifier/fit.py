"""Fits a classifier, and predicts every labelled cell by one that has not seen its group.

Everything that looks at labels (which model, its calibration, its threshold) is decided inside
`fit`, from predictions that leave groups out; `cross_validate` calls `fit` on the other groups
alone. So no figure of a cell rests on a label of its own group. Principal components of deep features
are found in every fit anew, in the cells that it learns from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, StratifiedKFold

from mkhspc.config.limits import Limit
from mkhspc.config.typed import checked
from mkhspc.learn.classifier import models
from mkhspc.learn.classifier.models import Calibration, Ensemble, Floats, Labels, ModelName, ThresholdFor
from mkhspc.progress import Progress, silent

LEAVE_ONE_OUT_UP_TO = 16
"""Up to this many groups each is held out on its own; more of them are held out in `OUTER_FOLDS` parts."""
OUTER_FOLDS = 10
INNER_FOLDS = 5
"""The most folds inside a fit, for choice, calibration and threshold."""
PARALLEL_FROM = 250
"""Labels from which folds are fitted in parallel: with fewer, starting processes takes longer."""

Seed = Annotated[int, Limit(least=0, most=2**32 - 1)]
"""What NumPy's legacy generators, which scikit-learn uses, take as a seed."""
Groups = NDArray[np.str_]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        model: one kind of model, or 'auto' for the ensemble with the lowest log loss on unseen groups.
        threshold_for: what the threshold serves (see `models.best_threshold`).
        seed: the same seed on the same data gives the same classifier.
        group_by: 'slide', 'scene', or the path of a CSV file: what is held out whole (see `groups_of`).
        morph_only: leave out the features of a network.

    Raises:
        UsageError: there is no such model or aim, or the seed is out of range.
    """

    model: ModelName = "auto"
    threshold_for: ThresholdFor = "f1"
    seed: int = 0
    group_by: str = "slide"
    morph_only: bool = False

    def __post_init__(self) -> None:
        checked(self.model, ModelName, "--model")
        checked(self.threshold_for, ThresholdFor, "--threshold-for")
        checked(self.seed, Seed, "--seed")


@dataclass(frozen=True)
class Fitted:
    """A classifier in memory.

    Attributes:
        members: fitted scikit-learn estimators; none where the labels were all of one class.
        losses: log loss of each ensemble tried, on cells of groups that it had not seen.
    """

    ensemble: Ensemble
    members: tuple[Any, ...]
    calibration: Calibration
    threshold: float
    losses: Mapping[str, float]

    def probability(self, features: Floats) -> Floats:
        """Calibrated probability of 'positive' per row of (n, f) features."""
        odds = [models.log_odds(member, features) for member in self.members]
        return self.calibration(models.mean_odds(odds) if odds else np.zeros(len(features)))


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of n cells, each by a classifier trained on other groups.

    Attributes:
        probability, threshold: (n,) float64; the threshold is that of the cell's fold.
        baseline: (n,) int8, the commoner label of the groups that the classifier was trained on.
        fold: (n,) int64, from 0.
        ensembles: the ensemble chosen in each fold.
    """

    probability: Floats
    threshold: Floats
    baseline: Labels
    fold: NDArray[np.int64]
    ensembles: tuple[Ensemble, ...]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """(n,) bool: whether each cell reaches the threshold of the classifier that judged it."""
        return self.probability >= self.threshold


def fit(features: Floats, labels: Labels, groups: Groups, settings: Settings, deep: int = 0) -> Fitted:
    """Chooses, calibrates and fits a classifier on all the cells given.

    Args:
        features: (n, f), the last `deep` columns those of a network.
    """
    if len(np.unique(labels)) < 2:
        return Fitted((), (), models.constant(labels), 0.5, {})
    choices = models.ensembles(settings.model, len(labels))
    names = list(dict.fromkeys(name for ensemble in choices for name in ensemble))
    unseen = _unseen_odds(names, features, labels, groups, settings.seed, deep)
    odds = {ensemble: models.mean_odds([unseen[name] for name in ensemble]) for ensemble in choices}
    calibrations = {ensemble: models.calibrate(odds[ensemble], labels) for ensemble in choices}
    losses = {r: models.log_loss(calibrations[r](odds[r]), labels) for r in choices}
    best = min(choices, key=losses.__getitem__)
    return Fitted(
        ensemble=best,
        members=tuple(models.fit_member(name, features, labels, settings.seed, deep) for name in best),
        calibration=calibrations[best],
        threshold=models.best_threshold(calibrations[best](odds[best]), labels, settings.threshold_for),
        losses={"+".join(ensemble): round(loss, 6) for ensemble, loss in losses.items()},
    )


def _unseen_odds(
    names: list[str], features: Floats, labels: Labels, groups: Groups, seed: int, deep: int
) -> dict[str, Floats]:
    """Each member's log-odds of every cell, from a fit without the cell's group."""
    odds = {name: np.zeros(len(labels)) for name in names}
    for train, test in inner_splits(labels, groups, seed):
        if len(np.unique(labels[train])) == 2:
            for name in names:
                member = models.fit_member(name, features[train], labels[train], seed, deep)
                odds[name][test] = models.log_odds(member, features[test])
    return odds


def cross_validate(
    features: Floats,
    labels: Labels,
    groups: Groups,
    settings: Settings,
    progress: Progress = silent,
    deep: int = 0,
) -> OutOfFold:
    """Predicts every cell by a classifier that was chosen, calibrated and fitted on other groups.

    Args:
        features: (n, f), the last `deep` columns those of a network.
    """
    n = len(labels)
    probability, threshold = np.zeros(n), np.zeros(n)
    baseline, fold, ensembles = np.zeros(n, np.int8), np.zeros(n, np.int64), []
    splits = outer_splits(groups)
    processes = min(cpu_count(), len(splits)) if n >= PARALLEL_FROM else 1
    # "c": parts of scikit-learn fail on arrays that they cannot write to
    run = Parallel(n_jobs=processes, return_as="generator", mmap_mode="c")
    answers = run(delayed(_answer)(features, labels, groups, settings, split, deep) for split in splits)
    for number, ((train, test), answer) in enumerate(zip(splits, answers, strict=True)):
        probability[test], threshold[test], ensemble = answer
        baseline[test] = int(2 * labels[train].sum() >= len(train))
        fold[test] = number
        ensembles.append(ensemble)
        progress("cross-validate", number + 1, len(splits), model="+".join(ensemble))
    return OutOfFold(probability, threshold, baseline, fold, tuple(ensembles))


def _answer(
    features: Floats, labels: Labels, groups: Groups, settings: Settings, split: Split, deep: int
) -> tuple[Floats, float, Ensemble]:
    """Probability of the cells held out, with threshold and ensemble of the classifier that gave it."""
    train, test = split
    fitted = fit(features[train], labels[train], groups[train], settings, deep)
    return fitted.probability(features[test]), fitted.threshold, fitted.ensemble


def outer_splits(groups: Groups) -> list[Split]:
    """Every group held out once: alone, or with others where there are many."""
    count = len(np.unique(groups))
    splitter = LeaveOneGroupOut() if count <= LEAVE_ONE_OUT_UP_TO else GroupKFold(OUTER_FOLDS)
    return list(splitter.split(groups, groups=groups))


def inner_splits(labels: Labels, groups: Groups, seed: int) -> list[Split]:
    """Splits of the cells that a classifier is fitted on: by group, or by cell within a single group."""
    count = len(np.unique(groups))
    if count >= 2:
        splitter = LeaveOneGroupOut() if count <= INNER_FOLDS else GroupKFold(INNER_FOLDS)
        return list(splitter.split(groups, groups=groups))
    folds = min(INNER_FOLDS, int(np.bincount(labels, minlength=2).min()))
    if folds < 2:
        return list(KFold(2, shuffle=True, random_state=seed).split(labels))
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
