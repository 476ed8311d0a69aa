"""Cells as runs of pixels: the one packed form that all shape measurements are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Detection
from mkhspc.geometry import BoolMask, Box

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def ragged_indices(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> Ints:
    """`starts[i], starts[i] + 1, ...` for `lengths[i]` steps each, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    indices: Ints = np.repeat(starts - ends + lengths, lengths) + np.arange(total)
    return indices


@dataclass(frozen=True)
class PackedMasks:
    """Masks of n cells as m horizontal runs of pixels, sorted by cell, row and column.

    A run covers the pixels [x0, x1) of row y, counted from the top-left corner of its cell's box.
    Every sum over a cell is then a closed formula over its few runs instead of a pass over its
    pixels, and it is a sum of integers: exact, so it cannot depend on the cells around it.

    Attributes:
        boxes: (n, 4) bounding boxes x0, y0, x1, y1 in level-0 pixels of the scene.
        offsets: (n + 1,) the runs of cell i are `offsets[i]` to `offsets[i + 1]`.
        cell, y, x0, x1: (m,) each.
    """

    boxes: Ints
    offsets: Ints
    cell: Ints
    y: Ints
    x0: Ints
    x1: Ints

    @classmethod
    def from_detections(cls, detections: Sequence[Detection], window: Box) -> PackedMasks:
        """Packs detections, in their order.

        Raises:
            ValueError: a detection reaches out of the window, or its mask is empty, has another
                shape than its box, or leaves a row of it empty.
        """
        boxes = _boxes(detections, window)
        widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        row_ends = np.cumsum(np.repeat(widths, heights))
        row_starts = row_ends - np.repeat(widths, heights)
        starts, ends = _runs_of_rows([d.mask for d in detections], row_starts, row_ends)
        row = np.searchsorted(row_starts, starts, side="right") - 1
        if np.count_nonzero(np.diff(row, prepend=-1)) != len(row_starts):
            raise ValueError("a mask has an empty row: it is not tight, or not in one piece")
        cell = np.repeat(np.arange(len(boxes)), heights)[row]
        return cls(
            boxes=boxes,
            offsets=np.searchsorted(cell, np.arange(len(boxes) + 1)),
            cell=cell,
            y=row - (np.cumsum(heights) - heights)[cell],
            x0=starts - row_starts[row],
            x1=ends - row_starts[row],
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def widths_px(self) -> Ints:
        return self.boxes[:, 2] - self.boxes[:, 0]

    @property
    def heights_px(self) -> Ints:
        return self.boxes[:, 3] - self.boxes[:, 1]

    @cached_property
    def areas_px(self) -> Ints:
        """(n,) number of pixels."""
        return self._sums(self.x1 - self.x0)

    @property
    def centroids_px(self) -> Floats:
        """(n, 2) centres of mass x, y in level-0 pixels of the scene, pixel centres at +0.5."""
        moments = self.moments(1)
        first = np.stack([moments[1, 0], moments[0, 1]], axis=1)
        centre: Floats = self.boxes[:, :2] + (first / self.areas_px[:, None] + 0.5)
        return centre

    def moments(self, order: int, origin: Ints | None = None) -> dict[tuple[int, int], Ints]:
        """For every p + q up to `order`, at most 3: (n,) sums over a cell's pixels of x**p * y**q.

        Args:
            origin: (n, 2) x, y of the point to count from; the box's corner by default.
        """
        x0, x1, y = self.x0, self.x1, self.y
        if origin is not None:
            shift_x, shift_y = origin[self.cell].T
            x0, x1, y = x0 - shift_x, x1 - shift_x, y - shift_y
        found = {}
        for p in range(order + 1):
            along = _power_sum(x1, p) - _power_sum(x0, p)
            for q in range(order + 1 - p):
                found[p, q] = self._sums(along)
                along = along * y
        return found

    def _sums(self, values: Ints) -> Ints:
        """(n,) sums over each cell of (m,) values of its runs."""
        sums: Ints = np.add.reduceat(values, self.offsets[:-1]) if len(self) else values
        return sums

    @cached_property
    def rows(self) -> tuple[Ints, Ints, Ints]:
        """Every row of every cell, downwards: its cell, first x, and x past its last pixel."""
        starts = np.ones(len(self.y), bool)
        starts[1:] = (self.y[1:] != self.y[:-1]) | (self.cell[1:] != self.cell[:-1])
        first = np.flatnonzero(starts)
        last = np.append(first[1:], len(self.y)) - 1
        return self.cell[first], self.x0[first], self.x1[last]


def _boxes(detections: Sequence[Detection], window: Box) -> Ints:
    corners = [(d.box.x0, d.box.y0, d.box.x1, d.box.y1) for d in detections]
    boxes = np.array(corners, np.int64).reshape(-1, 4)
    shapes = np.array([d.mask.shape for d in detections], np.int64).reshape(-1, 2)
    sizes = boxes[:, [3, 2]] - boxes[:, [1, 0]]
    fits = ((sizes == shapes) & (sizes > 0)).all(axis=1)
    if not fits.all():
        unfit = detections[int(fits.argmin())].box
        raise ValueError(f"a mask is empty, or does not have the shape of its box: {unfit}")
    low, high = (window.x0, window.y0), (window.x1, window.y1)
    is_inside = ((boxes[:, :2] >= low) & (boxes[:, 2:] <= high)).all(axis=1)
    if not is_inside.all():
        outside = detections[int(is_inside.argmin())].box
        raise ValueError(f"a detection reaches out of its window {window}: {outside}")
    return boxes


def _runs_of_rows(masks: list[BoolMask], row_starts: Ints, row_ends: Ints) -> tuple[Ints, Ints]:
    """Where runs begin and end, in the masks laid out row after row in one flat array."""
    if not masks:
        return row_starts, row_ends
    flat = np.concatenate([mask.ravel() for mask in masks])
    is_first, is_last = flat.copy(), flat.copy()
    is_first[1:] &= ~flat[:-1]
    is_last[:-1] &= ~flat[1:]
    is_first[row_starts] = flat[row_starts]
    is_last[row_ends - 1] = flat[row_ends - 1]
    return np.flatnonzero(is_first), np.flatnonzero(is_last) + 1


def _power_sum(end: Ints, power: int) -> Ints:
    """Sum of x**power for x = 0, 1, ... below `end` (Faulhaber); valid for negative ends too."""
    if power == 0:
        return end
    triangle = end * (end - 1) // 2
    if power == 1:
        return triangle
    if power == 2:
        return triangle * (2 * end - 1) // 3
    if power == 3:
        return triangle * triangle
    raise ValueError(f"no closed sum for power {power}")
