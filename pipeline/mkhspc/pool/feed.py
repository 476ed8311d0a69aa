"""Windows on their way to the workers: read ahead by threads, into slots of shared memory.

Back-pressure is the number of slots: a window is put together when a slot is free, and a slot is
free again when its tile is done. A tile that is done already, or that another process of the run is
working on, is left out when its turn comes; the latter are claimed again at the end. A fault of a
slide, which may vanish or be replaced while others are read, fails the tiles that it has left.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from mkhspc.errors import MkhspcError
from mkhspc.geometry import Box
from mkhspc.pool.contract import RENEW_EVERY_S, ClaimResult, SlideWindows, TileClaims, WindowReader
from mkhspc.pool.slots import FreeSlots, Slots
from mkhspc.pool.tasks import Outcome
from mkhspc.process.memory import give_back_gaps

NO_SLOT = -1
"""The `slot` of a task without pixels, whose tile is done or failed before a worker had it."""
CLAIM_AGAIN_S = 0.5
"""Seconds between two tries to claim tiles that other processes work on, when nothing else is left."""


@dataclass(frozen=True)
class TileTask:
    """One tile of one slide, small enough to travel by pipe; `slot` holds the pixels of `window`."""

    slide_id: str
    tile_id: str
    window: Box
    slot: int


class WindowFeed:
    """A `TaskSource` of tiles whose windows are in shared memory.

    Args:
        use_slots: how many slots may be filled; see `use`.
        threads: how many threads decode.
    """

    def __init__(
        self,
        slides: Sequence[SlideWindows],
        slots: Slots,
        claims: TileClaims,
        *,
        use_slots: int,
        threads: int,
    ) -> None:
        self._slides = slides
        self._slots = slots
        self._free = FreeSlots(slots, use_slots)
        self._claims = claims
        self._threads = threads
        self._ready: deque[TileTask | Outcome] = deque()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._is_read = False
        self._fault: BaseException | None = None
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._woken, False)
        self._reader = threading.Thread(target=self._run, name="read", daemon=True)
        self._reader.start()
        threading.Thread(target=self._renew_claims, name="renew-claims", daemon=True).start()

    def take(self) -> TileTask | Outcome | None:
        with self._lock:
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
            if self._fault is not None:
                raise self._fault
            return self._ready.popleft() if self._ready else None

    @property
    def is_exhausted(self) -> bool:
        with self._lock:
            return self._is_read and not self._ready and self._fault is None

    def signals(self) -> Sequence[Connection | int]:
        return (self._woken,)

    def finish(self, task: TileTask) -> None:
        self._claims.release(task.slide_id, task.tile_id)
        if task.slot != NO_SLOT:
            self._free.release(task.slot)

    def use(self, slots: int) -> None:
        """Lets so many slots be filled from now on; surplus ones go when their tiles are done."""
        self._free.allow(slots)

    def close(self) -> None:
        """Stops reading; windows that were read and not taken are dropped."""
        self._closed.set()
        self._free.close()
        self._reader.join()
        self._claims.release_all()
        os.close(self._woken)
        os.close(self._waking)

    def _renew_claims(self) -> None:
        while not self._closed.wait(RENEW_EVERY_S):
            self._claims.renew()

    def _run(self) -> None:
        """Life of the reading thread."""
        try:
            self._read_all()
        except BaseException as fault:  # raised again in the thread that takes
            self._fault = fault
        finally:
            with self._lock:
                self._is_read = True
            self._wake()

    def _read_all(self) -> None:
        theirs = [(slide, self._read(slide)) for slide in self._slides]
        while any(indices for _, indices in theirs) and not self._closed.wait(CLAIM_AGAIN_S):
            theirs = [(slide, self._claim_again(slide, indices)) for slide, indices in theirs]

    def _claim_again(self, slide: SlideWindows, indices: Sequence[int]) -> list[int]:
        """Reads those of a slide's tiles that other processes gave up; returns what they still have."""
        results = {index: self._claim(slide, index) for index in indices}
        ours = [index for index, result in results.items() if result is ClaimResult.OURS]
        if ours:
            self._read(slide.only(ours))
        return _theirs(results)

    def _claim(self, slide: SlideWindows, index: int) -> ClaimResult:
        result = self._claims.claim(slide.slide_id, slide.tile_ids[index])
        if result is ClaimResult.DONE:
            self._offer(Outcome(_task(slide, index), {"elsewhere": True}))
        return result

    def _read(self, slide: SlideWindows) -> list[int]:
        """Reads the windows of a slide; returns the indices of those that other processes have."""
        results: dict[int, ClaimResult] = {}
        read: set[int] = set()
        try:
            self._read_windows(slide, results, read)
        except Exception as fault:  # any fault of one slide must not take the others with it
            for index in range(len(slide.tile_ids)):
                if index not in results and not self._closed.is_set():
                    results[index] = self._claim(slide, index)  # raises where the run's own disk is at fault
                if results.get(index) is ClaimResult.OURS and index not in read:
                    self._offer(Outcome(_task(slide, index), None, _reason(fault)))
        return _theirs(results)

    def _read_windows(self, slide: SlideWindows, results: dict[int, ClaimResult], read: set[int]) -> None:
        """Offers the windows of a slide; `results` and `read` take their indices as far as it came."""

        def is_wanted(index: int) -> bool:
            if self._closed.is_set():
                return False
            results[index] = self._claim(slide, index)
            return results[index] is ClaimResult.OURS

        with slide.open(
            threads=self._threads, is_wanted=is_wanted, has_place=lambda: bool(self._free)
        ) as reader:
            while (index := reader.next_window()) is not None and (slot := self._free.acquire()) is not None:
                read.add(index)
                self._read_window(reader, _task(slide, index, slot))
                give_back_gaps()

    def _read_window(self, reader: WindowReader, task: TileTask) -> None:
        """Offers a tile with its pixels; a damaged image fails it alone, any other fault is raised too."""
        self._slots.give_back(task.slot, used_bytes=3 * task.window.area_px)
        try:
            reader.read_into(self._slots.pixels(task.slot, task.window.height, task.window.width))
        except Exception as fault:
            self._offer(Outcome(task, None, _reason(fault)))
            if not isinstance(fault, MkhspcError):
                raise
        else:
            self._offer(task)

    def _offer(self, ready: TileTask | Outcome) -> None:
        with self._lock:
            self._ready.append(ready)
        self._wake()

    def _wake(self) -> None:
        """Wakes the pool, which waits for workers and for this descriptor alike."""
        os.write(self._waking, b"!")


def _task(slide: SlideWindows, index: int, slot: int = NO_SLOT) -> TileTask:
    return TileTask(slide.slide_id, slide.tile_ids[index], slide.windows[index], slot)


def _theirs(results: dict[int, ClaimResult]) -> list[int]:
    return [index for index, result in results.items() if result is ClaimResult.THEIRS]


def _reason(fault: Exception) -> str:
    """Says in one line what went wrong."""
    words = str(fault) if isinstance(fault, MkhspcError | OSError) else f"{type(fault).__name__}: {fault}"
    return words.replace("\n", " ")
