"""A figure of a cell rests on no label of its own group; the choice of model and threshold included."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mkhspc.learn.classifier.fit import (
    LEAVE_ONE_OUT_UP_TO,
    OUTER_FOLDS,
    PARALLEL_FROM,
    OutOfFold,
    Settings,
    _unseen_odds,
    cross_validate,
    fit,
    inner_splits,
    outer_splits,
)
from mkhspc.learn.classifier.models import ModelName

QUICK = Settings(model="logistic")


def problem(groups: int = 4, size: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, 4), labels that the first two tell about, and groups."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(groups * size, 4))
    labels = (features[:, 0] + features[:, 1] + rng.normal(size=len(features)) > 0).astype(np.int8)
    return features, labels, np.repeat([f"slide{g:02d}" for g in range(groups)], size)


@pytest.mark.parametrize("model", ["auto", "boosting"])
def test_labels_of_a_group_do_not_touch_what_is_said_of_it(model: ModelName) -> None:
    """Turn every label of one group round: its own predictions and thresholds must not move."""
    features, labels, groups = problem(groups=3, size=20)
    settings = Settings(model=model)
    before = cross_validate(features, labels, groups, settings)
    own = groups == "slide01"
    after = cross_validate(features, np.where(own, 1 - labels, labels).astype(np.int8), groups, settings)
    assert np.array_equal(before.probability[own], after.probability[own])
    assert np.array_equal(before.threshold[own], after.threshold[own])
    assert np.array_equal(before.baseline[own], after.baseline[own])
    assert not np.array_equal(before.probability[~own], after.probability[~own])


def deep_problem(groups: int = 3, size: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`problem` with 60 deep columns behind its features."""
    features, labels, names = problem(groups, size)
    rng = np.random.default_rng(1)
    deep = (rng.normal(size=(len(labels), 5)) + labels[:, None]) @ rng.normal(size=(5, 60))
    return np.hstack([features, deep + rng.normal(size=deep.shape)]), labels, names


def with_wild_cell(features: np.ndarray, cell: int) -> np.ndarray:
    """The same cells, but for one whose deep features turn every principal direction that it is part of."""
    wild = features.copy()
    wild[cell, 4:] = 1e4 * np.random.default_rng(2).normal(size=features.shape[1] - 4)
    return wild


@pytest.mark.slow
@pytest.mark.parametrize("model", ["logistic", "random-forest"])
def test_components_are_found_without_the_group_held_out(model: ModelName) -> None:
    """One wild cell: predictions of its group stand, for no other classifier than theirs left it out."""
    features, labels, groups = deep_problem()
    own = groups == "slide01"
    cell = int(np.flatnonzero(own)[3])
    settings = Settings(model=model)
    before = cross_validate(features, labels, groups, settings, deep=60)
    after = cross_validate(with_wild_cell(features, cell), labels, groups, settings, deep=60)
    neighbours = own & (np.arange(len(own)) != cell)
    assert np.array_equal(before.probability[neighbours], after.probability[neighbours])
    assert np.array_equal(before.threshold[own], after.threshold[own])
    for group in ("slide00", "slide02"):
        assert not np.array_equal(before.probability[groups == group], after.probability[groups == group])


def test_components_are_found_without_the_group_held_out_inside_a_fit() -> None:
    """Calibration, threshold and choice rest on these: the same holds in the inner folds."""
    features, labels, groups = deep_problem()
    own = groups == "slide01"
    cell = int(np.flatnonzero(own)[3])
    before, after = (
        _unseen_odds(["logistic"], x, labels, groups, 0, 60)["logistic"]
        for x in (features, with_wild_cell(features, cell))
    )
    neighbours = own & (np.arange(len(own)) != cell)
    assert np.array_equal(before[neighbours], after[neighbours])
    assert not np.array_equal(before[~own], after[~own])


def test_every_fit_of_a_fold_reduces_the_deep_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is fitted on more than the 4 other columns and the components."""
    widths: list[int] = []

    class Watched(LogisticRegression):
        def fit(self, features: np.ndarray, labels: np.ndarray) -> Watched:
            widths.append(features.shape[1])
            fitted: Watched = super().fit(features, labels)
            return fitted

    monkeypatch.setattr(
        "mkhspc.learn.classifier.models.MEMBERS", {"logistic": lambda seed: Watched(max_iter=1000)}
    )
    features, labels, groups = deep_problem()
    cross_validate(features, labels, groups, QUICK, deep=60)
    assert sorted(set(widths)) == [4 + 24 // 4, 4 + 48 // 4]


@pytest.mark.parametrize("model", ["auto", "boosting"])
def test_folds_side_by_side_say_what_they_say_one_after_another(
    monkeypatch: pytest.MonkeyPatch, model: ModelName
) -> None:
    features, labels, groups = deep_problem(groups=3, size=PARALLEL_FROM // 3 + 1)
    settings = Settings(model=model)
    together = cross_validate(features, labels, groups, settings, deep=60)
    monkeypatch.setattr("mkhspc.learn.classifier.fit.PARALLEL_FROM", len(labels) + 1)
    alone = cross_validate(features, labels, groups, settings, deep=60)
    for name in ("probability", "threshold", "baseline", "fold"):
        assert np.array_equal(getattr(alone, name), getattr(together, name)), name
    assert alone.ensembles == together.ensembles


def test_a_cell_that_just_reaches_the_threshold_of_its_fold_is_positive() -> None:
    probability, threshold = np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.25, 0.5, 0.75, 0.875])
    nothing = np.zeros(4)
    found = OutOfFold(probability, threshold, nothing.astype(np.int8), nothing.astype(np.int64), ())
    assert found.predicted.tolist() == [True, False, True, False]


def test_a_signal_is_found_and_noise_is_not() -> None:
    features, labels, groups = problem(groups=5, size=60)
    found = cross_validate(features, labels, groups, QUICK)
    right = found.predicted == labels
    assert right.mean() > 0.70
    shuffled = np.random.default_rng(1).permutation(labels)
    by_chance = cross_validate(features, shuffled, groups, QUICK)
    assert abs((by_chance.predicted == shuffled).mean() - 0.5) < 0.1


def test_a_model_that_learned_the_slides_gains_nothing() -> None:
    """A feature that names the slide, and slides of different prevalence: random folds would shine."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"s{g}" for g in range(8)], 40)
    prevalence = np.repeat(rng.permutation(np.linspace(0.05, 0.95, 8)), 40)
    labels = (rng.random(320) < prevalence).astype(np.int8)
    features = np.column_stack([np.repeat(rng.normal(size=8), 40), rng.normal(size=320)])
    found = cross_validate(features, labels, groups, Settings(model="boosting"))
    baseline = max(labels.mean(), 1 - labels.mean())
    assert (found.predicted == labels).mean() < baseline + 0.1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers_and_another_may_not() -> None:
    features, labels, groups = problem()
    forest = [Settings(model="random-forest", seed=seed) for seed in (1, 1, 2)]
    first, again, other = (fit(features, labels, groups, s).probability(features) for s in forest)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("groups", [2, 3, LEAVE_ONE_OUT_UP_TO, LEAVE_ONE_OUT_UP_TO + 1, 40])
def test_every_cell_is_held_out_once_and_groups_stay_whole(groups: int) -> None:
    names = np.repeat([f"g{g:03d}" for g in range(groups)], 3)
    splits = outer_splits(names)
    assert len(splits) == (groups if groups <= LEAVE_ONE_OUT_UP_TO else OUTER_FOLDS)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(len(names)))
    for train, test in splits:
        assert set(names[train]).isdisjoint(names[test])


def test_inner_splits_go_by_group_and_by_cell_only_within_a_single_group() -> None:
    labels = np.array([0, 1] * 15, np.int8)
    names = np.repeat(["a", "b", "c"], 10)
    assert all(set(names[train]).isdisjoint(names[test]) for train, test in inner_splits(labels, names, 0))
    single = inner_splits(labels, np.repeat(["a"], 30), 0)
    assert all(set(labels[test].tolist()) == {0, 1} for _, test in single)


def test_groups_of_one_class_are_predicted_like_others() -> None:
    features, labels, groups = problem(groups=4)
    labels = np.where(groups == "slide00", 1, labels).astype(np.int8)
    found = cross_validate(features, labels, groups, QUICK)
    assert np.isfinite(found.probability).all()


def test_positives_in_one_group_alone_cannot_be_foreseen_from_the_others() -> None:
    features, labels, groups = problem(groups=3)
    labels = np.where(groups == "slide00", labels, 0).astype(np.int8)
    found = cross_validate(features, labels, groups, QUICK)
    own = groups == "slide00"
    assert not (found.probability[own] >= found.threshold[own]).any()


def test_two_groups_are_enough() -> None:
    features, labels, groups = problem(groups=2, size=40)
    found = cross_validate(features, labels, groups, QUICK)
    assert (found.predicted == labels).mean() > 0.6


@pytest.mark.parametrize("model", ["random-forest", "logistic", "boosting", "auto"])
def test_every_model_learns(model: ModelName) -> None:
    features, labels, groups = problem(groups=3, size=60)
    fitted = fit(features, labels, groups, Settings(model=model))
    unseen, truth, _ = problem(groups=3, size=100, seed=9)
    assert ((fitted.probability(unseen) >= fitted.threshold) == truth).mean() > 0.65
