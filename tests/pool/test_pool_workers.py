from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from listsource import ListSource
from mkhspc.errors import InputError, InterruptedRunError
from mkhspc.pool.pool import Pool
from mkhspc.process.signals import StopFlag, interruptible


@dataclass
class Errand:
    """Work whose tasks say what is to happen; `marks` is a directory that counts tries."""

    marks: Path

    def prepare(self) -> None:
        self.prepared_in = os.getpid()

    def run(self, task: Any) -> dict[str, Any]:
        tries = len(list(self.marks.glob(f"{task}-*")))
        (self.marks / f"{task}-{tries}").touch()
        kind = str(task).split(":")[0]
        if kind == "raise":
            raise InputError("the sub-block does not decode", where="slide.czi")
        if kind == "bug":
            raise ZeroDivisionError("division by zero")
        if kind == "die" or (kind == "die-once" and tries == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "part.parquet")
        if kind == "slow":
            time.sleep(0.3)
        return {"pid": self.prepared_in, "task": task}


def run_all(tmp_path: Path, tasks: list[str], size: int = 2) -> dict[str, Any]:
    outcomes = list(Pool(Errand(tmp_path), size, StopFlag()).outcomes(ListSource(tasks)))
    final = [outcome for outcome in outcomes if not outcome.will_retry]
    assert len(final) == len(tasks)
    return {outcome.task: outcome for outcome in final}


def test_every_task_is_done_once_in_processes_prepared_once(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, [f"slow:{i}" for i in range(6)])
    pids = {outcome.facts["pid"] for outcome in outcomes.values()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert len(list(tmp_path.iterdir())) == 6


def test_a_task_that_raises_fails_alone_and_says_why(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, ["raise:1", "bug:2", "ok:3"])
    assert outcomes["raise:1"].error == "slide.czi: the sub-block does not decode"
    assert outcomes["bug:2"].error == "ZeroDivisionError: division by zero"
    assert outcomes["ok:3"].error is None


def test_a_full_disk_is_told_from_a_fault_of_one_task(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, ["full:1", "bug:2", "raise:3"])
    assert [task for task, outcome in outcomes.items() if outcome.is_fatal] == ["full:1"]
    assert "No space left" in str(outcomes["full:1"].error)


def test_a_killed_worker_costs_its_task_one_retry(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, ["die-once:1", "ok:2", "ok:3"])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert len(list(tmp_path.glob("die-once:1-*"))) == 2


def test_a_task_that_kills_twice_fails_and_the_others_go_on(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, ["die:1", *[f"ok:{i}" for i in range(8)]])
    assert "SIGKILL" in str(outcomes["die:1"].error)
    assert sum(outcome.error is None for outcome in outcomes.values()) == 8
    assert len(list(tmp_path.glob("die:1-*"))) == 2


def test_a_stop_is_reported_once_a_signal_and_never_from_its_handler() -> None:
    lines: list[str] = []
    stop = StopFlag(lines.append)
    restore = stop.install()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        assert lines == [], "a handler may interrupt the writing of a line"
        for _ in range(3):
            stop.report()
        assert lines == ["stopping (SIGINT): finishing the tiles under way"]
        os.kill(os.getpid(), signal.SIGINT)
        stop.report()
        assert len(lines) == 2, "a second Ctrl-C is answered too"
    finally:
        restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_at_the_end_of_the_tasks_under_way(tmp_path: Path, number: int) -> None:
    stop = StopFlag()
    restore = stop.install()
    try:
        tasks = [f"slow:{i}" for i in range(40)]
        done = []
        for outcome in Pool(Errand(tmp_path), 2, stop).outcomes(ListSource(tasks)):
            if not done:
                os.kill(os.getpid(), number)
            done.append(outcome)
    finally:
        restore()
    assert stop.signal_name == signal.Signals(number).name
    assert 2 <= len(done) <= 4, "begun tasks are finished, no other is begun"
    assert len(list(tmp_path.iterdir())) == len(done)


def test_all_or_nothing_work_ends_at_once_with_a_signal() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    begun_s = time.monotonic()
    with pytest.raises(InterruptedRunError, match="SIGUSR1"):
        _interrupted_work()
    assert time.monotonic() - begun_s < 4
    assert signal.getsignal(signal.SIGUSR1) is before


@interruptible()
def _interrupted_work() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(5)


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "--czi-path", "a.czi", "--output-dir", "a"],
        ["merge", "a"],
        ["plan", "--czi-path", "a.czi"],
    ],
)
def test_commands_catch_signals_before_they_load_what_takes_long(words: list[str], tmp_path: Path) -> None:
    code = """
import signal, sys
from mkhspc.cli import run_command
install, loaded = signal.signal, {}
def noted(number, handler):
    loaded.setdefault(number, "numpy" in sys.modules)
    return install(number, handler)
signal.signal = noted
run_command(sys.argv[1:])
print([loaded.get(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[False, False, False]"


def test_workers_end_with_the_pool(tmp_path: Path) -> None:
    outcomes = run_all(tmp_path, ["ok:1", "ok:2"])
    time.sleep(0.1)
    for outcome in outcomes.values():
        assert not Path(f"/proc/{outcome.facts['pid']}").exists()


def test_no_task_starts_no_process(tmp_path: Path) -> None:
    before = threading.active_count()
    assert run_all(tmp_path, []) == {}
    assert threading.active_count() == before
