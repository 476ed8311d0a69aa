"""Operations on binary masks whose answer for a pixel depends on a bounded surrounding only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import AreaRange
from pipeline.geometry import BoolMask, Box, area_um2, mask_length_px

ByteImage = NDArray[np.uint8]
LabelImage = NDArray[np.int32]


@dataclass(frozen=True)
class HoleLimit:
    """Which gaps in a mask are holes to fill: small ones inside a small box."""

    area_px: float
    side_px: int


def disc(radius_px: int) -> ByteImage:
    """Structuring element of all offsets with dx² + dy² <= radius²."""
    offset = np.arange(-radius_px, radius_px + 1)
    inside = np.add.outer(offset**2, offset**2) <= radius_px**2
    return inside.astype(np.uint8)


def dilate(image: ByteImage, radius_px: int) -> ByteImage:
    """Largest value within a disc around each pixel."""
    return np.asarray(cv2.dilate(image, disc(radius_px)), np.uint8)


def erode(image: ByteImage, radius_px: int) -> ByteImage:
    """Smallest value within a disc around each pixel."""
    return np.asarray(cv2.erode(image, disc(radius_px)), np.uint8)


def odd_size(length_px: float) -> int:
    """The odd whole number nearest to a length: a filter of that size has a centre pixel."""
    return 2 * round((length_px - 1.0) / 2.0) + 1


def fill_holes(mask: ByteImage, limit: HoleLimit) -> ByteImage:
    """`mask` (h, w, 0 or 1) with its 4-connected background pieces within `limit` filled.

    A gap that touches the border of the window may be part of something larger: it stays open.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    is_hole = (stats[:, cv2.CC_STAT_AREA] <= limit.area_px) & (np.maximum(width, height) <= limit.side_px)
    is_hole &= (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    is_hole[0] = False  # label 0 is the mask itself
    filled: ByteImage = mask | is_hole.astype(np.uint8)[labels]
    return filled


def normalised(mask: BoolMask) -> BoolMask:
    """What `normalise_mask` gives for a non-empty mask, at a fraction of its cost for one small mask."""
    pixels = mask.view(np.uint8)
    pieces, labels = cv2.connectedComponents(pixels, connectivity=4)
    if pieces > 2:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        pixels = (labels == sizes.argmax()).view(np.uint8)
    around = cv2.copyMakeBorder(1 - pixels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    gaps, labels = cv2.connectedComponents(around, connectivity=4)
    if gaps > 2:
        return np.asarray(labels[1:-1, 1:-1] != labels[0, 0], np.bool_)
    return pixels.view(np.bool_)


def tight(mask: BoolMask, x0_px: int, y0_px: int) -> tuple[Box, BoolMask]:
    """The bounding box of a non-empty mask whose top-left corner is at (x0, y0), and the mask in it."""
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        return Box(x0_px, y0_px, x0_px + mask.shape[1], y0_px + mask.shape[0]), mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box = Box(x0_px + left, y0_px + top, x0_px + right, y0_px + bottom)
    return box, np.ascontiguousarray(mask[top:bottom, left:right])


def fits(mask: BoolMask, area: AreaRange, um_per_px: float) -> bool:
    """Whether a tight mask has an area in the range and is no longer than the range allows."""
    size_um2 = area_um2(int(mask.sum()), um_per_px)
    if not area.min_um2 <= size_um2 <= area.max_um2:
        return False
    longest_px = area.max_length_um / um_per_px
    return float(np.hypot(*mask.shape)) <= longest_px or mask_length_px(mask) <= longest_px
