"""How far a run is, told from its files alone, for all processes and hosts that share it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from blobs import CALIBRATION
from mkhspc.cluster.read_status import run_status, with_task_ends
from mkhspc.cluster.status import ProcessStatus, RunStatus, TaskEnd
from mkhspc.geometry import Box
from mkhspc.process.identity import host_token, process_start_ticks
from mkhspc.progress import SILENT_S
from mkhspc.slide.tiles import Tile, TilePlan, save_tile_plan
from mkhspc.slide.tissue import TissueMask
from mkhspc.store import cells as store_cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.tables import read_table, write_table
from processes import mkhspc
from runs import FakeRun, make_run, put_manifest

NOW_S = 1_800_000_000.0
TILES = ("s0_x000000_y000000", "s0_x004096_y000000", "s0_x000000_y004096", "s0_x004096_y004096")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """Two slides of four tiles, all done, and no journal."""
    run = make_run(tmp_path_factory.mktemp("pristine") / "run", slide_ids=("A", "B"), cells_per_type=20)
    everywhere = np.ones((64, 64), bool)
    tissue = TissueMask(everywhere, everywhere, 128, 0.22, 8192, 8192)
    for slide_id in ("A", "B"):
        rows = read_table(run.layout.plan(slide_id), run.manifest.config_hash).to_pylist()
        tiles = tuple(
            Tile(row["tile_id"], 0, Box(row["x0_px"], row["y0_px"], row["x1_px"], row["y1_px"]), 1.0, 1.0, i)
            for i, row in enumerate(rows)
        )
        run.layout.plan(slide_id).unlink()
        plan = TilePlan(tiles, {0: tissue}, {0: CALIBRATION})
        save_tile_plan(run.layout, slide_id, plan, run.manifest.config_hash)
    return run


@pytest.fixture
def run(pristine: FakeRun, tmp_path: Path) -> FakeRun:
    """A copy that the test may change."""
    shutil.copytree(pristine.layout.root, tmp_path / "run")
    return replace(pristine, layout=RunLayout(tmp_path / "run"))


def undone(run: FakeRun, slide_id: str, *numbers: int) -> None:
    for number in numbers:
        run.layout.part(slide_id, TILES[number]).unlink()


def event(at_s: float, name: str, **facts: Any) -> dict[str, Any]:
    return {"at_s": NOW_S + at_s, "event": name, **facts}


def begin(at_s: float, host: str = "node1", pid: int = 1, **facts: Any) -> dict[str, Any]:
    place = {"place": f"{host}~01234567", "started": "1"} | facts
    return event(at_s, "begin", host=host, pid=pid, workers=4, limit_bytes=8_000, **place)


def begin_here(at_s: float, pid: int) -> dict[str, Any]:
    return begin(at_s, socket.gethostname(), pid, place=host_token(), started=process_start_ticks(pid))


def done(at_s: float, slide_id: str, number: int, **facts: Any) -> dict[str, Any]:
    return event(at_s, "done", slide_id=slide_id, tile_id=TILES[number], seconds=2.0, **facts)


def memory(at_s: float, memory_bytes: int, peak_bytes: int) -> dict[str, Any]:
    return event(
        at_s, "memory", memory_bytes=memory_bytes, peak_bytes=peak_bytes, limit_bytes=8_000, workers=3
    )


def write_journal(run: FakeRun, name: str, lines: Sequence[dict[str, Any]], seen_s: float = 0.0) -> None:
    """A journal whose file was last written `seen_s` after `NOW_S`."""
    path = run.layout.logs / f"segment-{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    os.utime(path, (NOW_S + seen_s, NOW_S + seen_s))


def look(run: FakeRun) -> RunStatus:
    return run_status(run.layout, now_s=NOW_S)


def only_process(run: FakeRun) -> ProcessStatus:
    (process,) = look(run).processes
    return process


def test_parts_decide_what_is_done(run: FakeRun) -> None:
    undone(run, "B", 1, 3)
    status = look(run)
    assert [(s.slide_id, s.tiles, s.done, s.failed, s.left, s.merged) for s in status.slides] == [
        ("A", 4, 4, 0, 0, True), ("B", 4, 2, 0, 2, True),
    ]  # fmt: skip
    assert (status.left, status.is_finished) == (2, False)
    assert (status.tiles_per_s, status.eta_s, status.memory_bytes, status.processes) == (None, None, None, ())


def test_only_tiles_that_the_run_asks_for_count(run: FakeRun) -> None:
    config = replace(run.manifest.config, run=replace(run.manifest.config.run, sample_fraction=0.5))
    put_manifest(run.layout, replace(run.manifest, config=config))
    undone(run, "A", 0, 3)
    (a, b) = look(run).slides
    assert (a.tiles, a.done, a.left) == (2, 1, 1), "of the first two by rank, one is gone"
    assert (b.tiles, b.done, b.left) == (2, 2, 0)


def test_failed_tiles_are_those_that_failed_last_and_have_no_part(run: FakeRun) -> None:
    undone(run, "A", 0, 1)
    fail = {"slide_id": "A", "error": "broken"}
    write_journal(
        run,
        "n-1-1",
        [
            begin(-99),
            event(-90, "failed", tile_id=TILES[0], **fail),
            event(-80, "failed", tile_id=TILES[2], **fail),
            event(-70, "failed", tile_id="of another fraction", **fail),
        ],
    )
    (slide, _) = look(run).slides
    assert (slide.done, slide.failed, slide.left) == (2, 1, 2)


def test_the_order_of_time_decides_what_came_last(run: FakeRun) -> None:
    undone(run, "A", 0)
    fail = event(-10, "failed", slide_id="A", tile_id=TILES[0], error="broken")
    write_journal(run, "n-1-1", [begin(-99), fail])
    write_journal(run, "n-2-1", [begin(-50, pid=2), done(-40, "A", 0)])
    assert look(run).slides[0].failed == 1
    write_journal(run, "n-2-1", [begin(-50, pid=2), done(-5, "A", 0)])
    assert look(run).slides[0].failed == 0


def test_cells_come_from_journals_and_where_a_line_is_missing_from_the_part(run: FakeRun) -> None:
    real = {
        t: pc.sum(pc.equal(store_cells.read_cells(run.layout, run.manifest, "A")["cell_type"], t)).as_py()
        for t in ("mk", "hspc")
    }
    assert look(run).slides[0].cells == real == {"mk": 20, "hspc": 20}
    tile = store_cells.read_cells(run.layout, run.manifest, "A").filter(pc.field("tile_id") == TILES[1])
    in_tile = {t: pc.sum(pc.equal(tile["cell_type"], t)).as_py() for t in ("mk", "hspc")}
    # The journal is believed: it need not be opened again for every look.
    write_journal(run, "n-1-1", [begin(-9), done(-5, "A", 1, mk=1000, hspc=in_tile["hspc"])])
    assert look(run).slides[0].cells == {"mk": 20 - in_tile["mk"] + 1000, "hspc": 20}


def test_a_tile_done_twice_counts_once(run: FakeRun) -> None:
    found = [done(-5, "A", 1, mk=7, hspc=70)]
    before = look(run).cells
    write_journal(run, "n-1-1", [begin(-9), *found])
    once = look(run).cells
    assert once != before
    write_journal(run, "n-2-1", [begin(-9, pid=2), *found])
    assert look(run).cells == once


def test_the_rate_is_that_of_the_processes_at_work_together(run: FakeRun) -> None:
    undone(run, "A", 0, 1, 2, 3)
    undone(run, "B", 0)
    old = [done(-5000 + i, "A", 0) for i in range(50)]  # 50 in 50 s, by a process that has ended
    write_journal(run, "n-0-1", [begin(-5001), *old, event(-4950, "end")])
    write_journal(run, "n-1-1", [begin(-10), done(-5, "A", 1), done(0, "A", 2)])
    write_journal(run, "n-2-1", [begin(-20, host="node2"), done(0, "A", 3)])
    status = look(run)
    assert [process.tiles_per_s for process in status.processes] == [
        None,
        pytest.approx(0.05),
        pytest.approx(0.2),
    ]
    assert status.tiles_per_s == pytest.approx(0.25)
    assert status.eta_s == pytest.approx(5 / 0.25)


def test_the_time_left_does_not_wait_for_tiles_that_failed(run: FakeRun) -> None:
    undone(run, "A", 0, 1, 2)
    failed = event(-2, "failed", slide_id="A", tile_id=TILES[0], error="broken")
    write_journal(run, "n-1-1", [begin(-10), failed, done(0, "B", 0)])
    status = look(run)
    assert (status.left, status.failed) == (3, 1)
    assert status.eta_s == pytest.approx(2 / 0.2)


def resize(run: FakeRun, slide_id: str, factor: int) -> None:
    """Makes the one scene of a slide wider than the plan of its tiles knows."""
    slides = [
        replace(s, scenes=(replace(s.scenes[0], width_px=factor * s.scenes[0].width_px),))
        if s.slide_id == slide_id
        else s
        for s in manifests.read(run.layout).slides
    ]
    put_manifest(run.layout, replace(manifests.read(run.layout), slides=tuple(slides)))


def test_a_slide_that_is_not_planned_counts_by_its_size(run: FakeRun) -> None:
    run.layout.plan("B").unlink()
    shutil.rmtree(run.layout.part("B", "x").parent)
    resize(run, "B", 3)
    undone(run, "A", 0)
    write_journal(run, "n-1-1", [begin(-10), done(0, "A", 1)])
    status = look(run)
    slide = status.slides[1]
    assert (slide.tiles, slide.left, slide.estimated_tiles) == (None, None, 12), "4 tiles on a third of it"
    assert (status.unplanned, status.tiles, status.left, status.is_estimate) == (1, 16, 13, True)
    assert status.eta_s == pytest.approx(13 / 0.1)
    assert not status.is_finished


def test_the_estimate_follows_the_fraction_and_the_scenes_asked_for(run: FakeRun) -> None:
    run.layout.plan("B").unlink()
    asked = replace(run.manifest.config.run, sample_fraction=0.5)
    put_manifest(run.layout, replace(run.manifest, config=replace(run.manifest.config, run=asked)))
    assert look(run).slides[1].estimated_tiles == 4, "as many as have a part"
    shutil.rmtree(run.layout.part("B", "x").parent)
    assert look(run).slides[1].estimated_tiles == 2
    resize(run, "B", 5)
    assert look(run).slides[1].estimated_tiles == 10


def test_without_any_plan_the_time_is_open(run: FakeRun) -> None:
    for slide_id in ("A", "B"):
        run.layout.plan(slide_id).unlink()
    write_journal(run, "n-1-1", [begin(-10), done(0, "A", 1)])
    status = look(run)
    assert status.tiles_per_s is not None
    assert (status.eta_s, status.tiles, status.is_estimate) == (None, 0, True)


def test_the_command_calls_an_estimate_one(run: FakeRun) -> None:
    run.layout.plan("B").unlink()
    shutil.rmtree(run.layout.part("B", "x").parent)
    now_s = time.time() - NOW_S
    write_journal(run, "n-1-1", [begin(now_s - 10), done(now_s, "A", 1)], seen_s=now_s)
    shown = " ".join(mkhspc("status", run.layout.root).stdout.split())
    assert "4 of about 8 tiles; 1 slide not planned yet" in shown
    assert "about 40 s left by the sizes of slides" in shown
    assert "~4" in shown
    facts = json.loads(mkhspc("status", run.layout.root, "--json").stdout)
    assert (facts["left"], facts["is_estimate"], facts["slides"][1]["estimated_tiles"]) == (4, True, 4)
    assert facts["eta_s"] == pytest.approx(40.0, rel=0.1)


def test_memory_is_that_of_the_processes_at_work(run: FakeRun) -> None:
    write_journal(run, "n-0-1", [begin(-99), memory(-98, 9_000, 9_100), event(-90, "end")])
    write_journal(run, "n-1-1", [begin(-10), memory(-9, 500, 700), memory(0, 400, 600)])
    write_journal(run, "n-2-1", [begin(-10, host="node2"), memory(0, 1_000, 1_000)])
    status = look(run)
    assert status.memory_bytes == 1_400
    here = {process.name: process for process in status.processes}["segment-n-1-1"]
    assert (here.memory_bytes, here.peak_bytes, here.limit_bytes, here.workers) == (400, 700, 8_000, 3)


def test_a_process_on_another_host_is_lost_when_it_is_silent_for_long(run: FakeRun) -> None:
    write_journal(run, "n-1-1", [begin(-500), done(-400, "A", 0)], seen_s=-SILENT_S + 1)
    assert only_process(run).state == "working"
    write_journal(run, "n-1-1", [begin(-500), done(-400, "A", 0)], seen_s=-SILENT_S - 1)
    process = only_process(run)
    assert (process.state, process.tiles_per_s) == ("lost", None)
    assert process.silent_s == pytest.approx(SILENT_S + 1)


def test_a_process_on_this_host_is_lost_as_soon_as_it_is_gone_and_no_sooner(run: FakeRun) -> None:
    going = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_journal(run, "n-1-1", [begin_here(-9000, going.pid)], seen_s=-8000)
    assert only_process(run).state == "working", "silent for long, as one that is suspended, but there"
    going.communicate(b"\n")
    write_journal(run, "n-1-1", [begin_here(-9, going.pid)], seen_s=-1)
    assert only_process(run).state == "lost"


def test_a_process_is_not_taken_for_a_later_one_of_its_number(run: FakeRun) -> None:
    write_journal(run, "n-1-1", [begin_here(-90, os.getpid()) | {"started": "1"}])
    assert only_process(run).state == "lost"


def test_a_process_in_a_container_of_this_hosts_name_is_not_looked_for(run: FakeRun) -> None:
    write_journal(run, "n-1-1", [begin(-90, socket.gethostname(), 2**22 + 1)], seen_s=-60)
    assert only_process(run).state == "working"


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
def test_the_clock_of_who_looks_does_not_matter(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    now_s = time.time() - NOW_S
    here = [begin_here(now_s - 9000, os.getpid())]
    write_journal(run, "here-1-1", here, seen_s=now_s - 60)
    write_journal(run, "there-1-1", [begin(now_s - 9000)], seen_s=now_s - 60)
    write_journal(run, "silent-1-1", [begin(now_s - 9000)], seen_s=now_s - SILENT_S - 5)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off_s)
    found = {process.name.split("-")[1]: process for process in run_status(run.layout).processes}
    assert {name: process.state for name, process in found.items()} == {
        "here": "working", "there": "working", "silent": "lost",
    }  # fmt: skip
    assert found["there"].silent_s == pytest.approx(60.0, abs=5.0)
    assert [path.name for path in run.layout.logs.iterdir() if path.suffix != ".jsonl"] == []


def test_who_may_not_write_goes_by_the_clock_of_the_host(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(directory: Path) -> float:
        raise PermissionError

    write_journal(run, "n-1-1", [begin(-500)], seen_s=time.time() - NOW_S - SILENT_S - 5)
    monkeypatch.setattr("mkhspc.cluster.read_status.file_system_time", refuses)
    (process,) = run_status(run.layout).processes
    assert process.state == "lost"


@pytest.mark.parametrize(("last", "state"), [("end", "ended"), ("interrupted", "interrupted")])
def test_a_process_that_said_goodbye_is_not_lost(run: FakeRun, last: str, state: str) -> None:
    write_journal(run, "n-1-1", [begin(-9999), event(-9000, last)], seen_s=-9000)
    assert only_process(run).state == state


def test_what_the_cluster_says_goes_to_the_last_process_of_a_task(run: FakeRun) -> None:
    write_journal(run, "n-1-1", [begin(-900, job="7_0")], seen_s=-800)
    write_journal(run, "n-2-1", [begin(-90, job="7_0")])
    write_journal(run, "n-3-1", [begin(-80, job="7_1"), event(-1, "end")])
    write_journal(run, "n-4-1", [begin(-70)])
    ends = [
        TaskEnd("7_0", "OUT_OF_MEMORY", "0:125"),
        TaskEnd("7_1", "COMPLETED", "0:0"),
        TaskEnd("7_2", "NODE_FAIL", "1:0", "node9 died"),
        TaskEnd("7_3", "COMPLETED", "0:0"),
    ]
    status = with_task_ends(look(run), ends, "the database sleeps")
    found = {process.name[-3:]: (process.state, process.task_end) for process in status.processes}
    assert found == {
        "1-1": ("lost", None),
        "2-1": ("lost", ends[0]),
        "3-1": ("ended", ends[1]),
        "4-1": ("working", None),
    }
    assert status.unheard_tasks == (ends[2],)
    assert status.cluster_problem == "the database sleeps"
    assert look(run).unheard_tasks == ()


def test_the_command_prints_it_all(run: FakeRun) -> None:
    undone(run, "A", 0, 1)
    now_s = time.time() - NOW_S
    fail = event(now_s - 4, "failed", slide_id="A", tile_id=TILES[0], error="broken")
    lines = [
        begin(now_s - 10, job="7_0", shard="0/2"),
        fail,
        done(now_s - 1, "B", 0),
        memory(now_s, 500, 700),
    ]
    write_journal(run, "n-1-1", lines, seen_s=now_s)
    shown = mkhspc("status", run.layout.root)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert "6 of 8 tiles" in shown.stdout
    assert "left" in shown.stdout.splitlines()[-1]
    facts = json.loads(mkhspc("status", run.layout.root, "--json").stdout)
    assert (facts["left"], facts["failed"], facts["memory_bytes"]) == (2, 1, 500)
    assert (facts["tiles"], facts["is_estimate"]) == (8, False)
    assert facts["slides"][0] | {"cells": None} == {
        "slide_id": "A", "tiles": 4, "done": 2, "failed": 1, "left": 2, "merged": True,
        "merged_cells": 40, "cells": None,
        "missing_tiles": [TILES[0], TILES[1]], "failed_tiles": {TILES[0]: "broken"}, "estimated_tiles": None,
        "excluded": 0, "is_excluded": False,
    }  # fmt: skip
    assert facts["slides"][1]["missing_tiles"] == []
    assert facts["tiles_per_s"] == pytest.approx(0.2)
    assert facts["eta_s"] == pytest.approx(5.0)
    (process,) = facts["processes"]
    assert (process["job"], process["shard"], process["state"]) == ("7_0", "0/2", "working")


def test_tables_older_than_the_tiles_are_called_stale(run: FakeRun) -> None:
    whole = read_table(run.layout.cells("A"), run.manifest.config_hash)
    write_table(run.layout.cells("A"), whole.slice(0, 30), run.manifest.config_hash)
    run.layout.cells("B").unlink()
    (a, b) = look(run).slides
    assert (a.merged, a.merged_cells, a.is_stale) == (True, 30, True)
    assert (b.merged, b.merged_cells, b.is_stale) == (False, None, False)
    shown = " ".join(mkhspc("status", run.layout.root).stdout.split())
    assert "stale: 30 of 40 cells" in shown
    assert "tables lack finished tiles: run `mkhspc merge`" in shown


SACCT = """\
JobID|State|ExitCode|ReqMem|MaxRSS|Elapsed|NodeList
7_0|OUT_OF_MEMORY|0:125|4G||00:10:00|node1
7_1|NODE_FAIL|1:0|4G||00:10:00|node9
8|CANCELLED by 0|0:0|1G||00:00:00|None assigned
"""


def test_the_command_asks_slurm_about_what_it_submitted(
    run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "sacct"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{SACCT}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    now_s = time.time() - NOW_S
    write_journal(run, "n-1-1", [begin(now_s - 99, job="7_0"), done(now_s - 60, "A", 0)], seen_s=now_s)
    before = json.loads(mkhspc("status", run.layout.root, "--json").stdout)
    assert (before["processes"][0]["state"], before["unheard_tasks"]) == ("working", [])
    note = {"at_s": 1.0, "event": "submitted", "segment": "7", "merge": "8", "gallery": "9"}
    note |= {"jobs_dir": "/jobs", "tasks": ["A 0/1", "B 0/1"]}
    (run.layout.logs / "slurm-7.jsonl").write_text(json.dumps(note) + "\n")
    facts = json.loads(mkhspc("status", run.layout.root, "--json").stdout)
    (process,) = facts["processes"]
    assert process["state"] == "lost"
    assert "out of memory: it had 4G" in process["task_end"]["reason"]
    assert [(end["job"], end["state"]) for end in facts["unheard_tasks"]] == [
        ("7_1", "NODE_FAIL"), ("8", "CANCELLED"),
    ]  # fmt: skip
    shown = mkhspc("status", run.layout.root).stdout
    assert "job 7_0: OUT_OF_MEMORY, segment A 0/1: out of memory: it had 4G" in " ".join(shown.split())
    assert "job 7_1: NODE_FAIL, segment B 0/1: the node node9 failed" in " ".join(shown.split())
    program.write_text("#!/bin/sh\necho 'the database sleeps' >&2; exit 1\n")
    assert "sacct cannot be asked: the database sleeps" in mkhspc("status", run.layout.root).stdout


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for more in ((), ("--json",), ("--watch",)):
        refused = mkhspc("status", tmp_path, *more)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "is not a run" in refused.stderr


def test_watching_looks_again_until_all_is_done(run: FakeRun) -> None:
    part = run.layout.part("A", TILES[0])
    kept = part.read_bytes()
    part.unlink()
    command = [sys.executable, "-P", "-m", "mkhspc", "status", str(run.layout.root), "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert json.loads(process.stdout.readline())["left"] == 1
    assert json.loads(process.stdout.readline())["left"] == 1
    part.write_bytes(kept)
    rest = [json.loads(line)["left"] for line in process.stdout]
    assert rest[-1] == 0
    assert process.wait(timeout=30) == 0


def test_status_writes_nothing(run: FakeRun) -> None:
    def times(root: Path) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}

    before = times(run.layout.root)
    run_status(RunLayout(run.layout.root))
    assert times(run.layout.root) == before
