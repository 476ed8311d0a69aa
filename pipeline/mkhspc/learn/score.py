"""Scores every stored cell of a run with classifiers; no detector runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CellType, differences
from mkhspc.config.identity import CALIBRATION_DRAW
from mkhspc.errors import InputError, UsageError, some_of
from mkhspc.learn.classifier.features import feature_matrix
from mkhspc.learn.classifier.file import Classifier, read_classifiers
from mkhspc.progress import Progress, silent
from mkhspc.store import tables
from mkhspc.store.cells import cell_batches, feature_names
from mkhspc.store.classifier_summary import scored_types, write_classifier_summary
from mkhspc.store.damage import DamagedTableError
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import SCORES, types_of

HARMLESS_SETTINGS = frozenset({"run.tile_size", "run.seed", "run.calibration_samples", CALIBRATION_DRAW})
"""Settings that decide which cells are found, but not what a feature of a cell means."""
REJECTS_NEARLY_ALL = 0.99
"""The share of rejected candidates from which the classifier, not the candidates, is probably wrong."""


@dataclass(frozen=True)
class TypeSummary:
    """How many cells of its type a classifier found positive.

    Attributes:
        cells, positive: all stored cells.
        in_filter, positive_in_filter: those in the run's filter.
    """

    classifier_id: str
    cells: int
    positive: int
    in_filter: int
    positive_in_filter: int


@dataclass(frozen=True)
class ScoreSummary:
    """What `apply_classifiers` wrote.

    Attributes:
        other_settings: in what the classifiers' run differs from this one, if that was allowed.
        concerns: why the scores deserve doubt, a sentence each.
    """

    slides: tuple[str, ...]
    types: Mapping[CellType, TypeSummary]
    other_settings: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()


def apply_classifiers(
    layout: RunLayout,
    manifest: Manifest,
    slide_ids: Sequence[str],
    classifiers: Mapping[CellType, Path],
    progress: Progress = silent,
    *,
    allow_other_run: bool = False,
) -> ScoreSummary:
    """Writes `RUN/scores/<slide_id>.parquet` for each slide, one slide in one step.

    Every stored cell of a classifier's type gets a row, also outside the filter. A run holds the
    scores of at most one classifier a type: the new ones take the place of any older ones of the
    type, and those of the other type stay.

    Args:
        allow_other_run: take a classifier of a run whose settings differ, if only in
            `HARMLESS_SETTINGS`.

    Raises:
        UsageError: no classifier is given.
        InputError: a classifier cannot be used, is of the other type, learned from a run with
            other settings, or needs a feature that the run does not have.
    """
    if not classifiers:
        raise UsageError(
            "nothing to score with", fix="name a classifier with --mk-classifier or --hspc-classifier"
        )
    loaded = read_classifiers(classifiers)
    others = check_classifiers(
        loaded, manifest, feature_names(layout, manifest), classifiers, allow_other_run=allow_other_run
    )
    concerns = _keep_summaries(layout, manifest, loaded, classifiers) if slide_ids else []
    counts = {t: np.zeros(4, np.int64) for t in loaded}
    for done, slide_id in enumerate(slide_ids, start=1):
        for cell_type, found in _score_slide(layout, manifest, slide_id, loaded).items():
            counts[cell_type] += found
        progress("score", done, len(slide_ids), slide=slide_id)
    types = {t: TypeSummary(c.classifier_id, *map(int, counts[t])) for t, c in loaded.items()}
    return ScoreSummary(
        slides=tuple(slide_ids),
        types=types,
        other_settings=tuple(dict.fromkeys(others)),
        concerns=(*concerns, *_nearly_all_rejected(types, classifiers)),
    )


def _keep_summaries(
    layout: RunLayout,
    manifest: Manifest,
    loaded: Mapping[CellType, Classifier],
    paths: Mapping[CellType, Path],
) -> list[str]:
    """Writes a summary of each classifier beside the scores; returns the concerns about them."""
    from mkhspc.learn.classifier.summary import summarise_classifier

    summaries = [summarise_classifier(paths[t], c, manifest) for t, c in loaded.items()]
    for summary in summaries:
        write_classifier_summary(layout, summary)
    return [f"{paths[s.cell_type]} {concern}" for s in summaries for concern in s.concerns]


def _nearly_all_rejected(types: Mapping[CellType, TypeSummary], paths: Mapping[CellType, Path]) -> list[str]:
    return [
        f"{paths[t]} rejects {1 - found.positive_in_filter / found.in_filter:.1%} of the"
        f" {found.in_filter:,} {t} in the filter"
        for t, found in types.items()
        if found.in_filter and found.positive_in_filter <= (1 - REJECTS_NEARLY_ALL) * found.in_filter
    ]


def check_classifiers(
    loaded: Mapping[CellType, Classifier],
    manifest: Manifest,
    names: Sequence[str],
    paths: Mapping[CellType, Path],
    *,
    allow_other_run: bool = False,
) -> list[str]:
    """In what the classifiers' run differs from this one, where that is allowed.

    Args:
        names: the features that the run has.

    Raises:
        InputError: a classifier learned from a run with other settings, or needs other features.
    """
    others: list[str] = []
    for cell_type, classifier in loaded.items():
        _check_features(classifier, names, paths[cell_type])  # first: it knows the better way out
        others += _other_settings(classifier, manifest, paths[cell_type], allow_other_run)
    return others


def _other_settings(
    classifier: Classifier, manifest: Manifest, path: Path, allow_other_run: bool
) -> list[str]:
    """In what the classifier's run differs from this one, where that is allowed."""
    if classifier.config_hash == manifest.config_hash:
        return []
    clauses = differences(manifest.identity, classifier.identity)
    keys = {*manifest.identity, *classifier.identity}
    harmful = {k for k in keys if manifest.identity.get(k) != classifier.identity.get(k)} - HARMLESS_SETTINGS
    if allow_other_run and not harmful:
        return clauses
    raise InputError(
        f"learned from a run with other settings: {'; '.join(clauses)}",
        where=path,
        fix="train it on labels of this run"
        if harmful
        else "train it on labels of this run, or accept the difference in `mkhspc score --allow-other-run`",
    )


def _check_features(classifier: Classifier, names: Sequence[str], path: Path) -> None:
    missing = [name for name in classifier.feature_names if name not in names]
    if missing:
        raise InputError(
            f"needs features that the run does not have: {some_of(missing)}",
            where=path,
            fix="segment with the embedder it was trained with, or train with --morph-only",
        )


def _score_slide(
    layout: RunLayout, manifest: Manifest, slide_id: str, classifiers: Mapping[CellType, Classifier]
) -> dict[CellType, np.ndarray]:
    """Scores one slide and writes its table; returns the counts of `TypeSummary`, in its order, by type."""
    counts = {t: np.zeros(4, np.int64) for t in classifiers}
    needed = list(dict.fromkeys(name for c in classifiers.values() for name in c.feature_names))
    columns = ["cell_id", "cell_type", "in_filter", *needed]
    order: list[pa.Array] = []
    rows: list[pa.Table] = []
    for batch in cell_batches(layout, manifest, slide_id, columns):
        order += batch["cell_id"].chunks
        for cell_type, classifier in classifiers.items():
            cells = batch.filter(pc.equal(batch["cell_type"], cell_type))
            if len(cells):
                rows.append(_rows(cells, classifier, layout.cells(slide_id)))
                positive = rows[-1]["is_positive"].to_numpy()
                inside = cells["in_filter"].to_numpy()
                counts[cell_type] += [len(cells), positive.sum(), inside.sum(), (positive & inside).sum()]
    cell_ids = pa.chunked_array(order, pa.string()).combine_chunks()
    found = pa.concat_tables([_kept(layout, manifest, slide_id, classifiers), *rows])
    in_order = pc.sort_indices(pc.index_in(found["cell_id"], value_set=cell_ids))
    tables.write_table(layout.scores(slide_id), found.take(in_order).cast(SCORES), manifest.config_hash)
    return counts


def _rows(cells: pa.Table, classifier: Classifier, path: Path) -> pa.Table:
    features = feature_matrix(cells, classifier.feature_names, path)
    score = classifier.score(features)
    return pa.table(
        {
            "cell_id": cells["cell_id"],
            "classifier_id": pa.array([classifier.classifier_id]).take(
                pa.array(np.zeros(len(cells), np.int8))
            ),
            "score": pa.array(score.astype(np.float32)),
            "is_positive": pa.array(score >= classifier.threshold),
        },
        schema=SCORES,
    )


def _kept(
    layout: RunLayout, manifest: Manifest, slide_id: str, classifiers: Mapping[CellType, Classifier]
) -> pa.Table:
    """The scores on disk of types that are not scored now."""
    path = layout.scores(slide_id)
    if not path.exists():
        return SCORES.empty_table()
    try:
        scores = tables.read_table(path, manifest.config_hash, columns=SCORES.names)
    except DamagedTableError:
        if scored_types(layout) <= set(classifiers):
            return SCORES.empty_table()  # nothing in it would be kept
        raise
    types = types_of(scores["cell_id"])
    return scores.filter(pc.invert(pc.is_in(types, value_set=pa.array(list(classifiers), pa.string()))))
