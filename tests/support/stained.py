"""Pictures of simple cells in known amounts of haematoxylin and eosin."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Window
from mkhspc.geometry import Box
from mkhspc.slide.stains import SceneCalibration, StainLevels

HAEMATOXYLIN = (0.61, 0.70, 0.37)
EOSIN = (0.10, 0.90, 0.42)
WHITE = (240.0, 232.0, 238.0)
CYTOPLASM_OD, NUCLEUS_OD, EOSIN_OD = 0.1, 0.75, 0.25
"""Haematoxylin of cytoplasm and nuclei, and eosin of ordinary cytoplasm, that `CALIBRATION` knows."""


def unit(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (np.array(vector) / np.linalg.norm(vector)).tolist()
    return red, green, blue


CALIBRATION = SceneCalibration(
    white=WHITE,
    haematoxylin=unit(HAEMATOXYLIN),
    eosin=unit(EOSIN),
    vector_source="estimated",
    levels=StainLevels(
        cytoplasm_haematoxylin=128 * CYTOPLASM_OD,
        nucleus_haematoxylin=128 * NUCLEUS_OD,
        cytoplasm_eosin=128 * EOSIN_OD,
    ),
    intensity_range=((40.0, 30.0, 70.0), WHITE),
)


def mixed(haematoxylin_od: NDArray[np.float64], eosin_od: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(..., 3) uint8 RGB of amounts of stain in optical density."""
    density = haematoxylin_od[..., None] * unit(HAEMATOXYLIN) + eosin_od[..., None] * unit(EOSIN)
    return np.clip(np.rint(np.array(WHITE) * 10.0**-density), 0, 255).astype(np.uint8)


@dataclass
class Field:
    """A field of ordinary tissue to lay ellipses on; lengths in µm."""

    width_um: float
    height_um: float
    um_per_px: float = 0.22
    haematoxylin_od: NDArray[np.float64] = field(init=False)
    eosin_od: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        shape = round(self.height_um / self.um_per_px), round(self.width_um / self.um_per_px)
        self.haematoxylin_od = np.full(shape, CYTOPLASM_OD)
        self.eosin_od = np.full(shape, 0.8 * EOSIN_OD)

    def within(self, x_um: float, y_um: float, rx_um: float, ry_um: float | None = None) -> NDArray[np.bool_]:
        """Which pixels of the field lie in an ellipse; only those around it are looked at."""
        ry_um = ry_um or rx_um
        mask = np.zeros(self.haematoxylin_od.shape, np.bool_)
        rows, columns = self._span(y_um, ry_um), self._span(x_um, rx_um)
        y, x = (
            (np.arange(length)[span] + 0.5) * self.um_per_px - middle_um
            for length, span, middle_um in zip(mask.shape, (rows, columns), (y_um, x_um), strict=True)
        )
        mask[rows, columns] = (x[None, :] / rx_um) ** 2 + (y[:, None] / ry_um) ** 2 <= 1.0
        return mask

    def _span(self, middle_um: float, radius_um: float) -> slice:
        first, last = (middle_um - radius_um) / self.um_per_px, (middle_um + radius_um) / self.um_per_px
        return slice(max(0, math.floor(first)), max(0, math.ceil(last)))

    def nucleus(
        self, x_um: float, y_um: float, rx_um: float, ry_um: float | None = None, od: float = NUCLEUS_OD
    ) -> NDArray[np.bool_]:
        mask = self.within(x_um, y_um, rx_um, ry_um)
        part = self._span(y_um, ry_um or rx_um), self._span(x_um, rx_um)
        self._stain(mask, part, od, 0.4 * EOSIN_OD)
        return mask

    def body(self, x_um: float, y_um: float, rx_um: float, od: float = 1.7 * EOSIN_OD) -> NDArray[np.bool_]:
        mask = self.within(x_um, y_um, rx_um)
        self._stain(mask, (self._span(y_um, rx_um), self._span(x_um, rx_um)), CYTOPLASM_OD, od)
        return mask

    def _stain(
        self, mask: NDArray[np.bool_], part: tuple[slice, slice], haematoxylin_od: float, eosin_od: float
    ) -> None:
        inside = mask[part]
        self.haematoxylin_od[part][inside], self.eosin_od[part][inside] = haematoxylin_od, eosin_od

    def window(self, x0_px: int = 0, y0_px: int = 0) -> Window:
        rgb = mixed(self.haematoxylin_od, self.eosin_od)
        box = Box(x0_px, y0_px, x0_px + rgb.shape[1], y0_px + rgb.shape[0])
        return Window(rgb, box, self.um_per_px, CALIBRATION)
