"""The slide files that paths, folders and wildcards name."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mkhspc.errors import InputError, UsageError, some_of
from mkhspc.store.layout import distinct_slide_ids

SIDECAR = "._"
"""Begins the names of macOS's files beside others on disks that are not its own (AppleDouble)."""
SIDECAR_WORDS = "what macOS keeps beside its files (AppleDouble)"


def slide_files(patterns: Sequence[str]) -> dict[str, Path]:
    """Files by slide id, for paths, folders and wildcards in the order in which they are named.

    Raises:
        UsageError: nothing is named.
        InputError: a path does not exist, a folder or a wildcard holds no slide, or two files would have
            one slide id.
    """
    paths = [path for pattern in patterns for path in files_named(pattern)]
    if not paths:
        raise UsageError("no slide is named", fix="give one with --czi-path, or [run] slides in a config")
    return distinct_slide_ids(paths)


def files_named(pattern: str) -> list[Path]:
    """The slides that a path, a folder or a wildcard names, sorted by name.

    What exists under exactly this name is meant, brackets and all. A folder stands for the slides in it, not
    for those in folders below. Hidden files are no match, as in a shell.

    Raises:
        InputError: there is none.
    """
    literal = Path(pattern)
    if literal.is_dir():
        return _slides_in(literal)
    if literal.exists() or not glob.has_magic(pattern):
        return [_existing(literal)]
    found = [path for match in _matches(literal) for path in _slides_of(match)]
    if not found:
        raise _no_match(literal)
    return list(dict.fromkeys(found))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError("this slide does not exist", where=path, fix="check the path to the CZI file")
    if path.name.startswith(SIDECAR):
        raise InputError(
            f"is no slide, but {SIDECAR_WORDS}",
            where=path,
            fix=f"name the slide itself, {path.name.removeprefix(SIDECAR)}",
        )
    return path


def _slides_in(folder: Path) -> list[Path]:
    found = _slides_of(folder)
    if not found:
        raise InputError(
            f"this folder holds no CZI file{_sidecars(folder.iterdir())}",
            where=folder,
            fix=f"name the folder that does, or those below with '{folder}/**/*.czi'",
        )
    return found


def _slides_of(match: Path) -> list[Path]:
    """The slides that a match stands for: itself, or those in the folder that it is."""
    paths = sorted(match.iterdir()) if match.is_dir() else [match]
    shown = [path for path in paths if path == match or not path.name.startswith(".")]
    return [path for path in shown if _is_slide_name(path) and not path.is_dir()]


def _is_slide_name(path: Path) -> bool:
    return path.suffix.lower() == ".czi" and not path.name.startswith(SIDECAR)


def _matches(wildcard: Path, *, with_hidden: bool = False) -> list[Path]:
    """What a wildcard matches; its brackets stand for themselves where that matches anything."""
    root, rest = _split(wildcard)
    for pattern in (rest.replace("[", "[[]"), rest):
        in_any_case = re.sub(r"\.czi$", ".[cC][zZ][iI]", pattern, flags=re.IGNORECASE)
        # Path.glob would match hidden files, and look into hidden folders.
        names = glob.glob(in_any_case, root_dir=root, recursive=True, include_hidden=with_hidden)  # noqa: PTH207
        if names:
            return [root / name for name in sorted(names)]
    return []


def _split(wildcard: Path) -> tuple[Path, str]:
    """The folders that exist as they are written, and the rest, which is to be matched."""
    root = Path(wildcard.anchor)
    parts = list(wildcard.parts[bool(wildcard.anchor) :])
    while parts and (root / parts[0]).exists():
        root /= parts.pop(0)
    return root, "/".join(parts)


def _no_match(wildcard: Path) -> InputError:
    return InputError(
        f"no CZI file matches this{_sidecars(_matches(wildcard, with_hidden=True))}",
        where=wildcard,
        fix="check the wildcard: * and ? stand for parts of a name, ** for any folders",
    )


def _sidecars(paths: Iterable[Path]) -> str:
    """Words on the files of macOS among these, once for all."""
    names = [path.name for path in sorted(paths) if path.name.startswith(SIDECAR)]
    return f", only {SIDECAR_WORDS}: {some_of(names)}" if names else ""
