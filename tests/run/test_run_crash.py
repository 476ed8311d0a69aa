"""What SIGKILL, several processes on one run and a full disk cost: nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from crashes import (
    WORKERS,
    Segment,
    digest,
    empty_directories,
    killed_at_random,
    leftovers,
)
from mkhspc.process.identity import host_token
from mounts import tmpfs
from processes import mkhspc

pytestmark = pytest.mark.slow

KILLS = 20
HANG_S = 120.0
TILES = 9


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: its bytes, and how long it took."""

    digest: dict[str, str]
    wall_s: float
    size_bytes: int


@pytest.fixture(scope="module")
def undisturbed(tiny_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    run = Segment(tiny_slide, tmp_path_factory.mktemp("undisturbed") / "run")
    begun_s = time.monotonic()
    process = run.start()
    assert process.wait() == 0, run.errors.read_text()
    wall_s = time.monotonic() - begun_s
    assert len(run.finished()) == TILES
    assert run.begun_in_all() == TILES
    size_bytes = sum(p.stat().st_size for p in (run.root / "parts").rglob("*.parquet"))
    return Undisturbed(digest(run.root), wall_s, size_bytes)


@contextmanager
def killed_in_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Lets no process outlive a test that failed."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_kills_at_random_moments_lose_nothing(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path
) -> None:
    toll = killed_at_random(tiny_slide, undisturbed.digest, undisturbed.wall_s, tmp_path, KILLS, seed=20)
    assert toll.kills.total() == KILLS
    assert min(toll.kills["group"], toll.kills["parent"]) > 0
    assert toll.lost == 0
    assert max(toll.again) <= WORKERS, "at most one tile a worker is done again"
    assert toll.repeated == 0
    assert toll.differing == 0
    assert toll.orphans == 0
    for run in tmp_path.glob("run-*/"):
        assert empty_directories(run) == [], "the next run tidies what a killed one had just made"
        assert mkhspc("clean", run).returncode == 0
        assert leftovers(run) == []
        assert empty_directories(run) == []


def test_workers_end_when_their_parent_is_killed(tiny_slide: Path, tmp_path: Path) -> None:
    run = Segment(tiny_slide, tmp_path / "run")
    process = run.start()
    while process.poll() is None and not run.begun():
        time.sleep(0.005)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(children) >= WORKERS
    _, alive = psutil.wait_procs(children, timeout=30)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert len(run.finished()) <= WORKERS, "they finish the tile at hand and begin no other"


def test_a_claim_whose_process_number_is_anothers_now_holds_nobody_up(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path
) -> None:
    """After a restart of the machine, or in a container, the numbers of dead processes are given again."""
    run = Segment(tiny_slide, tmp_path / "run")
    assert run.start("--sample-fraction", "0.1").wait() == 0, run.errors.read_text()
    ours = run.root / "parts" / "TINY" / "s0_0_0.claim"
    ours.write_text(f"{host_token()} {os.getpid()} 00000000")
    os.utime(ours, (time.time() - 3600,) * 2)
    process = run.start()
    with killed_in_the_end(process):
        assert process.wait(timeout=HANG_S) == 0, run.errors.read_text()
    assert digest(run.root) == undisturbed.digest
    assert leftovers(run.root) == []


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_on_one_run_share_its_tiles(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path, processes: int
) -> None:
    run = Segment(tiny_slide, tmp_path / "run", workers=1)
    together = [run.start() for _ in range(processes)]
    assert [process.wait() for process in together] == [0] * processes, run.errors.read_text()
    assert digest(run.root) == undisturbed.digest
    assert run.begun_in_all() - TILES <= processes, "at most one tile a worker is done twice"
    assert leftovers(run.root) == []
    assert empty_directories(run.root) == []


def test_shards_and_whole_runs_at_once_share_the_tiles(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path
) -> None:
    run = Segment(tiny_slide, tmp_path / "run", workers=1)
    together = [run.start("--shard", "1/2"), run.start(), run.start("--shard", "0/3")]
    assert [process.wait() for process in together] == [0] * 3, run.errors.read_text()
    assert digest(run.root) == undisturbed.digest
    assert run.begun_in_all() - TILES <= len(together)


@pytest.mark.parametrize(
    "steps",
    [
        [("--shard", "2/3"), ("--sample-fraction", "0.3"), ("--shard", "0/2"), ()],
        [("--sample-fraction", "0.5", "--shard", "1/2"), ("--shard", "1/2"), ("--shard", "0/2")],
    ],
)
def test_shards_in_any_mixture_end_in_the_same_bytes(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path, steps: list[tuple[str, ...]]
) -> None:
    run = Segment(tiny_slide, tmp_path / "run")
    for step in steps:
        assert run.start(*step).wait() == 0, run.errors.read_text()
    merged = mkhspc("merge", run.root)
    assert merged.returncode == 0, merged.stderr
    assert digest(run.root) == undisturbed.digest
    assert run.begun_in_all() == TILES


def test_what_a_process_killed_before_its_first_file_left_is_tidied_by_the_next(
    tiny_slide: Path, tmp_path: Path
) -> None:
    run = Segment(tiny_slide, tmp_path / "run")
    assert run.start("--sample-fraction", "0.1").wait() == 0, run.errors.read_text()
    empty = [run.root / name for name in ("parts/OTHER", "scores")]
    segment = ("segment", "--czi-path", tiny_slide, "--output-dir", run.root, "--tile-size", 256)
    for words in ((*segment, "--sample-fraction", "0.1", "--shard", "999/1000"), ("merge", run.root)):
        for directory in empty:
            directory.mkdir()
        assert mkhspc(*words).returncode == 0
        assert empty_directories(run.root) == []


@pytest.mark.parametrize("moment", ["manifest", "plan", "first tile", "later tile", "tables", "no inodes"])
def test_a_full_disk_is_said_and_loses_nothing(
    undisturbed: Undisturbed, tiny_slide: Path, tmp_path: Path, moment: str
) -> None:
    options = {
        "manifest": "size=1g,nr_inodes=1",
        "plan": "size=12k",
        "first tile": "size=64k",
        "later tile": f"size={undisturbed.size_bytes * 2 // 3}",
        "tables": f"size={undisturbed.size_bytes * 5 // 4}",
        "no inodes": "size=1g,nr_inodes=14",
    }[moment]
    with tmpfs(tmp_path / "disk", options) as disk:
        run = Segment(tiny_slide, disk)  # the notes of its workers lie beside it, on another disk
        assert run.start().wait() == (4 if (disk / "manifest.json").exists() else 3)
        assert (disk / "manifest.json").exists() == (moment != "manifest")
        said = run.errors.read_text().splitlines()
        spoken = [line for line in said if not line.startswith("{") and " by the detector '" not in line]
        assert "No space left on device" in " ".join(spoken)
        assert "Traceback" not in " ".join(spoken)
        assert len(spoken) <= 2
        assert leftovers(disk) == []
        assert empty_directories(disk) == []
        for part in (run.root / "parts").rglob("*.parquet"):
            pq.read_table(part)
        before = run.finished()
        if moment == "later tile":
            assert before
        subprocess.run(["mount", "-o", "remount,size=1g,nr_inodes=10000", disk], check=True)
        assert run.start().wait() == 0, run.errors.read_text()
        assert before.items() <= run.finished().items()
        assert digest(run.root) == undisturbed.digest


def test_a_run_that_was_killed_reports_what_is_left(tiny_slide: Path, tmp_path: Path) -> None:
    run = Segment(tiny_slide, tmp_path / "run")
    process = run.start()
    while process.poll() is None and not run.finished():
        time.sleep(0.005)
    process.kill()
    process.wait()
    shown = mkhspc("status", run.root, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["left"] == TILES - len(run.finished())
    refused = mkhspc("merge", run.root)
    assert refused.returncode == 4
    assert "tiles are missing: TINY/s0_" in refused.stderr
