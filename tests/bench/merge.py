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
from parts import SLIDE, TILE_PX, UM_PER_PX, LargeRun, large_run
from processes import measured

from pipeline.engine.merge import merge_slide

Row = dict[str, object]

CELLS_PER_TILE = 4000
GRID, FULL_GRID = (12, 10), (25, 20)
"""Tiles of the slide that is merged; 25 x 20 with 4,000 cells each are 2,000,000 cells."""
BASELINE_GRID, FULL_BASELINE_GRID = (8, 8), (12, 10)
"""Tiles of the baseline's slide: fewer, for it takes minutes and many times the memory."""
ROOM_BYTES, FULL_ROOM_BYTES = 5e9, 12e9
SAME_CELL = 0.5
"""Two outlines are one cell when they share this much of the smaller."""
CROP_BYTES = (1000, 2000)
REAL_CROP_BYTES = (20_000, 26_000)
"""Lossless crops of HSPC on marrow take 23 kB."""
REPEATS = 3
TARGET_RATIO = 30.0
LIMIT_GB = 2.0


def rows(shared: Path | None, full: bool) -> list[Row]:
    folder = _memory_folder(FULL_ROOM_BYTES if full else ROOM_BYTES)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ours_s, cells, peak_bytes = _ours(Path(scratch) / "ours", FULL_GRID if full else GRID)
        theirs_s, their_cells = _theirs(
            Path(scratch) / "theirs", FULL_BASELINE_GRID if full else BASELINE_GRID
        )
        copied = _against_a_copy(Path(scratch) / "copied")
    ratio = (cells / ours_s) / (their_cells / theirs_s)
    return [
        {
            "name": f"merge of {cells:,} cells (60 corners, 1.5 kB crops, files in"
            f" {'memory' if folder else 'the temporary folder'}): cells a second"
            f" against pairs of polygons",
            "value": ratio,
            "unit": "x",
            "baseline": f"{their_cells:,} cells in {theirs_s:.1f} s (ours {ours_s:.1f} s)",
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


def _theirs(root: Path, grid: tuple[int, int]) -> tuple[float, int]:
    """Seconds and cells of the baseline on tiles that overlap by the longest cell allowed."""
    run = large_run(root / "run", *grid, CELLS_PER_TILE, crop_bytes=CROP_BYTES)
    windows = _overlapping(run, root)
    shutil.rmtree(root / "run")
    begun_s = time.perf_counter()
    found = by_pairs(windows, root)
    taken_s = time.perf_counter() - begun_s
    if found != len(run.tiles) * CELLS_PER_TILE:
        raise RuntimeError(f"the baseline found {found:,} cells")
    return taken_s, found


def _overlapping(run: LargeRun, folder: Path) -> list[Path]:
    """Tile files that hold every cell whose centroid their window sees, not only those they own."""
    margin_px = round(run.manifest.stored("mk").max_length_um / UM_PER_PX) // 2
    parts = {
        (t.core.x0 // TILE_PX, t.core.y0 // TILE_PX): p for t, p in zip(run.tiles, run.parts, strict=True)
    }
    tables = {place: pq.read_table(part).drop_columns(["crop_image"]) for place, part in parts.items()}
    written = []
    for (column, row), part in parts.items():
        near = [
            tables[c, r]
            for c in range(column - 1, column + 2)
            for r in range(row - 1, row + 2)
            if (c, r) in tables
        ]
        window = pa.concat_tables(near)
        for axis, index in (("x_px", column), ("y_px", row)):
            low, high = index * TILE_PX - margin_px, (index + 1) * TILE_PX + margin_px
            window = window.filter(pc.and_(pc.greater_equal(window[axis], low), pc.less(window[axis], high)))
        written.append(folder / part.name)
        pq.write_table(window.combine_chunks(), written[-1], compression="lz4")
    return written


def by_pairs(tiles: list[Path], folder: Path) -> int:
    """Merges what overlaps, pair by pair, over polygons in one tree; returns the number of cells.

    Everything around the loop over the pairs is as fast as these libraries make it.
    """
    seen = pa.concat_tables([pq.read_table(tile) for tile in tiles]).combine_chunks()
    contours = seen["contour_px"].combine_chunks()
    corners = contours.flatten().to_numpy().reshape(-1, 2).astype(float)
    ends = contours.offsets.to_numpy() // 2
    polygons = [shapely.Polygon(corners[a:b]) for a, b in itertools.pairwise(ends)]
    tree = shapely.STRtree(polygons)
    merged_into = list(range(len(polygons)))

    def merged(index: int) -> int:
        while merged_into[index] != index:
            index = merged_into[index]
        return index

    for i in range(len(seen)):
        for j in tree.query(polygons[i]).tolist():
            a, b = merged(i), merged(j)
            if j <= i or a == b:
                continue
            both = polygons[a].intersection(polygons[b]).area
            if both > SAME_CELL * min(polygons[a].area, polygons[b].area):
                merged_into[a] = merged_into[b] = len(polygons)
                merged_into.append(len(polygons))
                polygons.append(polygons[a].union(polygons[b]))

    first: dict[int, int] = {}
    for i in range(len(seen)):
        first.setdefault(merged(i), i)
    outlines = [np.asarray(polygons[k].exterior.coords, np.int32)[:-1].ravel() for k in first]
    cells = seen.take(pa.array(list(first.values())))
    for name, values in (("contour_px", outlines), ("area_px", [int(polygons[k].area) for k in first])):
        column = cells.column_names.index(name)
        field = cells.schema.field(name)
        cells = cells.set_column(column, field, pa.array(values, field.type))
    crops = [name for name in cells.column_names if name.startswith("crop_")]
    pq.write_table(cells.select(["cell_id", *crops]), folder / "crops.parquet", compression="none")
    pq.write_table(cells.drop_columns(crops), folder / "cells.parquet", compression="lz4")
    return len(cells)


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
