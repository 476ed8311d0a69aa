"""How many workers there are: memory watched, and tiles that show what the others will need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mkhspc.budget.demand import MEASURED_MARGIN, Demand, layout_of, plan_workers
from mkhspc.geometry import Box
from mkhspc.pool import guard
from mkhspc.pool.feed import NO_SLOT, SlideReads, TileTask
from mkhspc.pool.guard import CLOSE_LOOK_S, MEMORY_LOOK_S, MemoryGuard
from mkhspc.pool.pool import TICK_S
from mkhspc.process.limits import GB, MemoryLimit
from mkhspc.run import schedule
from mkhspc.run.schedule import Crew, Job
from mkhspc.slide.czi.read_order import ReadPlan, Visit
from mkhspc.slide.tiles import Tile

LIMIT = MemoryLimit(8 * GB, "the test")
CORES = 16
TILE_PX = 5850
FULL_UM2 = 1000.0
DEMAND = Demand(tiles=100, window_px=TILE_PX**2, held_bytes=200_000_000, block_bytes=12_000_000)
MUCH_BYTES, LITTLE_BYTES = DEMAND.worker_bytes, 300_000_000


@dataclass
class Seen:
    """A pool whose workers come and go at once, what is in memory, and what was told of it."""

    size: int = 4
    memory_gb: float = 1.0
    free_share: float = 1.0
    now_s: float = 0.0
    is_short: bool = False
    tick_s: float = TICK_S
    given_up: int = 0
    told: list[tuple[int, int]] = field(default_factory=list)

    @property
    def workers(self) -> int:
        return self.size

    def memory(self, now_bytes: int, workers: int) -> None:
        self.told.append((now_bytes, workers))

    def give_up_newest(self) -> None:
        self.given_up += 1

    def guard(self) -> MemoryGuard:
        fake: Any = self
        return MemoryGuard(
            fake,
            LIMIT,
            fake,
            now_bytes=lambda: int(self.memory_gb * GB),
            free_share=lambda: self.free_share,
        )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    monkeypatch.setattr(guard.time, "monotonic", lambda: found.now_s)
    monkeypatch.setattr(schedule, "usable_cores", lambda: CORES)
    return found


def look_at(seen: Seen, watching: MemoryGuard, *memory_gb: float) -> None:
    for seen.memory_gb in memory_gb:
        seen.now_s += MEMORY_LOOK_S
        watching.look()


def test_a_process_that_is_being_begun_raises_no_alarm(seen: Seen) -> None:
    """For a moment it has, as it seems, all that its parent has."""
    looks = iter([7.9, 4.0, 7.9, 7.9])
    watching = seen.guard()
    watching.now_bytes = lambda: int(next(looks) * GB)
    look_at(seen, watching, 0.0)
    assert (seen.is_short, seen.size, seen.told) == (False, 4, [(4 * GB, 4)])
    look_at(seen, watching, 0.0)
    assert (seen.is_short, seen.size) == (True, 3)


def test_workers_go_one_by_one_before_the_limit_is_reached(seen: Seen) -> None:
    watching = seen.guard()
    look_at(seen, watching, 7.5)
    assert seen.size == 4, "as much as a plan may take"
    assert not seen.is_short
    look_at(seen, watching, 7.7, 7.7)
    assert seen.size == 2
    assert seen.is_short, "no further tile is begun"
    assert not seen.given_up
    look_at(seen, watching, 7.9, 7.9, 7.9)
    assert seen.size == 1, "the last worker stays"
    assert seen.given_up == 3
    assert seen.told[0] == (int(7.5 * GB), 4)
    assert len(seen.told) == 6
    look_at(seen, watching, 5.0)
    assert not seen.is_short


def test_memory_is_looked_at_once_a_second_until_it_gets_short(seen: Seen) -> None:
    watching = seen.guard()
    look_at(seen, watching, 6.0)
    for _ in range(5):
        watching.look()
    assert (seen.size, len(seen.told)) == (4, 1)
    look_at(seen, watching, 7.0)
    watching.look()
    assert len(seen.told) == 2, "it has just been looked at"
    assert seen.tick_s == CLOSE_LOOK_S
    seen.now_s += CLOSE_LOOK_S
    watching.look()
    assert len(seen.told) == 3


def test_while_other_programs_use_up_the_machine_no_further_tile_is_begun(seen: Seen) -> None:
    watching = seen.guard()
    for seen.free_share, is_short in ((0.04, False), (0.02, True), (0.001, True), (0.5, False)):
        look_at(seen, watching, 1.0)
        assert seen.is_short == is_short
        assert (seen.size, seen.given_up) == (4, 0), "they may be gone soon"


def test_growth_counts_by_the_time_that_it_took(seen: Seen) -> None:
    watching = seen.guard()
    look_at(seen, watching, 7.0)
    seen.now_s += 10.0
    seen.memory_gb = 7.5
    watching.look()
    assert not seen.is_short, "0.03 GB in the next half second"
    seen.now_s += 0.5
    seen.memory_gb = 7.56
    watching.look()
    assert seen.is_short
    assert (seen.size, seen.given_up) == (4, 0)
    seen.now_s += 0.1
    seen.memory_gb = 7.7
    watching.look()
    assert (seen.size, seen.given_up) == (3, 1)


def test_growth_that_leads_over_the_limit_is_stopped_while_there_is_room(seen: Seen) -> None:
    watching = seen.guard()
    look_at(seen, watching, 1.0, 6.0)
    assert not seen.is_short, "what a run begins with comes at once"
    assert seen.tick_s == CLOSE_LOOK_S, "but it is looked at closely from then on"
    for _ in range(30):
        seen.now_s += CLOSE_LOOK_S
        seen.memory_gb += 0.13
        watching.look()
        if seen.given_up:
            break
    assert (seen.size, seen.given_up) == (3, 1)
    assert seen.memory_gb < 0.95 * 8
    seen.memory_gb -= 2.0
    for _ in range(10):
        seen.now_s += MEMORY_LOOK_S
        watching.look()
    assert (seen.size, seen.given_up, seen.tick_s) == (3, 1, TICK_S)


def test_no_second_worker_goes_while_the_first_is_still_ending(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Seen, "workers", 4)
    look_at(seen, seen.guard(), 7.9, 7.9, 7.9)
    assert seen.size == 3


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
    reads = SlideReads(
        "A", Path("a.czi"), "", 0.25, tiles, [Visit(0, c) for c in cores], ReadPlan((), 0, 0, 0, 0, 0)
    )
    models: Any = None
    budget = plan_workers(asked, DEMAND, CORES, LIMIT)
    return Job([reads], DEMAND, budget, asked, models, ())


def task(planned: Job, name: str) -> TileTask:
    (reads,) = planned.slides
    (core,) = [tile.core for tile in reads.tiles if tile.tile_id == name]
    return TileTask("A", name, core, NO_SLOT)


def crew(seen: Seen, planned: Job) -> Crew:
    seen.size = planned.budget.workers
    pool: Any = seen
    return Crew(planned, pool, seen.guard())


@pytest.mark.parametrize("name", ["empty", "border"])
def test_a_tile_that_says_little_of_the_others_adds_no_worker(seen: Seen, name: str) -> None:
    planned = job()
    sized = crew(seen, planned)
    assert 1 < planned.budget.workers < CORES
    budget = sized.learn(task(planned, name), LITTLE_BYTES)
    assert seen.size == budget.workers == planned.budget.workers
    sized.learn(task(planned, "dense"), LITTLE_BYTES)
    assert seen.size == CORES


def test_the_worst_tile_so_far_decides(seen: Seen) -> None:
    planned = job()
    sized = crew(seen, planned)
    sized.learn(task(planned, "dense"), LITTLE_BYTES)
    assert seen.size == CORES
    sized.learn(task(planned, "dense"), 2 * MUCH_BYTES)
    fewer = seen.size
    assert 1 <= fewer < planned.budget.workers
    sized.learn(task(planned, "dense"), LITTLE_BYTES)
    assert seen.size == fewer
    measured = DEMAND.measured(int(MEASURED_MARGIN * 2 * MUCH_BYTES), 0)
    assert layout_of(measured, fewer, LIMIT).peak_bytes <= LIMIT.limit_bytes


def test_a_small_tile_that_needs_much_takes_workers_away(seen: Seen) -> None:
    planned = job()
    crew(seen, planned).learn(task(planned, "border"), 2 * MUCH_BYTES)
    assert seen.size < planned.budget.workers


@pytest.mark.parametrize("asked", ["auto", 3])
def test_a_worker_that_memory_took_away_does_not_come_back(seen: Seen, asked: object) -> None:
    planned = job(asked)
    sized = crew(seen, planned)
    look_at(seen, sized.guard, 7.9)
    left = seen.size
    assert left == planned.budget.workers - 1
    for _ in range(3):
        sized.learn(task(planned, "dense"), LITTLE_BYTES)
    assert seen.size == left


def test_workers_asked_for_by_number_are_neither_more_nor_fewer(seen: Seen) -> None:
    planned = job(3)
    sized = crew(seen, planned)
    for worker_bytes in (LITTLE_BYTES, 3 * MUCH_BYTES):
        assert sized.learn(task(planned, "dense"), worker_bytes) == planned.budget
        assert seen.size == 3
