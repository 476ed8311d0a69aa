"""`mkhspc clean`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mkhspc.cli.options import json_option, print_json, run_argument

if TYPE_CHECKING:
    from mkhspc.cluster.clean import Leftover, Leftovers


@click.command(short_help="Remove what killed processes left in a run: temporary files, nothing else.")
@run_argument
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--other-hosts-after-h",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Hours without a change after which a file of a process on another host counts as left.",
)
@json_option
def clean(run_dir: Path, dry_run: bool, other_hosts_after_h: float, as_json: bool) -> None:
    """Remove what killed processes left in a run: temporary files, nothing else.

    A file is removed when the process that wrote it, whose number is in its name, is gone
    from this host. A process on another host cannot be looked for: its files stay until they
    have not changed for a day. Never needed for a run to go on, and safe while it does.

    \b
    Examples:
      mkhspc clean run --dry-run
      mkhspc clean run
    """
    from mkhspc.cluster.clean import find_leftovers, remove
    from mkhspc.store.layout import RunLayout

    found = find_leftovers(RunLayout(run_dir), other_hosts_after_h * 3600)
    if not dry_run:
        remove(found)
    if as_json:
        print_json(_facts(run_dir, found, dry_run))
    else:
        _print(run_dir, found, dry_run)


def _facts(root: Path, found: Leftovers, dry_run: bool) -> dict[str, object]:
    def listed(files: list[Leftover]) -> list[dict[str, object]]:
        return [
            {"path": str(file.path.relative_to(root)), "bytes": file.size_bytes, "reason": file.reason}
            for file in files
        ]

    return {
        "root": str(root),
        "dry_run": dry_run,
        "removed": listed(found.stale),
        "removed_bytes": sum(file.size_bytes for file in found.stale),
        "removed_directories": [str(path.relative_to(root)) for path in found.directories],
        "kept": listed(found.kept),
    }


def _print(root: Path, found: Leftovers, dry_run: bool) -> None:
    verb = "would remove" if dry_run else "removed"
    for verdict, files in ((verb, found.stale), ("kept", found.kept)):
        for file in files:
            click.echo(f"{verdict} {file.path.relative_to(root)} ({file.size_bytes:,} bytes): {file.reason}")
    for path in found.directories:
        click.echo(f"{verb} {path.relative_to(root)}: nothing else is in it")
    freed_bytes = sum(file.size_bytes for file in found.stale)
    click.echo(f"{verb} {len(found.stale)} temporary files, {freed_bytes:,} bytes; kept {len(found.kept)}")
