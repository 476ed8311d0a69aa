"""Convex hulls of many cells at once, in exact integers.

A hull's outline falls into a left and a right chain, each a function of the row. Both are lower
envelopes (the right one of negated x), so one routine finds them for all cells together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mkhspc.measure.regions import Floats, Ints, PackedMasks, ragged_indices

Coordinates = NDArray[np.int32]

MAX_SIDE_PX = 16_000
"""The longest side of a cell's box, in pixels, up to which products of two lengths in half pixels fit 32
bits, which are twice as fast."""

PAIRS_AT_ONCE = 1 << 17
"""The number of pairs of hull vertices that are compared in one go, at some 40 bytes each: a tile's cells
have millions."""


@dataclass(frozen=True)
class _Chain:
    """Points (t, v) of one side of all cells, sorted by cell and then t."""

    cell: Coordinates
    t: Coordinates
    v: Coordinates


def _convex(chain: _Chain) -> _Chain:
    """The points below every chord of their cell's chain, and its two ends.

    A point on or above the chord of its neighbours is not a vertex, whatever else is removed, so each
    round drops all such points at once. Cells take about ten rounds, however many there are.
    """
    cell, t, v = chain.cell, chain.t, chain.v
    while True:
        before_t, before_v = t[1:-1] - t[:-2], v[1:-1] - v[:-2]
        across_t, across_v = t[2:] - t[:-2], v[2:] - v[:-2]
        below = before_t * across_v > before_v * across_t
        keep = np.ones(len(t), bool)
        keep[1:-1] = below | (cell[2:] != cell[:-2])
        if keep.all():
            return _Chain(cell, t, v)
        cell, t, v = cell[keep], t[keep], v[keep]


def hull_areas_px(masks: PackedMasks) -> Ints:
    """(n,) numbers of pixels whose centre lies in or on the convex hull of a cell.

    The hull is that of the midpoints of all pixel edges, as in `skimage.morphology.
    convex_hull_image` with its default `offset_coordinates`, and pixels on its border count.
    """
    cell, left, right = _rows(masks)
    firsts = _ceil_halves(_convex(_edge_midpoints(cell, left)), len(masks))
    lasts = _ceil_halves(_convex(_edge_midpoints(cell, 1 - right)), len(masks))
    return masks.heights_px - firsts - lasts


def _rows(masks: PackedMasks) -> tuple[Coordinates, Coordinates, Coordinates]:
    if max(masks.widths_px.max(), masks.heights_px.max()) > MAX_SIDE_PX:
        raise ValueError(f"a cell is more than {MAX_SIDE_PX} px long")
    cell, first, last = (values.astype(np.int32) for values in masks.rows)
    return cell, first, last


def _edge_midpoints(cell: Coordinates, left: Coordinates) -> _Chain:
    """Leftmost pixel-edge midpoints of every row and every row border, in half pixels.

    Relative to pixel centres, pixel (y, x) has them at (2y, 2x - 1) and (2y -+ 1, 2x).
    """
    middle = 2 * np.arange(len(cell)) + cell + 1
    count = 2 * len(cell) + int(cell[-1]) + 1
    v = np.full(count, np.iinfo(np.int32).max, np.int32)
    v[middle], v[middle + 1] = 2 * left - 1, 2 * left
    v[middle - 1] = np.minimum(v[middle - 1], 2 * left)
    return _chain(2 * np.bincount(cell) + 1, -1, v)


def _ceil_halves(chain: _Chain, count: int) -> Ints:
    """(count,) sums over the rows t = 0, 2, 4, ... of a chain of ceil(v / 2)."""
    segments = np.flatnonzero(chain.cell[1:] == chain.cell[:-1])
    t0, v0 = chain.t[segments], chain.v[segments]
    dt, dv = chain.t[segments + 1] - t0, chain.v[segments + 1] - v0
    first = (t0 + 1) // 2
    lengths = (t0 + dt + 1) // 2 - first
    at = np.repeat(np.arange(len(segments)), lengths)
    t = 2 * ragged_indices(first, lengths)
    halves = -((-v0[at] * dt[at] - dv[at] * (t - t0[at])) // (2 * dt[at]))
    offsets = np.searchsorted(chain.cell[segments][at], np.arange(count))
    sums: Ints = np.add.reduceat(halves, offsets, dtype=np.int64)
    return sums


@dataclass(frozen=True)
class Hulls:
    """Convex hulls of the pixel corners of n cells, as polygons with integer corners.

    Attributes:
        offsets: (n + 1,) the vertices of cell i are `offsets[i]` to `offsets[i + 1]`.
        x, y: (m,) int32 vertices in order around the hull, in pixels from the corner of the cell's box.
    """

    offsets: Ints
    x: Coordinates
    y: Coordinates

    @classmethod
    def from_masks(cls, masks: PackedMasks) -> Hulls:
        cell, first, last = _rows(masks)
        left, right = _convex(_corners(cell, first)), _convex(_corners(cell, -last))
        cells = np.concatenate([left.cell, right.cell])
        # Down the left side, up the right: with the rows of the right side negated, one sort.
        way = np.concatenate([left.t, 2 * masks.heights_px[right.cell] - right.t + 1])
        order = np.lexsort((way, cells))
        return cls(
            offsets=np.searchsorted(cells[order], np.arange(len(masks) + 1)),
            x=np.concatenate([left.v, -right.v])[order],
            y=np.concatenate([left.t, right.t])[order],
        )

    @cached_property
    def _edges(self) -> tuple[Coordinates, Coordinates, Floats]:
        """Step x, step y and length of the edge that starts at each vertex."""
        following = np.arange(1, len(self.x) + 1)
        following[self.offsets[1:] - 1] = self.offsets[:-1]
        dx, dy = self.x[following] - self.x, self.y[following] - self.y
        return dx, dy, np.sqrt((dx * dx + dy * dy).astype(np.float64))

    @property
    def perimeters_px(self) -> Floats:
        """(n,) lengths around the hulls."""
        counts = np.diff(self.offsets)
        return np.bincount(np.repeat(np.arange(len(counts)), counts), self._edges[2]).astype(np.float64)

    @property
    def ferets_px(self) -> tuple[Floats, Floats]:
        """(n,) longest and shortest distance of two parallel lines that hold the cell between them.

        The longest is that of two corners; the shortest has one line along an edge of the hull
        (Freeman and Shapira, Comm. ACM 1975).
        """
        pairs = np.diff(self.offsets) ** 2
        batch = (np.cumsum(pairs) - pairs) // PAIRS_AT_ONCE
        firsts = np.flatnonzero(np.diff(batch, prepend=-1)).tolist()
        lasts = [*firsts[1:], len(pairs)]
        parts = [self._ferets_of(first, last) for first, last in zip(firsts, lasts, strict=True)]
        longest, shortest = zip(*parts, strict=True)
        return np.concatenate(longest), np.concatenate(shortest)

    def _ferets_of(self, first: int, last: int) -> tuple[Floats, Floats]:
        """`ferets_px` of the cells from `first` up to `last`, by comparing each one's vertices pairwise."""
        starts, counts = self.offsets[first:last], np.diff(self.offsets[first : last + 1])
        per_vertex = np.repeat(counts, counts)
        vertices = np.arange(starts[0], self.offsets[last])
        one = np.repeat(vertices, per_vertex)
        other = ragged_indices(np.repeat(starts, counts), per_vertex)
        across_x, across_y = self.x[other] - self.x[one], self.y[other] - self.y[one]
        lengths2 = _segment_max(across_x * across_x + across_y * across_y, counts * counts)
        dx, dy, edge_length = self._edges
        heights = _segment_max(np.abs(dx[one] * across_y - dy[one] * across_x), per_vertex)
        shortest = np.minimum.reduceat(heights / edge_length[vertices], starts - starts[0])
        return np.sqrt(lengths2.astype(np.float64)), shortest


def _segment_max(values: Coordinates, lengths: Ints) -> Coordinates:
    largest: Coordinates = np.maximum.reduceat(values, np.cumsum(lengths) - lengths)
    return largest


def _corners(cell: Coordinates, left: Coordinates) -> _Chain:
    """Leftmost pixel corners on every border between rows, in pixels."""
    above = np.arange(len(cell)) + cell
    v = np.full(len(cell) + int(cell[-1]) + 1, np.iinfo(np.int32).max, np.int32)
    v[above + 1] = left
    v[above] = np.minimum(v[above], left)
    return _chain(np.bincount(cell) + 1, 0, v)


def _chain(lengths: Ints, first_t: int, v: Coordinates) -> _Chain:
    """Chains of these lengths, whose t count up from `first_t`."""
    t = ragged_indices(np.full(len(lengths), first_t), lengths).astype(np.int32)
    return _Chain(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), t, v)
