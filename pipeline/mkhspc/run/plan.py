"""What a run will take, before it begins: workers, memory, time, disk, and the size of its gallery.

The densest tile of the first slide is done for real, in a directory that is thrown away: the figures
are those of this machine, these detectors and this tissue, scaled by the fat-free area of the tiles.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mkhspc.budget.demand import MEASURED_MARGIN, Budget, Demand, layout_of, plan_workers, refuse_survey
from mkhspc.cluster.journal import read_journals
from mkhspc.config import CELL_TYPES, CellType, RunConfig
from mkhspc.errors import UsageError
from mkhspc.models.choice import gpus_here
from mkhspc.process.limits import GB, SAFE_SHARE, MemoryLimit, memory_limit, usable_cores
from mkhspc.progress import Progress, silent
from mkhspc.run.open import Tell, ignore, open_run
from mkhspc.run.schedule import (
    Job,
    Share,
    best_budget,
    do_tiles,
    plan_job,
    plan_share,
    refuse_failures,
    with_models,
)
from mkhspc.slide.czi.slide_reads import SlideReads
from mkhspc.slide.czi.stream import WindowStream
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import Tile, chosen_tiles
from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

CARD_BYTES: Mapping[CellType, int] = {"mk": 8500, "hspc": 2130}
"""Of a gallery, for each card, page and picture (`make bench ONLY=gallery`)."""
COPIES = 2
"""A cell lies on disk in its tile's part, which makes a run resumable, and in its slide's tables."""
NOTED_WORKERS = (8, 12, 16)
"""The options that the lab's notes weighed by hand."""


@dataclass(frozen=True)
class Machine:
    """What a run may use.

    Attributes:
        gpus: None are those here.
        gpu_memory_gb: of each; None where nobody said, or as those here have.
    """

    cores: int
    limit: MemoryLimit
    gpus: int | None = None
    gpu_memory_gb: float | None = None


@dataclass(frozen=True)
class FirstTile:
    """A tile that was done to measure.

    Attributes:
        seconds: of one worker, reading left out.
        models_s: of these, waiting for the models' answers.
        read_s: of one thread that decodes the sub-blocks of its window.
        read_bytes: of their pixels.
        worker_bytes: the most memory of that worker.
        owner_bytes: the most memory of the processes that own the models.
        device: where the models were; empty without any.
        stored_bytes: of the tile's part.
        cells, cards: by type: all stored, and those in the size filter.
    """

    tile_id: str
    fat_free_area_um2: float
    seconds: float
    models_s: float
    read_s: float
    read_bytes: int
    worker_bytes: int
    owner_bytes: int
    device: str
    stored_bytes: int
    cells: Mapping[CellType, int]
    cards: Mapping[CellType, int]


@dataclass(frozen=True)
class Option:
    """What so many workers would need, and whether `segment --num-workers` would begin with them.

    That is judged before a tile is measured, so it can be more than the forecast's own answer.
    """

    workers: int
    peak_bytes: int
    fits: bool


@dataclass(frozen=True)
class Forecast:
    """A run, foreseen.

    Attributes:
        devices: that hold the models; 0 without any.
        batch: by model, what it gives to a device at once: SAM2 prompts of one window, Cellpose blocks,
            embedders crops. Halved during the run where a device's memory does not do for them.
        owner_bytes: of `peak_bytes`, those of the processes that own the models.
        too_large: published weights for which the GPUs are smaller than advised.
        decoded_share: bytes decoded over those of the sub-blocks touched.
        options: the notes' numbers of workers, for comparison.
    """

    slides: int
    tiles: int
    workers: int
    devices: int
    batch: Mapping[str, int]
    owner_bytes: int
    too_large: Sequence[str]
    queue: int
    read_threads: int
    peak_bytes: int
    limit_bytes: int
    limit_set_by: str
    cells: Mapping[CellType, int]
    disk_bytes: int
    time_s: float
    site_bytes: int
    decoded_share: float
    first_tile: FirstTile
    options: Sequence[Option]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def machine_for(
    memory_gb: float | None = None,
    cores: int | None = None,
    gpus: int | None = None,
    gpu_memory_gb: float | None = None,
) -> Machine:
    """The machine here, or another one as far as the options describe it.

    A memory given counts as that of the machine meant, even when this one has less.

    Raises:
        UsageError: an option is out of range.
    """
    for option, value in (("--memory-gb", memory_gb), ("--gpu-memory-gb", gpu_memory_gb)):
        if value is not None and not value > 0:
            raise UsageError(f"{value:g} GB", where=option, fix="it takes a size above 0")
    for option, count, least in (("--cores", cores, 1), ("--gpus", gpus, 0)):
        if count is not None and count < least:
            raise UsageError(f"{count} is out of range", where=option, fix=f"it takes {least} or more")
    limit = memory_limit() if memory_gb is None else MemoryLimit(int(memory_gb * GB), "--memory-gb")
    return Machine(cores or usable_cores(), limit, gpus, gpu_memory_gb)


def forecast(
    config: RunConfig, machine: Machine, progress: Progress = silent, tell: Tell = ignore
) -> Forecast:
    """Surveys the slides, does one tile, and scales up; `tell` is as for `open_run`.

    Raises:
        InputError: a slide cannot be used.
        UsageError: not even one worker fits the memory.
        IncompleteError: the tile failed.
    """
    with tempfile.TemporaryDirectory(prefix="mkhspc-plan-") as scratch:
        scratched = _into(config, Path(scratch) / "run")
        if machine.gpus is not None:  # the device named is one of that machine; the tile is done on this
            scratched = replace(scratched, compute=replace(scratched.compute, device="auto"))
        begun_s = time.monotonic()
        layout, manifest, slide_ids = open_run(
            scratched,
            accept=lambda new: refuse_survey(new.slides, new.config.run.calibration_samples, machine.limit),
            tell=tell,
            jobs_gpus=machine.gpus,
        )
        tiles = {}
        for done, slide_id in enumerate(slide_ids, start=1):
            tiles[slide_id] = chosen_tiles(manifest, prepare_tile_plan(layout, manifest, slide_id))
            progress("survey", done, len(slide_ids), slide=slide_id)
        survey_s = time.monotonic() - begun_s
        wanted = {slide_id: found for slide_id, found in tiles.items() if found}
        if not wanted:
            raise UsageError("the slides hold no tissue", fix="look at one with `mkhspc inspect --preview`")
        job = plan_job(manifest, wanted, replace(scratched.compute, num_workers=1), machine.limit)
        first = _measured(layout, manifest, *_densest(wanted), scratched, progress)
    devices = (machine.gpus or 1) if machine.gpus is not None and job.devices else len(job.devices)
    owner_bytes = devices * max(job.models.resident_bytes, first.owner_bytes // max(1, len(job.devices)))
    thought = replace(job.demand, owner_bytes=devices * job.models.resident_bytes)
    demand = job.demand.measured(first.worker_bytes, owner_bytes)
    budget = layout_of(demand, _workers(config, thought, demand, machine), machine.limit)
    area_um2 = sum(tile.fat_free_area_um2 for found in wanted.values() for tile in found)
    scale = area_um2 / first.fat_free_area_um2
    cells = {t: round(scale * n) for t, n in first.cells.items()}
    stored_bytes = scale * first.stored_bytes
    plans = [slide.plan for slide in job.slides]
    reading_s = sum(p.decoded_bytes for p in plans) * first.read_s / max(1, first.read_bytes)
    return Forecast(
        slides=len(slide_ids),
        tiles=demand.tiles,
        workers=budget.workers,
        devices=devices,
        batch=job.models.batches("cuda" if _has_gpus(machine, job) else "cpu", _gpu_bytes(machine, job)),
        owner_bytes=owner_bytes,
        too_large=_too_large(machine, job),
        queue=budget.slots - budget.workers,
        read_threads=budget.read_threads,
        peak_bytes=budget.peak_bytes,
        limit_bytes=machine.limit.limit_bytes,
        limit_set_by=machine.limit.set_by,
        cells=cells,
        disk_bytes=round(COPIES * stored_bytes),
        time_s=survey_s + _tiles_s(first, scale, reading_s, budget, machine.cores, devices),
        site_bytes=_site_bytes(config, {t: round(scale * n) for t, n in first.cards.items()}),
        decoded_share=sum(p.decoded_bytes for p in plans) / max(1, sum(p.touched_bytes for p in plans)),
        first_tile=first,
        options=[_option(thought, workers, machine.limit) for workers in NOTED_WORKERS],
    )


def _has_gpus(machine: Machine, job: Job) -> bool:
    return bool(machine.gpus) if machine.gpus is not None else any(name != "cpu" for name in job.devices)


def _too_large(machine: Machine, job: Job) -> list[str]:
    memory_bytes = _gpu_bytes(machine, job)
    return [] if memory_bytes is None else job.models.too_large_for(memory_bytes)


def _gpu_bytes(machine: Machine, job: Job) -> int | None:
    """Memory of the smallest GPU that the models are to be on; None without one or where nothing is known."""
    if not job.models.weights or not _has_gpus(machine, job):
        return None
    if machine.gpu_memory_gb is not None:
        return int(machine.gpu_memory_gb * GB)
    if machine.gpus is not None:
        return None
    here = gpus_here()
    return min(here[int(name.removeprefix("cuda:"))].memory_bytes for name in job.devices if name != "cpu")


def _workers(config: RunConfig, thought: Demand, measured: Demand, machine: Machine) -> int:
    """As `segment` has them: begun with by what is thought, then sized by what is measured.

    Raises:
        UsageError: `segment` would refuse to begin.
    """
    asked = config.compute.num_workers
    begun_with = plan_workers(asked, thought, machine.cores, machine.limit)
    if asked != "auto":
        return begun_with.workers
    with_margin = replace(measured, worker_bytes=int(MEASURED_MARGIN * measured.worker_bytes))
    return best_budget(with_margin, machine.cores, machine.limit).workers


def _tiles_s(
    first: FirstTile, scale: float, reading_s: float, budget: Budget, cores: int, devices: int
) -> float:
    """From the first tile to the last: what is slowest, workers, reading threads, their cores or devices.

    Args:
        scale: all tiles over the first, by what is in them.
        reading_s: of one thread that reads all windows.
    """
    working_s, asking_s = scale * first.seconds, scale * first.models_s
    return max(
        working_s / budget.workers,
        reading_s / budget.read_threads,
        (working_s - asking_s + reading_s) / min(budget.workers + budget.read_threads, cores),
        asking_s / max(1, devices),
    )


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
    share = Share({slide_id: [tile]})
    work = plan_share(layout, manifest, share, compute)
    if work is None:
        raise RuntimeError("a run that was just made has its first tile already")
    read_s, read_bytes = _read(work.slides[0])
    with with_models(work) as job:
        refuse_failures(do_tiles(layout, manifest, share, job, progress))
        owner_bytes = job.owners.peak_bytes if job and job.owners else 0
        device = ", ".join(work.devices)
    path = layout.part(slide_id, tile.tile_id)
    part = tables.read_table(path, manifest.config_hash, columns=["cell_type", "area_um2"])
    facts = next(
        event.facts for journal in read_journals(layout) for event in journal.events if event.name == "done"
    )
    cells, cards = {}, {}
    for cell_type in CELL_TYPES:
        areas = part.filter(pc.equal(part["cell_type"], cell_type))["area_um2"].to_numpy()
        view = config.cells(cell_type).filter
        cells[cell_type] = len(areas)
        cards[cell_type] = int(((areas >= view.min_um2) & (areas <= view.max_um2)).sum())
    return FirstTile(
        tile_id=f"{slide_id}/{tile.tile_id}",
        fat_free_area_um2=max(tile.fat_free_area_um2, 1.0),
        seconds=facts["seconds"],
        models_s=facts.get("models_s", 0.0),
        read_s=read_s,
        read_bytes=read_bytes,
        worker_bytes=facts["peak_bytes"],
        owner_bytes=owner_bytes,
        device=device,
        stored_bytes=path.stat().st_size,
        cells=cells,
        cards=cards,
    )


def _read(slide: SlideReads) -> tuple[float, int]:
    """Seconds of one thread for the first window of a slide, and bytes of pixels decoded."""
    window = slide.visits[0].box
    room = slide.plan.room_bytes
    with WindowStream(slide.path, slide.um_per_px, slide.visits, room_bytes=room, threads=1) as stream:
        begun_s = time.monotonic()
        stream.next_window()
        stream.read_into(np.empty((window.height, window.width, 3), np.uint8))
        return time.monotonic() - begun_s, stream.decoded_bytes


def _site_bytes(config: RunConfig, cards: Mapping[CellType, int]) -> int:
    """The gallery's size; it takes a sample where all cards would be more than the site may hold."""
    all_bytes = sum(CARD_BYTES[t] * n for t, n in cards.items())
    return min(all_bytes, int(config.gallery.max_site_mb * 1_000_000))


def _option(demand: Demand, workers: int, limit: MemoryLimit) -> Option:
    peak_bytes = layout_of(demand, min(workers, demand.tiles), limit).peak_bytes
    return Option(workers, peak_bytes, peak_bytes <= int(SAFE_SHARE * limit.limit_bytes))
