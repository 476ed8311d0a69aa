"""`inspect` promises nothing that `segment` refuses: the same exit code and reason on the same slides."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from czifiles import Block, noise, write_czi
from mkhspc.cli import run_command
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide.czi.slide import CziSlide

Make = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of several images."""
    spec = SlideSpec("WHOLE", "F", "GC", sizes_um=((300.0, 280.0),))
    (written,) = write_demo_slides(tmp_path_factory.mktemp("whole"), seed=3, specs=(spec,))
    return written.path


def spoilt(path: Path, whole: Path, first: int = 0, count: int | None = None) -> None:
    """The slide with the pixels of some of its images overwritten."""
    shutil.copyfile(whole, path)
    with CziSlide.open(path) as slide:
        blocks = slide.mosaic(0).level_0
        extents = [slide._extent(b) for b in blocks[first : None if count is None else first + count]]
    with path.open("r+b") as file:
        for extent in extents:
            file.seek(extent.position_bytes)
            file.write(b"\xff" * extent.length_bytes)


def glass(size: int) -> Block:
    return Block(np.full((size, size, 3), (236, 232, 238), np.uint8), 0, 0)


CASES: dict[str, tuple[Make, int]] = {
    "sound": (lambda path, whole: shutil.copyfile(whole, path), 0),
    "one image damaged": (lambda path, whole: spoilt(path, whole, 0, 1), 4),
    "every image damaged": (spoilt, 3),
    "no pixel size": (lambda path, _: write_czi(path, [Block(noise(300, 300), 0, 0)], None), 3),
    "pixels not square": (lambda path, _: write_czi(path, [Block(noise(300, 300), 0, 0)], (0.2, 0.4)), 3),
    "gray": (lambda path, _: write_czi(path, [Block(np.zeros((90, 90), np.uint16), 0, 0)]), 3),
    "glass alone": (lambda path, _: write_czi(path, [glass(900)]), 1),
    "of nine pixels": (lambda path, _: write_czi(path, [Block(noise(9, 9), 0, 0)]), 1),
    "cut short": (lambda path, whole: path.write_bytes(whole.read_bytes()[:4000]), 3),
    "no CZI": (lambda path, _: path.write_bytes(b"PNG" * 1000), 3),
    "not there": (lambda path, _: None, 3),
    "an empty folder": (lambda path, _: path.mkdir(), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "code"), CASES.values(), ids=list(CASES))
def test_both_end_alike(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], make: Make, code: int
) -> None:
    path = tmp_path / "slide.czi"
    make(path, whole)
    words = ["--czi-path", str(path), "--output-dir", str(tmp_path / "run"), "--num-workers", "1"]
    assert run_command(["segment", *words, "--tile-size", "512"]) == code
    reason = next((s for s in capsys.readouterr().err.splitlines() if s.startswith("mkhspc: ")), "")
    assert run_command(["inspect", str(path)]) == code
    shown = capsys.readouterr()
    if code == 3:
        assert reason.removeprefix(f"mkhspc: {path}: ") in shown.err
    assert ("would take it\n" in shown.out) == (code == 0)


@pytest.mark.parametrize("nth", [0, 3])
def test_a_preview_crosses_out_what_is_damaged(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], nth: int
) -> None:
    path, picture = tmp_path / "slide.czi", tmp_path / "slide.png"
    spoilt(path, whole, nth, 1)
    with CziSlide.open(path) as slide:
        mosaic = slide.mosaic(0)
        box = mosaic.level_0[nth].box.shifted(-mosaic.box.x0, -mosaic.box.y0)
    assert run_command(["inspect", str(path), "--preview", str(picture)]) == 4
    shown = capsys.readouterr()
    assert "would take it, but for the tiles at 1 place that cannot be decoded" in shown.out
    assert "holds images that cannot be decoded: `segment` would fail the tiles that need them" in shown.err
    drawn = cv2.imread(str(picture))[..., ::-1].astype(int)
    rows, columns = np.nonzero(np.abs(drawn - (200, 0, 120)).max(axis=2) == 0)
    assert len(rows) > 100
    left, top = columns.min() - 8, rows.min() - 24  # the margins
    assert abs(left - box.x0) <= 2
    assert abs(top - box.y0) <= 2


def test_a_folder_or_a_wildcard_names_one_slide(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(whole, tmp_path / "a.czi")
    (tmp_path / "._a.czi").write_bytes(b"\0\5\x16\7")
    assert run_command(["inspect", str(tmp_path / "*.czi")]) == 0
    assert "slide id    a\n" in capsys.readouterr().out
    shutil.copyfile(whole, tmp_path / "b.CZI")
    assert run_command(["inspect", str(tmp_path)]) == 2
    assert f"{tmp_path}: names 2 slides; `inspect` looks at one\n" in capsys.readouterr().err
