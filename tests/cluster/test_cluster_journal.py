"""The journals of a run: what is written, and what is read whatever became of the writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mkhspc.cluster.journal import RunLog, read_journals, slurm_job
from mkhspc.cluster.recorder import SlideTiles, TileRecorder
from mkhspc.store.layout import RunLayout
from runs import FakeRun, make_run

FOUND = {"seconds": 1.5, "mk": 2, "hspc": 30, "cells": 32}
DONE = {"slide_id": "A", "tile_id": "t1", **FOUND}


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("journal") / "run", slide_ids=("A", "B"), cells_per_type=4)


def only_file(layout: RunLayout) -> Path:
    (path,) = layout.logs.iterdir()
    return path


def test_what_is_written_is_read(layout: RunLayout) -> None:
    log = RunLog(layout)
    log.write("begin", workers=2, note="µm² \udcff \n")
    log.write("done", **DONE)
    log.write("end")
    (journal,) = read_journals(layout)
    assert [event.name for event in journal.events] == ["begin", "done", "end"]
    assert journal.origin["note"] == "µm² \udcff \n"
    assert journal.origin["pid"] == os.getpid()
    assert journal.events[1].facts == DONE
    assert journal.broken_lines == 0
    assert all(json.loads(line) for line in only_file(layout).read_text().splitlines())


def test_nothing_is_made_before_the_first_line(layout: RunLayout) -> None:
    RunLog(layout)
    assert not layout.logs.exists()


def test_every_log_has_a_file_of_its_own(layout: RunLayout) -> None:
    for _ in range(3):
        RunLog(layout).write("begin")
    assert len(read_journals(layout)) == 3


def test_notes_of_others_are_no_journals(layout: RunLayout) -> None:
    RunLog(layout).write("begin")
    (layout.logs / "slurm-12.jsonl").write_text('{"at_s": 1.0, "event": "submitted"}\n')
    (layout.logs / "segment-empty-1-1.jsonl").touch()
    assert len(read_journals(layout)) == 1


def test_a_journal_cut_at_any_byte_gives_what_was_whole(layout: RunLayout) -> None:
    log = RunLog(layout)
    log.write("begin", workers=2)
    log.write("done", **DONE)
    log.write("failed", slide_id="A", tile_id="µ", error="{} \\ \"}'")
    path = only_file(layout)
    data = path.read_bytes()
    (whole,) = read_journals(layout)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        lines = sum(end <= length + 1 for end in ends)  # a line that lacks only its line end is whole
        found = read_journals(layout)
        assert len(found) == (lines > 0)
        if found:
            assert found[0].events == whole.events[:lines]
            assert found[0].broken_lines == (length > ends[lines - 1])


@pytest.mark.parametrize(
    "line",
    [
        "", "null", "[1]", "{}", '{"at_s": 1}', '{"event": "done"}', '{"at_s": "1", "event": "end"}',
        '{"at_s": NaN, "event": "end"}', '{"at_s": 1, "event": 5}',
        '{"at_s": 1, "event": "done", "slide_id": "A", "tile_id": "t"}',
        '{"at_s": 1, "event": "failed", "slide_id": "A", "tile_id": "t", "error": null}',
        '{"at_s": 1, "event": "end", "lost_lines": "x"}', "\0\0\0", "\xff",
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_counted_and_left_out(layout: RunLayout, line: str) -> None:
    log = RunLog(layout)
    log.write("begin")
    with only_file(layout).open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    log.write("end")
    (journal,) = read_journals(layout)
    assert [event.name for event in journal.events] == ["begin", "end"]
    assert journal.broken_lines == bool(line.strip("\0"))


WRITER = """
    import sys
    from pathlib import Path
    from mkhspc.cluster.journal import RunLog
    from mkhspc.store.layout import RunLayout
    log = RunLog(RunLayout(Path(sys.argv[1])))
    log.write("begin")
    for number in range(10**9):
        log.write("done", slide_id="A", tile_id=f"t{number}", seconds=0.1, filling="x" * (number % 3000))
"""


def test_a_killed_writer_leaves_all_lines_but_perhaps_the_last(layout: RunLayout) -> None:
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(layout.root)])
    while sum(path.stat().st_size for path in layout.logs.glob("*")) < 200_000:
        assert process.poll() is None
        time.sleep(0.005)
        read_journals(layout)  # a reader never minds the writer
    process.send_signal(signal.SIGKILL)
    process.wait()
    (journal,) = read_journals(layout)
    numbers = [event.facts["tile_id"] for event in journal.named("done")]
    assert numbers == [f"t{i}" for i in range(len(numbers))]
    assert len(numbers) > 50
    assert journal.broken_lines <= 1


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from mkhspc.cluster.journal import RunLog
    from mkhspc.store.layout import RunLayout
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = RunLog(RunLayout(Path(sys.argv[1])))
    def room(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    room(int(sys.argv[2]))
    log.write("begin", filling="x" * 300)
    for number in range(4):
        log.write("done", slide_id="A", tile_id=f"t{number}", seconds=0.1, filling="y" * 300)
    room(resource.RLIM_INFINITY)
    log.write("end")
"""


def on_a_full_disk(layout: RunLayout, room_bytes: int) -> subprocess.CompletedProcess[str]:
    """Writes six lines where files may not grow beyond `room_bytes` until the last one."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(layout.root), str(room_bytes)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_full_disk_costs_lines_but_not_the_process(layout: RunLayout) -> None:
    done = on_a_full_disk(layout, 1100)
    assert done.returncode == 0, done.stderr
    (journal,) = read_journals(layout)
    assert [event.name for event in journal.events] == ["begin", "done", "end"]
    assert journal.events[-1].facts["lost_lines"] == 3
    assert journal.broken_lines == 3 + 1, "three were lost, of which one left a torn piece"


def test_a_journal_that_cannot_begin_is_an_error_and_leaves_nothing(layout: RunLayout) -> None:
    done = on_a_full_disk(layout, 100)
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert list(layout.root.iterdir()) == []


def test_a_clock_that_jumps_does_not_move_the_lines(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(layout)
    log.write("begin")
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 86_400.0)
    log.write("done", **DONE)
    monkeypatch.setattr(time, "time", lambda: now_s + 86_400.0)
    log.write("end")
    (journal,) = read_journals(layout)
    moments = [event.at_s for event in journal.events]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < 5.0


def test_hosts_with_different_clocks_stand_in_their_true_order(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    for host, ahead_s in (("first", 7200.0), ("second", -7200.0), ("third", 0.0)):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: real() + ahead_s)
        RunLog(layout).write("begin", who=host)
        time.sleep(0.02)
    journals = read_journals(layout)
    assert [journal.origin["who"] for journal in journals] == ["first", "second", "third"]
    skews = [journal.origin["host_s"] - journal.events[0].at_s for journal in journals]
    assert skews == pytest.approx([7200.0, -7200.0, 0.0], abs=1.0)


class Told:
    """A `Progress` that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, dict[str, Any]]] = []

    def __call__(self, stage: str, done: int, total: int, **facts: str | int | float) -> None:
        self.calls.append((stage, done, total, facts))


def recording(
    run: FakeRun, told: Told, tmp_path: Path, **slides: SlideTiles
) -> tuple[TileRecorder, RunLayout]:
    layout = RunLayout(tmp_path)
    watch = TileRecorder(RunLog(layout), told, slides or {"A": SlideTiles(asked=9, share=3, done=1)})
    watch.begin(run.manifest, workers=2, limit_bytes=8_000, shard="1/3", worker_bytes=500)
    return watch, layout


def test_the_first_line_says_what_the_run_is(run: FakeRun, tmp_path: Path) -> None:
    _, layout = recording(run, Told(), tmp_path)
    (journal,) = read_journals(layout)
    origin = journal.origin
    assert origin["config_hash"] == run.manifest.config_hash
    assert origin["identity"] == dict(run.manifest.identity)
    assert origin["versions"] == {"mkhspc": "test"}
    assert origin["slides"] == {"A": {"asked": 9, "share": 3, "done": 1, "failed": 0}}
    assert (origin["shard"], origin["workers"], origin["limit_bytes"], origin["worker_bytes"]) == (
        "1/3", 2, 8_000, 500,
    )  # fmt: skip


def test_whoever_looks_on_is_told_of_every_tile(run: FakeRun, tmp_path: Path) -> None:
    told = Told()
    slides = {"A": SlideTiles(asked=9, share=3, done=1), "B": SlideTiles(asked=2, share=2, done=0)}
    watch, layout = recording(run, told, tmp_path, **slides)
    watch.memory(4_000, 2)
    watch.done("A", "t1", FOUND)
    watch.failed("A", "t2", "broken")
    watch.done_elsewhere("B")
    steps = [(done, total, facts.get("slide")) for _, done, total, facts in told.calls]
    assert steps == [(1, 5, "A"), (1, 5, "B"), (1, 5, None), (2, 5, "A"), (3, 5, "A"), (4, 5, "B")]
    done, failed, other = (facts for *_, facts in told.calls[3:])
    assert (done["cells"], done["mk"], done["hspc"]) == (32, 2, 30)
    assert (done["memory_bytes"], done["limit_bytes"], done["workers"]) == (4_000, 8_000, 2)
    assert (failed["tile"], failed["error"], failed["failed"]) == ("t2", "broken", 1)
    assert (failed["slide_done"], failed["slide_total"], failed["slide_failed"]) == (3, 3, 1)
    assert (other["slide_done"], other["slide_total"], other["cells"]) == (1, 2, 32)
    assert (watch.total, watch.left, watch.failed_tiles, watch.cells) == (5, 1, 1, 32)
    assert [e.name for e in read_journals(layout)[0].events] == ["begin", "memory", "done", "failed"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until it is moved."""
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    return now_s


def test_no_peak_is_lost_between_two_lines(run: FakeRun, tmp_path: Path, clock: list[float]) -> None:
    told = Told()
    watch, layout = recording(run, told, tmp_path)
    clock[0] += 3600.0
    for second in range(65):
        watch.memory(9_999 if second == 13 else 100 + second, 2)
        clock[0] += 1.0
    watch.memory(50, 1)
    watch.memory(77, 1)
    watch.interrupted("SIGUSR1")
    (journal,) = read_journals(layout)
    names = ("memory_bytes", "peak_bytes", "workers")
    assert [tuple(event.facts[name] for name in names) for event in journal.named("memory")] == [
        (100, 100, 2), (130, 9_999, 2), (160, 160, 2), (50, 164, 1), (77, 77, 1),
    ]  # fmt: skip
    assert len(told.calls) == 1 + 67, "whoever looks on is told every time"
    assert journal.events[-1].facts == {"signal": "SIGUSR1", "left": 2}


def test_memory_is_written_often_at_first_and_then_seldom(
    run: FakeRun, tmp_path: Path, clock: list[float]
) -> None:
    watch, layout = recording(run, Told(), tmp_path)
    for second in range(4 * 3600):
        watch.memory(100 + second, 2)
        clock[0] += 1.0
    (journal,) = read_journals(layout)
    moments = [event.at_s - journal.events[0].at_s for event in journal.named("memory")]
    assert sum(at_s < 30 for at_s in moments) == 30
    assert 115 < sum(at_s >= 3 * 3600 for at_s in moments) <= 121
    assert len(moments) < 1.4 * 4 * 120


def test_the_end_says_what_was_found(run: FakeRun, tmp_path: Path) -> None:
    watch, layout = recording(run, Told(), tmp_path)
    watch.retried("A", "t1", "SIGKILL")
    watch.done("A", "t1", FOUND)
    watch.failed("A", "t2", "broken")
    watch.end()
    (journal,) = read_journals(layout)
    assert [event.name for event in journal.events] == ["begin", "retry", "done", "failed", "end"]
    assert journal.events[-1].facts == {"failed": 1, "cells": 32, "mk": 2, "hspc": 30}


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
    ],
)
def test_a_process_knows_its_job(environment: dict[str, str], job: str | None) -> None:
    assert slurm_job(environment) == job
