"""Detecting and measuring the cells of one tile.

A cell belongs to the tile whose core holds its centroid. The window read is the core with a halo
that holds all that the answers for such cells depend on, so each cell is seen whole, and in the
same way, by the tile that owns it, whatever the size or place of the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mkhspc.config import CellType
from mkhspc.detect.contract import MIDDLE_SHARE, Detection, Window
from mkhspc.geometry import Box, mask_to_contour, shared_px
from mkhspc.measure import crops, deep, features
from mkhspc.measure.analysis import MOSTLY_INSIDE, TileAnalysis, feature_names
from mkhspc.measure.regions import PackedMasks
from mkhspc.process.memory import give_back_gaps
from mkhspc.slide.tiles import Tile
from mkhspc.slide.tissue import TissueMask
from mkhspc.store.schema import cell_names, found_schema, part_schema_of

PIECE_ROWS = 512
"""Rows of a part that are made at a time and make a row group; its crops take some 12 MB."""


@dataclass(frozen=True)
class TileSearch:
    """A tile, and what its cells are looked for with and in.

    Attributes:
        window: of `analysis.read_box(tile.core, um_per_px)`.
        tissue: of the tile's scene, as far as the window reaches.
    """

    slide_id: str
    window: Window
    tissue: TissueMask
    tile: Tile
    analysis: TileAnalysis

    @cached_property
    def near(self) -> Window:
        """The part of the window that HSPC and features need, whose stains are kept."""
        return self.window.apart(self.tile.core.grown(self.analysis.near_halo_px(self.window.um_per_px)))


@dataclass(frozen=True)
class CellsFound:
    """All detections of one type in a window, named, with those that the tile owns.

    Attributes:
        centroids_px: (n, 2) x and y, in level-0 px of the scene.
        areas_px: (n,) pixels of each mask.
        in_tissue: (n,) whether the centroid lies in tissue.
        owned: indices of the cells that the tile owns, by y, then x, then area.
    """

    cell_type: CellType
    detector: str
    detections: Sequence[Detection]
    centroids_px: NDArray[np.float64]
    areas_px: NDArray[np.int64]
    ids: Sequence[str]
    in_tissue: NDArray[np.bool_]
    owned: NDArray[np.intp]


def detect(search: TileSearch) -> tuple[CellsFound, CellsFound]:
    """The MK and the HSPC of a window."""
    hspc = _detect(search, "hspc", search.near)  # first: they take most memory, and least of the pixels
    give_back_gaps()
    return _detect(search, "mk", replace(search.window, stained=search.near)), hspc


def measure(found: tuple[CellsFound, CellsFound], search: TileSearch) -> pa.Table:
    """One row per cell that the tile owns, in the schema of `store.schema.found_schema`.

    Rows are ordered by type, then by y and x of the centroid; a tile without cells gives a table without
    rows.
    """
    mk, hspc = found
    return pa.concat_tables([_rows(search, mk, {}), _rows(search, hspc, _inside_mk(mk, hspc, search))])


def with_crops(cells: pa.Table, window: Window) -> Iterator[pa.Table]:
    """The cells with their crops, some rows at a time: the crops of a dense tile take more than its pixels.

    The schema is that of `store.schema.part_schema_of`.

    Args:
        cells: from `measure`.
        window: that they were found in.
    """
    schema = part_schema_of(cells)
    for start in range(0, len(cells), PIECE_ROWS):
        piece = cells.slice(start, PIECE_ROWS)
        names = ("x_px", "y_px", "cell_type")
        places = zip(*(piece[name].to_pylist() for name in names), strict=True)
        boxes = [crops.crop_box(x, y, cell_type, window.um_per_px) for x, y, cell_type in places]
        pictures = {
            "crop_image": crops.encoded_crops(window, boxes),
            "crop_x0_px": np.array([box.x0 for box in boxes], np.int32),
            "crop_y0_px": np.array([box.y0 for box in boxes], np.int32),
            "crop_um_per_px": np.full(len(boxes), window.um_per_px),
        }
        yield pa.table(dict(zip(piece.column_names, piece.columns, strict=True)) | pictures, schema)


def _detect(search: TileSearch, cell_type: CellType, window: Window) -> CellsFound:
    analysis, tile, tissue = search.analysis, search.tile, search.tissue
    detector, um_per_px = analysis.detectors[cell_type], window.um_per_px
    # No more than the type needs: nuclei are searched on fewer of the pixels than MK need.
    seen = window.part(
        analysis.detector_box(cell_type, tile.core, um_per_px),
        analysis.wanted(cell_type, tile.core, um_per_px),
    )
    detections = detector.detect(seen, analysis.stored[cell_type])
    packed = PackedMasks.from_detections(detections, window.box)
    centroids_px, areas_px = packed.centroids_px, packed.areas_px
    places = [(float(x), float(y)) for x, y in centroids_px]
    names = cell_names(search.slide_id, tile.scene, cell_type, places, areas_px.tolist())
    x_px, y_px = centroids_px[:, 0], centroids_px[:, 1]
    in_tissue = tissue.contains(x_px, y_px)
    core = tile.core
    in_core = (x_px >= core.x0) & (x_px < core.x1) & (y_px >= core.y0) & (y_px < core.y1)
    owned = np.flatnonzero(in_core & in_tissue)
    owned = owned[np.lexsort((areas_px[owned], x_px[owned], y_px[owned]))]
    ids = [str(name) for name in names]
    return CellsFound(cell_type, detector.name, detections, centroids_px, areas_px, ids, in_tissue, owned)


def _inside_mk(mk: CellsFound, hspc: CellsFound, search: TileSearch) -> dict[int, list[str]]:
    """For owned HSPC by index: the ids of the MK candidates that hold most of it, the best scored first."""
    if not len(hspc.owned) or not len(mk.detections):
        return {}
    farthest_px = MIDDLE_SHARE * search.analysis.longest_um("mk") / search.window.um_per_px
    boxes = np.array([_corners(hspc.detections[i].box) for i in hspc.owned])
    holders: dict[int, list[tuple[float, str]]] = {}
    for j in np.flatnonzero(mk.in_tissue).tolist():
        outer = mk.detections[j]
        x0, y0, x1, y1 = _corners(outer.box)
        near = (boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        apart_px = np.hypot(*(hspc.centroids_px[hspc.owned] - mk.centroids_px[j]).T)
        near &= apart_px <= farthest_px
        for i in hspc.owned[near].tolist():
            inner = hspc.detections[i]
            share = shared_px(inner.box, inner.mask, outer.box, outer.mask) / int(hspc.areas_px[i])
            if share > MOSTLY_INSIDE:
                holders.setdefault(i, []).append((-outer.score, mk.ids[j]))
    return {i: [mk_id for _, mk_id in sorted(those)] for i, those in holders.items()}


def _corners(box: Box) -> tuple[int, int, int, int]:
    return box.x0, box.y0, box.x1, box.y1


def _rows(search: TileSearch, found: CellsFound, inside: Mapping[int, list[str]]) -> pa.Table:
    window, tile, analysis = search.window, search.tile, search.analysis
    owned = found.owned
    cells = [found.detections[i] for i in owned.tolist()]
    count = len(cells)
    x_px, y_px = found.centroids_px[owned, 0], found.centroids_px[owned, 1]
    um_per_px = window.um_per_px
    columns = {
        "cell_id": [found.ids[i] for i in owned.tolist()],
        "slide_id": [search.slide_id] * count,
        "scene": np.full(count, tile.scene, np.int32),
        "cell_type": [found.cell_type] * count,
        "tile_id": [tile.tile_id] * count,
        "x_px": x_px,
        "y_px": y_px,
        "x_um": x_px * um_per_px,
        "y_um": y_px * um_per_px,
        "area_px": found.areas_px[owned],
        "area_um2": found.areas_px[owned] * um_per_px**2,
        "contour_px": [mask_to_contour(c.mask, c.box.x0, c.box.y0).ravel() for c in cells],
        "inside_mk_id": [inside[i][0] if i in inside else None for i in owned.tolist()],
        "inside_mk_ids": [inside.get(i) for i in owned.tolist()],
        "touches_tissue_edge": search.tissue.near_edge([c.box for c in cells]),
        "detector": [found.detector] * count,
        "detector_score": np.array([c.score for c in cells], np.float32),
        **features.measure(search.near, cells),
        **deep.measure(analysis.embedding(found.cell_type), window, cells, found.cell_type, tile.tile_id),
    }
    names, has_weak_mk = feature_names(analysis.embedders), analysis.stored["mk"].has_weak
    return pa.table(columns, found_schema(names, has_weak_mk=has_weak_mk))
