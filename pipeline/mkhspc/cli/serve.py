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
def serve(site: Path, port: int) -> None:
    """Look at a site on this machine, until Ctrl-C; no other machine can see it.

    Labels are kept by the browser for this address: use the same port each time.

    \b
    Example:
      mkhspc serve site
    """
    from mkhspc.gallery.serve import address_of, open_server

    with open_server(site, port) as server:
        click.echo(address_of(server))
        click.echo("Ctrl-C stops.", err=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
