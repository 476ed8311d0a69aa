"""The sub-block directory of a CZI file: what it holds and where, read without decoding a pixel.

libCZI's Python bindings give neither compression nor pyramid levels, and trust a damaged file. So
header, directory and metadata are parsed here, and every position is checked against the size of
the file before libCZI sees it. Layout: ZISRAW file format, "CZI" design specification 1.2.2
(Carl Zeiss Microscopy); all numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.units import MB, MIB

PIXEL_TYPES = {
    0: "gray8", 1: "gray16", 2: "gray32float", 3: "bgr24", 4: "bgr48", 8: "bgr96float", 9: "bgra32",
    10: "gray64complexfloat", 11: "bgr192complexfloat", 12: "gray32", 13: "gray64float",
}  # fmt: skip
"""The names of pixel types by their number in a directory entry."""
COMPRESSIONS = {0: "uncompressed", 1: "jpeg", 2: "lzw", 4: "jpeg-xr", 5: "zstd0", 6: "zstd1"}
"""The names of compressions by their number in a directory entry."""

NO_MOSAIC_INDEX = -1
"""The mosaic index of a block that states none."""
MAX_SCENES = 10_000
"""A directory with a higher scene number is damaged. libCZI walks through every number up to the highest,
whether there is such a scene or not."""

MOST_BYTES = {"file header": MIB, "directory of images": 32 * MIB, "metadata": 24 * MIB}
"""The most bytes of each part of a file that is read whole; a file can claim any size. A header has 512, a
directory of 250,000 images 32 MiB, and the metadata of slides a few MiB: of 24 MiB a tree can take 0.7 GB."""

SEGMENT = struct.Struct("<16sqq")  # id, bytes allocated, bytes used
ENTRY = struct.Struct("<2siqiiB5xi")  # schema, pixel type, position, part, compression, pyramid, dimensions
PARTS = struct.Struct("<iiq")  # of a sub-block: bytes of metadata, of attachments, of pixels
DIMENSION = struct.Struct("<4siifi")  # name, start, size, start coordinate, stored size
_HEADER_FILE_ID = slice(32, 48)  # offsets inside the data of the file header segment
_HEADER_PART = 48
_HEADER_POSITIONS = 52
_DIRECTORY_HEADER_BYTES = 128
_METADATA_HEADER_BYTES = 256
_MOST_DIMENSIONS = 40
_LEAST_FIXED_BYTES = 256  # of a sub-block, before its metadata
_GIVE_A_CZI = "give a Zeiss CZI slide scan"
_SAVE_AS_ONE = "save the scan as a single CZI file in ZEN"

COPY_AGAIN = "the file is cut short or damaged: copy it again from its source"
"""What to do about a damaged file."""


@dataclass(frozen=True)
class SubBlock:
    """One stored image.

    Attributes:
        box: the level-0 pixels that it covers, in the file's mosaic coordinates.
        stored_width_px, stored_height_px: its size as stored; smaller than `box` in a pyramid level.
        plane: index along every dimension but X, Y, S and M, such as `{"C": 0, "Z": 0}`.
        scene: 0 where the file has no scenes.
        mosaic_index: where blocks overlap the highest index is on top; -1 = none.
    """

    box: Box
    stored_width_px: int
    stored_height_px: int
    pixel_type: str
    compression: str
    plane: Mapping[str, int]
    scene: int
    has_scene: bool
    mosaic_index: int
    position_bytes: int

    @property
    def is_level_0(self) -> bool:
        return (self.box.width, self.box.height) == (self.stored_width_px, self.stored_height_px)

    @property
    def unpacked_bytes(self) -> int:
        """Of its pixels, three a pixel."""
        return 3 * self.stored_width_px * self.stored_height_px

    @property
    def zoom(self) -> float:
        """Stored over covered length, to the bit as libCZI has it: single precision, longer stored side."""
        stored, covered = self.stored_height_px, self.box.height
        if self.stored_width_px > self.stored_height_px:
            stored, covered = self.stored_width_px, self.box.width
        return float(np.float32(stored) / np.float32(covered))

    @property
    def reduction(self) -> int:
        """The pyramid level as a factor: 1, 2, 4 ..."""
        return max(1, round(1.0 / self.zoom))


@dataclass(frozen=True)
class CziDirectory:
    """What the directory of a file says.

    Attributes:
        sub_blocks: in stored order.
        metadata_xml: with U+FFFD in the place of bytes that are not UTF-8; empty if there is none.
        fingerprint: 16 hexadecimal digits of the SHA-256 of the file's own id, its directory and its
            metadata. A copy has the same; another scan has another, whatever its name and size.
        empty_entries: entries of images without width or height, which are left out.
    """

    path: Path
    size_bytes: int
    sub_blocks: tuple[SubBlock, ...]
    metadata_xml: str
    fingerprint: str
    empty_entries: int = 0

    @cached_property
    def level_0(self) -> tuple[SubBlock, ...]:
        return tuple(block for block in self.sub_blocks if block.is_level_0)

    @cached_property
    def level_0_corners(self) -> NDArray[np.int64]:
        """(n, 5) x0, y0, x1, y1 and the scene of every block of level 0."""
        rows = [(b.box.x0, b.box.y0, b.box.x1, b.box.y1, b.scene) for b in self.level_0]
        return np.array(rows, np.int64).reshape(-1, 5)

    @cached_property
    def pixel_types(self) -> frozenset[str]:
        """Of all blocks."""
        return frozenset(block.pixel_type for block in self.sub_blocks)

    @cached_property
    def by_scene(self) -> Mapping[int, tuple[SubBlock, ...]]:
        """The sub-blocks of all levels, by scene."""
        found: dict[int, list[SubBlock]] = {}
        for block in self.sub_blocks:
            found.setdefault(block.scene, []).append(block)
        return {scene: tuple(blocks) for scene, blocks in found.items()}


def read_directory(path: Path) -> CziDirectory:
    """Reads and checks the directory of a CZI file.

    Raises:
        InputError: the file is missing, unreadable, cut short, damaged, one part of several, or not a CZI,
            or it holds no image.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for ever
            raise InputError("is a device or pipe, not a CZI file", where=path, fix=_GIVE_A_CZI)
        with path.open("rb") as file:
            return _Parser(path, file).directory()
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=path, fix="check the path to the CZI file") from error
    except IsADirectoryError as error:
        raise InputError("is a folder, not a CZI file", where=path, fix=_GIVE_A_CZI) from error
    except PermissionError as error:
        raise InputError("may not be read", where=path, fix="ask its owner for permission") from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=path, fix="see whether its disk or server answers"
        ) from error


@dataclass(frozen=True)
class Extent:
    """A stretch of a file."""

    position_bytes: int
    length_bytes: int


def stored_pixels(file: BinaryIO, block: SubBlock, size_bytes: int) -> Extent | None:
    """Where a sub-block's pixels lie, as stored; None if its parts do not fit inside it and the file.

    libCZI reads past the end of parts that do not fit. Reads 80 bytes without moving the position of
    `file`, which libCZI shares.
    """
    header = os.pread(file.fileno(), SEGMENT.size + PARTS.size + ENTRY.size, block.position_bytes)
    if len(header) < SEGMENT.size + PARTS.size + ENTRY.size:
        return None
    name, allocated, used = SEGMENT.unpack_from(header)
    metadata, attachments, pixels = PARTS.unpack_from(header, SEGMENT.size)
    *_, dimensions = ENTRY.unpack_from(header, SEGMENT.size + PARTS.size)
    fixed = max(_LEAST_FIXED_BYTES, PARTS.size + ENTRY.size + dimensions * DIMENSION.size)
    length = min(used or allocated, size_bytes - block.position_bytes - SEGMENT.size)
    is_block = name.rstrip(b"\0") == b"ZISRAWSUBBLOCK" and 0 < dimensions <= _MOST_DIMENSIONS
    if not is_block or min(metadata, attachments, pixels) < 0 or fixed + metadata + pixels > length:
        return None
    return Extent(block.position_bytes + SEGMENT.size + fixed + metadata, pixels)


class _Parser:
    """Reads segments of one open file, and refuses those that do not fit inside it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size_bytes = os.fstat(file.fileno()).st_size

    def directory(self) -> CziDirectory:
        file_id, directory_at, metadata_at = self._header()
        data = self._segment(directory_at, b"ZISRAWDIRECTORY", "directory of images")
        entries = self._entries(data)
        blocks = tuple(entry for entry in entries if entry is not None)
        if not any(block.is_level_0 for block in blocks):
            raise InputError("holds no image", where=self.path, fix=_GIVE_A_CZI)
        last = max(block.position_bytes for block in blocks)
        self._segment_bytes(last, b"ZISRAWSUBBLOCK", "last image")
        xml = self._metadata(metadata_at) if metadata_at else ""
        fingerprint = _fingerprint(file_id, data, xml.encode())
        return CziDirectory(
            self.path, self.size_bytes, blocks, xml, fingerprint, empty_entries=len(entries) - len(blocks)
        )

    def _header(self) -> tuple[bytes, int, int]:
        """The file's own id, and where its directory and its metadata lie."""
        if self.size_bytes == 0:
            raise InputError("is empty", where=self.path, fix=COPY_AGAIN)
        self.file.seek(0)
        if self.file.read(10) != b"ZISRAWFILE":
            raise InputError(
                "is not a CZI file, whatever its name says",
                where=self.path,
                fix=_GIVE_A_CZI,
            )
        header = self._segment(0, b"ZISRAWFILE", "file header")
        if len(header) < _HEADER_POSITIONS + 16:
            raise self._damaged("file header")
        if struct.unpack_from("<i", header, _HEADER_PART)[0] != 0:
            raise InputError(
                "is one part of a scan that is spread over several files", where=self.path, fix=_SAVE_AS_ONE
            )
        directory_at, metadata_at = struct.unpack_from("<qq", header, _HEADER_POSITIONS)
        return header[_HEADER_FILE_ID], directory_at, metadata_at

    def _segment(self, position: int, name: bytes, label: str) -> bytes:
        """The used bytes of a segment."""
        wanted = self._segment_bytes(position, name, label)
        if wanted > MOST_BYTES[label]:
            raise InputError(
                f"its {label} would take {wanted / MB:,.0f} MB; at most"
                f" {MOST_BYTES[label] / MB:,.0f} MB are read",
                where=self.path,
                fix=COPY_AGAIN,
            )
        data = self.file.read(wanted)
        if len(data) != wanted:
            raise self._damaged(label)
        return data

    def _segment_bytes(self, position: int, name: bytes, label: str) -> int:
        """Length of a segment's data, checked against the file, which is left at its start."""
        if not 0 <= position <= self.size_bytes - SEGMENT.size:
            raise self._damaged(label)
        self.file.seek(position)
        found, allocated, used = SEGMENT.unpack(self.file.read(SEGMENT.size))
        length: int = used or allocated
        if found.rstrip(b"\0") != name or not 0 < length <= self.size_bytes - position - SEGMENT.size:
            raise self._damaged(label)
        return length

    def _entries(self, data: bytes) -> list[SubBlock | None]:
        """The images that the directory lists; None where one has no width or no height."""
        if len(data) < _DIRECTORY_HEADER_BYTES:
            raise self._damaged("directory of images")
        (count,) = struct.unpack_from("<i", data)
        offset, blocks = _DIRECTORY_HEADER_BYTES, []
        try:
            for _ in range(count):
                block, offset = self._sub_block(data, offset)
                blocks.append(block)
        except (struct.error, UnicodeDecodeError) as error:
            raise self._damaged("directory of images") from error
        images = [block for block in blocks if block is not None]
        if shared := len(images) - len({block.position_bytes for block in images}):
            raise InputError(
                f"{shared:,} of its images lie where another one does", where=self.path, fix=COPY_AGAIN
            )
        return blocks

    def _sub_block(self, data: bytes, offset: int) -> tuple[SubBlock | None, int]:
        """The entry at `offset`, None for an image of no size, and where the next one begins."""
        schema, pixel_type, position, part, compression, _, count = ENTRY.unpack_from(data, offset)
        begin, end = offset + ENTRY.size, offset + ENTRY.size + count * DIMENSION.size
        if schema != b"DV" or not 0 < count <= _MOST_DIMENSIONS or end > len(data):
            raise self._damaged("directory of images")
        spans = {
            _dimension_name(name): (start, size, stored)
            for name, start, size, _, stored in DIMENSION.iter_unpack(data[begin:end])
        }
        if "X" not in spans or "Y" not in spans or min(*spans["X"][1:], *spans["Y"][1:]) < 0:
            raise self._damaged("directory of images")
        if part != 0:  # its position is one of the other file
            raise InputError(
                f"is one of several files of one scan: its directory lists images of part {part}",
                where=self.path,
                fix=_SAVE_AS_ONE,
            )
        if not (spans["X"][1] and spans["Y"][1]):
            return None, end
        if not 0 < position <= self.size_bytes - SEGMENT.size:
            raise self._damaged("image data")
        scene = spans["S"][0] if "S" in spans else 0
        if not 0 <= scene < MAX_SCENES:
            raise self._damaged("directory of images")
        block = SubBlock(
            box=_box(spans),
            stored_width_px=spans["X"][2] or spans["X"][1],  # 0 says that it is not reduced
            stored_height_px=spans["Y"][2] or spans["Y"][1],
            pixel_type=PIXEL_TYPES.get(pixel_type, f"unknown ({pixel_type})"),
            compression=COMPRESSIONS.get(compression, f"unknown ({compression})"),
            plane={name: span[0] for name, span in spans.items() if name not in "XYSM"},
            scene=scene,
            has_scene="S" in spans,
            mosaic_index=spans["M"][0] if "M" in spans else NO_MOSAIC_INDEX,
            position_bytes=position,
        )
        return block, end

    def _metadata(self, position: int) -> str:
        data = self._segment(position, b"ZISRAWMETADATA", "metadata")
        if len(data) < _METADATA_HEADER_BYTES:
            raise self._damaged("metadata")
        (length,) = struct.unpack_from("<i", data)
        if not 0 <= length <= len(data) - _METADATA_HEADER_BYTES:
            raise self._damaged("metadata")
        xml = data[_METADATA_HEADER_BYTES : _METADATA_HEADER_BYTES + length]
        return xml.decode("utf-8-sig", errors="replace").rstrip("\0")

    def _damaged(self, label: str) -> InputError:
        return InputError(f"its {label} cannot be read", where=self.path, fix=COPY_AGAIN)


def _fingerprint(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


@lru_cache(maxsize=_MOST_DIMENSIONS)
def _dimension_name(name: bytes) -> str:
    """Every entry of a directory names the same few."""
    return name.rstrip(b"\0 ").decode("ascii")


def _box(spans: Mapping[str, tuple[int, int, int]]) -> Box:
    (x0, width, _), (y0, height, _) = spans["X"], spans["Y"]
    return Box(x0, y0, x0 + width, y0 + height)
