from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest

from mkhspc.errors import CheckFailedError, IncompleteError, InputError, UsageError
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.publishing.git import redacted, target_branch
from mkhspc.gallery.publishing.publish import (
    PublishOptions,
    PublishReport,
    check_site,
    publish,
    wait_until_live,
)
from mkhspc.gallery.serve import address_of, open_server
from mkhspc.gallery.site import build_site
from runs import FakeRun, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("publish") / "run", slide_ids=("FGC1",), cells_per_type=12)


@pytest.fixture
def site(run: FakeRun, tmp_path: Path) -> Path:
    build_site(run.layout, SiteOptions(out=tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git as on a machine where nobody has said who they are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in [name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)


def git(directory: Path, *arguments: str) -> str:
    command = [
        "git",
        "-C",
        str(directory),
        "-c",
        "user.name=Ada",
        "-c",
        "user.email=ada@example.org",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--bare", "target.git")
    return tmp_path / "target.git"


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    """A repository with a commit, a staged change, an unstaged one and an untracked file."""
    tree = tmp_path / "code"
    tree.mkdir()
    git(tree, "init", "--quiet", "--initial-branch=main")
    (tree / "a.txt").write_text("1")
    git(tree, "add", "a.txt")
    git(tree, "commit", "--quiet", "--message=first")
    (tree / "a.txt").write_text("2")
    git(tree, "add", "a.txt")
    (tree / "a.txt").write_text("3")
    (tree / "new.txt").write_text("new")
    return tree


def push(site: Path, repo: Path, **settings: Any) -> PublishReport:
    return publish(site, PublishOptions(repo=str(repo), **settings))


def files_of(site: Path) -> set[str]:
    return {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}


def test_the_branch_holds_the_site_and_a_nojekyll(site: Path, bare: Path) -> None:
    report = push(site, bare)
    listed = set(git(bare, "ls-tree", "-r", "--name-only", "gh-pages").splitlines())
    assert listed == files_of(site) | {".nojekyll"}
    assert git(bare, "rev-parse", "gh-pages") == report.after
    assert (report.before, report.pushed, report.changes.added) == (None, True, len(listed))
    assert git(bare, "show", "gh-pages:site.json") == (site / "site.json").read_text().strip()


def test_the_history_of_the_branch_is_kept(run: FakeRun, site: Path, bare: Path) -> None:
    first = push(site, bare, message="one")
    build_site(run.layout, SiteOptions(out=site, title="Another title"))
    second = push(site, bare, message="two")
    assert git(bare, "log", "--format=%s", "gh-pages").splitlines() == ["two", "one"]
    assert second.before == first.after
    assert second.changes.changed >= 3
    assert (second.changes.added, second.changes.removed) == (0, 0)


def test_a_site_that_is_there_already_is_not_published_again(site: Path, bare: Path) -> None:
    first = push(site, bare)
    again = push(site, bare)
    assert (again.pushed, again.before, again.after) == (False, first.after, first.after)
    assert git(bare, "rev-list", "--count", "gh-pages") == "1"


def test_a_dry_run_pushes_nothing_and_says_what_would_change(site: Path, bare: Path) -> None:
    report = push(site, bare, dry_run=True)
    assert (report.pushed, report.changes.added) == (False, len(files_of(site)) + 1)
    assert git(bare, "branch", "--list") == ""


def test_an_orphan_drops_the_history_and_nothing_else_does(run: FakeRun, site: Path, bare: Path) -> None:
    push(site, bare)
    build_site(run.layout, SiteOptions(out=site, title="Another title"))
    push(site, bare, orphan=True)
    assert git(bare, "rev-list", "--count", "gh-pages") == "1"


@pytest.mark.parametrize("orphan", [False, True])
@pytest.mark.parametrize("is_new", [False, True])
def test_what_somebody_else_publishes_meanwhile_is_never_overwritten(
    run: FakeRun, site: Path, bare: Path, tmp_path: Path, orphan: bool, is_new: bool
) -> None:
    if not is_new:
        push(site, bare)
    theirs = tmp_path / "theirs"
    build_site(run.layout, SiteOptions(out=theirs, title="Theirs"))
    build_site(run.layout, SiteOptions(out=site, title="Ours"))
    with target_branch(str(bare), "gh-pages") as branch:
        before = branch.fetch()
        branch.commit(site, before, "ours", orphan=orphan)
        meanwhile = push(theirs, bare).after
        with pytest.raises(InputError, match="somebody else has published meanwhile"):
            branch.push(before, orphan=orphan)
    assert git(bare, "rev-parse", "gh-pages") == meanwhile


def test_a_work_tree_stays_as_it_is(site: Path, work_tree: Path) -> None:
    before = git(work_tree, "status", "--porcelain=v2", "--branch")
    config = (work_tree / ".git" / "config").read_text()
    push(site, work_tree)
    assert git(work_tree, "status", "--porcelain=v2", "--branch") == before
    assert (work_tree / ".git" / "config").read_text() == config
    assert (work_tree / "a.txt").read_text() == "3"
    assert git(work_tree, "cat-file", "-t", "gh-pages:site.json") == "blob"


def test_a_branch_that_is_checked_out_is_refused(site: Path, work_tree: Path) -> None:
    with pytest.raises(InputError, match="checked out"):
        push(site, work_tree, branch="main")
    assert git(work_tree, "log", "--format=%s", "main") == "first"


def test_what_else_the_branch_held_is_reported_and_stays_in_its_history(site: Path, work_tree: Path) -> None:
    git(work_tree, "branch", "docs")
    report = push(site, work_tree, branch="docs")
    assert report.replaces_foreign
    assert report.changes.removed == 1
    assert git(work_tree, "show", "docs~1:a.txt") == "1"


def test_a_custom_domain_is_kept(run: FakeRun, site: Path, bare: Path) -> None:
    (site / "CNAME").write_text("marrow.example.org\n")
    push(site, bare)
    (site / "CNAME").unlink()
    build_site(run.layout, SiteOptions(out=site, title="Another title"))
    push(site, bare)
    assert git(bare, "show", "gh-pages:CNAME") == "marrow.example.org"


def test_a_server_that_sends_no_files_with_a_fetch_is_enough(run: FakeRun, site: Path, bare: Path) -> None:
    git(bare, "config", "uploadpack.allowFilter", "true")
    url = f"file://{bare}"
    publish(site, PublishOptions(repo=url))
    build_site(run.layout, SiteOptions(out=site, title="Another title"))
    publish(site, PublishOptions(repo=url))
    assert git(bare, "rev-list", "--count", "gh-pages") == "2"
    git(bare, "fsck", "--full", "--strict")


def test_who_commits_comes_from_the_repository_or_is_a_stand_in(
    site: Path, bare: Path, work_tree: Path
) -> None:
    push(site, bare)
    assert git(bare, "log", "-1", "--format=%cn <%ce>", "gh-pages") == "mkhspc <mkhspc@localhost>"
    git(work_tree, "config", "user.name", "Ada")
    git(work_tree, "config", "user.email", "ada@example.org")
    push(site, work_tree)
    assert git(work_tree, "log", "-1", "--format=%cn <%ce>", "gh-pages") == "Ada <ada@example.org>"


def test_no_global_setting_is_written(site: Path, bare: Path, tmp_path: Path) -> None:
    push(site, bare)
    assert not (tmp_path / "gitconfig").exists()


def test_a_git_hook_that_sets_git_dir_does_not_lead_astray(
    site: Path, bare: Path, work_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(work_tree / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(work_tree / ".git" / "index"))
    push(site, bare)
    monkeypatch.undo()
    assert git(work_tree, "branch", "--list", "gh-pages") == ""


def test_what_is_no_repository_is_refused(site: Path, work_tree: Path, tmp_path: Path) -> None:
    inside = work_tree / "sub"
    inside.mkdir()
    for repo in (inside, tmp_path / "missing", site / "site.json"):
        with pytest.raises(InputError, match=r"is not a git repository|is neither a directory"):
            push(site, repo)


def test_a_remote_that_cannot_be_reached_is_a_clear_error(site: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="git ls-remote failed"):
        publish(site, PublishOptions(repo=f"file://{tmp_path}/nowhere.git"))


@pytest.mark.parametrize("branch", ["a b", "-x", "", "x..y"])
def test_a_branch_name_that_is_none_is_refused(site: Path, bare: Path, branch: str) -> None:
    with pytest.raises(UsageError, match="is not a name that git allows"):
        push(site, bare, branch=branch)


def test_a_directory_that_is_no_site_is_not_published(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(InputError, match="is not a site"):
        push(tmp_path, bare)


@pytest.mark.parametrize(
    "name",
    ["report.html", "results.csv", "notes/a.txt", "mk/anna.json", "mk/sub/page-001.html", "assets/x.csv"],
)
def test_what_is_not_part_of_the_site_is_never_published(site: Path, bare: Path, name: str) -> None:
    (site / name).parent.mkdir(exist_ok=True)
    (site / name).write_text("private")
    with pytest.raises(InputError, match=f"not part of the site: {re.escape(name)}"):
        push(site, bare)
    assert git(bare, "branch", "--list") == ""


def test_a_file_over_the_limit_is_refused(site: Path) -> None:
    with (site / "assets" / "huge.avif").open("wb") as file:
        file.truncate(100 * 1024 * 1024 + 1)
    with pytest.raises(CheckFailedError, match="100 MiB"):
        check_site(site)


def test_a_site_over_the_limit_is_refused(site: Path) -> None:
    for number in range(10):
        with (site / "assets" / f"{number}.avif").open("wb") as file:
            file.truncate(100 * 1024 * 1024)
    with pytest.raises(CheckFailedError, match="GitHub Pages hold 1000 MB"):
        check_site(site)


def test_passwords_in_urls_are_not_shown() -> None:
    assert redacted("https://ada:secret@host/x.git") == "https://host/x.git"
    assert redacted("git@host:x.git") == "git@host:x.git"


@pytest.fixture
def live(site: Path, tmp_path: Path) -> Iterator[str]:
    shutil.copytree(site, tmp_path / "live")
    with open_server(tmp_path / "live", 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield address_of(server)
        server.shutdown()


def test_waiting_ends_when_the_site_is_live(site: Path, live: str) -> None:
    wait_until_live(live, site, patience_s=20)


def test_waiting_for_another_site_ends_in_an_error(run: FakeRun, site: Path, live: str) -> None:
    build_site(run.layout, SiteOptions(out=site, title="Another title"))
    with pytest.raises(IncompleteError, match="does not show the new site"):
        wait_until_live(live, site, patience_s=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"220 this is no web server\r\n",
    ],
    ids=["length abc", "cut short", "status abc", "nested", "sent on to nowhere", "no HTTP"],
)
def test_waiting_for_something_else_ends_in_an_error(site: Path, answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(IncompleteError, match="does not show the new site"):
        wait_until_live(url, site, patience_s=0.2)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of a server that answers every request with these bytes."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_waiting_needs_a_web_address(site: Path) -> None:
    with pytest.raises(UsageError, match="is not a web address"):
        wait_until_live("/etc/passwd", site)
