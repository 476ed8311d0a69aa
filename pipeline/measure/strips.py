"""Cells of similar width stacked into one tall image, so that one call measures all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.contract import Detection
from pipeline.geometry import Box
from pipeline.measure.regions import Ints

Bytes = NDArray[np.uint8]

MAX_STRIP_PX = 1 << 20
"""A strip's images of this size stay in the processor's cache; one cell alone may be larger."""


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
        places: for each frame the part that lies in the window: its slices in the strip's images
            and in the window's.
    """

    cells: Ints
    starts: Ints
    mask: Bytes
    margin_px: int
    places: tuple[tuple[tuple[slice, slice], tuple[slice, slice]], ...]

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
        for there, here in self.places:
            frames[there] = image[here]
        return frames

    def sums(self, image: NDArray[np.integer]) -> Ints:
        """(k,) sums over each frame of an image of the strip; exact."""
        totals: Ints = np.add.reduceat(image.ravel(), self.first_pixels, dtype=np.int64)
        return totals

    @cached_property
    def pixels(self) -> Ints:
        """Flat indices of all cells' pixels, sorted by cell."""
        return np.flatnonzero(self.mask)

    @cached_property
    def pixel_starts(self) -> Ints:
        """(k,) where in `pixels` those of each cell begin."""
        return np.searchsorted(self.pixels, self.first_pixels)

    @cached_property
    def counts(self) -> Ints:
        """(k,) number of pixels of each cell."""
        return np.diff(self.pixel_starts, append=len(self.pixels))


def strips(window: Box, detections: Sequence[Detection], margin_px: int) -> Iterator[Strip]:
    """Strips that together hold every detection once, each frame with this margin."""
    widths = np.array([_rounded(d.box.width + 2 * margin_px) for d in detections], np.int64)
    for width in np.unique(widths):
        cells = np.flatnonzero(widths == width)
        sizes = np.array([detections[i].box.height + 2 * margin_px for i in cells.tolist()]) * width
        batch = (np.cumsum(sizes) - sizes) // MAX_STRIP_PX
        for members in np.split(cells, np.flatnonzero(np.diff(batch)) + 1):
            yield _strip(window, detections, members, int(width), margin_px)


def _rounded(width: int) -> int:
    """The width made a multiple of an eighth of its order of magnitude: few widths, little waste."""
    step = 1 << max(3, width.bit_length() - 3)
    return -(-width // step) * step


def _strip(window: Box, detections: Sequence[Detection], cells: Ints, width: int, margin_px: int) -> Strip:
    heights = np.array([detections[i].box.height for i in cells.tolist()]) + 2 * margin_px
    starts = np.cumsum(heights) - heights
    mask = np.zeros((int(heights.sum()), width), np.uint8)
    places = []
    for start, i in zip(starts.tolist(), cells.tolist(), strict=True):
        box = detections[i].box
        frame = box.grown(margin_px)
        strip = Box(frame.x0, frame.y0 - start, frame.x0 + width, frame.y0 - start + len(mask))
        np.copyto(mask[box.slices_in(strip)], 255, where=detections[i].mask)
        seen = frame.clipped(window)
        places.append((seen.slices_in(strip), seen.slices_in(window)))
    return Strip(cells, starts, mask, margin_px, tuple(places))
