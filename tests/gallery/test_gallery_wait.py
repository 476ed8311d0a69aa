from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc.errors import IncompleteError, UsageError
from mkhspc.gallery.publishing.wait import Patience, site_json_address, wait_until_live
from webserver import free_port, silent_listener, web

HASTY = Patience(unreachable_s=0.3, missing_s=0.3, total_s=0.6, poll_s=0.05, answer_s=0.5)


def waited(url: str, site: Path, patience: Patience = HASTY) -> str:
    with pytest.raises(IncompleteError) as gave_up:
        wait_until_live(url, site, patience=patience)
    return str(gave_up.value)


def test_waiting_ends_when_the_site_is_live(site: Path) -> None:
    expected = (site / "site.json").read_bytes()
    story = [(404, b""), (200, b"{}"), (200, expected + b" "), (200, expected)]
    with web(lambda n: story[n]) as server:
        wait_until_live(f"{server.address}/marrow/", site, patience=replace(HASTY, total_s=20))
        assert len(server.asked) == 4
        assert {path.split("?")[0] for path in server.asked} == {"/marrow/site.json"}


def test_a_name_that_does_not_resolve_is_said_soon(site: Path) -> None:
    said = waited("https://nobody.invalid/x/", site)
    assert said.startswith(
        "https://nobody.invalid/x/: does not show the new site: its name does not resolve, for "
    )
    assert said.endswith("check the address; GitHub names it in the repository's Settings > Pages")


def test_a_refused_connection_is_said_soon(site: Path) -> None:
    assert "does not show the new site: the connection is refused, for" in waited(
        f"http://127.0.0.1:{free_port()}/", site
    )


def test_a_server_that_says_nothing_is_given_up(site: Path) -> None:
    with silent_listener() as port:
        assert ": no answer comes, for" in waited(f"http://127.0.0.1:{port}/", site)


def test_what_is_no_web_server_is_named(site: Path) -> None:
    with silent_listener(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        assert ": what answers is not a web server, for" in waited(f"http://127.0.0.1:{port}/", site)


def test_a_server_without_a_certificate_is_named(site: Path) -> None:
    with web(lambda _: (200, b"")) as server:
        assert ": no secure connection (" in waited(server.address.replace("http:", "https:"), site)


@pytest.mark.parametrize(("status", "words"), [(404, "404 (Not Found)"), (503, "503 (Service Unavailable)")])
def test_an_error_that_lasts_is_said_with_its_number(site: Path, status: int, words: str) -> None:
    with web(lambda _: (status, b"")) as server:
        said = waited(server.address, site)
    assert f": the server answers {words}, for " in said
    assert said.splitlines()[1].startswith("  look at the repository's Settings > Pages")


def test_another_site_is_waited_for_longest(site: Path) -> None:
    with web(lambda _: (200, b"{}")) as server:
        start_s = time.monotonic()
        said = waited(server.address, site)
        assert time.monotonic() - start_s >= HASTY.total_s
    assert ": an older site or another page is there, for " in said


def test_what_is_seen_last_counts_from_when_it_was_seen_first(site: Path) -> None:
    with web(lambda n: (200, b"{}") if n < 8 else (404, b"")) as server:
        said = waited(server.address, site, replace(HASTY, total_s=60))
        assert "404" in said
        assert len(server.asked) > 8 + 1, "one 404 was borne"


def test_a_short_failure_is_borne(site: Path) -> None:
    expected = (site / "site.json").read_bytes()
    with web(lambda n: (404, b"") if n < 3 else (200, expected)) as server:
        wait_until_live(server.address, site, patience=replace(HASTY, missing_s=30, total_s=60))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"220 this is no web server\r\n",
    ],
    ids=[
        "length abc",
        "cut short",
        "status abc",
        "nested",
        "sent on to nowhere",
        "sent on to a file",
        "no HTTP",
    ],
)
def test_waiting_for_something_else_ends_in_an_error(site: Path, answer: bytes) -> None:
    with silent_listener(answer) as port:
        assert "does not show the new site: " in waited(f"http://127.0.0.1:{port}/", site)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://lab.github.io/marrow/", "https://lab.github.io/marrow/site.json"),
        ("https://lab.github.io", "https://lab.github.io/site.json"),
        ("http://127.0.0.1:8000/a b/index.html", "http://127.0.0.1:8000/a%20b/site.json"),
        ("http://[::1]:8000/", "http://[::1]:8000/site.json"),
        ("https://Bücher.de/ä", "https://xn--bcher-kva.de/%C3%A4/site.json"),
    ],
)
def test_the_address_of_site_json(url: str, address: str) -> None:
    assert site_json_address(url) == address


@pytest.mark.parametrize(
    "url", ["/etc/passwd", "file:///etc/passwd", "lab.github.io", "https://", "http://[", "http://x:port/", "ftp://x/",
            "https://" + "a" * 70 + ".org"]
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a web address"):
        site_json_address(url)


@pytest.mark.parametrize(
    "url", ["https://ada:secret@lab.org/", "https://lab.org/?token=secret", "https://lab.org/#secret"]
)
def test_an_address_with_a_secret_is_refused_without_it(url: str) -> None:
    with pytest.raises(UsageError, match="carries more than an address") as refused:
        site_json_address(url)
    assert "secret" not in str(refused.value)
