"""Colour of cells, and of what lies around them."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Window
from mkhspc.measure.regions import Floats
from mkhspc.measure.strips import Bytes, Strip, variances

COLOUR_NAMES = (
    "colour_red_mean",
    "colour_red_std",
    "colour_green_mean",
    "colour_green_std",
    "colour_blue_mean",
    "colour_blue_std",
    "colour_gray_mean",
    "colour_gray_std",
    "colour_hue_mean",
    "colour_saturation_mean",
    "colour_value_mean",
    "colour_intensity_variance",
    "texture_dark_region_fraction",
)
DARK_GRAY = 100
"""Gray below which a pixel is dark, of 255; the value that the lab's own software used."""
WHITE = 255


def colour_features(window: Window, strip: Strip) -> dict[str, Floats]:
    """All of `COLOUR_NAMES`, (k,) float64 each, over the pixels of each cell.

    - red, green, blue: mean and standard deviation (of the population), 0 to 255;
    - gray: (red + green + blue) / 3 likewise; intensity variance is the square of its deviation;
    - hue: circular mean in degrees, each pixel weighted by its chroma, since the hue of a nearly
      grey pixel is noise (Hanbury, Proc. CAIP 2003). It is the direction of the mean of
      (2 R - G - B, sqrt(3) (G - B)), from -180 to 180 so that pink (below 0) and red (above) lie
      side by side; 0, as HSV has it, for a cell of pure grey;
    - saturation: mean of (max - min) / max of the channels, 0 for black; value: mean of max / 255;
    - dark region fraction: share of pixels with gray below `DARK_GRAY`.
    """
    planes = [plane.ravel()[strip.pixels] for plane in cv2.split(strip.cut(window.rgb, WHITE))]
    red, green, blue = (np.asarray(plane, np.uint8) for plane in planes)
    gray3 = red.astype(np.uint16) + green + blue
    features = {
        **_mean_and_std("red", red, 1, strip),
        **_mean_and_std("green", green, 1, strip),
        **_mean_and_std("blue", blue, 1, strip),
        **_mean_and_std("gray", gray3, 3, strip),
        **_hue_saturation_value(red, green, blue, strip),
        "texture_dark_region_fraction": strip.sums((gray3 < 3 * DARK_GRAY).view(np.uint8)) / strip.counts,
    }
    features["colour_intensity_variance"] = features["colour_gray_std"] ** 2
    return features


def _mean_and_std(name: str, values: NDArray[np.integer], unit: int, strip: Strip) -> dict[str, Floats]:
    wide = values.astype(np.uint32)
    sums, square_sums = strip.sums(wide), strip.sums(wide * wide)
    return {
        f"colour_{name}_mean": sums / (strip.counts * unit),
        f"colour_{name}_std": np.sqrt(variances(strip.counts, sums, square_sums)) / unit,
    }


def _hue_saturation_value(red: Bytes, green: Bytes, blue: Bytes, strip: Strip) -> dict[str, Floats]:
    r, g, b = strip.sums(red), strip.sums(green), strip.sums(blue)
    largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = _SATURATION[largest.astype(np.uint16) << 8 | smallest]
    return {
        "colour_hue_mean": np.degrees(np.arctan2(math.sqrt(3.0) * (g - b), 2 * r - g - b)),
        "colour_saturation_mean": strip.sums(saturation) / strip.counts / _SATURATION_UNIT,
        "colour_value_mean": strip.sums(largest) / strip.counts / 255.0,
    }


_SATURATION_UNIT = 1 << 24


def _saturation_table() -> NDArray[np.int32]:
    """Saturation by 256 * max + min, as whole numbers so that sums are exact."""
    largest, smallest = np.divmod(np.arange(1 << 16), 256)
    share = (largest - smallest) / np.maximum(largest, 1)
    table: NDArray[np.int32] = np.rint(np.maximum(share, 0.0) * _SATURATION_UNIT).astype(np.int32)
    return table


_SATURATION = _saturation_table()
