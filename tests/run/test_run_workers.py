"""How many workers a run has: as planned, then as the tiles that are done show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mkhspc.budget.demand import MEASURED_MARGIN, Demand
from mkhspc.budget.workers import layout_of, plan_workers
from mkhspc.geometry import Box
from mkhspc.pool.feed import NO_SLOT, TileTask
from mkhspc.pool.guard import MemoryGuard
from mkhspc.pool.pool import TICK_S
from mkhspc.process.limits import MemoryLimit
from mkhspc.run import job as jobs
from mkhspc.run.do_tiles import WorkerScaler
from mkhspc.run.job import Job
from mkhspc.slide.czi.read_order import ReadCost, SceneBox
from mkhspc.slide.tile_windows import TileWindows
from mkhspc.slide.tiles import Tile
from mkhspc.units import GB

LIMIT = MemoryLimit(8 * GB, "the test")
CORES = 16
TILE_PX = 5850
FULL_UM2 = 1000.0
DEMAND = Demand(tiles=100, window_px=TILE_PX**2, held_bytes=200_000_000, block_bytes=12_000_000)
MUCH_BYTES, LITTLE_BYTES = DEMAND.worker_bytes, 300_000_000


@dataclass
class PlainPool:
    """A pool whose workers come and go at once."""

    size: int = 4
    is_short: bool = False
    tick_s: float = TICK_S

    @property
    def workers(self) -> int:
        return self.size

    def stop_newest(self) -> None:
        pass


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> PlainPool:
    monkeypatch.setattr(jobs, "usable_cores", lambda: CORES)
    return PlainPool()


def job(asked: Any = "auto") -> Job:
    """Three tiles: a full one, a full one without tissue, and one at the border of the slide."""
    cores = [
        Box(0, 0, TILE_PX, TILE_PX),
        Box(TILE_PX, 0, 2 * TILE_PX, TILE_PX),
        Box(0, TILE_PX, TILE_PX, 6000),
    ]
    tiles = [
        Tile(name, 0, core, FULL_UM2, dense_um2, rank)
        for rank, (name, core, dense_um2) in enumerate(
            zip(("dense", "empty", "border"), cores, (FULL_UM2, 1.0, FULL_UM2), strict=True)
        )
    ]
    reads = TileWindows(
        "A", Path("a.czi"), "", 0.25, tiles, [SceneBox(0, c) for c in cores], ReadCost(0, 0, 0, 0, 0)
    )
    models: Any = None
    budget = plan_workers(asked, DEMAND, CORES, LIMIT)
    return Job([reads], DEMAND, budget, asked, models, ())


def task(planned: Job, name: str) -> TileTask:
    (reads,) = planned.slides
    (core,) = [tile.core for tile in reads.tiles if tile.tile_id == name]
    return TileTask("A", name, core, NO_SLOT)


def scaler(pool: PlainPool, planned: Job) -> WorkerScaler:
    pool.size = planned.budget.workers
    fake: Any = pool
    return WorkerScaler(planned, fake, MemoryGuard(fake, LIMIT, now_bytes=lambda: int(7.9 * GB)))


@pytest.mark.parametrize("name", ["empty", "border"])
def test_a_tile_that_says_little_of_the_others_adds_no_worker(pool: PlainPool, name: str) -> None:
    planned = job()
    sized = scaler(pool, planned)
    assert 1 < planned.budget.workers < CORES
    budget = sized.fit(task(planned, name), LITTLE_BYTES)
    assert pool.size == budget.workers == planned.budget.workers
    sized.fit(task(planned, "dense"), LITTLE_BYTES)
    assert pool.size == CORES


def test_the_worst_tile_so_far_decides(pool: PlainPool) -> None:
    planned = job()
    sized = scaler(pool, planned)
    sized.fit(task(planned, "dense"), LITTLE_BYTES)
    assert pool.size == CORES
    sized.fit(task(planned, "dense"), 2 * MUCH_BYTES)
    fewer = pool.size
    assert 1 <= fewer < planned.budget.workers
    sized.fit(task(planned, "dense"), LITTLE_BYTES)
    assert pool.size == fewer
    measured = DEMAND.measured(int(MEASURED_MARGIN * 2 * MUCH_BYTES), 0)
    assert layout_of(measured, fewer, LIMIT).peak_bytes <= LIMIT.limit_bytes


def test_a_small_tile_that_needs_much_takes_workers_away(pool: PlainPool) -> None:
    planned = job()
    scaler(pool, planned).fit(task(planned, "border"), 2 * MUCH_BYTES)
    assert pool.size < planned.budget.workers


@pytest.mark.parametrize("asked", ["auto", 3])
def test_a_worker_that_memory_took_away_does_not_come_back(pool: PlainPool, asked: object) -> None:
    planned = job(asked)
    sized = scaler(pool, planned)
    sized.guard.check()
    left = pool.size
    assert left == planned.budget.workers - 1
    for _ in range(3):
        sized.fit(task(planned, "dense"), LITTLE_BYTES)
    assert pool.size == left


def test_workers_asked_for_by_number_are_neither_more_nor_fewer(pool: PlainPool) -> None:
    planned = job(3)
    sized = scaler(pool, planned)
    for worker_bytes in (LITTLE_BYTES, 3 * MUCH_BYTES):
        assert sized.fit(task(planned, "dense"), worker_bytes) == planned.budget
        assert pool.size == 3
