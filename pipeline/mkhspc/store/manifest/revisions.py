"""The manifest: what a run was asked to do, resolved once and read by every later stage.

It is changed without a lock. Revision N of it is the file `manifest.N.json`, made by an exclusive creation:
of several processes that change revision N - 1 the first wins, and the others read its work and try again.
`manifest.json`, the first revision at first, is a copy of the newest; a process killed before it made the
copy leaves an older one, so whoever reads goes on to the last revision there is. They are all kept: no
process, however slow, can bring an older one back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mkhspc.errors import InputError
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest.record import Manifest
from mkhspc.store.manifest.text import damaged, dumps, loads
from mkhspc.store.untrusted_json import SMALL, JsonError, content_of

TRIES = 200
"""Attempts to change a manifest. One fails when another process was first, or a cache of NFS is behind."""
MOST_WAIT_S = 0.2
"""Longest random pause between two attempts, in seconds."""


def create(layout: RunLayout, manifest: Manifest) -> Manifest:
    """Creates the manifest, or reads the one that another process created first."""
    return manifest if _put(layout.manifest, manifest, None) else read(layout)


def update(layout: RunLayout, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Changes the manifest of a run; of several processes that do so no change is lost.

    Args:
        change: gives the new manifest for the one on disk, and may be called often. A change that
            changes nothing writes nothing.

    Returns:
        The manifest that is on disk now.

    Raises:
        InputError: there is no manifest, it is damaged, or other processes change it all the time.
    """
    for _ in range(TRIES):
        manifest = read(layout)
        changed = replace(change(manifest), revision=manifest.revision + 1)
        if changed == manifest:
            changed = manifest
        elif not _put(layout.manifest_revision(changed.revision), changed, layout.root):
            time.sleep(random.uniform(0.0, MOST_WAIT_S))
            continue
        _show_newest(layout)
        return changed
    raise InputError(
        f"other processes changed it {TRIES} times in a row, faster than this one could",
        where=layout.manifest,
        fix="end them, then try again",
    )


def _put(path: Path, manifest: Manifest, within: Path | None) -> bool:
    """Whether this process was the first to create the file, and so it holds the manifest."""
    try:
        with atomic.creating(path, within=within) as temporary:
            temporary.write_text(dumps(manifest), encoding="utf-8")
    except FileExistsError:
        return False
    return True


def _show_newest(layout: RunLayout) -> None:
    """Makes `manifest.json` the newest revision; a slow process may have made it an older one meanwhile."""
    while (newest := read(layout)).revision > _load(layout.manifest).revision:
        atomic.write_text(layout.manifest, dumps(newest), within=layout.root)


def read(layout: RunLayout) -> Manifest:
    """Reads the newest manifest of a run.

    Raises:
        InputError: there is none, it is damaged, or it was edited by hand.
    """
    try:
        manifest = _load(layout.manifest)
    except FileNotFoundError as error:
        if not layout.root.exists():
            raise InputError("there is no such run", where=layout.root, fix="check the path") from error
        raise InputError(
            "is not a run: it has no manifest.json", where=layout.root, fix="make one with `mkhspc segment`"
        ) from error
    while (later := layout.manifest_revision(manifest.revision + 1)).exists():
        manifest = _load(later)
    return manifest


def _load(path: Path) -> Manifest:
    try:
        return loads(content_of(path, SMALL), path)
    except FileNotFoundError:
        raise
    except JsonError as error:
        raise damaged(f"it {error}", path) from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error})", where=path, fix="check the file's permissions, or restore it"
        ) from error
