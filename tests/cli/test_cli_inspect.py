"""`mkhspc inspect` tells the truth about every slide, also about those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from czifiles import Block, mosaic_blocks, noise, write_czi
from mkhspc.cli import run_command
from mkhspc.geometry import Box
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.preview import preview_factor
from processes import mkhspc

EVIL_NAME = "<script>alert('x')\" \n\x1b[31m\u202e.czi"


def marrow_like(height: int = 900, width: int = 1200) -> NDArray[np.uint8]:
    """A stained piece with a vacuole, on glass, at 0.25 µm a pixel."""
    picture = np.full((height, width, 3), (236, 232, 238), np.uint8)
    cv2.circle(picture, (width // 2, height // 2), 400, (190, 120, 175), -1)
    cv2.circle(picture, (width // 2, height // 2), 150, (236, 232, 238), -1)
    return picture


def report(path: Path, *options: object, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert run_command(["inspect", str(path), "--json", *map(str, options)]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "refused", "tissue_share", "tiles"),
    [
        ("czi/aicspylibczi__RGB-8bit.czi", None, 0.0, 0),
        ("czi/aicspylibczi__mosaic_test.czi", "pixel type gray16", None, None),
        ("czi/aicspylibczi__tiles.czi", "pixel type gray8", None, None),
        ("czi/czitools__S3_1Pos_2Mosaic_T1_Z1_CH1.czi", "pixel type gray16", None, None),
        ("czi/czitools__newCZI_compressed.czi", "pixel type gray16", None, None),
        ("czi/czitools__DAPI_GFP.czi", "pixel type gray8", None, None),
        ("marrow/marrow.czi", None, 1.0, 3),
        ("marrow/marrow_jxr.czi", None, 1.0, 3),
    ],
)
def test_every_slide_is_described(
    shared: Path, capsys: pytest.CaptureFixture[str], name: str,
    refused: str | None, tissue_share: float | None, tiles: int | None,
) -> None:  # fmt: skip
    found = report(shared / "data" / name, capsys=capsys, code=3 if refused else 0 if tiles else 1)
    assert found["scenes"][0]["tissue_share"] == tissue_share
    assert found["tiles"] == tiles
    if refused is None:
        assert found["segment_refuses_because"] is None
    else:
        assert refused in found["segment_refuses_because"]


@pytest.mark.shared
def test_the_text_names_what_matters(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["inspect", str(shared / "data" / "marrow" / "marrow_jxr.czi")]) == 0
    text = capsys.readouterr().out
    for part in (
        "slide id    marrow_jxr", "36.0 MB", "jpeg-xr; pyramid 1/2", "bgr24, Brightfield", "0.22 µm",
        "would take it", "scene 2",
        "2,400 x 1,200 px at (9200, 274), 0.53 x 0.26 mm, tissue 0.139 mm² (100%)",
        "1 tile",
    ):  # fmt: skip
        assert part in text


def test_areas_tiles_and_shares_are_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic_blocks(marrow_like(), (-300, 7), 400, 30))
    found = report(path, "--tile-size", 300, capsys=capsys)
    scene = found["scenes"][0]
    assert (scene["width_mm"], scene["height_mm"]) == (0.3, 0.225)
    assert scene["tissue_mm2"] == pytest.approx(np.pi * 0.1**2, rel=0.02)
    assert scene["fat_free_mm2"] == pytest.approx(np.pi * (0.1**2 - 0.0375**2), rel=0.03)
    assert found["tiles"] == 12
    halo_px = found["halo_px"]
    assert halo_px > 400
    columns = sum(min(x + 300 + halo_px, 1200) - max(0, x - halo_px) for x in range(0, 1200, 300))
    rows = sum(min(y + 300 + halo_px, 900) - max(0, y - halo_px) for y in range(0, 900, 300))
    assert found["read_share"] == pytest.approx(rows * columns / (900 * 1200))


def test_results_go_to_stdout_and_progress_to_stderr(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", mosaic_blocks(marrow_like(), (0, 0), 500))
    done = mkhspc("inspect", path, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["slide_id"] == "a"
    assert json.loads(done.stderr.splitlines()[-1])["stage"] == "tissue"


class TestPixelSize:
    def test_a_slide_without_one_is_described_with_the_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(marrow_like(), (0, 0), 500), None)
        found = report(path, capsys=capsys, code=3)
        assert found["um_per_px"] is None
        assert found["scenes"][0]["tissue_mm2"] is None
        assert found["segment_refuses_because"] == "states no pixel size (give it in µm with --um-per-px)"
        run_command(["inspect", str(path)])
        assert "would refuse it: it states no pixel size" in capsys.readouterr().out

    def test_one_given_is_used(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_czi(tmp_path / "a.czi", mosaic_blocks(marrow_like(), (0, 0), 500), None)
        found = report(path, "--um-per-px", 0.25, capsys=capsys)
        assert found["scenes"][0]["tissue_mm2"] == pytest.approx(np.pi * 0.1**2, rel=0.02)
        assert found["segment_refuses_because"] is None

    @pytest.mark.parametrize("options", [["--um-per-px", "0"], ["--tile-size", "10"], ["--preview", "a.jpg"]])
    def test_values_out_of_range_are_wrong_usage(self, tmp_path: Path, options: list[str]) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(noise(9, 9), 0, 0)])
        assert run_command(["inspect", str(path), *options]) == 2


class TestPreview:
    def test_it_shows_scenes_tissue_fat_and_tiles(self, tmp_path: Path) -> None:
        blocks = [
            *mosaic_blocks(marrow_like(), (0, 0), 500),
            *mosaic_blocks(marrow_like(), (5000, 0), 500, scene=1),
        ]
        path, picture = write_czi(tmp_path / "a.czi", blocks), tmp_path / "new" / "a.png"
        assert run_command(["inspect", str(path), "--preview", str(picture), "--tile-size", "400"]) == 0
        drawn = cv2.imread(str(picture))[..., ::-1].astype(int)
        assert drawn.shape[0] > 2 * 900
        assert drawn.shape[1] > 1200
        for colour in ((0, 130, 60), (220, 120, 0), (40, 40, 40)):
            assert (np.abs(drawn - colour).max(axis=2) == 0).sum() > 500

    def test_a_slide_without_a_pixel_size_is_drawn_bare(self, tmp_path: Path) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(marrow_like(), 0, 0)], None)
        assert run_command(["inspect", str(path), "--preview", str(tmp_path / "a.png")]) == 3
        drawn = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
        assert not (np.abs(drawn - (0, 130, 60)).max(axis=2) == 0).any()

    def test_a_gray_slide_is_described_but_not_drawn(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(np.zeros((9, 9), np.uint16), 0, 0)])
        assert run_command(["inspect", str(path), "--preview", str(tmp_path / "a.png")]) == 3
        shown = capsys.readouterr()
        assert "gray16" in shown.out
        assert "is not an H&E brightfield slide" in shown.err
        assert not (tmp_path / "a.png").exists()

    def test_a_picture_that_cannot_be_written_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_czi(tmp_path / "a.czi", [Block(marrow_like(), 0, 0)])
        assert run_command(["inspect", str(path), "--preview", str(path / "b.png")]) == 3
        assert "cannot be written" in capsys.readouterr().err


class TestNames:
    def test_many_scenes_share_one_picture_of_limited_size(self) -> None:
        few = [SceneInfo(n, Box(0, 0, 16_000, 16_000)) for n in range(25)]
        many = [SceneInfo(n, Box(0, 0, 600, 600)) for n in range(10_000)]
        assert (preview_factor(few[:1]), preview_factor(few)) == (10, 10)
        assert preview_factor(many) == 8
        assert sum(scene.box.area_px for scene in many) / 8**2 < 64_000_000

    def test_an_evil_name_is_printed_harmlessly(self, tmp_path: Path) -> None:
        path = tmp_path / EVIL_NAME
        write_czi(tmp_path / "a.czi", [Block(marrow_like(), 0, 0)]).rename(path)
        shown = mkhspc("inspect", path)
        assert shown.returncode == 0
        assert shown.stdout.splitlines()[0] == r"""<script>alert('x')" \n\x1b[31m\u202e.czi"""
        assert "slide id    script_alert_x_31m" in shown.stdout
        assert "\x1b" not in shown.stdout + shown.stderr

    def test_json_holds_the_name_as_it_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / EVIL_NAME
        write_czi(tmp_path / "a.czi", [Block(marrow_like(), 0, 0)]).rename(path)
        assert run_command(["inspect", str(path), "--json"]) == 0
        text = capsys.readouterr().out
        assert "\x1b" not in text
        assert json.loads(text)["path"] == str(path)

    def test_an_error_about_an_evil_name_is_two_lines(self, tmp_path: Path) -> None:
        (tmp_path / EVIL_NAME).write_bytes(b"\x89PNG\r\n\x1a\n")
        shown = mkhspc("inspect", tmp_path / EVIL_NAME)
        assert shown.returncode == 3
        assert len(shown.stderr.splitlines()) == 2
        assert "\x1b" not in shown.stderr


@pytest.mark.parametrize("length", [0, 10, 400, 600, 5000])
def test_a_file_cut_short_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    whole = write_czi(tmp_path / "a.czi", [Block(noise(60, 60), 0, 0)]).read_bytes()
    (tmp_path / "cut.czi").write_bytes(whole[:length])
    assert run_command(["inspect", str(tmp_path / "cut.czi")]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "cut.czi" in shown.err
    assert "copy it again" in shown.err
