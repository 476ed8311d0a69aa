"""The truth of simulated slides, and how well a table of cells meets it.

What counts
    `target` names the candidate detector that should find an object: 'hspc' for every nucleus of
    10 to 150 µm² that lies outside an MK-like cell, progenitor or not; 'mk' for every large cell
    with a large or multiple nucleus, MK or look-alike (the outline is the whole cell); empty for
    what must not be found: caps and dust of nuclei, precipitate, smudges. What is not in the table
    at all (red cells, fat, foamy macrophage bodies, stroma) must not be found either.
    `label` is the expert's answer about a target: 'positive' for a true progenitor or MK.

What does not count, either way
    Objects that are not `clear`: cut by the scene's border, mostly hidden by another, or
    granulocytes whose lobes lie apart (one nucleus to an expert, several to a detector), or giant
    nuclei without a body (an MK to some, none to others); and detections whose centroid lies in
    one. HSPC detections whose centroid lies in a true outline
    of target 'mk' are its own nuclei: the run marks them `inside_mk_id`.
    Everything else that matches no target is a false positive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.geometry import BoolMask, Box, IntArray, contour_to_mask, iou
from mkhspc.simulate.cells.kinds import KINDS
from mkhspc.simulate.scene import TrueObject
from mkhspc.store import atomic

SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("scene", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("clear", pa.bool_(), nullable=False),
        pa.field("x_px", pa.float64(), nullable=False),
        pa.field("y_px", pa.float64(), nullable=False),
        pa.field("area_px", pa.int64(), nullable=False),
        pa.field("area_um2", pa.float64(), nullable=False),
        pa.field("contour_px", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)
"""The columns of the truth, one row per object. x_px, y_px: centroid; contour_px: x0, y0, x1, y1, ... along
pixel edges, in level-0 pixels of the scene: of the whole cell for target 'mk', of the nucleus for others."""


@dataclass(frozen=True)
class TypeScore:
    """Cells of one type against the truth, one to one at IoU of at least 0.5.

    Attributes:
        found: clear targets with a detection.
        missed: clear targets without.
        false: detections that count and match nothing.
    """

    found: int
    missed: int
    false: int

    @property
    def recall(self) -> float:
        return self.found / max(1, self.found + self.missed)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false)

    @property
    def f1(self) -> float:
        return 2 * self.found / max(1, 2 * self.found + self.missed + self.false)


@dataclass(frozen=True)
class DemoScore:
    """The score of each cell type."""

    mk: TypeScore
    hspc: TypeScore

    def of(self, cell_type: CellType) -> TypeScore:
        return self.mk if cell_type == "mk" else self.hspc


def table_of(slide_id: str, um_per_px: float, scenes: Sequence[Sequence[TrueObject]]) -> pa.Table:
    """The truth of one slide, scene by scene."""
    rows = [
        {
            "slide_id": slide_id,
            "scene": scene,
            "kind": item.kind,
            "target": KINDS[item.kind].target,
            "label": KINDS[item.kind].label,
            "clear": item.clear,
            "x_px": item.x_px,
            "y_px": item.y_px,
            "area_px": item.area_px,
            "area_um2": item.area_px * um_per_px**2,
            "contour_px": item.contour_px.ravel(),
        }
        for scene, objects in enumerate(scenes)
        for item in objects
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def write_truth(path: Path, table: pa.Table, seed: int) -> None:
    """Writes a `truth.parquet` in one step, marked as simulated."""
    marked = table.replace_schema_metadata({"mkhspc:simulated": "true", "mkhspc:seed": str(seed)})
    with atomic.replacing(path) as temporary:
        pq.write_table(marked, temporary, compression="zstd")


def read_truth(path: Path) -> pa.Table:
    """Reads a `truth.parquet`.

    Raises:
        InputError: it is missing, or it does not hold the truth of simulated slides.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, fix="write it with `mkhspc demo`"
        ) from error
    if not table.schema.equals(SCHEMA):
        raise InputError(
            "does not hold the truth of simulated slides",
            where=path,
            fix="write it with `mkhspc demo`",
        )
    return table


@dataclass(frozen=True)
class Outlines:
    """Contours of one scene's objects: (n, 2) int32 each, and their boxes as (n, 4) x0, y0, x1, y1."""

    contours: list[IntArray]
    boxes: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> Outlines:
        contours = [np.asarray(flat, np.int32).reshape(-1, 2) for flat in table["contour_px"].to_pylist()]
        boxes = [(*c.min(axis=0), *c.max(axis=0)) for c in contours]
        return cls(contours, np.array(boxes, np.int64).reshape(-1, 4))

    def near(self, box: NDArray[np.int64]) -> NDArray[np.intp]:
        """Indices of the objects whose boxes overlap this one."""
        overlaps = (self.boxes[:, :2] < box[2:]).all(axis=1) & (self.boxes[:, 2:] > box[:2]).all(axis=1)
        return np.flatnonzero(overlaps)

    def iou(self, i: int, other: Outlines, j: int) -> float:
        """Shared area over joint area of object i and object j of `other`."""
        return iou(self._box(i), self.masks[i], other._box(j), other.masks[j])

    @cached_property
    def masks(self) -> list[BoolMask]:
        """Every object's mask within its own box."""
        return [contour_to_mask(contour, self._box(i)) for i, contour in enumerate(self.contours)]

    def _box(self, i: int) -> Box:
        return Box(*(int(value) for value in self.boxes[i]))

    def holds(self, x_px: float, y_px: float) -> NDArray[np.intp]:
        """Indices of the objects in which a point lies."""
        near = np.flatnonzero(
            (self.boxes[:, 0] <= x_px)
            & (x_px < self.boxes[:, 2])
            & (self.boxes[:, 1] <= y_px)
            & (y_px < self.boxes[:, 3])
        )
        pixel = Box(int(x_px), int(y_px), int(x_px) + 1, int(y_px) + 1)
        return np.array([i for i in near if contour_to_mask(self.contours[i], pixel)[0, 0]], np.intp)


def match_truth(truth: pa.Table, cells: pa.Table) -> DemoScore:
    """Scores the cells in the filter against the truth of the same slides.

    Args:
        truth: rows of `SCHEMA`; every slide in it counts, found or not.
        cells: columns slide_id, scene, cell_type, x_px, y_px, contour_px and, if there, in_filter.
    """
    if "in_filter" in cells.column_names:
        cells = cells.filter(cells["in_filter"])
    totals = {cell_type: np.zeros(3, np.int64) for cell_type in CELL_TYPES}
    for true, found in by_scene(truth, cells):
        for cell_type in CELL_TYPES:
            totals[cell_type] += _match_scene(
                true, found.filter(pc.equal(found["cell_type"], cell_type)), cell_type
            )
    return DemoScore(**{t: TypeScore(*(int(value) for value in totals[t])) for t in CELL_TYPES})


def by_scene(truth: pa.Table, cells: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The truth and the cells of each scene of the truth."""
    for key in truth.group_by(["slide_id", "scene"]).aggregate([]).to_pylist():
        here = (pc.field("slide_id") == key["slide_id"]) & (pc.field("scene") == key["scene"])
        yield truth.filter(here), cells.filter(here)


def _match_scene(true: pa.Table, found: pa.Table, cell_type: CellType) -> NDArray[np.int64]:
    """(found, missed, false) of one cell type in one scene."""
    is_target = pc.equal(true["target"], cell_type)
    targets = true.filter(pc.and_(is_target, true["clear"]))
    pairs = match_outlines(Outlines.of(targets), Outlines.of(found))
    matched = {j for _, j in pairs}
    excused = Outlines.of(true.filter(_excuses(true, cell_type)))
    points = zip(found["x_px"].to_pylist(), found["y_px"].to_pylist(), strict=True)
    false = sum(j not in matched and excused.holds(x, y).size == 0 for j, (x, y) in enumerate(points))
    return np.array([len(pairs), targets.num_rows - len(pairs), false])


def _excuses(true: pa.Table, cell_type: CellType) -> pa.Array:
    """Which true objects excuse a detection inside them from being false."""
    unclear = pc.and_(pc.equal(true["target"], cell_type), pc.invert(true["clear"]))
    return unclear if cell_type == "mk" else pc.or_(unclear, pc.equal(true["target"], "mk"))


def match_outlines(true: Outlines, found: Outlines, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """One-to-one pairs (index of true, index of found), the best overlap first."""
    overlaps = [
        (true.iou(i, found, int(j)), i, int(j))
        for i in range(len(true.contours))
        for j in found.near(true.boxes[i])
    ]
    pairs: list[tuple[int, int]] = []
    free_true, free_found = set(range(len(true.contours))), set(range(len(found.contours)))
    for shared, i, j in sorted(overlaps, key=lambda item: (-item[0], item[1], item[2])):
        if shared >= min_iou and i in free_true and j in free_found:
            free_true.remove(i)
            free_found.remove(j)
            pairs.append((i, j))
    return pairs
