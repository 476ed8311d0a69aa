"""A window seen in larger pixels, on a grid that belongs to the scene and not to the window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from mkhspc.detect.classical.masks import ByteImage
from mkhspc.detect.contract import Window
from mkhspc.geometry import Box, uncovered
from mkhspc.slide.stains import Stains

_BAND_ROWS = 128
"""Rows of blocks that are averaged at a time: sums in 32 bits take four times the memory of the pixels."""


def side_px(wanted_um: float, um_per_px: float) -> int:
    """The whole number of pixels, at least one, nearest to the width that blocks should have."""
    return max(1, round(wanted_um / um_per_px))


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of `size` x `size` level-0 pixels; block edges lie at multiples of `size` in the scene.

    Attributes:
        origin: x, y of the first whole block's corner, in level-0 pixels of the scene.
        shape: rows and columns of whole blocks in the window.
        um_per_block: side of a block.
    """

    size: int
    origin: tuple[int, int]
    shape: tuple[int, int]
    um_per_block: float

    @classmethod
    def over(cls, box: Box, um_per_px: float, wanted_um: float) -> BlockGrid:
        """The grid over a window whose blocks are about `wanted_um` wide (at least one pixel)."""
        size = side_px(wanted_um, um_per_px)
        return cls(size, (0, 0), (0, 0), size * um_per_px).inside(box)

    def inside(self, box: Box) -> BlockGrid:
        """The grid of those of the scene's blocks that lie in a box."""
        size = self.size
        left, top = -(-box.x0 // size), -(-box.y0 // size)
        shape = max(0, box.y1 // size - top), max(0, box.x1 // size - left)
        return replace(self, origin=(left * size, top * size), shape=shape)

    @property
    def box(self) -> Box:
        """What the blocks cover, in level-0 pixels of the scene."""
        (left, top), (rows, columns) = self.origin, self.shape
        return Box(left, top, left + columns * self.size, top + rows * self.size)

    def means(self, window: Window) -> Stains:
        """The window's stains in blocks: those that it keeps, and others separated for a band at a time."""
        means = Stains(np.empty(self.shape, np.uint8), np.empty(self.shape, np.uint8))
        kept: list[Box] = []
        if window.stained is not None:
            inner = self.inside(window.stained.box.clipped(window.box))
            if min(inner.shape) > 0:
                kept.append(inner.box)
                self._fill(means, inner, window.stained)
        for around in uncovered(self.box, kept):
            for top in range(around.y0, around.y1, _BAND_ROWS * self.size):
                bottom = min(top + _BAND_ROWS * self.size, around.y1)
                band = Box(around.x0, top, around.x1, bottom)
                self._fill(means, self.inside(band), window.apart(band))
        return means

    def _fill(self, means: Stains, part: BlockGrid, window: Window) -> None:
        """Enters the means of a window over some of these blocks."""
        place = part.box.slices_in(self.box)
        rows, columns = (slice(s.start // self.size, s.stop // self.size) for s in place)
        means.haematoxylin[rows, columns] = part.mean(window.haematoxylin, window.box)
        means.eosin[rows, columns] = part.mean(window.eosin, window.box)

    def mean(self, pixels: ByteImage, box: Box) -> ByteImage:
        """Mean of each block of an (h, w) uint8 image of the window `box`, rounded half up."""
        skip_x, skip_y = self.origin[0] - box.x0, self.origin[1] - box.y0
        rows, columns = self.shape[0] * self.size, self.shape[1] * self.size
        whole = pixels[skip_y : skip_y + rows, skip_x : skip_x + columns]
        means = np.empty(self.shape, np.uint8)
        for row in range(0, self.shape[0], _BAND_ROWS):
            band = whole[row * self.size : (row + _BAND_ROWS) * self.size]
            means[row : row + _BAND_ROWS] = self._means_of(band)
        return means

    def _means_of(self, whole: ByteImage) -> ByteImage:
        """Means of an image of whole blocks."""
        sums = cv2.boxFilter(whole, cv2.CV_32S, (self.size, self.size), anchor=(0, 0), normalize=False)
        count = self.size * self.size
        return ((sums[:: self.size, :: self.size] + count // 2) // count).astype(np.uint8)
