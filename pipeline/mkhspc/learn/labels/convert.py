"""Turns labels into training data: every label finds its cell, and the report says how."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.config.typed import checked
from mkhspc.errors import InputError, some_of
from mkhspc.learn.classifier.features import feature_matrix
from mkhspc.learn.labels.agreement import Agreement, self_agreement
from mkhspc.learn.labels.authors import overtaken, with_authors
from mkhspc.learn.labels.concerns import concerns_of
from mkhspc.learn.labels.label import AnnotationFile, Label
from mkhspc.learn.labels.match import Match, MatchKind, match_names
from mkhspc.learn.labels.read import read_annotations
from mkhspc.learn.labels.resolve import Decision, OnConflict, Vote, last_withdrawn, latest_answers, resolve
from mkhspc.learn.limits import SHARE
from mkhspc.progress import Progress, silent
from mkhspc.store import manifest as manifests
from mkhspc.store.cells import cell_batches, feature_names
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import parse_cell_id

_log = logging.getLogger("mkhspc")

OUTSIDE_FILTER = "outside_filter"
NO_CELL = (MatchKind.EXCLUDED, MatchKind.UNMATCHED)
OUTCOMES = (MatchKind.EXACT, MatchKind.CONTOUR, MatchKind.NEAR, OUTSIDE_FILTER, *NO_CELL)
"""What can become of a label. One whose cell lies outside the filter counts as that alone."""
NO_TYPE = "unknown"
"""Stands in a report for the cell type of labels that do not say it."""

ExpectedFilter = Mapping[CellType, tuple[float | None, float | None]]
"""The smallest and largest area in µm² by cell type; None where nothing is expected."""


@dataclass(frozen=True)
class FileReport:
    """What became of the labels of one file: `counts` by cell type and by outcome (see `OUTCOMES`)."""

    file: str
    shape: str
    annotator: str
    counts: Mapping[str, Mapping[str, int]]
    unmatched: tuple[str, ...]
    self_agreement: Mapping[CellType, Agreement]

    @property
    def labels(self) -> int:
        return sum(sum(counts.values()) for counts in self.counts.values())

    @property
    def match_rate(self) -> float:
        lost = sum(counts[MatchKind.UNMATCHED] for counts in self.counts.values())
        return 1.0 - lost / max(1, self.labels)


@dataclass(frozen=True)
class Conversion:
    """Training data, ready to be written, and the report on how it came about.

    Attributes:
        replaced: how many answers their annotator gave anew, or took back, in another file.
        concerns: a sentence about each thing that is odd about the files.
    """

    manifest: Manifest
    feature_names: tuple[str, ...]
    files: tuple[FileReport, ...]
    replaced: int
    samples: tuple[Decision, ...]
    features: Mapping[str, Sequence[float]]
    unsure: tuple[Decision, ...]
    conflicts: tuple[Decision, ...]
    outside_filter: tuple[Decision, ...]
    concerns: tuple[str, ...] = ()


def convert(
    annotations: Sequence[Path],
    run: RunLayout,
    *,
    min_match: float = 0.98,
    on_conflict: OnConflict = "majority",
    expected_filter: ExpectedFilter = MappingProxyType({}),
    progress: Progress = silent,
) -> Conversion:
    """Matches labels to the cells of a run and settles conflicts; writes nothing.

    What is odd about the files goes to the logger 'mkhspc' at once, whatever comes of them.

    Args:
        min_match: share of each file's labels, from 0 to 1, that must find a cell.
        on_conflict: what becomes of a cell with different labels (see `resolve`).
        expected_filter: what the user expects the bounds of the run's filter to be.

    Raises:
        UsageError: there is no such rule, or `min_match` is out of range.
        InputError: a file cannot be used or is of another run, the filter is not the run's, too
            few labels find a cell, or nothing positive is left to learn from.
    """
    SHARE.check("--min-match", min_match)
    checked(on_conflict, OnConflict, "--on-conflict")
    manifest = manifests.read(run)
    _check_filter(expected_filter, manifest)
    files = with_authors([read_annotations(path) for path in annotations])
    concerns = concerns_of(files, datetime.now(UTC))
    for concern in concerns:
        _log.warning(concern)
    for file in files:
        _check_run(file, manifest, run)
    progress("read", len(files), len(files), labels=sum(len(file.labels) for file in files))
    matches = match_names(run, manifest, (label.name for file in files for label in file.labels))
    progress("match", len(matches), len(matches))
    reports = tuple(_report(file, matches) for file in files)
    for report in reports:
        _check_matched(report, min_match)
    votes = [vote for number, file in enumerate(files) for vote in _votes(number, file, matches)]
    superseded = overtaken(files).union(*(file.superseded for file in files))
    exported_at = [file.exported_at for file in files]
    counting = latest_answers(votes, exported_at, last_withdrawn(files, superseded), superseded)
    decisions = resolve(counting, on_conflict)
    in_filter = {match.cell_id for match in matches.values() if match.in_filter}
    inside = [d for d in decisions if d.cell_id in in_filter]
    outside = [d for d in decisions if d.cell_id not in in_filter]
    names = feature_names(run, manifest)
    samples = _learnable(inside, outside)
    return Conversion(
        manifest, tuple(names), reports, len(votes) - len(counting), samples,
        features=_features(run, manifest, names, [d.cell_id for d in samples]),
        unsure=tuple(d for d in inside if d.value == "unsure"),
        conflicts=tuple(d for d in inside if d.value is None),
        outside_filter=tuple(outside),
        concerns=concerns,
    )  # fmt: skip


def _check_filter(expected: ExpectedFilter, manifest: Manifest) -> None:
    for cell_type, bounds in expected.items():
        actual = manifest.filter[cell_type]
        for end, given, set_um2 in zip(("min", "max"), bounds, (actual.min_um2, actual.max_um2), strict=True):
            if given is not None and not np.isclose(given, set_um2, rtol=1e-9, atol=0.0):
                raise InputError(
                    f"--{cell_type}-{end}-area-um is {given:g} µm², but the run's filter has {set_um2:g} µm²",
                    fix="leave the option out, or change the run's filter with `mkhspc refilter`",
                )


def _check_run(file: AnnotationFile, manifest: Manifest, run: RunLayout) -> None:
    ours = {"config_hash": manifest.config_hash, "dataset": manifest.dataset}
    theirs = {"config_hash": file.config_hash, "dataset": file.dataset}
    for key, value in theirs.items():
        if value is not None and value != ours[key]:
            raise InputError(
                f"labels another run ({key} {value[:40]}; {run.root} has {ours[key]})",
                where=file.path,
                fix="convert it with the run it was made on; `mkhspc train` takes several training files",
            )


def _report(file: AnnotationFile, matches: Mapping[Any, Match]) -> FileReport:
    counts: dict[str, Counter[str]] = {}
    unmatched = []
    for label in file.labels:
        match = _match_of(label, matches)
        of_type = counts.setdefault(label.cell_type or NO_TYPE, Counter(dict.fromkeys(OUTCOMES, 0)))
        of_type[_outcome_of(match)] += 1
        if match.kind == MatchKind.UNMATCHED:
            unmatched.append(label.cell_id)
    repeats = {t: self_agreement([r for r in file.repeats if r.cell_type == t]) for t in CELL_TYPES}
    return FileReport(
        file=file.path.name,
        shape=file.shape,
        annotator=file.annotator,
        counts={kind: dict(counts[kind]) for kind in sorted(counts)},
        unmatched=tuple(unmatched),
        self_agreement={t: agreement for t, agreement in repeats.items() if agreement is not None},
    )


def _match_of(label: Label, matches: Mapping[Any, Match]) -> Match:
    return Match(MatchKind.UNMATCHED) if label.name is None else matches[label.name]


def _outcome_of(match: Match) -> str:
    """One of `OUTCOMES`."""
    is_outside = match.kind not in NO_CELL and not match.in_filter
    return OUTSIDE_FILTER if is_outside else str(match.kind)


def _check_matched(report: FileReport, min_match: float) -> None:
    if report.match_rate < min_match:
        raise InputError(
            f"only {report.labels - len(report.unmatched)} of {report.labels} labels"
            f" ({report.match_rate:.3f}) have a cell in this run, below --min-match {min_match:g};"
            f" without one: {some_of(report.unmatched, 3)}",
            where=report.file,
            fix="nothing was written; name the run that was labelled with --base-dir",
        )


def _votes(number: int, file: AnnotationFile, matches: Mapping[Any, Match]) -> Iterable[Vote]:
    for label in file.labels:
        match = _match_of(label, matches)
        if match.kind not in NO_CELL and label.cell_type is not None:
            yield Vote(
                cell_id=match.cell_id,
                cell_type=label.cell_type,
                value=label.value,
                annotator=label.presentation.annotator or file.annotator,
                label_id=label.cell_id,
                presentation=label.presentation,
                at=label.presentation.at or file.exported_at,
                file=number,
            )


def _learnable(inside: Sequence[Decision], outside: Sequence[Decision]) -> tuple[Decision, ...]:
    samples = tuple(d for d in inside if d.value in ("positive", "negative"))
    if not samples:
        raise InputError(
            f"none of the {len(inside) + len(outside)} labelled cells is left to learn from:"
            f" {len(outside)} lie outside the run's filter, the others are unsure or in conflict",
            fix="label more cells, or widen the filter with `mkhspc refilter`",
        )
    if not any(decision.value == "positive" for decision in samples):
        raise InputError(
            f"there are only negatives ({len(samples)}): a classifier cannot learn without positive labels",
            fix="convert them together with files that hold positives (repeat --annotations)",
        )
    return samples


def _features(
    layout: RunLayout, manifest: Manifest, names: list[str], cell_ids: list[str]
) -> dict[str, Sequence[float]]:
    """The features of these cells by cell id, in the order of `names`."""
    wanted = pa.array(cell_ids, pa.string())
    features: dict[str, Sequence[float]] = {}
    for slide_id in sorted({parse_cell_id(cell_id).slide_id for cell_id in cell_ids}):
        for batch in cell_batches(layout, manifest, slide_id, ["cell_id", *names]):
            rows = batch.filter(pc.is_in(batch["cell_id"], value_set=wanted))
            values = feature_matrix(rows, names, layout.cells(slide_id))
            features |= zip(rows["cell_id"].to_pylist(), values.tolist(), strict=True)
    return features


def report_of(conversion: Conversion) -> dict[str, Any]:
    """The report as plain JSON: by file and type, then what came of the cells, by type."""
    return {
        "config_hash": conversion.manifest.config_hash,
        "dataset": conversion.manifest.dataset,
        "files": [
            {**asdict(report), "labels": report.labels, "match_rate": round(report.match_rate, 6)}
            for report in conversion.files
        ],
        "superseded": conversion.replaced,
        "concerns": list(conversion.concerns),
        "cells": {cell_type: _outcome(conversion, cell_type) for cell_type in CELL_TYPES},
    }


def _outcome(conversion: Conversion, cell_type: CellType) -> dict[str, int]:
    def count(decisions: Sequence[Decision], *values: str) -> int:
        return sum(d.cell_type == cell_type and (not values or d.value in values) for d in decisions)

    conflicting = [*conversion.samples, *conversion.unsure, *conversion.conflicts]
    return {
        "positive": count(conversion.samples, "positive"),
        "negative": count(conversion.samples, "negative"),
        "unsure": count(conversion.unsure),
        "outside_filter": count(conversion.outside_filter),
        "conflicts_settled": count([d for d in conflicting if d.votes and d.value]),
        "conflicts_excluded": count(conversion.conflicts),
    }
