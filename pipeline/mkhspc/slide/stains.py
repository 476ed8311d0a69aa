"""Haematoxylin and eosin: their separation, and the calibration of a scene.

Optical density (OD) is log10(white / intensity) per channel. Two stains with unit OD vectors h and e
give a pixel OD = H h + E e + residual (Beer-Lambert), solved by least squares (Ruifrok and Johnston,
Anal. Quant. Cytol. Histol. 23, 2001). Amounts are whole numbers of 1/128 OD.

A calibration belongs to a scene: it is estimated once, from windows drawn in its tissue, and used for
every pixel, so that a pixel's stains depend on its colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import BoolMask, RgbImage

FloatArray = NDArray[np.float64]
Histogram = NDArray[np.int64]
Triple = tuple[float, float, float]
VectorSource = Literal["estimated", "published"]
Stain = Literal["haematoxylin", "eosin"]

STAINS: tuple[Stain, ...] = ("haematoxylin", "eosin")

OD_UNIT = 128
"""Stain amounts are whole numbers of 1/128 OD: 255 stands for 1.99 OD and more."""

PUBLISHED_HAEMATOXYLIN: Triple = (0.65, 0.70, 0.29)
PUBLISHED_EOSIN: Triple = (0.07, 0.99, 0.11)
"""The OD of each stain in red, green and blue (Ruifrok and Johnston 2001): what an estimate is compared with,
and what is used where the estimate is implausible."""


@dataclass(frozen=True)
class StainLevels:
    """Typical amounts over a scene's tissue, in 1/128 OD, after smoothing over `SMOOTHING_UM`.

    Attributes:
        cytoplasm_haematoxylin: median haematoxylin outside nuclei.
        nucleus_haematoxylin: median haematoxylin of nuclei.
        cytoplasm_eosin: median eosin outside nuclei.
    """

    cytoplasm_haematoxylin: float
    nucleus_haematoxylin: float
    cytoplasm_eosin: float

    @property
    def nuclear_contrast(self) -> float:
        """How much more haematoxylin a typical nucleus holds than what surrounds it."""
        return self.nucleus_haematoxylin - self.cytoplasm_haematoxylin

    def haematoxylin_at(self, share: float) -> float:
        """The level `share` of the way from cytoplasm (0) to nucleus (1)."""
        return self.cytoplasm_haematoxylin + share * self.nuclear_contrast


@dataclass(frozen=True)
class SceneCalibration:
    """What is known of the colours of a scene.

    Attributes:
        white: red, green and blue of clear glass.
        haematoxylin, eosin: unit OD vectors (red, green, blue).
        vector_source: 'estimated' from the windows, or 'published' where the estimate is implausible.
        levels: typical stain amounts, from which detectors take their thresholds.
        intensity_range: 1st and 99th percentile of red, green and blue over the windows.
    """

    white: Triple
    haematoxylin: Triple
    eosin: Triple
    vector_source: VectorSource
    levels: StainLevels
    intensity_range: tuple[Triple, Triple]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; `from_dict` gives back an equal calibration, also after a pass through JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SceneCalibration:
        low, high = data["intensity_range"]
        return cls(
            white=_triple(data["white"]),
            haematoxylin=_triple(data["haematoxylin"]),
            eosin=_triple(data["eosin"]),
            vector_source=data["vector_source"],
            levels=StainLevels(**data["levels"]),
            intensity_range=(_triple(low), _triple(high)),
        )


@dataclass(frozen=True)
class Stains:
    """Haematoxylin and eosin of every pixel of an image, (h, w) uint8 in 1/128 OD."""

    haematoxylin: NDArray[np.uint8]
    eosin: NDArray[np.uint8]


def _triple(values: Sequence[float] | NDArray[Any]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


_FRACTION_BITS = 4
"""Stains are summed in parts of 1/128 OD that are finer by two to this power, then rounded."""
_STRIP_ROWS = 32
"""The height in pixels of the strips in which an image is worked on: sums stay in the processor's cache."""


def separate(rgb: RgbImage, calibration: SceneCalibration, stain: Stain) -> NDArray[np.uint8]:
    """(h, w) amounts in 1/128 OD of a stain in an (h, w, 3) uint8 RGB image.

    A table look-up per channel and sums of integers: a pixel's answer depends on its colour and on
    the calibration alone, to the last bit, wherever it lies in the array.
    """
    vectors = (calibration.haematoxylin, calibration.eosin)
    return _apply(rgb, _tables(calibration.white, vectors)[STAINS.index(stain)])


def _tables(white: Triple, vectors: tuple[Triple, Triple]) -> NDArray[np.int16]:
    """(2, 1, 256, 3) int16: what each value of each channel adds to each stain, in 1/2048 OD."""
    unmix = np.linalg.pinv(np.array(vectors).T)
    density = _density(np.repeat(np.arange(256)[:, None], 3, axis=1), white)
    scaled = np.rint(density[None] * unmix[:, None, :] * (OD_UNIT << _FRACTION_BITS))
    # A third of the range of int16 each: three summands and the rounding cannot overflow.
    return np.clip(scaled, -10900, 10900).astype(np.int16)[:, None]


def _density(rgb: NDArray[Any], white: Triple) -> FloatArray:
    """OD of (..., 3) intensities; pixels brighter than white count as clear, 0 as 1."""
    density: FloatArray = np.maximum(np.log10(np.array(white) / np.maximum(rgb, 1)), 0.0)
    return density


def _apply(rgb: RgbImage, table: NDArray[np.int16]) -> NDArray[np.uint8]:
    amounts = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, rgb.shape[0], _STRIP_ROWS):
        parts = cv2.LUT(rgb[top : top + _STRIP_ROWS], table)
        total = cv2.extractChannel(parts, 0)
        for channel in (1, 2):
            total = cv2.add(total, cv2.extractChannel(parts, channel))
        total += 1 << (_FRACTION_BITS - 1)
        np.right_shift(total, _FRACTION_BITS, out=total)
        amounts[top : top + _STRIP_ROWS] = np.clip(total, 0, 255)
    return amounts


SMOOTHING_UM = 0.5
"""The standard deviation in µm of the Gaussian under which levels are taken and nuclei are sought."""
FAINTEST_DENSITY = 0.06
"""The sum of haematoxylin and eosin in OD above which a pixel holds any stain at all."""
TISSUE_SHARE = 0.5
"""A pixel counts as tissue, and not as the thin edge of a gap, above this share of the mean of all that hold
stain."""
MIN_TISSUE_UM2 = 500.0
"""A scene is calibrated on at least this much stained tissue in µm², all windows together."""
MIN_NUCLEAR_CONTRAST = 24.0
"""Nuclei hold at least this much more haematoxylin (1/128 OD) than cytoplasm in any usable stain;
a smaller split of the histogram has found no nuclei."""


def calibrate(windows: Sequence[RgbImage], um_per_px: float) -> SceneCalibration:
    """Colours and stain levels of a scene, from windows drawn in its tissue.

    Args:
        windows: (h, w, 3) uint8 RGB each.
        um_per_px: their pixel size.

    Raises:
        InputError: the windows hold no stained tissue.
    """
    pixels = _subsample(windows)
    white = _white_point(pixels)
    haematoxylin, eosin, source = _stain_vectors(pixels, white)
    levels = _levels(windows, um_per_px, _tables(white, (haematoxylin, eosin)))
    low, high = np.percentile(pixels, (1, 99), axis=0)
    return SceneCalibration(white, haematoxylin, eosin, source, levels, (_triple(low), _triple(high)))


_BLACK = 8
"""A pixel whose brightest channel is no brighter was not scanned: programs fill the corners of turned images
with black. It would count as the darkest of all nuclei."""
_NO_STAIN = "the calibration windows hold no stained tissue"
_LOOK_AT_IT = "look at it with `mkhspc inspect --preview`: it must be an H&E stain"

_MAX_SAMPLE = 2_000_000
"""White and stain vectors are estimated from about this many pixels at most."""


def _subsample(windows: Sequence[RgbImage]) -> RgbImage:
    """(n, 3) pixels on a regular grid over all windows, about `_MAX_SAMPLE` at most."""
    total = sum(window.shape[0] * window.shape[1] for window in windows)
    if total == 0:
        raise InputError(
            "there is no tissue to calibrate the stains on", fix="leave the scene out with --scene"
        )
    step = max(1, round((total / _MAX_SAMPLE) ** 0.5))
    pixels = np.concatenate([window[::step, ::step].reshape(-1, 3) for window in windows])
    scanned = pixels.max(axis=1) > _BLACK
    if not scanned.any():
        raise InputError(_NO_STAIN, fix=_LOOK_AT_IT)
    return pixels if scanned.all() else pixels[scanned]


_CLEAR_INTENSITY = 200
"""A pixel is clear, and shows the light itself, if its darkest channel has at least this grey level."""
_CLEAR_SHARE = 0.002
"""The white is taken from clear pixels if they are at least this share of all."""


def _white_point(pixels: RgbImage) -> Triple:
    """Colour of the light where nothing absorbs it: glass, fat vacuoles, gaps between cells.

    Windows full of tissue hold no clear pixel: then the brightest there are, but never darker than
    a scanner would leave its background.
    """
    clear = pixels[pixels.min(axis=1) >= _CLEAR_INTENSITY]
    if len(clear) >= max(1.0, _CLEAR_SHARE * len(pixels)):
        return _triple(np.percentile(clear, 75, axis=0))
    return _triple(np.maximum(np.percentile(pixels, 99.9, axis=0), 230.0))


_VECTOR_DENSITY = 0.15
"""The length of its OD vector above which a pixel takes part in the estimate: beta of Macenko et al."""
_MIN_VECTOR_PIXELS = 2000
"""With fewer such pixels than this the published vectors are used."""
_PIXELS_AT_ONCE = 1 << 16
"""How many pixels are turned into densities at a time, to bound memory."""
_EXTREME_PERCENT = 1.0
"""The percentile of angle at which a stain's direction is read: alpha of Macenko et al."""
_MAX_HAEMATOXYLIN_TURN_DEG = 20.0
"""An estimate of haematoxylin that lies farther than this from the published vector is implausible."""
_MAX_EOSIN_TURN_DEG = 35.0
"""The same for eosin: eosins differ more between laboratories."""
_STAIN_ANGLE_RANGE_DEG = (12.0, 60.0)
"""The angle between both stains, in degrees, must lie in this range."""


def _stain_vectors(pixels: RgbImage, white: Triple) -> tuple[Triple, Triple, VectorSource]:
    """Stain vectors by Macenko et al. (ISBI 2009), or the published ones where those make no sense.

    OD vectors of tissue lie near a plane; the two stains are the extreme directions in it. Eosins
    differ more between laboratories than haematoxylins do, so they may lie farther from the published vector.
    """
    prior_h, prior_e = _unit(PUBLISHED_HAEMATOXYLIN), _unit(PUBLISHED_EOSIN)
    density = _stained(pixels, white)
    if len(density) >= _MIN_VECTOR_PIXELS:
        h, e = _extreme_directions(density)
        apart = _angle_deg(h, e)
        if (
            _angle_deg(h, prior_h) <= _MAX_HAEMATOXYLIN_TURN_DEG
            and _angle_deg(e, prior_e) <= _MAX_EOSIN_TURN_DEG
            and _STAIN_ANGLE_RANGE_DEG[0] <= apart <= _STAIN_ANGLE_RANGE_DEG[1]
        ):
            return _triple(h), _triple(e), "estimated"
    return _triple(prior_h), _triple(prior_e), "published"


def _stained(pixels: RgbImage, white: Triple) -> FloatArray:
    """(n, 3) OD of those pixels that stains darken, worked out a few at a time: they are many."""
    density = np.empty(pixels.shape, np.float64)
    is_stained = np.empty(len(pixels), bool)
    for start in range(0, len(pixels), _PIXELS_AT_ONCE):
        some = slice(start, start + _PIXELS_AT_ONCE)
        density[some] = _density(pixels[some], white)
        is_stained[some] = np.linalg.norm(density[some], axis=1) > _VECTOR_DENSITY
    return density[is_stained]


def _extreme_directions(density: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit vectors of haematoxylin and eosin: the 1st and 99th percentile of angle in the plane."""
    _, axes = np.linalg.eigh(density.T @ density)
    main, second = axes[:, 2] * np.sign(axes[:, 2].sum()), axes[:, 1]
    second = second * (1.0 if second[0] >= 0 else -1.0)  # towards red absorption: haematoxylin
    angles = np.arctan2(density @ second, density @ main)
    turns = np.percentile(angles, (100 - _EXTREME_PERCENT, _EXTREME_PERCENT))
    h, e = (_unit(np.maximum(np.cos(turn) * main + np.sin(turn) * second, 0.0)) for turn in turns)
    return h, e


def _unit(vector: Sequence[float] | FloatArray) -> FloatArray:
    array = np.asarray(vector, np.float64)
    unit: FloatArray = array / np.linalg.norm(array)
    return unit


def _angle_deg(a: FloatArray, b: FloatArray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1.0, 1.0))))


def _levels(windows: Sequence[RgbImage], um_per_px: float, tables: NDArray[np.int16]) -> StainLevels:
    """Stain levels from a joint histogram of smoothed haematoxylin and eosin over tissue."""
    joint = np.zeros((256, 256), np.int64)
    for window in windows:
        stains = [smooth(_apply(window, table), SMOOTHING_UM / um_per_px) for table in tables]
        code = (stains[0].astype(np.uint16) << 8) | stains[1]
        seen = code[_far_from_black(window, SMOOTHING_UM / um_per_px)]
        joint += np.bincount(seen.ravel(), minlength=1 << 16).reshape(256, 256)
    amount = np.add.outer(np.arange(256), np.arange(256))
    joint[amount <= FAINTEST_DENSITY * OD_UNIT] = 0
    joint[amount <= TISSUE_SHARE * (joint * amount).sum() / max(1, joint.sum())] = 0
    if joint.sum() * um_per_px**2 < MIN_TISSUE_UM2:
        raise InputError(_NO_STAIN, fix=_LOOK_AT_IT)
    haematoxylin = joint.sum(axis=1)
    split = otsu(haematoxylin)
    cytoplasm = _median(np.where(np.arange(256) < split, haematoxylin, 0))
    nucleus = _median(np.where(np.arange(256) >= split, haematoxylin, 0))
    return StainLevels(
        cytoplasm_haematoxylin=cytoplasm,
        nucleus_haematoxylin=max(nucleus, cytoplasm + MIN_NUCLEAR_CONTRAST),
        cytoplasm_eosin=_median(joint[:split].sum(axis=0)),
    )


def _far_from_black(window: RgbImage, sigma_px: float) -> BoolMask | slice:
    """The pixels of a window whose smoothed stains no black pixel takes part in."""
    black = window.max(axis=2) <= _BLACK
    if not black.any():
        return slice(None)
    size = _kernel_px(sigma_px)
    return np.asarray(cv2.dilate(black.astype(np.uint8), np.ones((size, size), np.uint8)) == 0)


def _kernel_px(sigma_px: float) -> int:
    """The side of the kernel of a Gaussian that is truncated at 3 sigma."""
    return 2 * int(np.ceil(3.0 * sigma_px)) + 1


def smooth(amounts: NDArray[Any], sigma_px: float) -> NDArray[np.uint8]:
    """Gaussian smoothing of uint8, truncated at 3 sigma.

    On uint8 cv2 filters in fixed point, so the result is the same wherever a pixel lies.
    """
    size = _kernel_px(sigma_px)
    return np.asarray(cv2.GaussianBlur(amounts, (size, size), sigma_px), np.uint8)


def otsu(histogram: Histogram) -> int:
    """The level that splits a histogram with the largest variance between classes (Otsu 1979).

    Returns:
        The first level of the upper class.
    """
    level = np.arange(len(histogram))
    below, moment = np.cumsum(histogram)[:-1], np.cumsum(histogram * level)[:-1]
    above = histogram.sum() - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = moment / below - ((histogram * level).sum() - moment) / above
        variance = np.where((below > 0) & (above > 0), below * above * gap**2, 0.0)
    return int(variance.argmax()) + 1


def _median(histogram: Histogram) -> float:
    total = np.cumsum(histogram)
    return float(np.searchsorted(total, total[-1] / 2.0))
