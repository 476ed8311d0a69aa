from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gitrepos import git
from mkhspc.errors import InputError
from mkhspc.gallery.publishing.publish import PublishOptions, check_site, publish
from mkhspc.gallery.site_files import digests


def first_of(site: Path, pattern: str) -> Path:
    return next(iter(sorted(site.glob(pattern))))


def refused(site: Path) -> str:
    with pytest.raises(InputError) as error:
        check_site(site)
    return str(error.value)


def test_site_json_lists_the_digest_of_every_other_file(site: Path) -> None:
    listed = json.loads((site / "site.json").read_text())["files"]
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert set(listed) == files - {"site.json"}
    assert listed == digests(site)
    assert {len(digest) for digest in listed.values()} == {64}


@pytest.mark.parametrize("pattern", ["assets/mk-*.avif", "hspc/page-001.html", "assets/*/*.css"])
def test_a_missing_file_is_named(site: Path, pattern: str) -> None:
    gone = first_of(site, pattern)
    gone.unlink()
    assert refused(site) == (
        f"{site}: missing: {gone.relative_to(site)}\n"
        "  make the gallery again with `mkhspc gallery`; labels are kept by cell id"
    )


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("change", [flip, lambda content: content[:-10], lambda _: b"", lambda c: c + b"\n"])
@pytest.mark.parametrize("pattern", ["assets/mk-*.avif", "index.html"])
def test_a_changed_file_is_named(site: Path, pattern: str, change: Callable[[bytes], bytes]) -> None:
    file = first_of(site, pattern)
    file.write_bytes(change(file.read_bytes()))
    assert refused(site).splitlines()[0] == f"{site}: changed since it was made: {file.relative_to(site)}"


def test_two_pictures_in_each_others_place_are_named(site: Path) -> None:
    one, other = sorted(site.glob("assets/mk-*.avif"))[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert f"changed since it was made: assets/{one.name}, assets/{other.name}" in refused(site)


@pytest.mark.parametrize(
    "name",
    [
        "report.html",
        "results.csv",
        "notes/a.txt",
        "mk/anna.json",
        "mk/page-002.html",
        "assets/x.avif",
        "assets/.hidden",
        ".git/config",
    ],
)
def test_what_is_not_part_of_the_site_is_never_published(site: Path, bare: Path, name: str) -> None:
    (site / name).parent.mkdir(exist_ok=True)
    (site / name).write_text("private")
    with pytest.raises(InputError, match=f"not part of the site: {re.escape(name)}\n  move them away"):
        publish(site, PublishOptions(repo=str(bare)))
    assert git(bare, "branch", "--list") == ""


def test_all_that_is_wrong_is_said_at_once(site: Path) -> None:
    for number in range(7):
        (site / f"{number}.txt").write_text("x")
    (site / "mk" / "page-001.html").unlink()
    (site / "index.html").write_text("x")
    assert refused(site).splitlines()[0] == (
        f"{site}: not part of the site: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt ...; missing: mk/page-001.html;"
        " changed since it was made: index.html"
    )


@pytest.mark.parametrize(
    "name", ["mk/page-001.html", "site.json", "index.html", "CNAME", ".nojekyll", "assets/x.avif"]
)
def test_a_link_in_the_place_of_a_file_is_refused(site: Path, bare: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "passwd"
    place = site / name
    if place.exists():
        place.rename(secret)
    else:
        secret.write_text("lab.org")
    place.symlink_to(secret)
    with pytest.raises(InputError) as error:
        publish(site, PublishOptions(repo=str(bare)))
    assert str(error.value) == (
        f"{site}: holds links, which are never followed or published: {name}\n"
        "  remove them; put a copy of a file in the place of its link"
    )
    assert git(bare, "for-each-ref") == ""


@pytest.mark.parametrize("name", ["mk", "assets", "assets/more", "secrets"])
def test_a_link_in_the_place_of_a_folder_is_refused(site: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (site / name).exists():
        (site / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (site / name).symlink_to(elsewhere, target_is_directory=True)
    assert f"never followed or published: {name}\n" in refused(site)


@pytest.mark.parametrize("target", ["nowhere", "index.html", "."])
def test_a_link_is_refused_wherever_it_leads(site: Path, target: str) -> None:
    (site / "assets" / "x.avif").symlink_to(target)
    assert "never followed or published: assets/x.avif\n" in refused(site)


def test_a_pipe_and_a_socket_are_refused_and_not_read(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(site / "assets" / "x.avif")
    monkeypatch.chdir(site)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.sock")
        assert "neither a file nor a folder: a.sock, assets/x.avif\n" in refused(site)


@pytest.mark.parametrize("files", [None, [], {"index.html": 1}])
def test_a_site_without_digests_is_to_be_made_again(site: Path, files: object) -> None:
    facts = json.loads((site / "site.json").read_text())
    del facts["files"]
    (site / "site.json").write_text(json.dumps(facts if files is None else {**facts, "files": files}))
    assert refused(site) == (
        f"{site}: was made without digests of its files, so nothing says whether they are whole\n"
        "  make the gallery again with `mkhspc gallery`; labels are kept by cell id"
    )


def test_a_name_in_site_json_never_leads_out_of_the_site(site: Path) -> None:
    facts = json.loads((site / "site.json").read_text())
    facts["files"]["../run/manifest.json"] = "0" * 64
    (site / "site.json").write_text(json.dumps(facts))
    assert refused(site).splitlines()[0] == f"{site}: missing: ../run/manifest.json"


def test_a_site_named_through_a_link_is_a_site(site: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(site)
    assert check_site(tmp_path / "latest") == check_site(site)
