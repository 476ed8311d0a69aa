"""The classifiers that a run's scores come from, as `mkhspc score` noted them beside the scores."""

from __future__ import annotations

from collections.abc import Sequence

from mkhspc.config import CellType
from mkhspc.results.counts import SlideResult
from mkhspc.store.classifier_summary import ClassifierSummary, read_classifier_summary
from mkhspc.store.layout import RunLayout


def scored_with(layout: RunLayout, results: Sequence[SlideResult]) -> list[ClassifierSummary]:
    """The classifiers that these results come from, one a type at most.

    Raises:
        InputError: what was noted of one cannot be read.
    """
    used = dict.fromkeys((r.cell_type, r.classifier_id) for r in results if r.classifier_id is not None)
    return [
        read_classifier_summary(layout, classifier_id) or _unknown(cell_type, classifier_id)
        for cell_type, classifier_id in used
    ]


def _unknown(cell_type: CellType, classifier_id: str) -> ClassifierSummary:
    unknown = "is not known here: score the run again with `mkhspc score` to see how good it is"
    return ClassifierSummary(cell_type, classifier_id, concerns=(unknown,))
