"""A run as an object: what its tables, crops and contours give, and what it says of what is not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mkhspc
from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.schema import CROPS, SCORES
from runs import FakeRun, make_run

SLIDES = ("FGC1", "FHU1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("api") / "run", slide_ids=SLIDES, cells_per_type=20)


@pytest.fixture(scope="module")
def run(made: FakeRun) -> mkhspc.Run:
    return mkhspc.open_run(made.layout.root)


@pytest.fixture
def fresh(made: FakeRun, tmp_path: Path) -> FakeRun:
    """A copy of the run, which the test may change."""
    shutil.copytree(made.layout.root, tmp_path / "run")
    return replace(made, layout=RunLayout(tmp_path / "run"))


def wipe(path: Path, column: str, group: int = 0) -> None:
    """Overwrites a column's values in one row group of a table, so that reading them fails."""
    chunk = next(
        found
        for n in range(pq.read_metadata(path).num_columns)
        if (found := pq.read_metadata(path).row_group(group).column(n)).path_in_schema.startswith(column)
    )
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(bytes(chunk.total_compressed_size))


def test_cells_are_those_in_the_filter_of_all_slides_unless_asked_otherwise(run: mkhspc.Run) -> None:
    shown, stored, outside = run.cells(), run.cells(in_filter=None), run.cells(in_filter=False)
    assert set(shown["in_filter"].to_pylist()) == {True}
    assert stored.num_rows == 2 * len(SLIDES) * 20 == shown.num_rows + outside.num_rows
    assert outside.num_rows > 0
    assert stored["slide_id"].unique().to_pylist() == list(SLIDES)
    assert stored.column_names == run.columns


def test_cells_are_chosen_by_type_and_slide_with_the_columns_asked_for(run: mkhspc.Run) -> None:
    cells = run.cells(cell_type="mk", slide="FHU1", in_filter=None, columns=["area_um2", "cell_id"])
    assert cells.column_names == ["area_um2", "cell_id"]
    assert cells.num_rows == 20
    assert all(name.startswith("FHU1_s0_mk_") for name in cells["cell_id"].to_pylist())


def test_only_the_columns_asked_for_are_read(fresh: FakeRun) -> None:
    for slide_id in SLIDES:
        wipe(fresh.layout.cells(slide_id), "texture_entropy")
    run = mkhspc.open_run(fresh.layout.root)
    assert run.cells(columns=["slide_id", "shape_area_um2"]).num_rows > 0
    with pytest.raises(mkhspc.InputError, match="is damaged"):
        run.cells(columns=["slide_id", "texture_entropy"])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"columns": ["cell_id", "area"]}, "cells have no column 'area'\n  did you mean area_"),
        ({"columns": "q"}, "cells have no column 'q'\n  there are: cell_id, slide_id"),
        ({"slide": "FGC2"}, "this run has no slide 'FGC2'\n  its slides are: FGC1, FHU1"),
        ({"cell_type": "MK"}, "there is no cell type 'MK'\n  there are: mk, hspc"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    run: mkhspc.Run, wanted: dict[str, object], words: str
) -> None:
    with pytest.raises(mkhspc.UsageError) as caught:
        run.cells(**wanted)
    assert str(caught.value).startswith(words)


def test_slides_and_filter_are_those_of_the_manifest(run: mkhspc.Run, made: FakeRun) -> None:
    assert run.slides == made.manifest.slides
    assert run.filter["mk"].min_um2 == 100.0
    assert run.filter["hspc"].max_um2 == 150.0


def test_crops_come_in_the_order_of_the_ids_in_rgb(run: mkhspc.Run) -> None:
    ids = run.cells(columns=["cell_id"])["cell_id"]
    crops = run.crops(ids)
    again = run.crops(ids.to_pylist()[::-1])
    assert len(crops) == len(ids)
    for cell_id, crop, same in zip(ids.to_pylist(), crops, reversed(again), strict=True):
        side = round((80 if "_mk_" in cell_id else 25) / 0.22)
        assert crop.shape == (side, side, 3)
        assert crop.dtype == np.uint8
        assert np.array_equal(crop, same)
    assert abs(crops[0][0, 0].astype(int) - [236, 200, 222]).max() <= 8  # the pink ground of these crops
    assert run.crops(ids[0].as_py())[0].shape == crops[0].shape
    assert run.crops([]) == []


def test_a_few_crops_are_found_without_reading_the_others(fresh: FakeRun) -> None:
    path = fresh.layout.crops("FGC1")
    table = tables.read_table(path, fresh.manifest.config_hash)
    tables.write_stream(path, CROPS, [table.cast(CROPS)], fresh.manifest.config_hash, group_rows=10)
    for group in (0, 2, 3):
        wipe(path, "image", group)
    run = mkhspc.open_run(fresh.layout.root)
    ids = table["cell_id"].to_pylist()
    assert len(run.crops(ids[12:19])) == 7
    with pytest.raises(mkhspc.InputError, match="is damaged"):
        run.crops(ids[9:12])


def test_contours_are_corners_around_the_centroid_in_um_or_px(run: mkhspc.Run) -> None:
    cells = run.cells(cell_type="mk", columns=["cell_id", "x_um", "y_um", "area_um2"])
    in_um = run.contours(cells["cell_id"])
    in_px = run.contours(cells["cell_id"], unit="px")
    for row, um, px in zip(cells.to_pylist(), in_um, in_px, strict=True):
        assert um.shape == px.shape == (len(um), 2)
        assert um.dtype == np.float64
        assert np.allclose(um, 0.22 * px)
        assert (um.min(axis=0) < [row["x_um"], row["y_um"]]).all()
        assert ([row["x_um"], row["y_um"]] < um.max(axis=0)).all()
        x, y = um.T
        area_um2 = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        assert area_um2 == pytest.approx(row["area_um2"], rel=0.2)
    assert run.contours([]) == []


@pytest.mark.parametrize("cell_id", ["FGC1_s0_mk_1_1", "OTHER_s0_mk_1_1", "7"])
def test_an_unknown_cell_is_named(run: mkhspc.Run, cell_id: str) -> None:
    known = run.cells(columns=["cell_id"])["cell_id"][0].as_py()
    for look in (run.crops, run.contours):
        with pytest.raises(mkhspc.InputError, match=f"'{cell_id}'"):
            look([known, cell_id])


def test_an_unknown_unit_is_refused(run: mkhspc.Run) -> None:
    with pytest.raises(mkhspc.UsageError, match="no unit 'mm'"):
        run.contours([], unit="mm")


def test_a_run_without_tables_says_how_they_are_made(fresh: FakeRun) -> None:
    shutil.rmtree(fresh.layout.root / "cells")
    shutil.rmtree(fresh.layout.root / "crops")
    run = mkhspc.open_run(fresh.layout.root)
    for look in (run.cells, lambda: run.crops(["FGC1_s0_mk_1_1"]), lambda: run.columns):
        with pytest.raises(
            mkhspc.InputError,
            match=r"(is missing|no tables of cells yet)\n  run `mkhspc segment` to its end, or `mk",
        ):
            look()


def test_scores_are_a_table_and_their_lack_is_named(fresh: FakeRun) -> None:
    run = mkhspc.open_run(fresh.layout.root)
    with pytest.raises(mkhspc.InputError, match="no scores yet\n  score them with `mkhspc score`"):
        run.scores()
    ids = run.cells(slide="FHU1", in_filter=None, columns=["cell_id"])["cell_id"].to_pylist()
    rows = [{"cell_id": i, "classifier_id": "c", "score": 0.25, "is_positive": False} for i in ids]
    written = pa.Table.from_pylist(rows, schema=SCORES)
    tables.write_table(fresh.layout.scores("FHU1"), written, fresh.manifest.config_hash)
    assert run.scores().equals(written)
    assert set(run.scores(cell_type="mk")["cell_id"].to_pylist()) == {i for i in ids if "_mk_" in i}
    with pytest.raises(mkhspc.InputError, match="no scores yet"):
        run.scores(slide="FGC1")


def test_another_filter_changes_what_cells_gives(fresh: FakeRun, caplog: pytest.LogCaptureFixture) -> None:
    run = mkhspc.open_run(fresh.layout.root)
    elsewhere = mkhspc.open_run(fresh.layout.root)
    summary = run.refilter(mk_min_area_um=500.0)
    assert caplog.messages == []
    areas = elsewhere.cells(cell_type="mk", columns=["area_um2"])["area_um2"].to_pylist()
    assert min(areas) >= 500.0
    assert summary.in_filter["mk"] == len(areas)
    assert elsewhere.filter["mk"].min_um2 == 500.0
    with pytest.raises(mkhspc.UsageError, match="holds MK of 50 to 4200 µm²"):
        run.refilter(mk_min_area_um=20.0)
    with pytest.raises(mkhspc.UsageError, match="no area and no score was given"):
        run.refilter()


def test_a_report_has_the_groups_given_and_is_written_where_asked(fresh: FakeRun, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("slide_id,treatment\nFGC1,GC\nFHU1,HU\n")
    run = mkhspc.open_run(fresh.layout.root)
    report = run.report(groups=groups, out=tmp_path / "report")
    assert {group.group for group in report.groups} == {"GC", "HU"}
    assert {result.slide_id for result in report.results} == set(SLIDES)
    assert (tmp_path / "report" / "report.html").exists()
    assert {group.group for group in run.report().groups} == {"all slides"}
    with pytest.raises(mkhspc.InputError, match="holds something other than a report"):
        run.report(out=fresh.layout.root)


def test_a_run_shows_what_it_is(run: mkhspc.Run) -> None:
    shown = repr(run)
    assert str(run.path) in shown
    assert "2 slides (FGC1, FHU1), 8 finished tiles" in shown
    assert "MK of 100 to 2100 µm² with a score of at least 0.02; HSPC of 10 to 150 µm²" in shown


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mkhspc.InputError, match="is not a run"):
        mkhspc.open_run(tmp_path)


def test_a_run_of_which_the_first_slide_has_no_tables_yet_shows_the_others(fresh: FakeRun) -> None:
    fresh.layout.cells(SLIDES[0]).unlink()
    run = mkhspc.open_run(fresh.layout.root)
    of_second = run.cells(slide=SLIDES[1], in_filter=None)
    assert of_second.num_rows == 40
    assert of_second.column_names == run.columns
    assert run.contours([]) == []
    for path in fresh.layout.root.glob("cells/*.parquet"):
        path.unlink()
    with pytest.raises(mkhspc.InputError, match="the run has no tables of cells yet"):
        _ = run.columns
