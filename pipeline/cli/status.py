"""`mkhspc status`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import json_option, print_json, run_argument


@click.command(short_help="How far a run is: tiles done, failed and left by slide.")
@run_argument
@json_option
def status(run_dir: Path, as_json: bool) -> None:
    """How far a run is: tiles done, failed and left by slide.

    Reads the run's files alone, so it works while the run goes on, from any machine.

    \b
    Example:
      mkhspc status run
    """
    from pipeline.engine.status import run_status
    from pipeline.store.layout import RunLayout

    found = run_status(RunLayout(run_dir))
    if as_json:
        slides = [{**asdict(slide), "left": slide.left} for slide in found.slides]
        facts = {"left": found.left, "cells": found.cells}
        print_json({"slides": slides, **facts, "tiles_per_s": found.tiles_per_s, "eta_s": found.eta_s})
        return
    table = Table("slide", "tiles", "done", "failed", "left", "tables")
    for slide in found.slides:
        numbers = ("?" if n is None else str(n) for n in (slide.tiles, slide.done, slide.failed, slide.left))
        table.add_row(slide.slide_id, *numbers, "made" if slide.merged else "-")
    Console().print(table)
    eta = "" if not found.left or found.eta_s is None else f", about {found.eta_s / 60:.0f} min left"
    click.echo(f"{found.cells:,} cells stored{eta}")
