"""Lossless pictures of cells, of one physical size for each cell type."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from zlib_ng import zlib_ng

from pipeline.config import CellType
from pipeline.detect.contract import Window
from pipeline.errors import InputError
from pipeline.geometry import Box

RgbImage = NDArray[np.uint8]

CROP_SIZE_UM: dict[CellType, float] = {"mk": 80.0, "hspc": 25.0}
"""Side of the square: the largest MK in the default filter is a disc of 52 µm, the largest HSPC one
of 14 µm; the rest is room for long cells and for what surrounds them, which experts judge by."""

MAX_SIDE_PX = 4096
"""No crop is larger, down to 0.02 µm a pixel; a picture that claims to be is refused unread."""

WHITE = 255

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUE_COLOUR, LEFT_FILTER = 2, 1
"""Of PNG (ISO/IEC 15948), with its signature and chunks."""
WINDOW_BITS, MOST_MEMORY = 15, 9
"""Of zlib: the most that it takes, with which it is fastest."""

CHUNK_BYTES = 1 << 26
"""About how much of a column of crops lies in one piece, far below the 2 GiB that its offsets reach."""


def crop_box(x_px: float, y_px: float, cell_type: CellType, um_per_px: float) -> Box:
    """The square of `CROP_SIZE_UM` around a centroid, to the nearest pixel; may leave the scene.

    Args:
        x_px, y_px: centroid in level-0 pixels of the scene.
    """
    side = max(1, round(CROP_SIZE_UM[cell_type] / um_per_px))
    x0, y0 = (math.floor(centre - side / 2 + 0.5) for centre in (x_px, y_px))
    return Box(x0, y0, x0 + side, y0 + side)


def cut_crop(window: Window, box: Box) -> RgbImage:
    """(box.height, box.width, 3) uint8 pixels of a box; white where the window has none."""
    if box.clipped(window.box) == box:
        return window.rgb[box.slices_in(window.box)]
    crop = np.full((box.height, box.width, 3), WHITE, np.uint8)
    seen = box.clipped(window.box)
    crop[seen.slices_in(box)] = window.rgb[seen.slices_in(window.box)]
    return crop


def encode_crop(rgb: RgbImage) -> bytes:
    """An (h, w, 3) uint8 image as PNG; the same pixels always give the same bytes."""
    return b"".join(_png(rgb))


def _png(rgb: RgbImage) -> tuple[bytes, ...]:
    """Rows of differences to the pixel on the left, each difference as short as it is frequent (Huffman).

    Repetitions, for which DEFLATE would search besides, are few in tissue: with them crops are an eighth
    smaller and take twice the time, and which are found may hang on the processor. A third of the time of
    lossless WebP at its fastest, and a third more space (taken by hand, on marrow: 32 kB a crop).
    """
    height, width = rgb.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = LEFT_FILTER
    samples = rows[:, 1:].reshape(height, width, 3)
    samples[:, 0] = rgb[:, 0]
    np.subtract(rgb[:, 1:], rgb[:, :-1], out=samples[:, 1:])
    packer = zlib_ng.compressobj(1, zlib_ng.DEFLATED, WINDOW_BITS, MOST_MEMORY, zlib_ng.Z_HUFFMAN_ONLY)
    packed = packer.compress(rows) + packer.flush()
    checksum = zlib_ng.crc32(packed, zlib_ng.crc32(b"IDAT"))
    return _beginning(width, height), struct.pack(">I4s", len(packed), b"IDAT"), packed, _ending(checksum)


@cache
def _beginning(width: int, height: int) -> bytes:
    header = struct.pack(">4s2I5B", b"IHDR", width, height, 8, TRUE_COLOUR, 0, 0, 0)
    return SIGNATURE + struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib_ng.crc32(header))


def _ending(checksum: int) -> bytes:
    return struct.pack(">2I4sI", checksum, 0, b"IEND", zlib_ng.crc32(b"IEND"))


def encoded_crops(window: Window, boxes: Sequence[Box]) -> pa.ChunkedArray:
    """The encoded pictures of all boxes, one binary value each."""
    chunks = []
    parts: list[bytes] = []
    ends = [0]
    for box in boxes:
        png = _png(cut_crop(window, box))
        parts += png
        ends.append(ends[-1] + sum(map(len, png)))
        if ends[-1] >= CHUNK_BYTES:
            chunks.append(_binary_array(parts, ends))
            parts, ends = [], [0]
    return pa.chunked_array([*chunks, _binary_array(parts, ends)] if len(ends) > 1 or not chunks else chunks)


def _binary_array(parts: Sequence[bytes], ends: Sequence[int]) -> pa.Array:
    buffers = [None, pa.py_buffer(np.array(ends, np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, buffers)


def decode_crop(data: bytes) -> RgbImage:
    """The (h, w, 3) uint8 pixels of a WebP or PNG crop.

    Raises:
        InputError: it is damaged, is of another format, has other than three 8-bit channels, or a
            side longer than `MAX_SIDE_PX`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
            if max(image.size) > MAX_SIDE_PX or image.mode != "RGB":
                raise InputError(
                    f"a crop is {image.size[0]} x {image.size[1]} px of mode {image.mode}",
                    fix=f"crops are RGB and at most {MAX_SIDE_PX} px a side",
                )
            return np.array(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"a crop is damaged or no WebP or PNG ({error})") from error
