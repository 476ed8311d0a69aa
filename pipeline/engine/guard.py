"""Memory watched while a run goes on: the pool shrinks before the limit, never after."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.engine.budget import SAFE_SHARE
from pipeline.engine.journal import TileWatch
from pipeline.engine.limits import MemoryLimit, machine_free_share
from pipeline.engine.memory import tree_rss_bytes
from pipeline.engine.workers import TICK_S, Pool

MEMORY_LOOK_S = 1.0
WATCHED, NEAR, LAST = 0.85, SAFE_SHARE, 0.98
"""Shares of the limit. Above the first memory is looked at whenever the pool looks around. Where it will be
above the second, which no plan is, when the pool looks around again, no tile is begun while another is under
way; where it is, the pool loses a worker; and where it is and will be above the last, the tile begun last is
given up, to be done again later, before the kernel or Slurm kills what it likes."""
LEAST_FREE = 0.03
"""Share of the machine's memory: with less left, by whatever programs, no tile is begun while another is
under way, until there is more again."""


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
        passed_s = time.monotonic() - self._looked_s
        if passed_s < (TICK_S / 2 if self._now_share >= WATCHED else MEMORY_LOOK_S):
            return
        now_bytes = self.now_bytes()
        now_share = now_bytes / self.limit.limit_bytes
        growth = (now_share - self._now_share) / passed_s if self._now_share >= WATCHED else 0.0
        next_share = now_share + max(0.0, growth) * TICK_S
        self._looked_s, self._now_share = time.monotonic(), now_share
        self.pool.is_short = next_share > NEAR or self.free_share() < LEAST_FREE
        if now_share > NEAR and self.pool.workers == self.pool.size > 1:
            self.pool.size -= 1
            self.most_workers = self.pool.size
        if now_share > NEAR and next_share > LAST:
            self._put_off_one()
        self.watch.memory(now_bytes, self.pool.workers)

    def _put_off_one(self) -> None:
        task = self.pool.give_up_newest()
        if task is not None:
            self.watch.put_off(task.slide_id, task.tile_id)
