"""Planning a slide in which an image cannot be decoded: around it all is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mkhspc.config import load_config
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide import calibration, survey
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import TilePlan
from mkhspc.slide.tissue import TissueMask, tissue_by_scene
from runs import committed

DAMAGED = Box(600, 600, 1200, 1200)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = SlideSpec("MIDDLE", "F", "GC", sizes_um=((500.0, 450.0),))
    (written,) = write_demo_slides(tmp_path_factory.mktemp("middle"), seed=3, specs=(spec,))
    return written.path


def damage(monkeypatch: pytest.MonkeyPatch, *boxes: Box, cause: Exception | None = None) -> None:
    """Has these images of every slide fail to decode; no box is all images."""
    decode = CziSlide.decode

    def seldom(self: CziSlide, block: Any) -> Any:
        if not boxes or block.box in boxes:
            raise InputError("the image cannot be decoded") from (cause or ValueError("damaged"))
        return decode(self, block)

    monkeypatch.setattr(CziSlide, "decode", seldom)


def tissue_of(path: Path) -> TissueMask:
    with CziSlide.open(path) as reader:
        return tissue_by_scene(reader)[0]


def planned(slide: Path, root: Path) -> TilePlan:
    options = {"run.output_dir": str(root), "run.slides": (str(slide),), "run.tile_size": 512}
    layout, manifest, (slide_id,) = committed(load_config(None, options))
    return prepare_tile_plan(layout, manifest, slide_id)


def windows_read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pixels that stains are calibrated on."""
    seen: list[Any] = []
    calibrate = calibration.calibrate

    def noted(windows: list[Any], um_per_px: float) -> Any:
        seen[:] = windows
        return calibrate(windows, um_per_px)

    monkeypatch.setattr(calibration, "calibrate", noted)
    return seen


def test_what_cannot_be_seen_counts_as_tissue_and_not_as_fat_free(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tissue_of(slide)
    damage(monkeypatch, DAMAGED)
    found = tissue_of(slide)
    inside = np.zeros(found.tissue.shape, bool)
    low, high = DAMAGED.x0 // found.factor, -(-DAMAGED.x1 // found.factor)
    inside[low:high, low:high] = True
    assert found.tissue[inside].all()
    assert not found.fat_free[inside].any()
    assert (found.tissue != whole.tissue)[~inside].mean() < 0.01, "elsewhere it is what it was"


def test_a_tile_in_which_nothing_can_be_seen_is_planned(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = Box(0, 0, 600, 600)
    damage(monkeypatch, corner)
    plan = planned(slide, tmp_path / "run")
    (tile,) = [tile for tile in plan.tiles if tile.tile_id == "s0_0_0"]
    assert tile.tissue_area_um2 == pytest.approx(512 * 512 * 0.22**2)
    assert tile.fat_free_area_um2 == 0


@pytest.mark.slow
def test_the_next_window_drawn_takes_the_place_of_one_that_cannot_be_decoded(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = windows_read(monkeypatch)
    monkeypatch.setattr(calibration, "CALIBRATION_WINDOW_UM", 22.0)  # room for many
    with CziSlide.open(slide) as reader:
        tissue = tissue_by_scene(reader)
    monkeypatch.setattr(
        survey, "tissue_by_scene", lambda _: tissue
    )  # as from a pyramid, which is not damaged
    whole = planned(slide, tmp_path / "whole").calibration
    before = list(windows)
    damage(monkeypatch, DAMAGED)
    plans = [planned(slide, tmp_path / str(nth)) for nth in range(2)]
    assert plans[0].calibration == plans[1].calibration
    assert len(windows) == len(before) == 100
    kept = [w for w in before if any(np.array_equal(w, other) for other in windows)]
    assert 50 < len(kept) < 100, "some were in the damaged image, and the others are where they were"
    assert all(np.array_equal(a, b) for a, b in zip(kept, windows, strict=False))
    assert set(whole) == set(plans[0].calibration)


def test_a_slide_of_which_nothing_can_be_decoded_is_refused(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tissue = {0: tissue_of(slide)}
    damage(monkeypatch)
    with pytest.raises(InputError, match="cannot be calibrated"):
        planned(slide, tmp_path / "without a pyramid")
    monkeypatch.setattr(survey, "tissue_by_scene", lambda _: tissue)
    with pytest.raises(InputError, match="cannot be calibrated: the image cannot be decoded"):
        planned(slide, tmp_path / "with a pyramid")


def test_a_disk_that_does_not_answer_is_no_damage(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer the next time, and a plan is for ever."""
    tissue = {0: tissue_of(slide)}
    damage(monkeypatch, DAMAGED, cause=OSError(5, "Input/output error"))
    with pytest.raises(InputError, match="cannot be decoded"):
        planned(slide, tmp_path / "run")
    monkeypatch.setattr(survey, "tissue_by_scene", lambda _: tissue)
    with pytest.raises(InputError, match="cannot be decoded"):
        planned(slide, tmp_path / "run")


def test_where_a_pyramid_is_damaged_level_0_shows_the_tissue(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tissue_of(slide)

    def damaged(*_: object) -> None:
        raise InputError("the image cannot be decoded") from RuntimeError("of a pyramid level")

    monkeypatch.setattr(CziSlide, "read_lowres", damaged)
    np.testing.assert_array_equal(tissue_of(slide).tissue, whole.tissue)
