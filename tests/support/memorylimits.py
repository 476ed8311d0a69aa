"""Real runs of `mkhspc segment` under limits on memory, told in every way that there is."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mkhspc.cluster.journal import read_journals
from mkhspc.store.layout import RunLayout
from mkhspc.units import GB, MIB
from processes import Measured, command, watched

Channel = Literal["--memory-gb", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "cgroup v1", "cgroup v2"]
CHANNELS: tuple[Channel, ...] = (
    "--memory-gb",
    "SLURM_MEM_PER_NODE",
    "SLURM_MEM_PER_CPU",
    "cgroup v1",
    "cgroup v2",
)
LIMIT_GB = (0.2, 1.5)
WORKERS = ("auto", 1, 2, 4)
TILE_PX = 512
MACHINE_KIB = 64 * 1024**2

IN_TREE = """
import functools, pathlib, runpy, sys
from mkhspc.process import limits
limits.memory_limit = functools.partial(limits.memory_limit, root=pathlib.Path(sys.argv.pop(1)))
runpy.run_module("mkhspc", run_name="__main__", alter_sys=True)
"""
"""`python -P -m mkhspc` for which `proc` and `sys` lie in the folder that comes first."""

GROUPS: Mapping[Channel, tuple[str, str]] = {
    "cgroup v1": ("4:memory:/slurm/job_7\n0::/\n", "sys/fs/cgroup/memory/slurm/memory.limit_in_bytes"),
    "cgroup v2": ("0::/slurm/job_7/step_0\n", "sys/fs/cgroup/slurm/job_7/memory.max"),
}
"""What a process is told of its group, and the file of a group above it that limits it."""


@dataclass(frozen=True)
class Trial:
    """A run and its limit.

    Attributes:
        cpus: among which Slurm's limit is divided, where it is told for each.
    """

    slide: Path
    channel: Channel
    limit_bytes: int
    workers: str | int
    cpus: int = 1

    def run(self, folder: Path) -> Verdict:
        """Runs it into a new folder."""
        root = folder / "run"
        words = ("segment", "--czi-path", self.slide, "--output-dir", root, "--tile-size", TILE_PX)
        told = ("--memory-gb", self.limit_bytes / GB) if self.channel == "--memory-gb" else ()
        line = command(*words, "--num-workers", self.workers, *told)
        if self.channel in GROUPS:
            tree = self._tree(folder / "machine")
            line = [sys.executable, "-c", IN_TREE, str(tree), *line[line.index("segment") :]]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return Verdict(self, root, watched(line, environment=clean | self._variables()))

    def _variables(self) -> dict[str, str]:
        mib = self.limit_bytes // MIB
        if self.channel == "SLURM_MEM_PER_NODE":
            return {self.channel: str(mib)}
        if self.channel == "SLURM_MEM_PER_CPU":
            return {self.channel: str(mib // self.cpus), "SLURM_CPUS_PER_TASK": str(self.cpus)}
        return {}

    def _tree(self, machine: Path) -> Path:
        """The files in which the kernel tells of memory and control groups."""
        told, limit = GROUPS[self.channel]
        texts = {
            "proc/meminfo": f"MemTotal: {MACHINE_KIB} kB\n",
            "proc/self/cgroup": told,
            limit: f"{self.limit_bytes}\n",
        }
        for name, text in texts.items():
            (machine / name).parent.mkdir(parents=True, exist_ok=True)
            (machine / name).write_text(text)
        return machine


@dataclass(frozen=True)
class Verdict:
    """How a trial went; the judge is the sum of what each process of the tree had in memory."""

    trial: Trial
    root: Path
    measured: Measured

    @property
    def exit_code(self) -> int:
        return self.measured.process.returncode

    @property
    def peak_bytes(self) -> int:
        return self.measured.peak_rss_bytes

    @property
    def is_above(self) -> bool:
        """Whether the limit was exceeded at any moment, refused or not."""
        return self.peak_bytes > self.trial.limit_bytes

    @property
    def is_refused(self) -> bool:
        """Refused as promised: told what it needs, which is more than there is, and nothing done."""
        return self.exit_code == 2 and not self.parts and self.needed_gb * GB > self.trial.limit_bytes

    @property
    def needed_gb(self) -> float:
        """What the refusal asks for; 0 when it names no number."""
        found = re.search(
            r"\bneeds?(?: at least)? ([0-9]+\.[0-9]) GB of memory", self.measured.process.stderr
        )
        return float(found.group(1)) if found else 0.0

    @property
    def parts(self) -> list[Path]:
        return list(self.root.glob("parts/*/*"))

    @property
    def planned_bytes(self) -> int:
        """The peak that the run expected of itself."""
        (journal,) = read_journals(RunLayout(self.root))
        return int(journal.events[0].facts["planned_peak_bytes"])

    def __str__(self) -> str:
        trial, said = self.trial, self.measured.process.stderr
        return (
            f"{trial.slide.stem}, {trial.workers} workers, {trial.limit_bytes / GB:.3f} GB by"
            f" {trial.channel}: exit code {self.exit_code}, peak {self.peak_bytes / GB:.3f} GB; {said}"
        )


def drawn_trials(slides: Sequence[Path], count: int, seed: int) -> Iterator[Trial]:
    """Trials at random, in which every channel has its turn."""
    rng = random.Random(seed)
    for nth in range(count):
        limit_mib = round(rng.uniform(*LIMIT_GB) * GB / MIB)
        cpus = rng.choice((1, 2, 4))
        limit_mib -= limit_mib % cpus
        channel = CHANNELS[nth % len(CHANNELS)]
        yield Trial(rng.choice(slides), channel, limit_mib * MIB, rng.choice(WORKERS), cpus)
