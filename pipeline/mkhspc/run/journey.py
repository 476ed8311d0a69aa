"""The journey of a tile, from its pixels to its cells on disk: read this first.

`segment.py` opens a run, plans its tiles and hands them to worker processes (`do_tiles.py`); a worker
(`worker.py`) takes its tiles through `tile_journey`, one after the other; `merge.py` puts the files of
tiles together into the tables of their slide. What is looked for, and how far around a tile that reaches,
is a `TileAnalysis`, the same for all tiles of a run.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mkhspc.detect.contract import Window
from mkhspc.geometry import Box, RgbImage
from mkhspc.measure.analysis import TileAnalysis
from mkhspc.run.tile_cells import PIECE_ROWS, TileSearch, detect, measure, with_crops
from mkhspc.slide.tiles import Tile, TilePlan
from mkhspc.store import tables
from mkhspc.store.schema import part_schema_of


@dataclass(frozen=True)
class TileInRun:
    """A tile, and all that its journey needs to know of its slide and its run.

    Attributes:
        box: of the pixels to read: the tile's core with its halo, in level-0 px of its scene.
        part: the file that its cells go to.
    """

    slide_id: str
    um_per_px: float
    plan: TilePlan
    tile: Tile
    box: Box
    part: Path
    config_hash: str


def tile_journey(place: TileInRun, pixels: RgbImage, analysis: TileAnalysis) -> pa.Table:
    """Takes a tile from its pixels to its file of cells; returns the cells, a row each, without their crops.

    Args:
        pixels: of the place's box, (height, width, 3) uint8 RGB; not kept.
    """
    search = read(place, pixels, analysis)
    found = detect(search)
    cells = measure(found, search)
    store(cells, search.window, place)
    return cells


def read(place: TileInRun, pixels: RgbImage, analysis: TileAnalysis) -> TileSearch:
    """The window with its stains' calibration, and the tissue in it."""
    plan, scene = place.plan, place.tile.scene
    window = Window(pixels, place.box, place.um_per_px, plan.calibration[scene])
    return TileSearch(place.slide_id, window, plan.tissue[scene].part(place.box), place.tile, analysis)


def store(cells: pa.Table, window: Window, place: TileInRun) -> None:
    """Writes the cells with their crops to the tile's part; a part under its final name is a tile done."""
    with suppress(FileExistsError):  # another process of the run was first, with the same bytes
        tables.create_stream(
            place.part,
            part_schema_of(cells),
            with_crops(cells, window),
            place.config_hash,
            group_rows=PIECE_ROWS,
        )
