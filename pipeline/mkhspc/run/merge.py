"""The finished tiles of a run put together into its tables, scored and summed up."""

from __future__ import annotations

from collections.abc import Sequence

from mkhspc.cluster.clean import tidy
from mkhspc.cluster.journal import read_journals
from mkhspc.cluster.read_status import state_of
from mkhspc.cluster.summary.page import write_run_summary
from mkhspc.learn.score import apply_classifiers
from mkhspc.progress import Progress, silent
from mkhspc.run.classifiers import classifiers_of
from mkhspc.run.damaged_parts import refuse_damaged, set_aside_damaged
from mkhspc.run.opening.versions import with_precisions
from mkhspc.run.resumable import resumable
from mkhspc.run.slide_tables import merge_slide, missing_tiles, refuse_missing
from mkhspc.slide.tiles import Tile, chosen_tiles, load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import file_system_time
from mkhspc.store.damage import DamagedTableError
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.manifest.exclusions import summary_lines
from mkhspc.store.summary import RunSummary, summarise


def merge(
    layout: RunLayout, slide_ids: Sequence[str] | None = None, *, progress: Progress = silent
) -> RunSummary:
    """Makes the tables of slides whose tiles are all there, and the scores of the run's classifiers.

    Raises:
        IncompleteError: tiles that the run asks for are missing, and nothing is written then; or the run's
            disk takes no tables.
    """
    with resumable(layout):
        summary = merge_slides(layout, slide_ids, progress)
    draw_summary(layout, progress)  # a cluster's tasks end side by side, or are killed before they draw
    return summary


def merge_slides(layout: RunLayout, slide_ids: Sequence[str] | None, progress: Progress) -> RunSummary:
    """Like `merge`, with a fault of the disk as the `OSError` that it is, and without a drawing."""
    tidy(layout)
    manifest = manifests.update(layout, lambda found: with_precisions(found, read_journals(layout)))
    slide_ids = [s.slide_id for s in manifest.slides] if slide_ids is None else slide_ids
    missing, tiles = {}, {}
    for slide_id in (s for s in slide_ids if layout.plan(s).exists()):
        plan = load_tile_plan(layout, slide_id, manifest.config_hash)  # its masks are large: one at a time
        missing[slide_id] = missing_tiles(layout, slide_id, chosen_tiles(manifest, slide_id, plan))
        tiles[slide_id] = plan.tiles
    unplanned = [s for s in slide_ids if s not in tiles and not manifest.is_excluded(s)]
    refuse_missing(layout, missing, unplanned)
    damaged: list[str] = []
    for done, slide_id in enumerate(slide_ids, start=1):
        damaged += _merge_or_set_aside(layout, manifest, slide_id, tiles.get(slide_id, ()))
        progress("merge", done, len(slide_ids), slide=slide_id)
    refuse_damaged(layout, damaged)
    if classifiers := classifiers_of(manifest.config):
        apply_classifiers(layout, manifest, slide_ids, classifiers, progress)
    return summarise(layout, manifest, slide_ids)


def _merge_or_set_aside(
    layout: RunLayout, manifest: Manifest, slide_id: str, tiles: Sequence[Tile]
) -> list[str]:
    """Merges a slide; returns the tiles whose parts were found damaged and set aside, so it could not."""
    try:
        merge_slide(layout, manifest, slide_id, tiles)
    except DamagedTableError:
        if damaged := set_aside_damaged(layout, manifest, slide_id):
            return damaged
        raise
    return []


def draw_summary(layout: RunLayout, progress: Progress) -> None:
    """Writes the run's summary page; a fault of that is shown and must not hide how the run itself ended."""
    try:
        if journals := read_journals(layout):
            left_out = summary_lines(manifests.read(layout).exclusions)
            now_s = file_system_time(layout.logs)
            write_run_summary(layout.logs, journals, now_s, state_of, left_out=left_out)
    except Exception as fault:  # whatever it is: the run's own error is under way, or its tiles are done
        words = str(fault) if isinstance(fault, OSError) else f"{type(fault).__name__}: {fault}"
        progress("summary", 0, 1, error=words)
