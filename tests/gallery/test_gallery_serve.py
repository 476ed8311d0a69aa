from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from mkhspc.errors import InputError, UsageError
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.serve import address_of, host_name, open_server
from mkhspc.gallery.site import build_site
from processes import mkhspc
from runs import make_run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serve")
    build_site(make_run(root / "run", slide_ids=("FGC1",)).layout, SiteOptions(out=root / "site"))
    return root / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with open_server(site, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield address_of(server)
        server.shutdown()


def get(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status, answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_files_come_with_the_types_that_browsers_insist_on(site: Path, address: str) -> None:
    expected = {"html": "text/html", "js": "text/javascript", "css": "text/css", "json": "application/json",
                "avif": "image/avif", "svg": "image/svg+xml"}  # fmt: skip
    for suffix, kind in expected.items():
        file = next(site.rglob(f"*.{suffix}")).relative_to(site)
        status, found = get(address + str(file))
        assert (status, found.split(";")[0]) == (200, kind)
    assert {path.suffix.removeprefix(".") for path in site.rglob("*") if path.is_file()} == set(expected)


def test_the_root_is_the_index_and_other_directories_are_not_listed(address: str) -> None:
    assert get(address)[0] == 200
    assert get(address + "assets/")[0] == 404
    assert get(address + "nothing.html")[0] == 404


def test_nothing_outside_the_site_is_served(address: str) -> None:
    assert get(address + "../run/manifest.json")[0] == 404
    assert get(address + "%2e%2e/run/manifest.json")[0] == 404


def ask(port: int, request: str) -> tuple[int, str]:
    """Sends a request as it stands; returns the status and the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
    return int(answer.split()[1]), answer


def asked_for(port: int, host: str, path: str = "/site.json", method: str = "GET") -> tuple[int, str]:
    return ask(port, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def port(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LocalHost:80", "127.0.0.1:65535", "localhost.", "[::1]:8000", "localhost:"],
)
def test_this_machine_is_answered_on_any_port(port: int, host: str) -> None:
    status, answer = asked_for(port, host)
    assert status == 200
    assert "mkhspc-site" in answer


@pytest.mark.parametrize(
    "host",
    ["evil.org", "evil.org:8000", "localhost.evil.org", "127.0.0.1.nip.io", "127.0.0.2", "0.0.0.0",
     "evil.org@localhost", "localhost/evil.org", "", "[::1", "xlocalhost", "localhost, evil.org"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_whose_name_was_led_here_gets_nothing(port: int, host: str, method: str) -> None:
    status, answer = asked_for(port, host, method=method)
    assert status == 421
    assert "mkhspc-site" not in answer


@pytest.mark.parametrize(
    "hosts", ["", *(f"Host: localhost\r\nHost: {second}\r\n" for second in ("evil.org", "localhost"))]
)
def test_a_request_for_no_host_or_two_is_a_bad_one(port: int, hosts: str) -> None:
    assert ask(port, f"GET /site.json HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")[0] == 400
    assert ask(port, f"GET /site.json HTTP/1.0\r\n{hosts}\r\n")[0] == 400


def test_a_proxy_is_answered_when_its_name_was_given(site: Path) -> None:
    with open_server(site, 0, ["Jupyter.Lab.org", "10.0.0.7:8888"]) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for host, status in [("jupyter.lab.org", 200), ("jupyter.lab.org:443", 200), ("10.0.0.7", 200),
                             ("lab.org", 421), ("localhost", 200)]:  # fmt: skip
            assert asked_for(server.server_port, host)[0] == status
        server.shutdown()


@pytest.mark.parametrize("name", ["*", "https://jupyter.lab.org", "a b", "jupyter.lab.org/user", ""])
def test_a_proxy_is_given_by_its_name_alone(site: Path, name: str) -> None:
    done = mkhspc("serve", site, "--port", "0", "--allow-host", name, timeout_s=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"mkhspc: --allow-host: '{name}' is not the name of a host\n"
        "  give a name alone, such as jupyter.lab.org\n"
    )


def test_a_host_is_known_whatever_its_port() -> None:
    names = {
        "A.org:1": "a.org",
        "[::1]:80": "[::1]",
        "a.org.": "a.org",
        "a:b:c": None,
        "a.org:x": None,
        " a ": "a",
    }
    assert {given: host_name(given) for given in names} == names


def test_no_link_leads_out_of_the_site(site: Path, port: int, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("secret")
    links = {"out.html": tmp_path / "index.html", "out": tmp_path, "dots.html": Path("../run/manifest.json")}
    inner = {"in.html": Path("index.html"), "loop.html": Path("loop.html"), "dead.html": Path("nowhere")}
    (site / "extra").mkdir()
    (site / "extra" / "index.html").symlink_to(tmp_path / "index.html")
    for name, target in (links | inner).items():
        (site / name).symlink_to(target)
    os.mkfifo(site / "pipe.html")
    try:
        for path in (
            "/out.html",
            "/out/index.html",
            "/out/",
            "/out",
            "/dots.html",
            "/extra/",
            "/pipe.html",
            "/loop.html",
            "/dead.html",
        ):
            status, answer = asked_for(port, "localhost", path)
            assert (status, "secret" in answer) == (404, False), path
        assert asked_for(port, "localhost", "/in.html")[0] == 200
    finally:
        for name in [*links, *inner, "pipe.html", "extra/index.html"]:
            (site / name).unlink()
        (site / "extra").rmdir()


@pytest.mark.parametrize("path", ["http://evil.org/site.json", "//etc/passwd", "/mk/../../run/manifest.json"])
def test_a_path_that_leads_elsewhere_is_not_found(port: int, path: str) -> None:
    assert asked_for(port, "localhost", path)[0] == 404


def test_a_browser_that_hangs_up_or_talks_nonsense_leaves_no_traceback(site: Path) -> None:
    command = [sys.executable, "-P", "-m", "mkhspc", "serve", str(site), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        for request in (
            "GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
        ):
            ask(port, request)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked_for(port, "localhost")[0] == 200
        process.send_signal(2)
        assert process.communicate(timeout=20)[1] == "Ctrl-C stops.\n"


@pytest.mark.parametrize("name", ["%00", "index.html%00.png", "%ed%a0%80", "mk/" + "a" * 5000])
def test_a_name_that_no_file_can_have_is_not_found(address: str, name: str) -> None:
    assert get(f"{address}{name}") == (404, "")
    assert get(address)[0] == 200


def test_only_this_machine_is_listened_to(site: Path) -> None:
    with open_server(site, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_a_clear_error(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken"):
            open_server(site, port)


def test_a_directory_that_is_no_site_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a site"):
        open_server(tmp_path, 0)


def test_the_command_prints_the_address_and_ends_with_ctrl_c(site: Path) -> None:
    command = [sys.executable, "-P", "-m", "mkhspc", "serve", str(site), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert get(process.stdout.readline().strip() + "site.json")[0] == 200
            process.send_signal(2)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
