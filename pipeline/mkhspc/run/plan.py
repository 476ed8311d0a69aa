"""Planning a run: its slides are surveyed and its densest tile is done, in a directory that goes again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from mkhspc.budget.forecast import FirstTile, Forecast, Machine, Outline, forecast
from mkhspc.cluster.journal import read_journals
from mkhspc.config import CELL_TYPES, RunConfig
from mkhspc.errors import UsageError
from mkhspc.process.limits import memory_limit
from mkhspc.progress import Notify, Progress, silent, unnoticed
from mkhspc.run.do_tiles import do_tiles, refuse_failures, with_models
from mkhspc.run.job import TileShare, plan_job, plan_share
from mkhspc.run.opening.pending import pending_run
from mkhspc.run.segment import refuse_shortage_of_memory, tiles_asked
from mkhspc.slide.tile_windows import TileWindows
from mkhspc.slide.tiles import Tile
from mkhspc.store import tables
from mkhspc.store.cells import with_in_filter
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest


def plan_run(
    config: RunConfig, machine: Machine, progress: Progress = silent, notify: Notify = unnoticed
) -> Forecast:
    """Surveys the slides, does one tile, and scales up to the run on a machine.

    Raises:
        InputError: a slide cannot be used.
        UsageError: not even one worker fits the memory, or the slides hold no tissue.
        IncompleteError: the tile failed.
    """
    with tempfile.TemporaryDirectory(prefix="mkhspc-plan-") as scratch:
        scratched = _into(config, Path(scratch) / "run")
        if machine.gpus is not None:  # the device named is one of that machine; the tile is done on this
            scratched = replace(scratched, compute=replace(scratched.compute, device="auto"))
        begun_s = time.monotonic()
        with pending_run(scratched, jobs_gpus=machine.gpus) as pending:
            for limit in (machine.limit, memory_limit()):  # the survey and the tile are done on this one
                refuse_shortage_of_memory(pending, limit)
            for line in pending.notices():
                notify(line)
            asked = tiles_asked(pending, pending.manifest, progress)
            manifest = pending.commit()
            for line in pending.choices():
                notify(line)
        survey_s = time.monotonic() - begun_s
        wanted = {slide_id: tiles for slide_id, tiles in asked.items() if tiles}
        if not wanted:
            raise UsageError("the slides hold no tissue", fix="look at one with `mkhspc inspect --preview`")
        job = plan_job(manifest, wanted, replace(scratched.compute, num_workers=1), machine.limit)
        first = _measured(RunLayout(Path(scratch) / "run"), manifest, *_densest(wanted), scratched, progress)
    costs = [slide.cost for slide in job.slides]
    outline = Outline(
        config=config,
        slides=len(asked),
        demand=job.demand,
        models=job.models,
        devices=job.devices,
        fat_free_area_um2=sum(tile.fat_free_area_um2 for tiles in wanted.values() for tile in tiles),
        decoded_bytes=sum(cost.decoded_bytes for cost in costs),
        touched_bytes=sum(cost.touched_bytes for cost in costs),
        survey_s=survey_s,
    )
    return forecast(outline, first, machine)


def _into(config: RunConfig, root: Path) -> RunConfig:
    """The same run elsewhere, without the classifiers, which take no part in planning."""
    return replace(
        config,
        run=replace(config.run, output_dir=str(root)),
        mk=replace(config.mk, classifier=None),
        hspc=replace(config.hspc, classifier=None),
    )


def _densest(tiles: Mapping[str, Sequence[Tile]]) -> tuple[str, Tile]:
    slide_id, found = next(iter(tiles.items()))
    return slide_id, max(found, key=lambda tile: tile.fat_free_area_um2)


def _measured(
    layout: RunLayout, manifest: Manifest, slide_id: str, tile: Tile, config: RunConfig, progress: Progress
) -> FirstTile:
    compute = replace(config.compute, num_workers=1, memory_gb=None)
    share = TileShare({slide_id: [tile]})
    work = plan_share(layout, manifest, share, compute)
    if work is None:
        raise RuntimeError("a run that was just made has its first tile already")
    read_s, read_bytes = _read(work.slides[0])
    with with_models(work) as job:
        refuse_failures(do_tiles(layout, manifest, share, job, progress), layout.root)
        server_bytes = job.servers.peak_bytes if job and job.servers else 0
        device = ", ".join(work.devices)
    path = layout.part(slide_id, tile.tile_id)
    part = tables.read_table(path, manifest.config_hash, columns=["cell_type", "area_um2", "detector_score"])
    facts = next(
        event.facts for journal in read_journals(layout) for event in journal.events if event.name == "done"
    )
    cells, cards = {}, {}
    for cell_type in CELL_TYPES:
        of_type = part.filter(pc.equal(part["cell_type"], cell_type))
        shown = with_in_filter(of_type, manifest.filter)["in_filter"]
        cells[cell_type] = of_type.num_rows
        cards[cell_type] = pc.sum(shown).as_py() or 0
    return FirstTile(
        tile_id=f"{slide_id}/{tile.tile_id}",
        fat_free_area_um2=max(tile.fat_free_area_um2, 1.0),
        seconds=facts["seconds"],
        models_s=facts.get("models_s", 0.0),
        read_s=read_s,
        read_bytes=read_bytes,
        worker_bytes=facts["peak_bytes"],
        server_bytes=server_bytes,
        device=device,
        stored_bytes=path.stat().st_size,
        cells=cells,
        cards=cards,
    )


def _read(slide: TileWindows) -> tuple[float, int]:
    """Seconds of one thread for the first window of a slide, and bytes of pixels decoded."""
    window = slide.windows[0]
    with slide.open(threads=1) as stream:
        begun_s = time.monotonic()
        stream.next_window()
        stream.read_into(np.empty((window.height, window.width, 3), np.uint8))
        return time.monotonic() - begun_s, stream.decoded_bytes
