"""The classifiers that a run's scores come from, as `mkhspc score` noted them beside the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import CellType
from pipeline.errors import InputError
from pipeline.report.results import SlideResult
from pipeline.store.layout import RunLayout

FORMAT = "mkhspc-classifier-standing"
VERSION = 1
FIGURE_NAMES = {
    "accuracy": "Accuracy",
    "baseline_accuracy": "Baseline",
    "recall": "Recall",
    "precision": "Precision",
    "roc_auc": "ROC area",
}
"""Figures that the page shows, and what it calls them."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoredWith:
    """A classifier that the counts of a type come from.

    Attributes:
        groups: that it learned from; none when nothing is known of it.
        figures: on groups that it had not seen.
        concerns: why its answers deserve doubt, a clause each.
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


def scored_with(layout: RunLayout, results: Sequence[SlideResult]) -> list[ScoredWith]:
    """The classifiers that these results come from, one a type at most.

    Raises:
        InputError: what was noted of one cannot be read.
    """
    used = dict.fromkeys((r.cell_type, r.classifier_id) for r in results if r.classifier_id is not None)
    return [_noted(layout, cell_type, classifier_id or "") for cell_type, classifier_id in used]


def _noted(layout: RunLayout, cell_type: CellType, classifier_id: str) -> ScoredWith:
    path = layout.scores(classifier_id).with_suffix(".json")
    if not path.exists():
        unknown = "is not known here: score the run again with `mkhspc score` to see how good it is"
        return ScoredWith(cell_type, classifier_id, concerns=(unknown,))
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"is damaged ({error})", where=path, fix="score the run again with `mkhspc score`"
        ) from error


def _parsed(noted: dict[str, Any], path: Path) -> ScoredWith:
    if (noted["format"], noted["version"]) != (FORMAT, VERSION):
        raise InputError(f"is no {FORMAT} of version {VERSION}", where=path)
    figures = {
        name: None if value is None else Interval(*(float(value[end]) for end in ("value", "low", "high")))
        for name, value in noted["figures"].items()
    }
    return ScoredWith(
        cell_type=noted["cell_type"],
        classifier_id=noted["classifier_id"],
        groups=tuple(noted["groups"]),
        positive=noted["positive"],
        negative=noted["negative"],
        figures=figures,
        concerns=tuple(noted["concerns"]),
    )
