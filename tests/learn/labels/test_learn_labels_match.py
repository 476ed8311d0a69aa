"""A label finds the cell it means: by its id, by the contour around its point, or the nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from labelfiles import moved, old_id
from mkhspc.geometry import Box, contour_to_mask, mask_to_contour, normalise_mask
from mkhspc.learn.labels.match import NEAR_UM, Match, MatchKind, match_names, points_in_contours
from mkhspc.store.cells import read_cells
from mkhspc.store.manifest.exclusions import Exclusion
from mkhspc.store.schema import CellName, parse_cell_id
from mkhspc.store.tables import read_table
from runs import FakeRun, make_run, write_cells


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("match"), slide_ids=("FGC1",), scenes=2, cells_per_type=30)


def cells_of(run: FakeRun, slide_id: str) -> list[dict[str, object]]:
    columns = ["cell_id", "scene", "cell_type", "x_px", "y_px", "contour_px", "in_filter"]
    rows: list[dict[str, object]] = read_cells(run.layout, run.manifest, slide_id, columns).to_pylist()
    return rows


def found(run: FakeRun, *ids: str) -> list[Match]:
    names = [parse_cell_id(cell_id) for cell_id in ids]
    matches = match_names(run.layout, run.manifest, names)
    return [matches[name] for name in names]


def expected(run: FakeRun, name: CellName) -> tuple[MatchKind, str]:
    """The rule of the contract, cell by cell, with masks instead of polygons."""
    own = [
        c
        for c in cells_of(run, name.slide_id)
        if c["scene"] == name.scene and c["cell_type"] == name.cell_type
    ]
    if any(c["cell_id"] == str(name) for c in own):
        return MatchKind.EXACT, str(name)
    pixel = Box(name.x, name.y, name.x + 1, name.y + 1)
    holding = [c for c in own if contour_to_mask(np.array(c["contour_px"]).reshape(-1, 2), pixel)[0, 0]]
    if len(holding) == 1:
        return MatchKind.CONTOUR, str(holding[0]["cell_id"])
    um_per_px = run.manifest.slide(name.slide_id).um_per_px
    gaps = [np.hypot(c["x_px"] - name.x - 0.5, c["y_px"] - name.y - 0.5) * um_per_px for c in own]
    nearest = int(np.argmin(gaps))
    return (
        (MatchKind.NEAR, str(own[nearest]["cell_id"]))
        if gaps[nearest] <= NEAR_UM
        else (MatchKind.UNMATCHED, "")
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_point_is_given_to_the_cell_that_the_rule_names(run: FakeRun, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.sampled_from(sorted(run.truth)), min_size=1, max_size=8))
    shift = st.integers(-170, 170)
    names = [parse_cell_id(moved(cell_id, data.draw(shift), data.draw(shift))) for cell_id in ids]
    matches = match_names(run.layout, run.manifest, names)
    assert {name: (matches[name].kind, matches[name].cell_id) for name in names} == {
        name: expected(run, name) for name in names
    }


def test_the_rule_is_met_in_all_four_ways(run: FakeRun) -> None:
    """Keeps the property above from holding for want of cases."""
    rng = np.random.default_rng(0)
    names = [parse_cell_id(moved(c, *rng.integers(-150, 150, 2).tolist())) for c in sorted(run.truth)]
    names += [parse_cell_id(c) for c in sorted(run.truth)[:3]]
    ways = {match.kind for match in match_names(run.layout, run.manifest, names).values()}
    assert {MatchKind.EXACT, MatchKind.CONTOUR, MatchKind.UNMATCHED} <= ways


def test_every_cell_of_the_run_is_itself(run: FakeRun) -> None:
    ids = sorted(run.truth)
    assert [(m.kind, m.cell_id) for m in found(run, *ids)] == [(MatchKind.EXACT, cell_id) for cell_id in ids]


def test_an_old_id_means_scene_0(run: FakeRun) -> None:
    new = next(c for c in sorted(run.truth) if "_s0_" in c)
    (match,) = found(run, old_id(new))
    assert (match.kind, match.cell_id) == (MatchKind.EXACT, new)


def test_a_match_says_whether_the_cell_is_in_the_filter(run: FakeRun) -> None:
    inside = {str(c["cell_id"]): c["in_filter"] for c in cells_of(run, "FGC1")}
    assert set(inside.values()) == {True, False}
    assert {m.cell_id: m.in_filter for m in found(run, *inside)} == inside


def test_the_nearest_centroid_counts_up_to_two_micrometres(tmp_path: Path) -> None:
    run = make_run(tmp_path, slide_ids=("FGC1",), cells_per_type=3, um_per_px=1.0)
    small = min((c for c in cells_of(run, "FGC1") if c["cell_type"] == "hspc"), key=contour_area)
    x, y = float(str(small["x_px"])), float(str(small["y_px"]))
    reach_px = int(np.ptp(np.array(small["contour_px"])[::2])) // 2
    assert reach_px <= 2, "the cell must be smaller than the reach for this test to say anything"
    ways = {}
    for shift in range(1, 6):
        name = CellName("FGC1", 0, "hspc", int(x) + shift, int(y))
        ways[name.x + 0.5 - x] = match_names(run.layout, run.manifest, [name])[name].kind
    assert {gap for gap, how in ways.items() if how == MatchKind.UNMATCHED} == {
        g for g in ways if g > NEAR_UM
    }
    assert MatchKind.NEAR in ways.values()


def contour_area(cell: dict[str, object]) -> int:
    return int(np.ptp(np.array(cell["contour_px"])[::2]))


def test_a_slide_scene_or_type_that_the_run_lacks_is_unmatched(run: FakeRun) -> None:
    known = next(c for c in sorted(run.truth) if c.startswith("FGC1_s0_mk"))
    others = [known.replace("FGC1", "XYZ9"), known.replace("_s0_", "_s7_"), known.replace("_mk_", "_hspc_")]
    assert [match.kind for match in found(run, *others)] == [MatchKind.UNMATCHED] * 3


def test_a_point_inside_two_cells_is_not_guessed(tmp_path: Path) -> None:
    run = make_run(tmp_path, slide_ids=("FGC1",), cells_per_type=4)
    table = read_cells(run.layout, run.manifest, "FGC1")
    rows = table.to_pylist()
    one, other, *_ = (row for row in rows if row["cell_type"] == "mk" and row["area_px"] > 3000)
    other |= {"contour_px": one["contour_px"], "x_px": one["x_px"] + 40.0, "y_px": one["y_px"]}
    write_cells(run.layout, run.manifest, "FGC1", pa.Table.from_pylist(rows, table.schema))
    near, far = (moved(one["cell_id"], pixels, 0) for pixels in (3, 15))
    assert [match.kind for match in found(run, near, far)] == [MatchKind.NEAR, MatchKind.UNMATCHED]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_points_in_contours_agree_with_the_pixels_of_the_masks(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        blob = normalise_mask(ndimage.gaussian_filter(rng.random((24, 24)), 2.0) > 0.5)
        masks.append(blob if blob.any() else np.ones((24, 24), bool))
    contours = pa.array([mask_to_contour(mask).ravel() for mask in masks], pa.list_(pa.int32()))
    x, y = np.meshgrid(np.arange(-2, 26), np.arange(-2, 26))
    pixels = np.column_stack([x.ravel(), y.ravel()])
    which = np.repeat(np.arange(count), len(pixels))
    points = np.tile(pixels + 0.5, (count, 1))
    padded = [np.pad(mask, 2).ravel() for mask in masks]
    assert np.array_equal(points_in_contours(points, which, contours), np.concatenate(padded))


def excluding(run: FakeRun, *exclusions: Exclusion) -> FakeRun:
    return replace(run, manifest=run.manifest.with_exclusions(exclusions))


def test_labels_of_an_excluded_slide_are_told_apart_from_those_without_a_cell(run: FakeRun) -> None:
    ids = [cell["cell_id"] for cell in cells_of(run, "FGC1")[:3]]
    gone = excluding(run, Exclusion("FGC1", "wrong stain"))
    assert found(gone, *map(str, ids)) == [Match(MatchKind.EXCLUDED)] * 3


def test_labels_in_an_excluded_tile_have_no_cell_even_before_the_tables_are_made_anew(run: FakeRun) -> None:
    plan = read_table(run.layout.plan("FGC1"), run.manifest.config_hash)
    tile = plan.to_pylist()[0]
    gone = excluding(run, Exclusion("FGC1", "folded", tile["tile_id"]))
    names = [parse_cell_id(str(cell["cell_id"])) for cell in cells_of(run, "FGC1")]
    matches = match_names(gone.layout, gone.manifest, names)
    inside = {
        n
        for n in names
        if n.scene == tile["scene"]
        and n.x in range(tile["x0_px"], tile["x1_px"])
        and n.y in range(tile["y0_px"], tile["y1_px"])
    }
    assert 0 < len(inside) < len(names)
    assert {n for n, match in matches.items() if match == Match(MatchKind.EXCLUDED)} == inside
    assert {matches[n].kind for n in set(names) - inside} == {MatchKind.EXACT}
