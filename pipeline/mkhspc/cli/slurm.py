"""`mkhspc slurm`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mkhspc.cli.notes import note
from mkhspc.cli.options import command_line, idle_gpus, json_option, print_json
from mkhspc.config import load_config

if TYPE_CHECKING:
    from mkhspc.cluster.jobs import JobPlan
    from mkhspc.cluster.submit import Submitted


@click.command(short_help="Write and submit the jobs of a study for a Slurm cluster.")
@click.option(
    "--config", required=True, type=click.Path(path_type=Path), metavar="FILE.toml", help="The study."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where jobs and logs go."
)
@click.option("--submit", is_flag=True, help="Submit them too, each after the one it needs.")
@json_option
def slurm(config: Path, out: Path, submit: bool, as_json: bool) -> None:
    """Write, and submit, the jobs of a study for a Slurm cluster.

    An array segments, one task a slide and shard; a merge follows it however it ended, and
    fails while tiles are missing; the gallery follows a merge that went well. Checks every
    slide and creates the run first. Submit again to go on: finished tiles are kept.

    \b
    Examples:
      mkhspc slurm --config study.toml --out jobs
      mkhspc slurm --config study.toml --out jobs --submit
    """
    from mkhspc.cluster import jobs, sbatch, submit as slurm
    from mkhspc.models.choice import needed
    from mkhspc.run.segment import commit_for_jobs

    if submit:
        slurm.require_slurm()
    study = load_config(config)
    jobs.check_extra(study)
    jobs.check_jobs_dir(out)
    manifest, slide_ids = commit_for_jobs(study, note)
    if study.slurm.gpus and not needed(manifest.config):
        note(idle_gpus(f"{study.slurm.gpus} GPUs of each task"))
    plan = jobs.plan_jobs(study, manifest, slide_ids, config, out)
    files = sbatch.write_jobs(plan)
    submitted = slurm.submit(plan, files) if submit else None
    _print(study.run.output_dir, plan, files, submitted, as_json)
    if submitted:  # after the ids are printed: they must be known even if the note cannot be written
        slurm.write_note(plan, submitted)


def _print(
    run_dir: str, plan: JobPlan, files: Mapping[str, Path], submitted: Submitted | None, as_json: bool
) -> None:
    if as_json:
        facts = {"tasks": len(plan.tasks), "files": [str(file) for file in files.values()]}
        print_json({**facts, **(asdict(submitted) if submitted else {})})
    elif submitted:
        click.echo(submitted)
        click.echo(f"follow it: {command_line('status', run_dir)}", err=True)
    else:
        for file in files.values():
            click.echo(file)
        click.echo(f"{len(plan.tasks)} tasks; give --submit to submit them, or see the head of each file")
