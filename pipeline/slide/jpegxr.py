"""JPEG-XR images without their lowest rows: rows that nothing shows need not be decoded.

An image is coded in macroblocks of 16 x 16 pixels, row after row, so that one of fewer rows is the same
bytes with another height in two headers: the container's directory and the codestream's image header
(ITU-T T.832, annex A and IMAGE_HEADER). Neighbouring images of a mosaic overlap by a tenth, and decoding
JPEG-XR is what reading such a slide costs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

CONTAINER = b"II\xbc\x01"
TURN_TAG, HEIGHT_TAG, STREAM_TAG, ALPHA_TAG = 0xBC02, 0xBC81, 0xBCC0, 0xBCC2
SIGNATURE = b"WMPHOTO\0"
MACROBLOCK_PX = 16
_LONG = 4
"""The type of a directory's entry that is a 32-bit number."""
_OVERLAP = 0x03
"""The bits of the image header that tell how far pixels are smoothed across the borders of blocks."""


@dataclass(frozen=True)
class _Headers:
    """What the two headers say of the height, and where; and whether pixels depend on the next row's."""

    height: int
    height_at: int
    stream_height: int
    stream_height_at: int
    is_short: bool
    is_overlapped: bool


def upper_part(stored: bytes, rows: int, height: int) -> tuple[bytes, int]:
    """An image that ends after a macroblock of its row `rows`, and how many rows it has.

    The pixels of the first `rows` are the same to the bit.

    Args:
        stored: the image, in its container.
        rows: wanted; at least one.
        height: of the image.

    Returns:
        The image unchanged if nothing is won, or if it is in tiles, in order of frequency, turned, or in
        any other form whose rows are not simply one after the other.
    """
    headers = _headers(stored)
    if headers is None or not height == headers.height == headers.stream_height:
        return stored, height  # whoever decodes it says what is wrong
    # Pixels at a macroblock's lower edge may be smoothed with those of the next.
    needed = -(-rows // MACROBLOCK_PX) + headers.is_overlapped
    kept = needed * MACROBLOCK_PX
    if kept >= height:
        return stored, height
    cut = bytearray(stored)
    struct.pack_into("<I", cut, headers.height_at, kept)
    struct.pack_into(">H" if headers.is_short else ">I", cut, headers.stream_height_at, kept - 1)
    return bytes(cut), kept


def _headers(stored: bytes) -> _Headers | None:
    """None for an image of another form than the plain one that microscopes write."""
    if not stored.startswith(CONTAINER):
        return None
    try:
        entries = _entries(stored)
        turn, stream = (_number(stored, entries[tag]) for tag in (TURN_TAG, STREAM_TAG))
        if ALPHA_TAG in entries or entries[HEIGHT_TAG].kind != _LONG or turn != 0:
            return None
        height = _number(stored, entries[HEIGHT_TAG])
        signature, _, order, form, _ = struct.unpack_from(">8s4B", stored, stream)
        is_short = bool(form & 0x80)
        stream_height_at = stream + (14 if is_short else 16)
        (last_row,) = struct.unpack_from(">H" if is_short else ">I", stored, stream_height_at)
    except (KeyError, struct.error):
        return None
    is_plain = order & ~_OVERLAP == 0  # no tiles, no order of frequency, not turned, no index
    has_margins = bool(form & 0x20)
    if signature != SIGNATURE or not is_plain or has_margins:
        return None
    return _Headers(
        height=height,
        height_at=entries[HEIGHT_TAG].value_at,
        stream_height=last_row + 1,
        stream_height_at=stream_height_at,
        is_short=is_short,
        is_overlapped=bool(order & _OVERLAP),
    )


class _Entry(NamedTuple):
    kind: int
    value_at: int


def _number(stored: bytes, entry: _Entry) -> int:
    number: int = struct.unpack_from("<I", stored, entry.value_at)[0]
    return number


def _entries(stored: bytes) -> dict[int, _Entry]:
    """What the container's directory has, by tag."""
    (directory,) = struct.unpack_from("<I", stored, len(CONTAINER))
    (count,) = struct.unpack_from("<H", stored, directory)
    starts = [directory + 2 + 12 * nth for nth in range(count)]
    heads = [struct.unpack_from("<HH", stored, start) for start in starts]
    return {tag: _Entry(kind, start + 8) for (tag, kind), start in zip(heads, starts, strict=True)}
