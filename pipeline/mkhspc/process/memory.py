"""How much memory a process and all its descendants use now, as the kernel counts it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

LARGE_BYTES = 2_000_000
"""Bytes: freed blocks of memory from this size on go back to the system at once ..."""
SPARE_BYTES = 4_000_000
"""... and of all smaller ones the C library keeps at most so many bytes."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), in glibc's <malloc.h>."""


def give_back_what_is_freed() -> None:
    """Has the C library keep no large blocks of memory that this process has freed.

    Left to itself, glibc learns from the sub-blocks that come and go to keep them: twice what is held, at
    the end of a wide slide. Other C libraries have no such setting, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, SPARE_BYTES)


def give_back_gaps() -> None:
    """Has the C library give back the pages that are free between those in use.

    What was freed lies there for as long as something above it is kept: 80 MB after the survey of a wide
    slide, 10 to 20 MB where cells of a dense tile have been found, or where windows come and go.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def tree_rss_bytes(root_pid: int | None = None, proc: Path = PROC) -> int:
    """Measures the resident memory of a process, by default this one, with its children and theirs.

    Pages that several of them share count for each, as Slurm without control groups counts. To know the
    shares the kernel would have to walk through all pages, some 6 ms a GB; this can be asked every second.
    A process that ends meanwhile counts nothing.
    """
    root_pid = os.getpid() if root_pid is None else root_pid
    texts = (_read(proc / str(pid) / "statm") for pid in descendants(_parents(proc), root_pid))
    return sum(rss_bytes_in_statm(text) for text in texts if text)


def peak_bytes(proc: Path = PROC, pid: int | None = None) -> int | None:
    """The most resident memory that a process ever had, shared pages included; None where nobody knows.

    Args:
        pid: of the process; by default this one.

    `ru_maxrss` would not do: it begins with what the parent had when it started this process.
    """
    return peak_bytes_in_status(_read(proc / ("self" if pid is None else str(pid)) / "status"))


def descendants(parents: Mapping[int, int], root_pid: int) -> list[int]:
    """The root and all below it.

    Args:
        parents: the parent of each process there is; the root need not be among them.
    """
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    tree = [root_pid]
    for pid in tree:  # grows while it is walked
        # Parents are not read at one moment, so a number given anew in between could close a ring.
        tree += [child for child in children.get(pid, []) if child not in tree]
    return tree


def parent_in_stat(text: str) -> int:
    """The parent's id in `/proc/PID/stat`, whose second field is a name that may hold anything."""
    return int(text[text.rindex(")") + 1 :].split()[1])


def peak_bytes_in_status(text: str) -> int | None:
    """The highest resident memory in `/proc/PID/status`, None where it is missing."""
    line = next((line for line in text.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def rss_bytes_in_statm(text: str, page_bytes: int = PAGE_BYTES) -> int:
    """Resident memory in `/proc/PID/statm`."""
    return int(text.split()[1]) * page_bytes


def _parents(proc: Path) -> dict[int, int]:
    stats = {path.name: _read(path / "stat") for path in proc.iterdir() if path.name.isdecimal()}
    return {int(pid): parent_in_stat(text) for pid, text in stats.items() if text}


def _read(path: Path) -> str:
    """The text of a file of `/proc`; empty when its process has ended."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
