from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mkhspc.errors import UsageError
from mkhspc.process.limits import machine_free_share, memory_limit, require_least_memory, usable_cores

GB = 1_000_000_000


def machine(root: Path, cgroup: str = "0::/\n", files: dict[str, str] | None = None) -> Path:
    """A tree of files as the kernel shows them: 64 GiB, and these control groups."""
    texts = {
        "proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": cgroup,
        **(files or {}),
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_any_limit_the_machine_is_the_limit(tmp_path: Path) -> None:
    limit = memory_limit(None, {}, machine(tmp_path))
    assert (limit.limit_bytes, limit.set_by) == (64 * 1024**3, "the machine")


def test_the_smallest_limit_counts_and_is_named(tmp_path: Path) -> None:
    root = machine(tmp_path, files={"sys/fs/cgroup/memory.max": f"{20 * GB}\n"})
    assert memory_limit(None, {}, root).limit_bytes == 20 * GB
    assert memory_limit(8, {}, root).set_by == "--memory-gb"
    assert memory_limit(800, {}, root).set_by.startswith("the control group")
    assert memory_limit(None, {"SLURM_MEM_PER_NODE": "4096"}, root).limit_bytes == 4096 * 1024**2


def test_where_the_libraries_do_not_fit_it_is_said_before_they_are_loaded(tmp_path: Path) -> None:
    root = machine(tmp_path)
    require_least_memory({"SLURM_MEM_PER_NODE": "200"}, root)
    with pytest.raises(UsageError, match=r"needs at least 0\.2 GB of memory.*SLURM_MEM_PER_NODE"):
        require_least_memory({"SLURM_MEM_PER_NODE": "60"}, root)


def test_the_early_refusal_has_loaded_nothing_large() -> None:
    code = (
        "import sys; from mkhspc.cli import run_command;"
        "run_command(['segment', '--czi-path', 'a.czi', '--output-dir', 'a']);"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SLURM_MEM_PER_NODE": "60"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    assert "needs at least 0.2 GB of memory" in done.stderr


@pytest.mark.parametrize(
    ("environment", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "2000"}, 2000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_PER_TASK": "4"}, 2000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "2"}, 1000),
        ({"SLURM_MEM_PER_NODE": "0"}, 65536),
        ({"SLURM_MEM_PER_CPU": "500"}, 65536),
        ({"SLURM_MEM_PER_GPU": "3000", "SLURM_GPUS_ON_NODE": "2"}, 6000),
    ],
)
def test_slurm_tells_in_mib(tmp_path: Path, environment: dict[str, str], mib: int) -> None:
    assert memory_limit(None, environment, machine(tmp_path)).limit_bytes == mib * 1024**2


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        ("0::/slurm/job_7/step_0\n", "sys/fs/cgroup/slurm/job_7/step_0/memory.max"),
        ("0::/slurm/job_7/step_0\n", "sys/fs/cgroup/slurm/memory.max"),
        ("4:memory:/a/b\n0::/\n", "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes"),
        ("4:memory:/a/b\n", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
        ("4:cpu,memory:/a\n", "sys/fs/cgroup/cpu,memory/a/memory.limit_in_bytes"),
        ("0::/../../outside\n", "sys/fs/cgroup/memory.max"),
    ],
)
def test_the_own_group_and_those_above_it_limit(tmp_path: Path, cgroup: str, name: str) -> None:
    assert memory_limit(None, {}, machine(tmp_path, cgroup, {name: str(3 * GB)})).limit_bytes == 3 * GB


def test_a_group_beside_ours_does_not_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/ours\n", {"sys/fs/cgroup/theirs/memory.max": str(GB)})
    assert memory_limit(None, {}, root).set_by == "the machine"


@pytest.mark.parametrize("text", ["max", "9223372036854771712", ""])
def test_no_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    root = machine(tmp_path, files={"sys/fs/cgroup/memory.max": text})
    assert memory_limit(None, {}, root).set_by == "the machine"


def test_unknown_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf")
    with pytest.raises(UsageError, match="--memory-gb"):
        memory_limit(None, {}, tmp_path)


def test_cores_are_the_least_of_affinity_slurm_and_quota(tmp_path: Path) -> None:
    here = usable_cores({}, machine(tmp_path))
    assert usable_cores({"SLURM_CPUS_PER_TASK": "1"}, tmp_path) == 1
    assert usable_cores({"SLURM_CPUS_PER_TASK": "999"}, tmp_path) == here
    machine(tmp_path, files={"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert usable_cores({}, tmp_path) == 1
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    assert usable_cores({}, tmp_path) == here


def meminfo(total_gib: int, available_gib: int) -> dict[str, str]:
    kib = 1024**2
    return {"proc/meminfo": f"MemTotal: {total_gib * kib} kB\nMemAvailable: {available_gib * kib} kB\n"}


def test_what_other_programs_use_of_the_machine_is_not_planned_with(tmp_path: Path) -> None:
    limit = memory_limit(None, {}, machine(tmp_path, files=meminfo(32, 12)))
    assert limit.limit_bytes == 12 * 1024**3
    assert limit.set_by == "the machine, of which other programs use 21.5 GB now"
    assert memory_limit(None, {}, machine(tmp_path, files=meminfo(32, 30))).limit_bytes == 32 * 1024**3


@pytest.mark.parametrize(
    ("cgroup", "folder", "names", "stat"),
    [
        ("0::/j\n", "sys/fs/cgroup/j", ("memory.max", "memory.current"), "anon 1\nfile {0}\nshmem {1}\n"),
        (
            "4:memory:/j\n",
            "sys/fs/cgroup/memory/j",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "cache 5\ntotal_cache {0}\ntotal_shmem {1}\n",
        ),
    ],
)
def test_what_others_use_of_a_control_group_is_not_planned_with(
    tmp_path: Path, cgroup: str, folder: str, names: tuple[str, str], stat: str
) -> None:
    files = {
        f"{folder}/{names[0]}": f"{20 * GB}\n",
        f"{folder}/{names[1]}": f"{15 * GB}\n",
        f"{folder}/memory.stat": stat.format(4 * GB, 1 * GB),
    }
    limit = memory_limit(None, {}, machine(tmp_path, cgroup, files))
    assert limit.limit_bytes == 8 * GB, "12 GB are in use: copies of files can be dropped, shared memory not"
    assert "other programs use 12 GB now" in limit.set_by
    assert memory_limit(18, {}, tmp_path).limit_bytes == 18 * GB, "the user knows better"


def test_a_group_that_is_slowed_down_before_its_limit_counts(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.high": f"{6 * GB}\n"}
    assert memory_limit(None, {}, machine(tmp_path, files=files)).limit_bytes == 6 * GB


def test_copies_of_files_that_zfs_keeps_can_be_dropped(tmp_path: Path) -> None:
    arc = "5 1 0x01 2 3 4 5\nname type data\nc_min 4 2147483648\nsize 4 17179869184\n"
    files = {**meminfo(32, 12), "proc/spl/kstat/zfs/arcstats": arc}
    root = machine(tmp_path, files=files)
    assert memory_limit(None, {}, root).limit_bytes == 32 * 1024**3
    assert machine_free_share(root) == (12 + 14) / 32


def test_the_share_of_the_machine_that_is_free(tmp_path: Path) -> None:
    assert machine_free_share(machine(tmp_path, files=meminfo(32, 8))) == 0.25
    assert machine_free_share(tmp_path / "nothing") == 1.0
