"""Damage in the tables of a finished run: named by every command, and healed by what the error says."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import mkhspc as library
from mkhspc.cli import run_command
from mkhspc.errors import InputError
from mkhspc.run import damaged_parts
from mkhspc.store import manifest as manifests, tables
from mkhspc.store.layout import RunLayout

SLIDE = "TINY"


@pytest.fixture(scope="module")
def finished(tiny_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "run"
    assert run_command(command(tiny_slide, root)) == 0
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunLayout:
    shutil.copytree(finished, tmp_path / "run")
    return RunLayout(tmp_path / "run")


def command(slide: Path, root: Path) -> list[str]:
    settings = ["--tile-size", "512", "--num-workers", "1"]
    return ["segment", "--czi-path", str(slide), "--output-dir", str(root), *settings]


def flip(path: Path, at: float = 0.5) -> bytes:
    """Flips a bit in the middle of a file; returns what it held before."""
    before = path.read_bytes()
    changed = bytearray(before)
    changed[int(at * len(changed))] ^= 16
    path.write_bytes(changed)
    return before


def a_part(run: RunLayout) -> Path:
    parts = (run.root / "parts" / SLIDE).glob("*.parquet")
    return max(parts, key=lambda part: part.stat().st_size)


def stems(run: RunLayout) -> list[str]:
    return sorted(run.finished_tiles(SLIDE))


@pytest.mark.parametrize("kind", ["cells", "crops"])
@pytest.mark.parametrize("at", [0.3, 0.9999])
def test_merge_makes_a_damaged_table_again_byte_by_byte(run: RunLayout, kind: str, at: float) -> None:
    table = run.root / kind / f"{SLIDE}.parquet"
    before = flip(table, at)
    assert run_command(["merge", str(run.root)]) == 0
    assert table.read_bytes() == before


def test_a_damaged_part_is_set_aside_and_segment_makes_it_again(
    run: RunLayout, tiny_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part, cells = a_part(run), run.cells(SLIDE).read_bytes()
    before = flip(part)
    broken = part.read_bytes()
    flip(run.cells(SLIDE))
    assert run_command(["merge", str(run.root)]) == 4
    message = capsys.readouterr().err
    assert "the parts of 1 tile were damaged and set aside under names that end in .damaged" in message
    assert f".damaged: {SLIDE}/{part.stem}\n" in message
    assert "run the same `mkhspc segment` again" in message
    assert part.stem not in stems(run)
    assert part.with_name(part.name + ".damaged").read_bytes() == broken, "nothing is thrown away"
    assert run_command(["merge", str(run.root)]) == 4
    assert f"1 tiles are missing: {SLIDE}/{part.stem}" in capsys.readouterr().err
    assert run_command(command(tiny_slide, run.root)) == 0
    assert part.read_bytes() == before
    assert run.cells(SLIDE).read_bytes() == cells


def test_all_damaged_parts_are_found_at_once(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = stems(run)[:2]
    for tile_id in damaged:
        flip(run.part(SLIDE, tile_id))
    run.crops(SLIDE).unlink()
    assert run_command(["merge", str(run.root)]) == 4
    message = capsys.readouterr().err
    assert "the parts of 2 tiles were damaged and set aside" in message
    assert f".damaged: {SLIDE}/{damaged[0]}, {SLIDE}/{damaged[1]}\n" in message
    assert not set(damaged) & set(stems(run))


def test_a_part_that_the_disk_does_not_give_is_not_set_aside(
    run: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    part = a_part(run)
    part.unlink()
    part.symlink_to(part)
    run.cells(SLIDE).unlink()
    assert run_command(["merge", str(run.root)]) == 3
    assert "cannot be read (Too many levels of symbolic links)" in capsys.readouterr().err
    assert part.is_symlink()
    assert not list(part.parent.glob("*.damaged"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_fails_while_parts_are_verified_sets_nothing_aside(
    run: RunLayout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flip(a_part(run))

    def fails(path: Path) -> None:
        raise OSError(number, "the disk", str(path))

    monkeypatch.setattr(tables.footer, "verify", fails)
    with pytest.raises(InputError, match="cannot be read"):
        damaged_parts.set_aside_damaged(run, manifests.read(run), SLIDE)
    assert not list((run.root / "parts").rglob("*.damaged"))


@pytest.mark.parametrize("kind", ["cells", "crops"])
def test_every_command_that_reads_a_damaged_table_names_it_and_what_heals(
    run: RunLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    table = run.root / kind / f"{SLIDE}.parquet"
    flip(table, 0.9999 if kind == "cells" else 0.5)  # the footer, or a picture
    commands = [["gallery", "--run", str(run.root), "--out", str(tmp_path / "site")]]
    if kind == "cells":
        commands += [
            ["report", "--run", str(run.root), "--out", str(tmp_path / "report")],
            ["refilter", str(run.root), "--mk-min-area-um", "300"],
        ]
    for words in commands:
        assert run_command(words) == 3, words
        message = capsys.readouterr().err
        assert f"{table}: is damaged (" in message
        assert f"the {kind} of slide {SLIDE}" in message
        assert f"`mkhspc merge {run.root}`" in message
    assert run_command(["merge", str(run.root)]) == 0
    assert run_command(commands[0]) == 0


def test_from_python_a_damaged_table_is_named_too(run: RunLayout) -> None:
    flip(run.cells(SLIDE), 0.9999)
    with pytest.raises(InputError, match=rf"the cells of slide {SLIDE}"):
        library.open_run(run.root).cells()


def test_a_filter_changed_beside_a_damaged_table_is_in_it_once_it_is_merged(run: RunLayout) -> None:
    flip(run.cells(SLIDE))
    assert run_command(["refilter", str(run.root), "--hspc-min-area-um", "30"]) == 3
    assert run_command(["merge", str(run.root)]) == 0
    table = pq.read_table(run.cells(SLIDE), columns=["cell_type", "area_um2", "in_filter"])
    small = [row for row in table.to_pylist() if row["cell_type"] == "hspc" and row["area_um2"] < 30]
    assert small
    assert not any(row["in_filter"] for row in small)
