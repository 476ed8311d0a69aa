"""Another filter for a run: a view on its cells, so no detector runs and no cell is renamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mkhspc.config import CellRange, CellType, check_filter
from mkhspc.errors import UsageError
from mkhspc.run.slide_tables import belong_together, merge_slide
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.summary import RunSummary, summarise

Changes = Mapping[CellType, Mapping[str, float]]
"""New values by the names of `CellRange`; what is not named stays as it is."""


def refilter(layout: RunLayout, changes: Changes) -> RunSummary:
    """Changes the filter of a run within what is stored.

    Raises:
        UsageError: a range is empty, or reaches beyond the areas or below the score that the run stored.
    """
    manifest = manifests.update(layout, lambda current: _changed(current, changes))
    merged = [s.slide_id for s in manifest.slides if layout.cells(s.slide_id).exists()]
    for slide_id in merged:
        cells.settle_in_filter(layout, slide_id)
        _merge_again(layout, manifest, slide_id)
    return summarise(layout, manifest, merged)


def _merge_again(layout: RunLayout, manifest: Manifest, slide_id: str) -> None:
    """Where a merge ends in the same moment, its table of more tiles may have been replaced: comes again."""
    if layout.crops(slide_id).exists() and not belong_together(layout, slide_id):
        merge_slide(layout, manifest, slide_id, load_tile_plan(layout, slide_id, manifest.config_hash).tiles)


def _changed(manifest: Manifest, changes: Changes) -> Manifest:
    views = {}
    for cell_type, values in changes.items():
        view = replace(manifest.filter[cell_type], **values)
        check_filter(view, cell_type)
        _refuse_beyond_stored(manifest, cell_type, view)
        views[cell_type] = view
    return manifest.with_filter(views)


def _refuse_beyond_stored(manifest: Manifest, cell_type: CellType, view: CellRange) -> None:
    stored = manifest.stored(cell_type)
    if view.min_um2 < stored.min_um2 or view.max_um2 > stored.max_um2:
        raise UsageError(
            f"this run holds {cell_type.upper()} of {stored.min_um2:g} to {stored.max_um2:g} µm² and the"
            f" filter asks for {view.min_um2:g} to {view.max_um2:g} µm²",
            fix="choose a range within, or segment into a new directory",
        )
    if view.min_score < stored.min_score:
        raise UsageError(
            f"this run holds {cell_type.upper()} with a score of at least {stored.min_score:g} and the"
            f" filter asks for {view.min_score:g}",
            fix="choose a score from there on, or segment into a new directory, which stores weaker ones too",
        )
