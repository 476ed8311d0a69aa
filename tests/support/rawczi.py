"""CZI files written byte by byte, as no library would: small files that claim, or unpack to, too much.

Layout: ZISRAW file format, "CZI" design specification 1.2.2 (Carl Zeiss Microscopy).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

BGR24, ZSTD0 = 3, 5
SEGMENT_BYTES = 32
STAINED = (190, 120, 175)
Part = Literal["header", "directory", "metadata"]

_ZSTD = pa.Codec("zstd")
_BAND_BYTES = 20_000_000
_POSITIONS = SEGMENT_BYTES + 52
_SCALED = (
    '<ImageDocument><Metadata><Scaling><Items><Distance Id="X"><Value>{0}</Value></Distance>'
    '<Distance Id="Y"><Value>{0}</Value></Distance></Items></Scaling></Metadata></ImageDocument>'
)


@dataclass(frozen=True)
class RawBlock:
    """An entry of the directory; without bytes it shares those of the entry before.

    Attributes:
        stored: its pixels as zstd, as `packed` makes them.
        reduction: of a pyramid level; `width` and `height` are as stored.
    """

    x: int
    y: int
    width: int
    height: int
    stored: bytes | None
    reduction: int = 1


def packed(width: int, height: int) -> bytes:
    """Stained pixels of one colour, as zstd: a gigapixel takes 0.3 MB.

    More than 20 MB are several frames one after another, of which libCZI understands only the first.
    """
    row = bytes(STAINED[::-1]) * width
    rows = max(1, min(height, _BAND_BYTES // len(row)))
    band, rest = (_ZSTD.compress(row * n, asbytes=True) for n in (rows, height % rows))
    return bytes(band * (height // rows) + (rest if height % rows else b""))


def write_raw(path: Path, blocks: Iterable[RawBlock], xml: str | None = None) -> Path:
    """Writes a file of one scene at 0.22 µm a pixel; later blocks lie on top."""
    content = (_SCALED.format(0.22e-6) if xml is None else xml).encode()
    entries, position = [], 0
    with path.open("wb") as file:
        file.write(bytes(SEGMENT_BYTES + 512))
        for nth, block in enumerate(blocks):
            if block.stored is not None:
                position = file.tell()
                head = struct.pack("<iiq", 0, 0, len(block.stored)) + _entry(block, nth, position)
                file.write(_segment(b"ZISRAWSUBBLOCK", head.ljust(256, b"\0") + block.stored))
            entries.append(_entry(block, nth, position))
        metadata_at = file.tell()
        file.write(_segment(b"ZISRAWMETADATA", struct.pack("<i252x", len(content)) + content))
        directory_at = file.tell()
        file.write(_segment(b"ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries)))
        file.seek(0)
        header = struct.pack("<ii8x16s16siqq", 1, 0, b"p" * 16, b"f" * 16, 0, directory_at, metadata_at)
        file.write(_segment(b"ZISRAWFILE", header.ljust(512, b"\0")))
    return path


def claim(path: Path, part: Part, size_bytes: int) -> None:
    """Has a part of a file claim a size, in a file that is long enough, but sparse: it takes no room."""
    with path.open("r+b") as file:
        file.seek(_POSITIONS)
        directory_at, metadata_at = struct.unpack("<qq", file.read(16))
        at = {"header": 0, "directory": directory_at, "metadata": metadata_at}[part]
        file.seek(at + 16)
        file.write(struct.pack("<qq", size_bytes, size_bytes))
    os.truncate(path, at + SEGMENT_BYTES + size_bytes)


def _entry(block: RawBlock, nth: int, position: int) -> bytes:
    spans = [
        (b"X", block.x, block.width * block.reduction, block.width),
        (b"Y", block.y, block.height * block.reduction, block.height),
        (b"C", 0, 1, 1),
        (b"S", 0, 1, 1),
        (b"M", nth, 1, 1),
    ]
    dimensions = b"".join(struct.pack("<4siifi", name, start, size, 0.0, n) for name, start, size, n in spans)
    return struct.pack("<2siqiiB5xi", b"DV", BGR24, position, 0, ZSTD0, 0, len(spans)) + dimensions


def _segment(name: bytes, data: bytes) -> bytes:
    return struct.pack("<16sqq", name, len(data), len(data)) + data
