"""Small CZI files for tests, written by Zeiss's own library and then bent where it cannot."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
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
        file.write_metadata(document_name="test", scale_x=x_um * 1e-6, scale_y=y_um * 1e-6, **names)
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
