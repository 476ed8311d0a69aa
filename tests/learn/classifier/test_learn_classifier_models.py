"""Thresholds, calibration and the choice among models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mkhspc.learn.classifier import models
from mkhspc.learn.classifier.models import DEEP_COMPONENTS, RECALL_AIM, ThresholdFor


def merit(probability: np.ndarray, labels: np.ndarray, threshold: float, aim: ThresholdFor) -> float:
    said, truth = probability >= threshold, labels == 1
    recall = said[truth].mean()
    if aim == "f1":
        return float(2 * (said & truth).sum() / (said.sum() + truth.sum()))
    return float(recall + (~said[~truth]).mean())


labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 19)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(deadline=None)
@given(rows=labelled, aim=st.sampled_from(["f1", "balanced"]))
def test_no_other_threshold_serves_better(rows: list[tuple[int, int]], aim: ThresholdFor) -> None:
    labels, probability = np.array([r[0] for r in rows], np.int8), np.array([r[1] / 20 for r in rows])
    chosen = models.best_threshold(probability, labels, aim)
    best = max(
        merit(probability, labels, cut / 40, aim) for cut in range(1, 38, 1) if cut / 40 <= probability.max()
    )
    assert merit(probability, labels, chosen, aim) == pytest.approx(best)


@settings(deadline=None)
@given(rows=labelled)
def test_a_threshold_for_recall_is_the_highest_that_keeps_enough_positives(
    rows: list[tuple[int, int]],
) -> None:
    labels, probability = np.array([r[0] for r in rows], np.int8), np.array([r[1] / 20 for r in rows])
    chosen = models.best_threshold(probability, labels, "recall")
    positives = probability[labels == 1]
    assert (positives >= chosen).mean() >= RECALL_AIM
    higher = probability[probability > chosen]
    if len(higher) and higher.min() < probability.max():
        assert (positives > higher.min()).mean() < RECALL_AIM


def test_a_threshold_that_keeps_just_enough_positives_is_high_enough() -> None:
    """Nine of ten positives are 0.9 of them: the tenth is given up, for the negative above it."""
    probability = np.array([0.1, 0.2, *np.linspace(0.3, 0.9, 9)])
    labels = np.array([1, 0, *[1] * 9], np.int8)
    assert 0.2 < models.best_threshold(probability, labels, "recall") < 0.3


def test_calibration_makes_probabilities_that_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(truth - 1.0)))).astype(np.int8)
    fitted = models.calibrate(5.0 * truth + 2.0, labels)
    probability = fitted(5.0 * truth + 2.0)
    assert probability.mean() == pytest.approx(labels.mean(), abs=0.005)
    assert fitted.slope == pytest.approx(0.2, abs=0.03)


def test_calibration_never_turns_the_order_round() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1], np.int8)
    fitted = models.calibrate(np.array([3.0, 2.0, 2.5, -1.0, -2.0, -3.0]), labels)
    assert fitted.slope > 0
    assert np.ptp(fitted(np.array([-3.0, 3.0]))) < 0.01


def test_calibration_is_never_surer_than_so_few_labels_allow() -> None:
    """Platt's targets: of 3 positives and 8 negatives that are told apart, 4 in 5 and 1 in 10."""
    labels = np.array([1] * 3 + [0] * 8, np.int8)
    odds = np.where(labels == 1, 2.0, -2.0)
    probability = models.calibrate(odds, labels)(odds)
    assert probability[labels == 1] == pytest.approx(4 / 5, abs=1e-3)
    assert probability[labels == 0] == pytest.approx(1 / 10, abs=1e-3)


@pytest.mark.parametrize("name", ["logistic", "extra-trees", "boosting"])
def test_the_rarer_class_weighs_as_much_as_the_commoner(name: str) -> None:
    """Where nothing can be learned, a member gives both answers alike, not the share of positives."""
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 10 == 0).astype(np.int8)
    member = models.fit_member(name, rng.normal(size=(400, 3)), labels, 0)
    unseen = member.predict_proba(rng.normal(size=(400, 3)))[:, 1]
    assert 0.3 < unseen.mean() < 0.7


def test_auto_tries_boosting_only_where_there_are_labels_enough() -> None:
    few, many = models.ensembles("auto", 999), models.ensembles("auto", 1000)
    assert not any("boosting" in ensemble for ensemble in few)
    assert ("boosting",) in many
    assert models.ensembles("random-forest", 10) == [("random-forest",)]


def deep_problem(cells: int = 60, deep: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 3 + deep), the last `deep` a noisy mixture of two directions, and labels."""
    rng = np.random.default_rng(0)
    labels = (np.arange(cells) % 2).astype(np.int8)
    hidden = rng.normal(size=(cells, 2)) + labels[:, None]
    mixed = hidden @ rng.normal(size=(2, deep)) * 50 + rng.normal(size=(cells, deep)) + 7
    return np.hstack([rng.normal(size=(cells, 3)), mixed]), labels


@pytest.mark.parametrize(
    ("cells", "deep", "kept"),
    [
        (10_000, 2048, DEEP_COMPONENTS),
        (4 * DEEP_COMPONENTS, 256, DEEP_COMPONENTS),
        (40, 256, 10),
        (2, 256, 1),
        (10_000, DEEP_COMPONENTS, 0),
        (40, 10, 0),
        (40, 0, 0),
    ],
)
def test_components_are_fewer_than_cells_and_only_for_many_columns(cells: int, deep: int, kept: int) -> None:
    assert models.components(cells, deep) == kept


@pytest.mark.parametrize("name", list(models.MEMBERS))
@pytest.mark.parametrize("deep", [0, 15])
def test_without_many_deep_columns_a_member_is_what_it_always_was(name: str, deep: int) -> None:
    """60 cells give 15 components: so many columns stay themselves."""
    features, labels = deep_problem(deep=15)
    member = models.fit_member(name, features, labels, 3, deep)
    plain = models.MEMBERS[name](3).fit(features, labels)
    assert type(member) is type(plain)
    assert member.predict_proba(features).tobytes() == plain.predict_proba(features).tobytes()


@pytest.mark.parametrize("name", list(models.MEMBERS))
def test_a_model_sees_the_other_columns_untouched_and_components_of_the_deep_ones(name: str) -> None:
    features, labels = deep_problem()
    member = models.fit_member(name, features, labels, 0, deep=100)
    seen = member[0].transform(features)
    assert seen.shape == (60, 3 + 15)
    assert seen[:, :3].tobytes() == features[:, :3].tobytes()
    standard = (features[:, 3:] - features[:, 3:].mean(0)) / features[:, 3:].std(0)
    truth = np.linalg.svd(standard, full_matrices=False)
    leading = truth.U[:, :2] * truth.S[:2]
    assert np.abs(seen[:, 3:5]) == pytest.approx(np.abs(leading), rel=1e-4, abs=1e-4)


def test_the_scale_of_a_deep_column_does_not_matter() -> None:
    features, labels = deep_problem()
    scaled = features.copy()
    scaled[:, 3::2] *= 1024.0  # a power of two: not even rounding differs
    one, other = (models.fit_member("extra-trees", x, labels, 0, deep=100) for x in (features, scaled))
    assert np.array_equal(one.predict_proba(features), other.predict_proba(scaled))


def test_components_are_the_same_for_the_same_seed() -> None:
    features, labels = deep_problem()
    first, again = (models.fit_member("logistic", features, labels, 5, deep=100) for _ in range(2))
    assert first[0].transform(features).tobytes() == again[0].transform(features).tobytes()


def test_deep_columns_are_reduced_where_there_are_no_others() -> None:
    features, labels = deep_problem()
    member = models.fit_member("extra-trees", features[:, 3:], labels, 0, deep=100)
    assert member[0].transform(features[:, 3:]).shape == (60, 15)


def test_the_random_forest_is_that_of_the_notes() -> None:
    labels = np.array([0, 1] * 10, np.int8)
    forest = models.fit_member("random-forest", np.arange(20.0)[:, None], labels, 3)
    assert (len(forest.estimators_), forest.class_weight, forest.random_state) == (200, "balanced", 3)
