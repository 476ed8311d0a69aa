"""Parts to tables: the same bytes whatever made the parts, every tile there or named, little memory."""

from __future__ import annotations

import errno
import fcntl
import random
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from crashes import digest, empty_directories, leftovers
from mkhspc.cli import run_command
from mkhspc.cluster.journal import RunLog
from mkhspc.cluster.shard import Shard
from mkhspc.errors import InputError
from mkhspc.run import slide_tables as merge
from mkhspc.run.tile_cells import PIECE_ROWS
from mkhspc.store import cells, manifest as manifests, tables
from mkhspc.store.schema import CROPS, part_schema
from parts import SLIDE, LargeRun, large_run
from processes import measured

TILES = 6
CELLS = 150


@pytest.fixture(scope="module")
def unmerged(tmp_path_factory: pytest.TempPathFactory) -> LargeRun:
    return large_run(tmp_path_factory.mktemp("large") / "run", 3, 2, CELLS)


@pytest.fixture(scope="module")
def merged(unmerged: LargeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of all parts and tables after an ordinary merge."""
    run = unmerged.copied(tmp_path_factory.mktemp("merged") / "run")
    merge_all(run)
    return digest(run.layout.root)


@pytest.fixture
def run(unmerged: LargeRun, tmp_path: Path) -> LargeRun:
    return unmerged.copied(tmp_path / "run")


def merge_all(run: LargeRun) -> bool:
    return merge.merge_slide(run.layout, run.manifest, SLIDE, run.tiles)


def test_every_row_of_every_part_is_there_once_in_the_order_of_tiles(run: LargeRun) -> None:
    assert merge_all(run)
    parts = pa.concat_tables([pq.read_table(part) for part in run.parts])
    whole = cells.read_cells(run.layout, run.manifest, SLIDE)
    assert whole["cell_id"].to_pylist() == parts["cell_id"].to_pylist()
    assert len(whole) == TILES * CELLS
    shared = [name for name in whole.column_names if name in parts.column_names]
    assert len(shared) == len(whole.column_names) - 1, "all but in_filter"
    assert whole.select(shared).equals(parts.select(shared))
    crops = list(cells.iter_crops(run.layout, run.manifest, SLIDE))
    assert [crop.image for crop in crops] == parts["crop_image"].to_pylist()
    assert [crop.cell_id for crop in crops] == parts["cell_id"].to_pylist()


@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 10**6), rows_per_group=st.integers(1, 2 * CELLS))
def test_the_bytes_do_not_depend_on_how_the_parts_came(
    unmerged: LargeRun, merged: dict[str, str], tmp_path: Path, seed: int, rows_per_group: int
) -> None:
    run = unmerged.copied(tmp_path / f"run-{seed}-{rows_per_group}")
    parts = {part: tables.read_table(part, run.manifest.config_hash) for part in run.parts}
    shutil.rmtree(run.layout.root / "parts")
    for part in random.Random(seed).sample(sorted(parts), len(parts)):
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(parts[part], part, row_group_size=rows_per_group, compression="snappy")
    merge_all(run)
    found = digest(run.layout.root)
    for name in (f"cells/{SLIDE}.parquet", f"crops/{SLIDE}.parquet"):
        assert found[name] == merged[name]


def test_the_tables_are_cut_into_groups_of_fixed_length(
    run: LargeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "CROPS_PER_GROUP", 64)
    merge_all(run)
    crops = pq.read_metadata(run.layout.crops(SLIDE))
    lengths = [crops.row_group(i).num_rows for i in range(crops.num_row_groups)]
    assert set(lengths[:-1]) == {64}
    assert sum(lengths) == TILES * CELLS
    assert pq.read_metadata(run.layout.cells(SLIDE)).num_row_groups == 1


def test_merging_again_writes_nothing(run: LargeRun) -> None:
    assert merge_all(run)
    times = [path(SLIDE).stat().st_mtime_ns for path in (run.layout.cells, run.layout.crops)]
    assert not merge_all(run)
    assert times == [path(SLIDE).stat().st_mtime_ns for path in (run.layout.cells, run.layout.crops)]
    run.layout.crops(SLIDE).unlink()
    assert merge_all(run)


shards = st.integers(1, 7).flatmap(lambda n: st.builds(Shard, st.integers(0, n - 1), st.just(n)))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(shards, max_size=6))
def test_merge_refuses_until_any_mixture_of_shards_has_done_every_tile(
    unmerged: LargeRun,
    merged: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    done: list[Shard],
) -> None:
    run = unmerged.copied(tmp_path / "run")
    here = {tile.tile_id for shard in done for tile in shard.of(run.tiles)}
    missing = [tile.tile_id for tile in run.tiles if tile.tile_id not in here]
    for tile_id in missing:
        run.layout.part(SLIDE, tile_id).unlink()
    code = run_command(["merge", str(run.layout.root)])
    said = capsys.readouterr().err
    if missing:
        assert code == 4
        named = ", ".join(f"{SLIDE}/{tile_id}" for tile_id in missing)
        assert f"{len(missing)} tiles are missing: {named}\n" in said
        assert not (run.layout.root / "cells").exists()
        assert not (run.layout.root / "crops").exists()
    else:
        assert code == 0, said
        assert digest(run.layout.root) == merged
    shutil.rmtree(tmp_path / "run")


def test_of_many_missing_tiles_the_first_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = large_run(tmp_path / "run", 5, 4, 2)
    shutil.rmtree(run.layout.root / "parts")
    assert run_command(["merge", str(run.layout.root)]) == 4
    said = capsys.readouterr().err
    assert "20 tiles are missing" in said
    assert said.count(f"{SLIDE}/") == merge.NAMED_TILES
    assert "and 12 more" in said


@pytest.mark.parametrize("fault", ["cut", "other run", "no crops"])
def test_a_part_that_cannot_be_used_is_named_and_nothing_is_written(run: LargeRun, fault: str) -> None:
    part = run.parts[3]
    if fault == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    elif fault == "other run":
        tables.write_table(part, pq.read_table(part), "0123456789abcdef")
    else:
        tables.write_table(part, pq.read_table(part).drop_columns(["crop_image"]), run.manifest.config_hash)
    with pytest.raises(InputError) as caught:
        merge_all(run)
    assert caught.value.where == part
    assert not run.layout.cells(SLIDE).exists()
    assert leftovers(run.layout.root) == []
    assert empty_directories(run.layout.root) == []


def test_cells_get_their_name_after_their_crops(run: LargeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """So whoever finds a cell finds its crop, at whatever moment the merge is killed."""
    seen: dict[str, bool] = {}
    write_stream = tables.write_stream

    def watched(path: Path, schema: pa.Schema, *rest: object, **options: object) -> int:
        if path == run.layout.crops(SLIDE):
            time.sleep(0.3)
        rows = write_stream(path, schema, *rest, **options)
        seen[path.parent.name] = run.layout.cells(SLIDE).exists()
        return rows

    monkeypatch.setattr(tables, "write_stream", watched)
    merge_all(run)
    assert seen == {"crops": False, "cells": True}


def test_a_slide_without_a_cell_gives_tables_without_rows(tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", 2, 1, 1)
    for part in run.parts:
        empty = pq.read_table(part).slice(0, 0)
        tables.write_table(part, empty, run.manifest.config_hash)
    merge_all(run)
    assert len(cells.read_cells(run.layout, run.manifest, SLIDE)) == 0
    assert pq.read_table(run.layout.crops(SLIDE)).schema.names == CROPS.names


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    def peak_bytes(rows: int) -> int:
        done = measured("merge", runs[rows].layout.root)
        assert done.process.returncode == 0, done.process.stderr
        shutil.rmtree(runs[rows].layout.root / "cells")
        return done.peak_rss_bytes  # of one process, whatever other tests share its libraries

    # With fewer rows there are too few row groups to be on their way at once. How many are hangs on the
    # threads' luck, so the most of three is what a small slide takes.
    runs = {
        rows: large_run(tmp_path / f"run-{rows}", 6, rows, 4000, crop_bytes=(90, 110)) for rows in (12, 36)
    }
    assert peak_bytes(36) <= 1.15 * max(peak_bytes(12) for _ in range(3))


def test_the_parts_of_these_tests_are_as_segment_writes_them(run: LargeRun) -> None:
    from mkhspc.measure.features import FEATURE_NAMES

    expected = part_schema(list(FEATURE_NAMES))
    assert pq.read_schema(run.parts[0]).remove_metadata().equals(expected)
    with pq.ParquetFile(run.parts[0]) as part:
        groups = [part.metadata.row_group(nth).num_rows for nth in range(part.num_row_groups)]
    assert groups[:-1] == [PIECE_ROWS] * (len(groups) - 1)


def test_a_merge_tells_what_networks_computed_in_where_no_file_can_be_locked(
    run: LargeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After days on a GPU, on a file system without locks."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, no_locks)
    log = RunLog(run.layout)
    log.write("begin")
    log.write("models", device="cuda:0", precision={"sam2": "bfloat16"})
    log.write("end")
    assert run_command(["merge", str(run.layout.root)]) == 0
    assert manifests.read(run.layout).versions["precision"] == "bfloat16 on cuda:0"
    assert run.layout.cells(SLIDE).exists()
