"""`mkhspc refilter`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.options import area_options, json_option, print_json, run_argument
from pipeline.cli.segment import print_summary
from pipeline.config import CELL_TYPES, AreaRange
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
    from pipeline.run import refilter as run_refilter
    from pipeline.store.layout import RunLayout
    from pipeline.store.manifest import read

    if all(bound is None for bound in bounds.values()):
        raise UsageError("no area given", fix="give at least one, such as --mk-min-area-um 200")
    layout = RunLayout(run_dir)
    areas = dict(read(layout).filter)
    for cell_type in CELL_TYPES:
        low, high = bounds[f"{cell_type}_min_area_um"], bounds[f"{cell_type}_max_area_um"]
        old = areas[cell_type]
        areas[cell_type] = AreaRange(
            old.min_um2 if low is None else low, old.max_um2 if high is None else high
        )
    summary = run_refilter(layout, areas)
    if as_json:
        print_json({**asdict(summary), "root": str(summary.root)})
    else:
        print_summary(summary)
