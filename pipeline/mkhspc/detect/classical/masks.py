"""Operations on binary masks whose answer for a pixel depends on a bounded surrounding only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange
from mkhspc.geometry import BoolMask, Box, area_um2, mask_length_px

ByteImage = NDArray[np.uint8]
LabelImage = NDArray[np.unsignedinteger]
IntVector = NDArray[np.int64]

BAND_ROWS = 1024
"""The rows that an operation takes at a time when it needs more bytes a pixel than its result."""


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


def in_bands(image: ByteImage, margin_px: int, work: Callable[[ByteImage], ByteImage]) -> ByteImage:
    """What `work` makes of an (h, w) image, band by band of rows, each with a margin on either side."""
    done = np.empty_like(image)
    for top in range(0, len(image), BAND_ROWS):
        first = max(0, top - margin_px)
        band = work(image[first : top + BAND_ROWS + margin_px])
        done[top : top + BAND_ROWS] = band[top - first :][:BAND_ROWS]
    return done


def fill_holes(mask: ByteImage, limit: HoleLimit) -> ByteImage:
    """`mask` (h, w, 0 or 1) with its 4-connected background pieces within `limit` filled.

    A gap that touches the border of the window may be part of something larger: it stays open.
    """
    # A gap that reaches from a band through its margin is too long for a hole.
    return in_bands(mask, limit.side_px + 1, lambda band: _filled(band, limit))


def _filled(mask: ByteImage, limit: HoleLimit) -> ByteImage:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    is_hole = (stats[:, cv2.CC_STAT_AREA] <= limit.area_px) & (np.maximum(width, height) <= limit.side_px)
    is_hole &= (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    is_hole[0] = False  # label 0 is the mask itself
    filled = mask.copy()
    for row, names in zip(filled, labels, strict=True):  # numpy takes 8 bytes for each name that it looks up
        row |= is_hole[names]
    return filled


def label_boxes(labels: NDArray[np.integer], count: int) -> IntVector:
    """(count, 4) x0, y0, x1, y1 around the pixels of the labels 1 to `count`; x1 is 0 where there is none."""
    height, width = labels.shape
    x0, y0 = np.full(count + 1, width), np.full(count + 1, height)
    x1, y1 = np.zeros((2, count + 1), np.int64)
    for top in range(0, height, BAND_ROWS):
        band = labels[top : top + BAND_ROWS]
        begins = np.ones(band.shape, bool)  # where a run of equal pixels of a row does
        np.not_equal(band[:, 1:], band[:, :-1], out=begins[:, 1:])
        first = np.flatnonzero(begins)
        label = band.ravel()[first]
        y, x = np.divmod(first, width)
        end = x + np.diff(first, append=band.size)
        order = np.argsort(label, kind="stable")
        label, x, end, y = label[order], x[order], end[order], y[order] + top
        start = np.flatnonzero(np.diff(label, prepend=-1))
        name, last = label[start], np.append(start[1:], len(label)) - 1
        x0[name] = np.minimum(x0[name], np.minimum.reduceat(x, start))
        x1[name] = np.maximum(x1[name], np.maximum.reduceat(end, start))
        y0[name], y1[name] = np.minimum(y0[name], y[start]), y[last] + 1
    return np.stack([x0, y0, x1, y1], axis=1)[1:]


def tight(mask: BoolMask, x0_px: int, y0_px: int) -> tuple[Box, BoolMask]:
    """The bounding box of a non-empty mask whose top-left corner is at (x0, y0), and the mask in it."""
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        return Box(x0_px, y0_px, x0_px + mask.shape[1], y0_px + mask.shape[0]), mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box = Box(x0_px + left, y0_px + top, x0_px + right, y0_px + bottom)
    return box, np.ascontiguousarray(mask[top:bottom, left:right])


def fits(mask: BoolMask, stored: CellRange, um_per_px: float) -> bool:
    """Whether a tight mask has an area in the range and is no longer than the range allows."""
    size_um2 = area_um2(int(mask.sum()), um_per_px)
    if not stored.min_um2 <= size_um2 <= stored.max_um2:
        return False
    longest_px = stored.max_length_um / um_per_px
    return float(np.hypot(*mask.shape)) <= longest_px or mask_length_px(mask) <= longest_px
