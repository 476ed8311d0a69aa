"""Submits the jobs of a study to Slurm, and leaves a note of it in the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mkhspc.cluster.jobs import GALLERY, MERGE, SEGMENT, JobPlan
from mkhspc.errors import InputError
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout


@dataclass(frozen=True)
class Submitted:
    """Job ids as Slurm gave them."""

    segment: str
    merge: str
    gallery: str

    def __str__(self) -> str:
        return f"segment={self.segment} merge={self.merge} gallery={self.gallery}"


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
        f"Slurm refused this job ({reason})", where=file, fix=f"{undone}; correct [slurm] and submit again"
    )


def run_command(*words: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of Slurm and returns how it ended and what it said.

    Raises:
        subprocess.TimeoutExpired: it did not end in the time given, and was ended.
    """
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s)


def write_note(plan: JobPlan, submitted: Submitted) -> None:
    """Leaves a note of a submission in the run's logs, for `mkhspc status`.

    Raises:
        InputError: the note cannot be written; the jobs are queued all the same.
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
            f"this note of the jobs cannot be written ({error.strerror}), so `mkhspc status` will not say"
            " which of them died",
            where=path,
            fix=f"the jobs are queued; to end them type: scancel {' '.join(asdict(submitted).values())}",
        ) from error
