"""How many workers fit: a bound on memory, known before any work begins.

Memory is counted as Slurm counts it, the sum of what each process has in memory, so that a window
shared by two processes counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mkhspc.errors import UsageError
from mkhspc.models.service import MESSAGE_BYTES
from mkhspc.process.limits import GB, SAFE_SHARE, MemoryLimit
from mkhspc.slide.calibration import CALIBRATION_WINDOW_UM
from mkhspc.slide.czi.stream import AHEAD_PER_THREAD
from mkhspc.slide.tissue import mask_factor
from mkhspc.store.manifest import SlideEntry

PARENT_BYTES = 165_000_000
"""The first process with its libraries and plans, windows and sub-blocks left out; with the process that
multiprocessing keeps beside it."""
WORKER_BYTES = 150_000_000
"""A worker with its libraries loaded and no tile."""
PLAN_BYTES_PER_PX = 3
"""What a worker holds for each pixel of a slide's tissue masks: two masks, and they come packed."""
RGB_BYTES_PER_PX = 3
"""What a worker needs for each pixel of its window, ..."""
HSPC_BYTES_PER_NEAR_PX = 7
"""... for each pixel near to its core (`TileAnalysis.near_halo_px`) while it finds HSPC ..."""
MK_BYTES_PER_NEAR_PX, MK_BYTES_PER_BLOCK = 4, 8
"""... and for these and each block of the window while it finds MK, which from 0.3 µm on are its pixels, and
whose images then are most. Measured on dense marrow at 0.22, 0.3 and 0.5 µm, and rounded up. The tiles that
are done put the run's own figure in its place."""
DEEP_BYTES_PER_PX = 3 * 4 * 10_000 / 4096**2
"""For each deep feature: three copies of a number of 4 bytes for each of 10,000 cells in a dense tile."""
SHARE_OF_OTHERS = 0.9
"""Of the most that a worker needs: what each of the others has while one has that, as two workers had on 64
tiles of dense marrow."""
MEASURED_MARGIN = 1.1
"""Over what a worker was seen to need, for tiles with more cells."""
SURVEY_BYTES = 190_000_000
"""The first process with its libraries and a sub-block under its hands, before there are workers."""
MASK_BYTES_PER_PX = 28
"""What finding the tissue of a scene takes for each pixel of its mask ..."""
HELD_MASK_BYTES_PER_PX = 20
"""... and what is held of every scene's while the stains are calibrated."""
SAMPLE_BYTES_PER_PX, MOST_SAMPLED_PX = 52, 4_500_000
"""Calibration works on a sample of its windows' pixels that is never larger than this. Both kinds are
measured on 4, 67 and 1,074 million pixels of dense marrow, and on masks of up to 67 million."""
TILES_PER_READ_THREAD = 4
"""Workers that one thread keeps in windows, even of JPEG-XR, which decodes slowest."""
ROOM_SHARE = 0.15
"""Of the limit, for decoded sub-blocks that a later window needs ..."""
ROOM_BYTES = (64_000_000, 1_000_000_000)
"""... but no less and no more than this. 600 MB, which a limit of 4 GB gives, do for a slide of 20 Gpx in
tiles of 4096 px: what is touched is decoded 1.10 times."""


def room_bytes(limit_bytes: int) -> int:
    """How much may be kept of decoded sub-blocks."""
    least, most = ROOM_BYTES
    return max(least, min(most, int(ROOM_SHARE * limit_bytes)))


@dataclass(frozen=True)
class Demand:
    """What the tiles of a run ask of memory.

    Attributes:
        tiles: left to do.
        window_px: of the largest window.
        near_px: of it, those near to the core; all unless said.
        blocks: of it, in which MK are sought.
        held_bytes: decoded sub-blocks kept for later windows, at most.
        block_bytes: of the largest sub-block.
        mask_px: of the tissue masks of the slide that has most.
        worker_bytes: of one worker at work on the largest window.
        owner_bytes: of all model servers together.
        message_bytes: of the largest message between a worker and a model server.
        deep_columns: features of each cell that networks give.
        read_threads: that read already, and stay.
    """

    tiles: int
    window_px: int
    held_bytes: int
    block_bytes: int
    mask_px: int = 0
    worker_bytes: int = 0
    owner_bytes: int = 0
    message_bytes: int = MESSAGE_BYTES
    deep_columns: int = 0
    near_px: int | None = None
    blocks: int = 0
    read_threads: int = 1

    def __post_init__(self) -> None:
        if not self.worker_bytes:
            near_px = self.window_px if self.near_px is None else self.near_px
            finding_bytes = max(
                HSPC_BYTES_PER_NEAR_PX * near_px,
                MK_BYTES_PER_NEAR_PX * near_px + MK_BYTES_PER_BLOCK * self.blocks,
            )
            work_bytes = (
                RGB_BYTES_PER_PX * self.window_px
                + finding_bytes
                + DEEP_BYTES_PER_PX * self.deep_columns * near_px
                + PLAN_BYTES_PER_PX * self.mask_px
            )
            object.__setattr__(self, "worker_bytes", WORKER_BYTES + round(work_bytes))

    @property
    def slot_bytes(self) -> int:
        return 3 * self.window_px

    def measured(self, worker_bytes: int, owner_bytes: int, read_threads: int = 1) -> Demand:
        """The same with the most that a worker, and all model servers together, were seen to take."""
        return replace(self, worker_bytes=worker_bytes, owner_bytes=owner_bytes, read_threads=read_threads)


@dataclass(frozen=True)
class Budget:
    """How a run is laid out in memory.

    Attributes:
        peak_bytes: what all processes together are expected to need at most.
    """

    workers: int
    slots: int
    read_threads: int
    peak_bytes: int
    limit: MemoryLimit


def mask_px(slide: SlideEntry) -> int:
    """Pixels of the tissue masks of all scenes of a slide."""
    return sum(_masks_px(slide))


def _masks_px(slide: SlideEntry) -> list[int]:
    factor = mask_factor(slide.um_per_px)
    return [math.ceil(s.width_px / factor) * math.ceil(s.height_px / factor) for s in slide.scenes]


def survey_bytes(slide: SlideEntry, calibration_samples: int) -> int:
    """The most that planning the tiles of a slide takes, known before a pixel is read."""
    masks_px = _masks_px(slide)
    window_px = round(CALIBRATION_WINDOW_UM / slide.um_per_px) ** 2
    largest_px = max(scene.width_px * scene.height_px for scene in slide.scenes)
    windows_px = min(calibration_samples * window_px, max(window_px, largest_px))
    sample_bytes = SAMPLE_BYTES_PER_PX * min(windows_px, MOST_SAMPLED_PX)
    tissue_bytes = MASK_BYTES_PER_PX * max(masks_px)
    stain_bytes = HELD_MASK_BYTES_PER_PX * sum(masks_px) + 3 * windows_px + sample_bytes
    return SURVEY_BYTES + max(tissue_bytes, stain_bytes)


def refuse_survey(
    slides: Iterable[SlideEntry],
    calibration_samples: int,
    limit: MemoryLimit,
    enough_gb: Callable[[], float] | None = None,
) -> None:
    """Stops a run that could not plan these slides' tiles, or not do the smallest of them.

    Args:
        enough_gb: says what would do for any of their tiles, which no survey has chosen yet.

    Raises:
        UsageError: with the memory needed at least.
    """
    surveys = [survey_bytes(slide, calibration_samples) for slide in slides]
    if not surveys:
        return
    least_bytes = max(*surveys, PARENT_BYTES + WORKER_BYTES)
    if least_bytes > SAFE_SHARE * limit.limit_bytes:
        raise UsageError(
            f"the run needs at least {_gb_needed(least_bytes):.1f} GB of memory"
            f" and the limit is {limit.limit_bytes / GB:.3g} GB, set by {limit.set_by}",
            fix="give it more memory" + (f": {enough_gb():g} GB will do" if enough_gb else ""),
        )


def _gb_needed(peak_bytes: int) -> float:
    """The limit under which so much may be planned with, in GB, rounded up to a tenth."""
    return math.ceil(10 * peak_bytes / SAFE_SHARE / GB) / 10


def layout_of(demand: Demand, workers: int, limit: MemoryLimit) -> Budget:
    """The budget of so many workers, whether it fits or not."""
    threads = max(demand.read_threads, math.ceil(workers / TILES_PER_READ_THREAD))
    slots = min(demand.tiles, workers + threads)
    blocks_ahead = (AHEAD_PER_THREAD + 4) * threads  # one under way, with what the decoder needs besides
    peak = (
        PARENT_BYTES
        + demand.owner_bytes
        + (workers * demand.message_bytes if demand.owner_bytes else 0)
        + demand.held_bytes
        + blocks_ahead * demand.block_bytes
        + slots * demand.slot_bytes
        + round((1 + SHARE_OF_OTHERS * (workers - 1)) * demand.worker_bytes)
    )
    return Budget(workers, slots, threads, peak, limit)


def plan_workers(asked: int | Literal["auto"], demand: Demand, cores: int, limit: MemoryLimit) -> Budget:
    """Chooses the number of worker processes.

    Args:
        cores: no more workers than these with 'auto'; the threads that read share them.

    Raises:
        UsageError: not even one worker fits, or not as many as were asked for.
    """
    most = max(1, demand.tiles)
    wanted = min(cores if asked == "auto" else asked, most)
    allowed_bytes = int(SAFE_SHARE * limit.limit_bytes)
    fitting = [n for n in range(1, wanted + 1) if layout_of(demand, n, limit).peak_bytes <= allowed_bytes]
    if fitting and (asked == "auto" or fitting[-1] == wanted):
        return layout_of(demand, fitting[-1], limit)
    least = 1 if asked == "auto" else wanted
    needed_gb = _gb_needed(layout_of(demand, least, limit).peak_bytes)
    fewer = "fewer --num-workers, " if fitting else ""
    raise UsageError(
        f"{least} worker{'s' if least > 1 else ''} would need {needed_gb:.1f} GB of memory"
        f" and the limit is {limit.limit_bytes / GB:.3g} GB, set by {limit.set_by}",
        fix=f"give {fewer}more memory, or a smaller --tile-size in a new run",
    )
