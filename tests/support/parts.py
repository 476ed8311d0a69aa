"""The parts of a large slide as `segment` leaves them, made from numbers alone: no pixel, no detector."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from blobs import blob
from mkhspc.geometry import Box, mask_to_contour
from mkhspc.measure.features import FEATURE_NAMES
from mkhspc.run.tile_cells import PIECE_ROWS
from mkhspc.slide.tiles import Tile, TilePlan, save_tile_plan
from mkhspc.slide.tissue import TissueMask
from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import part_schema
from runs import make_run
from stained import CALIBRATION

SLIDE = "LARGE"
TILE_PX = 4096
UM_PER_PX = 0.22
DIAMETERS_PX = (20.0, 27.0)
"""Nuclei whose outlines have some 60 corners, as those of HSPC candidates on marrow have."""
OUTLINES = 300
JITTER = 0.1
"""Of a cell's place on its grid, as a share of the grid's step."""
NEIGHBOUR_SHIFT = 0.52
"""By which every third cell is moved towards the next on either axis, so that some 0.15 pairs a cell
overlap, as on marrow, and none by half of its area."""


@dataclass(frozen=True)
class LargeRun:
    """A run whose one slide is done and not yet merged."""

    layout: RunLayout
    manifest: Manifest
    tiles: tuple[Tile, ...]

    @property
    def parts(self) -> list[Path]:
        return [self.layout.part(SLIDE, tile.tile_id) for tile in self.tiles]

    def copied(self, root: Path) -> LargeRun:
        """The same run elsewhere."""
        shutil.copytree(self.layout.root, root)
        return LargeRun(RunLayout(root), self.manifest, self.tiles)


def large_run(
    root: Path,
    columns: int,
    rows: int,
    cells_per_tile: int,
    *,
    crop_bytes: tuple[int, int] = (1000, 2000),
    seed: int = 0,
) -> LargeRun:
    """Writes a run of `columns` x `rows` full tiles; crops are noise of `crop_bytes` (from, to)."""
    made = make_run(root, slide_ids=(SLIDE,), cells_per_type=1)
    for folder in ("parts", "cells", "crops", "tiles"):
        shutil.rmtree(root / folder)
    tiles = tuple(_tile(c, r, r * columns + c) for r in range(rows) for c in range(columns))
    tissue = np.ones((rows * TILE_PX // 64, columns * TILE_PX // 64), bool)
    mask = TissueMask(tissue, tissue, 64, UM_PER_PX, columns * TILE_PX, rows * TILE_PX)
    plan = TilePlan(tiles, {0: mask}, {0: CALIBRATION})
    save_tile_plan(made.layout, SLIDE, plan, made.manifest.config_hash)
    rng = np.random.default_rng(seed)
    outlines = _outlines(rng)
    for tile in tiles:
        part = part_of(rng, outlines, tile, cells_per_tile, crop_bytes)
        path = made.layout.part(SLIDE, tile.tile_id)
        tables.create_stream(path, part.schema, [part], made.manifest.config_hash, group_rows=PIECE_ROWS)
    return LargeRun(made.layout, made.manifest, tiles)


def _tile(column: int, row: int, rank: int) -> Tile:
    x0, y0 = column * TILE_PX, row * TILE_PX
    area_um2 = (TILE_PX * UM_PER_PX) ** 2
    return Tile(f"s0_{x0}_{y0}", 0, Box(x0, y0, x0 + TILE_PX, y0 + TILE_PX), area_um2, area_um2, rank)


def _outlines(rng: np.random.Generator) -> list[NDArray[np.int32]]:
    """Outlines around (0, 0)."""
    masks = [blob(rng, rng.uniform(*DIAMETERS_PX)) for _ in range(OUTLINES)]
    return [mask_to_contour(m, -(m.shape[1] // 2), -(m.shape[0] // 2)) for m in masks]


def part_of(
    rng: np.random.Generator,
    outlines: list[NDArray[np.int32]],
    tile: Tile,
    count: int,
    crop_bytes: tuple[int, int],
) -> pa.Table:
    """A tile's part with `count` HSPC strewn over its core."""
    side = int(np.ceil(np.sqrt(count)))
    spots = rng.permutation(side * side)[:count]
    x, y = (
        first + (index + _shift(index, side) + rng.uniform(-JITTER, JITTER, count)) * TILE_PX / side
        for first, index in ((tile.core.x0, spots % side), (tile.core.y0, spots // side))
    )
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    chosen = [outlines[i] for i in rng.integers(0, len(outlines), count)]
    lengths = np.array([len(outline) for outline in chosen])
    corners = np.concatenate(chosen) + np.repeat(np.stack([x, y], axis=1).astype(np.int32), lengths, axis=0)
    area_px = rng.integers(300, 600, count)
    schema = part_schema(list(FEATURE_NAMES))
    columns = {
        "cell_id": [f"{SLIDE}_s0_hspc_{int(a)}_{int(b)}" for a, b in zip(x, y, strict=True)],
        "slide_id": [SLIDE] * count,
        "scene": np.zeros(count, np.int32),
        "cell_type": ["hspc"] * count,
        "tile_id": [tile.tile_id] * count,
        "x_px": x,
        "y_px": y,
        "x_um": x * UM_PER_PX,
        "y_um": y * UM_PER_PX,
        "area_px": area_px,
        "area_um2": area_px * UM_PER_PX**2,
        "contour_px": _ragged(2 * lengths, corners.ravel(), schema.field("contour_px").type),
        "inside_mk_id": [None] * count,
        "inside_mk_ids": [None] * count,
        "touches_tissue_edge": np.zeros(count, bool),
        "detector": ["classical"] * count,
        "detector_score": rng.random(count, np.float32),
        "crop_image": _noise(rng, count, crop_bytes),
        "crop_x0_px": (x - 57).astype(np.int32),
        "crop_y0_px": (y - 57).astype(np.int32),
        "crop_um_per_px": np.full(count, UM_PER_PX),
        **{name: rng.standard_normal(count, np.float32) for name in FEATURE_NAMES},
    }
    arrays = [pa.array(columns[name], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)


def _shift(index: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """From the start of a cell's square on the grid to where it lies, in squares; the last keeps its own."""
    return 0.5 + NEIGHBOUR_SHIFT * ((index % 3 == 0) & (index < side - 1))


def _ragged(lengths: NDArray[np.int64], values: NDArray[np.int32], kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values), type=kind)


def _noise(rng: np.random.Generator, count: int, lengths: tuple[int, int]) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(rng.integers(*lengths, count))]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(rng.bytes(int(ends[-1])))]
    return pa.BinaryArray.from_buffers(pa.binary(), count, buffers)
