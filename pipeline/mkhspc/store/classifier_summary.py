"""What is known of a classifier whose scores a run holds, kept beside them.

Whoever shows numbers that come from a classifier can so say what they rest on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mkhspc.config import CellType
from mkhspc.errors import InputError
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout

FORMAT = "mkhspc-classifier-standing"
VERSION = 1
FIGURE_NAMES = {
    "accuracy": "Accuracy",
    "baseline_accuracy": "Baseline",
    "recall": "Recall",
    "precision": "Precision",
    "roc_auc": "ROC area",
}
"""Figures that are kept of a classifier, and what a page calls them."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """A classifier, seen from the run that it scores.

    Attributes:
        groups: that it learned from; none when nothing is known of it.
        positive, negative: labels that it learned from.
        figures: on groups that it had not seen, by name; None where one is not defined.
        concerns: why its answers deserve doubt, a clause each; none if nothing speaks against it.
    """

    cell_type: CellType
    classifier_id: str
    groups: tuple[str, ...] = ()
    positive: int = 0
    negative: int = 0
    figures: Mapping[str, Interval | None] = field(default_factory=dict)
    concerns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"The {self.cell_type.upper()} classifier {self.classifier_id}"


def write_standing(layout: RunLayout, standing: Standing) -> None:
    """Writes `RUN/scores/<classifier_id>.json`."""
    path = layout.standing(standing.classifier_id)
    atomic.write_json(path, {"format": FORMAT, "version": VERSION, **asdict(standing)})


def read_standing(layout: RunLayout, classifier_id: str) -> Standing | None:
    """What was noted of a classifier, or None if nothing was.

    Raises:
        InputError: what was noted cannot be read.
    """
    path = layout.standing(classifier_id)
    if not path.exists():
        return None
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"is damaged ({error})", where=path, fix="score the run again with `mkhspc score`"
        ) from error


def _parsed(noted: dict[str, Any]) -> Standing:
    if (noted["format"], noted["version"]) != (FORMAT, VERSION):
        raise ValueError(f"no {FORMAT} of version {VERSION}")
    return Standing(
        cell_type=noted["cell_type"],
        classifier_id=noted["classifier_id"],
        groups=tuple(noted["groups"]),
        positive=noted["positive"],
        negative=noted["negative"],
        figures={name: _interval(value) for name, value in noted["figures"].items()},
        concerns=tuple(noted["concerns"]),
    )


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(*(float(value[end]) for end in ("value", "low", "high")))
