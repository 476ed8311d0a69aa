"""What surrounds a cell: a ring of 3 µm, and how the cell stands out from it."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from mkhspc.detect.contract import Window
from mkhspc.geometry import um_to_px
from mkhspc.measure.colour import WHITE
from mkhspc.measure.regions import Floats
from mkhspc.measure.strips import Bytes, Strip
from mkhspc.slide.stains import OD_UNIT, STAINS

CONTEXT_NAMES = (
    "colour_relative_brightness",
    "colour_ring_haematoxylin_mean",
    "colour_ring_eosin_mean",
    "colour_ring_haematoxylin_contrast",
    "colour_ring_eosin_contrast",
)
RING_UM = 3.0
"""The width in µm of the ring around a cell, about half a nucleus: it reaches the cell's own cytoplasm and
the nearest neighbours, not beyond."""


def ring_reach_px(um_per_px: float) -> int:
    """How far a strip's frames must reach around their cells for `ring_means`."""
    return um_to_px(RING_UM, um_per_px) + 1


def ring_means(window: Window, strip: Strip) -> dict[str, Floats]:
    """(k,) means of gray (0 to 255), haematoxylin and eosin (OD) over the ring of each cell.

    The ring is every pixel outside the cell and within `RING_UM` of it, other cells included.

    Args:
        strip: with a margin of at least `ring_reach_px`.
    """
    ring = _ring(strip, RING_UM / window.um_per_px)
    count = strip.frame_sums(ring & 1)
    rgb = cv2.bitwise_and(colours := strip.cut(window.rgb, WHITE), colours, mask=ring)
    stains = {name: strip.cut(window.amounts(name), 0) & ring for name in STAINS}
    return {
        "gray": strip.frame_sums(np.asarray(rgb, np.uint8)) / (3 * count),
        **{name: strip.frame_sums(image) / count / OD_UNIT for name, image in stains.items()},
    }


def context_features(rings: Mapping[str, Floats], inside: Mapping[str, Floats]) -> dict[str, Floats]:
    """All of `CONTEXT_NAMES`, (n,) float64 each, from the means over rings and cells.

    - relative brightness: mean gray, (red + green + blue) / 3, of the cell minus that of its ring;
    - ring haematoxylin and eosin: mean over the ring, in optical density;
    - contrast: mean over the cell minus mean over its ring, in optical density.

    Args:
        rings: from `ring_means`.
        inside: from `colour_features` and `texture_features`.
    """
    return {
        "colour_relative_brightness": inside["colour_gray_mean"] - rings["gray"],
        **{f"colour_ring_{name}_mean": rings[name] for name in STAINS},
        **{f"colour_ring_{name}_contrast": inside[f"texture_{name}_mean"] - rings[name] for name in STAINS},
    }


def _ring(strip: Strip, radius_px: float) -> Bytes:
    """255 within a radius of a cell but not in it; distances by the 5 x 5 chamfer, good to 2 %.

    At pixels larger than the radius the ring is the 4-neighbours.
    """
    distance = cv2.distanceTransform(cv2.bitwise_not(strip.mask), cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(cv2.inRange(distance, 0.5, max(1.0, radius_px)), np.uint8)
