"""What this process may use: memory and cores, by the user, Slurm, control groups and the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mkhspc.errors import UsageError
from mkhspc.units import GB, MIB

OTHERS_MATTER_SHARE = 0.25
"""Share of a limit: when other programs use more than this of it, plans leave what they use to them. Below it
a machine is as good as idle, and a little more or less in use changes no plan."""
SOFT_LIMITS = {"memory.max": ("memory.high",)}
"""Soft limits beside a hard one of a control group: above them the kernel slows its processes down until they
have less (Linux, Documentation/admin-guide/cgroup-v2)."""
SAFE_SHARE = 0.95
"""Share of a memory limit that plans use; the rest is for what no plan foresees."""
LEAST_GB = 0.2
"""GB (10**9 bytes) below which not even the libraries of a run fit: a process that loads them is killed
before it can say so."""
UNLIMITED_BYTES = 2**60
"""Bytes from which on a limit counts as none: version 1 of the control groups writes a number near 2**63."""


@dataclass(frozen=True)
class MemoryLimit:
    """The smallest limit that applies, and who set it."""

    limit_bytes: int
    set_by: str


def memory_limit(
    memory_gb: float | None = None,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> MemoryLimit:
    """The least of what the user, Slurm, the control groups and the machine allow, and have left now.

    Args:
        memory_gb: the user's own limit, in GB of 10**9 bytes.
        root: where `proc` and `sys` lie.

    Raises:
        UsageError: nothing says how much memory there is.
    """
    limits = [MemoryLimit(n, name) for n, name in _all_limits(memory_gb, environment, root)]
    if not limits:
        raise UsageError(
            "neither Slurm, nor a control group, nor /proc/meminfo says how much memory there is",
            fix="give it with --memory-gb",
        )
    return min(limits, key=lambda limit: limit.limit_bytes)


def require_least_memory(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Raises `UsageError` where there is too little memory even to find out how much is needed.

    What others use of it does not count: the user may say with --memory-gb that it will be free.
    """
    for limit_bytes, set_by in _all_limits(LEAST_GB, environment, root):
        if limit_bytes < LEAST_GB * GB:
            raise UsageError(
                f"a run needs at least {LEAST_GB:.1f} GB of memory and the limit is"
                f" {limit_bytes / GB:.3g} GB, set by {set_by}",
                fix="give more memory: `mkhspc plan` says how much, elsewhere",
            )


def _all_limits(
    memory_gb: float | None, environment: Mapping[str, str], root: Path
) -> Iterator[tuple[int, str]]:
    if memory_gb is not None:
        yield int(memory_gb * GB), "--memory-gb"
    yield from _slurm(environment)
    own_bytes, is_given = _own_bytes(root), memory_gb is not None
    for directory, name in cgroup_directories(root, "memory"):
        for file in (name, *SOFT_LIMITS.get(name, ())):
            text = _text(directory / file)
            if text.isdecimal() and int(text) < UNLIMITED_BYTES:
                others_bytes = _taken_bytes(directory) - own_bytes
                set_by = f"the control group ({directory / file})"
                yield from _shared(int(text), others_bytes, set_by, is_given)
    memory = _meminfo(root)
    if "MemTotal" in memory:
        total_bytes = memory["MemTotal"]
        others_bytes = total_bytes - _available_bytes(memory, root) - own_bytes
        yield from _shared(total_bytes, others_bytes, "the machine", is_given)
    if not (root / "proc/meminfo").exists() and hasattr(os, "sysconf"):
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine"


def _shared(limit_bytes: int, others_bytes: int, set_by: str, is_given: bool) -> Iterator[tuple[int, str]]:
    """Yields a limit, and what other programs leave of it if they use so much that it matters.

    Not where the user has given a limit: they may know that the others will be gone.
    """
    yield limit_bytes, set_by
    if not is_given and others_bytes > OTHERS_MATTER_SHARE * limit_bytes:
        yield (
            max(0, limit_bytes - others_bytes),
            f"{set_by}, of which other programs use {others_bytes / GB:.3g} GB now",
        )


def _own_bytes(root: Path) -> int:
    """The resident memory of this process, which a plan counts."""
    words = _text(root / "proc/self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def _taken_bytes(group: Path) -> int:
    """Memory that the processes of a group have, without the copies of files that can be dropped."""
    current = _text(group / "memory.current") or _text(group / "memory.usage_in_bytes")
    if not current.isdecimal():
        return 0
    stat = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
    files = int(stat.get("total_cache", stat.get("file", 0)))
    in_memory_alone = int(stat.get("total_shmem", stat.get("shmem", 0)))  # counted among the files
    droppable = int(stat.get("slab_reclaimable", 0))
    return max(0, int(current) - files + in_memory_alone - droppable)


def machine_free_share(root: Path = Path("/")) -> float:
    """Share of the machine's memory that programs can have without swapping; 1 where nobody knows."""
    memory = _meminfo(root)
    return _available_bytes(memory, root) / memory["MemTotal"] if "MemTotal" in memory else 1.0


def _available_bytes(memory: Mapping[str, int], root: Path) -> int:
    """The memory that programs can still have of the machine; all of it where the kernel does not say.

    ZFS keeps copies of files apart, which the kernel does not count as droppable though they are.
    """
    lines = (line.split() for line in _text(root / "proc/spl/kstat/zfs/arcstats").splitlines())
    zfs = {words[0]: words[2] for words in lines if len(words) == 3}
    droppable = max(0, int(zfs.get("size", 0)) - int(zfs.get("c_min", 0)))
    total = memory["MemTotal"]
    return min(total, memory.get("MemAvailable", total) + droppable)


def _meminfo(root: Path) -> dict[str, int]:
    """The rows of `/proc/meminfo`: bytes by name."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _slurm(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Slurm counts in MiB; 0 means all of the node."""
    per_node = environment.get("SLURM_MEM_PER_NODE", "")
    if per_node.isdecimal() and int(per_node):
        yield int(per_node) * MIB, "Slurm (SLURM_MEM_PER_NODE)"
    per_gpu, gpus = environment.get("SLURM_MEM_PER_GPU", ""), environment.get("SLURM_GPUS_ON_NODE", "")
    if per_gpu.isdecimal() and int(per_gpu) and gpus.isdecimal() and int(gpus):
        yield int(per_gpu) * int(gpus) * MIB, "Slurm (SLURM_MEM_PER_GPU)"
    per_cpu = environment.get("SLURM_MEM_PER_CPU", "")
    cpus = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE", "")
    if per_cpu.isdecimal() and int(per_cpu) and cpus.isdecimal():
        yield int(per_cpu) * int(cpus) * MIB, "Slurm (SLURM_MEM_PER_CPU)"


def usable_cores(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: affinity, Slurm's share, the control groups' quota."""
    cores = [_affinity()]
    asked = environment.get("SLURM_CPUS_PER_TASK", "")
    if asked.isdecimal() and int(asked):
        cores.append(int(asked))
    cores += [max(1, math.floor(quota)) for quota in _cpu_quotas(root)]
    return min(cores)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    for directory, name in cgroup_directories(root, "cpu"):
        if name == "cpu.max":
            words = _text(directory / name).split()
        else:
            words = [_text(directory / name), _text(directory / "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


def cgroup_directories(root: Path, controller: str) -> list[tuple[Path, str]]:
    """The directories whose limits apply to this process, with the name of the limit's file.

    Every group above the process's own may limit it too. In a container the path that the kernel gives may
    not exist: then the top of the mount is what limits the process.
    """
    unified = {"memory": "memory.max", "cpu": "cpu.max"}[controller]
    legacy = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us"}[controller]
    found: list[tuple[Path, str]] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += [(d, unified) for d in _upwards(root / "sys/fs/cgroup", path)]
        elif controller in controllers.split(","):
            for mount in (controllers, controller):
                found += [(d, legacy) for d in _upwards(root / "sys/fs/cgroup" / mount, path)]
    return [(d, name) for d, name in dict.fromkeys(found) if (d / name).is_file()]


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    own = PurePosixPath(path.lstrip("/"))
    if ".." in own.parts:
        own = PurePosixPath()
    for group in (own, *own.parents):
        yield mount / group


def _text(path: Path) -> str:
    """The text of a small file; empty when it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
