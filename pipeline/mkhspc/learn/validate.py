"""Judges whether a classifier is good enough, by its predictions of groups that it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mkhspc.config import CellType, differences
from mkhspc.errors import InputError, UsageError, some_of
from mkhspc.learn.classifier.card import read_beside
from mkhspc.learn.classifier.file import Classifier, read_classifiers
from mkhspc.learn.intervals import FEW_GROUPS, Estimate
from mkhspc.learn.labels.events import ALL_SHOWN
from mkhspc.learn.labels.label import UNKNOWN_POLICY
from mkhspc.learn.labels.resolve import REPRESENTATIVE
from mkhspc.learn.limits import DEFAULT_LIMITS, Check, Limits, checks_of
from mkhspc.learn.metrics import Floats, Predictions, metrics_of
from mkhspc.learn.training_file import read_training
from mkhspc.store import manifest as manifests
from mkhspc.store.cells import read_cells
from mkhspc.store.layout import RunLayout, is_simulated


@dataclass(frozen=True)
class Verdict:
    """The result of `validate` for one classifier.

    Attributes:
        figures: of the labelled cells as they are.
        population: of the cells in the filter, from labels drawn at random; None when there are none.
        notes: what a reader must know before believing the figures.
    """

    cell_type: CellType
    path: Path
    classifier_id: str
    config_hash: str
    card: Mapping[str, Any]
    predictions: Predictions
    figures: Mapping[str, Estimate | None]
    population: Mapping[str, Estimate | None] | None
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def validate(
    classifiers: Mapping[CellType, Path],
    limits: Limits = DEFAULT_LIMITS,
    *,
    training_data: Sequence[Path] = (),
    run: RunLayout | None = None,
) -> list[Verdict]:
    """Judges classifiers from their out-of-fold predictions alone.

    Args:
        training_data: files that the classifiers must have been trained on; without any this is not checked.
        run: the run that they must be of; its numbers of cells weight the figures of the population.

    Raises:
        UsageError: no classifier is named.
        InputError: a file is missing, damaged, of another classifier, or was made from other data
            or another run than those given.
    """
    if not classifiers:
        raise UsageError(
            "nothing to validate", fix="name a classifier with --mk-classifier or --hspc-classifier"
        )
    verdicts = []
    for cell_type, classifier in read_classifiers(classifiers).items():
        path = classifiers[cell_type]
        card, predictions = read_beside(path, classifier)
        if training_data:
            _check_training(cell_type, predictions, training_data, path)
        in_filter = None if run is None else _cells_in_filter(classifier, run, path)
        figures = metrics_of(predictions)
        verdicts.append(
            Verdict(
                cell_type=cell_type,
                path=path,
                classifier_id=classifier.classifier_id,
                config_hash=classifier.config_hash,
                card=card,
                predictions=predictions,
                figures=figures,
                population=_population(predictions, in_filter),
                checks=checks_of(figures, limits),
                notes=tuple(_notes(predictions, figures, in_filter)),
            )
        )
    return verdicts


def _check_training(
    cell_type: CellType, predictions: Predictions, paths: Sequence[Path], classifier: Path
) -> None:
    samples = read_training(paths).samples[cell_type]
    given = dict(zip(samples.cell_ids.tolist(), (samples.labels == 1).tolist(), strict=True))
    used = dict(zip(predictions.cell_ids.tolist(), predictions.labels.tolist(), strict=True))
    if given != used:
        other = sum(given[cell] != used[cell] for cell in given.keys() & used.keys())
        raise InputError(
            f"was not trained on these labels: {len(given.keys() - used.keys())} of them are new to it,"
            f" {len(used.keys() - given.keys())} of its own are not among them, {other} have changed",
            where=classifier,
            fix="train it again on this training data",
        )


def _cells_in_filter(classifier: Classifier, run: RunLayout, path: Path) -> dict[str, int]:
    """How many cells of the classifier's type each slide of the run has in the filter."""
    manifest = manifests.read(run)
    if classifier.config_hash != manifest.config_hash:
        clauses = "; ".join(differences(manifest.identity, classifier.identity))
        raise InputError(
            f"was trained on a run with other settings than {run.root}: {clauses}",
            where=path,
            fix="name the run that was labelled, or leave --run out",
        )
    counts = {}
    for slide in manifest.slides:
        if run.cells(slide.slide_id).exists():
            cells = read_cells(run, manifest, slide.slide_id, ["cell_type", "in_filter"])
            wanted = pc.and_(pc.equal(cells["cell_type"], classifier.cell_type), cells["in_filter"])
            counts[slide.slide_id] = pc.sum(wanted).as_py() or 0
    return counts


def _population(
    predictions: Predictions, in_filter: Mapping[str, int] | None
) -> dict[str, Estimate | None] | None:
    """Metrics of the population in the filter, from those labelled cells that were drawn at random.

    A labelled cell stands for 1 / (its inclusion probability) cells; with the run at hand, for its
    share of the cells in the filter on its slide, which also evens out slides labelled unequally.
    """
    drawn = predictions.where(_at_random(predictions))
    if not len(drawn):
        return None
    weights = 1.0 / drawn.inclusion_probs
    if in_filter is not None:
        weights = _by_slide(drawn, weights, in_filter)
    return metrics_of(drawn, weights)


def _by_slide(drawn: Predictions, weights: Floats, in_filter: Mapping[str, int]) -> Floats:
    slides, slide = np.unique(drawn.slide_ids, return_inverse=True)
    missing = sorted(set(slides.tolist()) - set(in_filter))
    if missing:
        raise InputError(
            f"labels come from slides that the run has no cells of: {some_of(missing, 3)}",
            fix="name the run that was labelled, or leave --run out",
        )
    cells = np.array([in_filter[name] for name in slides.tolist()], np.float64)
    scaled: Floats = weights * (cells / np.bincount(slide, weights))[slide]
    return scaled


def _at_random(predictions: Predictions) -> Any:
    return (predictions.policies == REPRESENTATIVE) & np.isfinite(predictions.inclusion_probs)


def _notes(
    predictions: Predictions, figures: Mapping[str, Estimate | None], in_filter: Mapping[str, int] | None
) -> list[str]:
    notes = []
    if any(is_simulated(slide_id) for slide_id in np.unique(predictions.slide_ids).tolist()):
        notes.append("simulated slides: these figures say nothing about an animal")
    groups = len(np.unique(predictions.groups))
    if groups < FEW_GROUPS:
        notes.append(f"too few groups ({groups}, fewer than {FEW_GROUPS}): the intervals are a rough guide")
    policies = Counter(predictions.policies.tolist())
    chosen = {p: n for p, n in sorted(policies.items()) if p not in (REPRESENTATIVE, UNKNOWN_POLICY)}
    if chosen:
        how = ", ".join(f"{count} by {policy}" for policy, count in chosen.items())
        notes.append(
            f"{sum(chosen.values())} of {len(predictions)} labelled cells were not chosen at random ({how}):"
            " the figures describe the labelled cells, not the population"
        )
    if policies[UNKNOWN_POLICY]:
        notes.append(
            f"how {policies[UNKNOWN_POLICY]} of {len(predictions)} labelled cells were chosen is not known:"
            " the figures describe the labelled cells, not the population"
        )
    if np.any(predictions.inclusion_probs < ALL_SHOWN) and in_filter is None:
        notes.append("some cells were drawn with a probability below 1: see the figures for the population")
    precision = figures["precision"]
    if precision is None:
        notes.append("no cell was called positive, so precision is not defined")
    one_class = _groups_of_one_class(predictions)
    if one_class:
        notes.append(f"labels of one class only in: {', '.join(one_class[:5])}")
    return notes


def _groups_of_one_class(predictions: Predictions) -> list[str]:
    return [
        str(group)
        for group in np.unique(predictions.groups)
        if len(np.unique(predictions.labels[predictions.groups == group])) == 1
    ]
