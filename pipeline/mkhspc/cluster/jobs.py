"""A study as three Slurm jobs: an array that segments, a merge that checks, a gallery at the end.

This module plans the jobs, `sbatch` writes their batch files, and `submit` alone talks to Slurm.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mkhspc.budget.sufficient import images_of, sufficient_memory_gb
from mkhspc.cluster.shard import Shard
from mkhspc.config import RunConfig
from mkhspc.errors import InputError
from mkhspc.store.manifest import Manifest

PROGRAM = (sys.executable, "-P", "-m", "mkhspc")
"""`mkhspc` as a node calls it, whatever its PATH and working directory are."""
SEGMENT, MERGE, GALLERY = "segment", "merge", "gallery"
"""Names of the jobs, in their order."""
WIDE_PX = 2_000_000_000
"""A scene of more pixels is wide: its tasks get memory to keep `ROOM_OF_WIDE_BYTES` of decoded images."""
ROOM_OF_WIDE_BYTES = 600_000_000
"""Bytes of decoded images that a task on a wide scene may keep. On 20 Gpx pixels are decoded 1.14 times, with
393 MB kept; with the 125 MB that a task on a single core would get if it only had to fit, 1.86 times."""
USUAL_CPUS = 8
"""CPUs of a task where the user asks for neither CPUs, workers nor memory."""
OURS = ("--array", "--chdir", "--dependency", "--output", "--signal", "--wrap")
"""Options of sbatch that hold the chain together, so no `extra` may change them."""


@dataclass(frozen=True)
class ArrayTask:
    """The work of one task of the array."""

    slide_id: str
    shard: Shard

    def __str__(self) -> str:
        return f"{self.slide_id} {self.shard.index}/{self.shard.count}"


@dataclass(frozen=True)
class JobPlan:
    """What the three jobs are made of.

    Attributes:
        config: of the study; its paths are absolute.
        config_file: read by every task, so it must stay as it is while jobs wait.
        jobs_dir: where the batch files and their logs lie; the jobs' working directory.
        cpus, memory_gb: of one task of the array.
        program: the words that call `mkhspc` on a node.
    """

    config: RunConfig
    config_file: Path
    jobs_dir: Path
    tasks: tuple[ArrayTask, ...]
    cpus: int
    memory_gb: float
    program: tuple[str, ...]

    @property
    def site_dir(self) -> Path:
        """The directory of the gallery: [gallery] out, else one beside the run."""
        run_dir = Path(self.config.run.output_dir)
        return Path(self.config.gallery.out or run_dir.with_name(f"{run_dir.name}-site"))


def check_extra(config: RunConfig) -> None:
    """Raises `InputError` for an option of `slurm.extra` that a job could not have."""
    for option in config.slurm.extra:
        name = option.partition("=")[0]  # which Slurm takes abbreviated, too
        if not name.startswith("--") or any(ours.startswith(name) for ours in OURS):
            raise InputError(
                f"'{option}' cannot be given here: mkhspc sets it itself, or sbatch has no such option",
                where="slurm.extra",
                fix='give options such as "--qos=long"',
            )


def check_jobs_dir(jobs_dir: Path) -> None:
    """Raises `InputError` for a directory in which Slurm would not find the logs of an array."""
    if "\\" in str(jobs_dir.absolute()):
        raise InputError(
            "this directory has a backslash in its name, and Slurm writes no logs of an array there",
            where=jobs_dir.absolute(),
            fix="give another --out; run and slides can stay where they are",
        )


def plan_jobs(
    config: RunConfig, manifest: Manifest, slide_ids: Sequence[str], config_file: Path, jobs_dir: Path
) -> JobPlan:
    """Lays a study out as jobs.

    Raises:
        InputError: the memory asked for is too small for one worker, or a slide is gone.
    """
    shards = config.slurm.shards_per_slide
    wanted = replace(manifest, slides=tuple(manifest.slide(slide_id) for slide_id in slide_ids))
    return JobPlan(
        config=config,
        config_file=config_file.absolute(),
        jobs_dir=jobs_dir.absolute(),
        tasks=tuple(ArrayTask(s, Shard(i, shards)) for s in slide_ids for i in range(shards)),
        cpus=task_cpus(config, wanted),
        memory_gb=_task_memory_gb(config, wanted),
        program=PROGRAM,
    )


def task_cpus(config: RunConfig, manifest: Manifest) -> int:
    """CPUs of one task, one a worker: `USUAL_CPUS` if nothing is asked for, or fewer in the memory given."""
    asked, workers, memory = config.slurm.cpus, config.compute.num_workers, config.slurm.memory_gb
    if asked != "auto":
        return asked
    if workers != "auto":
        return workers
    if memory == "auto":
        return USUAL_CPUS
    images = images_of(manifest)  # once: it reads the directories of all slides
    servers = _model_servers(config)
    fitting = [
        n
        for n in range(2, USUAL_CPUS + 1)
        if sufficient_memory_gb(manifest, n, images, servers=servers) <= memory
    ]
    return max(fitting, default=1)


def _model_servers(config: RunConfig) -> int:
    """How many model servers a task has, if it has models: one for each GPU, or one without GPUs."""
    return max(1, config.slurm.gpus)


def _task_memory_gb(config: RunConfig, manifest: Manifest) -> float:
    asked, workers, servers = config.slurm.memory_gb, config.compute.num_workers, _model_servers(config)
    if asked == "auto":
        workers = task_cpus(config, manifest) if workers == "auto" else workers
        return sufficient_memory_gb(manifest, workers, servers=servers, room_wanted=_room_wanted(manifest))
    needed = sufficient_memory_gb(manifest, 1 if workers == "auto" else workers, servers=servers)
    if asked < needed:
        raise InputError(
            f"{asked:g} GB are too little: a task of this study needs {needed} GB",
            where="slurm.memory_gb",
            fix='give more, or "auto"',
        )
    return asked


def _room_wanted(manifest: Manifest) -> int:
    """Bytes of decoded images that a task should be able to keep."""
    scenes = (scene for slide in manifest.slides for scene in slide.scenes)
    is_wide = max(scene.width_px * scene.height_px for scene in scenes) > WIDE_PX
    return ROOM_OF_WIDE_BYTES if is_wide else 0
