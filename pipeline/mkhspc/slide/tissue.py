"""Where a scene holds tissue, and where that tissue is fat.

Found on a picture of about 4 µm a pixel. Stained = optical density above a threshold that follows
the scene's own white and its own staining. White holes in it are fat vacuoles when no disc wider
than a fat cell fits into them; wider ones are glass.

Optical density is log10(white / intensity) of each channel (Beer-Lambert). Haematoxylin and eosin
both absorb green most (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23, 2001: OD ratios red to
green 0.93 and 0.07, blue to green 0.41 and 0.11), which tells them from ink and dust.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import BoolMask, Box
from mkhspc.store.untrusted_json import parse_json

MASK_UM_PER_PX = 4.0
"""The pixel size in µm that masks should have: an eighth of the smallest fat cell, and some 20 million mask
pixels for a whole slide."""
MASK_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Level-0 pixels a mask pixel, to choose from: multiples of the pyramid levels that scanners store."""

WHITE_PERCENTILE = 99.0
"""The percentile of intensity that is taken for the light itself."""
WHITE_FLOOR = 200.0
"""The least grey level that counts as white: scanners expose glass to 225 to 255, and a scene without any
white has no brighter reference."""
SURELY_STAINED_OD = 0.06
"""The mean OD above which a pixel takes part in the scene's median stained density."""
STAINED_SHARE = 0.4
"""The threshold for stain is this share of the scene's median stained density."""
STAINED_OD_RANGE = (0.04, 0.08)
"""The bounds of the threshold for stain, in OD. In real
marrow at 3.5 µm a pixel the median is 0.15 to 0.16, 99 % of the pixels inside fat vacuoles lie below
0.04, and only 6 % of all pixels lie between 0.05 and 0.08."""

MAX_BLUE_TO_GREEN = 0.85
"""A dark pixel whose OD in blue over that in green is higher is ink or dirt (real marrow: at most 0.75)."""
MAX_RED_TO_GREEN = 1.3
"""A dark pixel whose OD in red over that in green is higher is ink or dirt (real marrow: at most 0.92)."""

CLOSING_UM = 8.0
"""The radius in µm within which gaps between cells, and gaps in the membranes of fat cells, are bridged."""
MAX_FAT_UM = 200.0
"""The widest disc inside a fat vacuole, in µm: fat cells measure 30 to 110 µm, and some run together."""
MIN_PIECE_UM2 = 2500.0
"""Stained pieces of a smaller area in µm² are dirt or cells adrift on the glass."""
MIN_INK_UM2 = 1000.0
"""Dark spots of a smaller area in µm² inside tissue are pigment, not ink."""

if TYPE_CHECKING:
    from mkhspc.slide.czi.slide import CziSlide

_MAGIC = b"mkhspc-tissue-1\n"

BAND_PX = 4_000_000
"""How many mask pixels are turned into densities at a time, to bound memory."""


def mask_factor(um_per_px: float) -> int:
    """Level-0 pixels per mask pixel, for a mask of about 4 µm a pixel."""
    aim = MASK_UM_PER_PX / um_per_px
    return min(MASK_FACTORS, key=lambda factor: max(factor / aim, aim / factor))


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue and fat-free tissue of a scene.

    Attributes:
        tissue: (h, w) bool; pixel (i, j) covers level-0 rows [i * factor, (i + 1) * factor) and
            columns [j * factor, (j + 1) * factor) of the scene.
        fat_free: (h, w) bool, the part of `tissue` outside fat vacuoles.
        factor: level-0 pixels per mask pixel along each axis.
        um_per_px: level-0 pixel size.
        width_px, height_px: size of the scene; the last mask pixels may reach beyond it.
        row, column: of the masks' first pixel on the scene's grid; 0 but for a part of a scene.
    """

    tissue: BoolMask
    fat_free: BoolMask
    factor: int
    um_per_px: float
    width_px: int
    height_px: int
    row: int = 0
    column: int = 0

    @property
    def scene_box(self) -> Box:
        """The whole scene in its own coordinates."""
        return Box(0, 0, self.width_px, self.height_px)

    def part(self, box: Box) -> TissueMask:
        """What is known of a box: the same answers for places inside it, `ValueError` for all others.

        The masks are views; the sums of a whole slide's would be nine times as large as they are.
        """
        inside = box.clipped(self.scene_box)
        rows, columns = self._pixels_of(inside)
        here = np.s_[
            rows.start - self.row : rows.stop - self.row,
            columns.start - self.column : columns.stop - self.column,
        ]
        return replace(
            self, tissue=self.tissue[here], fat_free=self.fat_free[here], row=rows.start, column=columns.start
        )

    def _pixels_of(self, box: Box) -> tuple[slice, slice]:
        """Rows and columns of the scene's grid that meet a box of the scene; they are known here."""
        rows, columns = self.tissue.shape
        found = (
            slice(box.y0 // self.factor, -(-box.y1 // self.factor)),
            slice(box.x0 // self.factor, -(-box.x1 // self.factor)),
        )
        if box.area_px and not (
            self.row <= found[0].start and found[0].stop <= self.row + rows
            and self.column <= found[1].start and found[1].stop <= self.column + columns
        ):  # fmt: skip
            raise ValueError(f"this part of the mask does not hold {box}")
        return found

    def area_um2(self, box: Box) -> tuple[float, float]:
        """Tissue and fat-free tissue inside a box of level-0 pixels, in µm².

        Counted in whole level-0 pixels, so the areas of boxes that partition a scene add up to the
        area of the scene. What lies outside the scene counts nothing.
        """
        inside = box.clipped(self.scene_box)
        if inside.area_px == 0:
            return 0.0, 0.0
        self._pixels_of(inside)
        scale = self.um_per_px * self.um_per_px
        tissue, fat_free = (self._pixels_in(sums, inside) * scale for sums in self._sums)
        return tissue, fat_free

    def contains(self, x_px: NDArray[np.float64], y_px: NDArray[np.float64]) -> BoolMask:
        """Whether points of the scene, (n,) each, lie in tissue; False outside the scene."""
        x, y = np.floor(np.atleast_1d(x_px)).astype(np.int64), np.floor(np.atleast_1d(y_px)).astype(np.int64)
        inside = (x >= 0) & (y >= 0) & (x < self.width_px) & (y < self.height_px)
        answer = np.zeros(inside.shape, bool)
        if inside.any():
            x, y = x[inside], y[inside]
            self._pixels_of(Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1))
            answer[inside] = self.tissue[y // self.factor - self.row, x // self.factor - self.column]
        return answer

    def near_edge(self, boxes: Sequence[Box]) -> BoolMask:
        """Which boxes meet a mask pixel that is not tissue, or the border of the scene.

        Args:
            boxes: n boxes of level-0 pixels of the scene, none of them empty.

        Returns:
            (n,) bool.
        """
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.int64).reshape(-1, 4)
        x0, y0, x1, y1 = corners.T
        at_border = (x0 <= 0) | (y0 <= 0) | (x1 >= self.width_px) | (y1 >= self.height_px)
        if boxes:
            around = Box(int(x0.min()), int(y0.min()), int(x1.max()), int(y1.max()))
            self._pixels_of(around.clipped(self.scene_box))
        rows, columns = self.tissue.shape
        left, right = x0 // self.factor - self.column, -(-x1 // self.factor) - self.column
        top, bottom = y0 // self.factor - self.row, -(-y1 // self.factor) - self.row
        left, right = np.clip(left, 0, columns), np.clip(right, 0, columns)
        top, bottom = np.clip(top, 0, rows), np.clip(bottom, 0, rows)
        sums = self._sums[0]
        found = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        partly: BoolMask = found < (right - left) * (bottom - top)
        return at_border | partly

    def to_bytes(self) -> bytes:
        """The masks as bytes, the same for the same masks; `from_bytes` is the inverse."""
        head = {
            "factor": self.factor, "um_per_px": self.um_per_px,
            "width_px": self.width_px, "height_px": self.height_px,
        }  # fmt: skip
        bits = np.packbits(np.stack([self.tissue, self.fat_free])).tobytes()
        return _MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n" + zlib.compress(bits, 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> TissueMask:
        """Reads what `to_bytes` wrote.

        Raises:
            InputError: the bytes are not a tissue mask, or damaged.
        """
        try:
            magic, head, packed = data.split(b"\n", 2)
            if magic + b"\n" != _MAGIC:
                raise ValueError("it has another format")
            fields: Mapping[str, Any] = parse_json(head)
            factor, width, height = (int(fields[key]) for key in ("factor", "width_px", "height_px"))
            shape = (2, -(-height // factor), -(-width // factor))
            count = math.prod(shape)
            bits = np.frombuffer(_unpacked(packed, -(-count // 8)), np.uint8)
            planes = np.unpackbits(bits, count=count).reshape(shape).view(bool)
            return cls(planes[0], planes[1], factor, float(fields["um_per_px"]), width, height)
        except (ValueError, KeyError, TypeError, ZeroDivisionError, zlib.error) as error:
            raise InputError(
                f"a stored tissue mask is damaged ({error})", fix="segment the slide into a new directory"
            ) from error

    @cached_property
    def _sums(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """For both masks: true mask pixels above and left of each mask corner, (h + 1, w + 1)."""
        tissue, fat_free = (
            np.asarray(cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_32S), np.int32)
            for mask in (self.tissue, self.fat_free)
        )
        return tissue, fat_free

    def _pixels_in(self, sums: NDArray[np.int32], box: Box) -> int:
        """Level-0 pixels of a mask inside a box of the scene."""
        return (
            self._pixels_before(sums, box.x1, box.y1) - self._pixels_before(sums, box.x0, box.y1)
            - self._pixels_before(sums, box.x1, box.y0) + self._pixels_before(sums, box.x0, box.y0)
        )  # fmt: skip

    def _pixels_before(self, sums: NDArray[np.int32], x: int, y: int) -> int:
        """Level-0 pixels of a mask above y and left of x: linear between the corners of mask pixels."""
        (row, below), (column, right) = divmod(y, self.factor), divmod(x, self.factor)
        row, column = row - self.row, column - self.column
        next_row, next_column = min(row + 1, sums.shape[0] - 1), min(column + 1, sums.shape[1] - 1)
        near, far = self.factor - right, self.factor - below
        (a, b), (c, d) = sums[np.ix_((row, next_row), (column, next_column))].tolist()  # of any size, as ints
        pixels: int = near * far * a + right * far * b + near * below * c + right * below * d
        return pixels


def _unpacked(packed: bytes, size_bytes: int) -> bytes:
    """Bytes of which it is known how many they must be; no more are unpacked, whatever was packed."""
    unpacking = zlib.decompressobj()
    found = unpacking.decompress(packed, size_bytes + 1)
    if len(found) != size_bytes or not unpacking.eof:
        raise ValueError("it has another size")
    return found


def tissue_by_scene(slide: CziSlide, scenes: Sequence[int] | None = None) -> dict[int, TissueMask]:
    """The tissue of scenes, by scene; of all scenes when none are named.

    Raises:
        InputError: the slide is not RGB, has no pixel size, or has no such scene.
    """
    indices = [scene.index for scene in slide.info.read_scenes] if scenes is None else scenes
    return {index: tissue_and_damage(slide, index)[0] for index in indices}


def tissue_and_damage(slide: CziSlide, scene: int) -> tuple[TissueMask, Sequence[Box]]:
    """The tissue of a scene, and the boxes of it that cannot be decoded, where tissue is unknown.

    Raises:
        InputError: as for `tissue_by_scene`.
    """
    factor = mask_factor(slide.um_per_px)
    lowres_rgb, unknown = seen_around_damage(slide, scene, factor)
    return find_tissue(lowres_rgb, factor, slide.um_per_px, slide.scene(scene).box, unknown), unknown


def seen_around_damage(slide: CziSlide, scene: int, factor: int) -> tuple[NDArray[np.uint8], Sequence[Box]]:
    """A scene reduced, and what of it neither its images nor its pyramid show, as none can be decoded."""
    try:
        return slide.read_lowres(scene, factor), ()
    except InputError:
        return slide.read_lowres_around_damage(scene, factor)


def find_tissue(
    lowres_rgb: NDArray[np.uint8], factor: int, um_per_px: float, scene: Box, unknown: Sequence[Box] = ()
) -> TissueMask:
    """Finds the tissue of a scene and the fat in it.

    Args:
        lowres_rgb: (h, w, 3) uint8 RGB, as from `CziSlide.read_lowres(scene, factor)`.
        factor: level-0 pixels per pixel of `lowres_rgb`.
        um_per_px: level-0 pixel size.
        scene: the scene in its own coordinates.
        unknown: boxes of it that cannot be decoded. They count as tissue, so that their tiles are planned
            and fail by name, and not as fat-free, so that nothing is measured or calibrated there.
    """
    mask_um = factor * um_per_px
    stained, ink = _stained(lowres_rgb)
    unseen = _touched(unknown, stained.shape, factor)
    solid = _closed(stained | ink | unseen, CLOSING_UM / mask_um)
    fat = _fat(~solid, mask_um)
    ink = _pieces_with(ink, ink, MIN_INK_UM2 / mask_um**2)
    flesh = solid & ~ink
    tissue = _pieces_with(flesh | fat, flesh, MIN_PIECE_UM2 / mask_um**2) | unseen
    return TissueMask(tissue, tissue & ~fat & ~unseen, factor, um_per_px, scene.width, scene.height)


def _touched(boxes: Sequence[Box], shape: tuple[int, ...], factor: int) -> BoolMask:
    """Mask pixels that meet any of the boxes."""
    touched = np.zeros(shape, bool)
    for box in boxes:
        rows, columns = (
            slice(box.y0 // factor, -(-box.y1 // factor)),
            slice(box.x0 // factor, -(-box.x1 // factor)),
        )
        touched[rows, columns] = True
    return touched


def _stained(rgb: NDArray[np.uint8]) -> tuple[BoolMask, BoolMask]:
    """Pixels stained by haematoxylin or eosin, and pixels dark for another reason.

    Densities take four times as much memory as the picture, which has a hundred million pixels for a wide
    slide: they are made for a band of rows at a time.
    """
    # A table of 256 densities for each channel.
    tables = np.log10(_white(rgb)[None, :] / np.maximum(np.arange(256), 1)[:, None])
    tables = np.maximum(tables, 0).astype(np.float32)[None]
    height, width = rgb.shape[:2]
    step = max(1, BAND_PX // width)
    bands = [slice(top, min(top + step, height)) for top in range(0, height, step)]
    mean = np.empty((height, width), np.float32)
    for band in bands:
        red, green, blue = cv2.split(cv2.LUT(rgb[band], tables))
        mean[band] = (red + green + blue) / 3
    sure = mean[mean > SURELY_STAINED_OD]
    typical = float(np.median(sure, overwrite_input=True)) if sure.size else 0.0
    dark: BoolMask = mean > np.clip(STAINED_SHARE * typical, *STAINED_OD_RANGE)
    ink = np.empty_like(dark)
    for band in bands:
        red, green, blue = cv2.split(cv2.LUT(rgb[band], tables))
        ink[band] = dark[band] & ((blue > MAX_BLUE_TO_GREEN * green) | (red > MAX_RED_TO_GREEN * green))
    return dark & ~ink, ink


def _white(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Intensity of light that met nothing; gaps in the scan, pure white, say nothing of it."""
    pixels = rgb.reshape(-1, 3)
    seen = pixels[(pixels < 255).any(axis=1)]
    if not seen.size:
        return np.full(3, 255.0)
    return np.maximum(np.percentile(seen, WHITE_PERCENTILE, axis=0), WHITE_FLOOR)


def _closed(mask: BoolMask, radius_px: float) -> BoolMask:
    reach = max(1, round(radius_px))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc), bool)


def _fat(white: BoolMask, mask_um: float) -> BoolMask:
    """White regions too narrow for glass, also those that the scene's border cuts."""
    count, labels = _labelled(white)
    radius_px = cv2.distanceTransform(white.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    is_fat = np.ones(count, bool)
    is_fat[0] = False
    is_fat[np.unique(labels[radius_px > MAX_FAT_UM / 2 / mask_um])] = False
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_fat[_long_runs(side, MAX_FAT_UM / mask_um)] = False
    return np.asarray(is_fat[labels], bool)


def _labelled(mask: BoolMask) -> tuple[int, NDArray[np.int32]]:
    """Number of 4-connected pieces with the background, and the piece of every pixel (0 = background)."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return count, np.asarray(labels, np.int32)


def _long_runs(line: NDArray[np.int32], length_px: float) -> NDArray[np.int32]:
    """Labels that hold more than `length_px` pixels of a line in a row."""
    starts = np.flatnonzero(np.diff(line, prepend=-1))
    lengths = np.diff(starts, append=len(line))
    return line[starts[lengths > length_px]]


def _pieces_with(mask: BoolMask, content: BoolMask, min_area_px: float) -> BoolMask:
    """The connected pieces of `mask` that hold at least `min_area_px` pixels of `content`."""
    count, labels = _labelled(mask)
    areas = np.bincount(labels[content], minlength=count)
    keep = areas >= min_area_px
    keep[0] = False
    return np.asarray(keep[labels], bool)
