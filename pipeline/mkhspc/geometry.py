"""Boxes, masks and contours in pixels, and their physical sizes.

Coordinates are level-0 pixels of a scene: origin at the scene's top-left corner, x to the right,
y down. A pixel (x, y) covers the square [x, x+1) x [y, y+1), boxes are half-open, and a contour
runs along pixel edges, so that the area inside it is exactly the number of pixels of its mask.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
IntArray = NDArray[np.int32]
RgbImage = NDArray[np.uint8]
"""Pixels of shape (height, width, 3), uint8, RGB."""


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle [x0, x1) x [y0, y1) in pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def area_px(self) -> int:
        return max(0, self.width) * max(0, self.height)

    def grown(self, margin_px: int) -> Box:
        """The box with `margin_px` added on every side."""
        return Box(self.x0 - margin_px, self.y0 - margin_px, self.x1 + margin_px, self.y1 + margin_px)

    def shifted(self, dx: int, dy: int) -> Box:
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def clipped(self, outer: Box) -> Box:
        """The part of this box inside `outer` (may be empty, never inverted)."""
        x0, y0 = max(self.x0, outer.x0), max(self.y0, outer.y0)
        return Box(x0, y0, max(x0, min(self.x1, outer.x1)), max(y0, min(self.y1, outer.y1)))

    def joined(self, other: Box) -> Box:
        """The smallest box that holds both."""
        x0, y0 = min(self.x0, other.x0), min(self.y0, other.y0)
        return Box(x0, y0, max(self.x1, other.x1), max(self.y1, other.y1))

    def slices_in(self, outer: Box) -> tuple[slice, slice]:
        """Row and column slices of this box inside an array that covers `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )


def uncovered(box: Box, others: Sequence[Box], most_parts: int = sys.maxsize) -> list[Box]:
    """The part of a box that no other box covers, as boxes that do not overlap.

    Raises:
        ValueError: they are more than `most_parts`.
    """
    parts = [box]
    for other in others:
        parts = [piece for part in parts for piece in _without(part, other)]
        if len(parts) > most_parts:
            raise ValueError(f"more than {most_parts:,} parts of it are left")
        if not parts:
            break
    return parts


def _without(box: Box, hidden: Box) -> list[Box]:
    """Up to four boxes that cover `box` but for `hidden`."""
    if hidden.x0 >= box.x1 or hidden.x1 <= box.x0 or hidden.y0 >= box.y1 or hidden.y1 <= box.y0:
        return [box]  # most pairs lie apart: windows wait for this
    x0, y0 = max(box.x0, hidden.x0), max(box.y0, hidden.y0)
    x1, y1 = min(box.x1, hidden.x1), min(box.y1, hidden.y1)
    if x0 >= x1 or y0 >= y1:  # one of them is empty
        return [box]
    around = []
    if box.y0 < y0:
        around.append(Box(box.x0, box.y0, box.x1, y0))
    if box.x0 < x0:
        around.append(Box(box.x0, y0, x0, y1))
    if x1 < box.x1:
        around.append(Box(x1, y0, box.x1, y1))
    if y1 < box.y1:
        around.append(Box(box.x0, y1, box.x1, box.y1))
    return around


def um_to_px(length_um: float, um_per_px: float) -> int:
    """A length in µm as whole pixels, rounded up: for margins and reaches."""
    return math.ceil(length_um / um_per_px - 1e-9)


def area_um2(area_px: float, um_per_px: float) -> float:
    """An area in level-0 pixels as µm²."""
    return area_px * um_per_px * um_per_px


def normalise_mask(mask: BoolMask) -> BoolMask:
    """The largest 4-connected piece of `mask` with its holes filled, shape (h, w) bool.

    A 4-connected region whose 4-connected background holes are filled has an outline that never
    touches itself, so its contour is a simple polygon. Empty in, empty out. Of pieces of equal
    size the first in raster order wins. The answer may share the memory of `mask`.
    """
    if not mask.size:
        return mask
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


def mask_to_contour(mask: BoolMask, x0_px: int = 0, y0_px: int = 0) -> IntArray:
    """Outline of a normalised mask along pixel edges.

    Args:
        mask: (h, w) bool, one 4-connected region without holes (see `normalise_mask`).
        x0_px: x of the mask's left edge.
        y0_px: y of the mask's top edge.

    Returns:
        (n, 2) int32 corner points x, y: a simple polygon, not closed by repetition, without
        collinear points; its shoelace area equals `mask.sum()`.

    Raises:
        ValueError: if the mask is empty.
    """
    # On the mask at twice its size every border pixel belongs to exactly one pixel corner:
    # (p + 1) // 2. The turns of the chain that cv2 traces, mapped so, are the outline's corners;
    # a corner that points inwards, where the chain cuts across, is the place of two turns.
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    chains, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not chains:
        raise ValueError("the mask is empty: it has no contour")
    turns: IntArray = ((max(chains, key=len)[:, 0, :] + 1) // 2).astype(np.int32, copy=False)
    is_new = np.ones(len(turns), bool)  # the chain begins at its topmost corner, which points outwards
    np.any(turns[1:] != turns[:-1], axis=1, out=is_new[1:])
    outline: IntArray = turns[is_new] + np.array((x0_px, y0_px), np.int32)
    return outline


def contour_to_mask(contour: NDArray[np.integer[Any]], box: Box) -> BoolMask:
    """Pixels inside a pixel-edge contour: the inverse of `mask_to_contour`.

    Args:
        contour: (n, 2) integers x, y along pixel edges (horizontal and vertical steps only).
        box: the region to fill; the result has shape (box.height, box.width).
    """
    start, end = contour - (box.x0, box.y0), np.roll(contour, -1, axis=0) - (box.x0, box.y0)
    is_vertical = start[:, 0] == end[:, 0]  # only vertical edges toggle inside and outside along a row
    x = start[is_vertical, 0].clip(0, box.width)
    low = np.minimum(start, end)[is_vertical, 1].clip(0, box.height)
    high = np.maximum(start, end)[is_vertical, 1].clip(0, box.height)
    flips = np.zeros((box.height + 1, box.width + 1), np.int32)
    np.add.at(flips, (low, x), 1)
    np.add.at(flips, (high, x), -1)
    inside: BoolMask = flips.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] % 2 == 1
    return inside


def mask_centroid(mask: BoolMask) -> tuple[float, float]:
    """Centre of mass (x, y) of a mask, in pixels from its top-left corner.

    Pixel centres lie at +0.5, so a mask of the single pixel (0, 0) has its centroid at (0.5, 0.5).
    """
    ys, xs = np.nonzero(mask)
    return float(xs.mean()) + 0.5, float(ys.mean()) + 0.5


def shared_px(box: Box, mask: BoolMask, other_box: Box, other_mask: BoolMask) -> int:
    """Pixels that two masks have in common, each of the shape of its own box."""
    both = box.clipped(other_box)
    if both.area_px == 0:
        return 0
    return int(np.count_nonzero(mask[both.slices_in(box)] & other_mask[both.slices_in(other_box)]))


def iou(box: Box, mask: BoolMask, other_box: Box, other_mask: BoolMask) -> float:
    """Intersection over union of two masks, not both empty, each of the shape of its own box."""
    shared = shared_px(box, mask, other_box, other_mask)
    return shared / (int(np.count_nonzero(mask)) + int(np.count_nonzero(other_mask)) - shared)


def mask_length_px(mask: BoolMask) -> float:
    """Longest distance between two pixel corners of a non-empty mask (maximum Feret diameter)."""
    hull = cv2.convexHull(mask_to_contour(mask))[:, 0, :].astype(np.float64)
    return float(np.hypot(*(hull[:, None, :] - hull[None, :, :]).T).max())


_POINTS_AT_ONCE = 1024


def close_pairs(x: NDArray[np.number], y: NDArray[np.number], radius: float) -> NDArray[np.int64]:
    """(n, 2) indices of the points that are no farther apart than a radius, each pair once.

    Of every point all are looked at that lie no more than the radius below it: of some points at a time,
    for they are many times the pairs.
    """
    order = np.argsort(y, kind="stable")
    x, y = x[order], y[order]
    below = np.searchsorted(y, y + radius, side="right") - np.arange(len(y)) - 1
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(y), _POINTS_AT_ONCE):
        count = below[start : start + _POINTS_AT_ONCE]
        one = np.repeat(np.arange(start, start + len(count)), count)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
        is_close = (x[other] - x[one]) ** 2 + (y[other] - y[one]) ** 2 <= radius**2
        found.append(order[np.stack([one[is_close], other[is_close]], axis=1)])
    return np.concatenate(found)
