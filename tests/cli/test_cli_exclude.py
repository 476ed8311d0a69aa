"""`mkhspc exclude`: damage that stays, and slides that are no good, leave a study by name and reason."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import mkhspc as library
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest.exclusions import Exclusion, summary_lines
from processes import mkhspc

BROKEN, WHOLE = "BROKEN", "DEMO_A"
TILE_PX = 512


def break_first_image(path: Path) -> None:
    """Overwrites the pixels of a slide's first sub-block, as a scanner that wrote nothing there."""
    with CziSlide.open(path) as reader:
        extent = reader._extent(reader.mosaic(0).level_0[0])
    with path.open("r+b") as file:
        file.seek(extent.position_bytes)
        file.write(b"\xff" * extent.length_bytes)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, small_slides: dict[str, Path]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("broken")
    spec = SlideSpec(BROKEN, "F", "GC", sizes_um=((420.0, 380.0),))
    (written,) = write_demo_slides(folder, seed=3, specs=(spec,))
    break_first_image(written.path)
    return {BROKEN: written.path, WHOLE: small_slides[WHOLE]}


def segment(slides: dict[str, Path], root: Path, *words: object) -> subprocess.CompletedProcess[str]:
    named = [word for path in slides.values() for word in ("--czi-path", path)]
    return mkhspc("segment", *named, "--output-dir", root, "--tile-size", TILE_PX, *words)


@pytest.fixture(scope="module")
def failed(slides: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a slide with one broken image and a whole one, as `segment` leaves it."""
    root = tmp_path_factory.mktemp("study") / "run"
    done = segment(slides, root)
    assert done.returncode == 4, done.stderr
    assert f"`mkhspc exclude {root} --failed` leaves them out" in done.stderr
    return root


@pytest.fixture
def run(failed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(failed, tmp_path / "run"))


def done(*words: object, code: int = 0) -> str:
    found = mkhspc(*words)
    assert found.returncode == code, found.stderr
    return found.stdout if code == 0 else found.stderr


def status_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done("status", run, "--json"))
    return found


def slide_status(run: Path, slide_id: str) -> dict[str, Any]:
    (found,) = [slide for slide in status_of(run)["slides"] if slide["slide_id"] == slide_id]
    return dict(found)


def table(run: Path, slide_id: str) -> pa.Table:
    layout = RunLayout(run)
    return cells.read_cells(layout, manifests.read(layout), slide_id)


def test_one_command_that_merge_names_leaves_out_all_that_failed_and_all_else_goes_on(
    run: Path, tmp_path: Path
) -> None:
    failing = slide_status(run, BROKEN)["failed_tiles"]
    assert len(failing) > 3
    before = (run / "cells" / f"{WHOLE}.parquet").read_bytes()
    refused = done("merge", run, code=4)
    command = refused.split("`")[-2]
    assert shlex.split(command) == ["mkhspc", "exclude", str(run), "--failed"]
    said = done(*shlex.split(command)[1:])
    assert f"leave out {BROKEN}: {len(failing)} tiles (" in said
    assert said.splitlines()[-1].endswith(f"merge {run}")
    done("merge", run)
    assert (run / "cells" / f"{WHOLE}.parquet").read_bytes() == before
    assert not set(table(run, BROKEN)["tile_id"].to_pylist()) & set(failing)
    done("gallery", "--run", run, "--out", tmp_path / "site")
    done("report", "--run", run, "--out", tmp_path / "report")
    found = slide_status(run, BROKEN)
    assert (found["failed"], found["left"], found["excluded"]) == (0, 0, len(failing))
    reasons = {one["tile_id"]: one["reason"] for one in status_of(run)["exclusions"]}
    assert set(reasons) == set(failing)
    assert set(reasons.values()) == {"the image at x 0, y 0 cannot be decoded (its zstd header is unknown)"}


def test_densities_lose_the_area_of_what_is_left_out(run: Path, tmp_path: Path) -> None:
    layout = RunLayout(run)
    plan = load_tile_plan(layout, BROKEN, manifests.read(layout).config_hash)
    failing = set(slide_status(run, BROKEN)["failed_tiles"])
    kept = [tile for tile in plan.tiles if tile.tile_id not in failing]
    done("exclude", run, "--failed")
    done("merge", run)
    done("report", "--run", run, "--out", tmp_path / "report")
    with (tmp_path / "report" / "results.csv").open() as file:
        row = next(
            row for row in csv.DictReader(file) if row["slide_id"] == BROKEN and row["cell_type"] == "hspc"
        )
    assert float(row["tissue_mm2"]) == pytest.approx(sum(t.tissue_area_um2 for t in kept) / 1e6)
    assert float(row["fat_free_mm2"]) == pytest.approx(sum(t.fat_free_area_um2 for t in kept) / 1e6)
    assert float(row["sampling_fraction"]) == pytest.approx(1.0)
    assert int(row["tiles_planned"]) == int(row["tiles_done"]) == len(kept)
    assert float(row["candidates_per_mm2"]) == pytest.approx(
        int(row["candidates"]) / float(row["tissue_mm2"])
    )


def test_status_and_gallery_name_the_command_too(run: Path, tmp_path: Path) -> None:
    command = f"mkhspc exclude {run} --failed"
    assert command in done("status", run).replace("\n", "")
    assert command in mkhspc("gallery", "--run", run, "--out", tmp_path / "site").stderr


def test_before_the_tables_are_made_anew_what_is_left_out_is_in_no_answer(run: Path) -> None:
    study = library.open_run(run)
    tile = str(study.cells(slide=WHOLE, columns=["tile_id"])["tile_id"][0])
    study.exclude(tiles=f"{WHOLE}/{tile}", reason="folded")
    assert tile not in set(study.cells(slide=WHOLE, columns=["tile_id"])["tile_id"].to_pylist())
    study.exclude(slides=WHOLE, undo=True)  # takes back its tile as well
    assert study.exclusions == ()
    assert tile in set(study.cells(slide=WHOLE, columns=["tile_id"])["tile_id"].to_pylist())


def test_a_damaged_part_of_a_tile_that_is_left_out_holds_nothing_up(run: Path) -> None:
    part = min((run / "parts" / WHOLE).glob("*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    done("exclude", run, "--tile", f"{WHOLE}/{part.stem}", "--slide", BROKEN, "--reason", "damaged")
    done("merge", run)
    assert part.exists()


def test_every_report_names_what_is_left_out_and_why(run: Path, tmp_path: Path) -> None:
    done("exclude", run, "--failed", "--reason", "one image was never written")
    done("merge", run)
    done("report", "--run", run, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"Left out of the study: {BROKEN}: " in page
    assert "(one image was never written)" in page
    rows = list(csv.DictReader((tmp_path / "report" / "exclusions.csv").open()))
    assert {row["reason"] for row in rows} == {"one image was never written"}
    assert "one image was never written" in " ".join(done("status", run).split())
    assert "(one image was never written)" in (run / "logs" / "run-summary.html").read_text()


def test_no_tile_is_drawn_in_the_place_of_one_that_is_left_out(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    run, one = tmp_path / "run", {WHOLE: slides[WHOLE]}
    assert segment(one, run, "--sample-fraction", 0.5).returncode == 0
    half = {path.stem for path in (run / "parts" / WHOLE).glob("*.parquet")}
    done("exclude", run, "--tile", f"{WHOLE}/{min(half)}", "--reason", "folded")
    assert segment(one, run, "--sample-fraction", 0.5).returncode == 0
    assert {path.stem for path in (run / "parts" / WHOLE).glob("*.parquet")} == half
    found = slide_status(run, WHOLE)
    assert (found["tiles"], found["done"], found["excluded"]) == (len(half) - 1, len(half) - 1, 1)
    assert segment(one, run, "--sample-fraction", 1.0).returncode == 0
    assert min(half) not in set(table(run, WHOLE)["tile_id"].to_pylist())


def test_a_tile_that_is_done_leaves_the_tables_and_comes_back_with_the_same_bytes(run: Path) -> None:
    done("exclude", run, "--slide", BROKEN, "--reason", "wrong stain")
    done("merge", run)
    path = run / "cells" / f"{WHOLE}.parquet"
    before, tile = path.read_bytes(), str(table(run, WHOLE)["tile_id"][0])
    done("exclude", run, "--tile", f"{WHOLE}/{tile}", "--reason", "folded")
    stale = slide_status(run, WHOLE)
    assert stale["merged_cells"] > sum(stale["cells"].values())
    done("gallery", "--run", run, "--out", run.with_name("site"))
    assert tile not in set(table(run, WHOLE)["tile_id"].to_pylist())
    done("merge", run)
    assert tile not in set(table(run, WHOLE)["tile_id"].to_pylist())
    done("exclude", run, "--tile", f"{WHOLE}/{tile}", "--undo")
    assert "not all finished tiles" in done("report", "--run", run, "--out", run.with_name("r"), code=4)
    done("merge", run)
    assert path.read_bytes() == before


def test_a_whole_slide_leaves_the_study_and_its_group(
    run: Path, slides: dict[str, Path], tmp_path: Path
) -> None:
    done("exclude", run, "--slide", BROKEN, "--reason", "wrong stain")
    done("merge", run)
    assert table(run, BROKEN).num_rows == 0
    (tmp_path / "groups.csv").write_text(f"slide_id,sex\n{WHOLE},F\n")
    words = ("--groups", tmp_path / "groups.csv", "--json")
    report = json.loads(done("report", "--run", run, "--out", tmp_path / "report", *words))
    assert {row["slide_id"] for row in report["slides"]} == {WHOLE}
    assert report["exclusions"] == [{"slide_id": BROKEN, "reason": "wrong stain", "tile_id": None}]
    assert all(group["units"] == 1 for group in report["groups"])
    found = slide_status(run, BROKEN)
    assert (found["tiles"], found["left"], found["is_excluded"]) == (0, 0, True)
    again = segment(slides, run)
    assert again.returncode == 0, again.stderr
    assert f"left out of the study: {BROKEN}: the whole slide (wrong stain)" in again.stderr


def test_a_slide_that_cannot_even_be_opened_any_more_holds_nothing_up(
    run: Path, slides: dict[str, Path], tmp_path: Path
) -> None:
    gone = tmp_path / f"{BROKEN}.czi"
    gone.write_bytes(b"no slide any more")
    named = {BROKEN: gone, WHOLE: slides[WHOLE]}
    assert segment(named, run).returncode == 3
    done("exclude", run, "--slide", BROKEN, "--reason", "the disk lost it")
    assert segment(named, run).returncode == 0


def test_jobs_of_a_slide_that_was_left_out_end_well(run: Path, slides: dict[str, Path]) -> None:
    """The tasks of an array that was submitted before."""
    done("exclude", run, "--slide", BROKEN, "--reason", "wrong stain")
    assert segment(slides, run, "--only", BROKEN, "--shard", "0/2").returncode == 0
    assert segment(slides, run, "--only", BROKEN).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--slide", "BROKN", "--reason", "x"), 2, "this run has no slide 'BROKN'\n  did you mean BROKEN?"),
        (("--tile", f"{WHOLE}/s0_0_7", "--reason", "x"), 2, f"this run has no tile of {WHOLE} 's0_0_7'"),
        (("--tile", "s0_0_0", "--reason", "x"), 2, "'s0_0_0' is not the name of a tile"),
        (("--slide", WHOLE), 2, "no reason is given"),
        (("--slide", WHOLE, "--reason", "  "), 2, "no reason is given"),
        ((), 2, "no slide and no tile is named"),
        (("--undo",), 2, "no slide and no tile is named"),
        (("--slide", WHOLE, "--undo"), 2, f"'{WHOLE}' is not excluded"),
        (("--slide", WHOLE, "--slide", BROKEN, "--reason", "x"), 2, "nothing of the study would be left"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    run: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    before = {p: p.read_bytes() for p in run.glob("manifest*")}
    assert said in done("exclude", run, *words, code=code)
    assert {p: p.read_bytes() for p in run.glob("manifest*")} == before


def test_a_damaged_plan_of_another_slide_holds_no_exclusion_up(run: Path) -> None:
    plan = RunLayout(run).plan(WHOLE)
    plan.write_bytes(plan.read_bytes()[:-40])
    done("exclude", run, "--slide", BROKEN, "--reason", "wrong stain")
    assert [one.name for one in library.open_run(run).exclusions] == [BROKEN]


def test_to_leave_out_what_failed_twice_changes_nothing_the_second_time(run: Path) -> None:
    done("exclude", run, "--failed")
    before = (run / "manifest.json").read_bytes()
    assert "nothing changes" in done("exclude", run, "--failed")
    assert (run / "manifest.json").read_bytes() == before


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.glob("manifest*")}
    assert f"would leave out {BROKEN}: the whole slide (x)" in done(
        "exclude", run, "--slide", BROKEN, "--reason", "x", "--dry-run"
    )
    assert {p: p.read_bytes() for p in run.glob("manifest*")} == before


def test_from_python(run: Path) -> None:
    study = library.open_run(run)
    found = study.exclude(slides=BROKEN, reason="wrong\n  stain")
    assert found == study.exclusions == (Exclusion(BROKEN, "wrong stain"),)
    assert study.merge().tiles == len(list((run / "parts" / WHOLE).glob("*.parquet")))
    assert study.exclude(slides=[BROKEN], undo=True) == ()
    with pytest.raises(library.UsageError, match="no reason is given"):
        study.exclude(slides=BROKEN)


def test_a_run_made_before_there_were_exclusions_opens(run: Path) -> None:
    data = json.loads((run / "manifest.json").read_text())
    del data["exclusions"]
    data["checksum"] = manifests.checksum(data)
    (run / "manifest.json").write_text(json.dumps(data))
    assert manifests.read(RunLayout(run)).exclusions == ()


def test_lines_gather_the_tiles_of_one_reason() -> None:
    found = [
        Exclusion("B", "y"),
        *(Exclusion("A", "x", f"s0_{i}_0") for i in range(3)),
        Exclusion("A", "z", "s0_9_0"),
    ]
    assert summary_lines(found) == ["A: 1 tile (z)", "A: 3 tiles (x)", "B: the whole slide (y)"]
