"""Memory watched: workers go before the limit is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mkhspc.pool import guard
from mkhspc.pool.guard import CHECK_CLOSELY_EVERY_S, CHECK_EVERY_S, MemoryGuard
from mkhspc.pool.pool import TICK_S
from mkhspc.process.limits import MemoryLimit
from mkhspc.units import GB

LIMIT = MemoryLimit(8 * GB, "the test")


@dataclass
class Seen:
    """A pool whose workers come and go at once, what is in memory, and what the guard notified of it."""

    size: int = 4
    memory_gb: float = 1.0
    free_share: float = 1.0
    now_s: float = 0.0
    is_short: bool = False
    tick_s: float = TICK_S
    stopped: int = 0
    notified: list[tuple[int, int]] = field(default_factory=list)

    @property
    def workers(self) -> int:
        return self.size

    def stop_newest(self) -> None:
        self.stopped += 1

    def guard(self) -> MemoryGuard:
        fake: Any = self
        return MemoryGuard(
            fake,
            LIMIT,
            on_memory=lambda now_bytes, workers: self.notified.append((now_bytes, workers)),
            now_bytes=lambda: int(self.memory_gb * GB),
            free_share=lambda: self.free_share,
        )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    monkeypatch.setattr(guard.time, "monotonic", lambda: found.now_s)
    return found


def check_at(seen: Seen, watching: MemoryGuard, *memory_gb: float) -> None:
    for seen.memory_gb in memory_gb:
        seen.now_s += CHECK_EVERY_S
        watching.check()


def test_a_process_that_is_being_begun_raises_no_alarm(seen: Seen) -> None:
    """For a moment it has, as it seems, all that its parent has."""
    measured = iter([7.9, 4.0, 7.9, 7.9])
    watching = seen.guard()
    watching.now_bytes = lambda: int(next(measured) * GB)
    check_at(seen, watching, 0.0)
    assert (seen.is_short, seen.size, seen.notified) == (False, 4, [(4 * GB, 4)])
    check_at(seen, watching, 0.0)
    assert (seen.is_short, seen.size) == (True, 3)


def test_workers_go_one_by_one_before_the_limit_is_reached(seen: Seen) -> None:
    watching = seen.guard()
    check_at(seen, watching, 7.5)
    assert seen.size == 4, "as much as a plan may take"
    assert not seen.is_short
    check_at(seen, watching, 7.7, 7.7)
    assert seen.size == 2
    assert seen.is_short, "no further tile is begun"
    assert not seen.stopped
    check_at(seen, watching, 7.9, 7.9, 7.9)
    assert seen.size == 1, "the last worker stays"
    assert seen.stopped == 3
    assert seen.notified[0] == (int(7.5 * GB), 4)
    assert len(seen.notified) == 6
    check_at(seen, watching, 5.0)
    assert not seen.is_short


def test_memory_is_checked_once_a_second_until_it_gets_short(seen: Seen) -> None:
    watching = seen.guard()
    check_at(seen, watching, 6.0)
    for _ in range(5):
        watching.check()
    assert (seen.size, len(seen.notified)) == (4, 1)
    check_at(seen, watching, 7.0)
    watching.check()
    assert len(seen.notified) == 2, "it has just been checked"
    assert seen.tick_s == CHECK_CLOSELY_EVERY_S
    seen.now_s += CHECK_CLOSELY_EVERY_S
    watching.check()
    assert len(seen.notified) == 3


def test_while_other_programs_use_up_the_machine_no_further_tile_is_begun(seen: Seen) -> None:
    watching = seen.guard()
    for seen.free_share, is_short in ((0.04, False), (0.02, True), (0.001, True), (0.5, False)):
        check_at(seen, watching, 1.0)
        assert seen.is_short == is_short
        assert (seen.size, seen.stopped) == (4, 0), "they may be gone soon"


def test_growth_counts_by_the_time_that_it_took(seen: Seen) -> None:
    watching = seen.guard()
    check_at(seen, watching, 7.0)
    seen.now_s += 10.0
    seen.memory_gb = 7.5
    watching.check()
    assert not seen.is_short, "0.03 GB in the next half second"
    seen.now_s += 0.5
    seen.memory_gb = 7.56
    watching.check()
    assert seen.is_short
    assert (seen.size, seen.stopped) == (4, 0)
    seen.now_s += 0.1
    seen.memory_gb = 7.7
    watching.check()
    assert (seen.size, seen.stopped) == (3, 1)


def test_growth_that_leads_over_the_limit_is_stopped_while_there_is_room(seen: Seen) -> None:
    watching = seen.guard()
    check_at(seen, watching, 1.0, 6.0)
    assert not seen.is_short, "what a run begins with comes at once"
    assert seen.tick_s == CHECK_CLOSELY_EVERY_S, "but it is checked closely from then on"
    for _ in range(30):
        seen.now_s += CHECK_CLOSELY_EVERY_S
        seen.memory_gb += 0.13
        watching.check()
        if seen.stopped:
            break
    assert (seen.size, seen.stopped) == (3, 1)
    assert seen.memory_gb < 0.95 * 8
    seen.memory_gb -= 2.0
    for _ in range(10):
        seen.now_s += CHECK_EVERY_S
        watching.check()
    assert (seen.size, seen.stopped, seen.tick_s) == (3, 1, TICK_S)


def test_no_second_worker_goes_while_the_first_is_still_ending(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Seen, "workers", 4)
    check_at(seen, seen.guard(), 7.9, 7.9, 7.9)
    assert seen.size == 3


def test_who_waits_for_a_stopped_task_is_notified(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    postponed: list[str] = []
    watching = seen.guard()
    watching.on_postponed = postponed.append
    monkeypatch.setattr(Seen, "stop_newest", lambda _: "the task begun last")
    check_at(seen, watching, 7.7, 7.9)
    assert postponed == ["the task begun last"]
    monkeypatch.setattr(Seen, "stop_newest", lambda _: None)
    check_at(seen, watching, 7.9)
    assert len(postponed) == 1, "the only task goes on"
