"""What a run will take: workers, memory, time, disk, and the size of its gallery.

One tile was done for real. Its figures are those of this machine, these detectors and this tissue; they are
scaled by the fat-free area of the tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mkhspc.budget.demand import MEASURED_MARGIN, Demand
from mkhspc.budget.workers import Budget, best_budget, layout_of, plan_workers
from mkhspc.config import CellType, RunConfig
from mkhspc.config.limits import Limit
from mkhspc.models.choice import RunModels, gpus_here
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit, memory_limit, usable_cores
from mkhspc.units import GB, MB

CARD_BYTES: Mapping[CellType, int] = {"mk": 8500, "hspc": 2130}
"""Bytes of a gallery for each card, its share of page and picture; measured by `make bench ONLY=gallery`."""
COPIES = 2
"""A cell lies on disk in its tile's part, which makes a run resumable, and in its slide's tables."""
MEMORY_GB = Limit(above=0, unit="GB")
"""The sizes of memory that an option takes, in GB of 10^9 bytes."""
NOTED_WORKERS = (8, 12, 16)
"""The numbers of workers that the lab's notes weighed by hand."""


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
        server_bytes: the most memory of the model servers.
        device: where the models were; empty without any.
        stored_bytes: of the tile's part.
        cells, cards: by type: all stored, and those in the filter.
    """

    tile_id: str
    fat_free_area_um2: float
    seconds: float
    models_s: float
    read_s: float
    read_bytes: int
    worker_bytes: int
    server_bytes: int
    device: str
    stored_bytes: int
    cells: Mapping[CellType, int]
    cards: Mapping[CellType, int]


@dataclass(frozen=True)
class Outline:
    """A run that is planned and not begun, as far as a forecast needs it.

    Attributes:
        config: with what is asked of workers and the gallery.
        demand: of its tiles, as thought before any was done.
        devices: names of those that hold the models here; none without models.
        fat_free_area_um2: of all its tiles together.
        decoded_bytes, touched_bytes: pixels of the sub-blocks that reading its windows decodes, and of those
            that the windows touch.
        survey_s: what finding the tissue took.
    """

    config: RunConfig
    slides: int
    demand: Demand
    models: RunModels
    devices: Sequence[str]
    fat_free_area_um2: float
    decoded_bytes: int
    touched_bytes: int
    survey_s: float


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
    """What a run will take.

    Attributes:
        devices: that hold the models; 0 without any.
        batch: by model, what it gives to a device at once: SAM2 prompts of one window, Cellpose blocks,
            embedders crops. Halved during the run where a device's memory does not do for them.
        owner_bytes: of `peak_bytes`, those of the model servers.
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
        if value is not None:
            MEMORY_GB.check(option, value)
    for option, count, least in (("--cores", cores, 1), ("--gpus", gpus, 0)):
        if count is not None:
            Limit(least=least).check(option, count)
    limit = memory_limit() if memory_gb is None else MemoryLimit(int(memory_gb * GB), "--memory-gb")
    return Machine(cores or usable_cores(), limit, gpus, gpu_memory_gb)


def forecast(run: Outline, first: FirstTile, machine: Machine) -> Forecast:
    """Scales the first tile up to a whole run on a machine.

    Raises:
        UsageError: not even one worker fits the memory.
    """
    devices = (machine.gpus or 1) if machine.gpus is not None and run.devices else len(run.devices)
    server_bytes = devices * max(run.models.resident_bytes, first.server_bytes // max(1, len(run.devices)))
    thought = replace(run.demand, server_bytes=devices * run.models.resident_bytes)
    demand = run.demand.measured(first.worker_bytes, server_bytes)
    budget = layout_of(demand, _workers(run.config, thought, demand, machine), machine.limit)
    scale = run.fat_free_area_um2 / first.fat_free_area_um2
    reading_s = run.decoded_bytes * first.read_s / max(1, first.read_bytes)
    gpu_bytes = _gpu_bytes(machine, run)
    return Forecast(
        slides=run.slides,
        tiles=demand.tiles,
        workers=budget.workers,
        devices=devices,
        batch=run.models.batches("cuda" if _has_gpus(machine, run) else "cpu", gpu_bytes),
        owner_bytes=server_bytes,
        too_large=[] if gpu_bytes is None else run.models.too_large_for(gpu_bytes),
        queue=budget.slots - budget.workers,
        read_threads=budget.read_threads,
        peak_bytes=budget.peak_bytes,
        limit_bytes=machine.limit.limit_bytes,
        limit_set_by=machine.limit.set_by,
        cells={t: round(scale * n) for t, n in first.cells.items()},
        disk_bytes=round(COPIES * scale * first.stored_bytes),
        time_s=run.survey_s + _tiles_s(first, scale, reading_s, budget, machine.cores, devices),
        site_bytes=_site_bytes(run.config, {t: round(scale * n) for t, n in first.cards.items()}),
        decoded_share=run.decoded_bytes / max(1, run.touched_bytes),
        first_tile=first,
        options=[_option(thought, workers, machine.limit) for workers in NOTED_WORKERS],
    )


def _has_gpus(machine: Machine, run: Outline) -> bool:
    return bool(machine.gpus) if machine.gpus is not None else any(name != "cpu" for name in run.devices)


def _gpu_bytes(machine: Machine, run: Outline) -> int | None:
    """Memory of the smallest GPU that the models are to be on; None without one or where nothing is known."""
    if not run.models.weights or not _has_gpus(machine, run):
        return None
    if machine.gpu_memory_gb is not None:
        return int(machine.gpu_memory_gb * GB)
    if machine.gpus is not None:
        return None
    here = gpus_here()
    return min(here[int(name.removeprefix("cuda:"))].memory_bytes for name in run.devices if name != "cpu")


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


def _site_bytes(config: RunConfig, cards: Mapping[CellType, int]) -> int:
    """The gallery's size; it takes a sample where all cards would be more than the site may hold."""
    all_bytes = sum(CARD_BYTES[t] * n for t, n in cards.items())
    return min(all_bytes, int(config.gallery.max_site_mb * MB))


def _option(demand: Demand, workers: int, limit: MemoryLimit) -> Option:
    peak_bytes = layout_of(demand, min(workers, demand.tiles), limit).peak_bytes
    return Option(workers, peak_bytes, peak_bytes <= int(SAFE_SHARE * limit.limit_bytes))
