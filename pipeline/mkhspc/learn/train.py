"""Trains a classifier for each cell type, and predicts every training cell without its group."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mkhspc.config import CellType
from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier import card, file as classifier_file
from mkhspc.learn.classifier.file import PROBE_CELLS, Classifier
from mkhspc.learn.classifier.fit import Groups, Settings, cross_validate, fit
from mkhspc.learn.groups import groups_of
from mkhspc.learn.samples import Samples, TrainingData, is_deep, morphology
from mkhspc.learn.training_file import read_training
from mkhspc.progress import Progress, silent

MIN_LABELS_PER_CLASS = 5
"""The fewest labels of each class: fewer can neither train nor test a classifier."""
_LIBRARIES = ("scikit-learn", "numpy", "scipy", "skops")


class TooLittleError(InputError):
    """The labels of a cell type are too few, or all of one class or group, to learn from."""


@dataclass(frozen=True)
class _Trained:
    """What is written of a trained classifier: its file, its out-of-fold predictions, facts for its card."""

    content: bytes
    oof: str
    facts: Mapping[str, Any]


LeaveOut = Callable[[CellType, TooLittleError], None]
"""Called with each cell type that is not trained, and the reason."""


def train(
    training_data: Sequence[Path],
    outputs: Mapping[CellType, Path],
    settings: Settings,
    progress: Progress = silent,
    leave_out: LeaveOut | None = None,
) -> dict[CellType, dict[str, Any]]:
    """Trains, and writes for each type the classifier, its predictions and its model card.

    Nothing is written before every type is trained. The same settings on the same data write the
    same bytes.

    Args:
        training_data: files that `convert` wrote.
        outputs: the classifier file to write, for each cell type wanted.
        leave_out: called for a type with too few labels, and the other type is trained; without it, no
            type is trained then.

    Returns:
        The model card of each type trained, one at least.

    Raises:
        UsageError: no output is named, or one is not a .skops file.
        TooLittleError: a type, or with `leave_out` every type, has too little to learn from.
        InputError: the training data cannot be used.
    """
    if not outputs:
        raise UsageError("nothing to train", fix="name a classifier with --output-mk or --output-hspc")
    _check_outputs(training_data, outputs)
    data = read_training(training_data)
    prepared = _prepare_all({t: data.samples[t] for t in outputs}, settings, leave_out)
    trained = {
        t: _train_type(samples, groups, data, settings, progress) for t, (samples, groups) in prepared.items()
    }
    cards = {}
    for cell_type, made in trained.items():
        path = outputs[cell_type]
        cards[cell_type] = card.write_beside(path, made.content, made.oof, made.facts)
        classifier_file.write(path, made.content)
    return cards


def _check_outputs(training_data: Sequence[Path], outputs: Mapping[CellType, Path]) -> None:
    """Refuses outputs with the wrong suffix, or that would replace the training data or each other."""
    taken = {path.resolve() for path in training_data}
    for path in outputs.values():
        classifier_file.check_name(path)
        for written in (path, card.card_path(path), card.oof_path(path)):
            if written.resolve() in taken:
                raise UsageError(f"would be written over {written}", where=path, fix="choose another name")
            taken.add(written.resolve())


def _prepare_all(
    samples: Mapping[CellType, Samples], settings: Settings, leave_out: LeaveOut | None
) -> dict[CellType, tuple[Samples, Groups]]:
    prepared: dict[CellType, tuple[Samples, Groups]] = {}
    reasons: dict[CellType, TooLittleError] = {}
    for cell_type in samples:
        try:
            prepared[cell_type] = _prepare(samples[cell_type], settings)
        except TooLittleError as error:
            if leave_out is None:
                raise
            reasons[cell_type] = error
    if not prepared:
        fixes = dict.fromkeys(reason.fix for reason in reasons.values())
        raise TooLittleError("; ".join(reason.what for reason in reasons.values()), fix="; ".join(fixes))
    for cell_type, reason in reasons.items():
        if leave_out is not None:
            leave_out(cell_type, reason)
    return prepared


def _prepare(samples: Samples, settings: Settings) -> tuple[Samples, Groups]:
    """The cells of a type with the features asked for, deep ones last, and their groups.

    Raises:
        TooLittleError: they are too few, or all of one class or group.
    """
    name = samples.cell_type
    if not len(samples):
        raise TooLittleError(
            f"there is no labelled {name} in the training data",
            fix=f"leave --output-{name} out, or label some",
        )
    counts = np.bincount(samples.labels, minlength=2)
    if counts.min() < MIN_LABELS_PER_CLASS:
        raise TooLittleError(
            f"{counts[1]} positive and {counts[0]} negative {name} are too few to learn from:"
            f" at least {MIN_LABELS_PER_CLASS} of each are needed",
            fix="label more cells; where there are no more, segment with a higher --sample-fraction or"
            " more slides",
        )
    groups = groups_of(samples, settings.group_by)
    if len(np.unique(groups)) < 2:
        raise TooLittleError(
            f"all labelled {name} are of one group ({groups[0]}), and a classifier is judged on other groups",
            fix=_another_group(samples, settings.group_by),
        )
    names = samples.feature_names
    wanted = morphology(names) if settings.morph_only else sorted(names, key=is_deep)  # keeps all other order
    if not wanted:
        raise InputError(
            "the training data has no feature of shape, colour or texture",
            fix="train without --morph-only" if settings.morph_only else "convert the labels again",
        )
    return samples.with_features(wanted), groups


def _another_group(samples: Samples, group_by: str) -> str:
    """What a user can do whose labelled cells are all of one group."""
    if group_by != "scene" and len(np.unique(groups_of(samples, "scene"))) > 1:
        return "label cells of a second slide, or hold out scenes with --group-by scene"
    return "label cells of more slides or scenes"


def _train_type(
    samples: Samples, groups: Groups, data: TrainingData, settings: Settings, progress: Progress
) -> _Trained:
    def step(stage: str, done: int, total: int, **facts: str | int | float) -> None:
        progress(f"{stage} {samples.cell_type}", done, total, **facts)

    deep = samples.deep_count
    found = cross_validate(samples.features, samples.labels, groups, settings, step, deep)
    fitted = fit(samples.features, samples.labels, groups, settings, deep)
    rows = np.linspace(0, len(samples) - 1, min(PROBE_CELLS, len(samples))).astype(int)
    probe = np.ascontiguousarray(samples.features[rows])
    classifier = Classifier(
        classifier_id="",
        cell_type=samples.cell_type,
        feature_names=samples.feature_names,
        config_hash=data.config_hash,
        identity=data.identity,
        threshold=fitted.threshold,
        fitted=fitted,
        probe=probe,
        probe_scores=fitted.probability(probe),
        versions=_versions(),
    )
    facts = card.facts_of(samples, groups, fitted, found, settings) | _origin(data)
    return _Trained(classifier_file.dumps(classifier), card.oof_text(samples, groups, found), facts)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _origin(data: TrainingData) -> dict[str, Any]:
    return {
        "config_hash": data.config_hash,
        "identity": dict(data.identity),
        "training_data": dict(data.sources),
        "versions": _versions(),
    }
