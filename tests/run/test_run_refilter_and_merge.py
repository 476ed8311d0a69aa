"""`refilter` beside `merge`: no table of cells keeps the `in_filter` of an older filter, and none is lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mkhspc.api.run import open_run
from mkhspc.run import slide_tables
from mkhspc.run.refilter import refilter
from mkhspc.store import cells, manifest as manifests, tables
from mkhspc.store.atomic import FileVersion, ReplacedError
from mkhspc.store.cells import with_in_filter
from parts import SLIDE, LargeRun, large_run
from processes import started


@pytest.fixture(scope="module")
def unmerged(tmp_path_factory: pytest.TempPathFactory) -> LargeRun:
    return large_run(tmp_path_factory.mktemp("large") / "run", 2, 2, 60)


@pytest.fixture
def run(unmerged: LargeRun, tmp_path: Path) -> LargeRun:
    return unmerged.copied(tmp_path / "run")


def areas(run: LargeRun) -> list[float]:
    column: pa.ChunkedArray = pq.read_table(run.layout.cells(SLIDE), columns=["area_um2"])["area_um2"]
    return sorted(column.to_pylist())


def assert_fresh(run: LargeRun, rows: int = 240) -> None:
    table = tables.read_table(run.layout.cells(SLIDE), run.manifest.config_hash)
    assert len(table) == rows
    expected = with_in_filter(table, manifests.read(run.layout).filter)["in_filter"]
    assert table["in_filter"].to_pylist() == expected.to_pylist()


def test_a_filter_that_changes_while_a_merge_writes_is_in_its_table(
    run: LargeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the filter and the table's name, as the last thing before it."""
    write, asked = tables.write_stream, []

    def late(path: Path, *arguments: Any, **options: Any) -> int:
        if path == run.layout.cells(SLIDE) and not asked:
            asked.append(path)
            refilter(run.layout, {"hspc": {"min_um2": 20.0}})
        return write(path, *arguments, **options)

    monkeypatch.setattr(slide_tables.tables, "write_stream", late)
    open_run(run.layout.root).merge()
    assert asked
    assert manifests.read(run.layout).filter["hspc"].min_um2 == 20.0
    assert 0 < pc.sum(pq.read_table(run.layout.cells(SLIDE))["in_filter"]).as_py() < 240
    assert_fresh(run)


def test_a_filter_that_changes_twice_while_it_is_written_ends_as_the_last(
    run: LargeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(run.layout.root).merge()
    rewrite, lows = cells.rewrite_in_filter, [22.0, 18.0]

    def slow(layout: Any, manifest: Any, slide_id: str) -> None:
        rewrite(layout, manifest, slide_id)
        if lows:
            refilter(layout, {"hspc": {"min_um2": lows.pop()}})

    monkeypatch.setattr(cells, "rewrite_in_filter", slow)
    refilter(run.layout, {"hspc": {"min_um2": 20.0}})
    assert manifests.read(run.layout).filter["hspc"].min_um2 == 22.0
    assert_fresh(run)


def test_a_rewrite_never_replaces_a_table_that_a_merge_has_made_since(
    run: LargeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = run.parts[0].rename(run.layout.root / "aside")
    slide_tables.merge_slide(run.layout, run.manifest, SLIDE, run.tiles)
    assert_fresh(run, rows=180)
    aside.rename(run.parts[0])
    read = cells.with_in_filter
    merged = []

    def late(table: pa.Table, filter_areas: Any) -> pa.Table:
        if not merged:
            merged.append(True)
            slide_tables.merge_slide(run.layout, run.manifest, SLIDE, run.tiles)
        return read(table, filter_areas)

    monkeypatch.setattr(cells, "with_in_filter", late)
    refilter(run.layout, {"hspc": {"min_um2": 20.0}})
    assert merged
    monkeypatch.undo()
    assert_fresh(run)


def test_a_table_of_fewer_tiles_than_its_crops_is_merged_again(run: LargeRun) -> None:
    """As it is when the merge's table was replaced in its last microsecond."""
    aside = run.parts[0].rename(run.layout.root / "aside")
    slide_tables.merge_slide(run.layout, run.manifest, SLIDE, run.tiles)
    fewer = run.layout.cells(SLIDE).read_bytes()
    aside.rename(run.parts[0])
    slide_tables.merge_slide(run.layout, run.manifest, SLIDE, run.tiles)
    run.layout.cells(SLIDE).write_bytes(fewer)
    refilter(run.layout, {"hspc": {"min_um2": 20.0}})
    assert_fresh(run)


def test_only_the_file_that_was_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "A.parquet"
    path.parent.mkdir()
    path.write_bytes(b"old")
    read = FileVersion.of(path)
    path.unlink()
    path.with_name("new").write_bytes(b"another's")
    path.with_name("new").rename(path)
    table = pa.table({"a": [1]})
    with pytest.raises(ReplacedError):
        tables.write_stream(path, table.schema, [table], "h", instead_of=read)
    assert path.read_bytes() == b"another's"
    assert [file.name for file in path.parent.iterdir()] == ["A.parquet"]


@pytest.mark.slow
def test_real_processes_of_both_side_by_side_leave_no_stale_filter(run: LargeRun) -> None:
    low, high = areas_of_parts(run)
    for turn in range(6):
        draw = random.Random(turn)
        run.layout.crops(SLIDE).unlink(missing_ok=True)  # so that the merge has to write
        processes = [started("merge", run.layout.root)]
        for _ in range(2):
            bound = round(draw.uniform(low, high), 2)
            processes.append(started("refilter", run.layout.root, "--hspc-min-area-um", bound))
        ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
        assert [code for _, code in ends] == [0] * 3, ends
        assert_fresh(run)


def areas_of_parts(run: LargeRun) -> tuple[float, float]:
    found = [pq.read_table(part, columns=["area_um2"])["area_um2"] for part in run.parts]
    every = pa.chunked_array([chunk for column in found for chunk in column.chunks])
    return pc.min(every).as_py(), pc.max(every).as_py()
