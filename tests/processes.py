"""Running `mkhspc` as its users do, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


def mkhspc(
    *arguments: object, cwd: Path | None = None, timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Runs the command and returns its exit code, stdout and stderr."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=timeout_s, check=False
    )


def command(*arguments: object) -> list[str]:
    """The words that start `mkhspc` with these arguments."""
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


def started(*arguments: object, cwd: Path | None = None, own_session: bool = False) -> subprocess.Popen[str]:
    """Starts the command and returns at once; its output waits for `communicate`.

    Args:
        own_session: give it and its children a process group that can be killed as one.
    """
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=own_session,
    )


@dataclass(frozen=True)
class Measured:
    """A finished process: wall time, and the highest sum of its tree's memory (PSS) seen."""

    process: subprocess.CompletedProcess[str]
    wall_s: float
    peak_bytes: int


def measured(*arguments: object, cwd: Path | None = None) -> Measured:
    """Runs `mkhspc` while the memory of its whole process tree is sampled."""
    begun_s = time.monotonic()
    process = started(*arguments, cwd=cwd)
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    out, err = process.communicate()
    wall_s = time.monotonic() - begun_s
    watcher.join()
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return Measured(done, wall_s, peaks[0])


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], _tree_bytes(process.pid))
        time.sleep(0.05)


def _tree_bytes(pid: int) -> int:
    """Proportional memory of a process and its children: shared pages are counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it ended between the listing and the look
    except psutil.NoSuchProcess:
        return 0
    return total
