"""One file over HTTP, resumed where an earlier try stopped.

The standard library's client does all that is needed (redirects, proxies of the environment, certificates
of the system); pooch, the habit of scientific Python, cannot resume 1.2 GB that broke off at 1.1.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from mkhspc import __version__
from mkhspc.errors import IncompleteError, InputError, UsageError
from mkhspc.models.weights.catalogue import Download
from mkhspc.store import atomic
from mkhspc.store.untrusted_json import SMALL, content_of, parse_json
from mkhspc.units import duration_text

CHUNK_BYTES = 1 << 20
"""The most bytes that are taken from a connection at a time."""
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which another try may succeed."""

_BYTES = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+|\*)")

Version = dict[str, str | None]
"""What tells one version of a served file from another: the server's ETag, or else its Last-Modified."""


@dataclass(frozen=True)
class Patience:
    """How often and how long to try a server.

    Attributes:
        tries: connections in a row that bring nothing new before we give up.
        silence_s: without a byte after which a connection counts as broken.
    """

    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    silence_s: float = 60.0

    def wait_s(self, failures: int, asked_s: float) -> float:
        """How long to wait after so many failures in a row, and what the server asked for."""
        return min(self.longest_wait_s, max(asked_s, self.first_wait_s * 2.0 ** (failures - 1)))


class _BrokenError(Exception):
    """A connection failed in a way that another may not."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class _ChangedError(Exception):
    """What has come so far is of no use: the server has another version, or does not resume."""


@dataclass
class Part:
    """A download that grows.

    Attributes:
        file: open for reading and writing, unbuffered.
        state_path: where it is noted of which version the bytes are.
        of_pieces: the bytes came over more than one connection.
        began_again: pieces did not fit together once before.
    """

    file: FileIO
    state_path: Path
    of_pieces: bool = False
    began_again: bool = False

    @property
    def size_bytes(self) -> int:
        """How much has come so far."""
        return self.file.seek(0, os.SEEK_END)

    def version(self) -> Version | None:
        """Of which version the bytes are; None if that is not known."""
        try:
            state = parse_json(content_of(self.state_path, SMALL))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def clear(self) -> None:
        """Drops what has come."""
        self.file.truncate(0)
        self.of_pieces = False

    def begin(self, version: Version) -> None:
        """Starts a version from its first byte."""
        self.clear()
        atomic.write_json(self.state_path, version)

    def append(self, chunk: bytes) -> None:
        """Adds bytes at the end."""
        self.file.seek(0, os.SEEK_END)
        rest = memoryview(chunk)
        while rest:  # a disk that is almost full takes a part of it
            rest = rest[self.file.write(rest) :]


PATIENT = Patience()

Notify = Callable[[int, str], None]
"""Takes the bytes that are there, and what went wrong, which is empty while nothing did."""


def check_address(url: str) -> None:
    """Raises `UsageError` for an address that is not one of a web server."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        valid = parts.scheme in ("http", "https") and bool(host) and (parts.port or 1) > 0
    except ValueError:  # a port that is not a number, or a host name that cannot be
        valid = False
    if not valid or any(c.isspace() or not c.isprintable() for c in url):
        raise UsageError(
            "is not the address of a web server",
            where=url,
            fix="it begins with https:// or http://, then a host",
        )


def download(what: Download, part: Part, notify: Notify, patience: Patience) -> None:
    """Brings `part` to its full length, over as many connections as it takes.

    The bytes are not compared with the digest here.

    Raises:
        InputError: the server does not have the file, or has one of another length.
        IncompleteError: the server did not answer, or broke off again and again; what came is kept.
        OSError: the file cannot be written.
    """
    failures, most_bytes = 0, part.size_bytes
    while True:
        try:
            _take(what, part, notify, patience.silence_s)
            return
        except _ChangedError as error:
            if part.size_bytes == 0:
                raise InputError("the server's answer does not fit the request", where=what.url) from error
            part.clear()
        except _BrokenError as broken:
            size_bytes = part.size_bytes
            failures = 1 if size_bytes > most_bytes else failures + 1
            most_bytes = max(most_bytes, size_bytes)
            if failures >= patience.tries:
                raise IncompleteError(
                    f"{broken}; {size_bytes:,} of {what.size_bytes:,} bytes came",
                    where=what.url,
                    fix="run the same command again to go on from there, or give --mirror another server",
                ) from broken
            wait_s = patience.wait_s(failures, broken.retry_after_s)
            notify(size_bytes, f"{broken}; again in {duration_text(wait_s)}")
            time.sleep(wait_s)


def _take(what: Download, part: Part, notify: Notify, silence_s: float) -> None:
    """Takes what one connection gives."""
    known = part.version()
    begin = part.size_bytes if known is not None else 0
    if begin == what.size_bytes:
        part.of_pieces = True
        return
    headers = {"User-Agent": f"mkhspc/{__version__}"}
    if 0 < begin < what.size_bytes:
        headers["Range"] = f"bytes={begin}-"
    with _answer(urllib.request.Request(what.url, headers=headers), silence_s) as answer:
        version: Version = {name: answer.headers.get(name) for name in ("ETag", "Last-Modified")}
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            first, total_bytes = _range(answer)
            if first != begin or not _same(known, version):
                raise _ChangedError
            part.of_pieces = True
        else:  # all of it: nothing was there, or the server does not resume, or has another version
            total_bytes = _number(answer.headers.get("Content-Length"))
        if total_bytes not in (None, what.size_bytes):
            raise InputError(
                f"the server has {total_bytes:,} bytes there, the published file {what.size_bytes:,}",
                where=what.url,
                fix="look at the address with a browser: a login page, or another version?",
            )
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            part.begin(version)
        _copy(answer, part, what, notify)


def _copy(answer: http.client.HTTPResponse, part: Part, what: Download, notify: Notify) -> None:
    size_bytes = part.size_bytes
    notify(size_bytes, "")
    for chunk in _chunks(answer):
        size_bytes += len(chunk)
        if size_bytes > what.size_bytes:
            part.clear()
            raise InputError(
                f"the server sends more than the {what.size_bytes:,} bytes of the published file",
                where=what.url,
                fix="look at the address with a browser: a login page, or another version?",
            )
        part.append(chunk)
        notify(size_bytes, "")
    if size_bytes < what.size_bytes:
        raise _BrokenError("the connection broke off")


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = answer.read1(CHUNK_BYTES)  # whatever is there: a break loses none of it
        except TimeoutError as error:
            raise _BrokenError("the server stopped sending") from error
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError("the connection broke off") from error
        if not chunk:
            return
        yield chunk


def _same(known: Version | None, version: Version) -> bool:
    """Whether two answers are of one version; where the server names none, the digest will show."""
    if known is None:
        return False
    name = "ETag" if known.get("ETag") or version.get("ETag") else "Last-Modified"
    return known.get(name) == version.get(name)


def _range(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte and length of the whole file, as a partial answer says."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    first = None if match is None else _number(match["first"])
    if match is None or first is None:
        raise _ChangedError
    return first, _number(match["total"])


def _number(text: str | None) -> int | None:
    """The number of bytes that a header states; None where it states none that could be true."""
    return int(text) if text and _BYTES.fullmatch(text.strip()) else None


@contextmanager
def _answer(request: urllib.request.Request, silence_s: float) -> Iterator[http.client.HTTPResponse]:
    """A server's answer of status 200 or 206.

    Raises:
        InputError: the server refuses the file for good.
        _BrokenError: another try may succeed.
        _ChangedError: it has less than we have already.
    """
    try:
        answer = urllib.request.urlopen(request, timeout=silence_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error, request.full_url) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise InputError(
                f"the server's certificate is not trusted ({error.reason.verify_message})",
                where=request.full_url,
                fix="behind a proxy that opens connections, set SSL_CERT_FILE to its certificate",
            ) from error
        raise _BrokenError(f"no connection ({_reason(error.reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"no answer ({_reason(error)})") from error
    except ValueError as error:  # it redirects to what is not an address
        raise InputError(
            f"the server's answer cannot be understood ({error})",
            where=request.full_url,
            fix="give another address by --url, or a server by --mirror",
        ) from error
    with answer:
        yield answer


def _reason(error: object) -> str:
    """'Connection refused', without the number."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _refusal(error: urllib.error.HTTPError, url: str) -> Exception:
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _ChangedError()
    answer = f"the server answers {error.code} {error.reason}".rstrip()
    if error.code in TRANSIENT:
        asked = error.headers.get("Retry-After", "")
        return _BrokenError(answer, float(asked) if asked.isdecimal() else 0.0)
    return InputError(answer, where=url, fix="give another address by --url, or a server by --mirror")
