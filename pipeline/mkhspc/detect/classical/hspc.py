"""Nuclei of haematopoietic cells: candidates for HSPC.

Touching nuclei are split; and of all pieces those stay that hold as much haematoxylin above their
surroundings as a nucleus does. That amount stands for DNA: it tells nuclei, small and dark or large
and pale alike, from fragments, from nuclei of which the section caught a slice, and from basophilic
cytoplasm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange, CellType
from mkhspc.detect.classical.masks import ByteImage, LabelImage, dilate, fits, label_boxes, tight
from mkhspc.detect.classical.nuclei import MASK_REACH_UM, nuclear_mask
from mkhspc.detect.classical.split import SPLIT_REACH_UM, find_seeds, power_labels
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.geometry import Box, area_um2, normalise_mask, um_to_px

RIM_UM = 0.8
"""The width in µm of a nucleus's surroundings: what lies this near to it outside all nuclei."""
IN_MASK = 2
"""The number that marks a pixel of a nucleus; 1 marks a pixel of its rim."""
CONTENT_ROWS = 64
"""Rows whose haematoxylin is summed up at a time: numpy takes 30 bytes a pixel for that."""
MIN_CHROMATIN_UM2 = 9.25
"""The least haematoxylin of an HSPC above that of its surroundings, in µm²: the area that holds as much at a
typical nucleus's density. Chosen on three patients, where any value from 7.5 to 10.5 finds the experts' dots
at 1.25 to 1.15 detections a dot."""


@dataclass(frozen=True)
class ClassicalHspc:
    """Finds nuclei; see the module."""

    name: str = "classical"
    cell_type: CellType = "hspc"
    revision: str = "1"
    longest_um: float = math.inf

    def halo_um(self, needed: NeededCells) -> float:
        return needed.longest_um + MASK_REACH_UM + SPLIT_REACH_UM + RIM_UM + 2.0 + needed.point_um

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, stored: CellRange) -> list[Detection]:
        """Nuclei of the window; see `Detector.detect`."""
        return list(_detections(window, stored))


def _detections(window: Window, stored: CellRange) -> Iterator[Detection]:
    haematoxylin, um_per_px = window.haematoxylin, window.um_per_px
    levels = window.calibration.levels
    mask = nuclear_mask(haematoxylin, levels, um_per_px)
    seeds = find_seeds(mask, um_per_px)
    zones = dilate(mask, um_to_px(RIM_UM, um_per_px))
    zones += mask
    del mask
    labels = power_labels(zones, seeds, um_per_px)
    pixels, excess = _contents(labels, zones, haematoxylin, len(seeds.x))
    chromatin_um2 = area_um2(1.0, um_per_px) * excess / levels.nuclear_contrast
    wanted = (chromatin_um2 >= MIN_CHROMATIN_UM2) & (area_um2(1.0, um_per_px) * pixels >= stored.min_um2)
    np.copyto(labels, 0, where=np.less(zones, IN_MASK, out=zones.view(np.bool_)))
    del zones
    boxes = label_boxes(labels, len(seeds.x)).tolist()
    for index in np.flatnonzero(wanted).tolist():
        x0, y0, x1, y1 = boxes[index]
        whole = normalise_mask(labels[y0:y1, x0:x1] == index + 1)
        box, cell = tight(whole, window.box.x0 + x0, window.box.y0 + y0)
        if fits(cell, stored, um_per_px):
            yield Detection(box, cell, _score(float(chromatin_um2[index])))


def _contents(
    labels: LabelImage, zones: ByteImage, haematoxylin: ByteImage, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per label its pixels within the mask, and its haematoxylin there above the mean of its rim.

    Args:
        zones: where labels lie: `IN_MASK`, or 1 in a rim.
    """
    pixels = np.zeros((count + 1, 2), np.int64)
    amount = np.zeros((count + 1, 2))
    for top in range(0, len(labels), CONTENT_ROWS):  # sums of whole numbers: the same however they are cut
        band = slice(top, top + CONTENT_ROWS)
        inside = zones[band] > 0
        code = 2 * labels[band][inside].astype(np.int32) + (zones[band][inside] == IN_MASK)
        pixels += np.bincount(code, minlength=pixels.size).reshape(-1, 2)
        amount += np.bincount(code, haematoxylin[band][inside], pixels.size).reshape(-1, 2)
    rim_mean = amount[1:, 0] / np.maximum(pixels[1:, 0], 1)
    return pixels[1:, 1], amount[1:, 1] - rim_mean * pixels[1:, 1]


def _score(chromatin_um2: float) -> float:
    """0.5 for what is only just a nucleus, towards 1 for more."""
    return chromatin_um2 / (chromatin_um2 + MIN_CHROMATIN_UM2)
