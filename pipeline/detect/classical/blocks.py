"""A window seen in larger pixels, on a grid that belongs to the scene and not to the window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.detect.classical.masks import ByteImage
from pipeline.detect.contract import Window
from pipeline.geometry import Box
from pipeline.slide.stains import Stains

_BAND_ROWS = 128


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
        size = max(1, round(wanted_um / um_per_px))
        left, top = -(-box.x0 // size), -(-box.y0 // size)
        shape = max(0, box.y1 // size - top), max(0, box.x1 // size - left)
        return cls(size, (left * size, top * size), shape, size * um_per_px)

    def means(self, window: Window) -> Stains:
        """The window's stains in blocks."""
        return Stains(self.mean(window.haematoxylin, window.box), self.mean(window.eosin, window.box))

    def means_by_bands(self, window: Window) -> Stains:
        """`means`, of one band of the window after the other, so that no more is separated at a time."""
        bands = [self._means_of_rows(window, row) for row in range(0, self.shape[0], _BAND_ROWS)]
        return Stains(
            np.concatenate([band.haematoxylin for band in bands]),
            np.concatenate([band.eosin for band in bands]),
        )

    def _means_of_rows(self, window: Window, row: int) -> Stains:
        rows = min(_BAND_ROWS, self.shape[0] - row)
        (left, top), columns = self.origin, self.shape[1]
        top += row * self.size
        band = Box(left, top, left + columns * self.size, top + rows * self.size)
        grid = replace(self, origin=(left, top), shape=(rows, columns))
        return grid.means(window.apart(band))

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
