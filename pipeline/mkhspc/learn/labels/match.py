"""Finds the cell of a run that a label means: by its id, or else by its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import KDTree

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.learn.labels.left_out import left_out
from mkhspc.store.cells import BATCH_ROWS, cell_batches
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import CellName

NEAR_UM = 2.0
"""Distance in µm up to which a label whose point lies in no contour is given to the nearest centroid."""
_PLACES_AT_ONCE = 20_000
"""Points that are looked up in one go, which bounds the memory of the search."""

Rows = NDArray[np.int64]
Points = NDArray[np.float64]


class MatchKind(StrEnum):
    """How a label found its cell, or why it has none: its tile or slide is excluded, or it is nowhere."""

    EXACT = "exact"
    CONTOUR = "contour"
    NEAR = "near"
    EXCLUDED = "excluded"
    UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True)
class Match:
    """A label's cell in the run; without one `cell_id` is empty and `in_filter` is False."""

    kind: MatchKind
    cell_id: str = ""
    in_filter: bool = False


def match_names(
    layout: RunLayout, manifest: Manifest, names: Iterable[CellName | None]
) -> dict[CellName, Match]:
    """Finds the cell of each distinct name; None is passed over.

    An id of the run is that cell. Any other name is a point, the centre of the pixel (x, y): it
    means the one cell of its slide, scene and type whose contour holds that point; where there is
    none, or more than one, the one whose centroid is nearest and at most `NEAR_UM` away. A name in an
    excluded tile or slide has no cell, even while the tables still hold it.
    """
    by_slide: dict[str, list[CellName]] = defaultdict(list)
    for name in dict.fromkeys(name for name in names if name is not None):
        by_slide[name.slide_id].append(name)
    found: dict[CellName, Match] = {}
    known = {slide.slide_id for slide in manifest.slides}
    for slide_id, wanted in by_slide.items():
        if slide_id in known:
            gone = left_out(layout, manifest, slide_id, wanted)
            found |= dict.fromkeys(gone, Match(MatchKind.EXCLUDED))
            if there := [name for name in wanted if name not in gone]:
                found |= _Slide(layout, manifest, slide_id).match(there)
        else:
            found |= dict.fromkeys(wanted, Match(MatchKind.UNMATCHED))
    return found


class _Slide:
    """The cells of one slide, indexed by id, and by place only for names that are not ids of the run."""

    def __init__(self, layout: RunLayout, manifest: Manifest, slide_id: str) -> None:
        columns = ["cell_id", "scene", "cell_type", "x_px", "y_px", "in_filter"]
        self._source = (layout, manifest, slide_id)
        self._cells = pa.concat_tables(cell_batches(layout, manifest, slide_id, columns)).combine_chunks()
        self._um_per_px = manifest.slide(slide_id).um_per_px
        self._reach_px: dict[CellType, float] = {
            t: manifest.stored(t).max_length_um / self._um_per_px + 2.0 for t in CELL_TYPES
        }

    def match(self, names: Sequence[CellName]) -> dict[CellName, Match]:
        rows = pc.index_in(pa.array(map(str, names), pa.string()), value_set=self._cells["cell_id"])
        found = {
            name: self._as_match(MatchKind.EXACT, row)
            for name, row in zip(names, rows.to_pylist(), strict=True)
            if row is not None
        }
        places: dict[tuple[int, CellType], list[CellName]] = defaultdict(list)
        for name in names:
            if name not in found:
                places[name.scene, name.cell_type].append(name)
        for (scene, cell_type), lost in places.items():
            for start in range(0, len(lost), _PLACES_AT_ONCE):
                found |= self._by_place(scene, cell_type, lost[start : start + _PLACES_AT_ONCE])
        return found

    def _by_place(self, scene: int, cell_type: CellType, names: list[CellName]) -> dict[CellName, Match]:
        is_kind = pc.and_(
            pc.equal(self._cells["scene"], scene), pc.equal(self._cells["cell_type"], cell_type)
        )
        rows = np.flatnonzero(is_kind.to_numpy(zero_copy_only=False))
        if not len(rows):
            return dict.fromkeys(names, Match(MatchKind.UNMATCHED))
        centroids = np.column_stack([self._cells[c].to_numpy()[rows] for c in ("x_px", "y_px")])
        points = np.array([(name.x + 0.5, name.y + 0.5) for name in names])
        tree = KDTree(centroids)
        inside = self._row_inside(points, tree, rows, self._reach_px[cell_type])
        distance, nearest = tree.query(points, distance_upper_bound=NEAR_UM / self._um_per_px * (1 + 1e-9))
        found = {}
        for name, row, gap, near in zip(names, inside, distance, nearest, strict=True):
            if row >= 0:
                found[name] = self._as_match(MatchKind.CONTOUR, row)
            elif np.isfinite(gap):
                found[name] = self._as_match(MatchKind.NEAR, rows[near])
            else:
                found[name] = Match(MatchKind.UNMATCHED)
        return found

    def _row_inside(self, points: Points, tree: KDTree, rows: Rows, reach_px: float) -> Rows:
        """For each point the row of the one cell whose contour holds it, -1 for none or several."""
        near = tree.query_ball_point(points, reach_px)
        which = np.repeat(np.arange(len(points)), [len(candidates) for candidates in near])
        cell = rows[np.concatenate([np.asarray(c, np.int64) for c in near])] if len(which) else which
        candidates, contour = np.unique(cell, return_inverse=True)
        holds = points_in_contours(points[which], contour, self._contours(candidates))
        count = np.bincount(which[holds], minlength=len(points))
        row = np.full(len(points), -1, np.int64)
        row[which[holds]] = cell[holds]
        return np.where(count == 1, row, -1)

    def _contours(self, rows: Rows) -> pa.Array:
        """Contours of these rows (ascending), read a batch at a time."""
        picked = [pa.array([], pa.list_(pa.int32()))]
        for number, batch in enumerate(cell_batches(*self._source, ["contour_px"]) if len(rows) else ()):
            first = number * BATCH_ROWS
            low, high = np.searchsorted(rows, (first, first + len(batch)))
            if low < high:
                taken = batch["contour_px"].take(pa.array(rows[low:high] - first))
                picked += [chunk.cast(pa.list_(pa.int32())) for chunk in taken.chunks]
        return pa.concat_arrays(picked)

    def _as_match(self, kind: MatchKind, row: Any) -> Match:
        row = int(row)
        return Match(kind, self._cells["cell_id"][row].as_py(), self._cells["in_filter"][row].as_py())


def points_in_contours(points: Points, contour: Rows, contours: pa.Array) -> NDArray[np.bool_]:
    """Whether each point lies inside its contour, by the even-odd rule.

    Args:
        points: (n, 2) float x, y in pixels; none may lie on an outline (pixel centres never do).
        contour: (n,) which of `contours` each point is asked about.
        contours: list array of int32, x0, y0, x1, y1, ... of each polygon.

    Returns:
        (n,) bool.
    """
    if not len(points):
        return np.zeros(0, np.bool_)
    corners = contours.flatten().to_numpy().reshape(-1, 2).astype(np.float64)
    starts = contours.offsets.to_numpy().astype(np.int64)[:-1] // 2
    counts = np.diff(contours.offsets.to_numpy()).astype(np.int64) // 2
    low, high = np.minimum.reduceat(corners, starts), np.maximum.reduceat(corners, starts)
    boxed = np.flatnonzero(np.all((low[contour] <= points) & (points <= high[contour]), axis=1))
    edge_point = np.repeat(boxed, counts[contour[boxed]])
    offset = np.arange(len(edge_point)) - np.repeat(
        np.cumsum(counts[contour[boxed]]) - counts[contour[boxed]], counts[contour[boxed]]
    )
    polygon = contour[edge_point]
    a = corners[starts[polygon] + offset]
    b = corners[starts[polygon] + (offset + 1) % counts[polygon]]
    crossed = _crosses(a, b, points[edge_point])
    inside: NDArray[np.bool_] = np.bincount(edge_point[crossed], minlength=len(points)) % 2 == 1
    return inside


def _crosses(a: Points, b: Points, point: Points) -> NDArray[np.bool_]:
    """Whether the ray from each point to the right crosses the edge from a to b."""
    spans = (a[:, 1] > point[:, 1]) != (b[:, 1] > point[:, 1])
    rise = np.where(spans, b[:, 1] - a[:, 1], 1.0)
    x = a[:, 0] + (point[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / rise
    crossed: NDArray[np.bool_] = spans & (x > point[:, 0])
    return crossed
