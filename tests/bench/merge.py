"""Stitching the tiles of a large slide, against merging pairs of polygons as tools without ownership do."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from mkhspc.measure.features import FEATURE_NAMES
from mkhspc.run.slide_tables import merge_slide
from mkhspc.store.schema import part_schema
from parts import SLIDE, TILE_PX, UM_PER_PX, LargeRun, large_run
from processes import measured

Row = dict[str, object]

CELLS_PER_TILE = 4000
GRID = (25, 20)
"""Tiles of the slide that is merged; 25 x 20 with 4,000 cells each are 2,000,000 cells."""
BASELINE_GRID = (8, 8)
"""Tiles of the baseline's slide: fewer, for it takes minutes and many times the memory."""
ROOM_BYTES = 12e9
SAME_CELL = 0.5
"""Two outlines are one cell when they share this much of the smaller."""
CROP_BYTES = (1000, 2000)
REAL_CROP_BYTES = (20_000, 26_000)
"""Lossless crops of HSPC on marrow take 23 kB."""
REPEATS = 3
TARGET_RATIO = 30.0
LIMIT_GB = 2.0


def rows(shared: Path | None, full: bool) -> list[Row]:
    folder = _memory_folder(ROOM_BYTES)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ours_s, cells, peak_bytes = _ours(Path(scratch) / "ours", GRID)
        theirs_s, loop_s, their_cells = _theirs(Path(scratch) / "theirs", BASELINE_GRID)
        copied = _against_a_copy(Path(scratch) / "copied")
    ratio = (cells / ours_s) / (their_cells / theirs_s)
    return [
        {
            "name": f"merge of {cells:,} cells (60 corners, 1.5 kB crops, files in"
            f" {'memory' if folder else 'the temporary folder'}): cells a second"
            f" against pairs of polygons",
            "value": ratio,
            "unit": "x",
            "baseline": f"{their_cells:,} cells in {theirs_s:.1f} s, {loop_s:.1f} s of it the pairs (ours"
            f" {ours_s:.1f} s)",
            "target": f">= {TARGET_RATIO:g}",
            "ok": ratio >= TARGET_RATIO,
        },
        {
            "name": f"`mkhspc merge` of {cells:,} cells: peak memory (PSS)",
            "value": peak_bytes / 1e9,
            "unit": "GB",
            "baseline": None,
            "target": f"< {LIMIT_GB:g}",
            "ok": peak_bytes / 1e9 < LIMIT_GB,
        },
        copied,
    ]


def _memory_folder(room_bytes: float) -> str | None:
    """Where files lie in memory if there is room for them, so that no disk is measured."""
    folder = Path("/dev/shm")
    can_use = folder.is_dir() and os.access(folder, os.W_OK)
    return str(folder) if can_use and shutil.disk_usage(folder).free > room_bytes else None


def _ours(root: Path, grid: tuple[int, int]) -> tuple[float, int, int]:
    """Seconds, cells, and the peak memory of the command."""
    run = large_run(root, *grid, CELLS_PER_TILE, crop_bytes=CROP_BYTES)
    times_s = [_merge_s(run) for _ in range(REPEATS)]
    _forget_tables(run)
    command = measured("merge", root)
    if command.process.returncode:
        raise RuntimeError(command.process.stderr)
    cells = pq.read_metadata(run.layout.cells(SLIDE)).num_rows
    shutil.rmtree(root)
    return min(times_s), cells, command.peak_bytes


def _merge_s(run: LargeRun) -> float:
    _forget_tables(run)
    begun_s = time.perf_counter()
    merge_slide(run.layout, run.manifest, SLIDE, run.tiles)
    return time.perf_counter() - begun_s


def _forget_tables(run: LargeRun) -> None:
    for path in (run.layout.cells(SLIDE), run.layout.crops(SLIDE)):
        path.unlink(missing_ok=True)


def _theirs(root: Path, grid: tuple[int, int]) -> tuple[float, float, int]:
    """Seconds, those of its loop, and cells of the baseline on tiles that overlap by the longest cell."""
    run = large_run(root / "run", *grid, CELLS_PER_TILE, crop_bytes=CROP_BYTES)
    windows = _overlapping(run, root)
    shutil.rmtree(root / "run")
    begun_s = time.perf_counter()
    found, loop_s = by_pairs(windows, root)
    taken_s = time.perf_counter() - begun_s
    if found != len(run.tiles) * CELLS_PER_TILE:
        raise RuntimeError(f"the baseline found {found:,} cells")
    return taken_s, loop_s, found


def _overlapping(run: LargeRun, folder: Path) -> list[Path]:
    """Tile files that hold every cell whose centroid their window sees, not only those they own."""
    margin_px = round(run.manifest.stored("mk").max_length_um / UM_PER_PX) // 2
    parts = {
        (tile.core.x0 // TILE_PX, tile.core.y0 // TILE_PX): part
        for tile, part in zip(run.tiles, run.parts, strict=True)
    }
    written = []
    for (column, row), part in parts.items():
        around = itertools.product(range(column - 1, column + 2), range(row - 1, row + 2))
        window = pa.concat_tables([pq.read_table(parts[place]) for place in around if place in parts])
        for axis, index in (("x_px", column), ("y_px", row)):
            low, high = index * TILE_PX - margin_px, (index + 1) * TILE_PX + margin_px
            window = window.filter(pc.and_(pc.greater_equal(window[axis], low), pc.less(window[axis], high)))
        written.append(folder / part.name)
        pq.write_table(window.combine_chunks(), written[-1], compression="lz4")
    return written


def by_pairs(tiles: list[Path], folder: Path) -> tuple[int, float]:
    """Merges what overlaps, pair by pair; returns the number of cells and the seconds of that loop alone.

    A plain Python program: a dict a cell, a shapely polygon each, and one tree of all.
    """
    cells = [cell for tile in tiles for cell in pq.read_table(tile).to_pylist()]
    polygons = [shapely.Polygon(np.reshape(cell["contour_px"], (-1, 2))) for cell in cells]
    begun_s = time.perf_counter()
    tree = shapely.STRtree(polygons)
    merged_into = list(range(len(cells)))

    def merged(index: int) -> int:
        while merged_into[index] != index:
            index = merged_into[index]
        return index

    for i in range(len(merged_into)):
        for j in tree.query(polygons[i]).tolist():
            a, b = merged(i), merged(j)
            if j <= i or a == b:
                continue
            both = polygons[a].intersection(polygons[b]).area
            if both > SAME_CELL * min(polygons[a].area, polygons[b].area):
                merged_into[a] = merged_into[b] = len(polygons)
                merged_into.append(len(polygons))
                polygons.append(polygons[a].union(polygons[b]))
                cells.append({**cells[a], **_outline(polygons[-1])})
    loop_s = time.perf_counter() - begun_s
    whole = [cell for index, cell in enumerate(cells) if merged_into[index] == index]
    table = pa.Table.from_pylist(whole, part_schema(list(FEATURE_NAMES)))
    crops = [name for name in table.column_names if name.startswith("crop_")]
    pq.write_table(table.select(["cell_id", *crops]), folder / "crops.parquet", compression="none")
    pq.write_table(table.drop_columns(crops), folder / "cells.parquet", compression="lz4")
    return len(whole), loop_s


def _outline(polygon: shapely.Polygon) -> dict[str, object]:
    corners = np.asarray(polygon.exterior.coords, np.int32)[:-1]
    return {"contour_px": corners.ravel().tolist(), "area_px": round(polygon.area)}


def _against_a_copy(root: Path) -> Row:
    """The same with crops as large as on marrow: what counts then is how fast bytes move."""
    run = large_run(root, 2, 1, CELLS_PER_TILE, crop_bytes=REAL_CROP_BYTES)
    ours_s = statistics.median(_merge_s(run) for _ in range(REPEATS))
    copies_s = []
    for _ in range(REPEATS):
        begun_s = time.perf_counter()
        for number, part in enumerate(run.parts):
            shutil.copyfile(part, root / f"copy-{number}")
        copies_s.append(time.perf_counter() - begun_s)
    written_mb = sum(path(SLIDE).stat().st_size for path in (run.layout.cells, run.layout.crops)) / 1e6
    return {
        "name": "merge with 23 kB crops, as on marrow: MB written a second",
        "value": written_mb / ours_s,
        "unit": "MB/s",
        "baseline": f"a plain copy of the tile files: {written_mb / statistics.median(copies_s):.0f} MB/s",
        "target": None,
        "ok": None,
    }
