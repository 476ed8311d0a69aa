"""Counts and densities of a run, slide by slide.

What is counted
    Candidates: cells in the filter in force. Positives: those of them that the classifier calls
    positive, where the run has scores. An HSPC that lies mostly inside such an MK is that MK's own nucleus:
    it is left out and counted apart.
What it is divided by
    The tissue of the finished tiles, never of the whole slide: a run of a fraction of the tiles has
    searched no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import IncompleteError, InputError
from mkhspc.geometry import BoolMask
from mkhspc.store import tables
from mkhspc.store.cells import read_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import PLAN, SCORES

_CELL_COLUMNS = ["cell_id", "cell_type", "area_um2", "in_filter"]
HOLDERS, HOLDER = "inside_mk_ids", "inside_mk_id"
"""The columns that name the MK which hold an HSPC: all of them, or in a run without weak MK the one."""
UM2_PER_MM2 = 1e6


@dataclass(frozen=True)
class Searched:
    """How much of a slide was searched.

    Attributes:
        tissue_mm2, fat_free_mm2: tissue of the finished tiles, and what of it is not fat.
        sampling_fraction: the share of the planned tiles' tissue that lies in finished ones.
    """

    tiles_done: int
    tiles_planned: int
    tissue_mm2: float
    fat_free_mm2: float
    sampling_fraction: float


@dataclass(frozen=True)
class Count:
    """Cells of one type on a slide.

    Attributes:
        cells: counted cells.
        inside_mk: cells left out because they lie inside a positive MK.
    """

    cells: int
    inside_mk: int


@dataclass(frozen=True)
class SlideResult:
    """What was found of one cell type on one slide.

    Attributes:
        positives: None when the cells of this type have no scores.
        classifier_id: the classifier that `positives` comes from.
        median_area_um2: the median area of the counted cells; None when there are none.
    """

    slide_id: str
    cell_type: CellType
    um_per_px: float
    searched: Searched
    candidates: Count
    positives: Count | None
    classifier_id: str | None
    median_area_um2: float | None

    @property
    def counted(self) -> Count:
        """The positives where there are scores, and the candidates elsewhere."""
        return self.candidates if self.positives is None else self.positives

    @property
    def counted_as(self) -> str:
        return counted_as(self.positives is not None)


def counted_as(is_scored: bool) -> str:
    """What a count holds, in words."""
    return "classified positive" if is_scored else "candidates by morphology"


def per_mm2(count: Count, area_mm2: float) -> float | None:
    """Cells per mm², or None where nothing was searched."""
    return count.cells / area_mm2 if area_mm2 > 0.0 else None


def slide_results(layout: RunLayout, manifest: Manifest) -> list[SlideResult]:
    """One result per slide and cell type, in the manifest's order.

    Raises:
        IncompleteError: a slide has no tables yet, or finished tiles that are not merged.
        InputError: a table is damaged or of another run, or a slide's scores are mixed or partial.
    """
    _refuse_unmerged(layout, manifest)
    results = []
    for slide in manifest.slides:
        if manifest.is_excluded(slide.slide_id):
            continue
        searched = _searched(layout, manifest, slide.slide_id)
        holders = HOLDERS if manifest.stored("mk").has_weak else HOLDER
        cells = read_cells(layout, manifest, slide.slide_id, [*_CELL_COLUMNS, holders])
        scored = _with_scores(layout, manifest, slide.slide_id, cells)
        for cell_type in CELL_TYPES:
            results.append(_result(scored, slide.slide_id, cell_type, slide.um_per_px, searched))
    _refuse_mixed(results)
    return results


def unmerged_slides(layout: RunLayout, manifest: Manifest) -> list[str]:
    """The ids of slides that have no tables, or whose tables lack cells of finished tiles."""
    return [s.slide_id for s in manifest.slides if not _is_merged(layout, manifest, s.slide_id)]


def _refuse_unmerged(layout: RunLayout, manifest: Manifest) -> None:
    unmerged = unmerged_slides(layout, manifest)
    if unmerged:
        raise IncompleteError(
            f"not all finished tiles are in the tables of {', '.join(unmerged)}",
            where=layout.root,
            fix="run the same `mkhspc segment` again: it finishes the tiles and makes the tables"
            " (those of a sharded run: `mkhspc merge`)",
        )


def _is_merged(layout: RunLayout, manifest: Manifest, slide_id: str) -> bool:
    """Whether the table of cells holds, tile by tile, the rows of those finished that are not excluded.

    Tiles without a cell need not be merged to be counted: they add area, and no row.
    """
    path = layout.cells(slide_id)
    if not path.exists():
        return False
    parts = {t: tables.count_rows(layout.part(slide_id, t)) for t in manifest.kept_tiles(layout, slide_id)}
    held = pc.value_counts(read_cells(layout, manifest, slide_id, ["tile_id"])["tile_id"]).to_pylist()
    return {one["values"]: one["counts"] for one in held} == {t: rows for t, rows in parts.items() if rows}


def _searched(layout: RunLayout, manifest: Manifest, slide_id: str) -> Searched:
    plan = tables.read_table(layout.plan(slide_id), manifest.config_hash, columns=PLAN.names)
    excluded = [one.tile_id for one in manifest.exclusions if one.slide_id == slide_id]
    plan = plan.filter(pc.invert(pc.is_in(plan["tile_id"], pa.array(excluded, pa.string()))))
    finished = pa.array(sorted(manifest.kept_tiles(layout, slide_id)), pa.string())
    done = plan.filter(pc.is_in(plan["tile_id"], finished))
    planned_um2 = _sum(plan, "tissue_area_um2")
    tissue_um2 = _sum(done, "tissue_area_um2")
    return Searched(
        tiles_done=done.num_rows,
        tiles_planned=plan.num_rows,
        tissue_mm2=tissue_um2 / UM2_PER_MM2,
        fat_free_mm2=_sum(done, "fat_free_area_um2") / UM2_PER_MM2,
        sampling_fraction=tissue_um2 / planned_um2 if planned_um2 > 0.0 else 0.0,
    )


def _sum(table: pa.Table, column: str) -> float:
    return float(pc.sum(table[column]).as_py() or 0.0)


def _with_scores(layout: RunLayout, manifest: Manifest, slide_id: str, cells: pa.Table) -> pa.Table:
    """The cells with `classifier_id` and `is_positive`, null where there is no score."""
    path = layout.scores(slide_id)
    if path.exists():
        scores = tables.read_table(path, manifest.config_hash, columns=SCORES.names).drop_columns(["score"])
    else:
        scores = SCORES.empty_table().drop_columns(["score"])
    if len(pc.unique(scores["cell_id"])) != scores.num_rows:
        raise InputError("holds two scores of one cell", where=path, fix="score again with `mkhspc score`")
    rows = pc.index_in(cells["cell_id"], scores["cell_id"].combine_chunks())
    for name in ("classifier_id", "is_positive"):
        cells = cells.append_column(name, scores[name].take(rows))
    return cells


def _result(
    cells: pa.Table, slide_id: str, cell_type: CellType, um_per_px: float, searched: Searched
) -> SlideResult:
    classifier_id = _classifier(cells, slide_id, cell_type)
    candidates = _of_type(cells, cell_type)
    counted = candidates if classifier_id is None else candidates.filter(candidates["is_positive"])
    hosts = _positive_mk(cells) if cell_type == "hspc" else pa.array([], pa.string())
    positives = None if classifier_id is None else _count(counted, hosts)
    areas = counted.filter(_outside(counted, hosts))["area_um2"]
    return SlideResult(
        slide_id=slide_id,
        cell_type=cell_type,
        um_per_px=um_per_px,
        searched=searched,
        candidates=_count(candidates, hosts),
        positives=positives,
        classifier_id=classifier_id,
        median_area_um2=pc.quantile(areas, q=0.5)[0].as_py() if len(areas) else None,
    )


def _of_type(cells: pa.Table, cell_type: CellType) -> pa.Table:
    return cells.filter(pc.and_(cells["in_filter"], pc.equal(cells["cell_type"], cell_type)))


def _positive_mk(cells: pa.Table) -> pa.Array:
    """Ids of the MK in the filter that are positive; without scores all count as such."""
    mk = _of_type(cells, "mk")
    return mk.filter(pc.fill_null(mk["is_positive"], True))["cell_id"].combine_chunks()


def _outside(cells: pa.Table, mk_ids: pa.Array) -> BoolMask:
    """(n,) whether each cell lies in none of these MK."""
    if HOLDER in cells.column_names:
        inside: BoolMask = pc.is_in(cells[HOLDER], mk_ids).to_numpy()
        return ~inside
    holders = cells[HOLDERS].combine_chunks()
    outside = np.ones(len(holders), np.bool_)
    outside[pc.list_parent_indices(holders).filter(pc.is_in(holders.flatten(), mk_ids))] = False
    return outside


def _count(cells: pa.Table, mk_ids: pa.Array) -> Count:
    outside = int(_outside(cells, mk_ids).sum())
    return Count(outside, cells.num_rows - outside)


def _classifier(cells: pa.Table, slide_id: str, cell_type: CellType) -> str | None:
    """The one classifier that scored the cells of a type on a slide, or None if none did."""
    ids = _of_type(cells, cell_type)["classifier_id"]
    if ids.null_count == len(ids):
        return None
    if ids.null_count or len(pc.unique(ids)) > 1:
        raise InputError(
            f"the {cell_type.upper()} of {slide_id} are scored in part, or by several classifiers",
            fix="score the run again with `mkhspc score`",
        )
    classifier_id: str = ids[0].as_py()
    return classifier_id


def _refuse_mixed(results: Sequence[SlideResult]) -> None:
    """Refuses slides whose counts come from different classifiers, or only some of which have scores."""
    for cell_type in CELL_TYPES:
        used = {r.classifier_id for r in results if r.cell_type == cell_type and r.candidates != Count(0, 0)}
        if len(used) > 1:
            names = ", ".join(sorted(name or "none" for name in used))
            raise InputError(
                f"the {cell_type.upper()} of the slides are scored by different classifiers: {names}",
                fix="score the whole run with one, using `mkhspc score`",
            )
