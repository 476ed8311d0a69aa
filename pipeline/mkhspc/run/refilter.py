"""Another size filter for a run: a view on its cells, so no detector runs and no cell is renamed."""

from __future__ import annotations

from collections.abc import Mapping

from mkhspc.config import AreaRange, CellType, check_area_range
from mkhspc.errors import UsageError
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.summary import RunSummary, summarise

Bounds = tuple[float | None, float | None]
"""Smallest and largest area in µm²; None leaves that bound as it is."""


def refilter(layout: RunLayout, bounds: Mapping[CellType, Bounds]) -> RunSummary:
    """Changes the size filter of a run within what is stored.

    Raises:
        UsageError: a range is empty or reaches beyond the areas that the run stored.
    """
    manifest = manifests.update(layout, lambda current: _with_bounds(current, bounds))
    merged = [s.slide_id for s in manifest.slides if layout.cells(s.slide_id).exists()]
    for slide_id in merged:
        cells.rewrite_in_filter(layout, manifest, slide_id)
    return summarise(layout, manifest, merged)


def _with_bounds(manifest: Manifest, bounds: Mapping[CellType, Bounds]) -> Manifest:
    areas = {}
    for cell_type, (low, high) in bounds.items():
        old, stored = manifest.filter[cell_type], manifest.stored(cell_type)
        area = AreaRange(old.min_um2 if low is None else low, old.max_um2 if high is None else high)
        check_area_range(area, cell_type)
        if not stored.contains(area):
            raise UsageError(
                f"this run holds {cell_type.upper()} of {stored.min_um2:g} to {stored.max_um2:g} µm² and the"
                f" filter asks for {area.min_um2:g} to {area.max_um2:g} µm²",
                fix="choose a range within, or segment into a new directory",
            )
        areas[cell_type] = area
    return manifest.with_filter(areas)
