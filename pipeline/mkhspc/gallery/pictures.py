"""Display pictures: the crops of a page side by side on a few sheets.

A browser fetches one sheet instead of a hundred crops, and an encoder that sees them together needs
fewer bytes. Sheets are lossy and only for looking; the lossless crops stay in the run.

Measured on real marrow at 112 px a crop, bytes a crop and milliseconds to encode on one core:
AVIF q60 speed 9: 1.90 kB, 0.7 ms; AVIF q60 speed 8: 1.81 kB, 4.6 ms; WebP q75: 2.36 kB, 1.2 ms.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, features

from mkhspc.config import CellType
from mkhspc.errors import InputError, MkhspcError
from mkhspc.store.picture import decode_picture

MAX_SIDE_PX: dict[CellType, int] = {"mk": 256, "hspc": 128}
"""Largest side of a display picture; a smaller crop is never enlarged."""
MAX_SHEET_PX = 4_200_000
"""Pixels of one sheet: several small sheets decode side by side and appear sooner than one large."""
QUALITY = 60
"""AVIF's quality, 0 to 100."""
SPEED = 9
"""AVIF's encoding speed, 0 to 10."""
SUFFIX = "avif"
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class SheetPlan:
    """How the crops of a page lie on its sheets.

    Attributes:
        side_px: side of a crop's square, in display pixels.
        counts: crops per sheet.
        columns: crops per row of a sheet.
    """

    side_px: int
    counts: tuple[int, ...]
    columns: int

    def place(self, number: int) -> tuple[int, int, int]:
        """Sheet, x and y in display pixels of the page's crop of this number."""
        sheet, within = divmod(number, self.counts[0])
        row, column = divmod(within, self.columns)
        return sheet, column * self.side_px, row * self.side_px

    def size_px(self, sheet: int) -> tuple[int, int]:
        columns = min(self.columns, self.counts[sheet])
        return columns * self.side_px, math.ceil(self.counts[sheet] / self.columns) * self.side_px


def plan_sheets(crops: int, side_px: int) -> SheetPlan:
    """Spreads a page's crops evenly over as few sheets as `MAX_SHEET_PX` allows."""
    most = max(1, MAX_SHEET_PX // side_px**2)
    sheets = math.ceil(crops / most)
    each = math.ceil(crops / sheets)
    counts = tuple(min(each, crops - start) for start in range(0, crops, each))
    return SheetPlan(side_px, counts, math.ceil(math.sqrt(each)))


@dataclass(frozen=True)
class DrawnSheets:
    """The sheets of a page, encoded, and what each crop was scaled by (display px per its own px)."""

    plan: SheetPlan
    sheets: tuple[bytes, ...]
    scales: tuple[float, ...]


def display_side_px(cell_type: CellType, images: Sequence[bytes]) -> int:
    """Side of the display pictures of a cell type, from some of its encoded crops."""
    return min(MAX_SIDE_PX[cell_type], max(max(_open(image).size) for image in images))


def draw_sheets(images: Sequence[bytes], plan: SheetPlan) -> DrawnSheets:
    """Draws the encoded crops of a page onto its sheets.

    A crop is scaled so that its longer side fills its square. Safe to call from several threads,
    and worth it: decoding, scaling and encoding release Python's lock.
    """
    sheets = [Image.new("RGB", plan.size_px(i), WHITE) for i in range(len(plan.counts))]
    scales = []
    for number, image in enumerate(images):
        sheet, x_px, y_px = plan.place(number)
        crop = _open(image)
        scales.append(plan.side_px / max(crop.size))
        size = (max(1, round(crop.width * scales[-1])), max(1, round(crop.height * scales[-1])))
        scaled = crop if size == crop.size else crop.resize(size, Image.Resampling.LANCZOS)
        sheets[sheet].paste(scaled, (x_px, y_px))
    return DrawnSheets(plan, tuple(encode_sheet(sheet) for sheet in sheets), tuple(scales))


def _open(image: bytes) -> Image.Image:
    try:
        return Image.fromarray(decode_picture(image))
    except InputError as error:
        raise InputError(
            f"in the run, {error.what}", fix="make the tables again with `mkhspc merge`"
        ) from error


def encode_sheet(sheet: Image.Image) -> bytes:
    """A sheet as AVIF.

    Raises:
        MkhspcError: this Pillow cannot write AVIF.
    """
    if not features.check("avif"):
        raise MkhspcError("this Pillow was built without AVIF", fix="pip install --upgrade 'pillow>=11.3'")
    out = io.BytesIO()
    sheet.save(out, "AVIF", quality=QUALITY, speed=SPEED, max_threads=1)
    return out.getvalue()
