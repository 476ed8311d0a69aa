"""Writes the report of a run: two CSV files of numbers, one of differences, a picture, a page."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mkhspc import __version__
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.resources import render
from mkhspc.results.classifiers import scored_with
from mkhspc.results.counts import SlideResult, per_mm2, slide_results
from mkhspc.results.design import Design, read_design
from mkhspc.results.plots import DARK, LIGHT, density_png
from mkhspc.results.statistics import (
    Comparison,
    GroupSummary,
    Unit,
    comparisons,
    group_summaries,
    units,
)
from mkhspc.store import atomic, manifest as manifests
from mkhspc.store.classifier_summary import FIGURE_NAMES, ClassifierSummary
from mkhspc.store.layout import RunLayout, is_simulated
from mkhspc.store.manifest import Manifest

FILES = ("results.csv", "groups.csv", "comparisons.csv", "density.png", "report.html")


@dataclass(frozen=True)
class Report:
    """All numbers of a report."""

    manifest: Manifest
    design: Design
    results: tuple[SlideResult, ...]
    units: tuple[Unit, ...]
    groups: tuple[GroupSummary, ...]
    comparisons: tuple[Comparison, ...]
    classifiers: tuple[ClassifierSummary, ...] = ()

    @property
    def is_simulated(self) -> bool:
        return any(is_simulated(slide.slide_id) for slide in self.manifest.slides)

    @property
    def concerns(self) -> list[str]:
        """Why the numbers of classified cells deserve doubt, a sentence each."""
        return [f"{c.name} {concern}" for c in self.classifiers for concern in c.concerns]


def make_report(layout: RunLayout, groups_csv: Path | None = None) -> Report:
    """Counts the cells of a run and compares its groups; writes nothing.

    Raises:
        IncompleteError: slides are not finished and merged.
        InputError: the run, its scores or the groups cannot be used.
    """
    manifest = manifests.read(layout)
    design = read_design(manifest, groups_csv)
    results = slide_results(layout, manifest)
    found = units(results, design)
    return Report(
        manifest=manifest,
        design=design,
        results=tuple(results),
        units=tuple(found),
        groups=tuple(group_summaries(found)),
        comparisons=tuple(comparisons(found, design)),
        classifiers=tuple(scored_with(layout, results)),
    )


def refuse_foreign(out_dir: Path) -> None:
    """Raises `InputError` if a report would be written among other things, such as a site to publish."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError("is a file, not a directory", where=out_dir, fix="choose another --out")
    foreign = sorted({path.name for path in out_dir.iterdir()} - set(FILES))
    if foreign:
        raise InputError(
            f"holds something other than a report: {', '.join(foreign[:5])}",
            where=out_dir,
            fix="choose another --out: a report names slides, and what lies in a site becomes public",
        )


def write_report(report: Report, out_dir: Path) -> Path:
    """Writes results.csv, groups.csv, comparisons.csv, density.png and report.html.

    Returns:
        The path of report.html.

    Raises:
        InputError: the directory holds something other than an earlier report.
    """
    refuse_foreign(out_dir)
    rows = slide_rows(report)
    atomic.write_text(out_dir / "results.csv", _csv(rows))
    atomic.write_text(out_dir / "groups.csv", _csv(_marked(report, report.groups)))
    atomic.write_text(out_dir / "comparisons.csv", _csv(_marked(report, report.comparisons)))
    picture = density_png(report.units, is_simulated=report.is_simulated)
    atomic.write_bytes(out_dir / "density.png", picture)
    page = render(
        "report.html",
        report=report,
        rows=rows,
        figure_names=FIGURE_NAMES,
        pictures={cell_type: _pictures(report, cell_type) for cell_type in CELL_TYPES},
        version=__version__,
    )
    atomic.write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


def _pictures(report: Report, cell_type: CellType) -> dict[str, str]:
    """The page's picture of one cell type by theme, as base64: side by side, or below each other."""
    return {
        name: base64.b64encode(
            density_png(report.units, is_simulated=report.is_simulated, theme=theme, cell_types=(cell_type,))
        ).decode()
        for name, theme in (("light", LIGHT), ("dark", DARK))
    }


def to_json(report: Report) -> dict[str, Any]:
    """The report's numbers as plain values."""
    return {
        "dataset": report.manifest.dataset,
        "config_hash": report.manifest.config_hash,
        "simulated": report.is_simulated,
        "classifiers": [asdict(classifier) for classifier in report.classifiers],
        "slides": slide_rows(report),
        "groups": [asdict(group) for group in report.groups],
        "comparisons": [asdict(comparison) for comparison in report.comparisons],
    }


def slide_rows(report: Report) -> list[dict[str, Any]]:
    """One row per slide and cell type, as in results.csv; None where there is no number."""
    return [_slide_row(report, result) for result in report.results]


def _slide_row(report: Report, result: SlideResult) -> dict[str, Any]:
    origin, searched, positives = report.design.slides[result.slide_id], result.searched, result.positives
    return {
        "slide_id": result.slide_id,
        "animal": origin.animal,
        "batch": origin.batch,
        **origin.factors,
        "cell_type": result.cell_type,
        "simulated": report.is_simulated,
        "um_per_px": result.um_per_px,
        "tiles_done": searched.tiles_done,
        "tiles_planned": searched.tiles_planned,
        "sampling_fraction": searched.sampling_fraction,
        "tissue_mm2": searched.tissue_mm2,
        "fat_free_mm2": searched.fat_free_mm2,
        "candidates": result.candidates.cells,
        "candidates_inside_mk": result.candidates.inside_mk,
        "candidates_per_mm2": per_mm2(result.candidates, searched.tissue_mm2),
        "candidates_per_mm2_fat_free": per_mm2(result.candidates, searched.fat_free_mm2),
        "classifier_id": result.classifier_id,
        "positives": positives and positives.cells,
        "positives_inside_mk": positives and positives.inside_mk,
        "positives_per_mm2": positives and per_mm2(positives, searched.tissue_mm2),
        "positives_per_mm2_fat_free": positives and per_mm2(positives, searched.fat_free_mm2),
        "median_area_um2": result.median_area_um2,
    }


def _marked(report: Report, items: Iterable[GroupSummary | Comparison]) -> list[dict[str, Any]]:
    return [{**asdict(item), "simulated": report.is_simulated} for item in items]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; empty where a value is None, nothing at all without rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
