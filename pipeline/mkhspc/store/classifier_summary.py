"""What a run keeps about a classifier that scored it, beside the scores.

Pages that show a classifier's numbers read here how far those can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mkhspc.config import CellType
from mkhspc.errors import InputError
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout
from mkhspc.store.untrusted_json import SMALL, read_json

FORMAT = "mkhspc-classifier-standing"
"""The files of all releases carry this word, so it stays."""
VERSION = 1
_FIX = "score the run again with `mkhspc score`"
FIGURE_NAMES = {
    "accuracy": "Accuracy",
    "baseline_accuracy": "Baseline",
    "recall": "Recall",
    "precision": "Precision",
    "roc_auc": "ROC area",
}
"""The figures that are kept of a classifier, with the names that pages show."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassifierSummary:
    """How good a classifier is, and what a reader of its scores should know.

    Attributes:
        groups: the groups (slides, animals) of its training cells; empty when no model card was found.
        positive, negative: counts of its training labels.
        figures: cross-validated on held-out groups, by name; None where a figure is undefined.
        concerns: reasons to doubt its answers, each a clause that follows the classifier's name.
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


def write_classifier_summary(layout: RunLayout, summary: ClassifierSummary) -> None:
    """Writes `RUN/scores/<classifier_id>.json`."""
    path = layout.classifier_summary(summary.classifier_id)
    values = {"format": FORMAT, "version": VERSION, **asdict(summary)}
    atomic.write_json(path, values, within=layout.root)


def read_classifier_summary(layout: RunLayout, classifier_id: str) -> ClassifierSummary | None:
    """The summary of a classifier, or None if the run has none.

    Raises:
        InputError: the file is damaged or of another version.
    """
    path = layout.classifier_summary(classifier_id)
    if not path.exists():
        return None
    try:
        return _parse(read_json(path, SMALL, _FIX))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is damaged ({error})", where=path, fix=_FIX) from error


def scored_types(layout: RunLayout) -> set[CellType]:
    """The cell types that a classifier ever scored in a run; errors as for `read_classifier_summary`."""
    ids = [path.stem for path in layout.classifier_summary("_").parent.glob("*.json")]
    summaries = (read_classifier_summary(layout, classifier_id) for classifier_id in ids)
    return {summary.cell_type for summary in summaries if summary}


def _parse(data: dict[str, Any]) -> ClassifierSummary:
    if (data["format"], data["version"]) != (FORMAT, VERSION):
        raise ValueError(f"the file is not a {FORMAT} of version {VERSION}")
    return ClassifierSummary(
        cell_type=data["cell_type"],
        classifier_id=data["classifier_id"],
        groups=tuple(data["groups"]),
        positive=data["positive"],
        negative=data["negative"],
        figures={name: _interval(value) for name, value in data["figures"].items()},
        concerns=tuple(data["concerns"]),
    )


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(*(float(value[end]) for end in ("value", "low", "high")))
