"""`mkhspc publish`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli.options import json_option, print_json
from mkhspc.gallery.publishing.publish import PublishOptions

if TYPE_CHECKING:
    from mkhspc.gallery.publishing.publish import PublishReport


@click.command(short_help="Put a site on a branch of a git repository (GitHub Pages).")
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--repo", required=True, metavar="DIR_OR_URL", help="A work tree, a bare repository or a URL.")
@click.option(
    "--branch", default=PublishOptions.branch, show_default=True, help="Branch that holds the site alone."
)
@click.option("--message", default=PublishOptions.message, show_default=True, help="The commit's message.")
@click.option("--dry-run", is_flag=True, help="Say what would change; push nothing.")
@click.option("--wait", "wait_url", metavar="URL", help="Wait until this address shows the new site.")
@click.option("--orphan", is_flag=True, help="Drop the branch's history (the only case of a forced push).")
@json_option
def publish(site: Path, wait_url: str | None, as_json: bool, **given: Any) -> None:
    """Put a site on a branch of a git repository (GitHub Pages).

    The repository's working tree, index and settings stay as they are, and the branch keeps its
    history. GitHub Pages are public: whoever has the address can look.

    \b
    Examples:
      mkhspc publish site --repo . --dry-run
      mkhspc publish site --repo git@github.com:lab/marrow.git --wait https://lab.github.io/marrow/
    """
    from mkhspc.cli.progress import shown
    from mkhspc.gallery.publishing import publish as publishing

    options = PublishOptions(**given)
    publishing.check_site(site)
    click.echo("mkhspc: GitHub Pages are public: anyone who has the address can see this site", err=True)
    report = publishing.publish(site, options)
    if report.replaces_foreign:
        kept = "" if options.orphan else "; it stays in the branch's history"
        click.echo(f"mkhspc: {report.branch} held something else than a site of mkhspc{kept}", err=True)
    if as_json:
        print_json(asdict(report))
    else:
        click.echo(_sentence(report, options.dry_run))
    if wait_url is not None and not options.dry_run:
        with shown() as progress:
            publishing.wait_until_live(wait_url, site, progress)


def _sentence(report: PublishReport, dry_run: bool) -> str:
    from mkhspc.units import MB

    if report.before == report.after:
        return f"{report.branch} holds this site already ({report.after[:10]}); nothing to publish"
    changes = report.changes
    return (
        f"{report.branch}: {'would be' if dry_run else 'now'} {report.after[:10]}, "
        f"{changes.added} files added, {changes.changed} changed, {changes.removed} removed "
        f"({report.size_bytes / MB:,.1f} MB)"
    )
