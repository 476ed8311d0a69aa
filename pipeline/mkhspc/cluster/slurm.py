"""A study as three Slurm jobs: an array that segments, a merge that judges, a gallery at the end.

What the jobs ask for and say is a pure function from a plan to text; `submit` alone talks to Slurm.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from mkhspc.budget.sufficient import largest_block_bytes, sufficient_memory_gb
from mkhspc.cluster.shard import Shard
from mkhspc.config import RunConfig
from mkhspc.errors import InputError
from mkhspc.resources import resource_dir
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.units import GB, MIB

PROGRAM = (sys.executable, "-P", "-m", "mkhspc")
"""`mkhspc` as a node calls it, whatever its PATH and working directory are."""
SEGMENT, MERGE, GALLERY = "segment", "merge", "gallery"
STOP_BEFORE_END_S = 600
"""A task is told to stop this long before its time limit, or at 3/4 of a short one: time for a tile."""
LATER_MEMORY_GB = 8
"""Merging and the gallery stream their tables; no more than the array's own memory is asked for."""
WIDE_PX, ROOM_OF_WIDE_BYTES = 2_000_000_000, 600_000_000
"""A scene of more pixels is decoded twice and more where less than this can be kept: 1.88 times 20 Gpx with
125 MB, 1.10 times with 600. A task on a single core would be given less, were it only to fit."""
USUAL_CPUS = 8
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
        """The site's directory: [gallery] out, else beside the run."""
        run_dir = Path(self.config.run.output_dir)
        return Path(self.config.gallery.out or run_dir.with_name(f"{run_dir.name}-site"))


@dataclass(frozen=True)
class Submitted:
    """Job ids as Slurm gave them."""

    segment: str
    merge: str
    gallery: str

    def __str__(self) -> str:
        return f"segment={self.segment} merge={self.merge} gallery={self.gallery}"


def check_section(config: RunConfig) -> None:
    """Raises `InputError` for an option of `slurm.extra` that a job could not have."""
    for option in config.slurm.extra:
        name = option.partition("=")[0]  # which Slurm takes abbreviated, too
        if not name.startswith("--") or any(ours.startswith(name) for ours in OURS):
            raise InputError(
                f"'{option}' cannot be given here", where="slurm.extra", fix='it takes such as "--qos=long"'
            )


def check_jobs_dir(jobs_dir: Path) -> None:
    """Raises `InputError` for a directory in which Slurm would not find the logs of an array."""
    if "\\" in str(jobs_dir.absolute()):
        raise InputError(
            "has a backslash in its name, and Slurm writes no logs of an array there",
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
    block_bytes = largest_block_bytes(manifest)  # once: it reads the directories of all slides
    owners = _owners(config)
    fitting = [
        n
        for n in range(2, USUAL_CPUS + 1)
        if sufficient_memory_gb(manifest, n, block_bytes, servers=owners) <= memory
    ]
    return max(fitting, default=1)


def _owners(config: RunConfig) -> int:
    """Processes of a task that own the models, if it has any: one a GPU, or one without."""
    return max(1, config.slurm.gpus)


def _task_memory_gb(config: RunConfig, manifest: Manifest) -> float:
    asked, workers, owners = config.slurm.memory_gb, config.compute.num_workers, _owners(config)
    if asked == "auto":
        workers = task_cpus(config, manifest) if workers == "auto" else workers
        return sufficient_memory_gb(manifest, workers, servers=owners, room_wanted=_room_wanted(manifest))
    needed = sufficient_memory_gb(manifest, 1 if workers == "auto" else workers, servers=owners)
    if asked < needed:
        raise InputError(
            f"{asked:g} GB are too little: this study needs {needed} GB",
            where="slurm.memory_gb",
            fix='give more, or "auto"',
        )
    return asked


def _room_wanted(manifest: Manifest) -> int:
    """Bytes of decoded images that a task should be able to keep."""
    scenes = (scene for slide in manifest.slides for scene in slide.scenes)
    is_wide = max(scene.width_px * scene.height_px for scene in scenes) > WIDE_PX
    return ROOM_OF_WIDE_BYTES if is_wide else 0


def sbatch_texts(plan: JobPlan) -> dict[str, str]:
    """The batch files of a plan, by the name of their job."""
    files = _templates()
    gallery, run_dir = plan.config.gallery, plan.config.run.output_dir
    context: dict[str, dict[str, Any]] = {
        SEGMENT: {"tasks": plan.tasks, "config_file": plan.config_file, "run_dir": run_dir},
        MERGE: {"run_dir": run_dir},
        GALLERY: {
            "run_dir": run_dir,
            "site_dir": plan.site_dir,
            "site_options": [
                f"--cards-per-page={gallery.cards_per_page}",
                f"--order={gallery.order}",
                f"--max-site-mb={gallery.max_site_mb:g}",
                f"--title={gallery.title}",
            ],
        },
    }
    return {
        job: files.get_template(f"{job}.sbatch.j2").render(
            options=_options(plan, job), program=plan.program, **context[job]
        )
        for job in (SEGMENT, MERGE, GALLERY)
    }


def _options(plan: JobPlan, job: str) -> list[str]:
    """What a job asks of Slurm; the user's `extra` comes last, so it wins."""
    slurm, of_array = plan.config.slurm, job == SEGMENT
    logs = str(plan.jobs_dir).replace("%", "%%")  # Slurm fills in what a single one names
    memory = plan.memory_gb if of_array else min(plan.memory_gb, LATER_MEMORY_GB)
    options = [
        f"--job-name=mkhspc-{job}",
        f"--chdir={plan.jobs_dir}",
        f"--output={logs}/{job}-%A_%a.out" if of_array else f"--output={logs}/{job}-%j.out",
        "--open-mode=append",
        f"--time={slurm.time_min}",
        f"--cpus-per-task={1 if job == MERGE else plan.cpus}",
        f"--mem={math.ceil(memory * GB / MIB)}M",
        "--requeue",
        "--kill-on-invalid-dep=yes",
    ]
    if of_array:
        before_end_s = min(STOP_BEFORE_END_S, slurm.time_min * 60 // 4)
        options += [f"--array=0-{len(plan.tasks) - 1}", f"--signal=B:USR1@{before_end_s}"]
    if of_array and slurm.gpus:
        options.append(f"--gres=gpu:{slurm.gpus}")
    if slurm.partition:
        options.append(f"--partition={slurm.partition}")
    if slurm.account:
        options.append(f"--account={slurm.account}")
    return [*options, *slurm.extra]


def _templates() -> jinja2.Environment:
    files = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_dir("scripts/slurm")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    files.filters["word"] = word
    files.filters["sbatch_word"] = sbatch_word
    files.filters["words"] = lambda values: " ".join(map(word, values))
    return files


def word(value: object) -> str:
    """A value as one word of a shell.

    Raises:
        InputError: it holds a line end or another character that no batch file can carry.
    """
    text = str(value)
    if not text.isprintable():
        raise InputError("cannot be written into a batch file", where=text, fix="give it a plain name")
    return shlex.quote(text)


def sbatch_word(value: object) -> str:
    """A value as one word of an `#SBATCH` line: Slurm takes backslashes away inside quotes as well."""
    return word(value).replace("\\", 2 * "\\")


def write_jobs(plan: JobPlan) -> dict[str, Path]:
    """Writes the batch files, each in the place of an older one; returns them by job."""
    texts = sbatch_texts(plan)
    files = {job: plan.jobs_dir / f"{job}.sbatch" for job in texts}
    for job, path in files.items():
        atomic.write_text(path, texts[job])
    return files


def require_slurm() -> None:
    """Raises `InputError` where jobs cannot be submitted."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no sbatch on this machine's PATH",
            fix="give --submit on a login node of the cluster; without it the batch files are only written",
        )


def submit(plan: JobPlan, files: Mapping[str, Path]) -> Submitted:
    """Submits the chain, all of it or nothing.

    Raises:
        InputError: Slurm refused a job; those before it were cancelled.
    """
    segment = _sbatch(files[SEGMENT], [])
    merge = _sbatch(files[MERGE], [segment], f"--dependency=afterany:{segment}")
    gallery = _sbatch(files[GALLERY], [segment, merge], f"--dependency=afterok:{merge}")
    return Submitted(segment, merge, gallery)


def _sbatch(file: Path, before: Sequence[str], *options: str) -> str:
    """Submits a file and returns the job's id; on refusal cancels the jobs submitted before it."""
    done = run_command("sbatch", "--parsable", *options, str(file))
    if done.returncode == 0:
        return done.stdout.strip().split(";")[0]  # "id;cluster" where there are several clusters
    reason = " ".join(done.stderr.split())
    undone = "nothing was submitted"
    if before:
        cancelled = run_command("scancel", *before).returncode == 0
        undone = f"cancelled {', '.join(before)}" if cancelled else f"now type: scancel {' '.join(before)}"
    raise InputError(
        f"Slurm refused it ({reason})", where=file, fix=f"{undone}; mend [slurm] and submit again"
    )


def run_command(*words: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of Slurm and returns how it ended and what it said.

    Raises:
        subprocess.TimeoutExpired: it did not end in the time given, and was ended.
    """
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s)


def write_note(plan: JobPlan, submitted: Submitted) -> None:
    """Leaves a note of a submission, whose ids are told, in the run's logs for `mkhspc status`.

    Raises:
        InputError: the disk takes none; the jobs are queued all the same.
    """
    note = {
        "at_s": round(time.time(), 3),
        "event": "submitted",
        **asdict(submitted),
        "jobs_dir": str(plan.jobs_dir),
        "tasks": [str(task) for task in plan.tasks],
    }
    layout = RunLayout(Path(plan.config.run.output_dir))
    path = layout.logs / f"slurm-{submitted.segment}.jsonl"
    try:
        atomic.write_text(path, json.dumps(note) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror}), so `mkhspc status` will not say which jobs died",
            where=path,
            fix=f"the jobs are queued; to end them type: scancel {' '.join(asdict(submitted).values())}",
        ) from error
