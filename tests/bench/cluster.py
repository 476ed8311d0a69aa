"""Jobs of a real Slurm that are given memory at random: which are killed, which are refused."""

from __future__ import annotations

import random
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from large import mirrored_marrow
from mkhspc.cluster.sacct import FIELDS, JobRecord, parse_sacct
from mkhspc.simulate import SlideSpec, write_demo_slides
from processes import command
from slurmcluster import NotInstalledError, running_slurm, slurm

Row = dict[str, object]

JOBS, JOBS_IN_SHORT = 24, 8
MEMORY_MB = (60, 2000)
DENSE_PX = 2048
TILE_PX = 512
REFUSED = 2
REFUSAL = "GB of memory and the limit is"
WAIT_S = 900.0


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = SlideSpec("TINY", "F", "GC", sizes_um=((140.0, 130.0),))
        slides = [slide.path for slide in write_demo_slides(folder / "slides", seed=3, specs=(spec,))]
        if shared is not None:
            slides.append(mirrored_marrow(shared, folder / "dense.czi", DENSE_PX, DENSE_PX))
        try:
            with running_slurm():
                outputs = _submitted(folder, slides, JOBS if full else JOBS_IN_SHORT)
                records = _ended(list(outputs))
        except NotInstalledError as error:
            print(f"jobs under Slurm are left out: {error}", file=sys.stderr)
            return []
        return [
            _row(records, {job: path.read_text() if path.exists() else "" for job, path in outputs.items()})
        ]


def _submitted(folder: Path, slides: Sequence[Path], jobs: int) -> dict[str, Path]:
    """Jobs that segment a slide each, with memory drawn evenly on a scale of ratios.

    Returns:
        Where each prints, by its id.
    """
    rng = random.Random(70)
    outputs = {}
    for nth in range(jobs):
        least, most = MEMORY_MB
        memory_mb = round(least * (most / least) ** rng.random())
        line = command(
            "segment", "--czi-path", rng.choice(slides), "--output-dir", folder / f"run-{nth}",
            "--tile-size", TILE_PX,
        )  # fmt: skip
        output = folder / f"job-{nth}.out"
        job_id = slurm(
            "sbatch", "--parsable", f"--mem={memory_mb}M", f"--cpus-per-task={rng.choice((1, 2))}",
            f"--output={output}", "--no-requeue", "--wrap", shlex.join(line),
        )  # fmt: skip
        outputs[job_id.strip()] = output
    return outputs


def _ended(ids: Sequence[str]) -> list[JobRecord]:
    """What Slurm's accounts say of the jobs, when none is left."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = parse_sacct(
            slurm("sacct", "--parsable2", "--jobs", ",".join(ids), f"--format={','.join(FIELDS)}")
        )
        if len(found) == len(ids) and not any(record.state in ("PENDING", "RUNNING") for record in found):
            return found
        time.sleep(1)
    raise RuntimeError(f"jobs did not end in {WAIT_S:.0f} s")


def _row(records: Sequence[JobRecord], said: Mapping[str, str]) -> Row:
    completed = [r for r in records if r.state == "COMPLETED"]
    refused = [r for r in records if r.exit_code == REFUSED and REFUSAL in said.get(r.job_id, "")]
    others = len(records) - len(completed) - len(refused)
    least, most = MEMORY_MB
    jobs = f"{len(records)} jobs of a real Slurm with --mem of {least} MB to {most} MB"
    return {
        "name": f"{jobs}: killed, or ended otherwise than done or refused up front",
        "value": others,
        "unit": "jobs",
        "baseline": f"{len(completed)} done, {len(refused)} refused; Slurm looks once a second",
        "target": "0",
        "ok": not others and bool(completed) and bool(refused),
    }
