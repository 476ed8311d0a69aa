"""What lies beside a classifier: its model card, and its out-of-fold predictions.

Both are tied to the classifier by SHA-256, so figures of one classifier cannot pass for another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from mkhspc.config import CellType
from mkhspc.errors import InputError
from mkhspc.learn.classifier import models
from mkhspc.learn.classifier.file import Classifier, sha256
from mkhspc.learn.classifier.fit import Fitted, Groups, OutOfFold, Settings
from mkhspc.learn.classifier.sense import check_card
from mkhspc.learn.metrics import Predictions, metrics_of
from mkhspc.learn.samples import Samples
from mkhspc.store import atomic
from mkhspc.store.csv_text import csv_text, restored
from mkhspc.store.untrusted_json import SMALL, read_json

FORMAT = "mkhspc-model-card"
VERSION = 1
_FIX = "train it again: `mkhspc train` writes classifier, card and predictions together"

REQUIRED_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "recipe": list, "threshold": (int, float), "annotators": list, "groups": dict, "features": list,
}  # fmt: skip
"""The keys that readers of a card rely on, with the types of their values."""

OOF_COLUMNS = {
    "cell_id": pa.string(),
    "slide_id": pa.string(),
    "group": pa.string(),
    "label": pa.int8(),
    "probability": pa.float64(),
    "threshold": pa.float64(),
    "predicted": pa.int8(),
    "baseline": pa.int8(),
    "fold": pa.int64(),
    "policy": pa.string(),
    "inclusion_prob": pa.float64(),
}
"""The columns of the out-of-fold predictions, by classifiers that had not seen its group."""


def card_path(classifier: Path) -> Path:
    """Where the model card of a classifier lies."""
    return classifier.with_suffix(".json")


def oof_path(classifier: Path) -> Path:
    """Where the out-of-fold predictions of a classifier lie."""
    return classifier.with_suffix(".oof.csv")


def oof_text(samples: Samples, groups: Groups, found: OutOfFold) -> str:
    """The out-of-fold predictions as CSV, in the order of the samples."""
    inclusion = ["" if np.isnan(p) else f"{p:.9g}" for p in samples.inclusion_probs]
    rows = zip(
        samples.cell_ids.tolist(),
        samples.slide_ids.tolist(),
        groups.tolist(),
        samples.labels.tolist(),
        [f"{p:.9g}" for p in found.probability],
        [f"{t:.9g}" for t in found.threshold],
        found.predicted.astype(int).tolist(),
        found.baseline.tolist(),
        found.fold.tolist(),
        samples.policies.tolist(),
        inclusion,
        strict=True,
    )
    return csv_text(tuple(OOF_COLUMNS), rows)


def write_beside(classifier: Path, content: bytes, oof: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes predictions and card of a classifier whose file has this content; returns the card."""
    card = {
        "format": FORMAT,
        "version": VERSION,
        **facts,
        "classifier_sha256": sha256(content),
        "oof_sha256": sha256(oof.encode()),
    }
    atomic.write_text(oof_path(classifier), oof)
    atomic.write_json(card_path(classifier), card)
    return card


def read_beside(classifier: Path, loaded: Classifier) -> tuple[dict[str, Any], Predictions]:
    """The model card and the out-of-fold predictions of a classifier.

    Raises:
        InputError: one of the files is missing, damaged, or belongs to another classifier.
    """
    card = read_card(classifier, loaded)
    _check_belongs(oof_path(classifier), card, "oof_sha256", classifier)
    return card, _predictions(oof_path(classifier))


def refuse_other_cards(loaded: Mapping[CellType, Classifier], paths: Mapping[CellType, Path]) -> None:
    """Raises `InputError` where a classifier has a card beside it that `read_card` refuses."""
    for cell_type, classifier in loaded.items():
        if card_path(paths[cell_type]).exists():
            read_card(paths[cell_type], classifier)


def read_card(classifier: Path, loaded: Classifier) -> dict[str, Any]:
    """The model card of a classifier.

    Args:
        loaded: the classifier as it lies in its file.

    Raises:
        InputError: the card or the classifier is missing, the card is damaged or of another one, or says
            something else than the classifier's file.
    """
    if classifier.exists() and not card_path(classifier).exists():
        raise InputError(
            "cannot be read: there is no such file",
            where=card_path(classifier),
            fix=f"the model card that `mkhspc train` wrote must lie beside {classifier.name}",
        )
    card = read_json(card_path(classifier), SMALL, _FIX)
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("version") != VERSION:
        raise InputError(f"is not a model card of version {VERSION}", where=card_path(classifier), fix=_FIX)
    unfit = [key for key, kind in REQUIRED_KEYS.items() if not isinstance(card.get(key), kind)]
    if unfit:
        raise InputError(
            f"is damaged: {', '.join(unfit)} missing or of the wrong kind",
            where=card_path(classifier),
            fix=_FIX,
        )
    _check_belongs(classifier, card, "classifier_sha256", classifier)
    check_card(card, loaded, card_path(classifier))
    return card


def _check_belongs(path: Path, card: Mapping[str, Any], key: str, classifier: Path) -> None:
    if sha256(_read(path)) != card.get(key):
        raise InputError(
            f"does not belong to the model card {card_path(classifier).name}", where=path, fix=_FIX
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix=_FIX) from error


def _predictions(path: Path) -> Predictions:
    options = pa_csv.ConvertOptions(column_types=OOF_COLUMNS, include_columns=list(OOF_COLUMNS))
    try:
        table = pa_csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InputError(f"is damaged ({error})", where=path, fix=_FIX) from error
    columns = {name: table[name].to_numpy() for name in OOF_COLUMNS}
    return Predictions(
        cell_ids=_texts(columns["cell_id"]),
        slide_ids=_texts(columns["slide_id"]),
        groups=_texts(columns["group"]),
        labels=columns["label"] == 1,
        predicted=columns["predicted"] == 1,
        baseline=columns["baseline"] == 1,
        probability=columns["probability"],
        policies=_texts(columns["policy"]),
        inclusion_probs=columns["inclusion_prob"].astype(np.float64),
    )


def _texts(column: npt.NDArray[np.object_]) -> npt.NDArray[np.str_]:
    return np.array([restored(cell) for cell in column], dtype=np.str_)


def facts_of(
    samples: Samples, groups: Groups, fitted: Fitted, found: OutOfFold, settings: Settings
) -> dict[str, Any]:
    """What a card says of a classifier, but for where its training data comes from."""
    return {
        "cell_type": samples.cell_type,
        "model": settings.model,
        "recipe": list(fitted.ensemble),
        "log_loss_by_recipe": dict(fitted.losses),
        "recipe_by_fold": ["+".join(ensemble) for ensemble in found.ensembles],
        "threshold": fitted.threshold,
        "threshold_for": settings.threshold_for,
        "calibration": asdict(fitted.calibration),
        "seed": settings.seed,
        "features": list(samples.feature_names),
        "morph_only": settings.morph_only,
        "deep_components": models.components(len(samples), samples.deep_count),
        "group_by": settings.group_by if settings.group_by in ("slide", "scene") else "file",
        "groups": _class_counts(groups, samples.labels),
        "positive": int(samples.labels.sum()),
        "negative": int(len(samples) - samples.labels.sum()),
        "annotators": list(samples.annotators),
        "policies": dict(sorted(Counter(samples.policies.tolist()).items())),
        "cross_validated": {
            name: None if figure is None else asdict(figure)
            for name, figure in metrics_of(_predictions_of(samples, groups, found)).items()
        },
        "cells": samples.cell_ids.tolist(),
        "labels": samples.labels.tolist(),
    }


def _class_counts(groups: Groups, labels: Any) -> dict[str, dict[str, int]]:
    return {
        str(group): {
            "positive": int(labels[groups == group].sum()),
            "negative": int((labels[groups == group] == 0).sum()),
        }
        for group in np.unique(groups)
    }


def _predictions_of(samples: Samples, groups: Groups, found: OutOfFold) -> Predictions:
    return Predictions(
        cell_ids=samples.cell_ids,
        slide_ids=samples.slide_ids,
        groups=groups,
        labels=samples.labels == 1,
        predicted=found.predicted,
        baseline=found.baseline == 1,
        probability=found.probability,
        policies=samples.policies,
        inclusion_probs=samples.inclusion_probs,
    )
