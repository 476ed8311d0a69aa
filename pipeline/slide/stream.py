"""Many windows of one slide in a known order, with each sub-block decoded about once.

Windows overlap by their halos and seldom lie on the sub-blocks' grid, so reading each on its own
decodes a pixel twice and more. Here the order is known before the first read: decoded blocks are
kept while another window will need them, no more of their rows than it needs, and when room is short
the one needed last goes first (Belady's rule, which no other order of eviction beats). Threads with a
handle each decode ahead of the window that is put together, and show what they decoded in it themselves.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.slide.czi import WHITE, CziSlide
from pipeline.slide.directory import SubBlock, read_directory
from pipeline.slide.mosaic import SceneMosaic, uncovered
from pipeline.slide.unpack import Image, Pixels

AHEAD_PER_THREAD = 2
"""Blocks that may be decoded and not yet shown, for each decoding thread."""

WORTH_CUTTING_BYTES = 2_000_000
"""The rows of a block that later windows need are copied out if so much can be forgotten then."""

Value = TypeVar("Value")
Rows = tuple[int, int]
"""Heights in mosaic coordinates, from and to."""


@dataclass(frozen=True)
class Visit:
    """A window to read: a box in level-0 pixels of a scene; may reach outside it."""

    scene: int
    box: Box


class BlockKey(NamedTuple):
    """A level-0 sub-block of a slide: its scene and its place in the scene's stack."""

    scene: int
    nth: int


class Foreseen(Generic[Value]):
    """Values by key, bounded in bytes, when it is known at which steps each key will be asked for.

    Args:
        steps: the keys that will be asked for.
        bytes_of: each key's value, as it is loaded.
        kept_bytes: of each step and key that a later step asks for again, what is kept of it.

    Attributes:
        loaded_bytes: of all values loaded so far.
        held_bytes: of what is held now; never more than `room_bytes`.
        most_held_bytes: the highest that was.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[BlockKey]],
        bytes_of: Mapping[BlockKey, int],
        kept_bytes: Sequence[Mapping[BlockKey, int]],
        room_bytes: int,
    ) -> None:
        self.loaded_bytes = 0
        self.held_bytes = 0
        self.most_held_bytes = 0
        self._room_bytes = room_bytes
        self._bytes_of = bytes_of
        self._kept_bytes = kept_bytes
        self._held: dict[BlockKey, Value] = {}
        self._held_bytes_of: dict[BlockKey, int] = {}
        self._farthest: list[tuple[int, BlockKey]] = []  # a heap; entries of what is held no more are stale
        self._step = -1
        self._uses: dict[BlockKey, deque[int]] = {}
        for step, keys in enumerate(steps):
            for key in keys:
                self._uses.setdefault(key, deque()).append(step)

    def get(self, key: BlockKey, step: int, load: Callable[[], Value]) -> Value:
        """The value of a key at a step; steps may be left out but never go back."""
        if key in self._held:
            value = self._held[key]
        else:
            value = load()
            self.loaded_bytes += self._bytes_of[key]
        self._drop(key)
        if self._next_use(key, step) is not None:
            self._held[key] = value
            self._held_bytes_of[key] = self._kept_bytes[step][key]
            self.held_bytes += self._held_bytes_of[key]
            heapq.heappush(self._farthest, (-self._uses[key][0], key))
            self._make_room(step)
            self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        return value

    def _next_use(self, key: BlockKey, step: int) -> int | None:
        uses = self._uses[key]
        while uses and uses[0] <= step:
            uses.popleft()
        return uses[0] if uses else None

    def _make_room(self, step: int) -> None:
        if step > self._step:
            for key in [k for k in self._held if self._next_use(k, step - 1) is None]:
                self._drop(key)  # of steps that were left out
            self._step = step
        while self.held_bytes > self._room_bytes:
            self._drop_farthest(step)

    def _drop_farthest(self, step: int) -> None:
        """Of what is held, drops what is needed last; its next use may be later than when it was noted."""
        noted, key = heapq.heappop(self._farthest)
        if key not in self._held:
            return
        next_use = self._next_use(key, step - 1)
        if next_use is None or -noted == next_use:
            self._drop(key)
        else:
            heapq.heappush(self._farthest, (-next_use, key))

    def _drop(self, key: BlockKey) -> None:
        if key in self._held:
            del self._held[key]
            self.held_bytes -= self._held_bytes_of.pop(key)


class _View:
    """A window being put together, by the threads that decode its blocks and the one that reads it."""

    def __init__(self, picture: Pixels, box: Box, gaps: Sequence[Box]) -> None:
        self._picture = picture
        self._box = box
        self._awaited = 1  # the reader, until it has named every block
        self._fault: Exception | None = None
        self._is_whole = threading.Condition()
        for gap in gaps:
            picture[gap.slices_in(box)] = WHITE

    def expect(self) -> None:
        """One more block will be shown."""
        with self._is_whole:
            self._awaited += 1

    def show(self, image: Image | Exception, parts: Sequence[Box]) -> None:
        """Shows parts of a decoded block, which lie in the window; a fault fails the window."""
        try:
            if isinstance(image, Exception):
                raise image
            for part in parts:
                image.show(part, self._picture, self._box)
        except Exception as fault:  # raised again in the thread that reads, which waits for this block
            self._fault = self._fault or fault
        finally:
            self._settle()

    def wait(self) -> None:
        """Waits for all blocks; raises what one of them failed with."""
        self._settle()
        with self._is_whole:
            self._is_whole.wait_for(lambda: not self._awaited)
        if self._fault is not None:
            raise self._fault

    def _settle(self) -> None:
        with self._is_whole:
            self._awaited -= 1
            if not self._awaited:
                self._is_whole.notify()


class _Decoded:
    """A block's pixels, or what was raised for them, as soon as a thread has decoded it."""

    def __init__(self) -> None:
        self._image: Image | Exception | None = None
        self._waiting: list[tuple[_View, Sequence[Box], Rows | None]] = []
        self._lock = threading.Lock()

    def decode(self, read: Callable[[CziSlide], Image], slide: CziSlide) -> None:
        """Decodes, and shows the block in the windows that wait for it."""
        try:
            image: Image | Exception = read(slide)
        except Exception as fault:  # raised again for each window that needs the block
            image = fault
        with self._lock:
            self._image = image
        for waiting in self._waiting:
            self._show(*waiting)

    def show_in(self, view: _View, parts: Sequence[Box], later: Rows | None, threads: _Decoders) -> None:
        """Lets the thread that decodes the block show it, or another one if that is done.

        Args:
            later: what is to be kept for the windows after this one.
        """
        view.expect()
        with self._lock:
            is_decoded = self._image is not None
            if not is_decoded:
                self._waiting.append((view, parts, later))
        if is_decoded:
            threads.do(lambda _: self._show(view, parts, later))

    def _show(self, view: _View, parts: Sequence[Box], later: Rows | None) -> None:
        """One window at a time: the next one is begun when this one is whole."""
        image = self._image
        assert image is not None
        try:
            if later is not None and isinstance(image, Image) and later != (image.box.y0, image.box.y1):
                self._image = image.rows(*later)
        except Exception as fault:  # as in `_View.show`: the thread that reads waits for this block
            image = fault
        view.show(image, parts)


class _Decoders:
    """Threads with a handle of a slide each; `concurrent.futures` takes ten times as long to hand work over.

    Args:
        handles: one a thread.
    """

    def __init__(self, handles: Sequence[CziSlide]) -> None:
        self._waiting: SimpleQueue[Callable[[CziSlide], None] | None] = SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._live, args=(handle,), name=f"decode-{nth}", daemon=True)
            for nth, handle in enumerate(handles)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[CziSlide], None]) -> None:
        """Has one of the threads do it, in the order of calls; it raises nothing."""
        self._waiting.put(work)

    def close(self) -> None:
        """Ends the threads, and closes their handles; work that was not begun is left."""
        self._is_closed = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _live(self, handle: CziSlide) -> None:
        while (work := self._waiting.get()) is not None:
            if not self._is_closed:
                work(handle)
        handle.close()


@dataclass(frozen=True)
class _Piece:
    """A block on its way into a window; see `_Decoded.show_in`."""

    block: _Decoded
    parts: Sequence[Box]
    later: Rows | None
    is_new: bool


@dataclass
class _Assembly:
    """What is known of a slide's blocks for a sequence of windows.

    Attributes:
        steps: the blocks of each window, bottom to top.
        bytes_of: each block's pixels.
        later: of each window and block that later windows need too, the rows that are kept for them.
    """

    mosaics: Mapping[int, SceneMosaic]
    visits: Sequence[Visit]
    steps: list[list[BlockKey]] = field(init=False)
    bytes_of: dict[BlockKey, int] = field(init=False)
    later: list[dict[BlockKey, Rows]] = field(init=False)
    _parts: dict[BlockKey, list[Box]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.steps = [
            [BlockKey(visit.scene, nth) for nth in self.mosaics[visit.scene].meeting(self.place(visit))]
            for visit in self.visits
        ]
        self.bytes_of = {key: 3 * self.block(key).box.area_px for keys in self.steps for key in keys}
        self.later = self._cut_where_worth_it(self._needed_later())

    def _needed_later(self) -> list[dict[BlockKey, Rows]]:
        found: list[dict[BlockKey, Rows]] = []
        needed: dict[BlockKey, Rows] = {}
        for visit, keys in zip(reversed(self.visits), reversed(self.steps), strict=True):
            found.append({key: needed[key] for key in keys if key in needed})
            place = self.place(visit)
            for key in keys:
                seen = self.block(key).box.clipped(place)
                y0, y1 = needed.get(key, (seen.y0, seen.y1))
                needed[key] = min(y0, seen.y0), max(y1, seen.y1)
        return found[::-1]

    def _cut_where_worth_it(self, needed: list[dict[BlockKey, Rows]]) -> list[dict[BlockKey, Rows]]:
        kept: dict[BlockKey, Rows] = {}
        later: list[dict[BlockKey, Rows]] = []
        for step in needed:
            for key, (y0, y1) in step.items():
                top, foot = kept.setdefault(key, (self.block(key).box.y0, self.block(key).box.y1))
                row_bytes = 3 * self.block(key).box.width
                if row_bytes * ((foot - top) - (y1 - y0)) >= WORTH_CUTTING_BYTES:
                    kept[key] = y0, y1
            later.append({key: kept[key] for key in step})
        return later

    def cache(self, room_bytes: int) -> Foreseen[Value]:
        """An empty cache for these windows."""
        kept_bytes = [
            {key: 3 * self.block(key).box.width * (y1 - y0) for key, (y0, y1) in step.items()}
            for step in self.later
        ]
        return Foreseen(self.steps, self.bytes_of, kept_bytes, room_bytes)

    def block(self, key: BlockKey) -> SubBlock:
        return self.mosaics[key.scene].level_0[key.nth]

    def parts(self, key: BlockKey) -> list[Box]:
        """The parts of a block that no other hides."""
        if key not in self._parts:
            self._parts[key] = self.mosaics[key.scene].visible_parts(key.nth)
        return self._parts[key]

    def gaps(self, step: int) -> list[Box]:
        """The parts of a window where no block is."""
        visit = self.visits[step]
        return uncovered(self.place(visit), [self.block(key).box for key in self.steps[step]])

    def place(self, visit: Visit) -> Box:
        """The window in mosaic coordinates."""
        corner = self.mosaics[visit.scene].box
        return visit.box.shifted(corner.x0, corner.y0)

    def rehearsed(self, room_bytes: int) -> Foreseen[None]:
        """The cache after all windows were read in order, without reading them."""
        cache: Foreseen[None] = self.cache(room_bytes)
        for step, keys in enumerate(self.steps):
            for key in keys:
                cache.get(key, step, lambda: None)
        return cache


@dataclass(frozen=True)
class ReadPlan:
    """An order of windows and what it costs.

    Attributes:
        order: indices of the windows asked for.
        decoded_bytes: of pixels, when read in that order with the room given.
        touched_bytes: of all sub-blocks that meet any window, once each.
        held_bytes: the most that is kept for later windows, on top of the blocks just decoded.
        block_bytes: of the largest block.
    """

    order: tuple[int, ...]
    decoded_bytes: int
    touched_bytes: int
    held_bytes: int
    block_bytes: int


def mosaics_of(slide: CziSlide, visits: Sequence[Visit]) -> dict[int, SceneMosaic]:
    """The mosaics of the scenes that are visited, by scene; errors as for `CziSlide.read`."""
    return {scene: slide.mosaic(scene) for scene in {visit.scene for visit in visits}}


def plan_reads(mosaics: Mapping[int, SceneMosaic], visits: Sequence[Visit], room_bytes: int) -> ReadPlan:
    """The order of windows, among strips of several widths, that decodes least in the room given.

    A strip is a band of neighbouring columns walked row by row, to and fro: the wider, the fewer
    blocks at its borders are decoded twice, and the more must be held from row to row.
    """
    columns = {scene: sorted({v.box.x0 for v in visits if v.scene == scene}) for scene in mosaics}
    widest = max((len(found) for found in columns.values()), default=0)
    widths = {widest, *(2**n for n in range(widest.bit_length()))} - {0}
    best: ReadPlan | None = None
    for width in sorted(widths, reverse=True):
        order = _in_strips(visits, columns, width)
        assembly = _Assembly(mosaics, [visits[index] for index in order])
        touched = sum(assembly.bytes_of.values())
        cache = assembly.rehearsed(room_bytes)
        if best is None or cache.loaded_bytes < best.decoded_bytes:
            largest = max(assembly.bytes_of.values(), default=0)
            best = ReadPlan(order, cache.loaded_bytes, touched, cache.most_held_bytes, largest)
        if cache.loaded_bytes == touched:
            break
    return best or ReadPlan((), 0, 0, 0, 0)


def _in_strips(visits: Sequence[Visit], columns: Mapping[int, Sequence[int]], width: int) -> tuple[int, ...]:
    column_of = {scene: {x0: n for n, x0 in enumerate(found)} for scene, found in columns.items()}

    def place(index: int) -> tuple[int, int, int, int]:
        visit = visits[index]
        column = column_of[visit.scene][visit.box.x0]
        return visit.scene, column // width, visit.box.y0, column

    return tuple(sorted(range(len(visits)), key=place))


class WindowStream:
    """Reads windows of one slide, in order, ahead of whoever asks for them.

    One thread uses the stream; `threads` more decode for it.
    """

    def __init__(
        self,
        path: Path,
        um_per_px: float,
        visits: Sequence[Visit],
        *,
        room_bytes: int,
        threads: int,
        is_wanted: Callable[[int], bool] = lambda step: True,
    ) -> None:
        """Opens `threads` handles of the slide.

        Args:
            room_bytes: of decoded blocks that may be kept for later windows.
            is_wanted: asked shortly before a window is begun; those not wanted are left out.

        Raises:
            InputError: the slide cannot be opened or is no RGB slide.
        """
        directory = read_directory(path)
        self._visits = visits
        first = CziSlide(directory, um_per_px)
        try:
            self._assembly = _Assembly(mosaics_of(first, visits), visits)
        except InputError:
            first.close()
            raise
        self._cache: Foreseen[_Decoded] = self._assembly.cache(room_bytes)
        self._decoders = _Decoders([first, *(first.another_handle() for _ in range(threads - 1))])
        self._ahead = AHEAD_PER_THREAD * threads
        self._is_wanted = is_wanted
        self._pieces = self._foresee()
        self._pending: deque[_Piece | int] = deque()
        self._new = 0
        self._is_drained = False

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def decoded_bytes(self) -> int:
        """Of pixels decoded so far, those under way included."""
        return self._cache.loaded_bytes

    def close(self) -> None:
        """Stops decoding and closes the handles."""
        self._decoders.close()

    def next_window(self) -> int | None:
        """Index of the next wanted window, which `read_into` will show; None after the last."""
        self._look_ahead()
        if not self._pending:
            return None
        first = self._pending[0]
        if not isinstance(first, int):
            raise RuntimeError("the window before was not read to its end")
        return first

    def read_into(self, picture: Pixels) -> None:
        """Shows the window that `next_window` named.

        Args:
            picture: (box.height, box.width, 3) uint8, RGB; white outside the scene and in its gaps.

        Raises:
            InputError: a sub-block of the window cannot be decoded; the next windows can be read.
        """
        step = self._pending.popleft()
        assert isinstance(step, int)
        place = self._assembly.place(self._visits[step])
        view = _View(picture, place, self._assembly.gaps(step))
        while self._look_ahead() and isinstance(piece := self._pending[0], _Piece):
            self._pending.popleft()
            seen = [part.clipped(place) for part in piece.parts]
            parts = [part for part in seen if part.area_px]
            piece.block.show_in(view, parts, piece.later, self._decoders)
            self._new -= piece.is_new
        view.wait()

    def _look_ahead(self) -> bool:
        """Begins to decode what is needed next; returns whether anything is left to show."""
        while not self._is_drained and (self._new < self._ahead or not self._pending):
            item = next(self._pieces, None)
            if item is None:
                self._is_drained = True
            else:
                self._pending.append(item)
                self._new += isinstance(item, _Piece) and item.is_new
        return bool(self._pending)

    def _foresee(self) -> Iterator[_Piece | int]:
        """Of every wanted window its index, then its blocks."""
        for step, keys in enumerate(self._assembly.steps):
            if not self._is_wanted(step):
                continue
            yield step
            for key in keys:
                before = self._cache.loaded_bytes
                block = self._cache.get(key, step, partial(self._begin, key))
                later = self._assembly.later[step].get(key)
                yield _Piece(block, self._assembly.parts(key), later, self._cache.loaded_bytes > before)

    def _begin(self, key: BlockKey) -> _Decoded:
        """Has a block decoded."""
        stored = self._assembly.block(key)
        foot = max((part.y1 for part in self._assembly.parts(key)), default=stored.box.y0 + 1)
        rows = foot - stored.box.y0
        block = _Decoded()
        self._decoders.do(partial(block.decode, lambda slide: slide.decode(stored, rows)))
        return block
