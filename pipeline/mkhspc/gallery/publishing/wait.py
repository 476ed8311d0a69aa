"""Waits until a web server shows a site; gives up soon, with what was seen, where none is to come."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote, urlsplit

from mkhspc.errors import IncompleteError, UsageError
from mkhspc.gallery.publishing.remote import redactor
from mkhspc.gallery.site_files import SITE_JSON
from mkhspc.gallery.site_swap import read_site
from mkhspc.progress import Progress, silent


class Kind(Enum):
    """What an address shows."""

    LIVE = "live"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    OTHER = "other"


@dataclass(frozen=True)
class Patience:
    """How long one kind of answer is borne, in seconds.

    GitHub ends a deployment after 600 s; the first one of a repository answers 404 until it is done.

    Attributes:
        unreachable_s: no web server answers.
        missing_s: the server answers with an error such as 404.
        total_s: in all, as long as another or an older site is there.
        poll_s: between two looks.
        answer_s: for one answer.
    """

    unreachable_s: float = 15.0
    missing_s: float = 300.0
    total_s: float = 900.0
    poll_s: float = 5.0
    answer_s: float = 10.0

    def limit_s(self, kind: Kind) -> float:
        return {Kind.UNREACHABLE: self.unreachable_s, Kind.MISSING: self.missing_s}.get(kind, self.total_s)


@dataclass(frozen=True)
class Sight:
    """What was seen at an address once."""

    kind: Kind
    words: str


FIXES = {
    Kind.UNREACHABLE: "check the address; GitHub names it in the repository's Settings > Pages",
    Kind.MISSING: "look at the repository's Settings > Pages (branch, folder) and at its Actions page",
    Kind.OTHER: "look at the repository's Actions page; what went into a work tree has to be pushed",
}
"""What a user can do, by what was seen last."""


def site_json_address(url: str) -> str:
    """The address of the `site.json` below that of a page.

    Raises:
        UsageError: not the address of a web page, or one with a user, a password or a query.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError as error:  # brackets that do not close, a port that is not a number, a label too long
        raise _no_address(url) from error
    if parts.scheme not in ("http", "https") or not host or " " in host:
        raise _no_address(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            f"'{redactor(url)(url)}' carries more than an address",
            where="--wait",
            fix="give the address alone, without user, password, '?' and '#'",
        )
    path = quote(parts.path.removesuffix("index.html").rstrip("/"), safe="/%")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{path}/{SITE_JSON}"


def wait_until_live(
    url: str, site: Path, progress: Progress = silent, patience: Patience | None = None
) -> None:
    """Waits until the web server at `url` shows this very site.

    Raises:
        UsageError: not the address of a web page.
        IncompleteError: it does not, and is not going to by what was seen, or `patience` is over.
    """
    patience = patience or Patience()
    expected = (site / SITE_JSON).read_bytes()
    address = (
        f"{site_json_address(url)}?build={read_site(site).get('build', '')}"  # new, so no cache answers it
    )
    start_s = since_s = time.monotonic()
    last: Sight | None = None
    while (seen := look(address, expected, patience.answer_s)).kind is not Kind.LIVE:
        now_s = time.monotonic()
        since_s = since_s if last and last.kind is seen.kind else now_s if last else start_s
        if now_s - since_s >= patience.limit_s(seen.kind) or now_s - start_s >= patience.total_s:
            raise IncompleteError(
                f"does not show the new site: {seen.words}, for {now_s - since_s:.0f} s",
                where=url,
                fix=FIXES[seen.kind],
            )
        last = seen
        progress(f"wait for the site ({seen.words})", round(now_s - start_s), round(patience.total_s))
        time.sleep(patience.poll_s)


def look(address: str, expected: bytes, answer_s: float) -> Sight:
    """Asks for `site.json` once.

    Args:
        expected: what it is to hold.
        answer_s: seconds for each step of the answer, and in all for its content.
    """
    try:
        with urllib.request.urlopen(address, timeout=answer_s) as answer:
            is_live = _begins_with(answer, len(expected) + 1, answer_s) == expected
    except urllib.error.HTTPError as error:
        return Sight(Kind.MISSING, f"the server answers {error.code} ({error.reason})")
    except (OSError, http.client.HTTPException) as error:
        return Sight(Kind.UNREACHABLE, _trouble(error))
    except ValueError:  # brackets that do not close
        return Sight(Kind.MISSING, "the server redirects to something that is not an address")
    return Sight(Kind.LIVE, "") if is_live else Sight(Kind.OTHER, "an older site or another page is there")


def _begins_with(answer: http.client.HTTPResponse, most_bytes: int, seconds: float) -> bytes:
    """The beginning of an answer; as much as came, if the server takes too long."""
    end_s, content = time.monotonic() + seconds, b""
    while len(content) < most_bytes and time.monotonic() < end_s:
        part = answer.read1(most_bytes - len(content))
        if not part:
            break
        content += part
    return content


def _trouble(error: OSError | http.client.HTTPException) -> str:
    """Why no web server could be asked, in a few words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "its name does not resolve"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(cause, TimeoutError):
        return "no answer comes"
    if isinstance(cause, ssl.SSLError):
        return f"no secure connection ({cause.reason})"
    if isinstance(cause, http.client.HTTPException):
        return "what answers is not a web server"
    return f"it cannot be reached ({getattr(cause, 'strerror', None) or cause})"


def _no_address(url: str) -> UsageError:
    what = f"'{redactor(url)(url)}' is not a web address"
    return UsageError(what, where="--wait", fix="give one that begins with https://")
