"""What a slide is called decides no cell; runs that began when it did are finished as they began."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mkhspc.cli import run_command
from mkhspc.config import RunConfig, load_config
from mkhspc.config.identity import CALIBRATION_DRAW, DRAW_BY_NAME, DRAW_BY_TISSUE, identity
from mkhspc.errors import InputError
from mkhspc.run.opening.pending import pending_run
from mkhspc.run.segment import segment
from mkhspc.slide.calibration import calibrate_scenes
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import SceneCalibration
from mkhspc.slide.survey import survey_slide
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.slide.tissue import tissue_by_scene
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from runs import begun_by_name

NAMES = ("alpha", "beta", "M 07 (2).gamma")


def named(slide: Path, folder: Path, name: str) -> Path:
    """The same bytes under another name, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    os.link(slide, folder / f"{name}.czi")
    return folder / f"{name}.czi"


def study(root: Path, *slides: Path, **options: object) -> RunConfig:
    settings = {"run.output_dir": str(root), "run.slides": [str(s) for s in slides], "run.tile_size": 512}
    return load_config(None, {**settings, "compute.num_workers": 1, **options})


def calibration(slide: Path, draw: int = DRAW_BY_TISSUE, **options: object) -> Mapping[int, SceneCalibration]:
    config = load_config(None, {"run.calibration_samples": 3, **options})
    with CziSlide.open(slide) as opened:
        return survey_slide(opened, config.run, draw).calibration


def cells_of(layout: RunLayout, slide_id: str) -> list[str]:
    """Rows as texts, with the slide's name taken out of them."""
    rows = pq.read_table(layout.cells(slide_id)).to_pylist()
    return sorted(repr(row).replace(slide_id, "") for row in rows)


def test_the_same_bytes_under_three_names_give_the_same_cells(tiny_slide: Path, tmp_path: Path) -> None:
    found = []
    for name in NAMES:
        layout = RunLayout(tmp_path / "runs" / name)
        segment(study(layout.root, named(tiny_slide, tmp_path / name, name)))
        (table,) = layout.root.glob("cells/*.parquet")
        found.append(cells_of(layout, table.stem))
    assert len(found[0]) > 30
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_neither_tile_size_nor_other_slides_nor_scenes_asked_for_change_a_calibration(
    small_slides: dict[str, Path],
) -> None:
    slide = small_slides["DEMO_B"]
    whole = calibration(slide)
    assert calibration(slide, **{"run.tile_size": 300}) == whole
    assert calibration(slide, **{"run.scenes": [1]}) == whole


def test_the_seed_and_the_scene_change_it(small_slides: dict[str, Path]) -> None:
    slide = small_slides["DEMO_B"]
    whole = calibration(slide)
    assert calibration(slide, **{"run.seed": 1}) != whole
    with CziSlide.open(slide) as opened:
        first = tissue_by_scene(opened)[0]
        run = load_config(None, {"run.calibration_samples": 3}).run
        as_first = calibrate_scenes(opened, {0: first}, run, DRAW_BY_TISSUE)[0]
    assert as_first == whole[0] != whole[1]


def test_a_run_begun_by_name_is_finished_by_name(tiny_slide: Path, tmp_path: Path) -> None:
    """Two names of the same bytes: each run has the calibration of its slide's name, and the cells differ."""
    slides = [named(tiny_slide, tmp_path / name, name) for name in ("alpha", "beta")]
    samples = {"run.calibration_samples": 3}
    for slide in slides:
        layout = begun_by_name(study(tmp_path / f"run-{slide.stem}", slide, **samples))
        begun = manifests.read(layout)
        assert CALIBRATION_DRAW not in begun.identity
        segment(study(layout.root, slide, **samples))
        assert manifests.read(layout).config_hash == begun.config_hash
        plan = load_tile_plan(layout, slide.stem, begun.config_hash)
        assert plan.calibration == calibration(slide, DRAW_BY_NAME)
        assert plan.calibration != calibration(slide)
    ours, theirs = (cells_of(RunLayout(tmp_path / f"run-{s.stem}"), s.stem) for s in slides)
    assert ours != theirs


def test_a_run_begun_by_name_takes_no_new_slide_and_goes_on_without_it(
    tiny_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = named(tiny_slide, tmp_path / "a", "alpha"), tmp_path / "b" / "beta.czi"
    new.parent.mkdir()
    new.write_bytes(tiny_slide.read_bytes())
    layout = begun_by_name(study(tmp_path / "run", old, **{"run.sample_fraction": 0.3}))
    before = layout.manifest.read_bytes()
    with pytest.raises(InputError) as refused, pending_run(study(layout.root, old, new)):
        pass
    assert str(refused.value) == (
        f"{layout.root}: this run was begun when a slide's name helped to decide on which windows its colours"
        " are calibrated; it is finished with the slides it has, and takes no new ones: beta\n"
        "  leave them out (--only names the slides to go on with), or segment all slides into a new"
        " --output-dir"
    )
    assert layout.manifest.read_bytes() == before
    segment(study(layout.root, old, new), only=["alpha"])
    run = str(layout.root)
    for words in (
        ["segment", "--czi-path", str(old), "--output-dir", run, "--tile-size", "512"],  # now the whole slide
        ["merge", run],
        ["refilter", run, "--hspc-min-area-um", "12"],
        ["gallery", "--run", run, "--out", str(tmp_path / "site")],
        ["report", "--run", run, "--out", str(tmp_path / "report")],
        ["status", run],
    ):
        assert run_command(words) == 0, capsys.readouterr().err


def test_new_runs_are_told_apart_from_old_ones(tiny_slide: Path, tmp_path: Path) -> None:
    new = RunLayout(tmp_path / "new")
    with pending_run(study(new.root, tiny_slide)) as pending:
        manifest = pending.commit()
    assert manifest.identity[CALIBRATION_DRAW] == DRAW_BY_TISSUE
    old = identity(manifest.config, manifest.model_hashes, draw=DRAW_BY_NAME)
    assert set(manifest.identity) - set(old) == {CALIBRATION_DRAW}
    assert (
        manifests.read(begun_by_name(study(tmp_path / "old", tiny_slide))).config_hash != manifest.config_hash
    )


def test_a_run_of_a_draw_that_is_not_known_here_is_refused(tiny_slide: Path, tmp_path: Path) -> None:
    layout = begun_by_name(study(tmp_path / "run", tiny_slide))
    data = json.loads(layout.manifest.read_text())
    data["identity"][CALIBRATION_DRAW] = 3
    data["checksum"] = manifests.checksum(data)
    layout.manifest.write_text(json.dumps(data))
    with pytest.raises(InputError, match="is not a manifest that this version of mkhspc reads"):
        manifests.read(layout)
