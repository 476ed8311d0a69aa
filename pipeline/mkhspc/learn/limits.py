"""What a classifier must reach: the limits of `mkhspc validate`, and whether figures reach them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mkhspc.learn.intervals import Figure


@dataclass(frozen=True)
class Limits:
    """What a classifier must reach; with `confident`, the lower end of the interval must."""

    accuracy: float = 0.75
    recall: float = 0.70
    precision: float = 0.70
    confident: bool = False


@dataclass(frozen=True)
class Check:
    """One demand on a classifier.

    Attributes:
        value: what is held against `limit`: the figure, or the lower end of its interval; None
            when it is not defined.
    """

    name: str
    value: float | None
    limit: float
    passed: bool

    @property
    def sentence(self) -> str:
        if self.value is None:
            return f"{self.name} is not defined"
        comparison = "at least" if self.name != "accuracy_gain" else "above"
        return f"{self.name.replace('_', ' ')} is {self.value:.3f}, not {comparison} {self.limit:g}"


def checks_of(figures: Mapping[str, Figure | None], limits: Limits) -> tuple[Check, ...]:
    """What the gate demands, and whether these figures reach it."""

    def held(name: str) -> float | None:
        figure = figures[name]
        return None if figure is None else figure.low if limits.confident else figure.value

    checks = []
    for name in ("accuracy", "recall", "precision"):
        value, limit = held(name), getattr(limits, name)
        checks.append(Check(name, value, limit, value is not None and value >= limit))
    gain = held("accuracy_gain")
    return (*checks, Check("accuracy_gain", gain, 0.0, gain is not None and gain > 0.0))
