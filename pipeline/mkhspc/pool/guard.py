"""Memory watched while a run goes on: the pool shrinks before the limit, never after."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mkhspc.pool.pool import TICK_S, Pool
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit, machine_free_share
from mkhspc.process.memory import tree_rss_bytes

CHECK_EVERY_S = 1.0
"""Seconds between two checks of the memory while there is plenty."""
CHECK_CLOSELY_EVERY_S = 0.1
"""Seconds between two checks while memory is getting short."""
MEASURE_AGAIN_S = 0.01
"""Seconds after which an alarming measurement is repeated: as long as a process takes to be started."""
CLOSE_SHARE = 0.85
"""Share of the limit: where memory will be above it in a second, it is checked closely."""
SHORT_SHARE = SAFE_SHARE
"""Share of the limit, which no plan exceeds: where memory will be above it in `AHEAD_S`, no tile is begun
while another is under way; where it is above it already, the pool loses a worker."""
LAST_SHARE = 0.98
"""Share of the limit: where memory is above `SHORT_SHARE` and will be above this, or will be above the limit
itself, the tile begun last is stopped with its worker and done again later, before the kernel or Slurm kills
a process of their choice."""
AHEAD_S = 0.5
"""Seconds by which the growth of memory is carried on: about what ending a worker takes."""
LEAST_FREE_SHARE = 0.03
"""Share of the machine's memory: with less left, by whatever programs, no tile is begun while another is
under way, until there is more again."""


def _ignore(*_: object) -> None:
    pass


@dataclass
class MemoryGuard:
    """Takes workers away before the processes' memory reaches the limit, one at a time.

    Attributes:
        on_memory: is called at each check with the bytes of all processes and the number of workers.
        on_postponed: is called with a task that was stopped and will be done later.
        now_bytes: measures the memory of all processes.
        free_share: measures the share of the machine's memory that is free.
        most_workers: that may be there; a worker that was taken away does not come back.
    """

    pool: Pool
    limit: MemoryLimit
    on_memory: Callable[[int, int], object] = _ignore
    on_postponed: Callable[[Any], object] = _ignore
    now_bytes: Callable[[], int] = tree_rss_bytes
    free_share: Callable[[], float] = machine_free_share
    most_workers: int = sys.maxsize
    _next_check_s: float = -math.inf
    _last: tuple[float, float] = (-math.inf, 0.0)
    _measured: deque[tuple[float, float]] = field(default_factory=deque)

    def check(self) -> None:
        """Measures, at most once a second unless memory is getting short, and acts."""
        now_s = time.monotonic()
        if now_s < self._next_check_s:
            return
        now_bytes = self._measured_bytes()
        now_share = now_bytes / self.limit.limit_bytes
        next_share = now_share + self._growth(now_s, now_share) * AHEAD_S
        is_close = now_share + self._latest_growth(now_s, now_share) * CHECK_EVERY_S >= CLOSE_SHARE
        self.pool.tick_s = CHECK_CLOSELY_EVERY_S if is_close else TICK_S
        self._next_check_s = now_s + (CHECK_CLOSELY_EVERY_S / 2 if is_close else CHECK_EVERY_S)
        self.pool.is_short = next_share > SHORT_SHARE or self.free_share() < LEAST_FREE_SHARE
        is_last = next_share > 1.0 or (now_share > SHORT_SHARE and next_share > LAST_SHARE)
        if (is_last or now_share > SHORT_SHARE) and self.pool.workers == self.pool.size > 1:
            self.pool.size -= 1
            self.most_workers = self.pool.size
        if is_last:
            self._postpone_newest()
        self.on_memory(now_bytes, self.pool.workers)

    def _growth(self, now_s: float, now_share: float) -> float:
        """Shares of the limit a second by which memory grew in the last `AHEAD_S` or so; 0 where it did not.

        Below `CLOSE_SHARE` it is 0 too: what a run begins with comes at once.
        """
        if now_share < CLOSE_SHARE:
            self._measured.clear()
            return 0.0
        self._measured.append((now_s, now_share))
        while len(self._measured) > 2 and self._measured[1][0] <= now_s - AHEAD_S:
            self._measured.popleft()
        then_s, then_share = self._measured[0]
        return max(0.0, now_share - then_share) / max(AHEAD_S, now_s - then_s)

    def _latest_growth(self, now_s: float, now_share: float) -> float:
        """Shares of the limit a second by which memory grew since the last check, wherever it is."""
        (then_s, then_share), self._last = self._last, (now_s, now_share)
        return max(0.0, now_share - then_share) / (now_s - then_s)

    def _measured_bytes(self) -> int:
        """Measures, and where the result is alarming takes the lesser of two measurements.

        A process that is being started counts for a moment all that its parent has, which it never touches.
        """
        now_bytes = self.now_bytes()
        if now_bytes > SHORT_SHARE * self.limit.limit_bytes:
            time.sleep(MEASURE_AGAIN_S)
            now_bytes = min(now_bytes, self.now_bytes())
        return now_bytes

    def _postpone_newest(self) -> None:
        task = self.pool.stop_newest()
        self._measured.clear()  # the growth so far was partly that task's
        if task is not None:
            self.on_postponed(task)
