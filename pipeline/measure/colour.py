"""Colour of cells, and of what lies around them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.detect.contract import Window
from pipeline.measure.regions import Floats, Ints
from pipeline.measure.strips import Strip

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
CHANNELS = ("red", "green", "blue")
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
    pixels, starts, counts = strip.pixels, strip.pixel_starts, strip.counts
    red, green, blue = (plane.ravel()[pixels] for plane in cv2.split(strip.cut(window.rgb, WHITE)))
    features: dict[str, Floats] = {}
    gray3 = red.astype(np.uint16) + green + blue
    for name, values, unit in (("red", red, 1), ("green", green, 1), ("blue", blue, 1), ("gray", gray3, 3)):
        mean, variance = mean_and_variance(values.astype(np.uint32), starts, counts)
        features[f"colour_{name}_mean"] = mean / unit
        features[f"colour_{name}_std"] = np.sqrt(variance) / unit
    features["colour_intensity_variance"] = variance / unit**2
    features["colour_hue_mean"] = _hue(*(features[f"colour_{name}_mean"] for name in CHANNELS))
    largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = _SATURATION[largest.astype(np.uint16) << 8 | smallest]
    features["colour_saturation_mean"] = np.add.reduceat(saturation, starts) / counts / _SATURATION_UNIT
    features["colour_value_mean"] = np.add.reduceat(largest, starts, dtype=np.int64) / counts / 255.0
    is_dark = (gray3 < 3 * DARK_GRAY).view(np.uint8)
    features["texture_dark_region_fraction"] = np.add.reduceat(is_dark, starts, dtype=np.int64) / counts
    return features


def mean_and_variance(values: Ints, starts: Ints, counts: Ints) -> tuple[Floats, Floats]:
    """(k,) means and population variances of whole numbers, from their exact sums."""
    first = np.add.reduceat(values, starts, dtype=np.int64).astype(np.float64)
    second = np.add.reduceat(values * values, starts, dtype=np.int64).astype(np.float64)
    return first / counts, np.maximum(counts * second - first * first, 0.0) / counts / counts


def _hue(red: Floats, green: Floats, blue: Floats) -> Floats:
    x, y = 2.0 * red - green - blue, math.sqrt(3.0) * (green - blue)
    return np.degrees(np.arctan2(y, x))


_SATURATION_UNIT = 1 << 30


def _saturation_table() -> Ints:
    """Saturation by 256 * max + min, as whole numbers so that sums are exact."""
    largest, smallest = np.divmod(np.arange(1 << 16), 256)
    share = (largest - smallest) / np.maximum(largest, 1)
    table: Ints = np.rint(np.maximum(share, 0.0) * _SATURATION_UNIT).astype(np.int64)
    return table


_SATURATION = _saturation_table()
