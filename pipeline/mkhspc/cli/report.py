"""`mkhspc report`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from mkhspc.cli import progress
from mkhspc.cli.notes import note
from mkhspc.cli.options import json_option, print_json, run_option
from mkhspc.errors import some_of


@click.command(short_help="Counts and densities by slide and by group.")
@run_option
@click.option(
    "--out",
    "out_dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write.",
)
@click.option(
    "--groups",
    "groups_csv",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="slide_id, animal, batch and any factors. [those of the run]",
)
@click.option(
    "--mk-classifier", type=click.Path(path_type=Path), metavar="FILE.skops", help="Score the MK first."
)
@click.option(
    "--hspc-classifier", type=click.Path(path_type=Path), metavar="FILE.skops", help="Score the HSPC first."
)
@json_option
def report(
    run_dir: Path,
    out_dir: Path,
    groups_csv: Path | None,
    mk_classifier: Path | None,
    hspc_classifier: Path | None,
    as_json: bool,
) -> None:
    """Counts and densities per mm² of tissue, by slide and by group.

    Counts the candidates in the filter and, where the run has scores, the cells classified
    positive. Writes results.csv, groups.csv, comparisons.csv, density.png and report.html.

    \b
    Example:
      mkhspc report --run run --out report --groups groups.csv
    """
    from mkhspc.api import commands
    from mkhspc.api.run import report_on
    from mkhspc.config.options import paths_by_type
    from mkhspc.results.page import refuse_foreign
    from mkhspc.results.report import to_json
    from mkhspc.store.layout import RunLayout

    refuse_foreign(out_dir)
    if mk_classifier is not None or hspc_classifier is not None:
        with progress.shown() as show:
            commands.score(
                run_dir, mk_classifier=mk_classifier, hspc_classifier=hspc_classifier, progress=show
            )
    made = report_on(
        RunLayout(run_dir), groups_csv, out_dir, said=paths_by_type(mk_classifier, hspc_classifier)
    )
    page = out_dir / "report.html"
    if as_json:
        print_json({**to_json(made), "page": str(page)})
        return
    if made.is_simulated:
        click.echo("Simulated slides: these numbers say nothing about an animal.")
    if made.design.others:
        others = some_of(made.design.others)
        note(f"the groups name slides that the run does not have, which are left out: {others}")
    table = Table("group", "cells", f"{made.design.unit}s", "counted", "per mm² of tissue", "sd")
    for group in made.groups:
        words = f"{group.cell_type.upper()}, {group.counted_as}"
        spread = "-" if group.sd_per_mm2 is None else f"{group.sd_per_mm2:,.1f}"
        numbers = (str(group.units), f"{group.cells:,}", f"{group.mean_per_mm2:,.1f}", spread)
        table.add_row(group.group, words, *numbers)
    Console().print(table)
    left_out = sum(result.counted.inside_mk for result in made.results)
    click.echo(f"Counted are cells in the filter; {left_out:,} HSPC inside an MK are left out.")
    click.echo(f"Report: {page}")
