"""Reading and writing the tables of cells and crops of a run, slide by slide.

The manifest alone holds the filter. The column `in_filter` on disk is a convenience for other
programs; here it is always computed from the manifest, so it cannot be stale.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellRange, CellType
from mkhspc.errors import InputError
from mkhspc.store import manifest as manifests, tables
from mkhspc.store.atomic import FileVersion, ReplacedError
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import CROPS, feature_columns

BATCH_ROWS = 16_384
"""Rows of cells in memory at a time."""
CROPS_AT_ONCE = 256
"""Crops in memory at a time: about 6 MB, or 60 MB if all of them are MK."""

FILTER_KEY = "mkhspc:filter"
"""The key of the filter that the column `in_filter` follows, in the metadata of a table of cells."""

_FILTERED_BY = ("cell_type", "area_um2", "detector_score")
"""The columns that `in_filter` follows from."""


@dataclass(frozen=True)
class Crop:
    """An encoded picture of a cell and where its top-left pixel lies, in level-0 px of the scene."""

    cell_id: str
    image: bytes
    x0_px: int
    y0_px: int
    um_per_px: float


def cell_batches(
    layout: RunLayout, manifest: Manifest, slide_id: str, columns: list[str]
) -> Iterator[pa.Table]:
    """Batches of a slide's cells in the order on disk: two million fit through a small memory.

    Args:
        columns: those wanted; `in_filter` is computed from the manifest.

    Raises:
        InputError: the table is missing, damaged, lacks a column, or belongs to another run.
    """
    path = layout.cells(slide_id)
    for rows in tables.read_pieces(path, manifest.config_hash, _on_disk(columns), BATCH_ROWS):
        kept = _kept(rows, manifest, slide_id)
        yield (with_in_filter(kept, manifest.filter) if "in_filter" in columns else kept).select(columns)


def _on_disk(columns: Sequence[str]) -> list[str]:
    """The columns to read for those wanted."""
    needed = [*(name for name in columns if name != "in_filter"), "tile_id"]
    return list(dict.fromkeys([*needed, *(_FILTERED_BY if "in_filter" in columns else ())]))


def _kept(cells: pa.Table, manifest: Manifest, slide_id: str) -> pa.Table:
    """The cells that are in the study: a table may be older than an exclusion."""
    if manifest.is_excluded(slide_id):
        return cells.slice(0, 0)
    tile_ids = [one.tile_id for one in manifest.exclusions if one.slide_id == slide_id]
    if not tile_ids:
        return cells
    return cells.filter(pc.invert(pc.is_in(cells["tile_id"], pa.array(tile_ids, pa.string()))))


def with_in_filter(cells: pa.Table, views: Mapping[CellType, CellRange]) -> pa.Table:
    """The table with its column `in_filter` computed from each type's filter (all ends included).

    Args:
        cells: with the columns `cell_type`, `area_um2` and `detector_score`.
    """
    inside = pa.chunked_array([pa.array([False] * len(cells), pa.bool_())])
    for cell_type in CELL_TYPES:
        of_type = pc.equal(cells["cell_type"], cell_type)
        inside = pc.or_(inside, pc.and_(of_type, _within(cells, views[cell_type])))
    field = pa.field("in_filter", pa.bool_(), nullable=False)
    if "in_filter" in cells.column_names:
        return cells.set_column(cells.column_names.index("in_filter"), field, inside)
    return cells.append_column(field, inside)


def _within(cells: pa.Table, view: CellRange) -> pa.ChunkedArray:
    # A score is stored in single precision: one of 0.7 is 0.69999999 there, and is meant by 0.7.
    least = pa.scalar(view.min_score, cells["detector_score"].type)
    areas = pc.and_(
        pc.greater_equal(cells["area_um2"], view.min_um2), pc.less_equal(cells["area_um2"], view.max_um2)
    )
    return pc.and_(areas, pc.greater_equal(cells["detector_score"], least))


def read_cells(
    layout: RunLayout, manifest: Manifest, slide_id: str, columns: list[str] | None = None
) -> pa.Table:
    """The cells of one slide, `in_filter` fresh from the manifest's filter.

    Args:
        columns: the columns wanted, or None for all.

    Raises:
        InputError: the table is missing, damaged or of another run.
    """
    on_disk = None if columns is None else _on_disk(columns)
    whole = tables.read_table(layout.cells(slide_id), manifest.config_hash, columns=on_disk)
    cells = _kept(whole, manifest, slide_id)
    if columns is None or "in_filter" in columns:
        cells = with_in_filter(cells, manifest.filter)
    return cells if columns is None else cells.select(columns)


def feature_names(layout: RunLayout, manifest: Manifest) -> list[str]:
    """The feature columns of a run, in their order on disk; errors as for `schema_of_cells`."""
    return feature_columns(schema_of_cells(layout, manifest).names)


def schema_of_cells(layout: RunLayout, manifest: Manifest) -> pa.Schema:
    """The schema of a run's tables of cells, which is that of every slide.

    Raises:
        InputError: no slide has its table yet.
    """
    for slide in manifest.slides:
        if layout.cells(slide.slide_id).exists():
            return tables.read_schema(layout.cells(slide.slide_id))
    raise InputError("the run has no tables of cells yet", where=layout.root, fix=tables.NOT_MADE)


def filter_metadata(manifest: Manifest) -> dict[str, str]:
    """What a table of cells says of the filter that its column `in_filter` follows."""
    areas = {cell_type: asdict(manifest.filter[cell_type]) for cell_type in CELL_TYPES}
    return {FILTER_KEY: json.dumps(areas)}


def settle_in_filter(layout: RunLayout, slide_id: str) -> None:
    """Brings the column `in_filter` on disk up to the manifest's filter, whoever changes either meanwhile.

    The filter is read again after the table has its name: what changed it before then is seen here, and what
    changes it later finds this table.
    """
    path = layout.cells(slide_id)
    while True:
        manifest = manifests.read(layout)
        wanted = filter_metadata(manifest)
        if wanted.items() <= tables.metadata_of(tables.read_schema(path)).items():
            return
        with suppress(ReplacedError):  # by another process's table, which may follow this filter or not
            rewrite_in_filter(layout, manifest, slide_id)


def rewrite_in_filter(layout: RunLayout, manifest: Manifest, slide_id: str) -> None:
    """Writes the column `in_filter` on disk by the manifest's filter; other columns stay.

    Raises:
        ReplacedError: another process has written the table since; its rows are untouched.
    """
    path = layout.cells(slide_id)
    read = FileVersion.of(path)
    schema = tables.read_schema(path)
    pieces = tables.read_pieces(path, manifest.config_hash, schema.names, BATCH_ROWS)
    tables.write_stream(
        path,
        schema,
        (with_in_filter(piece, manifest.filter) for piece in pieces),
        manifest.config_hash,
        metadata={**tables.metadata_of(schema), **filter_metadata(manifest)},
        instead_of=read,
    )


def iter_crops(
    layout: RunLayout, manifest: Manifest, slide_id: str, wanted: Collection[str] | None = None
) -> Iterator[Crop]:
    """Crops of one slide in the order on disk, a few in memory at a time.

    Row groups without a wanted crop are passed over: twelve of a million cost no more than a few thousand.

    Args:
        wanted: ids of the cells wanted (a set, for speed), or None for all.
    """
    value_set = None if wanted is None else pa.array(sorted(wanted), pa.string())
    path, run_hash = layout.crops(slide_id), manifest.config_hash
    groups = None if value_set is None else tables.groups_with(path, run_hash, "cell_id", value_set)
    for piece in tables.read_pieces(path, run_hash, CROPS.names, CROPS_AT_ONCE, groups=groups):
        chosen = piece if value_set is None else piece.filter(pc.is_in(piece["cell_id"], value_set))
        for row in chosen.to_pylist():
            yield Crop(**row)
