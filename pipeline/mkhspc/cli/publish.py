"""`mkhspc publish`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli.notes import note
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
@click.option(
    "--replace", is_flag=True, help="Take the place of files that mkhspc did not put on the branch."
)
@click.option("--dry-run", is_flag=True, help="Say what would change; push nothing.")
@click.option("--wait", "wait_url", metavar="URL", help="Wait until this address shows the new site.")
@click.option("--orphan", is_flag=True, help="Drop the branch's history (the only case of a forced push).")
@json_option
def publish(site: Path, wait_url: str | None, as_json: bool, **given: Any) -> None:
    """Put a site on a branch of a git repository (GitHub Pages).

    Every file is compared with the digest that `mkhspc gallery` wrote of it; a site with links,
    with files that are missing, changed or not part of it is refused, and so is a branch with
    somebody else's files. The repository's working tree, index and settings stay as they are, the
    branch keeps its history and its CNAME, and no password is ever asked for. GitHub Pages are
    public: whoever has the address can look.

    --wait looks every 5 s. It gives up after 15 s without a web server, after 5 min of an error
    such as 404, and after 15 min in all, and says what it saw.

    \b
    Examples:
      mkhspc publish site --repo . --dry-run
      mkhspc publish site --repo git@github.com:lab/marrow.git --wait https://lab.github.io/marrow/
    """
    from mkhspc.cli.progress import shown
    from mkhspc.gallery.publishing import publish as publishing, wait

    if wait_url is not None:
        wait.site_json_address(wait_url)
    options = PublishOptions(**given)
    note("GitHub Pages are public: anyone who has the address can see this site")
    report = publishing.publish(site, options)
    _print(report, options, as_json=as_json)
    if wait_url is not None and not options.dry_run:
        with shown() as progress:
            wait.wait_until_live(wait_url, site, progress)


def _print(report: PublishReport, options: PublishOptions, *, as_json: bool) -> None:
    from mkhspc.errors import some_of

    if report.replaced:
        kept = "" if options.orphan else "; they stay in the branch's history"
        verb = "would take" if options.dry_run else "takes"
        note(f"the site {verb} the place of {some_of(report.replaced)} on {report.branch}{kept}")
    if as_json:
        print_json(asdict(report))
        return
    for line in _sentences(report, options.dry_run):
        click.echo(line)


def _sentences(report: PublishReport, dry_run: bool) -> Iterator[str]:
    yield _what_changed(report, dry_run)
    yield (
        "On GitHub: Settings > Pages > Build and deployment: 'Deploy from a branch',"
        f" branch {report.branch}, folder / (root)"
    )
    if report.page:
        yield f"The page: {report.page}"
    if report.push:
        yield f"{'Then' if dry_run else 'Still to do'}: {report.push}"


def _what_changed(report: PublishReport, dry_run: bool) -> str:
    from mkhspc.units import MB

    if report.before == report.after:
        return f"{report.branch} holds this site already ({report.after[:10]}); nothing to publish"
    changes = report.changes
    return (
        f"{report.branch}: {'would be' if dry_run else 'now'} {report.after[:10]}, "
        f"{changes.added} files added, {changes.changed} changed, {changes.removed} removed "
        f"({report.size_bytes / MB:,.1f} MB)"
    )
