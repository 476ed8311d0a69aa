"""Where the sub-blocks of a scene lie: which meet a box, which part of each is seen, at what zoom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import Box, uncovered
from mkhspc.slide.czi.directory import CziDirectory, SubBlock
from mkhspc.slide.czi.metadata import index_counts
from mkhspc.slide.model import SceneInfo

Corners = NDArray[np.int64]


@dataclass(frozen=True)
class SceneMosaic:
    """The sub-blocks of one scene in the plane that is read; boxes are in mosaic coordinates.

    Attributes:
        box: the scene.
        plane: the index read along every dimension: the middle of a focus stack, the first of others.
        level_0: bottom to top: where two overlap the later one is seen.
        pyramid: blocks of the reduced levels, by reduction.
        foreign: (n, 4) corners of level-0 blocks of other scenes that reach into `box`.
    """

    box: Box
    plane: Mapping[str, int]
    level_0: tuple[SubBlock, ...]
    pyramid: Mapping[int, tuple[SubBlock, ...]]
    foreign: Corners

    @property
    def is_ambiguous(self) -> bool:
        """Whether two level-0 blocks share a mosaic index, so that neither can be named."""
        return len({block.mosaic_index for block in self.level_0}) < len(self.level_0)

    @cached_property
    def is_overlaid(self) -> bool:
        """Whether a block of another scene shares a pixel with a block of this one."""
        return any(_meets(self._corners, Box(*corners)).any() for corners in self.foreign.tolist())

    def meeting(self, box: Box) -> list[int]:
        """Indices of the level-0 blocks that share a pixel with a box, bottom to top."""
        found: list[int] = np.flatnonzero(_meets(self._corners, box)).tolist()
        return found

    def visible_parts(self, nth: int) -> list[Box]:
        """The part of level-0 block `nth` that no later block hides, as boxes that do not overlap."""
        box = self.level_0[nth].box
        above = self._corners[nth + 1 :]
        return uncovered(box, [Box(*corners) for corners in above[_meets(above, box)].tolist()])

    @cached_property
    def _corners(self) -> Corners:
        return corners_of(self.level_0)


def scene_mosaic(directory: CziDirectory, scene: SceneInfo) -> SceneMosaic:
    """The sub-blocks of a scene, in the plane that is read."""
    own = [block for block in directory.sub_blocks if block.scene == scene.index]
    counts = index_counts([block for block in own if block.is_level_0])
    plane = {name: found[len(found) // 2 if name == "Z" else 0] for name, found in counts.items()}
    own = [b for b in own if all(b.plane.get(name, index) == index for name, index in plane.items())]
    pyramid: dict[int, list[SubBlock]] = {}
    for block in own:
        if not block.is_level_0:
            pyramid.setdefault(block.reduction, []).append(block)
    others = corners_of([block for block in directory.level_0 if block.scene != scene.index])
    return SceneMosaic(
        box=scene.mosaic_box,
        plane=plane,
        level_0=tuple(sorted((b for b in own if b.is_level_0), key=lambda block: block.mosaic_index)),
        pyramid={reduction: tuple(blocks) for reduction, blocks in pyramid.items()},
        foreign=others[_meets(others, scene.mosaic_box)],
    )


def corners_of(blocks: Sequence[SubBlock]) -> Corners:
    """(n, 4) x0, y0, x1, y1 of the level-0 pixels that blocks cover."""
    return np.array([(b.box.x0, b.box.y0, b.box.x1, b.box.y1) for b in blocks], np.int64).reshape(-1, 4)


def _meets(corners: Corners, box: Box) -> NDArray[np.bool_]:
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
