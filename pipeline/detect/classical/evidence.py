"""Is an outlined cell a megakaryocyte? Six measurements and one score.

The weights are rounded by hand from logistic regressions on simulated marrow and on a few real MK
under changes of stain, focus, compression and pixel size; they hold over a wide range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.detect.classical.masks import dilate, erode
from pipeline.geometry import BoolMask

RIM_UM = 1.3
SURROUNDINGS_UM = 2.2


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
        contrast: median eosin of its cytoplasm less that of its surroundings, in units of the
            scene's typical cytoplasm.
        unevenness: standard deviation of its cytoplasm's eosin over the median.
    """

    area_um2: float
    nuclear_um2: float
    nuclear_rim: float
    contrast: float
    unevenness: float

    @property
    def score(self) -> float:
        """0 to 1; half where the evidence is even."""
        weight = (
            4.0 * math.log(self.area_um2 / 265.0)
            + 5.0 * math.log(min(max(self.nuclear_um2, 5.0), 60.0) / 50.0)
            - 6.0 * (self.nuclear_rim - 0.1)
            + 10.0 * (min(max(self.contrast, 0.0), 0.8) - 0.5)
            - 35.0 * (self.unevenness - 0.18)
        )
        return 1.0 / (1.0 + math.exp(-min(max(weight, -30.0), 30.0)))


def gather(patch: Patch, typical_eosin: float) -> Evidence | None:
    """Measures an outlined cell; None if it has no nucleus or no cytoplasm of its own."""
    own = patch.cell & patch.nuclei
    cytoplasm = patch.cell & ~patch.nuclei
    if not own.any() or not cytoplasm.any():
        return None
    cell = patch.cell.view(np.uint8)
    inner = erode(cell, max(1, round(RIM_UM / patch.um_per_px))) > 0
    outer = dilate(cell, max(1, round(SURROUNDINGS_UM / patch.um_per_px))) > 0
    eosin = patch.eosin[cytoplasm].astype(np.float64)
    level = max(1.0, float(np.median(eosin)))
    around = float(np.median(patch.eosin[outer & ~patch.cell]))
    pixel_um2 = patch.um_per_px**2
    return Evidence(
        area_um2=int(patch.cell.sum()) * pixel_um2,
        nuclear_um2=int(own.sum()) * pixel_um2,
        nuclear_rim=float(patch.nuclei[patch.cell & ~inner].mean()),
        contrast=(level - around) / typical_eosin,
        unevenness=float(eosin.std()) / level,
    )
