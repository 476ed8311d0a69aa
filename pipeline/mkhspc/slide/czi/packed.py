"""Decoded sub-blocks that wait for a window, in less memory than their pixels take.

zstd finds little that repeats in the pixels of a scan. But neighbours are alike, and so are the colours of
a pixel: packed as differences, marrow takes about half of its bytes. Bands of rows are packed each by
itself, so that some can be shown or forgotten without the others, and few are there unpacked at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pyarrow as pa

from mkhspc.geometry import Box
from mkhspc.slide.czi.unpack import Image, Pixels

BAND_ROWS = 64
_ZSTD = pa.Codec("zstd", 1)
_POOL = pa.system_memory_pool()  # the default one keeps what was freed
_CHANNELS = 3


@dataclass(frozen=True)
class PackedImage:
    """An `Image`, packed without loss.

    Attributes:
        bands: of `BAND_ROWS` rows each, from the top; the last one may have fewer.
        box: where it lies, in mosaic coordinates.
        rows: that it has; perhaps without the lowest of its box.
    """

    bands: tuple[bytes, ...]
    box: Box
    rows: int

    @classmethod
    def of(cls, image: Image, part: Box) -> PackedImage:
        """Packs the part of an image inside a box."""
        pixels = image.stored[part.slices_in(image.box)]
        tops = range(0, len(pixels), BAND_ROWS)
        return cls(tuple(_packed(pixels[top : top + BAND_ROWS]) for top in tops), part, len(pixels))

    def part(self, box: Box) -> PackedImage:
        """The bands that hold some row of a box inside this one, no wider than it."""
        first, end = (box.y0 - self.box.y0) // BAND_ROWS, -(-(box.y1 - self.box.y0) // BAND_ROWS)
        top, foot = (min(nth * BAND_ROWS, self.box.height) for nth in (first, end))
        bands = self.bands[first:end]
        kept = replace(self.box, y0=self.box.y0 + top, y1=self.box.y0 + foot)
        less = PackedImage(bands, kept, max(0, min(self.rows, foot) - top))
        if box.width == self.box.width:
            return less
        narrow = replace(kept, x0=box.x0, x1=box.x1)
        columns = narrow.slices_in(kept)[1]
        narrower = (_packed(piece.stored[:, columns]) for piece in less.pieces([kept]))
        return replace(less, bands=tuple(narrower), box=narrow)

    def pieces(self, parts: Sequence[Box]) -> Iterator[Image]:
        """The bands that any part of it lies in, one after the other."""
        for nth, packed in enumerate(self.bands):
            top = nth * BAND_ROWS
            rows = min(BAND_ROWS, self.rows - top)
            box = replace(self.box, y0=self.box.y0 + top, y1=self.box.y0 + top + rows)
            if any(part.clipped(box).area_px for part in parts):
                yield Image(_unpacked(packed, rows, box.width), box)


def _packed(pixels: Pixels) -> bytes:
    """Of blue less green, green and red less green: differences along rows, and of these from row to row.

    Args:
        pixels: (rows, width, 3), BGR, none of them 0.
    """
    planes = np.empty((_CHANNELS, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    blue, green, red = planes
    blue -= green  # modulo 256, as all sums here
    red -= green
    along = planes.copy()
    along[:, :, 1:] -= planes[:, :, :-1]
    planes[:] = along
    planes[:, 1:] -= along[:, :-1]
    packed: bytes = _ZSTD.compress(planes, asbytes=True)
    return packed


def _unpacked(packed: bytes, rows: int, width: int) -> Pixels:
    """The pixels that `_packed` was given."""
    shape = _CHANNELS, rows, width
    changes = np.frombuffer(_ZSTD.decompress(packed, math.prod(shape), memory_pool=_POOL), np.uint8)
    planes = np.empty(shape, np.uint8)
    for plane, plane_changes in zip(planes, changes.reshape(shape), strict=True):
        plane[:] = cv2.integral(plane_changes)[1:, 1:]  # the low byte of each sum
    blue, green, red = planes
    blue += green
    red += green
    return np.asarray(cv2.merge(list(planes)), np.uint8)
