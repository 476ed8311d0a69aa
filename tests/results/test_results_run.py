"""The report of a run: what is counted, what it is divided by, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from mkhspc.charts import LIGHT
from mkhspc.errors import IncompleteError, InputError
from mkhspc.results.counts import SlideResult, slide_results
from mkhspc.results.design import read_design
from mkhspc.results.page import write_report
from mkhspc.results.plots import _panel, density_png
from mkhspc.results.report import make_report, slide_rows, to_json
from mkhspc.results.statistics import Unit
from mkhspc.store import tables
from mkhspc.store.cells import read_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.schema import SCORES
from runs import FakeRun, make_run, write_cells

SLIDES = ("FGC1", "FHU1", "MGC1")
GROUPS = "slide_id,animal,sex,treatment\nFGC1,a,F,GC\nFHU1,b,F,HU\nMGC1,c,M,GC\nother,d,F,GC\n"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("pristine") / "run", slide_ids=SLIDES, cells_per_type=20)


@pytest.fixture
def run(pristine: FakeRun, tmp_path: Path) -> FakeRun:
    """A run that the test may change."""
    root = tmp_path / "run"
    shutil.copytree(pristine.layout.root, root)
    return replace(pristine, layout=RunLayout(root))


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    path = tmp_path / "groups.csv"
    path.write_text(GROUPS)
    return path


def read(run: FakeRun, slide_id: str) -> pa.Table:
    return read_cells(run.layout, run.manifest, slide_id)


def of(results: list[SlideResult], slide_id: str, cell_type: str) -> SlideResult:
    return next(r for r in results if (r.slide_id, r.cell_type) == (slide_id, cell_type))


def write_scores(run: FakeRun, slide_id: str, cells: pa.Table, classifier_id: str = "c1") -> None:
    ids = cells["cell_id"].to_pylist()
    rows = [
        {"cell_id": i, "classifier_id": classifier_id, "score": 0.5, "is_positive": run.truth[i]} for i in ids
    ]
    table = pa.Table.from_pylist(rows, SCORES)
    tables.write_table(run.layout.scores(slide_id), table, run.manifest.config_hash)


def test_candidates_in_the_filter_are_counted_per_tissue(run: FakeRun) -> None:
    cells = read(run, "FGC1")
    expected = cells.filter(pc.field("in_filter") & (pc.field("cell_type") == "mk")).num_rows
    found = of(slide_results(run.layout, run.manifest), "FGC1", "mk")
    assert 0 < expected < 20
    assert (found.candidates.cells, found.positives, found.counted_as) == (
        expected, None, "candidates by morphology",
    )  # fmt: skip
    assert (found.searched.tissue_mm2, found.searched.fat_free_mm2) == pytest.approx((2.0, 1.6))


def test_areas_are_those_of_the_finished_tiles(run: FakeRun) -> None:
    cells = read(run, "FGC1")
    gone = "s0_x000000_y000000"
    run.layout.part("FGC1", gone).unlink()
    kept = cells.filter(pc.field("tile_id") != gone)
    assert kept.num_rows < cells.num_rows
    write_cells(run.layout, run.manifest, "FGC1", kept)
    searched = of(slide_results(run.layout, run.manifest), "FGC1", "mk").searched
    assert (searched.tiles_done, searched.tiles_planned, searched.sampling_fraction) == (3, 4, 0.75)
    assert searched.tissue_mm2 == pytest.approx(1.5)


def test_the_sampling_fraction_is_of_tissue_not_of_tiles(run: FakeRun) -> None:
    plan = tables.read_table(run.layout.plan("FGC1"), run.manifest.config_hash)
    areas = pa.array([9e5, 1e5, 5e5, 5e5])
    place = plan.column_names.index("tissue_area_um2")
    unequal = plan.set_column(place, plan.schema.field("tissue_area_um2"), areas)
    tables.write_table(run.layout.plan("FGC1"), unequal, run.manifest.config_hash)
    gone = plan["tile_id"][0].as_py()
    run.layout.part("FGC1", gone).unlink()
    write_cells(run.layout, run.manifest, "FGC1", read(run, "FGC1").filter(pc.field("tile_id") != gone))
    searched = of(slide_results(run.layout, run.manifest), "FGC1", "mk").searched
    assert searched.sampling_fraction == pytest.approx(1.1 / 2.0)


def test_tiles_that_are_not_merged_are_refused(run: FakeRun) -> None:
    cells = read(run, "FHU1")
    write_cells(run.layout, run.manifest, "FHU1", cells.slice(1))
    with pytest.raises(IncompleteError, match="FHU1"):
        slide_results(run.layout, run.manifest)


def test_a_slide_without_tables_is_refused(run: FakeRun) -> None:
    run.layout.cells("MGC1").unlink()
    with pytest.raises(IncompleteError, match="MGC1"):
        slide_results(run.layout, run.manifest)


def test_scored_cells_are_counted_when_positive(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id))
    cells = read(run, "FGC1").filter(pc.field("in_filter") & (pc.field("cell_type") == "mk"))
    expected = sum(run.truth[i] for i in cells["cell_id"].to_pylist())
    found = of(slide_results(run.layout, run.manifest), "FGC1", "mk")
    assert found.counted.cells == expected < cells.num_rows == found.candidates.cells
    assert (found.classifier_id, found.counted_as) == ("c1", "classified positive")


def test_densities_are_counts_over_tissue_and_over_tissue_without_fat(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id))
    rows = slide_rows(make_report(run.layout))
    assert any(row["positives"] < row["candidates"] for row in rows)
    for row in rows:
        assert (row["tissue_mm2"], row["fat_free_mm2"]) == pytest.approx((2.0, 1.6))
        for kind in ("candidates", "positives"):
            assert row[f"{kind}_per_mm2"] == pytest.approx(row[kind] / 2.0)
            assert row[f"{kind}_per_mm2_fat_free"] == pytest.approx(row[kind] / 1.6)


def test_the_median_area_is_that_of_the_counted_cells(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id))
    inside = pc.field("in_filter") & (pc.field("cell_type") == "mk")
    mk = read(run, "FGC1").filter(inside).to_pylist()
    positive = [row["area_um2"] for row in mk if run.truth[row["cell_id"]]]
    assert np.median(positive) != np.median([row["area_um2"] for row in mk])
    found = of(slide_results(run.layout, run.manifest), "FGC1", "mk")
    assert found.median_area_um2 == pytest.approx(np.median(positive))


def test_a_classifier_of_which_nothing_was_noted_is_a_concern(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id))
    report = make_report(run.layout)
    assert [(c.cell_type, c.classifier_id, c.groups) for c in report.classifiers] == [
        ("mk", "c1", ()), ("hspc", "c1", ()),
    ]  # fmt: skip
    assert report.concerns[0].startswith("The MK classifier c1 has no summary in this run")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "another", "version": 1}'])
def test_a_damaged_note_of_a_classifier_is_refused(run: FakeRun, text: str) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id))
    run.layout.classifier_summary("c1").write_text(text)
    with pytest.raises(InputError, match=r"c1\.json"):
        make_report(run.layout)


def test_one_type_may_be_scored_and_the_other_not(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id).filter(pc.field("cell_type") == "mk"))
    results = slide_results(run.layout, run.manifest)
    assert of(results, "FGC1", "mk").positives is not None
    assert of(results, "FGC1", "hspc").positives is None


def test_scores_of_some_cells_only_are_refused(run: FakeRun) -> None:
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id).slice(3))
    with pytest.raises(InputError, match="in part"):
        slide_results(run.layout, run.manifest)


def test_slides_scored_by_different_classifiers_are_refused(run: FakeRun) -> None:
    for number, slide_id in enumerate(SLIDES):
        write_scores(run, slide_id, read(run, slide_id), f"c{number}")
    with pytest.raises(InputError, match="different classifiers: c0, c1, c2"):
        slide_results(run.layout, run.manifest)


def test_slides_scored_in_part_of_the_run_are_refused(run: FakeRun) -> None:
    write_scores(run, "FGC1", read(run, "FGC1"))
    with pytest.raises(InputError, match="c1, none"):
        slide_results(run.layout, run.manifest)


def test_nuclei_of_an_accepted_mk_are_left_out(run: FakeRun) -> None:
    cells = read(run, "FGC1")
    inside = cells.filter(pc.field("in_filter"))
    mk = inside.filter(pc.field("cell_type") == "mk")["cell_id"].to_pylist()
    hspc = inside.filter(pc.field("cell_type") == "hspc")["cell_id"].to_pylist()
    accepted = next(i for i in mk if run.truth[i])
    rejected = next(i for i in mk if not run.truth[i])
    hosts = {hspc[0]: [rejected, accepted], hspc[1]: [rejected]}
    column = pa.array([hosts.get(i) for i in cells["cell_id"].to_pylist()], pa.list_(pa.string()))
    marked = cells.set_column(cells.column_names.index("inside_mk_ids"), "inside_mk_ids", column)
    write_cells(run.layout, run.manifest, "FGC1", marked)
    found = of(slide_results(run.layout, run.manifest), "FGC1", "hspc")
    assert (found.candidates.cells, found.candidates.inside_mk) == (len(hspc) - 2, 2)
    areas_um2 = {row["cell_id"]: row["area_um2"] for row in inside.to_pylist()}
    assert found.median_area_um2 == pytest.approx(np.median([areas_um2[i] for i in hspc[2:]]))
    assert found.median_area_um2 != np.median([areas_um2[i] for i in hspc])
    for slide_id in SLIDES:
        write_scores(run, slide_id, read(run, slide_id).filter(pc.field("cell_type") == "mk"))
    scored = of(slide_results(run.layout, run.manifest), "FGC1", "hspc").candidates
    assert (scored.cells, scored.inside_mk) == (len(hspc) - 1, 1)


def test_groups_come_from_the_file(run: FakeRun, groups: Path) -> None:
    design = read_design(run.manifest, groups)
    assert design.factors == ("sex", "treatment")
    assert [(s.slide_id, s.animal, s.group) for s in design.slides.values()] == [
        ("FGC1", "a", "F GC"), ("FHU1", "b", "F HU"), ("MGC1", "c", "M GC"),
    ]  # fmt: skip


def test_without_groups_all_slides_are_one(run: FakeRun) -> None:
    report = make_report(run.layout)
    assert {group.group for group in report.groups} == {"all slides"}
    assert report.comparisons == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("slide_id,sex\nFGC1,F\nFHU1,F\n", "MGC1"),
        ("slide_id,sex\nFGC1,F\nFGC1,F\n", "FGC1 twice"),
        ("slide_id,sex\nFGC1,\n", "no value for sex"),
        ("slide_id,sex\nFGC1,F,GC\n", "more values"),
        ("slide,sex\nFGC1,F\n", "no column slide_id"),
        ("", "no column slide_id"),
        ("slide_id\n", "names no slide"),
        ("slide_id,animal,sex\nFGC1,a,F\nFHU1,a,M\nMGC1,b,M\n", "two groups: FGC1 and FHU1"),
    ],
)
def test_a_wrong_groups_file_is_refused(run: FakeRun, tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_design(run.manifest, path)


def test_files_hold_the_same_numbers(run: FakeRun, groups: Path, tmp_path: Path) -> None:
    report = make_report(run.layout, groups)
    page = write_report(report, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [(r["slide_id"], r["cell_type"]) for r in rows] == [(s, t) for s in SLIDES for t in ("mk", "hspc")]
    for row, result in zip(rows, report.results, strict=True):
        assert float(row["candidates_per_mm2"]) == result.candidates.cells / result.searched.tissue_mm2
        assert (row["positives"], row["simulated"]) == ("", "False")
    means = [float(r["mean_per_mm2"]) for r in csv.DictReader((tmp_path / "out" / "groups.csv").open())]
    assert means == [group.mean_per_mm2 for group in report.groups]
    assert (tmp_path / "out" / "density.png").read_bytes().startswith(b"\x89PNG")
    assert "too few slides" in page.read_text()
    assert json.loads(json.dumps(to_json(report), allow_nan=False))["slides"][0]["slide_id"] == "FGC1"


def test_a_group_that_looks_like_a_formula_is_text_in_a_spreadsheet(run: FakeRun, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("slide_id,@dose\nFGC1,=1+1\nFHU1,-0.5\nMGC1,-0.5\n")
    write_report(make_report(run.layout, path), tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert {row["slide_id"]: row["'@dose"] for row in rows} == {
        "FGC1": "'=1+1",
        "FHU1": "-0.5",
        "MGC1": "-0.5",
    }
    for file in (tmp_path / "out").glob("*.csv"):
        cells = [cell for row in csv.reader(file.open(newline="")) for cell in row]
        assert not [cell for cell in cells if cell[:1] in "=@+-" and not _is_number(cell)], file.name


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def test_the_same_run_gives_the_same_files(run: FakeRun, groups: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(make_report(run.layout, groups), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_page_needs_nothing_from_elsewhere_and_escapes_groups(run: FakeRun, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("slide_id,sex\nFGC1,<script>x</script>\nFHU1,F\nMGC1,F\n")
    text = write_report(make_report(run.layout, path), tmp_path / "out").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r'(src|href|srcset)="(?!data:)', text)


def test_a_dollar_in_the_name_of_a_group_is_not_mathematics(run: FakeRun, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text("slide_id,dose\nFGC1,$\\frac$\nFHU1,$x$\nMGC1,F\n")
    page = write_report(make_report(run.layout, path), tmp_path / "out")
    assert r"$\frac$" in page.read_text()


def test_only_demo_slides_are_called_simulated(run: FakeRun, tmp_path: Path) -> None:
    demo = make_run(tmp_path / "demo", slide_ids=("DEMO_FGC1", "DEMO_FHU1"), cells_per_type=8)
    for one, expected in ((run, False), (demo, True)):
        report = make_report(one.layout)
        text = write_report(report, tmp_path / f"out{expected}").read_text().lower()
        assert report.is_simulated is expected
        assert ("simulated" in text) is expected
    units = make_report(demo.layout).units
    assert density_png(units, is_simulated=True) != density_png(units, is_simulated=False)


def mkhspc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mkhspc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_a_report_and_prints_it(run: FakeRun, groups: Path, tmp_path: Path) -> None:
    done = mkhspc("report", "--run", run.layout.root, "--out", tmp_path / "out", "--groups", groups, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert Path(shown["page"]).exists()
    assert len(shown["slides"]) == 6


def test_a_report_is_written_again_over_itself_and_never_into_something_else(
    run: FakeRun, tmp_path: Path
) -> None:
    report, site = make_report(run.layout), tmp_path / "site"
    write_report(report, tmp_path / "out")
    write_report(report, tmp_path / "out")
    site.mkdir()
    (site / "site.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds something other than a report: site\.json"):
        write_report(report, site)
    assert [path.name for path in site.iterdir()] == ["site.json"]


def test_the_command_refuses_a_gallery_as_its_place(run: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("a gallery")
    done = mkhspc("report", "--run", run.layout.root, "--out", tmp_path)
    assert done.returncode == 3
    assert "holds something other than a report: index.html, run" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_without_named_animals_the_unit_is_the_slide(run: FakeRun, groups: Path, tmp_path: Path) -> None:
    plain = write_report(make_report(run.layout), tmp_path / "plain").read_text()
    named = write_report(make_report(run.layout, groups), tmp_path / "named").read_text()
    assert '<th scope="col">Slides</th>' in plain
    assert "a dot for each slide" in plain
    assert '<th scope="col">Animals</th>' in named
    assert "The unit is the animal." in named


def test_one_dot_has_no_line_of_a_mean() -> None:
    def lines(values: list[float]) -> int:
        axes = Figure().subplots()
        found = [Unit(str(v), "F GC", {}, "mk", "candidates by morphology", 5, v, v) for v in values]
        _panel(axes, found, ["F GC"], LIGHT)
        return sum(isinstance(item, LineCollection) for item in axes.collections)

    assert (lines([2.0]), lines([2.0, 3.0])) == (0, 1)


def test_the_command_says_how_many_it_left_out_and_groups_thousands(run: FakeRun, tmp_path: Path) -> None:
    for slide_id in SLIDES:
        plan = tables.read_table(run.layout.plan(slide_id), run.manifest.config_hash)
        for name in ("tissue_area_um2", "fat_free_area_um2"):
            place = plan.column_names.index(name)
            plan = plan.set_column(place, plan.schema.field(name), pc.divide(plan[name], 1000.0))
        tables.write_table(run.layout.plan(slide_id), plan, run.manifest.config_hash)
    left_out = sum(result.counted.inside_mk for result in slide_results(run.layout, run.manifest))
    done = mkhspc("report", "--run", run.layout.root, "--out", tmp_path / "out")
    assert f"{left_out} HSPC inside an MK are left out." in done.stdout
    assert re.search(r"\d,\d{3}\.\d", done.stdout)
    assert not re.search(r"\d{4}\.\d", done.stdout)


def test_the_command_refuses_what_is_not_a_run(tmp_path: Path) -> None:
    done = mkhspc("report", "--run", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "is not a run" in done.stderr
    assert not (tmp_path / "out").exists()
