"""`mkhspc segment`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli import progress
from mkhspc.cli.notes import note
from mkhspc.cli.options import command_line, json_option, print_json
from mkhspc.cli.run_options import resolved, run_options

if TYPE_CHECKING:
    from mkhspc.store.summary import RunSummary, ShardSummary


@click.command(short_help="Find, measure and crop the cells of one or more slides.")
@run_options
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts of the tiles, from 0.")
@click.option("--only", multiple=True, metavar="SLIDE_ID", help="Only this slide; may be repeated.")
@json_option
def segment(shard: str | None, only: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Find, measure and crop the cells of one or more slides.

    Run the same command again to resume. A higher --sample-fraction only adds tiles:
    no cell changes its id.

    \b
    Examples:
      mkhspc segment slides/*.czi --output-dir run --sample-fraction 0.02
      mkhspc segment --czi-path slide.czi --output-dir run
      mkhspc segment --config study.toml
    """
    from mkhspc.process.limits import require_least_memory
    from mkhspc.process.signals import interruptible

    require_least_memory()
    with progress.shown() as show, interruptible():
        from mkhspc.cluster.shard import Shard
        from mkhspc.run.segment import segment as segment_all, segment_shard

        config = resolved(options)
        part = Shard.parse(shard) if shard else None
        summary = (
            segment_all(config, only=only, progress=show, notify=note)
            if part is None
            else segment_shard(config, part, only=only, progress=show, notify=note)
        )
    print_summary(summary, as_json)


def print_summary(summary: RunSummary | ShardSummary, as_json: bool) -> None:
    """What was done, and where to go on: two lines, or JSON."""
    from mkhspc.store.summary import ShardSummary

    if as_json:
        print_json(summary.to_dict())
    elif isinstance(summary, ShardSummary):
        click.echo(f"shard {summary.shard} is done: {_tiles(summary.tiles)}, in {summary.root}")
        click.echo(f"next, when all shards are done: {command_line('merge', summary.root)}")
    else:
        found = ", ".join(
            f"{summary.in_filter[t]:,} {t.upper()} (of {summary.stored[t]:,} stored)" for t in summary.stored
        )
        click.echo(f"{_tiles(summary.tiles)}: {found}, in {summary.root}")
        click.echo(f"next: {command_line('gallery', '--run', summary.root, '--out', 'SITE')}")


def _tiles(number: int) -> str:
    return f"{number:,} tile{'' if number == 1 else 's'}"
