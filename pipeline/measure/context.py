"""What surrounds a cell: a ring of 3 µm, and how the cell stands out from it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.detect.contract import Window
from pipeline.geometry import um_to_px
from pipeline.measure.colour import WHITE
from pipeline.measure.regions import Floats
from pipeline.measure.strips import Bytes, Strip
from pipeline.slide.stains import OD_UNIT

CONTEXT_NAMES = (
    "colour_relative_brightness",
    "colour_ring_haematoxylin_mean",
    "colour_ring_eosin_mean",
    "colour_ring_haematoxylin_contrast",
    "colour_ring_eosin_contrast",
)
RING_UM = 3.0
"""About half a nucleus: reaches the cell's own cytoplasm and the nearest neighbours, not beyond."""


def ring_reach_px(um_per_px: float) -> int:
    """How far a strip's frames must reach around their cells for `context_features`."""
    return um_to_px(RING_UM, um_per_px) + 1


def context_features(window: Window, strip: Strip) -> dict[str, Floats]:
    """All of `CONTEXT_NAMES`, (k,) float64 each.

    The ring is every pixel outside the cell and within 3 µm of it, other cells included.

    - relative brightness: mean gray, (red + green + blue) / 3, of the cell minus that of its ring;
    - ring haematoxylin and eosin: mean over the ring, in optical density;
    - contrast: mean over the cell minus mean over the ring, in optical density.

    Args:
        strip: with a margin of at least `ring_reach_px`.
    """
    ring = _ring(strip, RING_UM / window.um_per_px)
    inside_px, ring_px = strip.sums(strip.mask & 1), strip.sums(ring & 1)

    def means(image: Bytes) -> tuple[Floats, Floats]:
        return strip.sums(image & strip.mask) / inside_px, strip.sums(image & ring) / ring_px

    planes = cv2.split(strip.cut(window.rgb, WHITE))
    red, green, blue = (np.array(means(np.asarray(plane, np.uint8))) for plane in planes)
    gray = (red + green + blue) / 3.0
    features = {"colour_relative_brightness": gray[0] - gray[1]}
    for name in ("haematoxylin", "eosin"):
        inside, around = means(strip.cut(getattr(window.stains, name), 0))
        features[f"colour_ring_{name}_mean"] = around / OD_UNIT
        features[f"colour_ring_{name}_contrast"] = (inside - around) / OD_UNIT
    return features


def _ring(strip: Strip, radius_px: float) -> Bytes:
    """255 within a radius of a cell but not in it; distances by the 5 x 5 chamfer, good to 2 %.

    At pixels larger than the radius the ring is the 4-neighbours.
    """
    distance = cv2.distanceTransform(cv2.bitwise_not(strip.mask), cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(cv2.inRange(distance, 0.5, max(1.0, radius_px)), np.uint8)
