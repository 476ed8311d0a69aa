"""JPEG-XR images: their headers are checked here, their pixels decoded by imagecodecs.

The decoder, Microsoft's jxrlib, believes the headers and reads on where a codestream is cut short, without an
error: so size, kind and length are checked first. Layout: ITU-T T.832, annex A (the container) and
IMAGE_HEADER (the codestream).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

CONTAINER = b"II\xbc\x01"
FORMAT_TAG, TURN_TAG, WIDTH_TAG, HEIGHT_TAG = 0xBC01, 0xBC02, 0xBC80, 0xBC81
STREAM_TAG, LENGTH_TAG = 0xBCC0, 0xBCC1
BGR24 = bytes.fromhex("24c3dd6f034efe4bb1853d77768dc90c")
SIGNATURE = b"WMPHOTO\0"
_LONG = 4
"""The type of a directory's entry that is a 32-bit number."""
_MOST_ENTRIES = 64
"""A directory with more entries than this, and than T.832 has kinds of, is damaged. The decoder writes a line
to the standard error for each entry that it does not know."""
_OVERLAP = 0x03
"""The bits of the image header that say how far pixels are smoothed across the borders of blocks."""
_RGB_OF_8_BITS = 0x71
"""OUTPUT_CLR_FMT and OUTPUT_BITDEPTH. The decoder believes this byte and the next one: of another image it
gives what happens to lie in memory, or dies."""
_YUV = (1, 2, 3)
"""INTERNAL_CLR_FMT: 4:2:0, 4:2:2 and 4:4:4."""


def decode(stored: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The pixels of an image.

    Args:
        stored: the image, in its container.
        width, height: that it must have, in pixels.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        ValueError: it is not such an image, or damaged.
        MemoryError: there is no memory to decode it.
    """
    headers = headers_of(stored)
    for found in ((headers.width, headers.height), (headers.stream_width, headers.stream_height)):
        if found != (width, height):
            raise ValueError(f"it is of {found[0]} x {found[1]} px, not {width} x {height}")
    if not headers.is_bgr24:
        raise ValueError("its pixels are not 24-bit BGR")
    if headers.end > len(stored):
        raise ValueError(f"it ends {headers.end - len(stored):,} bytes early")
    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpegxr_decode(stored)
    except imagecodecs.JpegxrError as error:
        np.empty((2, height, width, 3), np.uint8)  # no memory is the same error: then this finds none, too
        raise ValueError(str(error)) from error
    return pixels


@dataclass(frozen=True)
class Headers:
    """What the container and the codestream (names that begin with it) say of the image.

    Attributes:
        end: of the codestream, in bytes.
        is_bgr24: it is of 24-bit BGR by both.
    """

    width: int
    height: int
    stream_width: int
    stream_height: int
    end: int
    is_bgr24: bool


def headers_of(stored: bytes) -> Headers:
    """Reads the headers; `ValueError` if they are not those of a JPEG-XR image."""
    try:
        entries = _entries(stored)
        width, height, stream, length = (
            _number(stored, entries[tag]) for tag in (WIDTH_TAG, HEIGHT_TAG, STREAM_TAG, LENGTH_TAG)
        )
        if TURN_TAG in entries:
            _number(stored, entries[TURN_TAG])
        (format_at,) = struct.unpack_from("<I", stored, entries[FORMAT_TAG].value_at)
        signature, _, order, form, output = struct.unpack_from(">8s4B", stored, stream)
        sizes = struct.Struct(">HH" if form & 0x80 else ">II")
        last_column, last_row = sizes.unpack_from(stored, stream + 12)
        (plane,) = struct.unpack_from("B", stored, stream + 12 + sizes.size)
    except (KeyError, struct.error) as error:
        raise ValueError("its JPEG-XR headers cannot be read") from error
    if not stored.startswith(CONTAINER) or signature != SIGNATURE:
        raise ValueError("it is not a JPEG-XR image")
    # Without tiles, order of frequency, an index, turning and margins the plane's header follows the sizes.
    is_plain = order & ~_OVERLAP == 0 and not form & 0x20
    is_yuv = plane >> 5 in _YUV or not is_plain
    return Headers(
        width=width,
        height=height,
        stream_width=last_column + 1,
        stream_height=last_row + 1,
        end=stream + length,
        is_bgr24=stored[format_at : format_at + len(BGR24)] == BGR24 and output == _RGB_OF_8_BITS and is_yuv,
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
    """What the container's directory has, by tag; `KeyError` if it holds more than a directory can."""
    (directory,) = struct.unpack_from("<I", stored, len(CONTAINER))
    (count,) = struct.unpack_from("<H", stored, directory)
    if count > _MOST_ENTRIES:
        raise KeyError(count)
    starts = [directory + 2 + 12 * nth for nth in range(count)]
    heads = [struct.unpack_from("<HH", stored, start) for start in starts]
    return {tag: _Entry(kind, start + 8) for (tag, kind), start in zip(heads, starts, strict=True)}
