"""Cells as runs of pixels: the one packed form that all shape measurements are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.contract import Detection

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def ragged_indices(starts: Ints, lengths: Ints) -> Ints:
    """`starts[i], starts[i] + 1, ...` for `lengths[i]` steps each, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + lengths, lengths) + np.arange(total)


@dataclass(frozen=True)
class Runs:
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
    def from_detections(cls, detections: Sequence[Detection]) -> Runs:
        """Packs detections, in their order.

        Raises:
            ValueError: a mask does not fit its box, or leaves a row of it empty.
        """
        boxes = np.array([(d.box.x0, d.box.y0, d.box.x1, d.box.y1) for d in detections], np.int64).reshape(-1, 4)
        heights, widths = boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]
        if any(d.mask.shape != (d.box.height, d.box.width) for d in detections):
            raise ValueError("a mask does not have the shape of its box")
        row_starts = np.cumsum(np.repeat(widths, heights)) - np.repeat(widths, heights)
        starts, ends = _runs_of_rows([d.mask for d in detections], row_starts)
        row = np.searchsorted(row_starts, starts, side="right") - 1
        if len(row_starts) != np.count_nonzero(np.diff(row, prepend=-1)):
            raise ValueError("a mask has an empty row: it is not tight, or not in one piece")
        first_row = np.cumsum(heights) - heights
        cell = np.repeat(np.arange(len(boxes)), heights)[row]
        return cls(
            boxes=boxes,
            offsets=np.searchsorted(cell, np.arange(len(boxes) + 1)),
            cell=cell,
            y=row - first_row[cell],
            x0=starts - row_starts[row],
            x1=ends - row_starts[row],
        )

    def select(self, indices: Ints) -> Runs:
        """The cells at these indices, in this order."""
        lengths = np.diff(self.offsets)[indices]
        kept = ragged_indices(self.offsets[indices], lengths)
        return Runs(
            boxes=self.boxes[indices],
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            cell=np.repeat(np.arange(len(indices)), lengths),
            y=self.y[kept],
            x0=self.x0[kept],
            x1=self.x1[kept],
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
        return self.moment(0, 0)

    @property
    def centroids_px(self) -> Floats:
        """(n, 2) centres of mass x, y in level-0 pixels of the scene, pixel centres at +0.5."""
        first = np.stack([self.moment(1, 0), self.moment(0, 1)], axis=1)
        return self.boxes[:, :2] + (first / self.areas_px[:, None] + 0.5)

    def moment(self, p: int, q: int, origin: Ints | None = None) -> Ints:
        """(n,) sums over a cell's pixels of x**p * y**q, for p up to 3.

        Args:
            origin: (n, 2) x, y of the point to count from; the box's corner by default.
        """
        x0, x1, y = self.x0, self.x1, self.y
        if origin is not None:
            shift_x, shift_y = origin[self.cell].T
            x0, x1, y = x0 - shift_x, x1 - shift_x, y - shift_y
        along = _power_sum(x1, p) - _power_sum(x0, p)
        return self.total(along * y**q)

    def total(self, values: Ints) -> Ints:
        """(n,) sums over each cell of (m,) values of its runs."""
        sums: Ints = np.add.reduceat(values, self.offsets[:-1]) if len(self) else values
        return sums

    @cached_property
    def rows(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Extent of every row of every cell: its cell, y, first x, and x past its last pixel."""
        starts = np.ones(len(self.y), bool)
        starts[1:] = (np.diff(self.y) != 0) | (np.diff(self.cell) != 0)
        first = np.flatnonzero(starts)
        last = np.flatnonzero(np.roll(starts, -1))
        return self.cell[first], self.y[first], self.x0[first], self.x1[last]


def _runs_of_rows(masks: list[NDArray[np.bool_]], row_starts: Ints) -> tuple[Ints, Ints]:
    """Start and end of every run in the masks laid out row after row, in one flat array."""
    if not masks:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    flat = np.concatenate([mask.ravel() for mask in masks])
    is_start, is_end = flat.copy(), flat.copy()
    is_start[1:] &= ~flat[:-1]
    is_end[:-1] &= ~flat[1:]
    is_start[row_starts] = flat[row_starts]
    row_lasts = np.append(row_starts[1:], len(flat)) - 1
    is_end[row_lasts] = flat[row_lasts]
    return np.flatnonzero(is_start), np.flatnonzero(is_end) + 1


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


def centroids(detections: Sequence[Detection]) -> Floats:
    """(n, 2) centroids x, y of detections, in level-0 pixels of the scene (pixel centres at +0.5)."""
    return Runs.from_detections(detections).centroids_px


def areas_px(detections: Sequence[Detection]) -> Ints:
    """(n,) numbers of pixels of detections."""
    return Runs.from_detections(detections).areas_px
