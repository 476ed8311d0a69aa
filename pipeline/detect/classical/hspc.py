"""Nuclei of haematopoietic cells: candidates for HSPC.

Haematoxylin, smoothed, above a threshold that follows its surroundings; touching nuclei split; and of
what is left, everything that holds as much haematoxylin above its surroundings as a nucleus does.
That amount stands for its DNA: it tells nuclei, small and dark or large and pale alike, from
fragments, from nuclei of which the section caught a slice, and from basophilic cytoplasm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import AreaRange, CellType
from pipeline.detect.classical.masks import (
    ByteImage,
    HoleLimit,
    LabelImage,
    disc,
    fill_holes,
    normalised,
    odd_size,
    tight,
)
from pipeline.detect.classical.split import REACH_UM, find_seeds, power_labels
from pipeline.detect.contract import Detection, Window
from pipeline.geometry import area_um2, mask_length_px, um_to_px
from pipeline.slide.stains import SMOOTHING_UM, StainLevels, smooth

NUCLEUS_SHARE = 0.25
"""A pixel is nucleus from this share of the way from cytoplasm to typical nuclei ..."""
LOCAL_SHARE = 0.6
"""... moved by this share of the difference between local mean haematoxylin and that level ..."""
LOWEST_SHARE = 0.15
"""... but never below this one: at the edge of a fat vacuole the mean is low, and cytoplasm is not."""
SURROUNDINGS_UM = 12.0
HOLE_AREA_UM2 = 20.0
HOLE_SIDE_UM = 8.0
SMOOTHEST_TIP_UM = 0.3
RIM_UM = 0.8
MIN_CHROMATIN_UM2 = 9.0
"""Least haematoxylin above the rim's, as the area of a typical nucleus's density that holds it."""


@dataclass(frozen=True)
class ClassicalHspc:
    """Finds nuclei; see the module."""

    name: str = "classical"
    cell_type: CellType = "hspc"

    @property
    def reach_um(self) -> float:
        mask_reach = max(3 * SMOOTHING_UM, SURROUNDINGS_UM / 2) + HOLE_SIDE_UM + 2 * SMOOTHEST_TIP_UM
        return mask_reach + REACH_UM + RIM_UM + 2.0

    def detect(self, window: Window, area: AreaRange) -> list[Detection]:
        """Nuclei of the window; see `Detector.detect`."""
        return list(_detections(window, area))


def _detections(window: Window, area: AreaRange) -> Iterator[Detection]:
    mask = nuclear_mask(window.stains.haematoxylin, window.calibration.levels, window.um_per_px)
    rim = cv2.dilate(mask, disc(um_to_px(RIM_UM, window.um_per_px)))
    seeds = find_seeds(mask, window.um_per_px)
    labels = power_labels(rim, seeds, window.um_per_px)
    pixels, chromatin = _contents(labels, mask, window.stains.haematoxylin, len(seeds.x))
    contrast = window.calibration.levels.nuclear_contrast
    chromatin_um2 = area_um2(1.0, window.um_per_px) * chromatin / contrast
    labels[mask == 0] = 0
    wanted = (chromatin_um2 >= MIN_CHROMATIN_UM2) & (area_um2(1.0, window.um_per_px) * pixels >= area.min_um2)
    pieces = ndimage.find_objects(labels)
    for index in np.flatnonzero(wanted).tolist():
        if index >= len(pieces) or pieces[index] is None:
            continue
        rows, columns = pieces[index]
        whole = normalised(labels[rows, columns] == index + 1)
        box, cell = tight(whole, window.box.x0 + columns.start, window.box.y0 + rows.start)
        if fits(cell, area, window.um_per_px):
            yield Detection(box, cell, _score(float(chromatin_um2[index])))


def nuclear_mask(haematoxylin: ByteImage, levels: StainLevels, um_per_px: float) -> ByteImage:
    """Where nuclei are: (h, w) uint8 of 0 and 1, tips and specks opened away, small holes filled."""
    smoothed = smooth(haematoxylin, SMOOTHING_UM / um_per_px)
    size = odd_size(SURROUNDINGS_UM / um_per_px)
    # The mean of uint8 over an odd number of pixels is never halfway between two whole numbers, so
    # it is rounded the same way by every code path of cv2.
    mean = cv2.blur(haematoxylin, (size, size))
    typical = levels.haematoxylin_at(NUCLEUS_SHARE)
    threshold = typical + LOCAL_SHARE * (np.arange(256) - typical)
    threshold = np.clip(np.ceil(np.maximum(threshold, levels.haematoxylin_at(LOWEST_SHARE))), 1, 255)
    mask = (smoothed >= cv2.LUT(mean, threshold.astype(np.uint8))).view(np.uint8)
    limit = HoleLimit(HOLE_AREA_UM2 / area_um2(1.0, um_per_px), um_to_px(HOLE_SIDE_UM, um_per_px))
    opener = disc(um_to_px(SMOOTHEST_TIP_UM, um_per_px))
    opened: ByteImage = cv2.morphologyEx(fill_holes(mask, limit), cv2.MORPH_OPEN, opener)
    return opened


def _contents(
    labels: LabelImage, mask: ByteImage, haematoxylin: ByteImage, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per label its pixels within the mask, and its haematoxylin there above the mean of its rim."""
    at = np.flatnonzero(labels)
    code = labels.ravel()[at] * 2 + mask.ravel()[at]
    pixels = np.bincount(code, minlength=2 * count + 2).reshape(-1, 2)[1:]
    amount = np.bincount(code, haematoxylin.ravel()[at], 2 * count + 2).reshape(-1, 2)[1:]
    rim_mean = amount[:, 0] / np.maximum(pixels[:, 0], 1)
    return pixels[:, 1], amount[:, 1] - rim_mean * pixels[:, 1]


def fits(mask: NDArray[np.bool_], area: AreaRange, um_per_px: float) -> bool:
    """Whether a tight mask has an area in the range and is no longer than the range allows."""
    size_um2 = area_um2(int(mask.sum()), um_per_px)
    if not area.min_um2 <= size_um2 <= area.max_um2:
        return False
    longest_px = area.max_length_um / um_per_px
    return float(np.hypot(*mask.shape)) <= longest_px or mask_length_px(mask) <= longest_px


def _score(chromatin_um2: float) -> float:
    """0.5 for what is only just a nucleus, towards 1 for more."""
    return chromatin_um2 / (chromatin_um2 + MIN_CHROMATIN_UM2)
