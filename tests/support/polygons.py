"""The area of a polygon, as an outline that the package wrote must have it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def polygon_area_px(contour: NDArray[np.integer[Any]]) -> float:
    """Shoelace area of an (n, 2) polygon, in pixels."""
    x, y = contour[:, 0].astype(np.float64), contour[:, 1].astype(np.float64)
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2.0
