"""The least score of the filter: a view on candidates that are stored down to a floor."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mkhspc.cli import run_command
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

FLOOR = 0.003


@pytest.fixture(scope="module")
def begun(small_slides: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one slide with the default filter."""
    root = tmp_path_factory.mktemp("view") / "run"
    done = mkhspc("segment", "--czi-path", small_slides["DEMO_A"], "--output-dir", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def table(root: Path, cell_type: str = "mk") -> pa.Table:
    layout = RunLayout(root)
    found = cells.read_cells(layout, manifests.read(layout), "DEMO_A")
    return found.filter(pc.equal(found["cell_type"], cell_type))


def shown(root: Path) -> list[str]:
    found = table(root)
    ids: list[str] = found.filter(found["in_filter"])["cell_id"].to_pylist()
    return ids


def tables_but_cells(root: Path) -> dict[Path, bytes]:
    """The bytes of all tables but those of cells, whose column `in_filter` follows the filter."""
    paths = [path for path in root.rglob("*.parquet") if path.parent.name != "cells"]
    return {path.relative_to(root): path.read_bytes() for path in paths}


def test_mk_are_stored_down_to_the_floor_and_shown_from_the_least_score_on(run: Path) -> None:
    scores = table(run)["detector_score"].to_pylist()
    assert FLOOR <= min(scores) < 0.02 < 0.5 < max(scores)
    assert manifests.read(RunLayout(run)).identity["mk.stored_score"] == FLOOR
    found = table(run)
    in_areas = pc.and_(pc.greater_equal(found["area_um2"], 100.0), pc.less_equal(found["area_um2"], 2100.0))
    wanted = pc.and_(in_areas, pc.greater_equal(found["detector_score"], 0.02))
    assert found["in_filter"].to_pylist() == wanted.to_pylist()


def test_refilter_moves_the_least_score_and_touches_nothing_else(run: Path) -> None:
    before = tables_but_cells(run)
    at_start, ids = shown(run), table(run)["cell_id"].to_pylist()
    assert run_command(["refilter", str(run), "--mk-min-score", "0.5"]) == 0
    strict = shown(run)
    assert 0 < len(strict) < len(at_start)
    assert set(strict) < set(at_start)
    assert run_command(["refilter", str(run), "--mk-min-score", str(FLOOR)]) == 0
    assert set(at_start) < set(shown(run))
    assert table(run)["cell_id"].to_pylist() == ids
    assert tables_but_cells(run) == before


def test_the_least_score_of_hspc_is_a_view_too(run: Path) -> None:
    assert run_command(["refilter", str(run), "--hspc-min-score", "0.7"]) == 0
    found = table(run, "hspc")
    inside = found.filter(found["in_filter"])["detector_score"].to_pylist()
    assert inside
    assert min(inside) >= 0.7
    assert any(score < 0.7 for score in found["detector_score"].to_pylist())


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        ("0.001", 2, "this run holds MK with a score of at least 0.003 and the filter asks for 0.001"),
        ("nan", 2, "mk.min_score is nan; scores must be finite and 0 to 1"),
        ("1.5", 2, "mk.min_score is 1.5; scores must be 0 to 1"),
        ("-0.1", 2, "mk.min_score is -0.1; scores must be 0 to 1"),
    ],
)
def test_a_least_score_that_makes_no_sense_is_refused_and_changes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], value: str, code: int, words: str
) -> None:
    before = sorted(p.name for p in run.iterdir()), (run / "manifest.json").read_bytes()
    assert run_command(["refilter", str(run), f"--mk-min-score={value}"]) == code
    assert words in capsys.readouterr().err
    assert (sorted(p.name for p in run.iterdir()), (run / "manifest.json").read_bytes()) == before


def test_a_new_run_asks_for_no_score_that_is_not_stored(tiny_slide: Path, tmp_path: Path) -> None:
    done = mkhspc(
        "segment", "--czi-path", tiny_slide, "--output-dir", tmp_path / "run", "--mk-min-score", 0.001
    )
    assert done.returncode == 2
    assert "mk.min_score is 0.001; scores must be 0.003 to 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_segment_goes_on_with_the_score_in_force_and_refuses_another(
    run: Path, small_slides: dict[str, Path]
) -> None:
    again = ("segment", "--czi-path", small_slides["DEMO_A"], "--output-dir", run)
    assert run_command(["refilter", str(run), "--mk-min-score", "0.4"]) == 0
    for named in ((), ("--mk-min-score", 0.4), ("--mk-min-score", 0.02)):
        done = mkhspc(*again, *named)
        assert done.returncode == 0, done.stderr
    assert manifests.read(RunLayout(run)).filter["mk"].min_score == 0.4
    other = mkhspc(*again, "--mk-min-score", 0.3)
    assert other.returncode == 3
    assert "--mk-min-score is 0.02 there and 0.3 here" in other.stderr
    assert "`mkhspc refilter`" in other.stderr


def test_the_least_score_is_no_part_of_the_identity(
    begun: Path, small_slides: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "strict"
    words = ("--output-dir", root, "--mk-min-score", 0.5)
    assert mkhspc("segment", "--czi-path", small_slides["DEMO_A"], *words).returncode == 0
    usual, strict = manifests.read(RunLayout(begun)), manifests.read(RunLayout(root))
    assert strict.config_hash == usual.config_hash
    assert strict.dataset == usual.dataset
    assert table(root)["cell_id"].to_pylist() == table(begun)["cell_id"].to_pylist()
    assert len(shown(root)) < len(shown(begun))


def test_a_config_file_names_the_least_score(tiny_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        f'[run]\nslides = ["{tiny_slide}"]\noutput_dir = "run"\n'
        "[mk]\nmin_score = 0.25\n[hspc]\nmin_score = 0.6\n"
    )
    assert mkhspc("segment", "--config", tmp_path / "study.toml").returncode == 0
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert written["filter"]["mk"]["min_score"] == 0.25
    assert written["filter"]["hspc"]["min_score"] == 0.6


def test_a_score_is_compared_as_it_is_stored(run: Path) -> None:
    """Single precision: 0.7 is stored as 0.69999999, and a filter of 0.7 means it."""
    stored = pa.array([0.7, math.nextafter(0.7, 0) - 1e-6], pa.float32())
    two = table(run).slice(0, 2)
    two = two.set_column(two.column_names.index("detector_score"), "detector_score", stored)
    two = two.set_column(two.column_names.index("area_um2"), "area_um2", pa.array([500.0, 500.0]))
    views = manifests.read(RunLayout(run)).filter
    asked = {**views, "mk": type(views["mk"])(100.0, 2100.0, 0.7)}
    assert cells.with_in_filter(two, asked)["in_filter"].to_pylist() == [True, False]
