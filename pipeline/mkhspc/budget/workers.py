"""How many workers fit into a limit of memory, known before any work begins.

Memory is counted as Slurm counts it, the sum of what each process has in memory, so that a window
shared by two processes counts twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mkhspc.budget.demand import Demand
from mkhspc.errors import UsageError
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit
from mkhspc.slide.czi.stream import AHEAD_PER_THREAD
from mkhspc.units import GB

PARENT_BYTES = 165_000_000
"""Bytes of the first process with its libraries and plans, without windows and sub-blocks, and of the process
that multiprocessing keeps beside it; measured on dense marrow."""
SHARE_OF_OTHERS = 0.9
"""While one worker needs its most, each of the others has this share of that: measured with two workers on 64
tiles of dense marrow."""
TILES_PER_READ_THREAD = 4
"""One reading thread keeps so many workers busy, even with JPEG-XR, which decodes slowest."""


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


def limit_gb_for(peak_bytes: int) -> float:
    """The limit under which so much may be planned with, in GB, rounded up to a tenth."""
    return math.ceil(10 * peak_bytes / SAFE_SHARE / GB) / 10


def layout_of(demand: Demand, workers: int, limit: MemoryLimit) -> Budget:
    """The budget of so many workers, whether it fits or not."""
    threads = max(demand.read_threads, math.ceil(workers / TILES_PER_READ_THREAD))
    slots = min(demand.tiles, workers + threads)
    blocks_ahead = (AHEAD_PER_THREAD + 4) * threads  # one under way, with what the decoder needs besides
    peak = (
        PARENT_BYTES
        + demand.server_bytes
        + (workers * demand.message_bytes if demand.server_bytes else 0)
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
    needed_gb = limit_gb_for(layout_of(demand, least, limit).peak_bytes)
    fewer = "fewer --num-workers, " if fitting else ""
    raise UsageError(
        f"{least} worker{'s' if least > 1 else ''} would need {needed_gb:.1f} GB of memory"
        f" and the limit is {limit.limit_bytes / GB:.3g} GB, set by {limit.set_by}",
        fix=f"give {fewer}more memory, or a smaller --tile-size in a new run",
    )


def best_budget(measured: Demand, most_workers: int, limit: MemoryLimit) -> Budget:
    """As many workers as fit, of whom it is known what they need."""
    try:
        return plan_workers("auto", measured, most_workers, limit)
    except UsageError:  # it is more than was thought: one worker, and the guard watches
        return layout_of(measured, 1, limit)
