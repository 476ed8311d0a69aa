"""Nuclei of haematopoietic cells: candidates for HSPC.

Touching nuclei are split; and of all pieces those stay that hold as much haematoxylin above their
surroundings as a nucleus does. That amount stands for DNA: it tells nuclei, small and dark or large
and pale alike, from fragments, from nuclei of which the section caught a slice, and from basophilic
cytoplasm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import AreaRange, CellType
from pipeline.detect.classical.masks import ByteImage, LabelImage, dilate, fits, normalised, tight
from pipeline.detect.classical.nuclei import MASK_REACH_UM, nuclear_mask
from pipeline.detect.classical.split import SPLIT_REACH_UM, find_seeds, power_labels
from pipeline.detect.contract import Detection, Window
from pipeline.geometry import area_um2, um_to_px

RIM_UM = 0.8
"""The surroundings of a nucleus: what lies this near to it and is no nucleus."""
MIN_CHROMATIN_UM2 = 9.25
"""Least haematoxylin above the surroundings', as the area at a typical nucleus's density that holds
as much. Chosen on three patients, where 7.5 to 10.5 all do: expert dots found at 1.25 to 1.15
detections a dot."""


@dataclass(frozen=True)
class ClassicalHspc:
    """Finds nuclei; see the module."""

    name: str = "classical"
    cell_type: CellType = "hspc"
    revision: str = "1"
    needs_all_stains: bool = True

    @property
    def reach_um(self) -> float:
        return MASK_REACH_UM + SPLIT_REACH_UM + RIM_UM + 2.0

    def detect(self, window: Window, area: AreaRange) -> list[Detection]:
        """Nuclei of the window; see `Detector.detect`."""
        return list(_detections(window, area))


def _detections(window: Window, area: AreaRange) -> Iterator[Detection]:
    haematoxylin, um_per_px = window.stains.haematoxylin, window.um_per_px
    levels = window.calibration.levels
    mask = nuclear_mask(haematoxylin, levels, um_per_px)
    seeds = find_seeds(mask, um_per_px)
    rim = dilate(mask, um_to_px(RIM_UM, um_per_px))
    labels = power_labels(rim, seeds, um_per_px)
    pixels, excess = _contents(labels, rim, mask, haematoxylin, len(seeds.x))
    chromatin_um2 = area_um2(1.0, um_per_px) * excess / levels.nuclear_contrast
    wanted = (chromatin_um2 >= MIN_CHROMATIN_UM2) & (area_um2(1.0, um_per_px) * pixels >= area.min_um2)
    labels[mask == 0] = 0
    pieces = ndimage.find_objects(labels, max_label=len(seeds.x))
    for index in np.flatnonzero(wanted).tolist():
        rows, columns = pieces[index]
        whole = normalised(labels[rows, columns] == index + 1)
        box, cell = tight(whole, window.box.x0 + columns.start, window.box.y0 + rows.start)
        if fits(cell, area, um_per_px):
            yield Detection(box, cell, _score(float(chromatin_um2[index])))


def _contents(
    labels: LabelImage, domain: ByteImage, mask: ByteImage, haematoxylin: ByteImage, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per label its pixels within the mask, and its haematoxylin there above the mean of its rim.

    All labels lie in the domain, and what lies in the domain outside the mask is rim.
    """
    inside = domain.view(np.bool_)
    code = 2 * labels[inside].astype(np.int64) + mask[inside]
    pixels = np.bincount(code, minlength=2 * count + 2).reshape(-1, 2)[1:]
    amount = np.bincount(code, haematoxylin[inside], 2 * count + 2).reshape(-1, 2)[1:]
    rim_mean = amount[:, 0] / np.maximum(pixels[:, 0], 1)
    return pixels[:, 1], amount[:, 1] - rim_mean * pixels[:, 1]


def _score(chromatin_um2: float) -> float:
    """0.5 for what is only just a nucleus, towards 1 for more."""
    return chromatin_um2 / (chromatin_um2 + MIN_CHROMATIN_UM2)
