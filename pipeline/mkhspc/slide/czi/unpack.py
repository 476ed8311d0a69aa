"""The pixels of one sub-block from its bytes.

aicspylibczi looks through all sub-blocks of a file for every one that it is asked for: on a slide of
13,500 it takes three times as long to decode JPEG-XR as what is used here; and zstd takes pyarrow two
thirds of the time on any slide. The pixels are the same to the bit. All JPEG-XR decoders that Python has
come from one source and differ in how they were compiled: images of a megabyte take pylibCZIrw's 6 % less
time than imagecodecs' and 2 % less than aicspylibczi's; images of 15 MB take all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mkhspc.geometry import Box
from mkhspc.slide.czi import jpegxr
from mkhspc.slide.czi.directory import SubBlock

Pixels = NDArray[np.uint8]

READERS = "zstd by pyarrow, JPEG-XR by pylibCZIrw, reduced levels by aicspylibczi"
"""Who decodes what, for the manifest: chosen by measurement, and the same to the bit."""

_ZSTD = pa.Codec("zstd")
_POOL = pa.system_memory_pool()  # the default one keeps what was freed
_ZSTD1_HEADERS = (b"\x01", b"\x03\x01\x00")
"""Its own length, then perhaps one entry: that samples are not split into high and low bytes."""


@dataclass(frozen=True)
class Image:
    """A decoded sub-block.

    Attributes:
        stored: (height, width, 3) uint8, BGR, perhaps read-only, perhaps without the lowest rows.
        box: where it lies, in mosaic coordinates.
    """

    stored: Pixels
    box: Box

    def pieces(self, parts: Sequence[Box]) -> Iterable[Image]:
        """Images that hold these parts of it: it is one itself."""
        return (self,)

    def show(self, part: Box, picture: Pixels, place: Box) -> None:
        """Copies what its box holds of a part, as RGB, into a picture that covers `place`.

        Raises:
            ValueError: the part reaches into rows that were not decoded.
        """
        part = part.clipped(self.box)
        if not part.area_px:
            return
        source = self.stored[part.slices_in(self.box)]
        if len(source) < part.height:  # what lay in the picture before would stay
            raise ValueError(f"rows of {part} were not decoded")
        cv2.cvtColor(source, cv2.COLOR_BGR2RGB, dst=picture[part.slices_in(place)])

    def part(self, box: Box) -> Image:
        """The image inside a box alone: a copy, so that the rest can be forgotten."""
        return Image(self.stored[box.slices_in(self.box)].copy(), box)


def unpack(stored: bytes, block: SubBlock, rows: int | None = None) -> Image:
    """Decodes a sub-block of bgr24 pixels.

    Args:
        stored: the bytes of its pixels.
        rows: that are wanted, from its top; all if not given.

    Raises:
        ValueError: with the reason why they cannot be decoded.
    """
    width, height = block.stored_width_px, block.stored_height_px
    if block.compression == "jpeg-xr":
        return Image(jpegxr.decode(stored, width, height, height if rows is None else rows), block.box)
    return Image(np.frombuffer(_flat(stored, block), np.uint8).reshape(height, width, 3), block.box)


def _flat(stored: bytes, block: SubBlock) -> bytes | pa.Buffer:
    size_bytes = 3 * block.stored_width_px * block.stored_height_px
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
