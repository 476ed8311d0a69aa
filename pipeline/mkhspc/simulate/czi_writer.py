"""Writes RGB scenes as a CZI file: a mosaic of sub-blocks, zstd, with the pixel size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw import czi

from mkhspc.errors import InputError
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.store import atomic


@dataclass(frozen=True)
class Mosaic:
    """Where a scene goes and how it is cut.

    Attributes:
        rgb: (height, width, 3) uint8, channels red, green, blue.
        origin: x, y of the top-left corner in the file's coordinates; may be negative.
    """

    rgb: NDArray[np.uint8]
    origin: tuple[int, int]


def holds(path: Path, scenes: Sequence[Mosaic], um_per_px: float) -> bool:
    """Whether a file is there, whole, and shows these scenes; how it is cut is not looked at."""
    try:
        with CziSlide.open(path) as slide:
            return (
                len(slide.info.scenes) == len(scenes)
                and math.isclose(slide.um_per_px, um_per_px, rel_tol=1e-6)
                and all(_shows(slide, index, scene) for index, scene in enumerate(scenes))
            )
    except InputError:
        return False


def _shows(slide: CziSlide, index: int, scene: Mosaic) -> bool:
    box = slide.scene(index).mosaic_box
    height, width, _ = scene.rgb.shape
    return (
        (box.x0, box.y0) == scene.origin
        and (box.width, box.height) == (width, height)
        and np.array_equal(slide.read(index, slide.scene(index).box), scene.rgb)
    )


def write_czi(
    path: Path, scenes: Sequence[Mosaic], um_per_px: float, *, block_px: int = 600, overlap_px: int = 0
) -> None:
    """Writes scenes 0, 1, ... of one slide; the file is there completely or not at all.

    Args:
        block_px: side of a sub-block.
        overlap_px: how far neighbouring sub-blocks overlap, as a scanner's do.
    """
    with atomic.replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        with czi.create_czi(str(temporary), compression_options="zstd1:ExplicitLevel=1") as file:
            for index, scene in enumerate(scenes):
                _write_scene(file, index, scene, block_px, overlap_px)
            # The library's docstring says µm; the number it stores is read back as metres.
            metres = um_per_px * 1e-6
            file.write_metadata(document_name=path.stem, scale_x=metres, scale_y=metres)


def _write_scene(file: czi.CziWriter, index: int, scene: Mosaic, block_px: int, overlap_px: int) -> None:
    height, width, _ = scene.rgb.shape
    step = block_px - overlap_px
    for y in range(0, max(1, height - overlap_px), step):
        for x in range(0, max(1, width - overlap_px), step):
            block = np.ascontiguousarray(scene.rgb[y : y + block_px, x : x + block_px, ::-1])
            file.write(block, location=(scene.origin[0] + x, scene.origin[1] + y), scene=index)
