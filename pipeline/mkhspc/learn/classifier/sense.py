"""Whether what a classifier says of itself makes sense, and whether its model card says the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mkhspc.errors import InputError, some_of
from mkhspc.learn.classifier.audit import AuditError

if TYPE_CHECKING:
    from mkhspc.learn.classifier.file import Classifier

CLASSES = (0, 1)
"""The labels that a member tells apart: negative and positive."""


def check_head(head: Mapping[str, Any]) -> None:
    """Refuses a file's head whose threshold or features cannot be.

    Raises:
        AuditError: the threshold is not a number from 0 to 1, the calibration not of numbers, or the features
            are not distinct names.
    """
    threshold, names = head["threshold"], head["feature_names"]
    if not (_is_number(threshold) and 0 <= threshold <= 1):
        raise AuditError(f"has a threshold of {str(threshold)[:40]}, where a number from 0 to 1 belongs")
    if not all(map(_is_number, head["calibration"])):
        raise AuditError(f"has a calibration of {str(head['calibration'])[:40]}, where two numbers belong")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise AuditError("has features that are not names")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise AuditError(f"names features twice: {some_of(twice, 3)[:200]}")


def check_fit(classifier: Classifier) -> None:
    """Refuses members that learned something else than the file says.

    Raises:
        AuditError: a member learned other classes, or from another number of features, or so did the probe.
    """
    features = len(classifier.feature_names)
    for member in classifier.fitted.members:
        if tuple(np.asarray(member.classes_).tolist()) != CLASSES:
            found = np.asarray(member.classes_).tolist()
            raise AuditError(f"tells apart the labels {str(found)[:40]}, where {list(CLASSES)} belong")
        if member.n_features_in_ != features:
            raise AuditError(f"learned from {member.n_features_in_} features and names {features}")
    if classifier.probe.shape[1:] != (features,) or not np.isfinite(classifier.probe).all():
        raise AuditError("has cells for comparison whose features are not those that it names")


def check_card(card: Mapping[str, Any], classifier: Classifier, where: Path) -> None:
    """Raises `InputError` for a model card, at `where`, that does not say what the classifier's file says."""
    for name, stated, found in _facts(card, classifier):
        if stated != found:
            raise InputError(
                f"says that the classifier's {name} {_difference(stated, found)}",
                where=where,
                fix="train it again: `mkhspc train` writes classifier and card together",
            )


def _facts(card: Mapping[str, Any], classifier: Classifier) -> Iterator[tuple[str, Any, Any]]:
    """Of what both card and file state: its name, and as each states it."""
    fitted = classifier.fitted
    yield "cell type", card.get("cell_type"), classifier.cell_type
    yield "features", card.get("features"), list(classifier.feature_names)
    yield "threshold", card.get("threshold"), classifier.threshold
    yield "models", card.get("recipe"), list(fitted.ensemble)
    yield (
        "calibration",
        card.get("calibration"),
        {"slope": fitted.calibration.slope, "intercept": fitted.calibration.intercept},
    )
    yield "settings (config_hash)", card.get("config_hash"), classifier.config_hash


def _difference(stated: Any, found: Any) -> str:
    if isinstance(stated, list) and isinstance(found, list):
        if len(stated) != len(found):
            return f"are {len(stated)}, and its file names {len(found)}"
        pairs = zip(stated, found, strict=True)
        one, other = next((one, other) for one, other in pairs if one != other)
        return f"include {str(one)[:60]!r}, where its file has {str(other)[:60]!r}"
    return f"is {str(stated)[:60]!r}, and its file says {str(found)[:60]!r}"


def _is_number(value: object) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)  # perhaps one too large for a float
    return is_whole or (isinstance(value, float) and math.isfinite(value))
