"""Lossless pictures of cells, of one physical size for each cell type."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mkhspc.config import CellType
from mkhspc.detect.contract import Window
from mkhspc.geometry import Box, RgbImage
from mkhspc.store.picture import encoded_pieces

CROP_SIZE_UM: dict[CellType, float] = {"mk": 80.0, "hspc": 25.0}
"""The side of a crop in µm: the largest MK in the default filter is a disc of 52 µm, the largest HSPC one
of 14 µm; the rest is room for long cells and for what surrounds them, which experts judge by."""

WHITE = 255
"""The value of all three channels outside the scan."""

CHUNK_BYTES = 1 << 26
"""About how much of a column of crops lies in one piece, far below the 2 GiB that its offsets reach."""


def reach_um(um_per_px: float) -> float:
    """How far from its centroid a cell's crop reaches."""
    return max(CROP_SIZE_UM.values()) / 2 + um_per_px


def crop_box(x_px: float, y_px: float, cell_type: CellType, um_per_px: float) -> Box:
    """The square of `CROP_SIZE_UM` around a centroid, to the nearest pixel; may leave the scene.

    Args:
        x_px, y_px: centroid in level-0 pixels of the scene.
    """
    side = max(1, round(CROP_SIZE_UM[cell_type] / um_per_px))
    x0, y0 = (math.floor(centre - side / 2 + 0.5) for centre in (x_px, y_px))
    return Box(x0, y0, x0 + side, y0 + side)


def cut_crop(window: Window, box: Box) -> RgbImage:
    """(box.height, box.width, 3) uint8 pixels of a box, the caller's own; white where the window has none."""
    if box.clipped(window.box) == box:
        return window.rgb[box.slices_in(window.box)].copy()
    crop = np.full((box.height, box.width, 3), WHITE, np.uint8)
    seen = box.clipped(window.box)
    crop[seen.slices_in(box)] = window.rgb[seen.slices_in(window.box)]
    return crop


def encoded_crops(window: Window, boxes: Sequence[Box]) -> pa.ChunkedArray:
    """The encoded pictures of all boxes, one binary value each."""
    chunks = []
    parts: list[bytes] = []
    ends = [0]
    for box in boxes:
        pieces = encoded_pieces(cut_crop(window, box))
        parts += pieces
        ends.append(ends[-1] + sum(map(len, pieces)))
        if ends[-1] >= CHUNK_BYTES:
            chunks.append(_binary_array(parts, ends))
            parts, ends = [], [0]
    return pa.chunked_array([*chunks, _binary_array(parts, ends)] if len(ends) > 1 or not chunks else chunks)


def _binary_array(parts: Sequence[bytes], ends: Sequence[int]) -> pa.Array:
    buffers = [None, pa.py_buffer(np.array(ends, np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, buffers)
