"""The files of a site against the digests in its `site.json`: what is missing, changed, or not part of it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError, some_of

SITE_JSON = "site.json"
PAGES_FILES = frozenset({"CNAME", ".nojekyll"})
"""Files of GitHub Pages that may lie beside a site: its domain, and the mark of a ready-made site."""

_AGAIN = "make the gallery again with `mkhspc gallery`; labels are kept by cell id"


def digests(root: Path) -> dict[str, str]:
    """The SHA-256 of every file below a directory but `site.json`, by its path there, in order."""
    names = sorted(name for name, _ in _entries(root) if name != SITE_JSON)
    return {name: _sha256(root / name) for name in names}


def check_files(site: Path, facts: Mapping[str, Any]) -> dict[str, int]:
    """Checks that a site is as it was made, and returns the size in bytes of every file by its name.

    Args:
        facts: contents of its `site.json`. `CNAME` and `.nojekyll` may lie beside what it lists.

    Raises:
        InputError: a link, or another thing that is not a plain file, lies in it, a file is missing, changed
            or not part of it, or `site.json` lists no digests.
    """
    sizes = plain_files(site)
    listed = listed_digests(facts)
    if listed is None:
        raise InputError(
            "was made without digests of its files, so nothing says whether they are whole",
            where=site,
            fix=_AGAIN,
        )
    faults = {
        "not part of the site": sorted(set(sizes) - set(listed) - PAGES_FILES - {SITE_JSON}),
        "missing": sorted(set(listed) - set(sizes)),
        "changed since it was made": [
            name for name in listed if name in sizes and _sha256(site / name) != listed[name]
        ],
    }
    _refuse(site, {fault: names for fault, names in faults.items() if names})
    return sizes


def listed_digests(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """The digests that a `site.json` lists, by file; None if it is older than they are, or damaged."""
    listed = facts.get("files")
    if not isinstance(listed, dict) or not all(isinstance(digest, str) for digest in listed.values()):
        return None
    return listed


def plain_files(root: Path) -> dict[str, int]:
    """The size in bytes of every file below a directory, by its path there.

    Raises:
        InputError: something below it is a link, or neither a file nor a folder. A link could lead to
            any file of this machine.
    """
    entries = dict(_entries(root))
    links = sorted(name for name, facts in entries.items() if stat.S_ISLNK(facts.st_mode))
    if links:
        raise InputError(
            f"holds links, which are never followed or published: {some_of(links)}",
            where=root,
            fix="remove them; put a copy of a file in the place of its link",
        )
    others = sorted(name for name, facts in entries.items() if not stat.S_ISREG(facts.st_mode))
    if others:
        raise InputError(
            f"holds something that is neither a file nor a folder: {some_of(others)}",
            where=root,
            fix="remove it",
        )
    return {name: facts.st_size for name, facts in entries.items()}


def _entries(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that lies below a directory but its folders, by path there; links are not followed."""
    for folder, _, _ in os.walk(root, onerror=_raise):
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.is_dir(follow_symlinks=False):
                    name = Path(entry.path).relative_to(root).as_posix()
                    yield name, entry.stat(follow_symlinks=False)


def _raise(error: OSError) -> None:
    raise error


def _refuse(site: Path, faults: Mapping[str, list[str]]) -> None:
    if not faults:
        return
    only_more = set(faults) == {"not part of the site"}
    raise InputError(
        "; ".join(f"{fault}: {some_of(names)}" for fault, names in faults.items()),
        where=site,
        fix="move them away: everything in the directory would become public" if only_more else _AGAIN,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
