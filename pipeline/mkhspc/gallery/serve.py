"""Shows a site on this machine, and to no other."""

from __future__ import annotations

import errno
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mkhspc.errors import UsageError
from mkhspc.gallery.site_swap import read_site

ADDRESS = "127.0.0.1"


class SiteHandler(SimpleHTTPRequestHandler):
    """Files of a site, with the types that browsers insist on; no lists of directories, no log."""

    extensions_map = {  # noqa: RUF012  (the base class declares it per instance)
        "": "application/octet-stream",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".avif": "image/avif",
    }

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a site that was replaced is seen at once
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def send_head(self) -> BytesIO | BinaryIO | None:
        try:
            return super().send_head()
        except ValueError:  # a name that no file can have: it holds a NUL
            self.send_error(HTTPStatus.NOT_FOUND)
            return None

    def list_directory(self, path: object) -> BytesIO | None:
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


def open_server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of the site, listening on 127.0.0.1 and ready for `serve_forever`.

    Args:
        port: 0 takes any free one; `server.server_port` is the one taken.

    Raises:
        InputError: the directory does not hold a site.
        UsageError: the port is taken, or not allowed.
    """
    read_site(site)
    handler = partial(SiteHandler, directory=str(site))
    try:
        return ThreadingHTTPServer((ADDRESS, port), handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        trouble = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed"
        raise UsageError(
            f"port {port} {trouble}", where="--port", fix="choose another, or 0 for any"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """What to type into a browser to see the site."""
    return f"http://{ADDRESS}:{server.server_port}/"
