"""The journey of a slide, from its pixels to a table of measured cells: read this first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from pipeline.config import CELL_TYPES, AreaRange, CellType, RunConfig, check_area_range
from pipeline.engine.merge import merge_slide, missing_tiles, refuse_missing
from pipeline.engine.prepare import chosen_tiles, open_run, prepare_plan
from pipeline.engine.schedule import Shard, do_tiles, refuse_failures
from pipeline.errors import CheckFailedError, UsageError
from pipeline.learn.score import apply_classifiers, check_classifiers, load_classifiers
from pipeline.measure.features import FEATURE_NAMES
from pipeline.progress import Progress, silent
from pipeline.slide.tiles import read_plan
from pipeline.store import cells, manifest as manifests
from pipeline.store.layout import RunLayout
from pipeline.store.manifest import Manifest


@dataclass(frozen=True)
class RunSummary:
    """What is on disk after `segment` or `merge`, over the slides concerned."""

    root: Path
    tiles: int
    stored: Mapping[CellType, int]
    in_filter: Mapping[CellType, int]


def segment(
    config: RunConfig,
    *,
    shard: Shard | None = None,
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> RunSummary | None:
    """Finds, measures and stores the cells of the slides that `config` names.

    Run again, it goes on where it stopped; with a higher fraction it only adds tiles.

    Args:
        only: ids of the slides to work on now; the run stays that of all slides. None are all.

    Returns:
        The summary, or None for a shard, whose tables `merge` makes later.

    Raises:
        IncompleteError: tiles failed; all others are kept, complete slides are merged.
        InterruptedRunError: a signal stopped the run at a tile border.
        CheckFailedError: not one cell was found.
    """
    classifiers = _classifiers(config)
    loaded = load_classifiers(classifiers)  # a night's work must not end at a file that was wrong
    layout, manifest, slide_ids = open_run(config, only)
    check_classifiers(loaded, manifest, FEATURE_NAMES, classifiers)
    tiles = {}
    for done, slide_id in enumerate(slide_ids, start=1):
        tiles[slide_id] = chosen_tiles(manifest, prepare_plan(layout, manifest, slide_id))
        progress("survey", done, len(slide_ids), slide=slide_id)
    failed = do_tiles(layout, manifest, tiles, config.compute, progress, shard)
    if shard:
        refuse_failures(failed)
        return None
    with_failures = {outcome.task.slide_id for outcome in failed}
    summary = merge(layout, [s for s in slide_ids if s not in with_failures], progress=progress)
    refuse_failures(failed)
    if classifiers:
        apply_classifiers(layout, manifest, slide_ids, classifiers, progress)
    refuse_empty(summary)
    return summary


def merge(
    layout: RunLayout, slide_ids: Sequence[str] | None = None, *, progress: Progress = silent
) -> RunSummary:
    """Makes the tables of slides whose tiles are all there.

    Raises:
        IncompleteError: tiles that the run asks for are missing; nothing is written then.
    """
    manifest = manifests.read(layout)
    slide_ids = [s.slide_id for s in manifest.slides] if slide_ids is None else slide_ids
    planned = [s for s in slide_ids if layout.plan(s).exists()]
    plans = {s: read_plan(layout, s, manifest.config_hash) for s in planned}
    refuse_missing(
        {s: missing_tiles(layout, s, chosen_tiles(manifest, plan)) for s, plan in plans.items()},
        unplanned=[s for s in slide_ids if s not in plans],
    )
    for done, slide_id in enumerate(slide_ids, start=1):
        merge_slide(layout, manifest, slide_id, plans[slide_id].tiles)
        progress("merge", done, len(slide_ids), slide=slide_id)
    return _summary(layout, manifest, slide_ids)


def _classifiers(config: RunConfig) -> dict[CellType, Path]:
    """The classifier files that a config names; without one, all cells of its type are accepted."""
    named = {t: config.cells(t).classifier for t in CELL_TYPES}
    return {t: Path(name) for t, name in named.items() if name is not None}


def refilter(layout: RunLayout, areas: Mapping[CellType, AreaRange]) -> RunSummary:
    """Changes the size filter of a run within what is stored; no detector runs, no cell is renamed.

    Raises:
        UsageError: a range is empty or reaches beyond the areas that the run stored.
    """
    manifest = manifests.read(layout)
    for cell_type, area in areas.items():
        check_area_range(area, cell_type)
        stored = manifest.stored(cell_type)
        if not stored.contains(area):
            raise UsageError(
                f"this run holds {cell_type.upper()} of {stored.min_um2:g} to {stored.max_um2:g} µm² and the"
                f" filter asks for {area.min_um2:g} to {area.max_um2:g} µm²",
                fix="choose a range within, or segment into a new directory",
            )
    manifest = manifest.with_filter(areas)
    manifests.write(layout, manifest)
    merged = [s.slide_id for s in manifest.slides if layout.cells(s.slide_id).exists()]
    for slide_id in merged:
        cells.rewrite_in_filter(layout, manifest, slide_id)
    return _summary(layout, manifest, merged)


def refuse_empty(summary: RunSummary) -> None:
    """Raises `CheckFailedError` when a whole run found nothing at all."""
    if not any(summary.stored.values()):
        raise CheckFailedError(
            "not one cell was found",
            where=summary.root,
            fix="check the slides with `mkhspc inspect --preview` and the size filter",
        )


def _summary(layout: RunLayout, manifest: Manifest, slide_ids: Sequence[str]) -> RunSummary:
    stored, in_filter = dict.fromkeys(CELL_TYPES, 0), dict.fromkeys(CELL_TYPES, 0)
    for slide_id in slide_ids:
        table = cells.read_cells(layout, manifest, slide_id, ["cell_type", "in_filter"])
        for cell_type in CELL_TYPES:
            of_type = table.filter(pc.equal(table["cell_type"], cell_type))
            stored[cell_type] += len(of_type)
            in_filter[cell_type] += pc.sum(of_type["in_filter"]).as_py() or 0
    tiles = sum(len(layout.finished_tiles(slide_id)) for slide_id in slide_ids)
    return RunSummary(layout.root, tiles, stored, in_filter)
