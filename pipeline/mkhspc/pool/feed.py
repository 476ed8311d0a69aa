"""Windows on their way to the workers: read ahead by threads, into slots of shared memory.

Back-pressure is the number of slots: a window is put together when a slot is free, and a slot is
free again when its tile is done. A tile that is done already, or that another process of the run is
working on, is left out when its turn comes; the latter are looked at again at the end. A fault of a
slide, which may vanish or be replaced while others are read, fails the tiles that it has left.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from mkhspc.cluster.claims import RENEW_S, Claim, Claims
from mkhspc.errors import InputError, MkhspcError
from mkhspc.geometry import Box
from mkhspc.pool.pool import Outcome
from mkhspc.pool.slots import Slots
from mkhspc.process.memory import give_back_gaps
from mkhspc.slide.czi.read_order import ReadPlan, Visit, mosaics_of, plan_reads
from mkhspc.slide.czi.slide import CziSlide, read_slide_info
from mkhspc.slide.czi.stream import WindowStream
from mkhspc.slide.tiles import Tile

NO_SLOT = -1
LOOK_AGAIN_S = 0.5
"""How often tiles that others work on are looked at when nothing else is left."""


@dataclass(frozen=True)
class TileTask:
    """One tile of one slide, small enough to travel by pipe; `slot` holds the pixels of `window`."""

    slide_id: str
    tile_id: str
    window: Box
    slot: int


@dataclass(frozen=True)
class SlideReads:
    """The tiles of a slide that are to be read, in the order in which they will be.

    Attributes:
        fingerprint: of the file that the tiles were planned for; see `CziDirectory`.
    """

    slide_id: str
    path: Path
    fingerprint: str
    um_per_px: float
    tiles: Sequence[Tile]
    visits: Sequence[Visit]
    plan: ReadPlan


def plan_slide(
    slide_id: str,
    path: Path,
    um_per_px: float,
    tiles: Sequence[Tile],
    window_of: Callable[[Box], Box],
    room_bytes: int,
) -> SlideReads:
    """Chooses the order in which the windows of a slide's tiles are read.

    Args:
        window_of: what is read for a core.
    """
    visits = [Visit(tile.scene, window_of(tile.core)) for tile in tiles]
    with CziSlide.open(path, um_per_px) as slide:
        plan = plan_reads(mosaics_of(slide, visits), visits, room_bytes)
        fingerprint = slide.info.fingerprint
    in_order = [tiles[i] for i in plan.order], [visits[i] for i in plan.order]
    return SlideReads(slide_id, path, fingerprint, um_per_px, *in_order, plan)


class WindowFeed:
    """A `workers.Source` of tiles whose windows are in shared memory.

    Args:
        use_slots: how many slots may be filled; see `use`.
        threads: that decode.
    """

    def __init__(
        self,
        slides: Sequence[SlideReads],
        slots: Slots,
        claims: Claims,
        *,
        use_slots: int,
        threads: int,
    ) -> None:
        self.decoded_bytes = 0
        self._slides = slides
        self._slots = slots
        self._claims = claims
        self._threads = threads
        self._free = deque(range(use_slots))
        self._spare = deque(range(use_slots, slots.count))
        self._too_many = 0
        self._ready: deque[TileTask | Outcome] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_spent = False
        self._fault: BaseException | None = None
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        self._reader = threading.Thread(target=self._run, name="read", daemon=True)
        self._reader.start()

    def take(self) -> TileTask | Outcome | None:
        with self._changed:
            with suppress(BlockingIOError):
                os.read(self._bell, 4096)
            if self._fault is not None:
                raise self._fault
            return self._ready.popleft() if self._ready else None

    @property
    def is_spent(self) -> bool:
        with self._changed:
            return self._is_spent and not self._ready and self._fault is None

    def news(self) -> Sequence[Connection | int]:
        return (self._bell,)

    def end(self, task: TileTask) -> None:
        self._claims.drop(task.slide_id, task.tile_id)
        with self._changed:
            if task.slot != NO_SLOT:
                self._free.append(task.slot)
                self._retire()
            self._changed.notify_all()

    def use(self, slots: int) -> None:
        """Lets so many slots be filled from now on; those too many go when their tiles are done."""
        with self._changed:
            in_use = self._slots.count - len(self._spare)
            self._too_many = in_use - min(slots, self._slots.count)
            while self._too_many < 0:
                self._free.append(self._spare.popleft())
                self._too_many += 1
            self._retire()
            self._changed.notify_all()

    def _retire(self) -> None:
        """Gives back the memory of free slots that are too many."""
        while self._too_many and self._free:
            slot = self._free.pop()
            self._slots.forget(slot)
            self._spare.append(slot)
            self._too_many -= 1

    def close(self) -> None:
        """Stops reading; windows that were read and not taken are forgotten."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._reader.join()
        self._claims.drop_all()
        os.close(self._bell)
        os.close(self._ring)

    def _run(self) -> None:
        """Life of the reading thread."""
        renewing = threading.Thread(target=self._renew, name="renew-claims", daemon=True)
        renewing.start()
        try:
            self._read_all()
        except BaseException as fault:  # it is raised again in the thread that takes
            self._fault = fault
        finally:
            with self._changed:
                self._is_spent = True
            self._tell()

    def _renew(self) -> None:
        while not self._is_closed:
            self._claims.renew()
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, timeout=RENEW_S)

    def _read_all(self) -> None:
        waiting = {slide.slide_id: self._read(slide) for slide in self._slides}
        while any(waiting.values()) and not self._is_closed:
            time.sleep(LOOK_AGAIN_S)
            for slide in self._slides:
                waiting[slide.slide_id] = self._look_again(slide, waiting[slide.slide_id])

    def _look_again(self, slide: SlideReads, steps: Sequence[int]) -> list[int]:
        """Reads those of a slide's tiles that other processes gave up; returns what they still have."""
        claims = {step: self._claim(slide, step) for step in steps}
        ours = [step for step, claim in claims.items() if claim is Claim.OURS]
        if ours:
            self._read(_only(slide, ours))
        return [step for step, claim in claims.items() if claim is Claim.THEIRS]

    def _claim(self, slide: SlideReads, step: int) -> Claim:
        tile_id = slide.tiles[step].tile_id
        claim = self._claims.take(slide.slide_id, tile_id)
        if claim is Claim.DONE:
            self._offer(Outcome(_task(slide, step), {"elsewhere": True}))
        return claim

    def _read(self, slide: SlideReads) -> list[int]:
        """Reads the windows of a slide; returns the steps of those that other processes have."""
        claims: dict[int, Claim] = {}
        read: set[int] = set()
        try:
            self._read_windows(slide, claims, read)
        except Exception as fault:  # any fault of one slide must not take the others with it
            for step in range(len(slide.tiles)):
                if step not in claims and not self._is_closed:
                    claims[step] = self._claim(slide, step)  # raises where the run's own disk is at fault
                if claims.get(step) is Claim.OURS and step not in read:
                    self._offer(Outcome(_task(slide, step), None, _reason(fault)))
        return [step for step, claim in claims.items() if claim is Claim.THEIRS]

    def _read_windows(self, slide: SlideReads, claims: dict[int, Claim], read: set[int]) -> None:
        """Offers the windows of a slide; `claims` and `read` take its steps as far as it came."""

        def is_wanted(step: int) -> bool:
            if self._is_closed:
                return False
            claims[step] = self._claim(slide, step)
            return claims[step] is Claim.OURS

        _refuse_another(slide)
        with WindowStream(
            slide.path,
            slide.um_per_px,
            slide.visits,
            room_bytes=slide.plan.room_bytes,
            threads=self._threads,
            packs=slide.plan.is_worth_packing,
            is_wanted=is_wanted,
            has_place=lambda: bool(self._free),
        ) as stream:
            while (step := stream.next_window()) is not None and (slot := self._next_slot()) is not None:
                read.add(step)
                self._read_window(stream, slide, step, slot)
                give_back_gaps()
            self.decoded_bytes += stream.decoded_bytes

    def _next_slot(self) -> int | None:
        """Waits for a free slot; None when the feed is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._is_closed)
            return None if self._is_closed else self._free.popleft()

    def _read_window(self, stream: WindowStream, slide: SlideReads, step: int, slot: int) -> None:
        """Offers a tile with its pixels; a damaged image fails it alone, any other fault is raised too."""
        task = _task(slide, step, slot)
        self._slots.forget_beyond(slot, 3 * task.window.area_px)
        try:
            stream.read_into(self._slots.pixels(slot, task.window.height, task.window.width))
        except Exception as fault:
            self._offer(Outcome(task, None, _reason(fault)))
            if not isinstance(fault, MkhspcError):
                raise
        else:
            self._offer(task)

    def _offer(self, ready: TileTask | Outcome) -> None:
        with self._changed:
            self._ready.append(ready)
        self._tell()

    def _tell(self) -> None:
        os.write(self._ring, b"!")


def _task(slide: SlideReads, step: int, slot: int = NO_SLOT) -> TileTask:
    return TileTask(slide.slide_id, slide.tiles[step].tile_id, slide.visits[step].box, slot)


def _reason(fault: Exception) -> str:
    """A fault in one line."""
    words = str(fault) if isinstance(fault, MkhspcError | OSError) else f"{type(fault).__name__}: {fault}"
    return words.replace("\n", " ")


def _refuse_another(slide: SlideReads) -> None:
    """Raises `InputError` when another file took the slide's place since its tiles were planned."""
    if read_slide_info(slide.path).fingerprint != slide.fingerprint:
        raise InputError(
            "is another scan than the one that this run began with (its fingerprint differs)",
            where=slide.path,
            fix="put the first one back",
        )


def _only(slide: SlideReads, steps: Sequence[int]) -> SlideReads:
    tiles, visits = [slide.tiles[i] for i in steps], [slide.visits[i] for i in steps]
    return replace(slide, tiles=tiles, visits=visits)
