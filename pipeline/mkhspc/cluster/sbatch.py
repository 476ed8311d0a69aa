"""The text of the batch files: a pure function of a plan of jobs."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import jinja2

from mkhspc.cluster.jobs import GALLERY, MERGE, SEGMENT, JobPlan
from mkhspc.errors import InputError
from mkhspc.resources import resource_dir
from mkhspc.store import atomic
from mkhspc.units import GB, MIB

STOP_BEFORE_END_S = 600
"""Seconds before its time limit at which Slurm asks a task to stop, or a quarter of a short limit: time to
finish a tile."""
LATER_MEMORY_GB = 8
"""GB for merging and the gallery, which stream their tables; less where the tasks of the array have less."""


def sbatch_texts(plan: JobPlan) -> dict[str, str]:
    """Returns the text of each batch file, by the name of its job."""
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
    """Returns the options of a job; the user's `extra` comes last, so it wins."""
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
    """Writes a value as one word of a shell.

    Raises:
        InputError: it holds a line end or another character that no batch file can carry.
    """
    text = str(value)
    if not text.isprintable():
        raise InputError(
            "this name holds a line end or another character that no batch file can carry",
            where=text,
            fix="rename it",
        )
    return shlex.quote(text)


def sbatch_word(value: object) -> str:
    """Writes a value as one word of an `#SBATCH` line: Slurm takes backslashes away inside quotes as well."""
    return word(value).replace("\\", 2 * "\\")


def write_jobs(plan: JobPlan) -> dict[str, Path]:
    """Writes the batch files, each in the place of an older one; returns their paths by job."""
    texts = sbatch_texts(plan)
    files = {job: plan.jobs_dir / f"{job}.sbatch" for job in texts}
    for job, path in files.items():
        atomic.write_text(path, texts[job])
    return files
