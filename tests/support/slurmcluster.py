"""A real Slurm of one node, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

SCRIPTS = Path(__file__).parents[1] / "slurm"
NOT_INSTALLED = 77
LOOK_EVERY_S, COMPARE_EVERY_S = 0.05, 2.0
STUCK_S = 180.0
"""Seconds in which nothing moves before a test gives up: longer than any delay of Slurm's own, the longest of
which is a minute."""
MOST_S = 1800.0
"""Seconds after which a test gives up although something moves."""


class NotInstalledError(Exception):
    """Slurm is not here, and this user cannot install it."""


@contextmanager
def running_slurm() -> Iterator[Path]:
    """The folder of a running Slurm, with its logs; the environment points Slurm's commands at it.

    Raises:
        NotInstalledError: there is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="mkhspc-slurm-"))  # a socket's path has to be short
    before = os.environ.get("SLURM_CONF")
    try:
        up = subprocess.run(
            [SCRIPTS / "up.sh", folder, str(_three_free_ports())], capture_output=True, text=True, check=False
        )
        if up.returncode == NOT_INSTALLED:
            raise NotInstalledError(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
    finally:
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
        subprocess.run([SCRIPTS / "down.sh", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def slurm(*words: str) -> str:
    """What a command of Slurm's prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def wait_until(look: Callable[[], Any], *folders: Path) -> Any:
    """Returns what `look` returns as soon as that is true, however long it takes while anything moves.

    Whether anything moves is seen in the states of all jobs, the processor time of the project's processes,
    and the sizes of the files in `folders`, such as outputs of jobs and journals of a run.

    Raises:
        AssertionError: nothing has moved for `STUCK_S`; it says what was seen last.
    """
    begun_s = moved_s = compared_s = time.monotonic()
    seen = ""
    while not (found := look()):
        now_s = time.monotonic()
        if now_s - compared_s >= COMPARE_EVERY_S or not seen:
            before, seen, compared_s = seen, _state(folders), now_s
            moved_s = moved_s if seen == before else now_s
        if now_s - moved_s > STUCK_S or now_s - begun_s > MOST_S:
            raise AssertionError(f"after {now_s - begun_s:.0f} s nothing moves any more; seen last:\n{seen}")
        time.sleep(LOOK_EVERY_S)
    return found


def _state(folders: tuple[Path, ...]) -> str:
    """What is seen of the cluster and of the work of its jobs, to be compared and to be read."""
    queue = subprocess.run(
        ["squeue", "--array", "--format=%i %j %T %r"], capture_output=True, text=True, check=False
    )
    node = subprocess.run(["sinfo", "-h", "-o", "node %t %E"], capture_output=True, text=True, check=False)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    sizes = []
    for path in files:
        with suppress(FileNotFoundError):  # a temporary file
            sizes.append(f"{path}: {path.stat().st_size} bytes")
    return "\n".join([queue.stdout + queue.stderr, node.stdout + node.stderr, *sizes, *_processor_times()])


def _processor_times() -> Iterator[str]:
    for process in psutil.process_iter(["pid", "cmdline", "cpu_times", "status"]):
        line, times = process.info["cmdline"] or [], process.info["cpu_times"]
        if "mkhspc" in line and times is not None:
            spent_s = times.user + times.system
            yield f"process {process.info['pid']} {process.info['status']}: {spent_s:.1f} s of a processor"


def put_right() -> None:
    """Ends every job, and brings the node back, whatever a test has left of them."""
    node = slurm("sinfo", "--noheader", "--format=%n").split()[0]

    def is_right() -> bool:
        if slurm("squeue", "--noheader"):
            for words in (["--full", "--signal=KILL"], []):
                subprocess.run(["scancel", *words, f"--user={psutil.Process().username()}"], check=False)
            return False
        if slurm("sinfo", "--noheader", "--format=%t").strip() == "idle":
            return True
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        time.sleep(1.0)
        return False

    wait_until(is_right)


def _three_free_ports() -> int:
    for first in range(16800, 20000, 3):
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            try:
                for number, held in enumerate((a, b, c)):
                    held.bind(("127.0.0.1", first + number))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
