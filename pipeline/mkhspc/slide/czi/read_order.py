"""In which order the windows of a slide are read, and what of its sub-blocks is kept for later windows.

Windows overlap by their halos and seldom lie on the sub-blocks' grid, so reading each on its own
decodes a pixel twice and more. Here the order is known before the first read: decoded blocks are
kept while another window will need them, no more of them than it needs, and when room is short
the one needed last goes first (Belady's rule, which no other order of eviction beats).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from mkhspc.geometry import Box, uncovered
from mkhspc.slide.czi.directory import SubBlock
from mkhspc.slide.czi.mosaic import SceneMosaic
from mkhspc.slide.czi.slide import CziSlide

WORTH_CUTTING_BYTES = 200_000
"""The part of a block that later windows need is copied out if so much can be forgotten then."""
ENOUGH = 1.095
"""Decoding so many times the bytes that are touched is as good as less: reading is a fourteenth of the work
on a tile, and what would have to be kept for less is most of what a wide slide needs beyond a narrow one."""
LEAST_ROOM_BYTES = 64_000_000
"""Nothing is won by keeping less than this."""
ROOM_STEP = 0.93

Value = TypeVar("Value")


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


@dataclass
class Assembly:
    """What is known of a slide's blocks for a sequence of windows.

    Attributes:
        steps: the blocks of each window, bottom to top.
        bytes_of: each block's pixels.
        later: of each window and block that later windows need too, the part that is kept for them, in
            mosaic coordinates.
    """

    mosaics: Mapping[int, SceneMosaic]
    visits: Sequence[Visit]
    steps: Sequence[Sequence[BlockKey]]
    bytes_of: dict[BlockKey, int] = field(init=False)
    later: list[dict[BlockKey, Box]] = field(init=False)
    _parts: dict[BlockKey, list[Box]] = field(init=False, default_factory=dict)

    @classmethod
    def of(cls, mosaics: Mapping[int, SceneMosaic], visits: Sequence[Visit]) -> Assembly:
        """For windows in this order."""
        return cls(mosaics, visits, [_blocks_of(visit, mosaics[visit.scene]) for visit in visits])

    def reordered(self, order: Sequence[int]) -> Assembly:
        """For the same windows in another order."""
        return Assembly(self.mosaics, [self.visits[i] for i in order], [self.steps[i] for i in order])

    def __post_init__(self) -> None:
        self.bytes_of = {key: 3 * self.block(key).box.area_px for keys in self.steps for key in keys}
        self.later = self._cut_where_worth_it(self._needed_later())

    def _needed_later(self) -> list[dict[BlockKey, Box]]:
        found: list[dict[BlockKey, Box]] = []
        needed: dict[BlockKey, Box] = {}
        for step in range(len(self.steps) - 1, -1, -1):
            keys, place = self.steps[step], self.place(self.visits[step])
            found.append({key: needed[key] for key in keys if key in needed})
            for key in keys:
                seen = self.block(key).box.clipped(place)
                needed[key] = seen.joined(needed[key]) if key in needed else seen
        return found[::-1]

    def _cut_where_worth_it(self, needed: list[dict[BlockKey, Box]]) -> list[dict[BlockKey, Box]]:
        parts: dict[BlockKey, Box] = {}
        later: list[dict[BlockKey, Box]] = []
        for step in needed:
            for key, kept in step.items():
                part = parts.setdefault(key, self.block(key).box)
                if 3 * (part.area_px - kept.area_px) >= WORTH_CUTTING_BYTES:
                    parts[key] = kept
            later.append({key: parts[key] for key in step})
        return later

    def cache(self, room_bytes: int) -> Foreseen[Value]:
        """An empty cache for these windows."""
        kept_bytes = [{key: 3 * part.area_px for key, part in step.items()} for step in self.later]
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
        return _place(visit, self.mosaics[visit.scene])

    def plan(self, order: tuple[int, ...], room_bytes: int) -> ReadPlan:
        """What reading these windows costs; `order` says which of those asked for they are."""
        cache = self._rehearsed(room_bytes)
        touched, largest = sum(self.bytes_of.values()), max(self.bytes_of.values(), default=0)
        return ReadPlan(order, cache.loaded_bytes, touched, cache.most_held_bytes, largest, room_bytes)

    def _rehearsed(self, room_bytes: int) -> Foreseen[None]:
        """The cache after all windows were read in order, without reading them."""
        cache: Foreseen[None] = self.cache(room_bytes)
        for step, keys in enumerate(self.steps):
            for key in keys:
                cache.get(key, step, lambda: None)
        return cache


def _place(visit: Visit, mosaic: SceneMosaic) -> Box:
    return visit.box.shifted(mosaic.box.x0, mosaic.box.y0)


def _blocks_of(visit: Visit, mosaic: SceneMosaic) -> list[BlockKey]:
    """The blocks that a window shows, bottom to top."""
    return [BlockKey(visit.scene, nth) for nth in mosaic.meeting(_place(visit, mosaic))]


@dataclass(frozen=True)
class ReadPlan:
    """An order of windows and what it costs.

    Attributes:
        order: indices of the windows asked for.
        decoded_bytes: of pixels, when read in that order with the room given.
        touched_bytes: of all sub-blocks that meet any window, once each.
        held_bytes: the most that is kept for later windows, on top of the blocks just decoded.
        block_bytes: of the largest block.
        room_bytes: of decoded blocks that may be kept, with which it is so.
    """

    order: tuple[int, ...]
    decoded_bytes: int
    touched_bytes: int
    held_bytes: int
    block_bytes: int
    room_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether nearly nothing is decoded twice."""
        return self.decoded_bytes <= ENOUGH * self.touched_bytes

    @property
    def is_worth_packing(self) -> bool:
        """Whether so much is held that the time for packing it is well spent."""
        return self.held_bytes > LEAST_ROOM_BYTES


def mosaics_of(slide: CziSlide, visits: Sequence[Visit]) -> dict[int, SceneMosaic]:
    """The mosaics of the scenes that are visited, by scene; errors as for `CziSlide.read`."""
    return {scene: slide.mosaic(scene) for scene in {visit.scene for visit in visits}}


def plan_reads(mosaics: Mapping[int, SceneMosaic], visits: Sequence[Visit], room_bytes: int) -> ReadPlan:
    """The order of windows, among strips of several widths, that keeps least of those that decode enough.

    A strip is a band of neighbouring columns walked row by row: the wider, the fewer blocks at its borders
    are decoded twice, and the more must be kept from row to row.

    Args:
        room_bytes: that may be kept at most. What decodes least in it is taken, or what decodes no more
            than `ENOUGH` in less.
    """
    if not visits:
        return ReadPlan((), 0, 0, 0, 0, room_bytes)
    columns = {scene: sorted({v.box.x0 for v in visits if v.scene == scene}) for scene in mosaics}
    widest = max(map(len, columns.values()))
    orders = {_in_strips(visits, columns, width) for width in _widths(widest)}
    as_asked = Assembly.of(mosaics, visits)
    laid_out = {order: as_asked.reordered(order) for order in sorted(orders)}
    plans = _rehearsed(laid_out, room_bytes)
    best = min(plans, key=lambda plan: (plan.decoded_bytes, plan.held_bytes))
    while (room_bytes := int(ROOM_STEP * best.held_bytes)) >= LEAST_ROOM_BYTES:
        # Less room never decodes less: an order that is not good enough will not become so.
        left = {plan.order: laid_out[plan.order] for plan in plans if plan.is_enough}
        plans = _rehearsed(left, room_bytes)
        if not any(plan.is_enough for plan in plans):
            break
        best = min(plans, key=lambda plan: (plan.decoded_bytes, plan.held_bytes))
    return best


def _widths(widest: int) -> list[int]:
    """Numbers of columns, each half as many again as the last."""
    widths = [1]
    while widths[-1] < widest:
        widths.append(min(widest, max(widths[-1] + 1, round(1.5 * widths[-1]))))
    return widths


def _rehearsed(laid_out: Mapping[tuple[int, ...], Assembly], room_bytes: int) -> list[ReadPlan]:
    """What each order decodes and keeps."""
    return [assembly.plan(order, room_bytes) for order, assembly in laid_out.items()]


def _in_strips(visits: Sequence[Visit], columns: Mapping[int, Sequence[int]], width: int) -> tuple[int, ...]:
    column_of = {scene: {x0: n for n, x0 in enumerate(found)} for scene, found in columns.items()}

    def place(index: int) -> tuple[int, int, int, int]:
        visit = visits[index]
        column = column_of[visit.scene][visit.box.x0]
        return visit.scene, column // width, visit.box.y0, column

    return tuple(sorted(range(len(visits)), key=place))
