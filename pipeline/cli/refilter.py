"""`mkhspc refilter`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import area_options, json_option, run_argument
from pipeline.cli.segment import print_summary
from pipeline.config import CELL_TYPES
from pipeline.errors import UsageError


@click.command(short_help="Change the size filter of a run; no detector runs again.")
@run_argument
@area_options
@json_option
def refilter(run_dir: Path, as_json: bool, **bounds: float | None) -> None:
    """Change the size filter of a run; no detector runs again.

    Cells are stored from half the smallest to twice the largest area of the filter that
    the run began with. The filter is a view on them: ids, features and labels stay.

    \b
    Example:
      mkhspc refilter run --mk-min-area-um 200 --mk-max-area-um 1800
    """
    from pipeline.store.layout import RunLayout
    from pipeline.store.refilter import refilter as run_refilter

    if all(bound is None for bound in bounds.values()):
        raise UsageError("no area given", fix="give at least one, such as --mk-min-area-um 200")
    given = {t: (bounds[f"{t}_min_area_um"], bounds[f"{t}_max_area_um"]) for t in CELL_TYPES}
    summary = run_refilter(RunLayout(run_dir), given)
    print_summary(summary, as_json)
