from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mkhspc.config import CellRange
from mkhspc.errors import InputError
from mkhspc.store import cells, manifest as manifests, tables
from mkhspc.store.schema import CROPS
from runs import make_run

TABLE = pa.table({"a": pa.array(range(1000), pa.int32()), "b": [f"x{i}" for i in range(1000)]})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 999), max_size=6))
def test_the_bytes_do_not_depend_on_how_the_rows_came(tmp_path: Path, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 1000]
    pieces = [TABLE.slice(a, b - a) for a, b in pairwise(edges)]
    rows = tables.write_stream(tmp_path / "p.parquet", TABLE.schema, pieces, "h", group_rows=64)
    tables.write_stream(tmp_path / "w.parquet", TABLE.schema, [TABLE], "h", group_rows=64)
    assert rows == 1000
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "w.parquet").read_bytes()


def test_a_table_of_another_run_is_refused(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "t.parquet", TABLE, "aaaa")
    with pytest.raises(InputError, match=r"another configuration \(hash aaaa, this run has bbbb\)"):
        tables.read_table(tmp_path / "t.parquet", "bbbb")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    tables.write_table(tmp_path / "t.parquet", TABLE, "h")
    with pytest.raises(InputError, match="has no column zz"):
        tables.read_table(tmp_path / "t.parquet", "h", columns=["a", "zz"])


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_truncated_table_is_damaged(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "t.parquet"
    tables.write_table(path, TABLE, "h")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged"):
        tables.read_table(path, "h")


def test_a_missing_table_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mkhspc segment"):
        tables.read_table(tmp_path / "t.parquet", "h")


def test_the_filter_is_a_view_that_follows_the_manifest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    stale = cells.read_cells(run.layout, run.manifest, "A")
    narrow = run.manifest.with_filter({"mk": CellRange(500, 600)})
    fresh = cells.read_cells(run.layout, narrow, "A", ["cell_id", "in_filter"])
    assert fresh.column_names == ["cell_id", "in_filter"]
    assert 0 < sum(fresh["in_filter"].to_pylist()) < sum(stale["in_filter"].to_pylist())
    cells.rewrite_in_filter(run.layout, narrow, "A")
    on_disk = tables.read_table(run.layout.cells("A"), run.manifest.config_hash)
    assert on_disk["in_filter"].to_pylist() == fresh["in_filter"].to_pylist()
    assert on_disk.drop(["in_filter"]).equals(stale.drop(["in_filter"]))


def test_crops_are_found_by_id(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    ids = cells.read_cells(run.layout, run.manifest, "A", ["cell_id"])["cell_id"].to_pylist()
    found = list(cells.iter_crops(run.layout, run.manifest, "A", {ids[3], ids[70]}))
    assert {crop.cell_id for crop in found} == {ids[3], ids[70]}
    assert all(crop.image[:4] == b"RIFF" for crop in found)


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A", "B"))
    assert manifests.read(run.layout) == run.manifest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"run.seed": 0', '"run.seed": 1', "was edited"),
        ('"format": "mkhspc-run"', '"format": "other"', "is not a manifest"),
        ('"slides"', '"slices"', "damaged"),
        ("{", "", "damaged"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    text = run.layout.manifest.read_text()
    assert old in text
    run.layout.manifest.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=words):
        manifests.read(run.layout)


def test_the_first_manifest_wins(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    other = run.manifest.with_filter({"mk": CellRange(200, 300)})
    assert manifests.create(run.layout, other) == run.manifest


def test_codes_are_blind_and_new_slides_do_not_change_old_codes() -> None:
    codes = manifests.blind_codes(0, ["FGC1", "FGC2", "MHU1"])
    assert sorted(codes.values()) == ["S01", "S02", "S03"]
    assert codes == manifests.blind_codes(0, ["MHU1", "FGC2", "FGC1"])
    ids = ["FGC1", "FGC2", "MHU1"]
    orders = {tuple(manifests.blind_codes(seed, ids)[i] for i in ids) for seed in range(20)}
    assert len(orders) > 1, "the order of names must not give the codes away"
    assert manifests.blind_codes(0, ["MHU2"], taken=3) == {"MHU2": "S04"}


def test_crops_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=1)
    count, picture = 4 * cells.CROPS_AT_ONCE, b"x" * 20_000
    crops = pa.table(
        {
            "cell_id": [f"c{i}" for i in range(count)],
            "image": [picture] * count,
            "x0_px": range(count),
            "y0_px": range(count),
            "um_per_px": [0.22] * count,
        },
        CROPS,
    )
    path, run_hash = run.layout.crops("A"), run.manifest.config_hash
    tables.write_stream(path, CROPS, [crops], run_hash, group_rows=64)
    del crops
    before_bytes = peak_bytes = pa.total_allocated_bytes()
    for number, crop in enumerate(cells.iter_crops(run.layout, run.manifest, "A")):
        assert crop.x0_px == number
        peak_bytes = max(peak_bytes, pa.total_allocated_bytes())
    assert number == count - 1
    assert peak_bytes - before_bytes < 0.5 * path.stat().st_size


def test_pictures_and_ids_are_not_packed_as_words_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    packed = {}
    for path in (run.layout.cells("A"), run.layout.crops("A")):
        group = pq.read_metadata(path).row_group(0)
        for i in range(group.num_columns):
            column = group.column(i)
            packed[column.path_in_schema] = (column.compression, set(column.encodings))
    assert packed["image"][0] == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" in packed["tile_id"][1]
    assert "RLE_DICTIONARY" not in packed["cell_id"][1]
    assert "BYTE_STREAM_SPLIT" in packed["contour_px.list.element"][1]
    assert "BYTE_STREAM_SPLIT" in packed["shape_area_um2"][1]


def test_a_table_read_in_pieces_is_checked_like_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    tables.write_table(path, TABLE, "aaaa")
    pieces = list(tables.read_pieces(path, "aaaa", ["b"], 300))
    assert [len(piece) for piece in pieces] == [300, 300, 300, 100]
    assert pa.concat_tables(pieces)["b"].to_pylist() == TABLE["b"].to_pylist()
    with pytest.raises(InputError, match="another configuration"):
        next(tables.read_pieces(path, "bbbb", ["b"], 300))
    with pytest.raises(InputError, match="has no column zz"):
        next(tables.read_pieces(path, "aaaa", ["zz"], 300))


def test_row_groups_of_wide_tables_are_short() -> None:
    wide = pa.schema([pa.field(f"deep_{n}", pa.float32()) for n in range(4000)])
    rows = tables.rows_per_group(wide)
    assert 32_000_000 < rows * 4 * len(wide) <= tables.GROUP_BYTES
    assert tables.rows_per_group(TABLE.schema) == tables.ROWS_PER_GROUP
    assert tables.rows_per_group(pa.schema([])) == tables.ROWS_PER_GROUP
