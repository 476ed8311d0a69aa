"""`mkhspc refilter`."""

from __future__ import annotations

from pathlib import Path

import click

from mkhspc.cli.options import area_options, command_line, json_option, note, run_argument
from mkhspc.cli.segment import print_summary
from mkhspc.config import CELL_TYPES
from mkhspc.errors import UsageError, some_of


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
    from mkhspc.run.refilter import refilter as run_refilter
    from mkhspc.store.layout import RunLayout
    from mkhspc.store.manifest import read

    if all(bound is None for bound in bounds.values()):
        raise UsageError("no area given", fix="give at least one, such as --mk-min-area-um 200")
    given = {t: (bounds[f"{t}_min_area_um"], bounds[f"{t}_max_area_um"]) for t in CELL_TYPES}
    layout = RunLayout(run_dir)
    summary = run_refilter(layout, given)
    unmerged = [s.slide_id for s in read(layout).slides if not layout.cells(s.slide_id).exists()]
    if unmerged:
        merge = command_line("merge", run_dir)
        note(f"these slides have no tables yet, and are not counted ({merge}): {some_of(unmerged)}")
    print_summary(summary, as_json)
