"""Small CZI files for tests, written by Zeiss's own library and then bent where it cannot."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw import czi

ZSTD = "zstd1:ExplicitLevel=1"


@dataclass(frozen=True)
class Block:
    """A sub-block: (h, w, 3) RGB or (h, w) gray pixels, where they lie, and in which scene and plane."""

    pixels: NDArray[Any]
    x: int
    y: int
    scene: int = 0
    plane: Mapping[str, int] = field(default_factory=dict)


def write_czi(
    path: Path,
    blocks: Sequence[Block],
    um_per_px: float | tuple[float, float] | None = 0.25,
    *,
    compression: str | None = None,
    channel: str | None = None,
    name: str = "test",
) -> Path:
    """Writes sub-blocks in order (later ones lie on top); None leaves the pixel size out."""
    x_um, y_um = um_per_px if isinstance(um_per_px, tuple) else (um_per_px or 0.0, um_per_px or 0.0)
    with czi.create_czi(str(path), compression_options=compression) as file:
        for block in blocks:
            stored = block.pixels[..., ::-1] if block.pixels.ndim == 3 else block.pixels
            file.write(
                np.ascontiguousarray(stored),
                location=(block.x, block.y),
                scene=block.scene,
                plane=dict(block.plane),
            )
        names = {} if channel is None else {"channel_names": {0: channel}}
        file.write_metadata(document_name=name, scale_x=x_um * 1e-6, scale_y=y_um * 1e-6, **names)
    if um_per_px is None:
        substitute(path, b"Scaling>", b"Nothing>")
    return path


def substitute(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes of a file by as many others, wherever they stand."""
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))


def make_reduced(path: Path, block: Block, factor: int) -> None:
    """Turns a written block into an image of a pyramid level, which the library cannot write.

    The block's place and size must not be those of another block.
    """
    height, width = block.pixels.shape[:2]
    for name, start, length in ((b"X", block.x, width), (b"Y", block.y, height)):
        old, new = (
            struct.pack("<4siifi", name, start, size, 0.0, length) for size in (length, factor * length)
        )
        substitute(path, old, new)


def rename_dimension(path: Path, old: str, new: str) -> None:
    """Gives a dimension of one index another letter, in every directory entry."""
    entries = (struct.pack("<4siifi", name.encode(), 0, 1, 0.0, 1) for name in (old, new))
    substitute(path, *entries)


def bend_entry(
    path: Path,
    nth: int,
    *,
    part: int | None = None,
    size_px: tuple[int, int] | None = None,
    stored_px: tuple[int, int] | None = None,
) -> None:
    """Gives the nth image, in stored order, another file part, or another size as x and y."""
    data = bytearray(path.read_bytes())
    entry = _entries(data)[nth]
    if part is not None:
        struct.pack_into("<i", data, entry + 14, part)
    own = struct.unpack_from("<q", data, entry + 6)[0] + 48  # the image repeats what the directory says of it
    for begin in (entry, own):
        for place in range(begin + 32, begin + 32 + 20 * struct.unpack_from("<i", data, begin + 28)[0], 20):
            axis = b"XY".find(data[place : place + 1])
            for offset, lengths in ((8, size_px), (16, stored_px)):
                if axis >= 0 and lengths is not None:
                    struct.pack_into("<i", data, place + offset, lengths[axis])
    path.write_bytes(data)


def _entries(data: bytearray) -> list[int]:
    """Where each entry of the directory begins."""
    directory = struct.unpack_from("<q", data, 84)[0] + 32
    found = [directory + 128]
    for _ in range(struct.unpack_from("<i", data, directory)[0]):
        found.append(found[-1] + 32 + 20 * struct.unpack_from("<i", data, found[-1] + 28)[0])
    return found[:-1]


def replace_metadata(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Changes the XML of a file; it must not grow, and spaces fill what it shrinks by."""
    data = bytearray(path.read_bytes())
    at = struct.unpack_from("<q", data, 92)[0] + 32
    length = struct.unpack_from("<i", data, at)[0]
    xml = change(bytes(data[at + 256 : at + 256 + length]).rstrip())
    assert len(xml) <= length
    data[at + 256 : at + 256 + length] = xml.ljust(length)
    path.write_bytes(data)


def set_ids(path: Path, number: int) -> None:
    """Gives a file the ids that a program would which writes the same into each."""
    data = bytearray(path.read_bytes())
    data[32 + 16 : 32 + 48] = bytes([number]) * 32
    path.write_bytes(data)


def mosaic_blocks(
    rgb: NDArray[np.uint8], origin: tuple[int, int], block_px: int, overlap_px: int = 0, scene: int = 0
) -> list[Block]:
    """A picture cut into blocks that overlap like a scanner's."""
    step = block_px - overlap_px
    return [
        Block(rgb[y : y + block_px, x : x + block_px], origin[0] + x, origin[1] + y, scene)
        for y in range(0, max(1, rgb.shape[0] - overlap_px), step)
        for x in range(0, max(1, rgb.shape[1] - overlap_px), step)
    ]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture in which no two places look alike."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def block_means(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    """Means over cells of `factor` pixels, edge cells over the pixels that they have."""
    rows, columns = -(-rgb.shape[0] // factor), -(-rgb.shape[1] // factor)
    padded = np.full((rows * factor, columns * factor, 3), np.nan)
    padded[: rgb.shape[0], : rgb.shape[1]] = rgb
    means: NDArray[np.float64] = np.nanmean(padded.reshape(rows, factor, columns, factor, 3), axis=(1, 3))
    return means
