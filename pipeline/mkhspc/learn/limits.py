"""What a classifier must reach: the limits of `mkhspc validate`, and whether its metrics reach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mkhspc.config.limits import Limit
from mkhspc.learn.intervals import Estimate

SHARE = Limit(least=0.0, most=1.0)
"""The range of a share of cells or labels."""


@dataclass(frozen=True)
class Limits:
    """What a classifier must reach, each from 0 to 1; with `confident`, the lower end of the interval must.

    Raises:
        UsageError: one is not from 0 to 1.
    """

    accuracy: float = 0.75
    recall: float = 0.70
    precision: float = 0.70
    confident: bool = False

    def __post_init__(self) -> None:
        for name in ("accuracy", "recall", "precision"):
            SHARE.check(f"--min-{name}", getattr(self, name))


DEFAULT_LIMITS = Limits()
"""What `mkhspc validate` demands without options."""


@dataclass(frozen=True)
class Check:
    """One limit, and whether a classifier reaches it.

    Attributes:
        value: what is compared with `limit`: the metric, or the lower end of its interval; None
            when it is not defined.
    """

    name: str
    value: float | None
    limit: float
    passed: bool

    @property
    def sentence(self) -> str:
        name = self.name.replace("_", " ")
        if self.value is None:
            return f"{name} is not defined"
        comparison = "at least" if self.name != "accuracy_gain" else "above"
        return f"{name} is {self.value:.3f}, not {comparison} {self.limit:g}"


def checks_of(figures: Mapping[str, Estimate | None], limits: Limits) -> tuple[Check, ...]:
    """Compares the metrics of a classifier with the limits, and its accuracy with the baseline's."""

    def held(name: str) -> float | None:
        figure = figures[name]
        return None if figure is None else figure.low if limits.confident else figure.value

    checks = []
    for name in ("accuracy", "recall", "precision"):
        value, limit = held(name), getattr(limits, name)
        checks.append(Check(name, value, limit, value is not None and value >= limit))
    gain = held("accuracy_gain")
    return (*checks, Check("accuracy_gain", gain, 0.0, gain is not None and gain > 0.0))
