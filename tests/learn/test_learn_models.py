"""Thresholds, calibration and the choice among models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from pipeline.learn import models
from pipeline.learn.models import RECALL_AIM, ThresholdFor


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


def test_auto_tries_boosting_only_where_there_are_labels_enough() -> None:
    few, many = models.recipes("auto", 999), models.recipes("auto", 1000)
    assert not any("boosting" in recipe for recipe in few)
    assert ("boosting",) in many
    assert models.recipes("random-forest", 10) == [("random-forest",)]


def test_the_random_forest_is_that_of_the_notes() -> None:
    labels = np.array([0, 1] * 10, np.int8)
    forest = models.fit_member("random-forest", np.arange(20.0)[:, None], labels, 3)
    assert (len(forest.estimators_), forest.class_weight, forest.random_state) == (200, "balanced", 3)
