"""All numbers of a report: counts by slide, densities by animal, means and differences of groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mkhspc.config import CellType
from mkhspc.results.counts import SlideResult, per_mm2, slide_results
from mkhspc.results.design import Design, read_design
from mkhspc.results.statistics import Comparison, GroupSummary, Unit, comparisons, group_summaries, units
from mkhspc.store import manifest as manifests
from mkhspc.store.classifier_summary import ClassifierSummary, read_classifier_summary
from mkhspc.store.layout import RunLayout, is_simulated
from mkhspc.store.manifest import Manifest
from mkhspc.store.manifest.exclusions import summary_lines


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
    def left_out(self) -> list[str]:
        """Slides and tiles that have left the study, a line for each reason of a slide."""
        return summary_lines(self.manifest.exclusions)

    @property
    def concerns(self) -> list[str]:
        """Why the numbers of classified cells deserve doubt, a sentence each."""
        return self.concerns_without(())

    def concerns_without(self, cell_types: Collection[CellType]) -> list[str]:
        """The `concerns`, without those about the classifiers of some types of cells."""
        doubted = [c for c in self.classifiers if c.cell_type not in cell_types]
        return [f"{c.name} {concern}" for c in doubted for concern in c.concerns]


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
        classifiers=tuple(_scored_with(layout, results)),
    )


def to_json(report: Report) -> dict[str, Any]:
    """The report's numbers as plain values."""
    return {
        "dataset": report.manifest.dataset,
        "config_hash": report.manifest.config_hash,
        "simulated": report.is_simulated,
        "classifiers": [asdict(classifier) for classifier in report.classifiers],
        "exclusions": [asdict(one) for one in report.manifest.exclusions],
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


def _scored_with(layout: RunLayout, results: Sequence[SlideResult]) -> list[ClassifierSummary]:
    """The classifiers that these results come from, one a type at most, as `mkhspc score` noted them."""
    used = dict.fromkeys((r.cell_type, r.classifier_id) for r in results if r.classifier_id is not None)
    return [
        read_classifier_summary(layout, classifier_id) or _unknown(cell_type, classifier_id)
        for cell_type, classifier_id in used
    ]


def _unknown(cell_type: CellType, classifier_id: str) -> ClassifierSummary:
    unknown = "has no summary in this run: score the run again with `mkhspc score` to see how good it is"
    return ClassifierSummary(cell_type, classifier_id, concerns=(unknown,))
