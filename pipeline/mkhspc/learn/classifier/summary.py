"""What a classifier's model card says of it, for the run that it scores: where it learned, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError, some_of
from mkhspc.learn.classifier.card import card_path, read_card
from mkhspc.learn.classifier.file import Classifier
from mkhspc.learn.intervals import Estimate
from mkhspc.learn.limits import DEFAULT_LIMITS, checks_of
from mkhspc.store.classifier_summary import FIGURE_NAMES, ClassifierSummary, Interval
from mkhspc.store.layout import is_simulated
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import parse_cell_id


def summarise_classifier(classifier: Path, loaded: Classifier, manifest: Manifest) -> ClassifierSummary:
    """What is known of a classifier file, for a run.

    Raises:
        InputError: the model card is damaged, or of another classifier.
    """
    cell_type, classifier_id = loaded.cell_type, loaded.classifier_id
    if not card_path(classifier).exists():
        concern = f"has no model card beside it ({card_path(classifier).name}), so its accuracy is unknown"
        return ClassifierSummary(cell_type, classifier_id, concerns=(concern,))
    card = read_card(classifier, loaded)
    try:
        figures = {name: _figure(card["cross_validated"][name]) for name in (*FIGURE_NAMES, "accuracy_gain")}
        slides = sorted({parse_cell_id(cell_id).slide_id for cell_id in card["cells"]})
        positive, negative = int(card["positive"]), int(card["negative"])
    except (AttributeError, KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(
            f"is damaged ({error})", where=card_path(classifier), fix="train it again with `mkhspc train`"
        ) from error
    return ClassifierSummary(
        cell_type=cell_type,
        classifier_id=classifier_id,
        groups=tuple(map(str, card["groups"])),
        positive=positive,
        negative=negative,
        figures={name: _interval(figures[name]) for name in FIGURE_NAMES},
        concerns=(*_simulated(slides, manifest), *_weak(figures)),
    )


def _figure(value: Mapping[str, Any] | None) -> Estimate | None:
    return None if value is None else Estimate(**value)


def _interval(figure: Estimate | None) -> Interval | None:
    return None if figure is None else Interval(figure.value, figure.low, figure.high)


def _simulated(slides: list[str], manifest: Manifest) -> list[str]:
    made_up = [slide_id for slide_id in slides if is_simulated(slide_id)]
    is_real = not all(is_simulated(slide.slide_id) for slide in manifest.slides)
    if not made_up or not is_real:
        return []
    return [f"learned from simulated slides ({some_of(made_up, 3)}): its answers say nothing about real ones"]


def _weak(figures: Mapping[str, Estimate | None]) -> list[str]:
    failed = {check.name: check for check in checks_of(figures, DEFAULT_LIMITS) if not check.passed}
    accuracy, baseline = figures["accuracy"], figures["baseline_accuracy"]
    clauses = []
    if failed.pop("accuracy_gain", None) and accuracy is not None and baseline is not None:
        clauses.append(
            "is no better than always giving the commoner label: accuracy on groups not seen"
            f" {accuracy.value:.3f} against {baseline.value:.3f}"
        )
    if failed:
        sentences = "; ".join(check.sentence for check in failed.values())
        clauses.append(f"misses the gate of `mkhspc validate`: {sentences}")
    return clauses
