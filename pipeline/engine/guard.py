"""Memory watched while a run goes on: the pool shrinks before the limit, never after."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.engine.journal import TileWatch
from pipeline.engine.limits import MemoryLimit
from pipeline.engine.memory import tree_rss_bytes
from pipeline.engine.workers import Pool

MEMORY_LOOK_S = 1.0
NEAR_LIMIT = 0.92
"""Share of the memory limit above which the pool loses a worker."""


@dataclass
class MemoryGuard:
    """Takes workers away before the processes' memory reaches the limit, one at a time.

    Attributes:
        now_bytes: measures the memory of all processes.
        most_workers: that may be there; a worker that was taken away does not come back.
    """

    pool: Pool
    limit: MemoryLimit
    watch: TileWatch
    now_bytes: Callable[[], int] = tree_rss_bytes
    most_workers: int = sys.maxsize
    _looked_s: float = field(default=-math.inf)

    def look(self) -> None:
        """Measures, at most once a second, and acts."""
        if time.monotonic() - self._looked_s < MEMORY_LOOK_S:
            return
        now_bytes = self.now_bytes()
        self._looked_s = time.monotonic()
        if now_bytes > NEAR_LIMIT * self.limit.limit_bytes and self.pool.workers == self.pool.size > 1:
            self.pool.size -= 1
            self.most_workers = self.pool.size
        self.watch.memory(now_bytes, self.pool.workers)
