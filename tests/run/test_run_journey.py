"""`mkhspc segment` and what follows from it, typed as a user types it, on small simulated slides."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest

from compare import agreement
from crashes import Segment
from czifiles import Block, noise, write_czi
from mkhspc.config import RunConfig, load_config
from mkhspc.config.schema import RunSection
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.run.segment import segment as run_segment
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.tiles import Tile
from mkhspc.slide.tissue import TissueMask
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc, started
from runs import committed

pytestmark = pytest.mark.slow

Slides = dict[str, Path]


def words(root: Path, slides: Slides, tile_size: int = 512, workers: int = 2) -> list[object]:
    named = [word for path in slides.values() for word in ("--czi-path", path)]
    return ["segment", *named, "--output-dir", root, "--tile-size", tile_size, "--num-workers", workers]


def segment(root: Path, slides: Slides, *more: object) -> subprocess.CompletedProcess[str]:
    return mkhspc(*words(root, slides), *more)


def begun(
    root: Path, slides: Slides, tile_size: int, workers: int = 2, *, own_session: bool = False
) -> subprocess.Popen[str]:
    return started(*words(root, slides, tile_size, workers), own_session=own_session)


def table(root: Path) -> pa.Table:
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    return pa.concat_tables([cells.read_cells(layout, manifest, s.slide_id) for s in manifest.slides])


def tables_digest(root: Path) -> dict[str, str]:
    files = sorted(p for folder in ("cells", "crops") for p in (root / folder).iterdir())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def part_times(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (root / "parts").rglob("*.parquet")}


@pytest.fixture(scope="module")
def whole(small_slides: Slides, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "run"
    done = segment(root, small_slides)
    assert done.returncode == 0, done.stderr
    return root


def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_run_holds_what_the_contract_says(whole: Path, small_slides: Slides) -> None:
    found = table(whole)
    assert len(found) > 100
    assert set(found["cell_type"].to_pylist()) == {"mk", "hspc"}
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["config_hash"]
    assert {s["slide_id"]: s["um_per_px"] for s in manifest["slides"]} == dict.fromkeys(small_slides, 0.22)
    assert manifest["filter"]["mk"] == {"min_um2": 100.0, "max_um2": 2100.0, "min_score": 0.02}
    assert sorted(manifest["blind_codes"].values()) == ["S01", "S02"]


def test_areas_contours_and_ids_agree_with_one_another(whole: Path) -> None:
    from mkhspc.store.schema import parse_cell_id
    from polygons import polygon_area_px

    for row in table(whole).to_pylist():
        contour = pa.array(row["contour_px"]).to_numpy().reshape(-1, 2)
        assert polygon_area_px(contour) == row["area_px"]
        assert row["area_um2"] == pytest.approx(row["area_px"] * 0.22**2)
        assert row["x_um"] == pytest.approx(row["x_px"] * 0.22)
        name = parse_cell_id(row["cell_id"])
        assert (name.slide_id, name.scene, name.cell_type) == (
            row["slide_id"],
            row["scene"],
            row["cell_type"],
        )
        assert (name.x, name.y) == (int(row["x_px"]), int(row["y_px"]))
        _, x0, y0 = row["tile_id"].split("_")
        assert int(x0) <= row["x_px"] < int(x0) + 512
        assert int(y0) <= row["y_px"] < int(y0) + 512


def test_no_cell_is_there_twice_and_every_crop_has_its_cell(whole: Path) -> None:
    found = table(whole)
    ids = found["cell_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    layout = RunLayout(whole)
    manifest = manifests.read(layout)
    crops = [c.cell_id for s in manifest.slides for c in cells.iter_crops(layout, manifest, s.slide_id)]
    assert crops == ids


def test_hspc_inside_an_mk_name_one_that_exists(whole: Path) -> None:
    found = table(whole)
    ids = set(found["cell_id"].to_pylist())
    inside = [i for i in found["inside_mk_id"].to_pylist() if i is not None]
    assert inside, "the simulated slides have nuclei inside MK candidates"
    assert all("_mk_" in i and i in ids for i in inside)


def test_there_is_no_empty_directory_and_no_leftover(whole: Path) -> None:
    empty = [p for p in whole.rglob("*") if p.is_dir() and not any(p.iterdir())]
    assert empty == []
    assert list(whole.rglob("*.partial")) == []


def test_running_again_does_nothing_anew(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    before, digest = part_times(root), tables_digest(root)
    done = segment(root, small_slides)
    assert done.returncode == 0, done.stderr
    assert part_times(root) == before
    assert tables_digest(root) == digest


def test_slides_that_are_no_longer_named_are_reported_and_stay(
    whole: Path, small_slides: Slides, tmp_path: Path
) -> None:
    root = copied(whole, tmp_path)
    digest, (left_out, *named) = tables_digest(root), small_slides
    done = segment(root, {name: small_slides[name] for name in named})
    assert done.returncode == 0, done.stderr
    assert f"which stay and are not counted here: {left_out}\n" in done.stderr
    assert tables_digest(root) == digest
    assert "not counted" not in segment(root, small_slides).stderr


def test_a_higher_fraction_only_adds(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    seen: dict[str, object] = {}
    parts: set[str] = set()
    for fraction in (0.02, 0.4, 1.0):
        done = segment(root, small_slides, "--sample-fraction", fraction)
        assert done.returncode == 0, done.stderr
        rows = {row["cell_id"]: row for row in table(root).to_pylist()}
        assert {i: rows[i] for i in seen} == seen
        assert parts < set(part_times(root))
        seen, parts = rows, set(part_times(root))
    assert tables_digest(root) == tables_digest(whole)


def test_a_lower_fraction_removes_nothing(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    done = segment(root, small_slides, "--sample-fraction", 0.02)
    assert done.returncode == 0, done.stderr
    assert tables_digest(root) == tables_digest(whole)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mkhspc:")]
    assert "not 2% alone" in line


@pytest.mark.parametrize(("tile_size", "workers"), [(256, 2), (1024, 1), (4096, 2)])
def test_cells_do_not_depend_on_tiles_or_workers(
    whole: Path, small_slides: Slides, tmp_path: Path, tile_size: int, workers: int
) -> None:
    root = tmp_path / "run"
    done = mkhspc(*words(root, small_slides, tile_size, workers))
    assert done.returncode == 0, done.stderr
    for cell_type in ("mk", "hspc"):
        agreed = agreement(table(whole), table(root), cell_type, min_iou=0.9)
        assert agreed.paired > 2
        assert agreed.is_same, agreed


@pytest.fixture(scope="module")
def wide_cells(wide_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The cells of the wide slide in tiles of 1024 px, by their ids."""
    return cells_of(wide_slide, tmp_path_factory.mktemp("wide-run") / "run", tile_size=1024)


def cells_of(slide: Path, root: Path, tile_size: int) -> pa.Table:
    run_segment(RunConfig(run=RunSection(str(root), slides=(str(slide),), tile_size=tile_size)))
    return table(root).sort_by("cell_id")


@pytest.mark.parametrize("tile_size", [2048, 4096])
def test_tiles_of_any_size_find_the_same_cells_to_the_last_bit(
    wide_cells: pa.Table, wide_slide: Path, tmp_path: Path, tile_size: int
) -> None:
    assert len(set(wide_cells["tile_id"].to_pylist())) > 12
    types = wide_cells["cell_type"].to_pylist()
    assert types.count("mk") > 50
    assert types.count("hspc") > 1000
    found = cells_of(wide_slide, tmp_path / "run", tile_size)
    assert found.drop(["tile_id"]).equals(wide_cells.drop(["tile_id"]))


@pytest.mark.parametrize(("dx", "dy"), [(311, 97), (1000, 513)])
def test_a_shifted_grid_finds_the_same_cells_to_the_last_bit(
    wide_cells: pa.Table, wide_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dx: int, dy: int
) -> None:
    def shifted(scene: SceneInfo, tissue: TissueMask, tile_size: int) -> list[Tile]:
        corners = itertools.product(
            range(-dy, scene.height_px, tile_size), range(-dx, scene.width_px, tile_size)
        )
        cores = [Box(x, y, x + tile_size, y + tile_size).clipped(scene.box) for y, x in corners]
        return [Tile(f"s0_{c.x0}_{c.y0}", 0, c, *tissue.area_um2(c), rank=0) for c in cores]

    monkeypatch.setattr("mkhspc.slide.tiles._tiles_of_scene", shifted)
    found = cells_of(wide_slide, tmp_path / "run", tile_size=1024)
    assert found.drop(["tile_id"]).equals(wide_cells.drop(["tile_id"]))
    assert set(found["tile_id"].to_pylist()) != set(wide_cells["tile_id"].to_pylist())
    assert f"s0_{1024 - dx}_{1024 - dy}" in found["tile_id"].to_pylist()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    whole: Path, small_slides: Slides, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    kept: dict[str, int] = {}
    for parts_before_kill in (1, 4):
        process = begun(root, small_slides, 512, own_session=True)
        while process.poll() is None and len(part_times(root)) < len(kept) + parts_before_kill:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = part_times(root)
        assert kept.items() <= now.items(), "a finished tile was lost or done again"
        kept = now
    done = segment(root, small_slides)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= part_times(root).items()
    assert tables_digest(root) == tables_digest(whole)
    page = (root / "logs" / "run-summary.html").read_text(encoding="utf-8")
    assert ">complete</span>" in page, "those that were killed a moment ago are not at work"


def test_a_signal_ends_the_run_at_a_tile_border_with_130(small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = begun(root, small_slides, 256)
    while process.poll() is None and not part_times(root):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "mkhspc: stopping (SIGTERM): finishing the tiles under way" in stderr.splitlines()
    assert "run the same command again" in stderr
    assert list(root.rglob("*.partial")) == []
    status = json.loads(mkhspc("status", root, "--json").stdout)
    assert status["left"] > 0


def test_a_signal_during_the_last_tile_ends_the_command_too(small_slides: Slides, tmp_path: Path) -> None:
    run = Segment(next(iter(small_slides.values())), tmp_path / "run")
    process = run.start("--tile-size", 4096)
    while process.poll() is None and not run.begun_in_all():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130, run.errors.read_text()
    assert "with none of 1 tiles left" in run.errors.read_text()
    assert len(part_times(run.root)) == 1
    assert not (run.root / "cells").exists()
    assert run.start("--tile-size", 4096).wait() == 0
    assert (run.root / "cells").exists()


def test_shards_merge_into_the_bytes_of_one_run(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for index in (2, 0):
        done = segment(root, small_slides, "--shard", f"{index}/3")
        assert done.returncode == 0, done.stderr
    early = mkhspc("merge", root)
    assert early.returncode == 4
    assert "tiles are missing: DEMO_" in early.stderr
    assert not (root / "cells").exists()
    assert segment(root, small_slides, "--shard", "1/3").returncode == 0
    (root / "logs" / "run-summary.html").unlink()  # as if the last task was killed before it drew
    assert mkhspc("merge", root).returncode == 0
    assert tables_digest(root) == tables_digest(whole)
    assert (root / "logs" / "run-summary.html").exists()


def test_a_shard_without_tiles_is_no_error(small_slides: Slides, tmp_path: Path) -> None:
    done = segment(tmp_path / "run", small_slides, "--shard", "99/100", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"root": str(tmp_path / "run"), "shard": "99/100", "tiles": 0}


def test_another_filter_changes_the_view_and_no_cell(whole: Path, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    before, old = part_times(root), table(root)
    done = mkhspc("refilter", root, "--hspc-min-area-um", 30, "--hspc-max-area-um", 60, "--json")
    assert done.returncode == 0, done.stderr
    new = table(root)
    assert part_times(root) == before
    assert new.drop(["in_filter"]).equals(old.drop(["in_filter"]))
    hspc = [(r["area_um2"], r["in_filter"]) for r in new.to_pylist() if r["cell_type"] == "hspc"]
    assert all(inside == (30 <= area <= 60) for area, inside in hspc)
    assert json.loads(done.stdout)["in_filter"]["hspc"] == sum(inside for _, inside in hspc)


def test_a_run_goes_on_with_the_filter_in_force_and_with_the_one_it_began_with(
    whole: Path, small_slides: Slides, tmp_path: Path
) -> None:
    root = copied(whole, tmp_path)
    assert mkhspc("refilter", root, "--hspc-min-area-um", 30).returncode == 0
    named = segment(root, small_slides, "--hspc-min-area-um", 30)
    assert named.returncode == 0, named.stderr
    assert "the filter of" not in named.stderr
    as_before = segment(root, small_slides)
    assert as_before.returncode == 0, as_before.stderr
    assert (
        "the filter of HSPC is 30 to 150 µm² since `mkhspc refilter`, not 10 to 150 µm²" in as_before.stderr
    )
    other = segment(root, small_slides, "--hspc-min-area-um", 20)
    assert other.returncode == 3
    assert "change a run's filter with `mkhspc refilter`" in other.stderr


def test_a_filter_beyond_what_is_stored_is_refused(whole: Path, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    done = mkhspc("refilter", root, "--mk-max-area-um", 9000)
    assert done.returncode == 2
    assert "holds MK of 50 to 4200 µm²" in done.stderr
    assert (root / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--tile-size", 1024, "--tile-size is 512 there and 1024 here"),
        ("--seed", 5, "--seed is 0 there and 5 here"),
        ("--mk-min-area-um", 200, "--mk-min-area-um is 100 there and 200 here\n  change a run"),
        ("--um-per-px", 0.3, "--um-per-px is not given there and 0.3 here"),
    ],
)
def test_a_run_made_with_other_settings_is_refused(
    whole: Path, small_slides: Slides, tmp_path: Path, option: str, value: object, words: str
) -> None:
    root = copied(whole, tmp_path)
    done = segment(root, small_slides, option, value)
    assert done.returncode == 3
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert tables_digest(root) == tables_digest(whole)


def test_another_slide_under_the_same_name_is_refused(
    whole: Path, small_slides: Slides, tmp_path: Path
) -> None:
    root = copied(whole, tmp_path)
    other = tmp_path / "DEMO_A.czi"
    shutil.copy(small_slides["DEMO_B"], other)
    done = segment(root, {"DEMO_A": other})
    assert done.returncode == 3
    assert "is not the slide 'DEMO_A' of the run" in done.stderr


def test_another_scan_of_the_same_name_and_size_is_refused(tmp_path: Path) -> None:
    scene = noise(300, 400)
    slide = tmp_path / "A.czi"
    config = load_config(None, {"run.output_dir": str(tmp_path / "run"), "run.slides": (str(slide),)})
    write_czi(slide, [Block(scene, 0, 0)])
    first, whole = slide.stat().st_size, slide.read_bytes()
    _, manifest, _ = committed(config)
    slide.unlink()
    write_czi(slide, [Block(scene[:, ::-1], 0, 0)])
    assert slide.stat().st_size == first, "uncompressed, so that only the pixels and the file's id differ"
    with pytest.raises(InputError, match="is not the slide 'A' of the run: it is another scan"):
        committed(config)
    slide.write_bytes(whole)
    assert committed(config)[1] == manifest, "a copy is the same slide"


def test_a_moved_slide_is_the_same_slide(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = copied(whole, tmp_path)
    moved = {k: Path(shutil.copy(p, tmp_path / p.name)) for k, p in small_slides.items()}
    assert segment(root, moved).returncode == 0
    assert tables_digest(root) == tables_digest(whole)


def test_a_run_can_grow_by_a_slide(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert segment(root, {"DEMO_A": small_slides["DEMO_A"]}).returncode == 0
    first = json.loads((root / "manifest.json").read_text())
    assert segment(root, {"DEMO_B": small_slides["DEMO_B"]}).returncode == 0
    grown = json.loads((root / "manifest.json").read_text())
    assert grown["dataset"] == first["dataset"], "labels given so far stay valid"
    assert grown["blind_codes"] == {**first["blind_codes"], "DEMO_B": "S02"}
    assert tables_digest(root) == tables_digest(whole)


def test_two_processes_on_one_run_do_each_tile_and_agree(
    whole: Path, small_slides: Slides, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    both = [begun(root, small_slides, 512, workers=1) for _ in range(2)]
    ends = [(p.communicate()[1], p.returncode) for p in both]
    assert [code for _, code in ends] == [0, 0], ends
    assert tables_digest(root) == tables_digest(whole)


def test_processes_with_slides_of_their_own_make_one_run_of_all(small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    slides = {f"M{i}": tmp_path / f"M{i}.czi" for i in range(4)}
    with CziSlide.open(small_slides["DEMO_A"]) as slide:
        rgb = slide.read(0, slide.scene(0).box)
    for nth, path in enumerate(slides.values()):  # a copy is no slide of its own
        write_czi(path, [Block(rgb[nth:], 0, 0)], 0.22)
    all_at_once = [begun(root, {s: path}, 4096, workers=1) for s, path in slides.items()]
    ends = [(p.communicate()[1], p.returncode) for p in all_at_once]
    assert [code for _, code in ends] == [0] * 4, ends
    assert {s.slide_id for s in manifests.read(RunLayout(root)).slides} == set(slides)
    assert {s.code for s in manifests.read(RunLayout(root)).slides} == {"S01", "S02", "S03", "S04"}


def test_one_scene_alone(whole: Path, small_slides: Slides, tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert segment(root, {"DEMO_B": small_slides["DEMO_B"]}, "--scene", 1).returncode == 0
    expected = [r for r in table(whole).to_pylist() if r["slide_id"] == "DEMO_B" and r["scene"] == 1]
    assert [r["cell_id"] for r in table(root).to_pylist()] == [r["cell_id"] for r in expected]


def test_a_memory_limit_too_small_for_one_worker_is_refused_before_any_work(
    small_slides: Slides, tmp_path: Path
) -> None:
    done = segment(tmp_path / "run", small_slides, "--memory-gb", 0.2)
    assert done.returncode == 2
    assert "GB of memory and the limit is 0.2 GB" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("with_survey", [False, True])
def test_a_refused_command_changes_nothing(small_slides: Slides, tmp_path: Path, with_survey: bool) -> None:
    root = tmp_path / "run"
    first = {"DEMO_A": small_slides["DEMO_A"]}
    assert segment(root, first, "--sample-fraction", 0.02).returncode == 0
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    # The second slide is not planned yet: then the limit must be large enough for the survey.
    slides, limit_gb = (small_slides, 0.45) if with_survey else (first, 0.2)
    done = segment(root, slides, "--sample-fraction", 1.0, "--memory-gb", limit_gb)
    assert done.returncode == 2, done.stderr
    assert "would need" in done.stderr
    assert '"survey"' in done.stderr
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_progress_is_one_json_line_a_step_when_not_on_a_terminal(
    small_slides: Slides, tmp_path: Path
) -> None:
    by_name = ("--mk-detector", "classical", "--hspc-detector", "classical")  # else the choice is told too
    done = segment(tmp_path / "run", {"DEMO_A": small_slides["DEMO_A"]}, *by_name)
    steps = [json.loads(line) for line in done.stderr.splitlines()]
    assert {step["stage"] for step in steps} >= {"survey", "tiles", "merge"}
    last = [step for step in steps if step["stage"] == "tiles"][-1]
    assert last["done"] == last["total"] > 0
