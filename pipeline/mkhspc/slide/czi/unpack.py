"""The pixels of one sub-block from its bytes, as RGB.

zstd takes pyarrow two thirds of aicspylibczi's time, and JPEG-XR takes imagecodecs no longer than libCZI,
which looks through all sub-blocks of a file for every one that it is asked for: three times the time of
decoding on a slide of 13,500. The pixels are the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa

from mkhspc.geometry import Box, RgbImage
from mkhspc.slide.czi import jpegxr
from mkhspc.slide.czi.directory import SubBlock

READERS = "zstd by pyarrow, JPEG-XR by imagecodecs, reduced levels by aicspylibczi"
"""What decodes which images, for the manifest."""

SWAPPED_PX = 2**22
"""Pixels whose red and blue are swapped at once: OpenCV makes a copy of them."""
_ZSTD = pa.Codec("zstd")
_POOL = pa.system_memory_pool()  # the default one keeps what was freed
_ZSTD1_HEADERS = (b"\x01", b"\x03\x01\x00")
"""Its own length, then perhaps one entry: that samples are not split into high and low bytes."""


@dataclass(frozen=True)
class Image:
    """A decoded sub-block, or a part of one.

    Attributes:
        pixels: (height, width, 3) uint8, RGB, perhaps read-only.
        box: where it lies, in mosaic coordinates.
    """

    pixels: RgbImage
    box: Box

    def show(self, part: Box, picture: RgbImage, place: Box) -> None:
        """Copies what it holds of a part into a picture that covers `place`."""
        seen = part.clipped(self.box)
        if seen.area_px:
            picture[seen.slices_in(place)] = self.pixels[seen.slices_in(self.box)]

    def part(self, box: Box) -> Image:
        """The image inside a box alone: a copy, so that the rest can be forgotten."""
        return Image(self.pixels[box.slices_in(self.box)].copy(), box)


def unpack(stored: bytes, block: SubBlock) -> Image:
    """Decodes a sub-block of bgr24 pixels.

    Args:
        stored: the bytes of its pixels.

    Raises:
        ValueError: with the reason why they cannot be decoded.
    """
    width, height = block.stored_width_px, block.stored_height_px
    if block.compression == "jpeg-xr":
        return Image(jpegxr.decode(stored, width, height), block.box)
    bgr = np.frombuffer(_flat(stored, block), np.uint8).reshape(height, width, 3)
    rgb = bgr if bgr.flags.writeable else np.empty_like(bgr)  # bytes of the file cannot be written to
    rows = max(1, SWAPPED_PX // width)
    for top in range(0, height, rows):
        cv2.cvtColor(bgr[top : top + rows], cv2.COLOR_BGR2RGB, dst=rgb[top : top + rows])
    return Image(rgb, block.box)


def _flat(stored: bytes, block: SubBlock) -> bytes | pa.Buffer:
    size_bytes = block.unpacked_bytes
    match block.compression:
        case "uncompressed":
            if len(stored) != size_bytes:
                raise ValueError(f"it has {len(stored)} bytes, not {size_bytes}")
            return stored
        case "zstd0":
            return _from_zstd(memoryview(stored), size_bytes)
        case "zstd1":
            if not stored.startswith(_ZSTD1_HEADERS):
                raise ValueError("its zstd header is unknown")
            return _from_zstd(memoryview(stored)[stored[0] :], size_bytes)
        case unknown:
            raise ValueError(f"it is compressed as {unknown}")


def _from_zstd(packed: memoryview, size_bytes: int) -> pa.Buffer:
    try:
        return _ZSTD.decompress(packed, size_bytes, memory_pool=_POOL)
    except OSError as error:  # of another length, too
        raise ValueError(str(error)) from error
