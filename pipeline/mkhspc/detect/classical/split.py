"""Touching nuclei apart: one seed a nucleus, and every pixel to the seed whose disc it is nearest to.

Seeds are the summits of the smoothed distance to the mask's edge. Each stands for the disc inscribed
there, and the mask is divided by the power diagram of these discs (Aurenhammer, SIAM J. Comput. 16,
1987): two overlapping discs are parted along the chord through their intersections, which is the
neck between two touching nuclei. Unlike a watershed, it has no flooding order and a bounded reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.classical.masks import (
    BAND_ROWS,
    ByteImage,
    IntVector,
    LabelImage,
    dilate,
    disc,
    in_bands,
)
from mkhspc.geometry import close_pairs, um_to_px
from mkhspc.slide.stains import smooth

DEPTH_PER_UM = 32
"""Distances to the edge are whole numbers of 1/32 µm, in uint8 ..."""
MAX_DEPTH_UM = 255 / DEPTH_PER_UM
"""... which end at 7.97 µm: every larger distance counts as this one."""
SMOOTHING_UM = 0.35
"""The sigma in µm of the smoothing of distances, before summits are sought."""
SUMMIT_RADIUS_UM = 1.8
"""A seed is the highest point within this distance in µm ..."""
SADDLE_SHARE = 0.9
"""... and lies behind a saddle lower than this share of its own depth, as seen from every higher seed ..."""
SADDLE_RADIUS_UM = 7.0
"""... within this distance in µm."""
ARM_UM = 13.5
"""Pixels up to this far from a seed can be its own, in µm ..."""
ARM_PER_RADIUS = 1.6
"""... or up to this multiple of its disc's radius, if that is more."""

SPLIT_REACH_UM = (
    max(ARM_UM, ARM_PER_RADIUS * MAX_DEPTH_UM)
    + SADDLE_RADIUS_UM
    + 2 * SUMMIT_RADIUS_UM
    + 3 * SMOOTHING_UM
    + MAX_DEPTH_UM
)
"""How far around it a pixel's label depends on the mask, in µm."""


@dataclass(frozen=True)
class Seeds:
    """Centres and inscribed radii of nuclei, in pixels of the window, in raster order.

    Attributes:
        x, y: (n,) integers.
        radius_px: (n,) float.
    """

    x: IntVector
    y: IntVector
    radius_px: NDArray[np.float64]


def find_seeds(mask: ByteImage, um_per_px: float) -> Seeds:
    """Seeds of the nuclei in an (h, w) mask of 0 and 1."""
    depth = smooth(_depth(mask, um_per_px), SMOOTHING_UM / um_per_px)
    x, y = summits(depth, mask, um_to_px(SUMMIT_RADIUS_UM, um_per_px))
    kept = ~_behind_no_saddle(depth, x, y, um_to_px(SADDLE_RADIUS_UM, um_per_px))
    x, y = x[kept], y[kept]
    return Seeds(x, y, depth[y, x] / (DEPTH_PER_UM * um_per_px))


def _depth(mask: ByteImage, um_per_px: float) -> ByteImage:
    """Distance to the mask's edge, (h, w) uint8 in 1/32 µm."""
    # Edges farther away than the largest distance make no difference.
    return in_bands(mask, um_to_px(MAX_DEPTH_UM, um_per_px) + 1, lambda band: _depth_of(band, um_per_px))


def _depth_of(mask: ByteImage, um_per_px: float) -> ByteImage:
    # The 5x5 chamfer is a sum of whole numbers, so it does not depend on where the window begins;
    # the "precise" transform does. numpy rounds every pixel alike, cv2 may not at the end of a row.
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    np.minimum(distance, np.float32(255.0), out=distance)  # no edge in the window: beyond all bounds
    np.multiply(distance, np.float32(DEPTH_PER_UM * um_per_px), out=distance)
    np.minimum(np.rint(distance, out=distance), np.float32(255.0), out=distance)
    return distance.astype(np.uint8)


def summits(depth: ByteImage, mask: ByteImage, radius_px: int) -> tuple[IntVector, IntVector]:
    """Points x, y of the mask (of 0 and 1) with nothing higher within the radius, nor an equal before.

    'Before' is meant in raster order.
    """
    before = disc(radius_px)
    before[radius_px, radius_px:] = 0
    before[radius_px + 1 :] = 0
    found = [np.zeros(0, np.intp)]
    height, width = depth.shape
    for top in range(0, height, BAND_ROWS):
        # An earlier equal lies up to a radius above, and is a summit by what lies a radius farther up.
        first, end = max(0, top - 2 * radius_px), min(height, top + BAND_ROWS)
        seen = depth[first : end + radius_px]
        highest = (seen == dilate(seen, radius_px)).view(np.uint8)[: end - first]
        highest &= mask[first:end]
        is_first = (highest > cv2.dilate(highest, before))[top - first :]
        found.append(np.flatnonzero(is_first) + top * width)
    y, x = np.divmod(np.concatenate(found), width)
    return x, y


_STEPS = 32
"""Points at which depth is looked up on the way between two seeds."""
_PAIRS_AT_ONCE = 4096
"""Pairs of seeds whose ways are looked at together; their points take a megabyte or two."""


def _behind_no_saddle(depth: ByteImage, x: IntVector, y: IntVector, radius_px: int) -> NDArray[np.bool_]:
    """Which summits are mere bumps on the slope of a higher one (of equals, of an earlier one)."""
    is_bump = np.zeros(len(x), bool)
    pairs = np.sort(close_pairs(x, y, radius_px), axis=1)
    height = depth[y, x].astype(np.int64)
    swap = height[pairs[:, 1]] > height[pairs[:, 0]]
    pairs[swap] = pairs[swap][:, ::-1]
    step = np.arange(_STEPS + 1)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        high, low = pairs[start : start + _PAIRS_AT_ONCE].T
        # Rounded down the same way for every pair, so that the path does not depend on the window.
        path_x = x[low, None] + (x[high] - x[low])[:, None] * step // _STEPS
        path_y = y[low, None] + (y[high] - y[low])[:, None] * step // _STEPS
        saddle = depth[path_y, path_x].min(axis=1)
        is_bump[low[saddle >= SADDLE_SHARE * height[low]]] = True
    return is_bump


def power_labels(domain: ByteImage, seeds: Seeds, um_per_px: float) -> LabelImage:
    """Divides an (h, w) domain, where it is not 0, among seeds.

    Returns:
        (h, w), unsigned and as narrow as their number allows: 1 + the index of the seed with the smallest
        |p - seed|² - radius², the first of equals; 0 outside the domain and beyond the arm of every seed.
    """
    labels = np.zeros(domain.shape, np.min_scalar_type(len(seeds.x)))
    reach = np.maximum(um_to_px(ARM_UM, um_per_px), np.ceil(ARM_PER_RADIUS * seeds.radius_px).astype(int))
    longest = int(reach.max(initial=0))
    offset = np.arange(-longest, longest + 1, dtype=np.int32)
    square: NDArray[np.signedinteger] = np.add.outer(offset**2, offset**2)
    if 2 * longest**2 < np.iinfo(np.int16).max:
        square = square.astype(np.int16)  # half the memory
    for top in range(0, len(domain), BAND_ROWS):
        band = labels[top : top + BAND_ROWS]
        _divide(band, top, seeds, reach, square)
        np.copyto(band, 0, where=domain[top : top + BAND_ROWS] == 0)
    return labels


def _divide(
    band: LabelImage, top: int, seeds: Seeds, reach: IntVector, square: NDArray[np.signedinteger]
) -> None:
    """Divides a band of rows, the first of which is `top`, among all seeds within reach of it.

    Args:
        square: squared distances from its middle, as wide as the longest reach.
    """
    height, width = band.shape
    power = np.full(band.shape, np.iinfo(square.dtype).max, square.dtype)
    middle = len(square) // 2
    near = np.flatnonzero((seeds.y + reach >= top) & (seeds.y - reach < top + height))
    own_square = np.rint(seeds.radius_px[near] ** 2).astype(square.dtype)
    seed_of = zip(
        near.tolist(),
        seeds.x[near].tolist(),
        (seeds.y[near] - top).tolist(),
        reach[near].tolist(),
        own_square.tolist(),
        strict=True,
    )
    for nth, x, y, arm, radius_square in seed_of:
        rows = slice(max(0, y - arm), min(height, y + arm + 1))
        columns = slice(max(0, x - arm), min(width, x + arm + 1))
        from_seed = square[
            rows.start - y + middle : rows.stop - y + middle,
            columns.start - x + middle : columns.stop - x + middle,
        ]
        own, best = from_seed - radius_square, power[rows, columns]
        nearer = own < best
        np.copyto(best, own, where=nearer)
        np.copyto(band[rows, columns], nth + 1, where=nearer)
