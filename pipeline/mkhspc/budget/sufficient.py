"""How much memory is enough for a run, whichever tiles are chosen; known before any slide is surveyed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from mkhspc.budget.demand import WORKER_BYTES, Demand, room_bytes
from mkhspc.budget.survey_memory import ImageSizes, mask_px, survey_bytes
from mkhspc.budget.workers import PARENT_BYTES, layout_of, limit_gb_for
from mkhspc.detect.classical.mk import block_count
from mkhspc.errors import UsageError
from mkhspc.measure.analysis import analysis_of
from mkhspc.measure.deep import column_names
from mkhspc.models.choice import RunModels
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit
from mkhspc.slide.czi.directory import read_directory
from mkhspc.store.manifest import Manifest, SlideEntry
from mkhspc.units import GB


def sufficient_memory_gb(
    manifest: Manifest,
    workers: int,
    images: Sequence[ImageSizes] | None = None,
    *,
    servers: int,
    room_wanted: int = 0,
) -> int:
    """The least memory, in whole GB, in which so many workers can be kept busy on any slide of a run.

    Args:
        servers: processes that hold the models, one a device.
        images: `images_of` the run, if they are known.
        room_wanted: bytes of decoded images that it must be able to keep.
    """
    run, models = manifest.config.run, RunModels.of(manifest.config)
    analysis = analysis_of(manifest, models)
    halo_px = max(analysis.halo_px(slide.um_per_px) for slide in manifest.slides)
    near_halo_px = max(analysis.near_halo_px(slide.um_per_px) for slide in manifest.slides)
    window_px, near_px = ((run.tile_size + 2 * px) ** 2 for px in (halo_px, near_halo_px))
    blocks = max(block_count(window_px, slide.um_per_px) for slide in manifest.slides)
    largest_mask_px = max(map(mask_px, manifest.slides))
    images = images_of(manifest) if images is None else images
    block_bytes = max(found.unpacked_bytes for found in images)
    planning_bytes = max(
        survey_bytes(slide, run.calibration_samples, found)
        for slide, found in zip(manifest.slides, images, strict=True)
    )

    def is_enough(limit: MemoryLimit) -> bool:
        room = room_bytes(limit.limit_bytes)
        if room < room_wanted:
            return False
        demand = Demand(
            2 * workers,
            window_px,
            room,
            block_bytes,
            mask_px=largest_mask_px,
            server_bytes=servers * models.resident_bytes,
            message_bytes=max(analysis.message_bytes(slide.um_per_px) for slide in manifest.slides),
            deep_columns=len(column_names(manifest.config.compute.embedders)),
            near_px=near_px,
            blocks=blocks,
        )
        working_bytes = layout_of(demand, workers, limit).peak_bytes
        return max(planning_bytes, working_bytes) <= SAFE_SHARE * limit.limit_bytes

    return next(gb for gb in count(1) if is_enough(MemoryLimit(gb * GB, "its size")))


def refuse_shortage(
    slides: Sequence[SlideEntry], manifest: Manifest, limit: MemoryLimit, servers: int
) -> None:
    """Stops a run that could not plan the tiles of these slides, or not do the smallest of them.

    Args:
        slides: of the run, that have no tile plan yet.
        servers: processes that hold the models, one a device.

    Raises:
        UsageError: names the memory needed at least, and one that is enough for any of the tiles.
    """
    samples = manifest.config.run.calibration_samples
    surveys_bytes = (survey_bytes(slide, samples, image_sizes(slide)) for slide in slides)
    needed_bytes = max([PARENT_BYTES + WORKER_BYTES, *surveys_bytes])
    if slides and needed_bytes > SAFE_SHARE * limit.limit_bytes:
        enough_gb = sufficient_memory_gb(manifest, 1, servers=servers)
        raise UsageError(
            f"the run needs at least {limit_gb_for(needed_bytes):.1f} GB of memory"
            f" and the limit is {limit.limit_bytes / GB:.3g} GB, set by {limit.set_by}",
            fix=f"give it more memory: {enough_gb} GB will do",
        )


def images_of(manifest: Manifest) -> list[ImageSizes]:
    """What the images of each slide of a run take while they are read."""
    return [image_sizes(slide) for slide in manifest.slides]


def image_sizes(slide: SlideEntry) -> ImageSizes:
    """What the images of a slide take while they are read, from its directory."""
    return ImageSizes.of(read_directory(Path(slide.path)), slide.um_per_px)
