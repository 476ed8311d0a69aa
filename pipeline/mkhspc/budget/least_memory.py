"""How much memory is enough for a run, whichever tiles are chosen: told before any slide is surveyed."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from mkhspc.budget.demand import Demand, layout_of, mask_px, room_bytes, survey_bytes
from mkhspc.config import RunConfig
from mkhspc.detect.classical.mk import block_count
from mkhspc.measure.analysis import analysis_of
from mkhspc.measure.deep import column_names
from mkhspc.models.choice import RunModels
from mkhspc.process.limits import GB, SAFE_SHARE, MemoryLimit
from mkhspc.slide.czi.directory import read_directory
from mkhspc.store.manifest import Manifest


def memory_gb(
    config: RunConfig,
    manifest: Manifest,
    workers: int,
    block_bytes: int | None = None,
    *,
    owners: int,
    room_wanted: int = 0,
) -> int:
    """The least memory, in whole GB, in which so many workers can be kept busy on any slide of a run.

    Args:
        owners: processes that own the models, one a device.
        block_bytes: of the largest image of all slides, if it is known.
        room_wanted: bytes of decoded images that it must be able to keep.
    """
    models = RunModels.of(manifest.config)
    analysis = analysis_of(manifest, models)
    halo_px = max(analysis.halo_px(slide.um_per_px) for slide in manifest.slides)
    near_halo_px = max(analysis.near_halo_px(slide.um_per_px) for slide in manifest.slides)
    window_px, near_px = ((config.run.tile_size + 2 * px) ** 2 for px in (halo_px, near_halo_px))
    blocks = max(block_count(window_px, slide.um_per_px) for slide in manifest.slides)
    largest_mask_px = max(map(mask_px, manifest.slides))
    block_bytes = largest_block_bytes(manifest) if block_bytes is None else block_bytes
    planning_bytes = max(survey_bytes(slide, config.run.calibration_samples) for slide in manifest.slides)

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
            owner_bytes=owners * models.resident_bytes,
            message_bytes=max(analysis.message_bytes(slide.um_per_px) for slide in manifest.slides),
            deep_columns=len(column_names(manifest.config.compute.embedders)),
            near_px=near_px,
            blocks=blocks,
        )
        working_bytes = layout_of(demand, workers, limit).peak_bytes
        return max(planning_bytes, working_bytes) <= SAFE_SHARE * limit.limit_bytes

    return next(gb for gb in count(1) if is_enough(MemoryLimit(gb * GB, "its size")))


def largest_block_bytes(manifest: Manifest) -> int:
    """Of all slides' images as they are when decoded, told by their directories."""
    blocks = (block for slide in manifest.slides for block in read_directory(Path(slide.path)).level_0)
    return max(3 * block.stored_width_px * block.stored_height_px for block in blocks)
