"""Whether two files hold the same images: a copy would count as a second animal.

The file's own id cannot say it, for some programs write the same id into every file, and others give a
copy a new one. So the images are compared as they are stored, byte by byte.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from mkhspc.slide.czi.directory import CziDirectory, SubBlock, read_directory, stored_pixels

SAMPLED_BLOCKS = 16
"""How many images stand for a file. That tells copies from nearly all others; `is_same` makes sure."""
SAMPLED_BYTES = 1 << 16
"""So many bytes of each of them are read, from the middle: at a border there may be only glass."""
COMPARED_BYTES = 1 << 28
"""Of a pair of files, this many bytes of each are compared at most, spread over all images."""


def content_of(directory: CziDirectory) -> str:
    """16 hexadecimal digits of the SHA-256 of some of a file's level-0 images, and of where they lie.

    A copy has the same, also under another id and with other metadata.
    """
    blocks = _in_order(directory)
    step = max(1, len(blocks) // SAMPLED_BLOCKS)
    digest = hashlib.sha256(str(len(blocks)).encode())
    with directory.path.open("rb") as file:
        for block in blocks[::step][:SAMPLED_BLOCKS]:
            digest.update(repr(_place(block)).encode())
            digest.update(_middle(file, block, directory.size_bytes, SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def is_same(one: Path, other: Path) -> bool:
    """Whether two files hold the same level-0 images at the same places.

    Raises:
        InputError: one of them cannot be read.
    """
    pair = read_directory(one), read_directory(other)
    stretch = COMPARED_BYTES // max(len(directory.level_0) for directory in pair)
    return all(ours == theirs for ours, theirs in zip_longest(*(_stretches(d, stretch) for d in pair)))


def _stretches(directory: CziDirectory, most_bytes: int) -> Iterator[tuple[object, bytes]]:
    """Of every level-0 image its place and its stored bytes, or as many from their middle."""
    with directory.path.open("rb") as file:
        for block in _in_order(directory):
            yield _place(block), _middle(file, block, directory.size_bytes, most_bytes)


def _in_order(directory: CziDirectory) -> Sequence[SubBlock]:
    """The level-0 images, in an order that does not depend on how they are stored."""
    return sorted(directory.level_0, key=_place)


def _place(block: SubBlock) -> tuple[object, ...]:
    box = block.box
    return block.scene, sorted(block.plane.items()), block.mosaic_index, box.y0, box.x0, box.y1, box.x1


def _middle(file: BinaryIO, block: SubBlock, size_bytes: int, most_bytes: int) -> bytes:
    """Stored bytes from the middle of an image; none where it is damaged or its disk does not answer."""
    try:
        extent = stored_pixels(file, block, size_bytes)
        if extent is None:
            return b""
        length = min(most_bytes, extent.length_bytes)
        begin = extent.position_bytes + (extent.length_bytes - length) // 2
        return os.pread(file.fileno(), length, begin)
    except OSError:  # the tiles that need the image will name it
        return b""
