from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gitrepos import commit_files, git
from mkhspc.errors import CheckFailedError, InputError, UsageError
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.publishing.branch import target_branch
from mkhspc.gallery.publishing.publish import PublishOptions, PublishReport, check_site, publish
from mkhspc.gallery.site import build_site
from mkhspc.gallery.site_files import digests
from runs import FakeRun


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


def test_the_history_of_the_branch_is_kept(small_run: FakeRun, site: Path, bare: Path) -> None:
    first = push(site, bare, message="one")
    build_site(small_run.layout, SiteOptions(out=site, title="Another title"))
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


def test_an_orphan_drops_the_history_and_nothing_else_does(
    small_run: FakeRun, site: Path, bare: Path
) -> None:
    push(site, bare)
    build_site(small_run.layout, SiteOptions(out=site, title="Another title"))
    push(site, bare, orphan=True)
    assert git(bare, "rev-list", "--count", "gh-pages") == "1"


@pytest.mark.parametrize("orphan", [False, True])
@pytest.mark.parametrize("is_new", [False, True])
def test_what_somebody_else_publishes_meanwhile_is_never_overwritten(
    small_run: FakeRun, site: Path, bare: Path, tmp_path: Path, orphan: bool, is_new: bool
) -> None:
    if not is_new:
        push(site, bare)
    theirs = tmp_path / "theirs"
    build_site(small_run.layout, SiteOptions(out=theirs, title="Theirs"))
    build_site(small_run.layout, SiteOptions(out=site, title="Ours"))
    with target_branch(str(bare), "gh-pages") as branch:
        before = branch.fetch()
        branch.commit(site, "ours", orphan=orphan)
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
    with pytest.raises(InputError, match="branch is currently checked out"):
        push(site, work_tree, branch="main", replace=True)
    assert git(work_tree, "log", "--format=%s", "main") == "first"


def test_what_else_the_branch_held_is_reported_and_stays_in_its_history(site: Path, work_tree: Path) -> None:
    git(work_tree, "branch", "docs")
    report = push(site, work_tree, branch="docs", replace=True)
    assert report.replaced == ("a.txt",)
    assert report.changes.removed == 1
    assert git(work_tree, "show", "docs~1:a.txt") == "1"


def test_a_custom_domain_is_kept(small_run: FakeRun, site: Path, bare: Path) -> None:
    (site / "CNAME").write_text("marrow.example.org\n")
    push(site, bare)
    (site / "CNAME").unlink()
    build_site(small_run.layout, SiteOptions(out=site, title="Another title"))
    push(site, bare)
    assert git(bare, "show", "gh-pages:CNAME") == "marrow.example.org"


def test_a_server_that_sends_no_files_with_a_fetch_is_enough(
    small_run: FakeRun, site: Path, bare: Path
) -> None:
    git(bare, "config", "uploadpack.allowFilter", "true")
    url = f"file://{bare}"
    publish(site, PublishOptions(repo=url))
    build_site(small_run.layout, SiteOptions(out=site, title="Another title"))
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


def add_files(site: Path, sizes: dict[str, int]) -> None:
    """Makes files of zeros part of a site."""
    for name, size_bytes in sizes.items():
        with (site / name).open("wb") as file:
            file.truncate(size_bytes)
    facts = json.loads((site / "site.json").read_text())
    (site / "site.json").write_text(json.dumps({**facts, "files": digests(site)}))


def test_a_file_over_the_limit_is_refused(site: Path) -> None:
    add_files(site, {"assets/huge.avif": 100 * 1024 * 1024 + 1})
    with pytest.raises(CheckFailedError, match=r"huge\.avif: is 105 MB; GitHub takes files of 100 MiB"):
        check_site(site)


def test_a_site_over_the_limit_is_refused(site: Path) -> None:
    add_files(site, {f"assets/{number}.avif": 100 * 1024 * 1024 for number in range(10)})
    with pytest.raises(CheckFailedError, match="GitHub Pages hold 1000 MB"):
        check_site(site)


def test_a_branch_with_files_of_somebody_else_is_refused(site: Path, bare: Path, tmp_path: Path) -> None:
    source = {"main.py": "print()", "docs/notes.md": "x"}
    commit_files(bare, "main", source, tmp_path)
    theirs = git(bare, "rev-parse", "main")
    for settings in ({}, {"dry_run": True}, {"orphan": True}):
        with pytest.raises(InputError) as refused:
            push(site, bare, branch="main", **settings)
        assert str(refused.value) == (
            "main: the branch holds 2 files that mkhspc did not put there: docs/notes.md, main.py\n"
            "  choose another --branch, or let the site take their place with --replace"
        )
    assert git(bare, "rev-parse", "main") == theirs
    report = push(site, bare, branch="main", replace=True)
    assert report.replaced == ("docs/notes.md", "main.py")
    assert git(bare, "show", "main~1:main.py") == "print()"


def test_a_file_that_somebody_laid_beside_our_site_is_named(
    small_run: FakeRun, site: Path, bare: Path, tmp_path: Path
) -> None:
    push(site, bare)
    commit_files(bare, "gh-pages", {"README.md": "ours too"}, tmp_path)
    build_site(small_run.layout, SiteOptions(out=site, title="Another title"))
    with pytest.raises(InputError, match=r"holds 1 file that mkhspc did not put there: README\.md"):
        push(site, bare)
    assert git(bare, "show", "gh-pages:README.md") == "ours too"


@pytest.mark.parametrize("site_json", ["", "{}", "[" * 100_000, '{"format": "mkhspc-site", "version": 7}'])
def test_a_site_json_of_another_kind_does_not_make_a_branch_ours(
    site: Path, bare: Path, tmp_path: Path, site_json: str
) -> None:
    commit_files(bare, "gh-pages", {"index.html": "theirs", "site.json": site_json}, tmp_path)
    with pytest.raises(InputError, match=r"holds 2 files .*: index\.html, site\.json"):
        push(site, bare)


def test_a_site_published_before_digests_is_known_as_ours(site: Path, bare: Path, tmp_path: Path) -> None:
    old = json.dumps({"format": "mkhspc-site", "version": 1})
    files = {
        "site.json": old,
        "index.html": "old",
        "mk/page-001.html": "old",
        "CNAME": "a.lab.org",
        ".nojekyll": "",
    }
    commit_files(bare, "gh-pages", files, tmp_path)
    assert push(site, bare).replaced == ()
    commit_files(bare, "old", {**files, "src/main.py": "x"}, tmp_path)
    with pytest.raises(InputError, match=r"1 file that mkhspc did not put there: src/main\.py"):
        push(site, bare, branch="old")


@pytest.mark.parametrize(
    "files", [{"CNAME": "marrow.lab.org\n"}, {".nojekyll": "", "CNAME": "marrow.lab.org\n"}]
)
def test_a_domain_set_on_github_first_is_kept(
    site: Path, bare: Path, tmp_path: Path, files: dict[str, str]
) -> None:
    commit_files(bare, "gh-pages", files, tmp_path)
    assert push(site, bare).replaced == ()
    assert git(bare, "show", "gh-pages:CNAME") == "marrow.lab.org"


def test_another_domain_is_taken_only_when_asked_for(site: Path, bare: Path) -> None:
    (site / "CNAME").write_text("old.lab.org\n")
    push(site, bare)
    (site / "CNAME").write_text("new.lab.org\n")
    with pytest.raises(InputError, match=r"the branch's CNAME is old\.lab\.org, the site's is new\.lab\.org"):
        push(site, bare)
    push(site, bare, replace=True)
    assert git(bare, "show", "gh-pages:CNAME") == "new.lab.org"


@pytest.mark.parametrize(
    "content", ["", "root:x:0:0:root:/root:/bin/bash\n", "a.org\nb.org", "https://a.org/"]
)
def test_a_cname_holds_a_domain_alone(site: Path, bare: Path, content: str) -> None:
    (site / "CNAME").write_text(content)
    with pytest.raises(InputError, match="CNAME: does not hold a domain alone"):
        push(site, bare)


@pytest.mark.parametrize("given", ["refs/heads/gh-pages", "gh-pages"])
def test_a_branch_may_be_named_in_full(site: Path, bare: Path, given: str) -> None:
    report = push(site, bare, branch=given)
    assert report.branch == "gh-pages"
    assert git(bare, "for-each-ref", "--format=%(refname)") == "refs/heads/gh-pages"


@pytest.mark.parametrize(
    "given", ["refs/tags/v1", "refs/heads/", "refs/heads/refs/heads/x y", "HEAD", "@{-1}"]
)
def test_what_is_no_branch_is_refused_before_anything_is_sent(site: Path, bare: Path, given: str) -> None:
    with pytest.raises(UsageError, match=r"is not a (branch|name that git allows)"):
        push(site, bare, branch=given)
    assert git(bare, "for-each-ref") == ""
