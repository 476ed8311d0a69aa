"""Is an outlined cell a megakaryocyte? A few measurements and one score.

The weights are rounded by hand from logistic regressions on simulated marrow and on a few real MK
under changes of stain, focus, compression and pixel size; the answer holds over a wide range of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.classical.masks import dilate, erode
from pipeline.geometry import BoolMask, mask_centroid

RIM_UM = 1.3
SURROUNDINGS_UM = 2.2
SURROUNDINGS_PERCENT = 60
"""The level of the surroundings is this percentile of their eosin: a fat vacuole on one side, which
makes half of them dark, lends no contrast to the other side."""
SECTORS = 16
FALL_SHARE = 0.85
"""A cell is closed in a direction where the surroundings' eosin is below this share of its own."""


@dataclass(frozen=True)
class Patch:
    """What lies in and around an outline: arrays of one shape, with a margin of the surroundings.

    Attributes:
        cell: pixels of the outlined cell.
        nuclei: pixels of nuclei, the cell's or others'.
        eosin: uint8 in 1/128 OD.
    """

    cell: BoolMask
    nuclei: BoolMask
    eosin: NDArray[np.uint8]
    um_per_px: float


@dataclass(frozen=True)
class Evidence:
    """Measurements of one outlined cell.

    Attributes:
        area_um2: of the whole cell.
        nuclear_um2: of its nuclei.
        nuclear_rim: share of the cell's rim that is nucleus: high where small cells crowd together
            and the outline runs through them.
        contrast: median eosin of its cytoplasm less the level of its surroundings, in units of the
            scene's typical cytoplasm.
        unevenness: standard deviation of its cytoplasm's eosin over the median.
        enclosure: share of the directions in which eosin falls off at its edge.
    """

    area_um2: float
    nuclear_um2: float
    nuclear_rim: float
    contrast: float
    unevenness: float
    enclosure: float

    @property
    def score(self) -> float:
        """0 to 1; half where the evidence is even."""
        weight = (
            5.0 * math.log(min(self.area_um2, 350.0) / 265.0)
            + 5.0 * math.log(min(max(self.nuclear_um2, 5.0), 60.0) / 50.0)
            - 6.0 * (self.nuclear_rim - 0.1)
            + 8.0 * (min(max(self.contrast, -0.3), 0.7) - 0.4)
            - 40.0 * (self.unevenness - 0.18)
            + 6.0 * (self.enclosure - 0.9)
        )
        return 1.0 / (1.0 + math.exp(-min(max(weight, -30.0), 30.0)))


def gather(patch: Patch, typical_eosin: float) -> Evidence | None:
    """Measures an outlined cell; None if it has no nucleus, no cytoplasm or no surroundings."""
    cell = patch.cell.view(np.uint8)
    inner = erode(cell, max(1, round(RIM_UM / patch.um_per_px))) > 0
    around = (dilate(cell, max(1, round(SURROUNDINGS_UM / patch.um_per_px))) > 0) & ~patch.cell
    own, cytoplasm = patch.cell & patch.nuclei, patch.cell & ~patch.nuclei
    if not (own.any() and cytoplasm.any() and around.any()):
        return None
    eosin = patch.eosin[cytoplasm].astype(np.float64)
    level = max(1.0, float(np.median(eosin)))
    outside = float(np.percentile(patch.eosin[around], SURROUNDINGS_PERCENT))
    pixel_um2 = patch.um_per_px**2
    return Evidence(
        area_um2=int(patch.cell.sum()) * pixel_um2,
        nuclear_um2=int(own.sum()) * pixel_um2,
        nuclear_rim=float(patch.nuclei[patch.cell & ~inner].mean()),
        contrast=(level - outside) / typical_eosin,
        unevenness=float(eosin.std()) / level,
        enclosure=_enclosure(patch, around, FALL_SHARE * level),
    )


def _enclosure(patch: Patch, around: BoolMask, fallen: float) -> float:
    """Share of the sectors about the cell's centre whose surroundings are below a level of eosin."""
    x, y = mask_centroid(patch.cell)
    rows, columns = np.nonzero(around)
    turn = np.arctan2(rows + 0.5 - y, columns + 0.5 - x) / (2.0 * np.pi)
    sector = np.floor(turn * SECTORS).astype(np.int64) % SECTORS
    eosin = patch.eosin[rows, columns]
    # A sector without surroundings lies outside the window, where all is clear.
    closed = [
        bool(np.median(eosin[sector == number]) < fallen) if (sector == number).any() else True
        for number in range(SECTORS)
    ]
    return sum(closed) / SECTORS
