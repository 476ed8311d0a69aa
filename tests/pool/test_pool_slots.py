from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from listsource import ListSource
from mkhspc.pool.pool import Pool
from mkhspc.pool.slots import Slots, SlotsHandle
from mkhspc.process.signals import StopFlag


@dataclass
class Summing:
    """Work that adds up what it sees in a slot."""

    slots: SlotsHandle

    def prepare(self) -> None:
        self._slots = self.slots.open()

    def run(self, task: tuple[int, int, int]) -> dict[str, Any]:
        pixels = self._slots.pixels(*task)
        is_writeable = bool(pixels.flags.writeable)
        total = int(pixels.sum(dtype=np.int64))
        del pixels
        self._slots.unmap()
        return {"sum": total, "is_writeable": is_writeable, "shared_bytes": _shared_bytes()}


def _shared_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssShmem")


def test_workers_see_what_was_written_and_cannot_write() -> None:
    slots = Slots(3, 1_000_000)
    rng = np.random.default_rng(0)
    sums = {}
    for slot, (height, width) in enumerate([(500, 600), (1, 1), (333, 1001)]):
        pixels = slots.pixels(slot, height, width)
        pixels[...] = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
        sums[(slot, height, width)] = int(pixels.sum(dtype=np.int64))
    outcomes = list(Pool(Summing(slots.handle()), 2, StopFlag()).outcomes(ListSource(sums)))
    assert {outcome.task: outcome.facts["sum"] for outcome in outcomes if outcome.facts} == sums
    assert not any(outcome.facts["is_writeable"] for outcome in outcomes if outcome.facts)
    slots.close()


def test_a_worker_closes_the_descriptor_once_the_memory_is_mapped() -> None:
    slots = Slots(1, 1000)
    slots.pixels(0, 1, 1)[...] = 7
    descriptor = os.dup(slots.handle()._descriptor)
    reader = SlotsHandle(descriptor, slots.slot_bytes).open()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert reader.pixels(0, 1, 1).tolist() == [[[7, 7, 7]]]
    slots.close()


def test_a_worker_does_not_keep_windows_it_has_done() -> None:
    slots = Slots(4, 20_000_000)
    for slot in range(4):
        slots.pixels(slot, 2500, 2600)[...] = 1
    tasks = [(slot, 2500, 2600) for slot in range(4)]
    for outcome in Pool(Summing(slots.handle()), 1, StopFlag()).outcomes(ListSource(tasks)):
        assert outcome.facts is not None
        assert outcome.facts["shared_bytes"] < 2_000_000
    slots.close()


def test_an_image_larger_than_the_memory_is_an_error() -> None:
    slots = Slots(1, 1000)
    with pytest.raises(ValueError, match="buffer"):
        slots.pixels(0, 1000, 1000)
    slots.close()


@dataclass
class Dying(Summing):
    """Dies once, then sums."""

    marker: Path = Path()

    def run(self, task: tuple[int, int, int]) -> dict[str, Any]:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


def test_a_retry_sees_the_same_pixels(tmp_path: Path) -> None:
    slots = Slots(1, 3000)
    slots.pixels(0, 10, 100)[...] = 7
    pool = Pool(Dying(slots.handle(), tmp_path / "died"), 1, StopFlag())
    first, second = pool.outcomes(ListSource([(0, 10, 100)]))
    assert first.will_retry
    assert "SIGKILL" in str(first.error)
    assert second.facts is not None
    assert second.facts["sum"] == 7 * 3000
    slots.close()


def test_a_slot_that_is_given_back_takes_no_memory_until_it_is_written_again() -> None:
    slots = Slots(2, 8_000_000)
    for slot in (0, 1):
        slots.pixels(slot, 1000, 2000)[...] = 7
    before_bytes = _shared_bytes()
    slots.give_back(0)
    assert before_bytes - _shared_bytes() >= 5_900_000
    assert (slots.pixels(1, 1000, 2000) == 7).all()
    slots.pixels(0, 1000, 2000)[...] = 9
    assert (slots.pixels(0, 1000, 2000) == 9).all()
    slots.close()


def test_a_slot_takes_no_more_memory_than_its_window_after_a_larger_one() -> None:
    slots = Slots(2, 8_000_000)
    for slot in (0, 1):
        slots.pixels(slot, 1000, 2000)[...] = 7
    before_bytes = _shared_bytes()
    slots.give_back(0, 3 * 500 * 2000)
    assert 2_900_000 <= before_bytes - _shared_bytes() <= 3_000_000
    assert (slots.pixels(0, 500, 2000) == 7).all()
    assert (slots.pixels(1, 1000, 2000) == 7).all()
    slots.give_back(0, slots.slot_bytes)
    slots.close()


def test_closed_slots_take_no_memory_even_while_something_holds_a_view() -> None:
    slots = Slots(2, 8_000_000)
    view = slots.pixels(1, 1000, 2000)
    view[...] = 7
    before_bytes = _shared_bytes()
    slots.close()
    assert before_bytes - _shared_bytes() >= 5_900_000
    assert view.shape == (1000, 2000, 3)
