"""Cells of similar width stacked into one tall image, so that one call measures all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Detection
from mkhspc.geometry import Box
from mkhspc.measure.regions import Floats, Ints

Bytes = NDArray[np.uint8]

MAX_STRIP_PX = 1 << 17
"""A strip's images of this size, a handful at a time, stay in a core's own cache, and are too small
for the allocator to fetch anew from the system each time; one cell alone may be larger."""


@dataclass(frozen=True)
class Strip:
    """Frames of k cells, one below the other: each a cell's box with a margin on all sides.

    No two cells are nearer than two margins, and rows are at least two margins wider than a cell.
    So a step from a pixel of a cell by up to a margin, in any direction, stays inside its frame,
    and is one constant step in the flattened image.

    Attributes:
        cells: (k,) which of the measured cells they are.
        starts: (k,) first row of each frame.
        mask: (rows, width) uint8, 255 inside the cell, 0 elsewhere.
        places: for each frame, of the part of it that lies in the window: row and column in the
            strip, row and column in the window, height and width.
    """

    cells: Ints
    starts: Ints
    mask: Bytes
    places: list[list[int]]

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def first_pixels(self) -> Ints:
        """(k,) index of each frame's first pixel in a flattened image of the strip."""
        return self.starts * self.width

    def cut(self, image: Bytes, outside: int) -> Bytes:
        """The frames' pixels of an image of the window, (rows, width, ...).

        Args:
            outside: the value of pixels that the window does not cover. A window ends only where
                its scene does or farther from its cells than any margin, so this is clear glass.
        """
        frames = np.full((*self.mask.shape, *image.shape[2:]), outside, np.uint8)
        for row, column, from_row, from_column, height, width in self.places:
            frames[row : row + height, column : column + width] = image[
                from_row : from_row + height, from_column : from_column + width
            ]
        return frames

    def frame_sums(self, image: NDArray[np.integer]) -> Ints:
        """(k,) sums over each frame of a strip's image, whole or flattened from its first pixel on.

        Several channels are summed together.
        """
        channels = max(1, image.size // self.mask.size)
        # Sums of bytes in 32 bits are several times as fast, and a strip rarely needs more.
        fits = image.dtype == np.uint8 and 255 * image.size < 1 << 32
        sums = np.add.reduceat(
            image.ravel(), self.first_pixels * channels, dtype=np.uint32 if fits else np.int64
        )
        return sums.astype(np.int64)

    @cached_property
    def pixels(self) -> Ints:
        """Flat indices of all cells' pixels, sorted by cell."""
        return np.flatnonzero(self.mask != 0)

    @cached_property
    def _pixel_starts(self) -> Ints:
        return np.searchsorted(self.pixels, self.first_pixels)

    @cached_property
    def counts(self) -> Ints:
        """(k,) number of pixels of each cell."""
        return np.diff(self._pixel_starts, append=len(self.pixels))

    def sums(self, values: NDArray[np.integer]) -> Ints:
        """(k,) exact sums over each cell of whole numbers given for each of `pixels`."""
        totals: Ints = np.add.reduceat(values, self._pixel_starts, dtype=np.int64)
        return totals


def variances(counts: Ints, sums: Ints, square_sums: Ints) -> Floats:
    """Population variances from exact sums of numbers and of their squares; never below 0."""
    n, first, second = (values.astype(np.float64) for values in (counts, sums, square_sums))
    return np.maximum(n * second - first * first, 0.0) / n / n


def strips(window: Box, detections: Sequence[Detection], margin_px: int) -> Iterator[Strip]:
    """Strips that together hold every detection once, each frame with this margin."""
    boxes = np.array([(d.box.x0, d.box.y0, d.box.x1, d.box.y1) for d in detections], np.int64)
    frames = boxes + np.array([-margin_px, -margin_px, margin_px, margin_px])
    heights = frames[:, 3] - frames[:, 1]
    widths = _rounded(frames[:, 2] - frames[:, 0])
    for width in np.unique(widths).tolist():
        same = np.flatnonzero(widths == width)
        sizes_px = heights[same] * width
        batch = (np.cumsum(sizes_px) - sizes_px) // MAX_STRIP_PX
        for cells in np.split(same, np.flatnonzero(np.diff(batch)) + 1):
            starts = np.cumsum(heights[cells]) - heights[cells]
            mask = np.zeros((int(heights[cells].sum()), width), np.uint8)
            for start, i in zip(starts.tolist(), cells.tolist(), strict=True):
                inside = detections[i].mask
                rows = slice(start + margin_px, start + margin_px + inside.shape[0])
                mask[rows, margin_px : margin_px + inside.shape[1]] = inside
            yield Strip(cells, starts, mask * np.uint8(255), _places(window, frames[cells], starts))


def over_strips(
    measure_strip: Callable[[Strip], dict[str, Floats]], pieces: Iterable[Strip]
) -> dict[str, Floats]:
    """Columns in the order of the cells, from what is measured on strips that hold each cell once."""
    cells, parts = [], []
    for strip in pieces:
        cells.append(strip.cells)
        parts.append(measure_strip(strip))
    order = np.argsort(np.concatenate(cells))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _rounded(widths: Ints) -> Ints:
    """Widths made multiples of an eighth of their order of magnitude: few widths, little waste."""
    _, bit_lengths = np.frexp(widths)
    steps = 1 << np.maximum(3, bit_lengths.astype(np.int64) - 3)
    rounded: Ints = -(-widths // steps) * steps
    return rounded


def _places(window: Box, frames: Ints, starts: Ints) -> list[list[int]]:
    low = np.maximum(frames[:, :2], (window.x0, window.y0))
    high = np.minimum(frames[:, 2:], (window.x1, window.y1))
    (x, y), (width, height) = low.T, (high - low).T
    row, column = starts + y - frames[:, 1], x - frames[:, 0]
    places = np.stack([row, column, y - window.y0, x - window.x0, height, width], axis=1)
    listed: list[list[int]] = places.tolist()
    return listed
