"""What happens to one tile, or one slide, in the middle of a run: the others are done, and it is said."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crashes import Segment, empty_directories, leftovers
from mkhspc.cli import run_command
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.cluster.journal import RunLog
from mkhspc.errors import IncompleteError, InterruptedRunError, MkhspcError
from mkhspc.geometry import Box
from mkhspc.measure.analysis import analysis_of
from mkhspc.models.choice import RunModels
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.tiles import TilePlan, load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from mounts import tmpfs
from processes import mkhspc

SLIDE, TILE_PX = "MIDDLE", 512


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated slide without a pyramid, of some 16 sub-blocks and 20 tiles."""
    spec = SlideSpec(SLIDE, "F", "GC", sizes_um=((500.0, 450.0),))
    (written,) = write_demo_slides(tmp_path_factory.mktemp("middle"), seed=3, specs=(spec,))
    return written.path


def segment(slides: list[Path], root: Path) -> subprocess.CompletedProcess[str]:
    named = [word for path in slides for word in ("--czi-path", path)]
    return mkhspc("segment", *named, "--output-dir", root, "--tile-size", TILE_PX, "--num-workers", 2)


def spoken(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command said to people."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return [line for line in lines if " by the detector '" not in line]  # which is said of every new run


def plan_of(layout: RunLayout, slide_id: str = SLIDE) -> TilePlan:
    return load_tile_plan(layout, slide_id, manifests.read(layout).config_hash)


def parts_of(layout: RunLayout, slide_id: str = SLIDE) -> dict[str, int]:
    """Tiles that have their part, and when it was written."""
    return {p.stem: p.stat().st_mtime_ns for p in (layout.root / "parts" / slide_id).glob("*.parquet")}


def status_of(layout: RunLayout) -> dict[str, dict[str, Any]]:
    shown = mkhspc("status", layout.root, "--json")
    assert shown.returncode == 0, shown.stderr
    return {slide["slide_id"]: slide for slide in json.loads(shown.stdout)["slides"]}


def damage_first_block(path: Path) -> Box:
    """Overwrites the pixels of a slide's first sub-block; returns what it showed."""
    with CziSlide.open(path) as reader:
        block = reader.mosaic(0).level_0[0]
        extent = reader._extent(block)
    with path.open("r+b") as file:
        file.seek(extent.position_bytes)
        file.write(b"\xff" * extent.length_bytes)
    return block.box


def tiles_that_see(layout: RunLayout, box: Box) -> set[str]:
    manifest = manifests.read(layout)
    halo_px = analysis_of(manifest, RunModels.of(manifest.config)).halo_px(manifest.slide(SLIDE).um_per_px)
    return {t.tile_id for t in plan_of(layout).tiles if t.core.grown(halo_px).clipped(box).area_px}


@pytest.mark.slow
def test_an_image_that_does_not_decode_fails_the_tiles_that_need_it_alone(
    slide: Path, tmp_path: Path
) -> None:
    whole = slide.read_bytes()
    copy = tmp_path / slide.name
    copy.write_bytes(whole)
    box = damage_first_block(copy)
    layout = RunLayout(tmp_path / "run")
    done = segment([copy], layout.root)
    assert done.returncode == 4, done.stderr
    needed = tiles_that_see(layout, box)
    planned = {tile.tile_id for tile in plan_of(layout).tiles}
    assert f"s0_{0}_{0}" in needed, "a tile in which nothing can be seen is not forgotten"
    assert needed < planned
    (what, fix) = spoken(done)
    assert f"{len(needed)} tiles failed: {SLIDE}/s0_" in what
    assert "cannot be decoded" in what
    assert "mkhspc status RUN --json" in fix
    finished = parts_of(layout)
    assert set(finished) == planned - needed
    shown = status_of(layout)[SLIDE]
    assert set(shown["failed_tiles"]) == needed == set(shown["missing_tiles"])
    assert all("cannot be decoded" in reason for reason in shown["failed_tiles"].values())
    assert leftovers(layout.root) == [] == empty_directories(layout.root)

    again = segment([copy], layout.root)
    assert again.returncode == 4
    assert parts_of(layout) == finished, "no finished tile is done again"
    copy.write_bytes(whole)
    mended = segment([copy], layout.root)
    assert mended.returncode == 0, mended.stderr
    assert set(parts_of(layout)) == planned
    assert finished.items() <= parts_of(layout).items()
    assert status_of(layout)[SLIDE]["missing_tiles"] == []


@pytest.mark.slow
def test_a_worker_that_dies_twice_of_a_tile_costs_that_tile(slide: Path, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    words = ["segment", "--czi-path", slide, "--output-dir", layout.root, "--tile-size", TILE_PX]
    done = subprocess.run(
        [sys.executable, *map(str, (Path(__file__).with_name("deadly.py"), *words, "--num-workers", 2))],
        capture_output=True,
        text=True,
        env={**os.environ, "DEADLY_TILE": "s0_512_512"},
        check=False,
    )
    assert done.returncode == 4, done.stderr
    (what, _) = spoken(done)
    assert f"1 tile failed: {SLIDE}/s0_512_512: the worker process died 2 times (SIGKILL" in what
    assert {tile.tile_id for tile in plan_of(layout).tiles} - set(parts_of(layout)) == {"s0_512_512"}
    refused = mkhspc("merge", layout.root)
    assert refused.returncode == 4
    assert f"{SLIDE}/s0_512_512" in refused.stderr
    assert segment([slide], layout.root).returncode == 0


@pytest.mark.slow
def test_a_slide_that_vanishes_in_the_middle_costs_its_own_tiles(
    slide: Path, tiny_slide: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "GONE.czi"
    gone.write_bytes(slide.read_bytes())
    layout = RunLayout(tmp_path / "run")
    run = Segment(tiny_slide, layout.root)
    process = run.start("--czi-path", gone, "--tile-size", TILE_PX)
    while process.poll() is None and not run.begun():
        pass
    gone.unlink()
    assert process.wait() == 4, run.errors.read_text()
    assert len(parts_of(layout, "TINY")) == len(plan_of(layout, "TINY").tiles)
    shown = status_of(layout)
    assert shown["TINY"]["failed_tiles"] == {}
    assert len(shown["GONE"]["failed_tiles"]) == shown["GONE"]["tiles"] - shown["GONE"]["done"] > 0
    assert any("no such file" in reason for reason in shown["GONE"]["failed_tiles"].values())


@pytest.mark.parametrize("place", ["", "new"])
def test_an_output_that_cannot_be_written_is_said_in_a_line(
    tiny_slide: Path, tmp_path: Path, place: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "ro,size=1m"):
        done = segment([tiny_slide], disk / place)
        assert done.returncode == 3, done.stderr
        assert 1 <= len(spoken(done)) <= 2
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
        assert '"survey"' not in done.stdout + done.stderr, "which may take long on a large slide"
        assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_a_run_whose_disk_became_read_only_keeps_what_it_has(tiny_slide: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with tmpfs(disk, "ro,size=1m"):
        subprocess.run(["mount", "-o", "remount,rw,size=1g", disk], check=True)
        layout = RunLayout(disk)
        first = mkhspc(
            "segment", "--czi-path", tiny_slide, "--output-dir", disk, "--tile-size", 256,
            "--sample-fraction", 0.3, "--num-workers", 1,
        )  # fmt: skip
        assert first.returncode == 0, first.stderr
        before = parts_of(layout, "TINY")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        more = mkhspc("segment", "--czi-path", tiny_slide, "--output-dir", disk, "--tile-size", 256)
        assert more.returncode == 4, more.stderr
        assert "Read-only file system" in more.stderr
        assert "Traceback" not in more.stderr
        assert 1 <= len(spoken(more)) <= 2
        assert parts_of(layout, "TINY") == before
        assert leftovers(disk) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_one_exit_code_whoever_meets_it_first(
    tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:  # fmt: skip
    """Here it is the thread that reads, which claims a tile; a worker is tested with the crashes."""

    def full(claims: ClaimFiles, path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(ClaimFiles, "_create", full)
    words = ["segment", "--czi-path", str(tiny_slide), "--output-dir", str(tmp_path / "run")]
    assert run_command([*words, "--num-workers", "1"]) == 4
    said = capsys.readouterr().err
    assert os.strerror(number) in said
    assert "run the same command again: finished tiles are kept" in said
    monkeypatch.undo()
    assert run_command([*words, "--num-workers", "1"]) == 0


@pytest.mark.parametrize(
    ("error", "code"), [(IncompleteError("sick"), 4), (InterruptedRunError("sick"), 130)]
)
@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "full"), KeyError("colour"), ZeroDivisionError("by 0")]
)
def test_a_summary_that_cannot_be_drawn_does_not_hide_how_the_run_ended(
    tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: MkhspcError, code: int, fault: Exception,
) -> None:  # fmt: skip
    def fails(*_: object, **__: object) -> None:
        raise fault

    def ends(layout: RunLayout, *_: object) -> None:
        RunLog(layout).write("begin")
        raise error

    monkeypatch.setattr("mkhspc.run.merge.write_run_summary", fails)
    monkeypatch.setattr("mkhspc.run.segment.do_tiles", ends)
    words = ["segment", "--czi-path", str(tiny_slide), "--output-dir", str(tmp_path / "run")]
    assert run_command(words) == code
    said = capsys.readouterr().err
    assert "mkhspc: sick" in said
    assert "Traceback" not in said
    (told,) = [json.loads(line) for line in said.splitlines() if '"stage": "summary"' in line]
    assert str(fault) in told["error"]
