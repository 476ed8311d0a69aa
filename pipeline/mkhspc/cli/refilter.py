"""`mkhspc refilter`."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from mkhspc.cli.options import filter_options, json_option, run_argument
from mkhspc.cli.segment import print_summary
from mkhspc.config.options import FilterBounds


@click.command(short_help="Change the filter of a run; no detector runs again.")
@run_argument
@filter_options
@json_option
def refilter(run_dir: Path, as_json: bool, **bounds: Unpack[FilterBounds]) -> None:
    """Change the filter of a run; no detector runs again.

    Cells are stored from half the smallest to twice the largest area of the filter that
    the run began with, and MK down to weak candidates. The filter is a view on them: ids,
    features and labels stay. A higher score shows fewer cells that are no MK, a lower one
    misses fewer that are.

    \b
    Examples:
      mkhspc refilter run --mk-min-area-um 200 --mk-max-area-um 1800
      mkhspc refilter run --mk-min-score 0.5
    """
    from mkhspc.api.run import open_run

    print_summary(open_run(run_dir).refilter(**bounds), as_json)
