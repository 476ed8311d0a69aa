"""Is an outlined cell a megakaryocyte? A few measurements and the odds that follow from them.

The weights are rounded by hand from logistic regressions on simulated marrow and on a few real MK
under changes of stain, focus, compression and pixel size; the answer holds over a wide range of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.classical.masks import dilate, erode
from mkhspc.geometry import BoolMask, mask_centroid

RIM_UM = 1.3
"""The width in µm of a cell's rim, inside its outline, of which `nuclear_rim` is the nuclear share."""
SURROUNDINGS_UM = 2.2
"""The width in µm of the surroundings that a cell is compared with, outside its outline."""
SURROUNDINGS_SHARE = 0.6
"""The quantile of the surroundings' eosin that counts as their level. Above one half, since a fat vacuole
without eosin on one side must lend no contrast to the other side."""
LEVEL_WIDTH = 0.2
"""A level is the mean of this share of the values, those around its quantile. A quantile alone moves
in whole steps of 1/128 OD, and noise decides which."""
SECTORS = 16
"""The number of directions, 22.5° each, in which a cell's edge is looked at."""
FULL_FALL_SHARE = 0.3
"""A cell is fully enclosed in a direction where the surroundings' eosin lies at least this share below the
cell's own; where it lies less below, it is enclosed in part."""
SUREST = 9.0
"""The log-odds of an outline are cut at this value, either way, so that none outweighs all others."""


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
        enclosure: how far eosin falls off at its edge, 0 to 1, on average over directions.
    """

    area_um2: float
    nuclear_um2: float
    nuclear_rim: float
    contrast: float
    unevenness: float
    enclosure: float

    @property
    def log_odds(self) -> float:
        """Log-odds of its being an MK, from -`SUREST` to `SUREST`; 0 where the evidence is even."""
        weight = (
            5.0 * math.log(min(self.area_um2, 350.0) / 265.0)
            + 5.0 * math.log(min(max(self.nuclear_um2, 5.0), 60.0) / 50.0)
            - 6.0 * (self.nuclear_rim - 0.1)
            + 8.0 * (min(max(self.contrast, -0.3), 0.7) - 0.4)
            - 40.0 * (self.unevenness - 0.18)
            + 6.0 * (self.enclosure - 0.88)
        )
        return min(max(weight, -SUREST), SUREST)


def gather(patch: Patch, typical_eosin: float) -> Evidence | None:
    """Measures an outlined cell; None if it has no nucleus, no cytoplasm or no surroundings."""
    cell = patch.cell.view(np.uint8)
    inner = erode(cell, max(1, round(RIM_UM / patch.um_per_px))) > 0
    around = (dilate(cell, max(1, round(SURROUNDINGS_UM / patch.um_per_px))) > 0) & ~patch.cell
    own, cytoplasm = patch.cell & patch.nuclei, patch.cell & ~patch.nuclei
    if not (own.any() and cytoplasm.any() and around.any()):
        return None
    eosin = patch.eosin[cytoplasm]
    level = max(1.0, _level(eosin, 0.5))
    pixel_um2 = patch.um_per_px**2
    return Evidence(
        area_um2=int(patch.cell.sum()) * pixel_um2,
        nuclear_um2=int(own.sum()) * pixel_um2,
        nuclear_rim=float(patch.nuclei[patch.cell & ~inner].mean()),
        contrast=(level - _level(patch.eosin[around], SURROUNDINGS_SHARE)) / typical_eosin,
        unevenness=float(eosin.std()) / level,
        enclosure=_enclosure(patch, around, level),
    )


def _level(values: NDArray[np.uint8], share: float) -> float:
    """The quantile `share` of (n,) values, in finer steps than theirs."""
    first, last = (int(len(values) * (share + side * LEVEL_WIDTH / 2.0)) for side in (-1.0, 1.0))
    return float(np.sort(values)[first : last + 1].mean())


def _enclosure(patch: Patch, around: BoolMask, level: float) -> float:
    """How far the sectors of the surroundings, seen from the cell's centre, lie below its level of eosin."""
    x, y = (int(value) for value in mask_centroid(patch.cell))
    rows, columns = around.shape
    reach = 1 << max(rows, columns).bit_length()
    sectors = _sectors(reach)[reach - y : reach - y + rows, reach - x : reach - x + columns]
    ordered = np.sort((sectors[around] << 8) | patch.eosin[around])
    sizes = np.bincount(ordered >> 8, minlength=SECTORS)
    seen, first = sizes > 0, np.cumsum(sizes) - sizes
    middle = (ordered[(first + (sizes - 1) // 2)[seen]], ordered[(first + sizes // 2)[seen]])
    # A sector without surroundings lies outside the window, where all is clear.
    median = np.zeros(SECTORS)
    median[seen] = np.mean([values & 255 for values in middle], axis=0)
    return float(np.clip((1.0 - median / level) / FULL_FALL_SHARE, 0.0, 1.0).mean())


@cache
def _sectors(reach: int) -> NDArray[np.uint16]:
    """(2 reach, 2 reach): the sector in which each pixel lies, seen from the pixel at (reach, reach)."""
    offset = np.arange(-reach, reach)
    turn = np.arctan2(offset[:, None], offset[None, :]) / (2.0 * np.pi)
    sectors: NDArray[np.uint16] = (np.floor(turn * SECTORS).astype(np.int64) % SECTORS).astype(np.uint16)
    return sectors
