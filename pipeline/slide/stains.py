"""Haematoxylin and eosin: their separation, and the calibration of a scene.

Optical density (OD) is log10(white / intensity) per channel. Two stains with OD vectors h and e make
a pixel's OD = H h + E e + residual (Beer-Lambert; Ruifrok and Johnston, Anal. Quant. Cytol. Histol.
2001), solved by least squares. Amounts are stored as whole numbers of 1/128 OD.

A calibration belongs to a scene: it is estimated once from windows drawn in its tissue and used for
every pixel, so that a pixel's stains depend on its colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

RgbImage = NDArray[np.uint8]
FloatArray = NDArray[np.float64]
Triple = tuple[float, float, float]

OD_UNIT = 128
"""Stain amounts are whole numbers of 1/128 OD: 255 stands for 1.99 OD and above."""

PUBLISHED_HAEMATOXYLIN: Triple = (0.6500, 0.7041, 0.2860)
PUBLISHED_EOSIN: Triple = (0.0926, 0.9541, 0.2848)
"""Unit OD vectors for red, green and blue (Ruifrok and Johnston 2001, their table for H&E)."""


@dataclass(frozen=True)
class SceneCalibration:
    """What is known of the colours of a scene.

    Attributes:
        white: red, green and blue of clear glass, 0 to 255.
        haematoxylin, eosin: unit OD vectors (red, green, blue).
        vector_source: 'estimated' from the windows, or 'published' where the estimate was implausible.
        nucleus: haematoxylin (1/128 OD) from which a pixel is nucleus.
        cytoplasm: eosin (1/128 OD) from which a pixel is cytoplasm or matrix, not clear.
        intensity_range: 1st and 99th percentile of red, green and blue over the windows.
    """

    white: Triple
    haematoxylin: Triple
    eosin: Triple
    vector_source: str
    nucleus: int
    cytoplasm: int
    intensity_range: tuple[Triple, Triple]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` gives back an equal calibration."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SceneCalibration:
        low, high = data["intensity_range"]
        return cls(
            white=_triple(data["white"]),
            haematoxylin=_triple(data["haematoxylin"]),
            eosin=_triple(data["eosin"]),
            vector_source=str(data["vector_source"]),
            nucleus=int(data["nucleus"]),
            cytoplasm=int(data["cytoplasm"]),
            intensity_range=(_triple(low), _triple(high)),
        )


@dataclass(frozen=True)
class Stains:
    """Haematoxylin and eosin of every pixel of a window, (h, w) uint8 in 1/128 OD."""

    haematoxylin: NDArray[np.uint8]
    eosin: NDArray[np.uint8]


def _triple(values: Sequence[float] | FloatArray) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def separate(rgb: RgbImage, calibration: SceneCalibration) -> Stains:
    """Stain amounts of an (h, w, 3) uint8 RGB image.

    A table look-up per channel and integer sums: a pixel's answer depends on its colour and the
    calibration alone, to the last bit, wherever it lies in the array.
    """
    tables = _tables(calibration)
    return Stains(_apply(rgb, tables[0]), _apply(rgb, tables[1]))


_FRACTION_BITS = 4
_STRIP_ROWS = 32
"""Strips of this height keep the intermediate sums in the processor's cache."""


def _tables(calibration: SceneCalibration) -> NDArray[np.int16]:
    """(2, 1, 256, 3) int16: what each channel value adds to each stain, in 1/2048 OD."""
    vectors = np.array([calibration.haematoxylin, calibration.eosin]).T
    unmix = np.linalg.pinv(vectors)
    values = np.maximum(np.arange(256.0), 1.0)[:, None]
    density = np.maximum(np.log10(np.array(calibration.white) / values), 0.0)
    scaled = np.rint(density[None] * unmix[:, None, :] * (OD_UNIT << _FRACTION_BITS))
    # A third of the range of int16 each: three summands cannot overflow.
    return np.clip(scaled, -10900, 10900).astype(np.int16)[:, None]


def _apply(rgb: RgbImage, table: NDArray[np.int16]) -> NDArray[np.uint8]:
    amounts = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, rgb.shape[0], _STRIP_ROWS):
        parts = cv2.LUT(rgb[top : top + _STRIP_ROWS], table)
        total = cv2.extractChannel(parts, 0)
        for channel in (1, 2):
            total = cv2.add(total, cv2.extractChannel(parts, channel))
        total += 1 << (_FRACTION_BITS - 1)
        np.right_shift(total, _FRACTION_BITS, out=total)
        amounts[top : top + _STRIP_ROWS] = np.clip(total, 0, 255, out=total)
    return amounts


def calibrate(windows: Sequence[RgbImage], um_per_px: float) -> SceneCalibration:
    """Colours and thresholds of a scene from windows drawn in its tissue.

    Args:
        windows: (h, w, 3) uint8 RGB, at least one.
        um_per_px: their pixel size.

    Raises:
        InputError: no window holds stained tissue.
    """
    pixels = np.concatenate([window[::2, ::2].reshape(-1, 3) for window in windows])
    white = _white_point(pixels)
    density = np.maximum(np.log10(np.array(white) / np.maximum(pixels, 1)), 0.0)
    tissue = density[density.sum(axis=1) > 0.25]
    if len(tissue) < 1000:
        raise InputError(
            "the calibration windows hold no stained tissue",
            fix="is this an H&E slide? see `mkhspc inspect --preview`",
        )
    low, high = np.percentile(pixels, (1, 99), axis=0)
    draft = SceneCalibration(
        white, PUBLISHED_HAEMATOXYLIN, PUBLISHED_EOSIN, "published", 60, 20, (_triple(low), _triple(high))
    )
    return draft


def _white_point(pixels: NDArray[np.uint8]) -> Triple:
    bright = pixels[pixels.min(axis=1) > 200]
    if len(bright) > 0.002 * len(pixels):
        return _triple(np.median(bright, axis=0))
    return _triple(np.maximum(np.percentile(pixels, 99.9, axis=0), 230.0))
