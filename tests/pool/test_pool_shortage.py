"""Workers whose memory grows while they are at work: the pool stays below the limit."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from listsource import ListSource
from mkhspc.pool.guard import MemoryGuard
from mkhspc.pool.pool import Pool
from mkhspc.pool.tasks import Outcome
from mkhspc.process.limits import MemoryLimit
from mkhspc.process.memory import tree_rss_bytes
from mkhspc.process.signals import StopFlag

MB = 1_000_000
TASK_MB, STEP_MB, STEP_S = 240, 4, 0.08


@dataclass(frozen=True)
class Task:
    tile_id: str
    slide_id: str = "A"


@dataclass
class Growing:
    """Work that takes more and more memory, and gives it back at its end."""

    marks: Path

    def prepare(self) -> None:
        pass

    def run(self, task: Any) -> dict[str, Any]:
        (self.marks / f"{task.tile_id}-{os.getpid()}").touch()
        held = []
        for _ in range(TASK_MB // STEP_MB):
            held.append(bytearray(os.urandom(1024)) * (STEP_MB * MB // 1024))
            time.sleep(STEP_S)
        return {"steps": len(held)}


@dataclass(frozen=True)
class Grown:
    """What became of a pool whose workers grow."""

    outcomes: list[Outcome]
    stopped: list[str]
    peak_bytes: int
    limit_bytes: int


def grow(marks: Path) -> Grown:
    """Three tasks at once would need 720 MB beside what the processes begin with; there are 560."""
    pool = Pool(Growing(marks), 3, StopFlag())
    stopped: list[str] = []
    begun_with = tree_rss_bytes() + 3 * 60 * MB
    limit = MemoryLimit(begun_with + 560 * MB, "the test")
    guard = MemoryGuard(pool, limit, on_postponed=lambda task: stopped.append(task.tile_id))
    pool.on_tick = guard.check
    peaks = [0]
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.is_set():
            # The lesser of two looks: a process being begun counts for a moment what its parent has.
            first = tree_rss_bytes()
            time.sleep(0.01)
            peaks.append(min(first, tree_rss_bytes()))
            time.sleep(0.01)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        outcomes = list(pool.outcomes(ListSource([Task(str(nth)) for nth in range(4)])))
    finally:
        is_over.set()
        sampler.join()
    return Grown(outcomes, stopped, max(peaks), limit.limit_bytes)


@pytest.mark.slow
def test_busy_workers_that_grow_are_stopped_before_the_limit(tmp_path: Path) -> None:
    """In a process of its own, as a run is: this one has grown with all tests before, to over a gigabyte."""
    with ProcessPoolExecutor(1, get_context("spawn")) as small:
        grown = small.submit(grow, tmp_path).result()
    assert all(outcome.error is None for outcome in grown.outcomes)
    assert sorted(outcome.task.tile_id for outcome in grown.outcomes) == ["0", "1", "2", "3"]
    assert grown.peak_bytes <= grown.limit_bytes
    assert grown.stopped, "else the limit was never near, and this test says nothing"
    begun = [mark.name.split("-")[0] for mark in tmp_path.iterdir()]
    assert len(begun) == 4 + len(grown.stopped), "what was stopped is done again, once each time"
