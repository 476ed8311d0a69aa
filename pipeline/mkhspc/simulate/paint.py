"""A canvas of stain amounts, textures to paint with, and the optics that turn it into RGB.

Stain is kept as optical density; colour appears only in `Optics.photograph`, by Beer-Lambert:
transmitted light = white * 10 ** -(sum over stains of amount * colour vector).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import BoolMask, Box, um_to_px
from mkhspc.simulate.cells.shapes import FloatPlane

TEXTURE_PX = 1024
"""The side of a texture in pixels."""
STRIP_PX = 256
"""Rows of the strips in which the picture is exposed, which fit into a processor's cache."""
WHITE = 240.0
"""The grey level at which `Optics.noise` is measured."""
UNFOCUSED_PATCH_UM = 120.0
"""The grain in µm of the field whose heights are out of focus."""
PIGMENT_RGB = (0.75, 0.9, 1.1)
"""The optical density of one unit of pigment in red, green and blue: brown-black."""


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
    """Stain planes of one scene, each (height, width) float32, and which object is seen where.

    Attributes:
        pigment: dark matter that is not a stain: precipitate, dirt.
        owner: (height, width) int32, number of the object seen at each pixel, 0 for none.
    """

    um_per_px: float
    haem: FloatPlane
    eosin: FloatPlane
    pigment: FloatPlane
    owner: NDArray[np.int32]

    @classmethod
    def blank(cls, size_um: tuple[float, float], um_per_px: float) -> Canvas:
        """Bare glass of (width, height) µm."""
        shape = (round(size_um[1] / um_per_px), round(size_um[0] / um_per_px))
        haem, eosin, pigment = (np.zeros(shape, np.float32) for _ in range(3))
        return cls(um_per_px, haem, eosin, pigment, np.zeros(shape, np.int32))

    @property
    def box(self) -> Box:
        return Box(0, 0, self.haem.shape[1], self.haem.shape[0])

    def patch(self, centre_um: tuple[float, float], extent_um: float) -> Patch:
        """The box that holds every point within `extent_um` (and a soft edge) of a centre."""
        reach = um_to_px(extent_um + 0.6, self.um_per_px)
        x, y = (round(value / self.um_per_px) for value in centre_um)
        box = Box(x - reach, y - reach, x + reach, y + reach).clipped(self.box)
        x_um = (np.arange(box.x0, box.x1) + 0.5) * self.um_per_px - centre_um[0]
        y_um = (np.arange(box.y0, box.y1) + 0.5) * self.um_per_px - centre_um[1]
        grid_x, grid_y = np.meshgrid(x_um.astype(np.float32), y_um.astype(np.float32))
        return Patch(slice(box.y0, box.y1), slice(box.x0, box.x1), grid_x, grid_y)

    def cover(
        self, patch: Patch, alpha: FloatPlane, haem: FloatPlane | float, eosin: FloatPlane | float
    ) -> None:
        """Replaces the stain under `alpha` (0 to 1) by these amounts."""
        for plane, amount in ((self.haem, haem), (self.eosin, eosin)):
            part = plane[patch.rows, patch.columns]
            part += alpha * (amount - part)

    def own(self, patch: Patch, mask: BoolMask, number: int) -> None:
        """Notes that object `number` is what is seen in `mask`."""
        self.owner[patch.rows, patch.columns][mask] = number


def soft_edge(depth_um: FloatPlane, softness_um: float) -> FloatPlane:
    """Coverage 0 to 1 of an outline whose edge is this soft; 0.5 on the outline itself."""
    alpha: FloatPlane = np.clip(depth_um / np.float32(softness_um) + np.float32(0.5), 0.0, 1.0)
    return alpha


class Textures:
    """Periodic random textures of mean 0 and standard deviation 1, by the size of their grains.

    One square of each size is made when first asked for; objects take random pieces of it.
    """

    def __init__(self, um_per_px: float, rng: np.random.Generator) -> None:
        self._um_per_px = um_per_px
        self._rng = rng
        self._squares: dict[float, FloatPlane] = {}

    def piece(self, grain_um: float, shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
        """A random piece of the texture of this grain; `shape` is at most TEXTURE_PX each way."""
        square = self._square(grain_um)
        row = int(rng.integers(0, square.shape[0] - shape[0] + 1))
        column = int(rng.integers(0, square.shape[1] - shape[1] + 1))
        return square[row : row + shape[0], column : column + shape[1]]

    def _square(self, grain_um: float) -> FloatPlane:
        if grain_um not in self._squares:
            noise = self._rng.standard_normal((TEXTURE_PX, TEXTURE_PX), dtype=np.float32)
            self._squares[grain_um] = grains(noise, grain_um / self._um_per_px)
        return self._squares[grain_um]


def grains(noise: FloatPlane, grain_px: float) -> FloatPlane:
    """White noise filtered to grains of about this size, wrapping around; mean 0, deviation 1."""
    sigma = max(0.3, grain_px / 2.5)
    margin = int(np.ceil(8 * sigma))
    wrapped = np.pad(noise, margin, mode="wrap")
    # The difference of two Gaussians keeps one band of sizes.
    fine = cv2.GaussianBlur(wrapped, (0, 0), sigma)
    coarse = cv2.GaussianBlur(wrapped, (0, 0), 2.0 * sigma)
    band = np.asarray(fine - coarse, np.float32)[margin:-margin, margin:-margin]
    scaled: FloatPlane = (band - band.mean()) / band.std()
    return scaled


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], grain_px: float) -> FloatPlane:
    """A slowly varying random field of mean about 0 and deviation about 1, shape (rows, columns)."""
    knots_shape = tuple(max(4, round(2.0 * size / grain_px) + 3) for size in shape)
    knots = cv2.GaussianBlur(rng.standard_normal(knots_shape, dtype=np.float32), (0, 0), 1.0)
    knots = (knots - knots.mean()) / knots.std()
    return np.asarray(cv2.resize(knots, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True)
class Optics:
    """How a slide was stained and imaged.

    Attributes:
        haem_rgb, eosin_rgb: optical density of one unit of stain in red, green and blue.
        white_rgb: grey levels of bare glass.
        focus_um: standard deviation of the blur.
        noise: standard deviation of the sensor's noise at WHITE, in grey levels.
        unfocused_share: of the scene's area, in patches some 100 µm wide ...
        unfocused_um: ... where the blur has this standard deviation.
    """

    haem_rgb: tuple[float, float, float]
    eosin_rgb: tuple[float, float, float]
    white_rgb: tuple[float, float, float]
    focus_um: float
    noise: float
    unfocused_share: float = 0.0
    unfocused_um: float = 1.1

    def photograph(self, canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The scene as (height, width, 3) uint8, channels red, green, blue."""
        sigma = self.focus_um / canvas.um_per_px
        # Pigment lies on top of the section; its edges are drawn as soft as they are seen.
        haem, eosin = (
            np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)
            for plane in (canvas.haem, canvas.eosin)
        )
        if self.unfocused_share > 0.0:
            self._lose_focus(canvas, (haem, eosin), rng)
        lamp = 1.0 + 0.012 * smooth_field(
            rng, (canvas.box.height, canvas.box.width), 900.0 / canvas.um_per_px
        )
        rgb = np.empty((*canvas.haem.shape, 3), np.uint8)
        for start in range(0, rgb.shape[0], STRIP_PX):
            rows = slice(start, start + STRIP_PX)
            density = cv2.merge((haem[rows], eosin[rows], canvas.pigment[rows]))
            rgb[rows] = self._expose(np.asarray(density, np.float32), lamp[rows], rng)
        return rgb

    def _lose_focus(
        self, canvas: Canvas, planes: tuple[FloatPlane, FloatPlane], rng: np.random.Generator
    ) -> None:
        """Blurs patches of the planes, each (height, width); the blur comes and goes within 20 µm or so."""
        field = smooth_field(rng, planes[0].shape, UNFOCUSED_PATCH_UM / canvas.um_per_px)
        share = np.clip((field - np.quantile(field, 1.0 - self.unfocused_share)) / 0.3 + 0.5, 0.0, 1.0)
        for plane, sharp in zip(planes, (canvas.haem, canvas.eosin), strict=True):
            plane += share * (cv2.GaussianBlur(sharp, (0, 0), self.unfocused_um / canvas.um_per_px) - plane)

    def _expose(self, density: FloatPlane, lamp: FloatPlane, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Stain amounts (rows, columns, 3) and the lamp's light as grey levels with noise."""
        colours = np.array([self.haem_rgb, self.eosin_rgb, PIGMENT_RGB], np.float32)
        exponent = cv2.transform(density, (-np.log(10.0) * colours.T).astype(np.float32))
        light = np.asarray(cv2.exp(exponent), np.float32)
        light *= lamp[..., None]
        light *= np.array(self.white_rgb, np.float32)
        # Shot noise: its variance grows with the light.
        grain = rng.standard_normal(light.shape, dtype=np.float32)
        grain *= np.sqrt(light)
        light += grain * np.float32(self.noise / np.sqrt(WHITE))
        return np.asarray(cv2.convertScaleAbs(light), np.uint8)
