"""Where the sub-blocks of a scene lie: which meet a box, which part of each is seen, at what zoom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import Box, uncovered
from mkhspc.slide.czi.directory import CziDirectory, SubBlock
from mkhspc.slide.czi.metadata import index_counts, read_blocks
from mkhspc.slide.model import SceneInfo

Corners = NDArray[np.int64]

MAX_OVERLAPS = 32
"""The most images that lie on one another for each image, on average. A grid in which each overlaps its eight
neighbours has four, and one more where a merged picture lies under it."""
MAX_PIECES = 1000
"""The most rectangles in which an image may be seen between others."""
_SAVE_AGAIN = "save the slide again in ZEN"


@dataclass(frozen=True)
class SceneMosaic:
    """The sub-blocks of one scene in the plane that is read; boxes are in mosaic coordinates.

    Attributes:
        box: the scene.
        plane: the index read along every dimension: the channel of the scene, the middle of a focus stack,
            the first of others.
        level_0: bottom to top: where two overlap the later one is seen.
        pyramid: blocks of the reduced levels, by reduction.
        foreign: (n, 4) corners of level-0 blocks of other scenes that reach into `box`.
        scene, path: named in errors.
        is_mixed: the file holds images of other pixel types too.
    """

    box: Box
    plane: Mapping[str, int]
    level_0: tuple[SubBlock, ...]
    pyramid: Mapping[int, tuple[SubBlock, ...]]
    foreign: Corners
    scene: int = 0
    path: Path = Path()
    is_mixed: bool = False

    def refuse_confusion(self) -> None:
        """Raises `InputError` where nobody can say, or not soon, which image is seen at which place."""
        trouble = ""
        if self.is_ambiguous:
            trouble = "share a mosaic index, so that none can be named"
        elif self._above is None:
            trouble = f"lie on one another, more than {MAX_OVERLAPS} on each"
        if trouble:
            raise InputError(f"the images of scene {self.scene} {trouble}", where=self.path, fix=_SAVE_AGAIN)

    @property
    def is_ambiguous(self) -> bool:
        """Whether two level-0 blocks share a mosaic index, so that neither can be named."""
        return len({block.mosaic_index for block in self.level_0}) < len(self.level_0)

    @cached_property
    def is_overlaid(self) -> bool:
        """Whether a block of another scene shares a pixel with a block of this one."""
        return any(meets(self._corners, Box(*corners)).any() for corners in self.foreign.tolist())

    def meeting(self, box: Box) -> list[int]:
        """Indices of the level-0 blocks that share a pixel with a box, bottom to top."""
        found: list[int] = np.flatnonzero(meets(self._corners, box)).tolist()
        return found

    def visible_parts(self, nth: int) -> list[Box]:
        """The part of level-0 block `nth` that no later block hides, as boxes that do not overlap.

        Raises:
            InputError: they are more than `MAX_PIECES`.
        """
        above = [] if self._above is None else self._above[nth].tolist()
        try:
            return uncovered(self.level_0[nth].box, [self.level_0[n].box for n in above], MAX_PIECES)
        except ValueError as error:
            what = f"an image of scene {self.scene} cannot be shown: {error}"
            raise InputError(what, where=self.path, fix=_SAVE_AGAIN) from error

    @cached_property
    def _above(self) -> list[NDArray[np.int64]] | None:
        """Of each level-0 block the later ones that share a pixel with it; None where they are too many."""
        pairs = overlapping_pairs(self._corners, MAX_OVERLAPS * len(self.level_0))
        if pairs is None:
            return None
        lower, upper = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
        return np.split(upper, np.searchsorted(lower, np.arange(1, len(self.level_0))))

    @cached_property
    def _corners(self) -> Corners:
        return corners_of(self.level_0)


def scene_mosaic(directory: CziDirectory, scene: SceneInfo) -> SceneMosaic:
    """The sub-blocks of a scene that are read, in the plane that is read."""
    own = read_blocks(directory.by_scene[scene.index], [scene])
    counts = index_counts([block for block in own if block.is_level_0])
    plane = {name: found[len(found) // 2 if name == "Z" else 0] for name, found in counts.items()}
    own = [b for b in own if all(b.plane.get(name, index) == index for name, index in plane.items())]
    pyramid: dict[int, list[SubBlock]] = {}
    for block in own:
        if not block.is_level_0:
            pyramid.setdefault(block.reduction, []).append(block)
    others = directory.level_0_corners
    return SceneMosaic(
        scene=scene.index,
        path=directory.path,
        box=scene.mosaic_box,
        plane=plane,
        level_0=tuple(sorted((b for b in own if b.is_level_0), key=lambda block: block.mosaic_index)),
        pyramid={reduction: tuple(blocks) for reduction, blocks in pyramid.items()},
        foreign=others[meets(others[:, :4], scene.mosaic_box) & (others[:, 4] != scene.index), :4],
        is_mixed=len(directory.pixel_types) > 1,
    )


def corners_of(blocks: Sequence[SubBlock]) -> Corners:
    """(n, 4) x0, y0, x1, y1 of the level-0 pixels that blocks cover."""
    return corners_of_boxes([block.box for block in blocks])


def corners_of_boxes(boxes: Sequence[Box]) -> Corners:
    """(n, 4) x0, y0, x1, y1 of boxes."""
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.int64).reshape(-1, 4)


def overlapping_pairs(corners: Corners, most: int) -> NDArray[np.int64] | None:
    """(m, 2) indices of boxes that share a pixel, the lower one first; None for more pairs than `most`.

    A sweep along the longer side of all: each box is held against those that begin before it ends.
    """
    if not len(corners):
        return np.zeros((0, 2), np.int64)
    width, height = corners[:, 2:].max(axis=0) - corners[:, :2].min(axis=0)
    along = int(height > width)
    order = np.argsort(corners[:, along], kind="stable")
    start, end = corners[order, along], corners[order, along + 2]
    low, high = corners[order, 1 - along], corners[order, 3 - along]
    found = [np.zeros((0, 2), np.int64)]
    for nth, stop in enumerate(np.searchsorted(start, end).tolist()):
        later = slice(nth + 1, stop)
        met = nth + 1 + np.flatnonzero((low[later] < high[nth]) & (low[nth] < high[later]))
        most -= met.size
        if most < 0:
            return None
        if met.size:
            found.append(np.stack([np.full(met.size, order[nth]), order[met]], axis=1))
    return np.sort(np.concatenate(found), axis=1)


def meets(corners: Corners, box: Box) -> NDArray[np.bool_]:
    """Which of the boxes (n, 4) share a pixel with a box."""
    x0, y0, x1, y1 = corners.T
    meets: NDArray[np.bool_] = (x0 < box.x1) & (box.x0 < x1) & (y0 < box.y1) & (box.y0 < y1)
    return meets


@dataclass(frozen=True)
class Grid:
    """Cells of `factor` x `factor` pixels laid over a scene (mosaic coordinates) from its top-left corner."""

    scene: Box
    factor: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return -(-self.scene.height // self.factor), -(-self.scene.width // self.factor)

    def cells(self, box: Box) -> tuple[slice, slice]:
        """The rows and columns of cells that share a pixel with a box inside the scene."""
        own = box.shifted(-self.scene.x0, -self.scene.y0)
        return (
            slice(own.y0 // self.factor, -(-own.y1 // self.factor)),
            slice(own.x0 // self.factor, -(-own.x1 // self.factor)),
        )

    def edges(self, box: Box) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the cells of `cells(box)` begin and end along y and x, clipped to the box."""
        rows, columns = self.cells(box)
        ys = np.arange(rows.start, rows.stop + 1) * self.factor + self.scene.y0
        xs = np.arange(columns.start, columns.stop + 1) * self.factor + self.scene.x0
        return np.clip(ys, box.y0, box.y1), np.clip(xs, box.x0, box.x1)

    def areas(self, box: Box) -> NDArray[np.int32]:
        """Pixels that each cell of `cells(box)` shares with the box."""
        rows, columns = (np.diff(edges).astype(np.int32) for edges in self.edges(box))
        areas: NDArray[np.int32] = rows[:, None] * columns[None, :]
        return areas

    def covered(self, corners: Corners) -> NDArray[np.bool_]:
        """Cells that share a pixel with any of the boxes (n, 4)."""
        grid = np.zeros(self.shape, bool)
        for x0, y0, x1, y1 in corners.tolist():
            shared = Box(x0, y0, x1, y1).clipped(self.scene)
            if shared.area_px:
                grid[self.cells(shared)] = True
        return grid

    def band(self, top: int, bottom: int) -> Box:
        """Whole cells of rows [top, bottom); may reach beyond the scene."""
        y0, width = self.scene.y0 + top * self.factor, self.shape[1] * self.factor
        return Box(self.scene.x0, y0, self.scene.x0 + width, y0 + (bottom - top) * self.factor)
