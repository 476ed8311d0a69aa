"""How the picture of a cell is stored: a TIFF without loss, packed by zstd.

Tables made on two machines can only be the same if their pictures are, so the bytes must hang on the pixels
alone. Each pixel's difference to the one on its left is packed at a level of zstd that does without what may
differ between processors. That takes half the time of any PNG whose bytes are always the same, for as much
space (taken by hand, on marrow: 0.14 ms and 31 kB). ISA-L packs PNG nearly as fast, and was seen to pack one
picture in two ways.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from itertools import chain

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from mkhspc.errors import InputError
from mkhspc.geometry import RgbImage

MAX_SIDE_PX = 4096
"""Longest side of a picture; crops stay below it down to 0.02 µm a pixel. A larger one is refused unread."""

TAGS = (256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 65_000)
"""Of TIFF 6.0: width, height, bits, packing, colours, where its one strip is, channels, its rows and bytes,
what the pixels are differences to; last, a number left to everyone, here for the CRC-32 of what is packed."""
SHORT, LONG = 3, 4
ZSTD, TRUE_COLOUR, CHANNELS, DIFFERENCES = 50_000, 2, 3, 2
HEAD = struct.Struct("<2s H I H " + len(TAGS) * "2H 2I " + "I 3H")
BITS_AT = HEAD.size - 6
PACKING = 1


def encode_picture(rgb: RgbImage) -> bytes:
    """An (h, w, 3) uint8 image, h and w at least 1; the same pixels always give the same bytes."""
    return b"".join(encoded_pieces(rgb))


def encoded_pieces(rgb: RgbImage) -> tuple[bytes, bytes]:
    """`encode_picture` in two pieces, for those who join many."""
    rows = np.empty(rgb.shape, np.uint8)
    rows[:, 0] = rgb[:, 0]
    np.subtract(rgb[:, 1:], rgb[:, :-1], out=rows[:, 1:])
    packed: bytes = _codec().compress(rows, asbytes=True)
    return _head(rgb.shape[1], rgb.shape[0], len(packed), zlib.crc32(packed)), packed


@cache
def _codec() -> pa.Codec:
    return pa.Codec("zstd", compression_level=PACKING)


def _head(width: int, height: int, packed_bytes: int, checksum: int) -> bytes:
    """What the file begins with; the packed pixels follow."""
    size, strip = (width, height, BITS_AT), (HEAD.size, CHANNELS, height, packed_bytes)
    values = (*size, ZSTD, TRUE_COLOUR, *strip, DIFFERENCES, checksum)
    fields = [(tag, LONG, 1, value) for tag, value in zip(TAGS, values, strict=True)]
    fields[TAGS.index(258)] = (258, SHORT, CHANNELS, BITS_AT)  # three of them, at the head's end
    return HEAD.pack(b"II", 42, 8, len(fields), *chain.from_iterable(fields), 0, 8, 8, 8)


def decode_picture(data: bytes) -> RgbImage:
    """The (h, w, 3) uint8 pixels of a picture: of `encode_picture`, or a WebP or PNG.

    Raises:
        InputError: it is damaged, is of another format, has other than three 8-bit channels, or a
            side longer than `MAX_SIDE_PX`.
    """
    if data[:4] == b"II*\0":
        return _decode_tiff(data)
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
            if max(image.size) > MAX_SIDE_PX or image.mode != "RGB":
                raise InputError(
                    f"a crop is a picture of {image.size[0]} x {image.size[1]} px in mode {image.mode};"
                    f" crops are RGB and at most {MAX_SIDE_PX} px a side",
                )
            return np.array(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a crop is damaged, or not a picture of a cell ({error})") from error


def _decode_tiff(data: bytes) -> RgbImage:
    if len(data) > HEAD.size:
        fields = HEAD.unpack_from(data)[4:]
        width, height, packed_bytes, checksum = (fields[4 * nth + 3] for nth in (0, 1, 8, 10))
        packed = memoryview(data)[HEAD.size :]
        if (
            data[: HEAD.size] == _head(width, height, packed_bytes, checksum)
            and len(packed) == packed_bytes
            and zlib.crc32(packed) == checksum
            and 0 < min(width, height) <= max(width, height) <= MAX_SIDE_PX
        ):
            try:
                rows = _codec().decompress(packed, decompressed_size=height * width * CHANNELS)
            except OSError as error:  # of another length, too
                raise InputError(f"a crop is damaged ({error})") from error
            differences = np.frombuffer(rows, np.uint8).reshape(height, width, CHANNELS)
            return np.cumsum(differences, axis=1, dtype=np.uint8)
    raise InputError("a crop is damaged: its checksum does not match, or the file was cut short")
