"""Which pixels are nuclear: a threshold on haematoxylin that follows its surroundings."""

from __future__ import annotations

import cv2
import numpy as np

from mkhspc.detect.classical.masks import (
    ByteImage,
    HoleLimit,
    dilate,
    erode,
    fill_holes,
    in_bands,
    odd_size,
)
from mkhspc.geometry import area_um2, um_to_px
from mkhspc.slide.stains import SMOOTHING_UM, StainLevels, smooth

NUCLEUS_SHARE = 0.25
"""A pixel is nuclear from this share of the way from cytoplasm to typical nuclei ..."""
LOCAL_SHARE = 0.6
"""... moved by this share of the difference between local mean haematoxylin and that level ..."""
LOWEST_SHARE = 0.15
"""... but never below this one: at the edge of a fat vacuole the mean is low, and cytoplasm is not."""
SURROUNDINGS_UM = 12.0
"""The side in µm of the square over which local mean haematoxylin is taken."""
HOLE_AREA_UM2 = 20.0
"""A gap in a nucleus is filled up to this area in µm² ..."""
HOLE_SIDE_UM = 8.0
"""... if neither side of its bounding box is longer than this, in µm."""
TIP_UM = 0.3
"""The radius in µm of the disc by which the mask is opened: specks and tips that it does not fit into go."""

THRESHOLD_REACH_UM = max(3 * SMOOTHING_UM, SURROUNDINGS_UM / 2)
"""How far around it `nuclear_pixels` depends on the stain, in µm: smoothing is cut at 3 sigma."""
MASK_REACH_UM = THRESHOLD_REACH_UM + HOLE_SIDE_UM + 2 * TIP_UM
"""How far around it `nuclear_mask` depends on the stain, in µm."""


def nuclear_pixels(haematoxylin: ByteImage, levels: StainLevels, um_per_px: float) -> ByteImage:
    """(h, w) uint8 of 0 and 1 from haematoxylin in 1/128 OD."""
    sigma_px, size = SMOOTHING_UM / um_per_px, odd_size(SURROUNDINGS_UM / um_per_px)
    typical = levels.haematoxylin_at(NUCLEUS_SHARE)
    threshold = typical + LOCAL_SHARE * (np.arange(256) - typical)
    threshold = np.maximum(threshold, levels.haematoxylin_at(LOWEST_SHARE))
    table = np.clip(np.ceil(threshold), 1, 255).astype(np.uint8)

    def work(band: ByteImage) -> ByteImage:
        # The mean of uint8 over an odd number of pixels is never halfway between two whole numbers, so
        # every code path of cv2 rounds it the same way.
        mean = cv2.blur(band, (size, size))
        return (smooth(band, sigma_px) >= cv2.LUT(mean, table)).view(np.uint8)

    return in_bands(haematoxylin, um_to_px(THRESHOLD_REACH_UM, um_per_px) + 1, work)


def nuclear_mask(haematoxylin: ByteImage, levels: StainLevels, um_per_px: float) -> ByteImage:
    """`nuclear_pixels` with small holes filled, and specks and thin tips opened away."""
    limit = HoleLimit(HOLE_AREA_UM2 / area_um2(1.0, um_per_px), um_to_px(HOLE_SIDE_UM, um_per_px))
    filled = fill_holes(nuclear_pixels(haematoxylin, levels, um_per_px), limit)
    tip_px = um_to_px(TIP_UM, um_per_px)
    return dilate(erode(filled, tip_px), tip_px)
