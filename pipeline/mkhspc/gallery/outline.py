"""A cell's contour as a short SVG path.

The contour in the run follows pixel edges. Drawn as it is, it looks like stairs and takes ten
times the bytes; so the path follows the middles of those edges, smoothed over a few pixels and
thinned to what the eye can see. It is for looking: every number comes from the run's contour.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

UNITS_PER_PX = 4
"""SVG units per display pixel: whole numbers in this unit are short and exact enough."""
TOLERANCE_PX = 0.25
"""Farthest that thinning may move the line, in display pixels."""
SMOOTHING_EDGES = 5
"""Pixel edges over which the stairs are averaged."""


def outline_path(
    contour_px: NDArray[np.int32], origin_px: tuple[int, int], scale: float, at_px: tuple[int, int]
) -> str:
    """The SVG path of a contour on a sheet of crops, in `UNITS_PER_PX` units.

    Args:
        contour_px: (n, 2) int32 corners x, y along pixel edges, level-0 px.
        origin_px: x, y of the crop's top-left pixel, level-0 px.
        scale: display pixels per level-0 pixel.
        at_px: x, y of the crop on the sheet, display pixels.
    """
    middles = _smooth(_edge_middles(contour_px - origin_px))
    line = cv2.approxPolyDP((middles * scale).astype(np.float32), TOLERANCE_PX, closed=True)[:, 0, :]
    points = np.rint((line + at_px) * UNITS_PER_PX).astype(np.int64)
    steps = np.diff(points, axis=0)
    return f"M{points[0, 0]} {points[0, 1]}l{_compact(steps)}z"


def _edge_middles(corners: NDArray[np.int32]) -> NDArray[np.float64]:
    """(m, 2) middles of every unit pixel edge of a closed outline, in order."""
    ends = np.roll(corners, -1, axis=0)
    lengths = np.abs(ends - corners).sum(axis=1)
    directions = np.sign(ends - corners)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    along = np.arange(int(lengths.sum())) - first + 0.5
    middles: NDArray[np.float64] = (
        np.repeat(corners, lengths, axis=0) + np.repeat(directions, lengths, axis=0) * along[:, None]
    )
    return middles


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean around a closed line; short lines are left alone."""
    if len(points) < 4 * SMOOTHING_EDGES:
        return points
    reach = SMOOTHING_EDGES // 2
    shifted = [np.roll(points, shift, axis=0) for shift in range(-reach, reach + 1)]
    mean: NDArray[np.float64] = np.mean(shifted, axis=0)
    return mean


def _compact(steps: NDArray[np.int64]) -> str:
    """Numbers with no more space between them than SVG needs: none before a minus."""
    numbers = [str(number) for number in steps.ravel().tolist()]
    return "".join(n if i == 0 or n[0] == "-" else f" {n}" for i, n in enumerate(numbers))
