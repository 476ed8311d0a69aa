"""Publishes a site: checks what GitHub Pages allow, commits, pushes, waits until it is live."""

from __future__ import annotations

import http.client
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import CheckFailedError, IncompleteError, InputError, UsageError
from mkhspc.gallery.publishing.git import Changes, target_branch
from mkhspc.gallery.site_swap import foreign_files, read_site
from mkhspc.progress import Progress, silent
from mkhspc.store.untrusted_json import SMALL, parse_json
from mkhspc.units import MB, MIB

MAX_SITE_BYTES = 1000 * MB
"""Largest site that GitHub Pages hold, by their documentation."""
MAX_FILE_BYTES = 100 * MIB
"""Largest file that GitHub takes, by its documentation."""
POLL_S = 5.0
"""Seconds between two looks at a site that is being published."""
WAIT_S = 900.0
"""Seconds until waiting for a site is given up; GitHub ends a deployment after 600."""
PAGES_FILES = {"CNAME", ".nojekyll"}
"""Files of GitHub Pages that may lie beside a site: its domain, and the mark of a ready-made site."""


@dataclass(frozen=True)
class PublishOptions:
    """Where and how a site is published.

    Attributes:
        repo: a URL, a bare repository or the top of a work tree.
        orphan: drop the branch's history; only then is a push ever forced.
        dry_run: do everything but the push.
    """

    repo: str
    branch: str = "gh-pages"
    message: str = "Publish the labelling gallery"
    orphan: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class PublishReport:
    """What publishing changed, or would change.

    Attributes:
        before: the branch's commit before, or None if there was no such branch.
        after: the commit with the site; the same as `before` if there was nothing to publish.
        replaces_foreign: the branch held something other than a site of mkhspc.
    """

    branch: str
    before: str | None
    after: str
    changes: Changes
    size_bytes: int
    pushed: bool
    replaces_foreign: bool = False


def publish(site: Path, options: PublishOptions) -> PublishReport:
    """Commits a site to a branch and pushes it, unless it is there already.

    Raises:
        InputError: no site, no such repository, or git refuses.
        CheckFailedError: the site or a file is larger than GitHub Pages allow.
        UsageError: git does not allow the branch's name.
    """
    size_bytes = check_site(site)
    with target_branch(options.repo, options.branch) as branch:
        before = branch.fetch()
        after = branch.commit(site, before, options.message, orphan=options.orphan)
        if before is not None and not options.orphan and branch.same_files(before, after):
            return PublishReport(options.branch, before, before, Changes(0, 0, 0), size_bytes, pushed=False)
        if not options.dry_run:
            branch.push(before, orphan=options.orphan)
        return PublishReport(
            branch=options.branch,
            before=before,
            after=after,
            changes=branch.changes(before, after),
            size_bytes=size_bytes,
            pushed=not options.dry_run,
            replaces_foreign=before is not None and not branch.has_file(before, "site.json"),
        )


def check_site(site: Path) -> int:
    """The size of a site in bytes, if it is one that GitHub Pages would take.

    A push of up to 2 GB is allowed, so a site that is small enough always makes one that is.

    Raises:
        InputError: the directory holds no site, or files that are not part of it.
        CheckFailedError: the site or a file is larger than GitHub Pages allow.
    """
    read_site(site)
    _refuse_foreign_files(site)
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    for path, size_bytes in sizes.items():
        if size_bytes > MAX_FILE_BYTES:
            raise CheckFailedError(
                f"is {size_bytes / MB:,.0f} MB; GitHub takes files of {MAX_FILE_BYTES // MIB} MiB at most",
                where=path,
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


def _refuse_foreign_files(site: Path) -> None:
    """Refuses files that no site has: all that lies in the directory would become public."""
    foreign = [name for name in foreign_files(site) if name not in PAGES_FILES]
    if foreign:
        raise InputError(
            f"holds files that are not part of the site: {', '.join(foreign[:5])}"
            + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""),
            where=site,
            fix="move them away: everything in the directory would become public",
        )


def wait_until_live(url: str, site: Path, progress: Progress = silent, patience_s: float = WAIT_S) -> None:
    """Waits until the web server at `url` shows this very site.

    Raises:
        UsageError: not the address of a web page.
        IncompleteError: it still does not after `patience_s`.
    """
    if not url.startswith(("https://", "http://")):
        raise UsageError(
            f"'{url}' is not a web address", where="--wait", fix="give one that begins with https://"
        )
    build = read_site(site)["build"]
    address = f"{url.rstrip('/')}/site.json?build={build}"  # a new question, so no cache answers it
    start_s = time.monotonic()
    while (passed_s := time.monotonic() - start_s) < patience_s:
        if _build_at(address) == build:
            return
        progress("wait for the site", round(passed_s), round(patience_s))
        time.sleep(min(POLL_S, patience_s))
    raise IncompleteError(
        f"does not show the new site after {patience_s:.0f} s",
        where=url,
        fix="look at the repository's Pages settings and its Actions page",
    )


def _build_at(address: str) -> str | None:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            data = parse_json(answer.read(SMALL.max_bytes + 1))
    except (OSError, ValueError, http.client.HTTPException):  # not there yet, or something else is
        return None
    return data.get("build") if isinstance(data, dict) else None
