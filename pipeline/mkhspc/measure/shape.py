"""Size and form of cells, from their masks alone."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mkhspc.measure.hull import Hulls, hull_areas_px
from mkhspc.measure.regions import Floats, Ints, PackedMasks
from mkhspc.measure.strips import Bytes, Strip

SHAPE_NAMES = (
    "shape_area_um2",
    "shape_perimeter_um",
    "shape_circularity",
    "shape_solidity",
    "shape_aspect_ratio",
    "shape_extent",
    "shape_equivalent_diameter_um",
    "shape_eccentricity",
    "shape_major_axis_um",
    "shape_minor_axis_um",
    "shape_convexity",
    "shape_feret_length_um",
    "shape_feret_width_um",
    "shape_hu_1",
    "shape_hu_2",
    "shape_hu_3",
    "shape_hu_4",
)

ONE_PIXEL_AXIS_PX = 4.0 / math.sqrt(12.0)
"""The axis in pixels of the ellipse that has the second moment of a line one pixel wide."""


def shape_features(masks: PackedMasks, perimeters_px: Floats, um_per_px: float) -> dict[str, Floats]:
    """All of `SHAPE_NAMES`, (n,) float64 each.

    With N the area and P the perimeter in pixels, and definitions as in `skimage.measure.
    regionprops` (0.26) unless said otherwise:

    - area, perimeter (see `perimeters_px`), equivalent diameter sqrt(4 N / pi);
    - circularity: 4 pi N / P² (Cox, J. Paleontology 1927), with P of at least one pixel because the
      estimate of P is 0 for one or two pixels; above 1 for small round cells, since P runs
      through the centres of border pixels;
    - solidity: N / pixels of the convex hull (see `hull_areas_px`); extent: N / area of the box;
    - major and minor axis, eccentricity: of the ellipse with the same second moments; axes are
      4 sqrt(eigenvalue) of the covariance of the pixel centres, so 0 across a one-pixel line;
    - aspect ratio: major / minor axis, each at least that of one pixel, 4 / sqrt(12) px;
    - convexity: perimeter of the hull of the pixel corners / (P + 4). The 4 is the perimeter of a
      pixel, by which an outline along corners is longer than one through centres. Falls below
      that of a smooth convex outline with lobes and with roughness;
    - Feret length and width: longest and shortest caliper distance of the pixel corners;
    - hu_1 to hu_4: the invariants of Hu (IRE Trans. Inf. Theory 1962) of second and third order,
      independent of place, size and orientation.

    Args:
        perimeters_px: (n,) from `perimeters_px` for the same cells.
    """
    area = masks.areas_px.astype(np.float64)
    hulls = Hulls.from_masks(masks)
    feret_length, feret_width = hulls.ferets_px
    moments = _central_moments(masks)
    major, minor, eccentricity = _ellipses(moments, area)
    return {
        "shape_area_um2": area * um_per_px**2,
        "shape_perimeter_um": perimeters_px * um_per_px,
        "shape_circularity": 4.0 * math.pi * area / np.maximum(perimeters_px, 1.0) ** 2,
        "shape_solidity": area / hull_areas_px(masks),
        "shape_aspect_ratio": np.maximum(major, ONE_PIXEL_AXIS_PX) / np.maximum(minor, ONE_PIXEL_AXIS_PX),
        "shape_extent": area / (masks.widths_px * masks.heights_px),
        "shape_equivalent_diameter_um": np.sqrt(4.0 * area / math.pi) * um_per_px,
        "shape_eccentricity": eccentricity,
        "shape_major_axis_um": major * um_per_px,
        "shape_minor_axis_um": minor * um_per_px,
        "shape_convexity": hulls.perimeters_px / (perimeters_px + 4.0),
        "shape_feret_length_um": feret_length * um_per_px,
        "shape_feret_width_um": feret_width * um_per_px,
        **_hu_invariants(moments, area),
    }


Moments = dict[tuple[int, int], Floats]
"""(n,) sums or means of x**p * y**q over the pixels of each cell, by (p, q)."""


def _ellipses(central: Moments, area: Floats) -> tuple[Floats, Floats, Floats]:
    """Major and minor axis in pixels, and eccentricity, of the ellipses of equal second moments."""
    xx, xy, yy = (central[pq] / area for pq in ((2, 0), (1, 1), (0, 2)))
    mean, spread = (xx + yy) / 2.0, np.sqrt(((xx - yy) / 2.0) ** 2 + xy**2)
    large, small = mean + spread, np.maximum(mean - spread, 0.0)
    # A single pixel has no extent at all: as round as a disc.
    ratio = np.divide(small, large, out=np.ones_like(large), where=large > 0.0)
    return 4.0 * np.sqrt(large), 4.0 * np.sqrt(small), np.sqrt(1.0 - ratio)


def _central_moments(masks: PackedMasks) -> Moments:
    """Moments of second and third order about the centroid."""
    # Counting from the middle of the box keeps the terms that cancel small.
    middle = np.stack([masks.widths_px // 2, masks.heights_px // 2], axis=1)
    raw = {pq: sums.astype(np.float64) for pq, sums in masks.moments(3, middle).items()}
    n, sx, sy = raw[0, 0], raw[1, 0], raw[0, 1]
    x, y = sx / n, sy / n
    return {
        (2, 0): (n * raw[2, 0] - sx * sx) / n,
        (1, 1): (n * raw[1, 1] - sx * sy) / n,
        (0, 2): (n * raw[0, 2] - sy * sy) / n,
        (3, 0): raw[3, 0] - 3.0 * x * raw[2, 0] + 2.0 * x * x * sx,
        (2, 1): raw[2, 1] - 2.0 * x * raw[1, 1] - y * raw[2, 0] + 2.0 * x * x * sy,
        (1, 2): raw[1, 2] - 2.0 * y * raw[1, 1] - x * raw[0, 2] + 2.0 * y * y * sx,
        (0, 3): raw[0, 3] - 3.0 * y * raw[0, 2] + 2.0 * y * y * sy,
    }


def _hu_invariants(central: Moments, area: Floats) -> dict[str, Floats]:
    eta = {(p, q): mu / area ** (1 + (p + q) / 2) for (p, q), mu in central.items()}
    sum_x, sum_y = eta[3, 0] + eta[1, 2], eta[2, 1] + eta[0, 3]
    return {
        "shape_hu_1": eta[2, 0] + eta[0, 2],
        "shape_hu_2": (eta[2, 0] - eta[0, 2]) ** 2 + 4.0 * eta[1, 1] ** 2,
        "shape_hu_3": (eta[3, 0] - 3.0 * eta[1, 2]) ** 2 + (3.0 * eta[2, 1] - eta[0, 3]) ** 2,
        "shape_hu_4": sum_x**2 + sum_y**2,
    }


_NEIGHBOUR_CODE = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.float32)
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def _step_table() -> Bytes:
    """Straight (low 4 bits) and diagonal (high 4 bits) half steps of a neighbour code."""
    table = np.zeros(256, np.uint8)
    table[[5, 7, 15, 17, 25, 27]] = 2
    table[[21, 33]] = 2 << 4
    table[[13, 23]] = 1 | 1 << 4
    return table


_STEPS = _step_table()


def perimeters_px(strip: Strip) -> Floats:
    """(k,) perimeters, as `skimage.measure.perimeter` with 4-neighbourhood estimates them.

    Border pixels (those with a 4-neighbour outside) are weighed by how their border neighbours lie:
    1 for a straight step, sqrt(2) for a diagonal one, their mean for one of each (Benkrid and
    Crookes, Design and FPGA Implementation of a Perimeter Estimator, 2000).
    """
    border = np.asarray(strip.mask - cv2.erode(strip.mask, _CROSS), np.uint8) & 1
    codes = cv2.filter2D(border, cv2.CV_8U, _NEIGHBOUR_CODE, borderType=cv2.BORDER_CONSTANT)
    steps = np.asarray(cv2.LUT(codes, _STEPS), np.uint8)  # codes of other pixels are even and count nothing
    straight: Ints = strip.frame_sums(steps & 15)
    diagonal: Ints = strip.frame_sums(steps >> 4)
    return 0.5 * straight + math.sqrt(0.5) * diagonal
