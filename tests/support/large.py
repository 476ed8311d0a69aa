"""Large slides of real tissue for measuring: the shared marrow, mirrored until it fills them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw import czi

from mkhspc.slide.czi.directory import read_directory
from mkhspc.slide.czi.metadata import describe
from mkhspc.slide.czi.slide import CziSlide

UM_PER_PX = 0.22
BLOCK_PX = 2048

SEGMENT_BYTES, PARTS_BYTES = 32, 16
POSITIONS, ATTACHMENTS = 32 + 52, 32 + 72
"""Where a file's header holds the places of its directory and metadata, and of its attachments."""


def mirrored_marrow(
    shared: Path, path: Path, width_px: int, height_px: int, *, compression: str = "zstd1:ExplicitLevel=1"
) -> Path:
    """Writes a slide of one scene that is tissue from border to border, in square sub-blocks."""
    with CziSlide.open(shared / "data" / "marrow" / "marrow.czi") as slide:
        images = [slide.read(scene.index, scene.box)[..., ::-1] for scene in slide.info.scenes]
    with czi.create_czi(str(path), compression_options=compression) as file:
        for y in range(0, height_px, BLOCK_PX):
            for x in range(0, width_px, BLOCK_PX):
                rows = np.arange(y, min(y + BLOCK_PX, height_px))
                columns = np.arange(x, min(x + BLOCK_PX, width_px))
                block = _mirrored(images, rows, columns)
                file.write(block, plane={"C": 0, "Z": 0, "T": 0}, location=(x, y))
        file.write_metadata("marrow", scale_x=UM_PER_PX * 1e-6, scale_y=UM_PER_PX * 1e-6)
    return path


def _mirrored(
    images: list[NDArray[np.uint8]], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The pixels of an endless plane that shows each image and its mirror images in turn."""
    height, width = images[0].shape[:2]
    nth = (int(rows[0]) // (2 * height) + int(columns[0]) // (2 * width)) % len(images)
    return np.ascontiguousarray(images[nth][np.ix_(_to_and_fro(rows, height), _to_and_fro(columns, width))])


def _to_and_fro(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    within = places % (2 * length)
    return np.where(within < length, within, 2 * length - 1 - within)


def repeated_marrow(source: Path, path: Path, across: int, down: int) -> Path:
    """A slide of one scene whose sub-blocks are those of another's level 0, byte for byte, over and over.

    Overlaps, sizes and compression are the scanner's own, JPEG-XR included, which no library here writes.

    Args:
        across, down: scenes of the source, taken in turn, that are laid side by side.
    """
    directory = read_directory(source)
    scenes = describe(directory).scenes
    blocks = {s.index: [b for b in directory.level_0 if b.scene == s.index] for s in scenes}
    width, height = scenes[0].width_px, scenes[0].height_px
    stored = source.read_bytes()
    (metadata_at,) = struct.unpack_from("<q", stored, POSITIONS + 8)
    entries = []
    with path.open("wb") as file:
        file.write(stored[: min(block.position_bytes for block in directory.sub_blocks)])
        for n in range(across * down):
            scene = scenes[n % len(scenes)]
            left = n % across * width - scene.mosaic_box.x0
            top = n // across * height - scene.mosaic_box.y0
            for block in blocks[scene.index]:
                place = {"X": block.box.x0 + left, "Y": block.box.y0 + top, "S": 0, "M": len(entries)}
                segment = bytearray(_segment(stored, block.position_bytes))
                entry = _moved(segment, SEGMENT_BYTES + PARTS_BYTES, place, file.tell())
                entries.append(entry)
                file.write(segment)
        new_metadata_at = file.tell()
        file.write(_segment(stored, metadata_at))
        new_directory_at = file.tell()
        data = struct.pack("<i124x", len(entries)) + b"".join(entries)
        file.write(struct.pack("<16sqq", b"ZISRAWDIRECTORY", len(data), len(data)) + data)
        file.seek(POSITIONS)
        file.write(struct.pack("<qq", new_directory_at, new_metadata_at))
        file.seek(ATTACHMENTS)
        file.write(struct.pack("<q", 0))
    return path


def _segment(stored: bytes, position: int) -> bytes:
    """A segment with its header."""
    (allocated,) = struct.unpack_from("<q", stored, position + 16)
    return stored[position : position + SEGMENT_BYTES + allocated]


def _moved(segment: bytearray, at: int, place: Mapping[str, int], position: int) -> bytes:
    """Changes a directory entry that lies at `at` in a sub-block, and returns it."""
    struct.pack_into("<q", segment, at + 6, position)
    (count,) = struct.unpack_from("<i", segment, at + 28)
    for dimension in range(at + 32, at + 32 + 20 * count, 20):
        name = segment[dimension : dimension + 4].rstrip(b"\0 ").decode("ascii")
        if name in place:
            struct.pack_into("<i", segment, dimension + 4, place[name])
    return bytes(segment[at : at + 32 + 20 * count])
