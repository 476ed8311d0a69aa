"""A canvas of stain amounts, textures to paint with, and the optics that turn it into RGB.

Stain is kept as optical density; colour appears only in `Optics.photograph`, by Beer-Lambert:
transmitted light = white * 10 ** -(sum over stains of amount * colour vector).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, um_to_px
from pipeline.slide.demo.shapes import FloatPlane, Shape

TEXTURE_PX = 1024
STRIP_PX = 256


@dataclass(frozen=True)
class Stain:
    """Amounts of haematoxylin and eosin, as optical density along their colour vectors."""

    haem: float
    eosin: float


@dataclass(frozen=True)
class Patch:
    """A box of the canvas and the place of its pixel centres, in µm from an object's centre."""

    rows: slice
    columns: slice
    x_um: FloatPlane
    y_um: FloatPlane

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Canvas:
    """Stain planes of one scene, each (height, width) float32, and who is seen where.

    Attributes:
        pigment: neutral dark matter that is no stain: precipitate, dirt.
        owner: (height, width) int32, number of the object seen at each pixel, 0 for none.
    """

    um_per_px: float
    haem: FloatPlane
    eosin: FloatPlane
    pigment: FloatPlane
    owner: NDArray[np.int32] = field(repr=False)

    @property
    def box(self) -> Box:
        return Box(0, 0, self.haem.shape[1], self.haem.shape[0])

    def patch(self, centre_um: tuple[float, float], extent_um: float) -> Patch:
        """The box that holds every point within `extent_um` (and a soft edge) of a centre."""
        reach = um_to_px(extent_um + 0.6, self.um_per_px)
        x, y = (round(value / self.um_per_px) for value in centre_um)
        box = Box(x - reach, y - reach, x + reach, y + reach).clipped(self.box)
        xs = (np.arange(box.x0, box.x1, dtype=np.float32) + 0.5) * self.um_per_px - centre_um[0]
        ys = (np.arange(box.y0, box.y1, dtype=np.float32) + 0.5) * self.um_per_px - centre_um[1]
        grid_x, grid_y = np.meshgrid(xs.astype(np.float32), ys.astype(np.float32))
        return Patch(slice(box.y0, box.y1), slice(box.x0, box.x1), grid_x, grid_y)

    def cover(self, patch: Patch, alpha: FloatPlane, haem: FloatPlane | float, eosin: FloatPlane | float) -> None:
        """Replaces the stain under `alpha` (0 to 1) by these amounts."""
        for plane, amount in ((self.haem, haem), (self.eosin, eosin)):
            part = plane[patch.rows, patch.columns]
            part += alpha * (amount - part)

    def own(self, patch: Patch, mask: NDArray[np.bool_], number: int) -> None:
        self.owner[patch.rows, patch.columns][mask] = number


def soft_edge(depth: FloatPlane, softness_um: float) -> FloatPlane:
    """Coverage 0 to 1 of an outline whose edge is this soft; 0.5 on the outline itself."""
    alpha: FloatPlane = np.clip(depth / np.float32(softness_um) + np.float32(0.5), 0.0, 1.0)
    return alpha


def cover_shape(canvas: Canvas, centre_um: tuple[float, float], shape: Shape, softness_um: float) -> tuple[Patch, FloatPlane]:
    """The patch of a shape and how deep each of its pixels lies inside."""
    patch = canvas.patch(centre_um, shape.extent_um)
    return patch, shape.depth(patch.x_um, patch.y_um)


class Textures:
    """Periodic random textures of mean 0 and standard deviation 1, at a scale in µm.

    One square of each scale is made once; objects take random pieces of it.
    """

    def __init__(self, um_per_px: float, rng: np.random.Generator) -> None:
        self._um_per_px = um_per_px
        self._rng = rng
        self._squares: dict[float, FloatPlane] = {}

    def square(self, scale_um: float) -> FloatPlane:
        """(TEXTURE_PX, TEXTURE_PX) float32; grains are about `scale_um` across."""
        if scale_um not in self._squares:
            noise = self._rng.standard_normal((TEXTURE_PX, TEXTURE_PX), dtype=np.float32)
            self._squares[scale_um] = band_noise(noise, scale_um / self._um_per_px)
        return self._squares[scale_um]

    def piece(self, scale_um: float, shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
        """A random piece of the texture of this scale."""
        square = self.square(scale_um)
        if max(shape) > TEXTURE_PX:
            square = np.tile(square, (shape[0] // TEXTURE_PX + 1, shape[1] // TEXTURE_PX + 1))
        row, column = (int(rng.integers(0, size - wanted + 1)) for size, wanted in zip(square.shape, shape, strict=True))
        return square[row : row + shape[0], column : column + shape[1]]


def band_noise(noise: FloatPlane, grain_px: float) -> FloatPlane:
    """White noise filtered to grains of about this size, wrapping around; mean 0, deviation 1."""
    sigma = max(0.3, grain_px / 2.5)
    margin = int(np.ceil(8 * sigma))
    wrapped = np.pad(noise, margin, mode="wrap")
    fine = cv2.GaussianBlur(wrapped, (0, 0), sigma)
    coarse = cv2.GaussianBlur(wrapped, (0, 0), 2.0 * sigma)
    band = (fine - coarse)[margin:-margin, margin:-margin]
    scaled: FloatPlane = ((band - band.mean()) / band.std()).astype(np.float32)
    return scaled


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> FloatPlane:
    """A slowly varying random field of mean about 0 and deviation about 1, shape (rows, columns)."""
    rows, columns = (max(4, round(size / grain_px * 2.0) + 3) for size in shape)
    knots = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), 1.0)
    knots = (knots - knots.mean()) / knots.std()
    smooth: FloatPlane = cv2.resize(knots, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return smooth


@dataclass(frozen=True)
class Optics:
    """How a slide was stained and imaged.

    Attributes:
        haem_rgb, eosin_rgb: optical density of one unit of stain in red, green and blue.
        white_rgb: what glass without tissue gives.
        focus_um: standard deviation of the blur.
        noise: standard deviation of the sensor's noise at white, in grey levels.
    """

    haem_rgb: tuple[float, float, float]
    eosin_rgb: tuple[float, float, float]
    white_rgb: tuple[float, float, float]
    focus_um: float
    noise: float

    def photograph(self, canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The scene as (height, width, 3) uint8, channels red, green, blue."""
        sigma = self.focus_um / canvas.um_per_px
        planes = [cv2.GaussianBlur(p, (0, 0), sigma) for p in (canvas.haem, canvas.eosin, canvas.pigment)]
        light = 1.0 + 0.012 * smooth_field(rng, canvas.haem.shape, 900.0 / canvas.um_per_px)
        rgb = np.empty((*canvas.haem.shape, 3), np.uint8)
        for start in range(0, rgb.shape[0], STRIP_PX):
            rows = slice(start, min(start + STRIP_PX, rgb.shape[0]))
            rgb[rows] = self._strip([plane[rows] for plane in planes], light[rows], rng)
        return rgb

    def _strip(self, planes: list[FloatPlane], light: FloatPlane, rng: np.random.Generator) -> NDArray[np.uint8]:
        colours = np.array([self.haem_rgb, self.eosin_rgb, (1.0, 1.05, 1.15)], np.float32) * -np.log(10.0)
        exponent = cv2.transform(cv2.merge(planes), colours.T.astype(np.float32))
        intensity = cv2.exp(exponent) * np.array(self.white_rgb, np.float32) * light[..., None]
        # Shot noise: its variance grows with the light.
        spread = np.sqrt(np.maximum(intensity, 0.0) / 240.0) * np.float32(self.noise)
        intensity += spread * rng.standard_normal(intensity.shape, dtype=np.float32)
        strip: NDArray[np.uint8] = np.clip(np.rint(intensity), 0, 255).astype(np.uint8)
        return strip
