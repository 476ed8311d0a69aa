"""How many workers fit: a bound on memory, known before any work begins.

Memory is counted as Slurm counts it, the sum of what each process has in memory, so that a window
shared by two processes counts twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.engine.limits import GB, MemoryLimit
from pipeline.errors import UsageError
from pipeline.slide.stream import AHEAD_PER_THREAD

PARENT_BYTES = 200_000_000
"""The first process with its libraries and plans, windows and sub-blocks left out."""
WORKER_BYTES = 130_000_000
"""A worker with its libraries loaded and no tile."""
WINDOW_BYTES_PER_PX = 20
"""What a worker needs for each pixel of its window, pixels included: measured on dense marrow at 12 and
34 million pixels, and rounded up. The first tile that is done puts the run's own figure in its place."""
MEASURED_MARGIN = 1.1
"""Over what a worker was seen to need, for tiles with more cells."""
SAFE_SHARE = 0.95
"""Of the limit, that is planned with."""
TILES_PER_READ_THREAD = 4
"""Workers that one thread keeps in windows, even of JPEG-XR, which decodes slowest."""
ROOM_SHARE = 1 / 16
"""Of the limit, for decoded sub-blocks that a later window needs ..."""
ROOM_BYTES = (64_000_000, 1_000_000_000)
"""... but no less and no more than this."""


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
        held_bytes: decoded sub-blocks kept for later windows, at most.
        block_bytes: of the largest sub-block.
        worker_bytes: of one worker at work on the largest window.
    """

    tiles: int
    window_px: int
    held_bytes: int
    block_bytes: int
    worker_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.worker_bytes:
            object.__setattr__(self, "worker_bytes", WORKER_BYTES + WINDOW_BYTES_PER_PX * self.window_px)

    @property
    def slot_bytes(self) -> int:
        return 3 * self.window_px

    def measured(self, worker_bytes: int) -> Demand:
        """The same with the most that a worker was seen to have."""
        return replace(self, worker_bytes=worker_bytes)


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


def layout_of(demand: Demand, workers: int, limit: MemoryLimit) -> Budget:
    """The budget of so many workers, whether it fits or not."""
    threads = max(1, math.ceil(workers / TILES_PER_READ_THREAD))
    slots = min(demand.tiles, workers + threads)
    blocks_ahead = (AHEAD_PER_THREAD + 1) * threads
    peak = (
        PARENT_BYTES
        + demand.held_bytes
        + blocks_ahead * demand.block_bytes
        + slots * demand.slot_bytes
        + workers * demand.worker_bytes
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
    needed_gb = math.ceil(10 * layout_of(demand, least, limit).peak_bytes / SAFE_SHARE / GB) / 10
    raise UsageError(
        f"{least} worker{'s' if least > 1 else ''} would need {needed_gb:.1f} GB of memory"
        f" and the limit is {limit.limit_bytes / GB:.1f} GB, set by {limit.set_by}",
        fix="give fewer --num-workers, a smaller --tile-size (in a new run) or more memory",
    )
