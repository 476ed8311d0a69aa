"""Some cells of a run, from the tables of all its slides: by type, slide and filter, or by their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError, UsageError, some_of
from mkhspc.store import tables
from mkhspc.store.cells import BATCH_ROWS, Crop, cell_batches, iter_crops, schema_of_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import SCORES, parse_cell_id, types_of


@dataclass(frozen=True)
class Selection:
    """Which cells are wanted; None puts no condition.

    Attributes:
        in_filter: True for the cells in the filter in force, False for those outside it.
    """

    cell_type: CellType | None = None
    slide_id: str | None = None
    in_filter: bool | None = None

    def slide_ids(self, manifest: Manifest) -> list[str]:
        """Ids of the slides to look at, in the manifest's order.

        Raises:
            UsageError: the run has no such slide, or there is no such cell type.
        """
        there = [slide.slide_id for slide in manifest.slides]
        if self.slide_id is not None and self.slide_id not in there:
            raise UsageError(
                f"this run has no slide '{self.slide_id}'", fix=f"its slides are: {some_of(there, 20)}"
            )
        if self.cell_type is not None and self.cell_type not in CELL_TYPES:
            raise UsageError(
                f"there is no cell type '{self.cell_type}'", fix=f"there are: {', '.join(CELL_TYPES)}"
            )
        return there if self.slide_id is None else [self.slide_id]

    def of(self, cells: pa.Table) -> pa.Table:
        """The wanted rows of a table that has the columns of `conditions`."""
        if self.cell_type is not None:
            cells = cells.filter(pc.equal(cells["cell_type"], self.cell_type))
        return cells if self.in_filter is None else cells.filter(pc.equal(cells["in_filter"], self.in_filter))

    @property
    def conditions(self) -> list[str]:
        """The columns that decide whether a cell is wanted."""
        by_filter = [] if self.in_filter is None else ["in_filter"]
        return [*([] if self.cell_type is None else ["cell_type"]), *by_filter]


def column_names(layout: RunLayout, manifest: Manifest) -> list[str]:
    """The columns of a run's cells, in their order on disk; the same for every slide.

    Raises:
        InputError: the run has no tables yet.
    """
    return list(schema_of_cells(layout, manifest).names)


def select_cells(
    layout: RunLayout, manifest: Manifest, wanted: Selection, columns: Sequence[str] | None = None
) -> pa.Table:
    """The wanted cells of all slides; only the columns asked for, and those that decide, are read.

    Args:
        columns: in the order wanted, or None for all.

    Raises:
        UsageError: there is no such column, slide or cell type.
        InputError: a table is missing or damaged.
    """
    slide_ids = wanted.slide_ids(manifest)
    there = column_names(layout, manifest)
    names = there if columns is None else list(columns)
    _check_columns(names, there)
    unique = list(dict.fromkeys([*names, *wanted.conditions]))
    pieces = [
        wanted.of(batch).select(names)
        for slide_id in slide_ids
        for batch in cell_batches(layout, manifest, slide_id, unique)
    ]
    return _joined(pieces, layout, manifest, names)


def _joined(
    pieces: Sequence[pa.Table], layout: RunLayout, manifest: Manifest, names: Sequence[str]
) -> pa.Table:
    """The pieces as one table without metadata; without pieces one without rows."""
    if pieces:
        return pa.concat_tables(pieces).replace_schema_metadata(None)
    schema = schema_of_cells(layout, manifest)
    return pa.schema([schema.field(name) for name in names]).empty_table()


def _check_columns(names: Sequence[str], there: Sequence[str]) -> None:
    for name in names:
        if name not in there:
            near = get_close_matches(name, there, n=3, cutoff=0.5)
            fix = f"did you mean {' or '.join(near)}?" if near else f"there are: {some_of(there, 20)}"
            raise UsageError(f"cells have no column '{name}'", fix=fix)


def find_cells(
    layout: RunLayout, manifest: Manifest, cell_ids: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """The cells with these ids, in the order of the ids; row groups without any of them are passed over.

    Args:
        columns: any but `in_filter`.

    Raises:
        InputError: an id is not that of a cell of this run; or a table is missing or damaged.
    """
    names = list(dict.fromkeys(["cell_id", *columns]))
    pieces = []
    for slide_id, wanted in _by_slide(layout, manifest, cell_ids):
        path = layout.cells(slide_id)
        groups = tables.groups_with(path, manifest.config_hash, "cell_id", wanted)
        for piece in tables.read_pieces(path, manifest.config_hash, names, BATCH_ROWS, groups=groups):
            pieces.append(piece.filter(pc.is_in(piece["cell_id"], value_set=wanted)))
    found = _joined(pieces, layout, manifest, names)
    rows = pc.index_in(pa.array(cell_ids, pa.string()), value_set=found["cell_id"].combine_chunks())
    for cell_id, row in zip(cell_ids, rows.to_pylist(), strict=True):
        if row is None:
            raise _no_cell(layout, cell_id)
    return found.take(rows).select(list(columns))


def find_crops(layout: RunLayout, manifest: Manifest, cell_ids: Sequence[str]) -> list[Crop]:
    """The crops of the cells with these ids, in the order of the ids.

    Raises:
        InputError: an id is not that of a cell of this run; or a table is missing or damaged.
    """
    found = {
        crop.cell_id: crop
        for slide_id, wanted in _by_slide(layout, manifest, cell_ids)
        for crop in iter_crops(layout, manifest, slide_id, wanted.to_pylist())
    }
    for cell_id in cell_ids:
        if cell_id not in found:
            raise _no_cell(layout, cell_id)
    return [found[cell_id] for cell_id in cell_ids]


def _by_slide(
    layout: RunLayout, manifest: Manifest, cell_ids: Sequence[str]
) -> Iterator[tuple[str, pa.Array]]:
    """The ids of each slide that has any of them."""
    there = {slide.slide_id for slide in manifest.slides}
    of_slides: dict[str, list[str]] = {}
    for cell_id in dict.fromkeys(cell_ids):
        slide_id = parse_cell_id(cell_id).slide_id
        if slide_id not in there:
            raise _no_cell(layout, cell_id)
        of_slides.setdefault(slide_id, []).append(cell_id)
    for slide_id, wanted in of_slides.items():
        yield slide_id, pa.array(wanted, pa.string())


def _no_cell(layout: RunLayout, cell_id: str) -> InputError:
    return InputError(
        f"this run has no cell '{cell_id[:80]}'",
        where=layout.root,
        fix="the ids of its cells are in the column cell_id of its tables",
    )


def select_scores(layout: RunLayout, manifest: Manifest, wanted: Selection) -> pa.Table:
    """The scores of the wanted cells: columns cell_id, classifier_id, score, is_positive.

    Raises:
        UsageError: there is no such slide or cell type.
        InputError: none of the slides has scores, or a table is damaged.
    """
    paths = [layout.scores(slide_id) for slide_id in wanted.slide_ids(manifest)]
    there = [path for path in paths if path.exists()]
    if not there:
        raise InputError(
            "its cells have no scores yet", where=layout.root, fix="score them with `mkhspc score`"
        )
    read = (tables.read_table(path, manifest.config_hash, columns=SCORES.names) for path in there)
    scores = pa.concat_tables(read).replace_schema_metadata(None)
    if wanted.cell_type is None:
        return scores
    return scores.filter(pc.equal(types_of(scores["cell_id"]), wanted.cell_type))
