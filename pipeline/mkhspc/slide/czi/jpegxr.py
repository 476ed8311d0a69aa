"""JPEG-XR images, decoded without their lowest rows where nothing shows those.

An image is coded in macroblocks of 16 x 16 pixels, row after row, so that one of fewer rows is the same
bytes with another height in two headers: the container's directory and the codestream's image header
(ITU-T T.832, annex A and IMAGE_HEADER). Neighbouring images of a mosaic overlap by a tenth, and decoding
JPEG-XR is what reading such a slide costs.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw import czi

from mkhspc.slide.czi.one_image import one_image

CONTAINER = b"II\xbc\x01"
FORMAT_TAG, TURN_TAG, WIDTH_TAG, HEIGHT_TAG = 0xBC01, 0xBC02, 0xBC80, 0xBC81
STREAM_TAG, LENGTH_TAG, ALPHA_TAG = 0xBCC0, 0xBCC1, 0xBCC2
BGR24 = bytes.fromhex("24c3dd6f034efe4bb1853d77768dc90c")
SIGNATURE = b"WMPHOTO\0"
MACROBLOCK_PX = 16
_LONG = 4
"""The type of a directory's entry that is a 32-bit number."""
_OVERLAP = 0x03
"""The bits of the image header that tell how far pixels are smoothed across the borders of blocks."""
_RGB_OF_8_BITS = 0x71
"""OUTPUT_CLR_FMT and OUTPUT_BITDEPTH. The decoder believes this byte and the next one: of another image it
gives what happens to lie in memory, or dies."""
_YUV = (1, 2, 3)
"""INTERNAL_CLR_FMT: 4:2:0, 4:2:2 and 4:4:4."""


def decode(stored: bytes, width: int, height: int, rows: int) -> NDArray[np.uint8]:
    """The upper part of an image.

    Args:
        stored: the image, in its container.
        width, height: that it must have, in pixels.
        rows: wanted; at least one.

    Returns:
        (kept, width, 3) uint8, BGR, of at least `rows` rows. All rows of an image that is in tiles, in
        order of frequency, turned, or in any other form whose rows are not simply one after the other.

    Raises:
        ValueError: it is no such image.
        OSError: the system has no room for another file.
    """
    headers = headers_of(stored)
    for found in ((headers.width, headers.height), (headers.stream_width, headers.stream_height)):
        if found != (width, height):  # libCZI would cut it, or fill it up
            raise ValueError(f"it is of {found[0]} x {found[1]} px, not {width} x {height}")
    if not headers.is_bgr24:
        raise ValueError("its pixels are not 24-bit BGR")
    if headers.end > len(stored):  # the decoder would go on with what it finds
        raise ValueError(f"it ends {headers.end - len(stored):,} bytes early")
    kept = headers.rows_to_decode(rows)
    changes = headers.with_height(kept) if kept < height else {}
    with one_image(stored, width, kept, changes) as path:
        return _read(path)


def _read(path: Path) -> NDArray[np.uint8]:
    """The pixels of a file of one image; `ValueError` if it cannot be decoded."""
    try:
        reader = czi.CziReader(str(path))
    except RuntimeError as error:  # nothing is wrong with the file: no further one may be opened
        raise OSError(errno.EIO, f"libCZI cannot open {path} ({error})") from error
    try:
        pixels: NDArray[np.uint8] = reader.read(plane={"C": 0})
    except RuntimeError as error:  # whatever libCZI says of an image
        raise ValueError(str(error)) from error
    finally:
        reader.close()
    return pixels


@dataclass(frozen=True)
class Headers:
    """What the container and the codestream say of the image, and where; the latter's names begin with it.

    Attributes:
        end: of the codestream, in bytes.
        is_bgr24: it is of 24-bit BGR by both.
        is_in_rows: it is coded row after row, and nothing but the heights tells how many there are.
        is_overlapped: pixels depend on the next row of macroblocks.
    """

    width: int
    height: int
    height_at: int
    stream_width: int
    stream_height: int
    stream_height_at: int
    end: int
    is_short: bool
    is_bgr24: bool
    is_in_rows: bool
    is_overlapped: bool

    def rows_to_decode(self, rows: int) -> int:
        """How many rows an image has that ends after a macroblock of its row `rows`."""
        # Pixels at a macroblock's lower edge may be smoothed with those of the next.
        needed = -(-rows // MACROBLOCK_PX) + self.is_overlapped
        return min(self.height, needed * MACROBLOCK_PX) if self.is_in_rows else self.height

    def with_height(self, height: int) -> dict[int, bytes]:
        """The bytes that make it an image of another height, by their offset."""
        last_row = struct.pack(">H" if self.is_short else ">I", height - 1)
        return {self.height_at: struct.pack("<I", height), self.stream_height_at: last_row}


def headers_of(stored: bytes) -> Headers:
    """`ValueError` if these are no headers of JPEG-XR."""
    try:
        entries = _entries(stored)
        width, height, stream, length = (
            _number(stored, entries[tag]) for tag in (WIDTH_TAG, HEIGHT_TAG, STREAM_TAG, LENGTH_TAG)
        )
        is_turned = TURN_TAG in entries and _number(stored, entries[TURN_TAG]) != 0
        (format_at,) = struct.unpack_from("<I", stored, entries[FORMAT_TAG].value_at)
        signature, _, order, form, output = struct.unpack_from(">8s4B", stored, stream)
        is_short = bool(form & 0x80)
        sizes_at = stream + 12
        sizes = struct.Struct(">HH" if is_short else ">II")
        last_column, last_row = sizes.unpack_from(stored, sizes_at)
        (plane,) = struct.unpack_from("B", stored, sizes_at + sizes.size)
    except (KeyError, struct.error) as error:
        raise ValueError("its JPEG-XR headers cannot be read") from error
    if not stored.startswith(CONTAINER) or signature != SIGNATURE:
        raise ValueError("it is no JPEG-XR image")
    has_margins = bool(form & 0x20)
    # Neither tiles, order of frequency, an index, nor turned; then the plane's header follows the sizes.
    is_plain = order & ~_OVERLAP == 0 and not has_margins
    is_yuv = plane >> 5 in _YUV or not is_plain
    return Headers(
        width=width,
        height=height,
        height_at=entries[HEIGHT_TAG].value_at,
        stream_width=last_column + 1,
        stream_height=last_row + 1,
        stream_height_at=sizes_at + sizes.size // 2,
        end=stream + length,
        is_short=is_short,
        is_bgr24=stored[format_at : format_at + len(BGR24)] == BGR24 and output == _RGB_OF_8_BITS and is_yuv,
        is_in_rows=is_plain and ALPHA_TAG not in entries and not is_turned,
        is_overlapped=bool(order & _OVERLAP),
    )


class _Entry(NamedTuple):
    kind: int
    value_at: int


def _number(stored: bytes, entry: _Entry) -> int:
    """The value of an entry; `KeyError` if it is not of the one type that fits into it and is in use."""
    if entry.kind != _LONG:
        raise KeyError(entry.kind)
    number: int = struct.unpack_from("<I", stored, entry.value_at)[0]
    return number


def _entries(stored: bytes) -> dict[int, _Entry]:
    """What the container's directory has, by tag."""
    (directory,) = struct.unpack_from("<I", stored, len(CONTAINER))
    (count,) = struct.unpack_from("<H", stored, directory)
    starts = [directory + 2 + 12 * nth for nth in range(count)]
    heads = [struct.unpack_from("<HH", stored, start) for start in starts]
    return {tag: _Entry(kind, start + 8) for (tag, kind), start in zip(heads, starts, strict=True)}
