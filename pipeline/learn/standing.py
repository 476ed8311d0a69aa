"""What is known of a classifier that scores a run: where it learned, and how good it is elsewhere.

It is kept beside the run's scores, so that whoever shows numbers that come from a classifier can
say what they rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CellType
from pipeline.errors import InputError
from pipeline.learn.card import card_path, read_card
from pipeline.learn.intervals import Figure
from pipeline.learn.validate import SIMULATED_PREFIX, Limits, checks_of
from pipeline.store import atomic
from pipeline.store.layout import RunLayout
from pipeline.store.manifest import Manifest
from pipeline.store.schema import parse_cell_id

FORMAT = "mkhspc-classifier-standing"
VERSION = 1
SHOWN_FIGURES = ("accuracy", "baseline_accuracy", "accuracy_gain", "recall", "precision", "roc_auc")


@dataclass(frozen=True)
class Standing:
    """What the model card of a classifier says of it, seen from the run that it scores.

    Attributes:
        groups: that it learned from.
        figures: on groups that it had not seen, by name; None where one is not defined.
        concerns: why its answers deserve doubt, a clause each; none if nothing speaks against it.
    """

    cell_type: CellType
    classifier_id: str
    groups: tuple[str, ...]
    positive: int
    negative: int
    figures: Mapping[str, Figure | None]
    concerns: tuple[str, ...]


def standing_of(classifier: Path, cell_type: CellType, classifier_id: str, manifest: Manifest) -> Standing:
    """What is known of a classifier file, for a run.

    Raises:
        InputError: the model card is damaged, or of another classifier.
    """
    if not card_path(classifier).exists():
        concern = f"has no model card beside it ({card_path(classifier).name}): how good it is is not known"
        return Standing(cell_type, classifier_id, (), 0, 0, {}, (concern,))
    card = read_card(classifier)
    try:
        figures = {name: _figure(card["cross_validated"][name]) for name in SHOWN_FIGURES}
        slides = sorted({parse_cell_id(cell_id).slide_id for cell_id in card["cells"]})
        positive, negative = int(card["positive"]), int(card["negative"])
    except (AttributeError, KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(
            f"is damaged ({error})", where=card_path(classifier), fix="train it again with `mkhspc train`"
        ) from error
    return Standing(
        cell_type=cell_type,
        classifier_id=classifier_id,
        groups=tuple(map(str, card["groups"])),
        positive=positive,
        negative=negative,
        figures=figures,
        concerns=(*_simulated(slides, manifest), *_weak(figures)),
    )


def _figure(value: Mapping[str, Any] | None) -> Figure | None:
    return None if value is None else Figure(**value)


def _simulated(slides: list[str], manifest: Manifest) -> list[str]:
    made_up = [slide_id for slide_id in slides if slide_id.startswith(SIMULATED_PREFIX)]
    is_real = not all(slide.slide_id.startswith(SIMULATED_PREFIX) for slide in manifest.slides)
    if not made_up or not is_real:
        return []
    named = ", ".join(made_up[:3]) + (" ..." if len(made_up) > 3 else "")
    return [f"learned from simulated slides ({named}): its answers say nothing about real ones"]


def _weak(figures: Mapping[str, Figure | None]) -> list[str]:
    failed = {check.name: check for check in checks_of(figures, Limits()) if not check.passed}
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


def keep_standing(layout: RunLayout, standing: Standing) -> None:
    """Writes `RUN/scores/<classifier_id>.json`, which later stages read."""
    path = layout.scores(standing.classifier_id).with_suffix(".json")
    atomic.write_json(path, {"format": FORMAT, "version": VERSION, **asdict(standing)})
