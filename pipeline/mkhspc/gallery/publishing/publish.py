"""Publishes a site: checks its files and what GitHub Pages allow, commits, pushes."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import CheckFailedError, InputError, some_of
from mkhspc.gallery.publishing.branch import Changes, Onward, TargetBranch, target_branch
from mkhspc.gallery.publishing.remote import page_address
from mkhspc.gallery.site_files import PAGES_FILES, SITE_JSON, check_files, listed_digests, plain_files
from mkhspc.gallery.site_swap import SITE_ENTRIES, is_site, read_site
from mkhspc.store.untrusted_json import JsonError, parse_json
from mkhspc.units import MB, MIB

MAX_SITE_BYTES = 1000 * MB
"""Largest site that GitHub Pages hold, by their documentation."""
MAX_FILE_BYTES = 100 * MIB
"""Largest file that GitHub takes, by its documentation."""
DOMAIN = re.compile(r"(?=.{1,253}$)\w([\w-]*\w)?(\.\w([\w-]*\w)?)+")
"""What a `CNAME` may hold: the name of a host (RFC 1123: 253 characters)."""


@dataclass(frozen=True)
class PublishOptions:
    """Where and how a site is published.

    Attributes:
        repo: a URL, a bare repository or the top of a work tree.
        replace: take the place of whatever the branch holds, somebody else's files too.
        orphan: drop the branch's history; only then is a push ever forced.
        dry_run: do everything but the push.
    """

    repo: str
    branch: str = "gh-pages"
    message: str = "Publish the labelling gallery"
    replace: bool = False
    orphan: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PublishReport:
    """What publishing changed, or would change.

    Attributes:
        before: the branch's commit before, or None if there was no such branch.
        after: the commit with the site; the same as `before` if there was nothing to publish.
        replaced: files on the branch that no site of mkhspc put there, and that are gone from it.
        page: where GitHub will show the site; None for a repository elsewhere.
        push: the command by which a work tree's branch still has to be pushed, or None.
    """

    branch: str
    before: str | None
    after: str
    changes: Changes
    size_bytes: int
    pushed: bool
    replaced: tuple[str, ...] = ()
    page: str | None = None
    push: str | None = None


def publish(site: Path, options: PublishOptions) -> PublishReport:
    """Commits a site to a branch and pushes it, unless it is there already.

    Raises:
        InputError: no whole site, no such repository, git refuses, or the branch holds files of
            somebody else and `options.replace` is not set.
        CheckFailedError: the site or a file is larger than GitHub Pages allow.
        UsageError: git does not allow the branch's name, or `options.repo` names a program to start.
    """
    size_bytes = check_site(site)
    with target_branch(options.repo, options.branch) as branch:
        before = branch.fetch()
        replaced = _refuse_foreign(branch, before, options)
        own, kept = _domain_of(site), _domain_on(branch, before)
        domain = _choose_domain(own, kept, options)
        after = branch.commit(site, options.message, domain=domain, orphan=options.orphan)
        is_there = before is not None and not options.orphan and branch.same_files(before, after)
        if not (is_there or options.dry_run):
            branch.push(before, orphan=options.orphan)
        onward = branch.onward()
        return PublishReport(
            branch=branch.name,
            before=before,
            after=before if before and is_there else after,
            changes=branch.changes(before, after),
            size_bytes=size_bytes,
            pushed=not (is_there or options.dry_run),
            replaced=tuple(replaced),
            page=page_address(onward.url or "", domain if DOMAIN.fullmatch(domain) else ""),
            push=push_command(onward, branch.name),
        )


def check_site(site: Path) -> int:
    """The size of a site in bytes, if it is whole and one that GitHub Pages would take.

    A push of up to 2 GB is allowed, so a site that is small enough always makes one that is.

    Raises:
        InputError: the directory holds no site, a link, or files other than those that were made.
        CheckFailedError: the site or a file is larger than GitHub Pages allow.
    """
    if (site / SITE_JSON).is_symlink():
        plain_files(site)
    sizes = check_files(site, read_site(site))
    _domain_of(site)
    for name, size_bytes in sizes.items():
        if size_bytes > MAX_FILE_BYTES:
            raise CheckFailedError(
                f"is {size_bytes / MB:,.0f} MB; GitHub takes files of {MAX_FILE_BYTES // MIB} MiB at most",
                where=site / name,
                fix="fewer --cards-per-page make smaller files",
            )
    total_bytes = sum(sizes.values())
    if total_bytes > MAX_SITE_BYTES:
        raise CheckFailedError(
            f"takes {total_bytes / MB:,.0f} MB; GitHub Pages hold {MAX_SITE_BYTES // MB} MB at most",
            where=site,
            fix="make it smaller with `mkhspc gallery --max-cards`",
        )
    return total_bytes


def foreign_files(names: list[str], site_json: str) -> list[str]:
    """Those files of a branch that no site of mkhspc put there.

    Args:
        names: all files of the branch's last commit.
        site_json: the text of its `site.json`; by it a site that we published is known. Nothing if
            there is none.
    """
    try:
        facts = parse_json(site_json)
    except JsonError:
        facts = None
    ours = PAGES_FILES | ({SITE_JSON} if is_site(facts) else set())
    listed = listed_digests(facts) if is_site(facts) else {}
    if listed is None:  # published before a site listed its files
        return sorted(name for name in names if name.split("/")[0] not in SITE_ENTRIES | PAGES_FILES)
    return sorted(set(names) - ours - set(listed))


def push_command(onward: Onward, branch: str) -> str | None:
    """What to type so that a work tree's branch leaves this machine; None if it has left already."""
    if onward.work_tree is None:
        return None
    git = ["git", "-C", str(onward.work_tree)]
    push = shlex.join([*git, "push", onward.remote or "origin", branch])
    return push if onward.remote else f"{shlex.join([*git, 'remote', 'add', 'origin'])} URL && {push}"


def _refuse_foreign(branch: TargetBranch, before: str | None, options: PublishOptions) -> list[str]:
    """The files of somebody else that the site takes the place of, if that was asked for."""
    if before is None:
        return []
    foreign = foreign_files(branch.files(before), branch.read(before, SITE_JSON))
    if foreign and not options.replace:
        raise InputError(
            f"the branch holds {len(foreign)} {'file' if len(foreign) == 1 else 'files'} that mkhspc did not"
            f" put there: {some_of(foreign)}",
            where=branch.name,
            fix="choose another --branch, or let the site take their place with --replace",
        )
    return foreign


def _choose_domain(own: str, kept: str, options: PublishOptions) -> str:
    """The domain for `CNAME`: that of the site, else the branch's; another only if asked for."""
    if own and kept and own != kept and not options.replace:
        raise InputError(
            f"the branch's CNAME is {kept}, the site's is {own}",
            where=options.branch,
            fix=f"remove CNAME from the site to keep {kept}, or change the domain with --replace",
        )
    return own or kept


def _domain_of(site: Path) -> str:
    """The domain that the maintainer laid beside the site, or nothing.

    Raises:
        InputError: `CNAME` holds something other than the name of a host.
    """
    path = site / "CNAME"
    if not path.exists():
        return ""
    domain = path.read_bytes()[:1000].decode("utf-8", errors="replace").strip()
    if not DOMAIN.fullmatch(domain):
        raise InputError("does not hold a domain alone", where=path, fix="write one line such as www.lab.org")
    return domain


def _domain_on(branch: TargetBranch, before: str | None) -> str:
    return branch.read(before, "CNAME").strip() if before else ""
