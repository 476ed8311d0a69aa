"""`mkhspc merge`."""

from __future__ import annotations

from pathlib import Path

import click

from mkhspc.cli import progress
from mkhspc.cli.options import json_option, run_argument
from mkhspc.cli.segment import print_summary


@click.command(short_help="Put the finished tiles of a run together into its tables.")
@run_argument
@json_option
def merge(run_dir: Path, as_json: bool) -> None:
    """Put the finished tiles of a run together into its tables.

    Needed after shards only; `segment` merges by itself. Refuses while tiles are
    missing (exit code 4) and names them.

    \b
    Example:
      mkhspc merge run
    """
    from mkhspc.process.signals import interruptible

    with progress.shown() as show, interruptible():  # before anything large is loaded
        from mkhspc.api.run import open_run
        from mkhspc.store.summary import refuse_empty

        summary = open_run(run_dir).merge(progress=show)
    refuse_empty(summary)
    print_summary(summary, as_json)
