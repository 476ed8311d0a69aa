from __future__ import annotations

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
from mkhspc.gallery.serve import address_of, open_server
from mkhspc.gallery.site import build_site
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


def test_the_root_is_the_index_and_other_directories_are_not_listed(address: str) -> None:
    assert get(address)[0] == 200
    assert get(address + "assets/")[0] == 404
    assert get(address + "nothing.html")[0] == 404


def test_nothing_outside_the_site_is_served(address: str) -> None:
    assert get(address + "../run/manifest.json")[0] == 404
    assert get(address + "%2e%2e/run/manifest.json")[0] == 404


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
