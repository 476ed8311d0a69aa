"""Decoded sub-blocks that wait for a window far off, in less memory than their pixels take.

zstd finds little that repeats in the pixels of a scan. But neighbours are alike, and so are the colours of
a pixel: packed as differences, marrow takes about half of its bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa

from pipeline.geometry import Box
from pipeline.slide.unpack import Image

_ZSTD = pa.Codec("zstd", 1)
_POOL = pa.system_memory_pool()  # the default one keeps what was freed
_CHANNELS = 3
_BAND_ROWS = 256
"""Differences begin anew with each band of so many rows, so that few of their sums are there at a time."""


@dataclass(frozen=True)
class PackedImage:
    """An `Image`, packed without loss.

    Attributes:
        packed: of blue less green, of green and of red less green, the differences from pixel to pixel along
            rows, and of these the differences from row to row.
        rows: that the image has.
    """

    packed: bytes
    box: Box
    rows: int

    @classmethod
    def of(cls, image: Image) -> PackedImage:
        """Packs an image of one pixel or more."""
        planes = np.empty((_CHANNELS, *image.stored.shape[:2]), np.uint8)
        cv2.split(image.stored, list(planes))
        blue, green, red = planes
        blue -= green  # modulo 256, as all sums here
        red -= green
        along = planes.copy()
        along[:, :, 1:] -= planes[:, :, :-1]
        planes[:] = along
        for top in range(0, planes.shape[1], _BAND_ROWS):
            band = slice(top, top + _BAND_ROWS)
            planes[:, band][:, 1:] -= along[:, band][:, :-1]
        return cls(_ZSTD.compress(planes, asbytes=True), image.box, len(image.stored))

    def image(self) -> Image:
        """The same pixels as were packed."""
        shape = _CHANNELS, self.rows, self.box.width
        unpacked = _ZSTD.decompress(self.packed, math.prod(shape), memory_pool=_POOL)
        changes = np.frombuffer(unpacked, np.uint8).reshape(shape)
        planes = np.empty(shape, np.uint8)
        for top in range(0, self.rows, _BAND_ROWS):
            band = slice(top, top + _BAND_ROWS)
            for plane, plane_changes in zip(planes, changes, strict=True):
                plane[band] = cv2.integral(plane_changes[band])[1:, 1:]  # the low byte of each sum
        blue, green, red = planes
        blue += green
        red += green
        return Image(np.asarray(cv2.merge(list(planes)), np.uint8), self.box)
