"""The outline of a cell around a point: the closed path of steepest fall, by dynamic programming.

Rays run from the centre at equal angles. The outline takes one radius on each ray, neighbouring
radii differ by one step at most, and the sum of what it gains is the largest there is (Gerig and
Klein 1986 for discs; here for any star-shaped cell). It gains where the image falls from inside to
outside, and loses for every gap that the ray has crossed before.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.classical.masks import ByteImage
from mkhspc.geometry import BoolMask

Ints = NDArray[np.int32]
Points = NDArray[np.int64]

ANGLES = 64
"""The number of rays, one every 5.6°."""
RAY_UM = 32.0
"""The length of a ray in µm. No outline reaches farther from its centre: 64 µm across holds the largest MK of
the default filter."""
MIN_RADIUS_UM = 3.5
"""The least radius of an outline in µm."""
EDGE_UM = 1.76
"""The fall at a radius is the mean over this length in µm inside it, less the mean outside it."""
CORE_UM = 4.0
"""The level of the cell is the median along all rays within this radius in µm."""
GAP_SHARE = 0.6
"""A pixel below this share of the cell's level is a gap."""
GAP_COST_PER_UM = 0.17
"""A µm of gap that the ray has crossed costs as much as a fall by this share of the cell's level."""
FIXED_BITS = 4
"""Corners of outlines are whole numbers of 1/16 pixel, as `cv2.fillPoly` takes them with this shift."""
_BATCH = 128
"""Outlines that are traced together; their profiles take a few MB."""
_FORBIDDEN = -(1 << 20)
"""The gain of a radius that no outline may take: so low that no path goes there."""
_SCALE = 8
"""Gains are in 1/8 of a level, so that the cost of a gap need not be rounded to whole levels."""


@dataclass(frozen=True)
class Rays:
    """Offsets of the samples along every ray, in whole pixels: (angles, samples) int64 each."""

    dx: Points
    dy: Points
    um_per_px: float

    @classmethod
    def of(cls, um_per_px: float) -> Rays:
        radius = np.arange(int(RAY_UM / um_per_px))
        turn = 2.0 * np.pi * np.arange(ANGLES)[:, None] / ANGLES
        dx, dy = (np.rint(f(turn) * radius).astype(np.int64) for f in (np.cos, np.sin))
        return cls(dx, dy, um_per_px)

    def samples(self, length_um: float) -> int:
        """A length in samples of a ray, at least 1."""
        return max(1, round(length_um / self.um_per_px))


def trace(image: ByteImage, centres: Points, um_per_px: float) -> Points:
    """Outlines around centres.

    Args:
        image: (h, w), bright inside cells.
        centres: (n, 2) x, y of pixels of the image.

    Returns:
        (n, ANGLES) radii in pixels.
    """
    rays = Rays.of(um_per_px)
    margin = rays.dx.shape[1]
    padded = np.asarray(
        cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0), np.uint8
    )
    radii = [
        _best_closed_path(_gain(_along_rays(padded, centres[start : start + _BATCH] + margin, rays), rays))
        for start in range(0, len(centres), _BATCH)
    ]
    return np.concatenate(radii) if radii else np.zeros((0, ANGLES), np.int64)


def _along_rays(padded: ByteImage, centres: Points, rays: Rays) -> Ints:
    """(n, angles, samples) int32."""
    index = (centres[:, 1] * padded.shape[1] + centres[:, 0])[:, None, None]
    profile: Ints = padded.ravel()[index + (rays.dy * padded.shape[1] + rays.dx)].astype(np.int32)
    return profile


def _gain(profile: Ints, rays: Rays) -> Ints:
    """What an outline gains at each radius of each ray, (n, angles, samples) int32."""
    samples = profile.shape[2]
    edge = rays.samples(EDGE_UM)
    level = np.median(profile[:, :, : rays.samples(CORE_UM)], axis=(1, 2)).astype(np.int32)[:, None, None]
    total = _sums(profile)
    radius = np.arange(samples)
    at = total[:, :, :-1]
    fall = (
        2 * at - total[:, :, np.maximum(radius - edge, 0)] - total[:, :, np.minimum(radius + edge, samples)]
    )
    gaps = _sums(profile * 10 < level * round(10 * GAP_SHARE))[:, :, :-1]
    cost = (level * (GAP_COST_PER_UM * rays.um_per_px * edge * _SCALE)).astype(np.int32)
    gain: Ints = fall * _SCALE - gaps * cost
    gain[:, :, : rays.samples(MIN_RADIUS_UM)] = _FORBIDDEN
    gain[:, :, samples - edge :] = _FORBIDDEN
    return gain


def _sums(values: NDArray[np.int32] | NDArray[np.bool_]) -> Ints:
    """Running sums along the last axis, beginning with 0."""
    sums = np.zeros((*values.shape[:2], values.shape[2] + 1), np.int32)
    np.cumsum(values, axis=2, out=sums[:, :, 1:])
    return sums


def _best_closed_path(gain: Ints) -> Points:
    """(n, angles) radii of the best path around; the middle of two turns is free of their ends."""
    count, angles, samples = gain.shape
    steps = np.zeros((2 * angles, count, samples), np.int8)
    best = gain[:, 0].copy()
    for turn in range(1, 2 * angles):
        onward = best.copy()
        for step, target, source in ((-1, np.s_[:, 1:], np.s_[:, :-1]), (1, np.s_[:, :-1], np.s_[:, 1:])):
            better = best[source] > onward[target]
            np.copyto(onward[target], best[source], where=better)
            steps[turn][target][better] = step
        best = onward + gain[:, turn % angles]
    radius = best.argmax(axis=1)
    path = np.zeros((count, angles), np.int64)
    everyone = np.arange(count)
    for turn in range(2 * angles - 1, angles // 2 - 1, -1):
        if turn < angles // 2 + angles:
            path[:, turn % angles] = radius
        radius = radius + steps[turn][everyone, radius]
    return path


def vertices(radii: Points) -> tuple[Points, Points]:
    """Corners x, y of an outline from its centre, in 1/16 pixel: (..., ANGLES) int64 each."""
    turn = 2.0 * np.pi * np.arange(ANGLES) / ANGLES
    scaled = radii * float(1 << FIXED_BITS)
    return np.rint(np.cos(turn) * scaled).astype(np.int64), np.rint(np.sin(turn) * scaled).astype(np.int64)


def centroid_shift(radii: Points) -> Points:
    """(n, 2) whole pixels x, y from each outline's centre to its centre of mass."""
    x, y, cross = _corners(radii)
    area = np.maximum(cross.sum(axis=1) / 2.0, 1.0)
    means = [((c + np.roll(c, -1, axis=1)) * cross).sum(axis=1) / (6.0 * area) for c in (x, y)]
    shift: Points = np.rint(np.stack(means, axis=1)).astype(np.int64)
    return shift


def areas(radii: Points) -> NDArray[np.float64]:
    """(n,) what outlines enclose, in pixels."""
    enclosed: NDArray[np.float64] = _corners(radii)[2].sum(axis=1) / 2.0
    return enclosed


def _corners(radii: Points) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Corners x, y in pixels, and the cross product of each corner with the next: (n, ANGLES) each."""
    x, y = (corner / (1 << FIXED_BITS) for corner in vertices(radii))
    return x, y, x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y


def filled(radii: Points, scale: int = 1) -> tuple[int, int, BoolMask]:
    """Pixels inside one outline, drawn `scale` times as large.

    Args:
        radii: (ANGLES,) from the middle of the centre's pixel.

    Returns:
        x and y of the mask's left and top edge from the corner of the centre's pixel, and the mask.
    """
    one = 1 << FIXED_BITS
    x, y = (corner * scale + one * scale // 2 for corner in vertices(radii))
    left, top = int(x.min()) // one, int(y.min()) // one
    width, height = int(x.max()) // one + 2 - left, int(y.max()) // one + 2 - top
    # cv2 takes pixel centres, not corners, as whole numbers: half a pixel less.
    corners = np.stack([x - left * one - one // 2, y - top * one - one // 2], axis=1).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [corners], (1,), cv2.LINE_8, FIXED_BITS)
    return left, top, mask.view(np.bool_)
