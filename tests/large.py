"""Large slides of real tissue for measuring: the shared marrow, mirrored until it fills them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pylibCZIrw import czi

from pipeline.slide.czi import CziSlide

UM_PER_PX = 0.22
BLOCK_PX = 2048


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
