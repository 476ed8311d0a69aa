"""Files that are there completely or not at all.

A file is written under a temporary name in its own directory, flushed to the disk, and given its
final name in one step: a name without the temporary suffix always means 'complete'. A temporary name
tells whose it is, `<name>.<random>.<process id>@<host>.partial`, so that what a killed process left
can be told from what a living one is writing.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".partial"
SHOWN_NAME_LENGTH = 40
"""Of the final name in a temporary one, which must not be longer than file systems allow."""

_OWNER = re.compile(rf"\.(?P<pid>\d+)@(?P<host>[^@/]+){re.escape(TEMPORARY_SUFFIX)}$")


@dataclass(frozen=True)
class Owner:
    """The process that writes a temporary file."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, on this host."""
        return self.host == socket.gethostname()

    @property
    def is_running(self) -> bool:
        """Whether a process of its number is running here; nothing can be said of another host."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's
            return True
        return not _is_zombie(self.pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and its parent has not asked how, where the kernel tells."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[:1] == ["Z"]


def owner_of(temporary: Path) -> Owner | None:
    """Who writes a temporary file, by its name; None when the name was not given here."""
    found = _OWNER.search(temporary.name)
    return Owner(found["host"], int(found["pid"])) if found else None


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
        try:
            os.link(temporary, path)
        except FileExistsError:
            if not path.samefile(temporary):  # over NFS a link that was made can be reported as refused
                raise
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
    mark = f"{secrets.token_hex(4)}.{os.getpid()}@{socket.gethostname()}"
    temporary = path.with_name(f"{path.name[:SHOWN_NAME_LENGTH]}.{mark}{TEMPORARY_SUFFIX}")
    made: list[Path] = []
    try:
        _reserve(temporary, made)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        for directory in reversed(made):
            with suppress(OSError):  # another process has put something there by now
                directory.rmdir()
        raise
    temporary.unlink(missing_ok=True)  # the second name that `creating` leaves
    for directory in made:
        _sync_directory(directory.parent)


def _reserve(temporary: Path, made: list[Path], tries: int = 20) -> None:
    """Makes an empty file, and the directories missing above it, which are added to `made`."""
    try:
        _make_directories(temporary.parent, made)
        temporary.touch(exist_ok=False)
    except FileNotFoundError:  # another process took the directory away, for it was empty
        if tries == 1:
            raise
        _reserve(temporary, made, tries - 1)


def _make_directories(directory: Path, made: list[Path]) -> None:
    if not directory.exists():
        _make_directories(directory.parent, made)
        directory.mkdir(exist_ok=True)
        made.append(directory)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    _sync_file(path)
