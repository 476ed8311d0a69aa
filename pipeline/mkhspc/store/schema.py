"""Columns and types of a run's tables, and the names of cells.

A table is checked against its schema when it is written and when it is read. Feature columns come
last in `cells`, named `shape_*`, `colour_*`, `texture_*` or `deep_*`, all float32.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError

FEATURE_PREFIXES = ("shape_", "colour_", "texture_", "deep_")

CELL_FIELDS: tuple[pa.Field, ...] = (
    pa.field("cell_id", pa.string(), nullable=False),
    pa.field("slide_id", pa.string(), nullable=False),
    pa.field("scene", pa.int32(), nullable=False),
    pa.field("cell_type", pa.string(), nullable=False),
    pa.field("tile_id", pa.string(), nullable=False),
    pa.field("x_px", pa.float64(), nullable=False),
    pa.field("y_px", pa.float64(), nullable=False),
    pa.field("x_um", pa.float64(), nullable=False),
    pa.field("y_um", pa.float64(), nullable=False),
    pa.field("area_px", pa.int64(), nullable=False),
    pa.field("area_um2", pa.float64(), nullable=False),
    pa.field("contour_px", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    pa.field("in_filter", pa.bool_(), nullable=False),
    pa.field("inside_mk_id", pa.string()),
    pa.field("inside_mk_ids", pa.list_(pa.field("item", pa.string(), nullable=False))),
    pa.field("touches_tissue_edge", pa.bool_(), nullable=False),
    pa.field("detector", pa.string(), nullable=False),
    pa.field("detector_score", pa.float32(), nullable=False),
)

"""`inside_mk_ids` is not there in runs that store no weak MK: they were made before it."""

CROP_FIELDS: tuple[pa.Field, ...] = (
    pa.field("cell_id", pa.string(), nullable=False),
    pa.field("image", pa.binary(), nullable=False),
    pa.field("x0_px", pa.int32(), nullable=False),
    pa.field("y0_px", pa.int32(), nullable=False),
    pa.field("um_per_px", pa.float64(), nullable=False),
)

CROPS = pa.schema(CROP_FIELDS)

SCORES = pa.schema(
    [
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("classifier_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("is_positive", pa.bool_(), nullable=False),
    ]
)

PLAN = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("scene", pa.int32(), nullable=False),
        pa.field("x0_px", pa.int32(), nullable=False),
        pa.field("y0_px", pa.int32(), nullable=False),
        pa.field("x1_px", pa.int32(), nullable=False),
        pa.field("y1_px", pa.int32(), nullable=False),
        pa.field("tissue_area_um2", pa.float64(), nullable=False),
        pa.field("fat_free_area_um2", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)
"""One row per planned tile: its core box, the tissue in it, and its place in the sampling order."""


def cells_schema(feature_names: list[str], *, has_weak_mk: bool = True) -> pa.Schema:
    """The schema of `cells/<slide_id>.parquet` with these feature columns.

    Args:
        has_weak_mk: whether the run stores weak MK.
    """
    left_out = () if has_weak_mk else ("inside_mk_ids",)
    fields = [field for field in CELL_FIELDS if field.name not in left_out]
    return pa.schema([*fields, *_feature_fields(feature_names)])


def part_schema(feature_names: list[str], *, has_weak_mk: bool = True) -> pa.Schema:
    """The schema of a tile's part: its cells with their crops, without the view `in_filter`."""
    crops = [pa.field(f"crop_{field.name}", field.type, field.nullable) for field in CROP_FIELDS[1:]]
    found = found_schema([], has_weak_mk=has_weak_mk)
    return pa.schema([*found, *crops, *_feature_fields(feature_names)])


def part_schema_of(cells: pa.Table) -> pa.Schema:
    """The schema of the part that holds these cells, a table of `found_schema`."""
    names = cells.column_names
    return part_schema(feature_columns(names), has_weak_mk="inside_mk_ids" in names)


def found_schema(feature_names: list[str], *, has_weak_mk: bool = True) -> pa.Schema:
    """`part_schema` without the crops."""
    cells = cells_schema(feature_names, has_weak_mk=has_weak_mk)
    return cells.remove(cells.get_field_index("in_filter"))


def feature_columns(names: list[str]) -> list[str]:
    """Those of `names` that are features, in their order."""
    return [name for name in names if name.startswith(FEATURE_PREFIXES)]


def _feature_fields(names: list[str]) -> list[pa.Field]:
    return [pa.field(name, pa.float32(), nullable=False) for name in names]


@dataclass(frozen=True)
class CellName:
    """What a cell id says: which slide, scene, type, and the floor of its centroid."""

    slide_id: str
    scene: int
    cell_type: CellType
    x: int
    y: int
    nth: int = 1

    def __str__(self) -> str:
        base = f"{self.slide_id}_s{self.scene}_{self.cell_type}_{self.x}_{self.y}"
        return base if self.nth == 1 else f"{base}_{self.nth}"


_ID = re.compile(
    rf"(?P<slide>.+?)(?:_s(?P<scene>\d+))?_(?P<type>{'|'.join(CELL_TYPES)})"
    r"_(?P<x>\d+)_(?P<y>\d+)(?:_(?P<nth>\d+))?"
)


def parse_cell_id(cell_id: str) -> CellName:
    """The parts of a cell id; an old id without a scene means scene 0.

    Raises:
        InputError: the text is not a cell id.
    """
    match = _ID.fullmatch(cell_id)
    if match is None:
        raise InputError(f"'{cell_id[:80]}' is not a cell id", fix="an id looks like <slide>_s0_mk_1234_5678")
    return CellName(
        slide_id=match["slide"],
        scene=int(match["scene"] or 0),
        cell_type="mk" if match["type"] == "mk" else "hspc",
        x=int(match["x"]),
        y=int(match["y"]),
        nth=int(match["nth"] or 1),
    )


def types_of(cell_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cell type that each id names: 'mk' or 'hspc'."""
    return pc.replace_substring_regex(cell_ids, r".*_(mk|hspc)_\d+_\d+(_\d+)?", r"\1")


def cell_names(
    slide_id: str,
    scene: int,
    cell_type: CellType,
    centroids_px: list[tuple[float, float]],
    areas_px: list[int],
) -> list[CellName]:
    """Names of all cells of one type around one place, in the order given.

    Cells whose centroids share a floor get 1, 2, 3 ... in order of falling area (then of x and y),
    so a name never depends on the order of detection. Since such cells share a tile core, naming
    all detections of a window names each cell as every other window does.
    """
    order = sorted(range(len(areas_px)), key=lambda i: (-areas_px[i], centroids_px[i]))
    taken: dict[tuple[int, int], int] = {}
    names: dict[int, CellName] = {}
    for i in order:
        x, y = (math.floor(value) for value in centroids_px[i])
        taken[x, y] = taken.get((x, y), 0) + 1
        names[i] = CellName(slide_id, scene, cell_type, x, y, taken[x, y])
    return [names[i] for i in range(len(areas_px))]
