"""Figures by hand, against a second way of working them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics

from mkhspc.learn.metrics import Predictions, metrics_of, roc_auc


def predictions(**columns: Any) -> Predictions:
    n = len(columns["labels"])
    facts: dict[str, Any] = {
        "cell_ids": np.array([f"S_s0_mk_{i}_0" for i in range(n)]),
        "slide_ids": np.array(["S"] * n),
        "groups": np.array(["S"] * n),
        "predicted": np.zeros(n, bool),
        "baseline": np.zeros(n, bool),
        "probability": np.full(n, 0.5),
        "policies": np.array(["random"] * n),
        "inclusion_probs": np.ones(n),
    }
    return Predictions(**{**facts, **{k: np.asarray(v) for k, v in columns.items()}})


def value(cells: Predictions, name: str, weights: Any = None) -> float | None:
    figure = metrics_of(cells, weights)[name]
    return None if figure is None else figure.value


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60))
def test_figures_are_those_of_scikit_learn(rows: list[tuple[bool, bool, int]]) -> None:
    labels, predicted, groups = (np.array(column) for column in zip(*rows, strict=True))
    cells = predictions(labels=labels, predicted=predicted, groups=groups.astype(str))
    assert value(cells, "accuracy") == pytest.approx(metrics.accuracy_score(labels, predicted))
    for name, score in (
        ("recall", metrics.recall_score),
        ("precision", metrics.precision_score),
        ("f1", metrics.f1_score),
    ):
        found = value(cells, name)
        if found is not None:
            assert found == pytest.approx(score(labels, predicted, zero_division=0))
    if len(set(labels.tolist())) == 2:
        assert value(cells, "balanced_accuracy") == pytest.approx(
            metrics.balanced_accuracy_score(labels, predicted)
        )


def test_a_figure_without_cells_behind_it_is_not_defined() -> None:
    cells = predictions(labels=[True, True], predicted=[False, False])
    assert value(cells, "precision") is None
    assert value(cells, "specificity") is None
    assert value(cells, "balanced_accuracy") is None
    assert value(cells, "roc_auc") is None
    assert value(cells, "recall") == 0.0


def test_the_baseline_always_gives_the_commoner_label() -> None:
    cells = predictions(labels=[True] * 3 + [False] * 7, predicted=[True] * 4 + [False] * 6)
    assert value(cells, "baseline_accuracy") == 0.7
    assert value(cells, "accuracy") == 0.9
    assert value(cells, "accuracy_gain") == pytest.approx(0.2)


def test_a_baseline_by_fold_counts_where_it_is_better() -> None:
    labels = [True] * 5 + [False] * 5
    cells = predictions(labels=labels, predicted=labels, baseline=labels)
    assert value(cells, "baseline_accuracy") == 1.0
    assert value(cells, "accuracy_gain") == 0.0


def test_a_gain_of_nothing_in_a_few_cells_is_not_certain() -> None:
    """Classifier and baseline agree on each of 12 cells: one more cell could have told them apart."""
    labels = np.arange(12) % 2 == 0
    cells = predictions(
        labels=labels, predicted=labels, baseline=labels, groups=np.repeat(["a", "b", "c"], 4)
    )
    gain = metrics_of(cells)["accuracy_gain"]
    assert gain is not None
    assert gain.value == 0.0
    assert gain.low == -gain.high
    assert gain.high == pytest.approx(4.303 * np.sqrt(1 / 13 / 12), rel=1e-3)


def test_weights_give_the_figures_of_the_population() -> None:
    """One positive in ten was labelled, every negative: the population has more positives."""
    cells = predictions(labels=[True, True, False, False], predicted=[True, False, True, False])
    weights = np.array([10.0, 10.0, 1.0, 1.0])
    assert value(cells, "prevalence", weights) == pytest.approx(20 / 22)
    assert value(cells, "precision", weights) == pytest.approx(10 / 11)
    assert value(cells, "accuracy", weights) == pytest.approx(0.5)
    assert value(cells, "baseline_accuracy", weights) == pytest.approx(20 / 22)


def test_weights_that_are_all_the_same_change_nothing() -> None:
    rng = np.random.default_rng(0)
    cells = predictions(
        labels=rng.random(60) < 0.4, predicted=rng.random(60) < 0.5, groups=rng.integers(0, 5, 60).astype(str)
    )
    plain, weighted = metrics_of(cells), metrics_of(cells, np.full(60, 7.0))
    for name, figure in weighted.items():
        other = plain[name]
        assert figure is not None
        assert other is not None
        assert (figure.value, figure.low, figure.high) == pytest.approx((other.value, other.low, other.high))


def test_the_brier_score_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, probability = rng.random(50) < 0.4, rng.random(50)
    cells = predictions(labels=labels, probability=probability)
    assert value(cells, "brier") == pytest.approx(metrics.brier_score_loss(labels, probability))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=50))
def test_the_roc_area_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    labels, score = np.array([r[0] for r in rows]), np.array([r[1] / 5 for r in rows])
    found = roc_auc(labels, score)
    if len(set(labels.tolist())) == 1:
        assert found is None
    else:
        assert found == pytest.approx(metrics.roc_auc_score(labels, score))
