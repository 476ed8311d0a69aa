"""Large pictures piece by piece: bands and strips of rows, and how they shrink."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from mkhspc.geometry import Box, RgbImage

BAND_PX = 2**22
"""The most pixels whose intensities are summed at once: 255 times as many fit into 32 bits."""


def bands(box: Box) -> Iterator[Box]:
    """A box cut into bands of rows whose sums of intensities fit into 32 bits."""
    height = max(1, BAND_PX // box.width)
    for y0 in range(box.y0, box.y1, height):
        yield Box(box.x0, y0, box.x1, min(y0 + height, box.y1))


def split(rows: int, strips: int, step: int) -> list[int]:
    """Borders of about `strips` strips of rows: multiples of `step`, no strip thinner than two rows."""
    height = step * math.ceil(max(2, rows / max(1, strips)) / step)
    return [0, *range(height, rows - 1, height), rows]


def shrink(stored: RgbImage, inside: Box, band: Box, size: tuple[int, int]) -> RgbImage:
    """Area means of a band of which `stored` shows the part inside the scene.

    Cells that reach beyond the scene see its edge repeated; `size` is (columns, rows).
    """
    right = round((band.width - inside.width) * stored.shape[1] / inside.width)
    below = round((band.height - inside.height) * stored.shape[0] / inside.height)
    if right or below:
        stored = np.asarray(cv2.copyMakeBorder(stored, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    return np.asarray(cv2.resize(stored, size, interpolation=cv2.INTER_AREA), np.uint8)


def to_rgb(bgr: RgbImage) -> RgbImage:
    """Swaps red and blue in place, and returns the same array."""
    if bgr.size:
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)
    return bgr
