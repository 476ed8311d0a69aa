"""A CZI file of one image, in memory: for a library that takes files alone.

libCZI looks through the whole directory of a file for every image that it is asked for, which on a slide
of 13,500 takes twice as long as to decode one. In a file of one image there is nothing to look through.
Layout as in `slide.directory`.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mkhspc.slide.czi.directory import COMPRESSIONS, DIMENSION, ENTRY, PARTS, PIXEL_TYPES, SEGMENT

ALIGNED_BYTES = 32
HEADER_BYTES = 512
_FILE_HEADER = struct.Struct("<4i16s16siqq")  # version, spare, file id, its parent's, part, positions
_XML = b"<ImageDocument><Metadata/></ImageDocument>"


@contextmanager
def one_image(stored: bytes, width: int, height: int, changes: dict[int, bytes]) -> Iterator[Path]:
    """Where to open a CZI file that holds one bgr24 image, coded as JPEG-XR, and goes at the end.

    Args:
        stored: the image's bytes.
        width, height: of the image, in pixels.
        changes: bytes to put in place of others, by offset in `stored`.

    Raises:
        OSError: there is no room for it in memory, or no further file may be opened.
    """
    image_at = SEGMENT.size + HEADER_BYTES
    entry = _entry(width, height, image_at)
    image = (PARTS.pack(0, 0, len(stored)) + entry).ljust(256, b"\0")
    stored_at = image_at + SEGMENT.size + len(image)
    directory_at = _aligned(stored_at + len(stored))
    directory = struct.pack("<i", 1).ljust(128, b"\0") + entry
    metadata_at = _aligned(directory_at + SEGMENT.size + len(directory))
    metadata = struct.pack("<ii", len(_XML), 0).ljust(256, b"\0") + _XML
    header = _FILE_HEADER.pack(1, 0, 0, 0, bytes(16), bytes(16), 0, directory_at, metadata_at)
    pieces = [
        _segment(b"ZISRAWFILE", header.ljust(HEADER_BYTES, b"\0")),
        _segment(b"ZISRAWSUBBLOCK", image, len(stored)),
        stored,
        bytes(directory_at - stored_at - len(stored)),
        _segment(b"ZISRAWDIRECTORY", directory).ljust(metadata_at - directory_at, b"\0"),
        _segment(b"ZISRAWMETADATA", metadata),
    ]
    # In memory and without a name: nothing is left behind, whatever becomes of the process.
    file = os.memfd_create("one-image.czi")
    try:
        if os.writev(file, pieces) != sum(map(len, pieces)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for offset, change in changes.items():
            os.pwrite(file, change, stored_at + offset)
        yield Path(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _entry(width: int, height: int, position: int) -> bytes:
    """What the directory says of the image."""
    pixel_type = next(number for number, name in PIXEL_TYPES.items() if name == "bgr24")
    compression = next(number for number, name in COMPRESSIONS.items() if name == "jpeg-xr")
    sizes = {b"X": width, b"Y": height, b"C": 1, b"M": 1}
    dimensions = [DIMENSION.pack(name, 0, size, 0.0, size) for name, size in sizes.items()]
    return ENTRY.pack(b"DV", pixel_type, position, 0, compression, 0, len(sizes)) + b"".join(dimensions)


def _segment(name: bytes, data: bytes, more_bytes: int = 0) -> bytes:
    """A segment that `more_bytes` follow, which belong to it."""
    used = len(data) + more_bytes
    return SEGMENT.pack(name, _aligned(used), used) + data


def _aligned(position: int) -> int:
    return -(-position // ALIGNED_BYTES) * ALIGNED_BYTES
