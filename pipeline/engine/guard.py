"""Memory watched while a run goes on: the pool shrinks before the limit, never after."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.engine.journal import TileWatch
from pipeline.engine.limits import MemoryLimit, machine_free_share
from pipeline.engine.memory import tree_rss_bytes
from pipeline.engine.workers import Pool

MEMORY_LOOK_S = 1.0
WATCHED, NEAR, LAST = 0.85, 0.92, 0.97
"""Shares of the limit. Above the first memory is looked at whenever the pool looks around. Where it will be
above the second at the next look, if it goes on as since the last one, no tile is begun while another is
under way, and the pool loses a worker. Where it will be above the last, the tile begun last is given up, to
be done again later, before the kernel or Slurm kills what it likes."""
LEAST_FREE, LAST_FREE = 0.03, 0.015
"""Shares of the machine's memory: with less than the first left free, by whatever programs, it is as above
`NEAR`; with less than the last, as above `LAST`."""


@dataclass
class MemoryGuard:
    """Takes workers away before the processes' memory reaches the limit, one at a time.

    Attributes:
        now_bytes: measures the memory of all processes.
        free_share: measures the share of the machine's memory that is free.
        most_workers: that may be there; a worker that was taken away does not come back.
    """

    pool: Pool
    limit: MemoryLimit
    watch: TileWatch
    now_bytes: Callable[[], int] = tree_rss_bytes
    free_share: Callable[[], float] = machine_free_share
    most_workers: int = sys.maxsize
    _looked_s: float = field(default=-math.inf)
    _now_share: float = 0.0

    def look(self) -> None:
        """Measures, at most once a second unless memory is getting short, and acts."""
        if self._now_share < WATCHED and time.monotonic() - self._looked_s < MEMORY_LOOK_S:
            return
        now_bytes, free_share = self.now_bytes(), self.free_share()
        self._looked_s = time.monotonic()
        next_share = self._next_share(now_bytes / self.limit.limit_bytes)
        self.pool.is_short = next_share > NEAR or free_share < LEAST_FREE
        if self.pool.is_short and self.pool.workers == self.pool.size > 1:
            self.pool.size -= 1
            self.most_workers = self.pool.size
        if next_share > LAST or free_share < LAST_FREE:
            self._give_up_one()
        self.watch.memory(now_bytes, self.pool.workers)

    def _next_share(self, now_share: float) -> float:
        """What the next look will find, unless memory stops growing; never less than now."""
        growth = now_share - self._now_share if self._now_share >= WATCHED else 0.0
        self._now_share = now_share
        return now_share + max(0.0, growth)

    def _give_up_one(self) -> None:
        task = self.pool.give_up_newest()
        if task is not None:
            self.watch.retried(task.slide_id, task.tile_id, "given up for now: memory was nearly used up")
