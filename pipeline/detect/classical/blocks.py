"""A window seen in larger pixels, on a grid that belongs to the scene and not to the window."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.detect.classical.masks import ByteImage
from pipeline.geometry import Box


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

    def mean(self, pixels: ByteImage, box: Box) -> ByteImage:
        """Mean of each block of an (h, w) uint8 image of the window `box`, rounded half up."""
        skip_x, skip_y = self.origin[0] - box.x0, self.origin[1] - box.y0
        sums = cv2.boxFilter(pixels, cv2.CV_32S, (self.size, self.size), anchor=(0, 0), normalize=False)
        rows, columns = self.shape[0] * self.size, self.shape[1] * self.size
        picked = sums[skip_y : skip_y + rows : self.size, skip_x : skip_x + columns : self.size]
        count = self.size * self.size
        return ((picked + count // 2) // count).astype(np.uint8)
