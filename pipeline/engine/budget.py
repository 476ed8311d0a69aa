"""How many workers fit: a bound on memory, known before any work begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.engine.workers import usable_cores
from pipeline.errors import UsageError

GB = 1_000_000_000
PARENT_BYTES = 500_000_000
"""The parent process while it surveys a slide or merges."""
WORKER_BYTES = 350_000_000
"""A worker with its libraries loaded and no tile."""
WINDOW_BYTES_PER_PX = 30
"""Peak of reading, detecting and measuring a window, measured on marrow (`make bench ONLY=engine`)."""


@dataclass(frozen=True)
class Budget:
    """Workers and the memory they were planned with."""

    workers: int
    worker_bytes: int
    limit_bytes: int


def memory_limit_bytes(memory_gb: float | None) -> int:
    """The limit the user gave, else that of the control group, else the machine's memory."""
    if memory_gb is not None:
        return int(memory_gb * GB)
    limits = [_machine_bytes()]
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists() and path.read_text().strip().isdigit():
            limits.append(int(path.read_text()))
    return min(limits)


def _machine_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise UsageError("the machine's memory is unknown", fix="give it with --memory-gb")


def plan_workers(asked: int | Literal["auto"], window_px: int, tiles: int, memory_gb: float | None) -> Budget:
    """Chooses the number of worker processes.

    Args:
        window_px: pixels of the largest window a worker reads.
        tiles: tiles left to do; more workers than tiles are no use.

    Raises:
        UsageError: not even one worker fits, or not as many as were asked for.
    """
    limit = memory_limit_bytes(memory_gb)
    worker_bytes = WORKER_BYTES + WINDOW_BYTES_PER_PX * window_px
    fitting = (limit - PARENT_BYTES) // worker_bytes
    wanted = 1 if asked == "auto" else asked
    if fitting < wanted:
        needed_gb = (PARENT_BYTES + wanted * worker_bytes) / GB
        raise UsageError(
            f"{wanted} worker{'s' if wanted > 1 else ''} would need {needed_gb:.1f} GB of memory and"
            f" the limit is {limit / GB:.1f} GB",
            fix="give fewer --num-workers, a smaller --tile-size (in a new run) or more memory",
        )
    if asked == "auto":
        wanted = max(1, min(usable_cores(), fitting, tiles))
    return Budget(min(wanted, max(1, tiles)), worker_bytes, limit)
