"""Running `mkhspc` as its users do, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
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
    return [sys.executable, "-P", "-m", "mkhspc", *map(str, arguments)]


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
    """A finished process: wall time, and the highest sums of its tree's memory that were seen.

    Attributes:
        peak_bytes: pages that several share count once (PSS).
        peak_rss_bytes: such pages count for each of them (RSS), as Slurm without control groups counts.
    """

    process: subprocess.CompletedProcess[str]
    wall_s: float
    peak_bytes: int
    peak_rss_bytes: int


def measured(*arguments: object, cwd: Path | None = None) -> Measured:
    """Runs `mkhspc` while the memory of its whole process tree is sampled."""
    return watched(command(*arguments), cwd=cwd)


def with_peak(*arguments: object, timeout_s: float = 120) -> tuple[subprocess.CompletedProcess[str], int]:
    """Runs `mkhspc` and returns the most memory that its first process ever had, beside its output."""
    words = [sys.executable, "-P", "-c", _WITH_PEAK, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    err, _, peak = done.stderr.rpartition("peak ")
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, err), int(peak)


_WITH_PEAK = """
import atexit, sys
from mkhspc.cli import run_command
from mkhspc.process.memory import peak_bytes
atexit.register(lambda: print("peak", peak_bytes(), file=sys.stderr))
if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:]))
"""


def watched(
    words: Sequence[str], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Measured:
    """Runs any command while the memory of its whole process tree is sampled."""
    begun_s = time.monotonic()
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment
    )
    peaks = [0, 0]
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    out, err = process.communicate()
    wall_s = time.monotonic() - begun_s
    watcher.join()
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    return Measured(done, wall_s, *peaks)


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[:] = map(max, peaks, _tree_bytes(process.pid))
        time.sleep(0.05)


def _tree_bytes(pid: int) -> tuple[int, int]:
    """PSS and RSS of a process and its children."""
    pss_bytes = rss_bytes = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                memory = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it ended between the listing and the look
            pss_bytes += memory.pss
            rss_bytes += memory.rss
    except psutil.NoSuchProcess:
        return 0, 0
    return pss_bytes, rss_bytes
