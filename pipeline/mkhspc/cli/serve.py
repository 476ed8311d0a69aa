"""`mkhspc serve`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click


@click.command(short_help="Look at a site on this machine.")
@click.argument("site", type=click.Path(path_type=Path))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free one."
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Answer requests for this host too, such as a proxy's; repeatable.",
)
def serve(site: Path, port: int, allowed_hosts: tuple[str, ...]) -> None:
    """Look at a site on this machine, until Ctrl-C; no other machine can see it.

    Labels are kept by the browser for this address: use the same port each time. Requests for a
    host other than localhost are refused, so that no page elsewhere can read the site through a
    name that leads here; links that lead out of the site are not followed.

    \b
    Examples:
      mkhspc serve site
      mkhspc serve site --allow-host jupyter.lab.org
    """
    from mkhspc.gallery.serve import address_of, open_server

    with open_server(site, port, allowed_hosts) as server:
        click.echo(address_of(server))
        click.echo("Ctrl-C stops.", err=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
