"""Texture of the stains inside cells, at scales in µm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Window
from mkhspc.measure.regions import Floats, Ints
from mkhspc.measure.strips import Bytes, Strip, variances
from mkhspc.slide.stains import OD_UNIT, STAINS

NUCLEUS_SHARE = 0.5
"""A pixel of a cell is nucleus from half-way from the scene's typical cytoplasm to its typical nucleus on."""
SCALES_NM = (500, 1000)
"""The distances in nm at which pixels are compared: the sizes of chromatin clumps and of nucleoli, which
scans of 0.15 to 0.5 µm a pixel resolve."""

_OF_VALUES = ("mean", "std", "p10", "median", "p90", "skewness", "entropy")
_OF_SCALES = ("edge", "contrast", "homogeneity", "correlation")
TEXTURE_NAMES = (
    "texture_nuclear_share",
    "texture_nuclear_complexity",
    *(
        f"texture_{stain}_{name}"
        for stain in STAINS
        for name in (*_OF_VALUES, *(f"{what}_{scale}nm" for scale in SCALES_NM for what in _OF_SCALES))
    ),
)

LEVELS_PER_BIN = 8
"""Entropy and homogeneity count in bins of this many levels, 1/16 OD: about the noise of a pixel."""
ROUNDING_VARIANCE = 1.0 / 12.0
"""The variance that rounding to whole levels has. It keeps ratios to a variance finite in a uniform cell."""


def texture_reach_px(um_per_px: float) -> int:
    """How far a strip's frames must reach around their cells for `texture_features`."""
    return max(max(2 * _half_px(scale, um_per_px), _step_px(scale, um_per_px)) for scale in SCALES_NM)


def _step_px(scale_nm: int, um_per_px: float) -> int:
    return max(1, round(scale_nm / 1000.0 / um_per_px))


def _half_px(scale_nm: int, um_per_px: float) -> int:
    return max(1, round(scale_nm / 2000.0 / um_per_px))


def texture_features(window: Window, strip: Strip) -> dict[str, Floats]:
    """All of `TEXTURE_NAMES`, (k,) float64 each; see the functions below for their definitions.

    Args:
        strip: with a margin of at least `texture_reach_px`.
    """
    features: dict[str, Floats] = {}
    pairs = {scale: _Pairs.inside(strip, _step_px(scale, window.um_per_px)) for scale in SCALES_NM}
    for stain in STAINS:
        image = strip.cut(window.amounts(stain), 0)
        counts = histograms(image.ravel()[strip.pixels], strip.counts)
        found = _distribution(counts)
        for scale in SCALES_NM:
            found |= _edge(strip, image, scale, window.um_per_px)
            found |= {
                f"{name}_{scale}nm": values
                for name, values in _co_occurrence(strip, image, pairs[scale]).items()
            }
        features |= {f"texture_{stain}_{name}": values for name, values in found.items()}
        if stain == "haematoxylin":
            features |= _nucleus(strip, image, counts, window)
    return features


def histograms(values: Bytes, counts: Ints) -> Ints:
    """(k, 256) how often each level occurs among the `counts[i]` values of each cell in turn."""
    cell = np.repeat(np.arange(len(counts)) << 8, counts)
    cell += values
    found: Ints = np.bincount(cell, minlength=len(counts) << 8).reshape(-1, 256)
    return found


def _distribution(counts: Ints) -> dict[str, Floats]:
    """Features of the levels of a stain in a cell, from their (k, 256) histograms.

    Mean, standard deviation and percentiles in optical density (a percentile is the lowest level
    that at least this share of the pixels does not exceed). Skewness: third central moment over
    (variance + 1/12 level²)^1.5. Entropy: Shannon's, in bits, of levels in bins of 1/16 OD.
    """
    levels = np.arange(256)
    n = counts.sum(axis=1)
    first, second, third = (counts @ np.stack([levels, levels**2, levels**3], axis=1)).T / n
    variance = np.maximum(second - first * first, 0.0)
    third_central = third - 3.0 * first * second + 2.0 * first**3
    cumulative = counts.cumsum(axis=1)

    def percentile(percent: int) -> Floats:
        level: Ints = (100 * cumulative < percent * n[:, None]).sum(axis=1)
        return level / OD_UNIT

    return {
        "mean": first / OD_UNIT,
        "std": np.sqrt(variance) / OD_UNIT,
        "p10": percentile(10),
        "median": percentile(50),
        "p90": percentile(90),
        "skewness": third_central / (variance + ROUNDING_VARIANCE) ** 1.5,
        "entropy": _entropy(counts.reshape(len(n), -1, LEVELS_PER_BIN).sum(axis=2)),
    }


def _entropy(counts: Ints) -> Floats:
    n = counts.sum(axis=1)
    bits = np.log2(n) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=1) / n
    entropy: Floats = np.maximum(bits, 0.0)
    return entropy


def _box_sums(image: Bytes, half_px: int) -> NDArray[np.int32]:
    side = 2 * half_px + 1
    sums = cv2.boxFilter(image, cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(sums, np.int32)


def _edge(strip: Strip, image: Bytes, scale_nm: int, um_per_px: float) -> dict[str, Floats]:
    """Root mean square gradient in optical density a µm, over the pixels of a cell.

    The gradient is the difference of two box means, each about as wide as the scale and centred
    half of it to either side (a Prewitt operator of that size). Its boxes reach past the cell's
    outline, so sharp outlines count.
    """
    half = _half_px(scale_nm, um_per_px)
    sums = _box_sums(image, half).ravel()
    across = np.zeros_like(sums)
    energy = np.zeros(len(strip.pixels), np.int64)
    for step in (half, half * strip.width):
        np.subtract(sums[2 * step :], sums[: -2 * step], out=across[step:-step])
        difference = across[strip.pixels]
        energy += np.multiply(difference, difference, dtype=np.int64)
    unit = (2 * half + 1) ** 2 * OD_UNIT * 2 * half * um_per_px
    mean = strip.sums(energy) / strip.counts
    return {f"edge_{scale_nm}nm": np.sqrt(mean) / unit}


def _inhomogeneity_table() -> NDArray[np.int32]:
    alike = 1.0 / (1.0 + (np.arange(256) / LEVELS_PER_BIN) ** 2)
    return np.rint((1.0 - alike) * _FIXED_POINT).astype(np.int32)


_FIXED_POINT = 1 << 16
_INHOMOGENEITY = _inhomogeneity_table()
_SQUARES = (np.arange(256) ** 2).astype(np.int32)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of pixels a distance apart in four directions, both inside the same cell.

    Attributes:
        both: for each step in the flattened strip, a byte a pixel: 255 where it and the pixel one
            step on are a pair.
        ends: for each of the strip's `pixels`, of how many pairs it is an end.
        end_counts: (k,) their sums over each cell, at least 2.
    """

    both: dict[int, Bytes]
    ends: Bytes
    end_counts: Ints

    @classmethod
    def inside(cls, strip: Strip, distance_px: int) -> _Pairs:
        inside = strip.mask.ravel()
        both = {step: inside[:-step] & inside[step:] for step in _steps(distance_px, strip.width)}
        ends = np.zeros(len(inside), np.uint8)
        for step, paired in both.items():
            one_each = paired & 1
            ends[:-step] += one_each
            ends[step:] += one_each
        of_cells = ends[strip.pixels]
        return cls(both, of_cells, np.maximum(strip.sums(of_cells), 2))


def _co_occurrence(strip: Strip, image: Bytes, pairs: _Pairs) -> dict[str, Floats]:
    """Contrast, homogeneity and correlation of pixels one scale apart, both inside the cell.

    Over all pairs (a, b) in four directions, each taken both ways (Haralick, Shanmugam and
    Dinstein, IEEE Trans. SMC 1973): contrast is the mean of (a - b)² in OD²; homogeneity the mean
    of 1 / (1 + (a - b)²), in units of 1/16 OD; correlation 1 - contrast / (2 variance), the
    variance being that of the paired levels plus 1/12 level². A cell too small for any pair has,
    like a uniform one, contrast 0, homogeneity 1 and correlation 1.
    """
    levels = image.ravel()
    # Over the four directions a pixel's squares and inhomogeneities stay below 2**19.
    squares, differing = np.zeros((2, len(levels)), np.int32)
    for step, paired in pairs.both.items():
        difference = np.asarray(cv2.absdiff(levels[:-step], levels[step:]), np.uint8).ravel() & paired
        squares[:-step] += np.asarray(cv2.LUT(difference, _SQUARES), np.int32).ravel()
        differing[:-step] += np.asarray(cv2.LUT(difference, _INHOMOGENEITY), np.int32).ravel()
    contrast = 2.0 * strip.frame_sums(squares) / pairs.end_counts
    inhomogeneity = 2.0 * strip.frame_sums(differing) / pairs.end_counts / _FIXED_POINT
    in_cells = levels[strip.pixels]
    weighted = np.multiply(in_cells, pairs.ends, dtype=np.uint32)
    variance = variances(pairs.end_counts, strip.sums(weighted), strip.sums(weighted * in_cells))
    return {
        "contrast": contrast / OD_UNIT**2,
        "homogeneity": 1.0 - inhomogeneity,
        "correlation": 1.0 - contrast / (2.0 * (variance + ROUNDING_VARIANCE)),
    }


def _steps(distance_px: int, width: int) -> Iterator[int]:
    """Steps in a flattened strip: right, down, and the two diagonals of about the same length."""
    diagonal = max(1, round(distance_px * math.sqrt(0.5)))
    for dx, dy in ((distance_px, 0), (0, distance_px), (diagonal, diagonal), (-diagonal, diagonal)):
        yield dy * width + dx


def _nucleus(strip: Strip, haematoxylin: Bytes, counts: Ints, window: Window) -> dict[str, Floats]:
    """How much of a cell is nucleus by the scene's haematoxylin threshold, and how it is divided.

    - nuclear share: share of the cell's pixels at or above the threshold;
    - nuclear complexity: length of the border between nucleus and the rest inside the cell, over
      the circumference of a disc of the cell's area. 0 where all or nothing is nucleus, near 1 for
      a round nucleus that nearly fills a cell, more with lobes, folds and pale inclusions. The
      threshold is applied to means over about 0.5 µm, so that pixel noise draws no borders; the
      length is the number of pixel edges on the border times pi / 4, its mean over orientations.
    """
    threshold = math.ceil(window.calibration.levels.haematoxylin_at(NUCLEUS_SHARE))
    half = _half_px(SCALES_NM[0], window.um_per_px)
    nucleus = (_box_sums(haematoxylin, half) >= threshold * (2 * half + 1) ** 2).ravel()
    inside = strip.mask.ravel() > 0
    edges = np.zeros(len(strip.cells), np.int64)
    for step in (1, strip.width):
        border = (nucleus[:-step] ^ nucleus[step:]) & inside[:-step] & inside[step:]
        edges += strip.frame_sums(border.view(np.uint8))
    return {
        "texture_nuclear_share": counts[:, max(0, threshold) :].sum(axis=1) / strip.counts,
        "texture_nuclear_complexity": edges * (math.pi / 4) / np.sqrt(4 * math.pi * strip.counts),
    }
