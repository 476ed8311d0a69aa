"""`mkhspc exclude`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mkhspc.cli.options import command_line, json_option, print_json, run_argument

if TYPE_CHECKING:
    from mkhspc.store.manifest.exclusions import Exclusion


@click.command(short_help="Leave damaged tiles or a slide out of a study, by name and reason.")
@run_argument
@click.option("--slide", "slides", multiple=True, metavar="ID", help="A whole slide; may be repeated.")
@click.option("--tile", "tiles", multiple=True, metavar="SLIDE/TILE", help="A tile; may be repeated.")
@click.option("--failed", is_flag=True, help="Every tile that failed, each for its own error.")
@click.option("--reason", metavar="TEXT", help="Why: every report names it.")
@click.option("--undo", is_flag=True, help="Take back what --slide and --tile name; of a slide all tiles.")
@click.option("--dry-run", is_flag=True, help="Say what would be left out, and change nothing.")
@json_option
def exclude(
    run_dir: Path,
    slides: tuple[str, ...],
    tiles: tuple[str, ...],
    failed: bool,
    reason: str | None,
    undo: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Leave damaged tiles or a slide out of a study, by name and reason.

    For tiles that the scanner wrote broken, and for slides that are no good. Their cells and their
    area leave every table, count and density; no tile is drawn in their place; the reason is in
    the manifest, and status and report name it. Nothing is deleted: --undo takes it back. Then
    `mkhspc merge` makes the tables anew, and all else goes on.

    \b
    Examples:
      mkhspc exclude run --failed
      mkhspc exclude run --tile FGC1/s0_8192_4096 --reason "folded tissue"
      mkhspc exclude run --slide FGC1 --reason "wrong stain"
      mkhspc exclude run --slide FGC1 --undo
    """
    from mkhspc.api.run import open_run

    run = open_run(run_dir)
    before = run.exclusions
    now = run.exclude(slides=slides, tiles=tiles, failed=failed, reason=reason, undo=undo, dry_run=dry_run)
    if as_json:
        print_json({"exclusions": [asdict(one) for one in now], "changed": now != before, "dry_run": dry_run})
        return
    verb = "would leave" if dry_run else "leave"
    for line in _changes(before, now, verb):
        click.echo(line)
    if now != before and not dry_run:
        click.echo(f"next: {command_line('merge', run_dir)}")


def _changes(before: Sequence[Exclusion], now: Sequence[Exclusion], verb: str) -> list[str]:
    from mkhspc.store.manifest.exclusions import summary_lines

    left = [one for one in now if one not in before]
    back = [one for one in before if one.name not in {other.name for other in now}]
    lines = [f"{verb} out {line}" for line in summary_lines(left)]
    lines += [f"{verb.replace('leave', 'take')} back {line}" for line in summary_lines(back)]
    return lines or ["nothing changes: no tile failed, or all that is named is excluded already"]
