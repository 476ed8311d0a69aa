"""Memory watched while a run goes on: the pool shrinks before the limit, never after."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mkhspc.budget.demand import SAFE_SHARE
from mkhspc.cluster.journal import TileWatch
from mkhspc.pool.pool import TICK_S, Pool
from mkhspc.process.limits import MemoryLimit, machine_free_share
from mkhspc.process.memory import tree_rss_bytes

MEMORY_LOOK_S = 1.0
SECOND_LOOK_S = 0.01
CLOSE_LOOK_S = 0.1
WATCHED, NEAR, LAST = 0.85, SAFE_SHARE, 0.98
"""Shares of the limit. Where memory will be above the first in a second, it is looked at ten times a second.
Where it will be above the second, which no plan is, in half a second, no tile is begun while another is under
way; where it is, the pool loses a worker. Where it is and will be above the last, or will be above the limit
itself, the tile begun last is given up with its worker, to be done again later, before the kernel or Slurm
kills what it likes."""
AHEAD_S = 0.5
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
    _next_look_s: float = -math.inf
    _last: tuple[float, float] = (-math.inf, 0.0)
    _watched: deque[tuple[float, float]] = field(default_factory=deque)

    def look(self) -> None:
        """Measures, at most once a second unless memory is getting short, and acts."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        now_bytes = self._measured_bytes()
        now_share = now_bytes / self.limit.limit_bytes
        next_share = now_share + self._growth(now_s, now_share) * AHEAD_S
        is_close = now_share + self._step(now_s, now_share) * MEMORY_LOOK_S >= WATCHED
        self.pool.tick_s = CLOSE_LOOK_S if is_close else TICK_S
        self._next_look_s = now_s + (CLOSE_LOOK_S / 2 if is_close else MEMORY_LOOK_S)
        self.pool.is_short = next_share > NEAR or self.free_share() < LEAST_FREE
        is_last = next_share > 1.0 or (now_share > NEAR and next_share > LAST)
        if (is_last or now_share > NEAR) and self.pool.workers == self.pool.size > 1:
            self.pool.size -= 1
            self.most_workers = self.pool.size
        if is_last:
            self._put_off_one()
        self.watch.memory(now_bytes, self.pool.workers)

    def _growth(self, now_s: float, now_share: float) -> float:
        """Shares of the limit a second by which memory grew in the last `AHEAD_S` or so; 0 where it did not.

        Below `WATCHED` it says nothing: what a run begins with comes at once.
        """
        if now_share < WATCHED:
            self._watched.clear()
            return 0.0
        self._watched.append((now_s, now_share))
        while len(self._watched) > 2 and self._watched[1][0] <= now_s - AHEAD_S:
            self._watched.popleft()
        then_s, then_share = self._watched[0]
        return max(0.0, now_share - then_share) / max(AHEAD_S, now_s - then_s)

    def _step(self, now_s: float, now_share: float) -> float:
        """The same since the last look, however high."""
        (then_s, then_share), self._last = self._last, (now_s, now_share)
        return max(0.0, now_share - then_share) / (now_s - then_s)

    def _measured_bytes(self) -> int:
        """The lesser of two looks where the first one is alarming.

        A process that is being begun counts for a moment all that its parent has, which it never touches.
        """
        now_bytes = self.now_bytes()
        if now_bytes > NEAR * self.limit.limit_bytes:
            time.sleep(SECOND_LOOK_S)
            now_bytes = min(now_bytes, self.now_bytes())
        return now_bytes

    def _put_off_one(self) -> None:
        task = self.pool.give_up_newest()
        self._watched.clear()  # what comes now is not how it was going on
        if task is not None:
            self.watch.put_off(task.slide_id, task.tile_id)
