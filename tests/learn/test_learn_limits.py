"""A classifier must reach its limits, and be better than the baseline, not only as good."""

from __future__ import annotations

import pytest

from mkhspc.learn.intervals import Estimate
from mkhspc.learn.limits import Check, Limits, checks_of

LIMITS = Limits(accuracy=0.75, recall=0.5, precision=0.25)


def checks(*, confident: bool = False, **values: Estimate | None) -> dict[str, Check]:
    """The checks of a classifier whose metrics are just at the limits, but for `values`."""
    at_the_limit = {
        "accuracy": Estimate(0.75, 0.7, 0.8, 8),
        "recall": Estimate(0.5, 0.4, 0.6, 8),
        "precision": Estimate(0.25, 0.2, 0.3, 8),
        "accuracy_gain": Estimate(0.125, 0.0625, 0.25, 8),
    }
    limits = Limits(LIMITS.accuracy, LIMITS.recall, LIMITS.precision, confident)
    return {check.name: check for check in checks_of(at_the_limit | values, limits)}


def test_a_metric_just_at_its_limit_is_enough() -> None:
    assert all(check.passed for check in checks().values())


@pytest.mark.parametrize(("name", "below"), [("accuracy", 0.74), ("recall", 0.49), ("precision", 0.24)])
def test_each_metric_is_compared_with_its_own_limit(name: str, below: float) -> None:
    found = checks(**{name: Estimate(below, 0.1, 0.9, 8)})
    assert [check.name for check in found.values() if not check.passed] == [name]
    assert found[name].limit == getattr(LIMITS, name)


def test_an_accuracy_that_only_equals_the_baselines_fails() -> None:
    found = checks(accuracy_gain=Estimate(0.0, -0.1, 0.1, 8))
    assert [check.name for check in found.values() if not check.passed] == ["accuracy_gain"]
    assert found["accuracy_gain"].sentence == "accuracy gain is 0.000, not above 0"


def test_confident_compares_the_lower_end_of_every_interval() -> None:
    found = checks(confident=True)
    assert [found[name].value for name in found] == [0.7, 0.4, 0.2, 0.0625]
    assert [check.name for check in found.values() if check.passed] == ["accuracy_gain"]


def test_a_metric_that_is_not_defined_fails_and_says_so() -> None:
    found = checks(precision=None)
    assert not found["precision"].passed
    assert found["precision"].sentence == "precision is not defined"
