"""`mkhspc score`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mkhspc.cli import progress
from mkhspc.cli.options import json_option, print_json, run_option


@click.command(short_help="Score every cell of a run with classifiers.")
@run_option
@click.option(
    "--mk-classifier", type=click.Path(path_type=Path), metavar="FILE.skops", help="Score the MK with it."
)
@click.option(
    "--hspc-classifier", type=click.Path(path_type=Path), metavar="FILE.skops", help="Score the HSPC with it."
)
@click.option(
    "--allow-other-run",
    is_flag=True,
    help="Take a classifier of a run that differs in tile size, seed or calibration windows.",
)
@json_option
def score(
    run_dir: Path,
    mk_classifier: Path | None,
    hspc_classifier: Path | None,
    allow_other_run: bool,
    as_json: bool,
) -> None:
    """Score every cell of a run with classifiers; no segmentation is repeated.

    Every stored cell gets a score, also outside the filter; rejected cells stay. The
    scores of a type take the place of older ones of that type. Without scores, later stages
    accept all cells.

    \b
    Example:
      mkhspc score --run run --mk-classifier mk.skops --hspc-classifier hspc.skops
    """
    from mkhspc.api import commands

    with progress.shown() as show:
        summary = commands.score(
            run_dir,
            mk_classifier=mk_classifier,
            hspc_classifier=hspc_classifier,
            allow_other_run=allow_other_run,
            progress=show,
        )
    if as_json:
        print_json(asdict(summary))
        return
    for clause in summary.other_settings:
        click.echo(f"note: the classifier's run differs: {clause}")
    for cell_type, found in summary.types.items():
        click.echo(
            f"{cell_type}: {found.positive_in_filter:,} of {found.in_filter:,} cells in the filter positive"
            f" ({found.positive:,} of {found.cells:,} stored), classifier {found.classifier_id}"
        )
