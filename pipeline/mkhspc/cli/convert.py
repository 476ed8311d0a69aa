"""`mkhspc convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from mkhspc.cli import progress
from mkhspc.cli.options import area_options, json_option, print_json
from mkhspc.config.options import AreaBounds

if TYPE_CHECKING:
    from mkhspc.learn.labels.resolve import OnConflict

RULES = ("majority", "latest", "exclude")


@click.command(short_help="Turn exported labels into training data.")
@click.argument("more", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option(
    "--annotations", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Labels that were exported; more files may follow, or the option be repeated.",
)  # fmt: skip
@click.option(
    "--base-dir",
    "--run",
    "base_dir",
    required=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="The run that was labelled.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="The training data.",
)
@click.option(
    "--min-match", type=click.FloatRange(0.0, 1.0), default=0.98, show_default=True,
    help="Share of each file's labels that must find a cell.",
)  # fmt: skip
@click.option(
    "--on-conflict", type=click.Choice(RULES), default="majority", show_default=True,
    help="What becomes of a cell with different labels; a tie is left out.",
)  # fmt: skip
@area_options
@json_option
def convert(
    more: tuple[Path, ...],
    annotations: tuple[Path, ...],
    base_dir: Path,
    output: Path,
    min_match: float,
    on_conflict: OnConflict,
    as_json: bool,
    **bounds: Unpack[AreaBounds],
) -> None:
    """Turn exported labels into training data.

    Reads the gallery's export and the older shapes A to E. A label whose id is not in the
    run is given to the cell whose contour holds its point, else to the nearest within 2 µm.
    Nothing is written when too few labels find a cell. The areas are the run's own: those
    given here are only checked against it.

    \b
    Examples:
      mkhspc convert --annotations annotations_1f0c_anna.json --base-dir run --output train.json
      mkhspc convert --annotations annotations_*.json --base-dir run --output train.json \\
        --on-conflict exclude --json
    """
    from mkhspc.api import commands
    from mkhspc.learn.labels.convert import report_of

    files = (*annotations, *more)  # a shell turns `--annotations *.json` into one option and arguments
    with progress.shown() as show:
        conversion = commands.convert(
            files,
            base_dir,
            output,
            min_match=min_match,
            on_conflict=on_conflict,
            progress=show,
            **bounds,
        )
    report = report_of(conversion)
    if as_json:
        print_json({**report, "output": str(output)})
    else:
        _print_report(report, output)


def _print_report(report: dict[str, Any], output: Path) -> None:
    for file in report["files"]:
        click.echo(f"{file['file']} (shape {file['shape']}, annotator {file['annotator']})")
        for cell_type, counts in file["counts"].items():
            ways = ", ".join(f"{count} {place.replace('_', ' ')}" for place, count in counts.items())
            click.echo(f"  {cell_type}: {sum(counts.values())} labels: {ways}")
        for cell_type, agreement in file["self_agreement"].items():
            kappa = "undefined" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
            click.echo(
                f"  {cell_type}: {agreement['pairs']} blind repeats: the same answer to"
                f" {agreement['agreement']:.0%}, kappa {kappa}"
            )
    if report["superseded"]:
        click.echo(
            f"{report['superseded']} answers changed or taken back by the same annotator: the newest counts"
        )
    for cell_type, cells in report["cells"].items():
        click.echo(f"{cell_type}: " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in cells.items()))
    click.echo(f"wrote {output}")
