"""The classifiers that a run's settings name."""

from __future__ import annotations

from pathlib import Path

from mkhspc.config import CELL_TYPES, CellType, RunConfig
from mkhspc.learn.classifier.file import read_classifiers
from mkhspc.learn.score import check_classifiers
from mkhspc.measure.analysis import feature_names
from mkhspc.store.manifest import Manifest


def classifiers_of(config: RunConfig) -> dict[CellType, Path]:
    """Files of the classifiers that a config names; without one, all cells of its type are accepted."""
    named = {t: config.cells(t).classifier for t in CELL_TYPES}
    return {t: Path(name) for t, name in named.items() if name is not None}


def refuse_unfit_classifiers(manifest: Manifest) -> None:
    """Raises `InputError` for a classifier that a run names and cannot use, before a night's work."""
    classifiers = classifiers_of(manifest.config)
    names = feature_names(manifest.config.compute.embedders)
    loaded = read_classifiers(classifiers)
    check_classifiers(loaded, manifest, names, classifiers)
    if loaded:
        from mkhspc.learn.classifier.card import refuse_other_cards  # imports scikit-learn

        refuse_other_cards(loaded, classifiers)
