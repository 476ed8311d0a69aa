"""Files that are there completely or not at all.

A file is written under a temporary name in its own directory, flushed to the disk, and given its
final name in one step: a name without the temporary suffix always means 'complete'. A temporary name
says whose it is, `<name>.<random>.<process id>@<host token>.partial`, so that what a killed process left can
be distinguished from what a living one is writing.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError
from mkhspc.process.identity import ProcessId, host_token

TEMPORARY_SUFFIX = ".partial"
SHOWN_NAME_LENGTH = 36
"""A temporary name begins with so many characters of the final name: file systems allow 255 bytes in all."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of link(2) on FAT, and on some servers and user-space file systems, which know no second names."""
RENAME_NOREPLACE = 1
"""Flag of the system call renameat2 (Linux): fails where the new name is taken."""
AT_FDCWD = -100
"""Tells renameat2 to take names from the working directory (Linux, <fcntl.h>)."""

_OWNER = re.compile(rf"\.(?P<pid>\d+)@(?P<host>[^@/]+){re.escape(TEMPORARY_SUFFIX)}$")


def file_system_time(directory: Path) -> float:
    """The time by the clock that stamps the files of a directory, in seconds since 1970.

    Hosts of a cluster and its file server need not agree on the time, so every age is measured by this clock.

    Raises:
        OSError: the directory takes no file.
    """
    probe = temporary_name(directory / ".now")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def writer_of(temporary: Path) -> ProcessId | None:
    """Returns the process that writes a temporary file, by its name; None for a name of another kind."""
    found = _OWNER.search(temporary.name)
    return ProcessId(found["host"], int(found["pid"])) if found else None


class ReplacedError(Exception):
    """Another process replaced the file meanwhile; what it wrote is untouched."""


@dataclass(frozen=True)
class FileVersion:
    """Tells a file from one that took its name later."""

    inode: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileVersion:
        facts = path.stat()
        return cls(facts.st_ino, facts.st_mtime_ns)


@contextmanager
def replacing(
    path: Path, *, within: Path | None = None, instead_of: FileVersion | None = None
) -> Iterator[Path]:
    """Yields a temporary path to write; renames it over `path` when the block ends well.

    The directory is made when needed. If the block raises, the temporary file is removed and
    `path` is as it was.

    Args:
        within: a directory above it that is there already and is never made: a run that was moved stays one.
        instead_of: the only file that may be replaced.

    Raises:
        ReplacedError: `path` is another file than `instead_of` by now.
    """
    with _temporary(path, within) as temporary:
        yield temporary
        _sync_file(temporary)
        if instead_of is not None and FileVersion.of(path) != instead_of:
            raise ReplacedError(str(path))
        temporary.replace(path)
        _sync_directory(path.parent)


@contextmanager
def creating(path: Path, *, within: Path | None = None) -> Iterator[Path]:
    """Like `replacing`, but the first of several processes wins.

    Raises:
        FileExistsError: when another process created `path` first; that file is untouched.
    """
    with _temporary(path, within) as temporary:
        yield temporary
        _sync_file(temporary)
        give_name(temporary, path)
        _sync_directory(path.parent)


def give_name(temporary: Path, path: Path) -> None:
    """Gives a file a second name that nobody has taken; where there are no second names, moves it there.

    Raises:
        FileExistsError: the name is taken; nothing has changed.
        InputError: the file system can do neither, so no name on it can be taken by the first alone.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not path.samefile(temporary):  # over NFS a link that was made can be reported as refused
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _move(temporary, path)


def _move(temporary: Path, path: Path) -> None:
    """Renames a file to a name that nobody has taken; the errors are those of `give_name`."""
    libc = ctypes.CDLL(None, use_errno=True)
    fault = errno.ENOSYS
    if hasattr(libc, "renameat2"):
        names = os.fsencode(temporary), os.fsencode(path)
        done = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE)
        fault = ctypes.get_errno() if done else 0
    if fault in (*NO_LINKS, errno.EINVAL):
        raise InputError(
            "this file system can neither link a file nor rename it without replacing another,"
            " so two processes cannot safely write a run on it",
            where=path.parent,
            fix="give an --output-dir on another file system",
        )
    if fault:
        raise OSError(fault, os.strerror(fault), str(path))


def write_bytes(path: Path, data: bytes, *, within: Path | None = None) -> None:
    """Replaces `path` by a file of these bytes in one step; `within` as for `replacing`."""
    with replacing(path, within=within) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str, *, within: Path | None = None) -> None:
    """Replaces `path` by a file of this text, as UTF-8, in one step; `within` as for `replacing`."""
    write_bytes(path, text.encode("utf-8"), within=within)


def write_json(path: Path, value: Any, *, within: Path | None = None) -> None:
    """Writes indented JSON; NaN and infinity, which JSON does not have, raise `ValueError`."""
    write_text(path, dump_json(value), within=within)


def dump_json(value: Any) -> str:
    """Indented JSON text; NaN and infinity raise `ValueError`."""
    return json_text(value, indent=1) + "\n"


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON text, with escapes for what is no UTF-8, as a file's name need not be."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def _temporary(path: Path, within: Path | None) -> Iterator[Path]:
    temporary = temporary_name(path)
    made: list[Path] = []
    try:
        _reserve(temporary, made, within)
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


def temporary_name(path: Path) -> Path:
    """Returns a name beside a path that no other file has, and that names this process as its writer."""
    mark = f"{secrets.token_hex(4)}.{os.getpid()}@{host_token()}"
    return path.with_name(f"{path.name[:SHOWN_NAME_LENGTH]}.{mark}{TEMPORARY_SUFFIX}")


def _reserve(temporary: Path, made: list[Path], within: Path | None, tries: int = 50) -> None:
    """Makes an empty file, and the directories missing above it, which are added to `made`."""
    try:
        make_directories(temporary.parent, made, within)
        temporary.touch(exist_ok=False)
    except FileNotFoundError:  # another process took the directory away, for it was empty
        if tries == 1 or (within is not None and not within.exists()):
            raise
        time.sleep(random.uniform(0.0, 0.002))  # so that the two do not keep step
        _reserve(temporary, made, within, tries - 1)


def make_directories(directory: Path, made: list[Path], within: Path | None = None) -> None:
    """Makes a directory and those missing above it, which are added to `made`.

    Raises:
        FileNotFoundError: `within` is not there, which is never made.
    """
    if not directory.exists():
        if directory == within:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        make_directories(directory.parent, made, within)
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
