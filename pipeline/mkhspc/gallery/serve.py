"""Shows a site on this machine, and to no other."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from mkhspc.errors import UsageError
from mkhspc.gallery.site_swap import read_site

ADDRESS = "127.0.0.1"
OWN_HOSTS = frozenset({ADDRESS, "localhost", "[::1]"})
"""What a browser on this machine asks for; under any other name a page elsewhere may have led it here."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.%]+\]|[^\s:/?#@\[\]*]+?)\.?(:\d*)?", re.IGNORECASE)
"""The value of the header `Host` (RFC 9110, 7.2): a name, or an address of IPv6 in brackets, and a port."""


class SiteHandler(SimpleHTTPRequestHandler):
    """Files of a site, with the types that browsers insist on; no lists of directories, no log.

    Args:
        hosts: what the header `Host` may say; a request for another host is refused.
    """

    extensions_map = {  # noqa: RUF012  (the base class declares it per instance)
        "": "application/octet-stream",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".avif": "image/avif",
    }

    def __init__(self, *args: Any, directory: str, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        super().__init__(*args, directory=directory)

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Answers for GET and HEAD, after looking at whom the request is for and where the file lies."""
        refusal = self._refusal()
        if refusal is None:
            return super().send_head()
        self.send_error(refusal)
        return None

    def _refusal(self) -> HTTPStatus | None:
        asked = self.headers.get_all("Host", [])
        if len(asked) != 1:
            return HTTPStatus.BAD_REQUEST
        if host_name(asked[0]) not in self._hosts:
            return HTTPStatus.MISDIRECTED_REQUEST
        path = self.translate_path(self.path)
        places = (path, os.path.join(path, "index.html"), os.path.join(path, "index.htm"))  # noqa: PTH118
        return None if all(map(self._is_of_site, places)) else HTTPStatus.NOT_FOUND

    def _is_of_site(self, path: str) -> bool:
        """Whether a path leads to a file or folder in the site, or to nothing at all."""
        root = os.path.realpath(self.directory)
        try:
            place = os.path.realpath(path)
            mode = Path(place).stat().st_mode
        except OSError:
            return True  # nothing is there, which the base class says
        except ValueError:  # a name with a NUL in it
            return False
        is_inside = os.path.commonpath([root, place]) == root
        return is_inside and (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a site that was replaced is seen at once
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def list_directory(self, path: object) -> BytesIO | None:
        self.send_error(HTTPStatus.NOT_FOUND)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


class SiteServer(ThreadingHTTPServer):
    """A server that says nothing of browsers which hang up in the middle of an answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def host_name(header: str) -> str | None:
    """The host that a header `Host` names, in small letters and without its port; None if it names none."""
    found = _HOST.fullmatch(header.strip())
    return found["name"].lower() if found else None


def open_server(site: Path, port: int, allowed_hosts: Sequence[str] = ()) -> SiteServer:
    """A server of the site, listening on 127.0.0.1 and ready for `serve_forever`.

    Args:
        port: 0 takes any free one; `server.server_port` is the one taken.
        allowed_hosts: further names that a request may be for, such as that of a proxy in front.

    Raises:
        InputError: the directory does not hold a site.
        UsageError: the port is taken, or not allowed, or a name is not that of a host.
    """
    read_site(site)
    hosts = OWN_HOSTS | {_checked_host(name) for name in allowed_hosts}
    handler = partial(SiteHandler, directory=str(site), hosts=hosts)
    try:
        return SiteServer((ADDRESS, port), handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        trouble = "is taken" if error.errno == errno.EADDRINUSE else "is not allowed"
        raise UsageError(
            f"port {port} {trouble}", where="--port", fix="choose another, or 0 for any"
        ) from error


def _checked_host(given: str) -> str:
    name = host_name(given)
    if name is None:
        raise UsageError(
            f"'{given}' is not the name of a host",
            where="--allow-host",
            fix="give a name alone, such as jupyter.lab.org",
        )
    return name


def address_of(server: ThreadingHTTPServer) -> str:
    """What to type into a browser to see the site."""
    return f"http://{ADDRESS}:{server.server_port}/"
