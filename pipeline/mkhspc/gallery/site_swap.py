"""Swaps a finished site into its directory in one step, and never overwrites anything but a site of ours."""

from __future__ import annotations

import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from mkhspc.errors import InputError
from mkhspc.store.untrusted_json import SMALL, read_json

FORMAT = "mkhspc-site"
VERSION = 1
SITE_ENTRIES = {"index.html", "site.json", "assets", "mk", "hspc"}
BUILDING = ".building"


def read_site(site: Path) -> dict[str, Any]:
    """Contents of a site's `site.json`.

    Raises:
        InputError: the directory holds no site of ours.
    """
    fix = "make a site with `mkhspc gallery`"
    if not (site / "site.json").exists():
        raise InputError("is not a site: it has no site.json", where=site, fix=fix)
    data = read_json(site / "site.json", SMALL, fix)
    if not is_site(data):
        raise InputError(f"has a site.json that is not of a site of version {VERSION}", where=site, fix=fix)
    return data


def is_site(facts: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a `site.json` holds what a site of ours does."""
    return isinstance(facts, dict) and facts.get("format") == FORMAT and facts.get("version") == VERSION


def refuse_foreign(out: Path) -> None:
    """Raises `InputError` if making a site at `out` would delete anything but a site of ours."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError("is a file, not a directory", where=out, fix="choose another --out")
    entries = {path.name for path in out.iterdir()}
    if not entries:
        return
    if "site.json" not in entries:
        raise InputError(
            "is not empty and does not hold a site of mkhspc, so it is left as it is",
            where=out,
            fix="choose another --out, or empty the directory yourself",
        )
    read_site(out)
    foreign = sorted(entries - SITE_ENTRIES)
    if foreign:
        raise InputError(
            f"holds files that are not part of the site: {', '.join(foreign[:5])}",
            where=out,
            fix="move them away, or choose another --out: a new site replaces the whole directory",
        )


@contextmanager
def replacing_site(out: Path) -> Iterator[Path]:
    """Yields an empty directory beside `out`; it becomes `out` when the block ends well.

    If the block raises, the directory is removed and the old site is as it was.
    """
    out = out.resolve()
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    building = out.with_name(f".{out.name}.{socket.gethostname()}-{os.getpid()}{BUILDING}")
    building.mkdir()
    try:
        yield building
        refuse_foreign(out)
        _swap(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _swap(new: Path, out: Path) -> None:
    old = new.with_suffix(".old")
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    """Removes the directories of builds of this site that were killed on this machine."""
    mark = f".{out.name}.{socket.gethostname()}-"
    for path in out.parent.glob(f"{glob.escape(mark)}*{BUILDING}"):
        pid = path.name.removeprefix(mark).removesuffix(BUILDING)
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
