"""In which order the windows of a slide are read, and which decoded blocks are kept for later windows.

Windows overlap by their halos and seldom lie on the grid of the sub-blocks, so that most blocks are seen in
several windows. Windows are read in strips, row by row, and a block is kept as long as a later window of its
strip needs it: then only blocks at the borders of strips are decoded twice, and what is kept does not grow
with the width of the slide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mkhspc.geometry import Box, uncovered
from mkhspc.slide.czi.block_cache import BlockCache, BlockKey, Value
from mkhspc.slide.czi.directory import SubBlock
from mkhspc.slide.czi.mosaic import SceneMosaic
from mkhspc.slide.czi.slide import CziSlide

STRIP_PX = 24_000
"""The widest strip, in level-0 pixels: some ten blocks of usual scanners, of which two lie on its borders and
are decoded twice. With blocks and halos of tiles as usual, 150 to 350 MB are kept from row to row."""
MANY_BLOCKS = 400
"""Blocks in a window from which on its gaps are not looked for: each block is held against each gap."""


@dataclass(frozen=True)
class SceneBox:
    """A box of a scene whose pixels are read as one window.

    Attributes:
        box: level-0 pixels of the scene; may reach outside it.
        strip: decoded blocks are kept from window to window of one strip alone.
    """

    scene: int
    box: Box
    strip: int = 0


@dataclass(frozen=True)
class ReadCost:
    """What it takes to read windows in their order.

    Attributes:
        decoded_bytes: of pixels that are decoded.
        touched_bytes: of all sub-blocks that any window shows, once each.
        held_bytes: the most that is kept for later windows, on top of the blocks just decoded.
        block_bytes: of the largest block.
        room_bytes: how much may be kept; the other figures hold for it.
    """

    decoded_bytes: int
    touched_bytes: int
    held_bytes: int
    block_bytes: int
    room_bytes: int


@dataclass(frozen=True)
class ReadOrder:
    """The order in which windows are read.

    Attributes:
        indices: of the windows asked for, in the order of reading.
        windows: the same windows, with their strips.
    """

    indices: tuple[int, ...]
    windows: tuple[SceneBox, ...]
    cost: ReadCost


def mosaics_of(slide: CziSlide, windows: Sequence[SceneBox]) -> dict[int, SceneMosaic]:
    """The mosaics of the scenes that windows lie in, by scene; errors as for `CziSlide.read`."""
    return {scene: slide.mosaic(scene) for scene in {window.scene for window in windows}}


def order_windows(
    mosaics: Mapping[int, SceneMosaic], windows: Sequence[SceneBox], room_bytes: int
) -> ReadOrder:
    """Orders windows by strips and rows, and finds out what reading them in that order takes.

    Args:
        mosaics: by scene.
        room_bytes: of decoded blocks that may be kept for later windows.
    """
    placed = [replace(window, strip=_strip_of(window, mosaics[window.scene])) for window in windows]

    def place(index: int) -> tuple[int, int, int, int]:
        window = placed[index]
        return window.scene, window.strip, window.box.y0, window.box.x0

    indices = tuple(sorted(range(len(placed)), key=place))
    in_order = tuple(placed[index] for index in indices)
    return ReadOrder(indices, in_order, _cost(WindowBlocks(mosaics, in_order), room_bytes))


def _cost(blocks: WindowBlocks, room_bytes: int) -> ReadCost:
    """Found by going through all windows with a cache of blocks that are not decoded."""
    cache: BlockCache[None] = blocks.cache(room_bytes)
    for step, keys in enumerate(blocks.steps):
        for key in keys:
            cache.get(key, step, lambda: None)
    sizes = {(key.scene, key.nth): size for key, size in blocks.bytes_of.items()}
    return ReadCost(
        decoded_bytes=cache.loaded_bytes,
        touched_bytes=sum(sizes.values()),
        held_bytes=cache.most_held_bytes,
        block_bytes=max(sizes.values(), default=0),
        room_bytes=room_bytes,
    )


def _strip_of(window: SceneBox, mosaic: SceneMosaic) -> int:
    """The strip in which a window's centre lies, of strips that are equally wide."""
    width = mosaic.box.width
    strips = math.ceil(width / STRIP_PX)
    centre = (window.box.x0 + window.box.x1) // 2
    return min(max(0, centre * strips // width), strips - 1)


class WindowBlocks:
    """Which blocks a sequence of windows shows.

    Attributes:
        windows: in the order of reading.
        steps: the blocks of each window, bottom to top.
        bytes_of: each block's pixels.
        kept: of each window and block that later windows need too, the part that is kept for them, in mosaic
            coordinates.
    """

    def __init__(self, mosaics: Mapping[int, SceneMosaic], windows: Sequence[SceneBox]) -> None:
        self._mosaics = mosaics
        self.windows = windows
        self.steps = [
            [BlockKey(w.scene, w.strip, nth) for nth in mosaics[w.scene].meeting(self.place(w))]
            for w in windows
        ]
        self.bytes_of = {key: 3 * self.block(key).box.area_px for keys in self.steps for key in keys}
        self.kept = self._kept_parts()
        self._parts: dict[BlockKey, list[Box]] = {}

    def block(self, key: BlockKey) -> SubBlock:
        return self._mosaics[key.scene].level_0[key.nth]

    def parts(self, key: BlockKey) -> list[Box]:
        """The parts of a block that no other hides."""
        if key not in self._parts:
            self._parts[key] = self._mosaics[key.scene].visible_parts(key.nth)
        return self._parts[key]

    def place(self, window: SceneBox) -> Box:
        """A window in mosaic coordinates."""
        scene = self._mosaics[window.scene].box
        return window.box.shifted(scene.x0, scene.y0)

    def gaps(self, step: int) -> list[Box]:
        """What no block of a window covers; where it has very many blocks, all of it."""
        if len(self.steps[step]) > MANY_BLOCKS:
            return [self.place(self.windows[step])]
        return uncovered(self.place(self.windows[step]), [self.block(key).box for key in self.steps[step]])

    def cache(self, room_bytes: int) -> BlockCache[Value]:
        """An empty cache for these windows."""
        kept_bytes = [{key: 3 * part.area_px for key, part in parts.items()} for parts in self.kept]
        return BlockCache(self.steps, self.bytes_of, kept_bytes, room_bytes)

    def _kept_parts(self) -> list[dict[BlockKey, Box]]:
        """A part is cut out when it is at most half of what is held: so each pixel is copied once at most."""
        held: dict[BlockKey, Box] = {}
        kept = []
        for needed in self._needed_later():
            for key, part in needed.items():
                whole = held.get(key, self.block(key).box)
                held[key] = part if 2 * part.area_px <= whole.area_px else whole
            kept.append({key: held[key] for key in needed})
        return kept

    def _needed_later(self) -> list[dict[BlockKey, Box]]:
        """Of each window and block, the part that later windows show."""
        found = []
        needed: dict[BlockKey, Box] = {}
        for window, keys in zip(reversed(self.windows), reversed(self.steps), strict=True):
            found.append({key: needed[key] for key in keys if key in needed})
            for key in keys:
                seen = self.block(key).box.clipped(self.place(window))
                needed[key] = seen.joined(needed[key]) if key in needed else seen
        return found[::-1]
