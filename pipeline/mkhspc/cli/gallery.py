"""`mkhspc gallery`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mkhspc.cli.notes import note
from mkhspc.cli.options import command_line, default_of, json_option, print_json, run_option
from mkhspc.config import ORDERS
from mkhspc.gallery.options import SiteOptions, site_options


@click.command(short_help="Make the static labelling site of a run.")
@run_option
@click.option("--out", "out", type=click.Path(path_type=Path), help="Directory of the site; replaced whole.")
@click.option("--cards-per-page", type=int, help=f"Cells on a page. {default_of('gallery.cards_per_page')}")
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    help="Random (stratified by slide), largest first, or nearest to the classifier's threshold first.",
)
@click.option("--max-cards", type=int, help="Show a random sample of this many cells of each type.")
@click.option(
    "--max-site-mb", type=float, help=f"Refuse to make a larger site. {default_of('gallery.max_site_mb')}"
)
@click.option("--title", help="Shown on every page.")
@click.option(
    "--blind-repeats",
    type=float,
    default=SiteOptions.blind_repeats,
    show_default=True,
    help="Share of cells shown a second time on a later page, at least 50 a type; 0 for none.",
)
@click.option("--no-blind", is_flag=True, help="Show slides by name instead of by code.")
@json_option
def gallery(run_dir: Path, no_blind: bool, as_json: bool, **given: object) -> None:
    """Make the static labelling site of a run.

    What is not given comes from [gallery] of the run's config.

    \b
    Examples:
      mkhspc gallery --run run --out site
      mkhspc gallery --run run --out site --max-cards 5000 --order uncertainty
      mkhspc serve site
    """
    from mkhspc.cli.progress import shown
    from mkhspc.cluster.read_status import exclude_failed, failed_tiles
    from mkhspc.gallery.site import build_site
    from mkhspc.results.counts import unmerged_slides
    from mkhspc.store import manifest
    from mkhspc.store.layout import RunLayout
    from mkhspc.units import MB

    layout = RunLayout(run_dir)
    found = manifest.read(layout)
    options = site_options(found.config.gallery, given, blind=not no_blind)
    if failed := failed_tiles(layout):
        leave_out = exclude_failed(run_dir)
        note(f"{len(failed)} tiles failed; those that fail for good are left out by `{leave_out}`")
    stale = [s for s in unmerged_slides(layout, found) if layout.cells(s).exists()]
    if stale:
        note(
            f"the tables of {', '.join(stale)} lack cells of finished tiles, which are not shown;"
            " run the same `mkhspc segment` again to finish them"
        )
    with shown() as progress:
        summary = build_site(layout, options, progress)
    if as_json:
        print_json({**asdict(summary), "out": str(summary.out)})
        return
    for cell_type, cells in summary.cells.items():
        click.echo(
            f"{cell_type:4}  {cells:,} cells in the filter shown, {summary.pages[cell_type]} pages, "
            f"{summary.repeats[cell_type]} blind repeats, "
            f"{summary.bytes_per_card[cell_type]:,.0f} bytes a card"
        )
    click.echo(f"{summary.out}  {summary.size_bytes / MB:,.1f} MB, dataset {summary.dataset}")
    click.echo(f"Look at it: {command_line('serve', summary.out)}")
