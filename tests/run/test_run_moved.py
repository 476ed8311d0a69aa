"""A run renamed while `segment` works on it: nothing is stranded, and nothing grows at its old place."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from mkhspc.cluster.claims import ClaimFiles
from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import revisions
from processes import mkhspc, started
from runs import make_run

SETTINGS = ("--tile-size", 512, "--sample-fraction", 0.3, "--num-workers", 1)


def wait_for_parts(root: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list((root / "parts").rglob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [(), ("0/2", "1/2")])
def test_a_run_renamed_in_mid_run_strands_nothing(
    wide_slide: Path, tmp_path: Path, shards: tuple[str, ...]
) -> None:
    old, new = tmp_path / "run", tmp_path / "renamed"
    words = ("segment", "--czi-path", wide_slide, "--output-dir", old, *SETTINGS)
    each = [("--shard", shard) for shard in shards] or [()]
    processes = [started(*words, *shard) for shard in each]
    wait_for_parts(old, 3, processes[0])
    old.rename(new)
    ends = [(process.communicate(timeout=120), process.returncode) for process in processes]
    for (_, message), code in ends:
        assert code == 4, message
        assert f"{old}: the run is no longer here: it was moved, renamed or removed" in message
        assert "run the same command again with the run's new place" in message
        assert "Traceback" not in message
    assert not old.exists(), "no half-made run at the old place"
    done = {part: part.read_bytes() for part in (new / "parts").rglob("*.parquet")}
    assert len(done) >= 3
    again = mkhspc("segment", "--czi-path", wide_slide, "--output-dir", new, *SETTINGS)
    assert again.returncode == 0, again.stderr
    assert all(part.read_bytes() == data for part, data in done.items())
    whole = mkhspc("segment", "--czi-path", wide_slide, "--output-dir", tmp_path / "whole", *SETTINGS)
    assert whole.returncode == 0
    cells = Path("cells") / f"{wide_slide.stem}.parquet"
    assert (new / cells).read_bytes() == (tmp_path / "whole" / cells).read_bytes()


def test_no_writer_of_a_run_makes_its_directory_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=2)
    table, layout = tables.read_table(run.layout.cells("A"), run.manifest.config_hash), run.layout
    layout.root.rename(tmp_path / "moved")
    writers = {
        "a part": lambda: tables.create_stream(
            layout.part("A", "t"), table.schema, [table], "h", group_rows=9
        ),
        "a table": lambda: tables.write_table(layout.cells("A"), table, "h"),
        "a claim": lambda: ClaimFiles(layout).claim("A", "t"),
        "a revision": lambda: revisions._put(layout.manifest_revision(2), run.manifest, layout.root),
    }
    for what, write in writers.items():
        with pytest.raises(FileNotFoundError):
            write()
        assert not layout.root.exists(), what
    assert RunLayout(tmp_path / "moved").cells("A").exists()
