"""Files that are there completely or not at all.

A file is written under a temporary name in its own directory, flushed to the disk, and given its
final name in one step: a name without the temporary suffix always means 'complete'.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; renames it over `path` when the block ends well.

    The directory is made when needed. If the block raises, the temporary file is removed and
    `path` is as it was.
    """
    with _temporary(path) as temporary:
        yield temporary
        _sync_file(temporary)
        temporary.replace(path)
        _sync_directory(path.parent)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Like `replacing`, but the first of several processes wins.

    Raises:
        FileExistsError: when another process created `path` first; that file is untouched.
    """
    with _temporary(path) as temporary:
        yield temporary
        _sync_file(temporary)
        os.link(temporary, path)
        _sync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by a file of these bytes in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by a file of this text, as UTF-8, in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; NaN and infinity, which JSON does not have, raise `ValueError`."""
    write_text(path, dump_json(value))


def dump_json(value: Any) -> str:
    """Indented JSON text; NaN and infinity raise `ValueError`."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    made = _make_directories(path.parent)
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        for directory in reversed(made):
            with suppress(OSError):  # another process has put something there by now
                directory.rmdir()
        raise
    temporary.unlink(missing_ok=True)  # the second name that `creating` leaves


def _make_directories(directory: Path) -> list[Path]:
    """Makes a directory and its parents; returns those that were missing, outermost first."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing[::-1]


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    _sync_file(path)
