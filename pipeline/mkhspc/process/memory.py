"""How much memory a process and all its descendants use now, as the kernel counts it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

LARGE_BYTES, SPARE_BYTES = 2_000_000, 4_000_000
"""Freed blocks of memory from this size on go back to the system at once; of all others so much is kept."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""In glibc's <malloc.h>."""


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


@dataclass(frozen=True)
class TreeMemory:
    """Memory of a process tree.

    Attributes:
        rss_bytes: the sum of what each process has in memory; pages that several share count for each
            of them, as Slurm without control groups counts.
        pss_bytes: the same with every shared page divided among those who share it: what the tree takes
            from the machine. An upper bound unless `is_exact`.
        is_exact: False when the kernel hid a process's shares, so that its RSS stands for its PSS.
    """

    rss_bytes: int
    pss_bytes: int
    processes: int
    is_exact: bool = True


def tree_rss_bytes(root_pid: int | None = None, proc: Path = PROC) -> int:
    """`TreeMemory.rss_bytes` alone: cheap enough to look at every second, however large the tree.

    To know the shares of pages the kernel must walk through all of them, some 6 ms a GB.
    """
    return sum(rss_bytes_in_statm(text) for text in _each_statm(root_pid, proc))


def tree_memory(root_pid: int | None = None, proc: Path = PROC) -> TreeMemory:
    """Measures a process, by default this one, with its children and theirs.

    A process that ends while it is looked at counts nothing.
    """
    found = [_measure(process) for process in _tree(root_pid, proc)]
    here = [memory for memory in found if memory is not None]
    return TreeMemory(
        rss_bytes=sum(memory.rss_bytes for memory in here),
        pss_bytes=sum(memory.pss_bytes for memory in here),
        processes=len(here),
        is_exact=all(memory.is_exact for memory in here),
    )


def peak_bytes(proc: Path = PROC, pid: int | None = None) -> int | None:
    """The most that a process had in memory at any time, shared pages included; None if nobody knows.

    Args:
        pid: whose; by default this process's.

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
    """The highest resident memory in `/proc/PID/status`, None where it is not told."""
    return _kib_in(text, "VmHWM:")


def rss_bytes_in_statm(text: str, page_bytes: int = PAGE_BYTES) -> int:
    """Resident memory in `/proc/PID/statm`."""
    return int(text.split()[1]) * page_bytes


def pss_bytes_in_rollup(text: str) -> int:
    """Proportional memory in `/proc/PID/smaps_rollup`; 0 for a process without memory."""
    return _kib_in(text, "Pss:") or 0


def _kib_in(text: str, name: str) -> int | None:
    """The bytes in the line of a table of the kernel that begins with `name`."""
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(name)), None)


def _each_statm(root_pid: int | None, proc: Path) -> Iterator[str]:
    texts = (_read(process / "statm") for process in _tree(root_pid, proc))
    return (text for text in texts if text)


def _tree(root_pid: int | None, proc: Path) -> list[Path]:
    """The folders of a process, by default this one, and of all below it."""
    root_pid = os.getpid() if root_pid is None else root_pid
    return [proc / str(pid) for pid in descendants(_parents(proc), root_pid)]


def _parents(proc: Path) -> dict[int, int]:
    stats = {path.name: _read(path / "stat") for path in proc.iterdir() if path.name.isdecimal()}
    return {int(pid): parent_in_stat(text) for pid, text in stats.items() if text}


def _measure(process: Path) -> TreeMemory | None:
    statm = _read(process / "statm")
    if not statm:
        return None
    rss_bytes = rss_bytes_in_statm(statm)
    try:
        rollup = _read(process / "smaps_rollup")
    except PermissionError:  # it runs as another user
        return TreeMemory(rss_bytes, rss_bytes, 1, is_exact=False)
    if not rollup and rss_bytes:
        return _without_rollup(process)
    return TreeMemory(rss_bytes, pss_bytes_in_rollup(rollup), 1)


def _without_rollup(process: Path) -> TreeMemory | None:
    """Of a process that has just ended, or on a kernel before 4.14, which has no `smaps_rollup`."""
    statm = _read(process / "statm")
    if not statm:
        return None
    rss_bytes = rss_bytes_in_statm(statm)
    return TreeMemory(rss_bytes, rss_bytes, 1, is_exact=not rss_bytes)


def _read(path: Path) -> str:
    """The text of a file of `/proc`; empty when its process has ended."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
