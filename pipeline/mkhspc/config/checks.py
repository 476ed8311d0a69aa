"""Values that no run could have are refused, with those that it could."""

from __future__ import annotations

import math
import re

from mkhspc.config.schema import (
    CELL_TYPES,
    DETECTORS,
    EMBEDDERS,
    NO_EMBEDDER,
    ORDERS,
    AreaRange,
    CellType,
    ComputeSection,
    GallerySection,
    RunConfig,
    SlurmSection,
)
from mkhspc.errors import UsageError

DEVICE = r"auto|cpu|cuda(:\d+)?"


def check(config: RunConfig) -> None:
    """Raises `UsageError` for a value that no run could have."""
    run = config.run
    _demand(
        0.0 < run.sample_fraction <= 1.0,
        "run.sample_fraction",
        run.sample_fraction,
        "a fraction above 0 and at most 1, such as 0.02",
    )
    _demand(256 <= run.tile_size <= 65536, "run.tile_size", run.tile_size, "256 to 65536 pixels")
    _demand(
        run.calibration_samples >= 1, "run.calibration_samples", run.calibration_samples, "at least 1 window"
    )
    if run.um_per_px is not None:
        check_um_per_px(run.um_per_px, "run.um_per_px")
    for cell_type in CELL_TYPES:
        check_area_range(config.cells(cell_type).filter, cell_type)
        detectors = ("auto", *DETECTORS[cell_type])
        _demand_one_of(detectors, f"{cell_type}.detector", config.cells(cell_type).detector)
    _check_compute(config.compute)
    _check_gallery(config.gallery)
    _check_slurm(config.slurm)


def _check_compute(compute: ComputeSection) -> None:
    workers, memory_gb = compute.num_workers, compute.memory_gb
    _demand(workers == "auto" or workers >= 1, "compute.num_workers", workers, "1 or more, or 'auto'")
    _demand(memory_gb is None or memory_gb > 0, "compute.memory_gb", memory_gb, "a size above 0 GB")
    _demand(
        all(re.fullmatch(DEVICE, name.strip()) for name in compute.device.split(",")),
        "compute.device",
        compute.device,
        "auto, cpu, cuda, cuda:0, or several GPUs with commas between",
    )
    for name in compute.embedder.split(","):
        _demand_one_of((NO_EMBEDDER, *EMBEDDERS), "compute.embedder", name.strip())


def _check_gallery(gallery: GallerySection) -> None:
    _demand(gallery.cards_per_page >= 1, "gallery.cards_per_page", gallery.cards_per_page, "1 or more")
    _demand(gallery.max_site_mb > 0, "gallery.max_site_mb", gallery.max_site_mb, "a size above 0 MB")
    _demand_one_of(ORDERS, "gallery.order", gallery.order)


def _check_slurm(slurm: SlurmSection) -> None:
    for name, least in (("shards_per_slide", 1), ("time_min", 1), ("gpus", 0)):
        value = getattr(slurm, name)
        _demand(value >= least, f"slurm.{name}", value, f"{least} or more")
    _demand(slurm.cpus == "auto" or slurm.cpus >= 1, "slurm.cpus", slurm.cpus, "1 or more, or 'auto'")
    memory_gb = slurm.memory_gb
    _demand(
        memory_gb == "auto" or memory_gb > 0, "slurm.memory_gb", memory_gb, "a size above 0 GB, or 'auto'"
    )


def check_um_per_px(um_per_px: float, where: object) -> None:
    """A pixel size outside 0.02 to 20 µm is no light microscope's slide scan."""
    _demand(0.02 <= um_per_px <= 20.0, where, um_per_px, "a pixel size of 0.02 to 20 µm")


def check_area_range(area: AreaRange, cell_type: CellType) -> None:
    """Raises `UsageError` unless 0 < min < max, both finite."""
    _demand(area.min_um2 > 0, f"{cell_type}.min_area_um2", area.min_um2, "an area above 0 µm²")
    _demand(
        area.max_um2 > area.min_um2,
        f"{cell_type}.max_area_um2",
        area.max_um2,
        f"an area above the minimum of {area.min_um2:g} µm²",
    )


def _demand(fine: bool, where: object, value: object, takes: str) -> None:
    if not fine or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{value!r} is out of range", where=where, fix=f"it takes {takes}")


def _demand_one_of(names: tuple[str, ...], where: str, value: str) -> None:
    _demand(value in names, where, value, " or ".join(names))
