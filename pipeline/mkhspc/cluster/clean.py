"""What killed processes leave in a run: found, and removed when nobody can be writing it any more.

Only temporary files and claims count, and the run's directories that hold nothing else. Each file names the
process that writes it. On this host that process is looked for: while one of its number runs, the file stays.
On another host, and in another container of this one, it cannot be looked for: its files go when they have
not been written to for `OTHER_HOST_AGE_S`, by the clock that stamps the run's files.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mkhspc.cluster.claims import ClaimRecord
from mkhspc.process.identity import ProcessId
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import TEMPORARY_SUFFIX, file_system_time, writer_of
from mkhspc.store.layout import RunLayout

CLAIM_SUFFIX = ".claim"
OTHER_HOST_AGE_S = 86_400.0
"""Seconds without a write after which a file of another host is stale: none takes a day to be written."""


@dataclass(frozen=True)
class Leftover:
    """A temporary file or a claim.

    Attributes:
        size_bytes: what its removal frees; nothing when its final name is there too.
        is_stale: whether it may go.
        reason: why it may, or why it may not.
    """

    path: Path
    size_bytes: int
    is_stale: bool
    reason: str


@dataclass
class Leftovers:
    """All leftovers of a run, and the directories that hold only stale ones, innermost first."""

    files: list[Leftover] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)

    @property
    def stale(self) -> list[Leftover]:
        return [file for file in self.files if file.is_stale]

    @property
    def kept(self) -> list[Leftover]:
        return [file for file in self.files if not file.is_stale]


def find_leftovers(layout: RunLayout, other_host_age_s: float = OTHER_HOST_AGE_S) -> Leftovers:
    """Looks through a run; changes nothing.

    Raises:
        InputError: the directory is not a run.
        OSError: it cannot be written, so nothing in it could be removed.
    """
    manifests.read(layout)
    found, oldest_s = Leftovers(), file_system_time(layout.root) - other_host_age_s
    for path in sorted(layout.root.iterdir()):
        if path in _folders(layout):
            _look_into(path, found, oldest_s)
        elif not path.is_dir():
            _look_at(path, found, oldest_s)
    return found


def _folders(layout: RunLayout) -> set[Path]:
    """The directories of a run's own; others that a user keeps beside them are left alone."""
    tables = (layout.plan, layout.cells, layout.crops, layout.scores)
    return {layout.logs, layout.part("_", "_").parent.parent, *(table("_").parent for table in tables)}


def tidy(layout: RunLayout) -> None:
    """Removes the directories of a run that are empty: of a process killed before its first file in one.

    A process that has just made one to put a file into it makes it again.
    """
    for folder in sorted(_folders(layout)):
        for directory in (*folder.glob("*/"), folder):
            with suppress(OSError):  # something is in it, or it is not there
                directory.rmdir()


def remove(leftovers: Leftovers) -> None:
    """Removes the stale files, and the directories that are empty then."""
    for file in leftovers.stale:
        file.path.unlink(missing_ok=True)
    for directory in leftovers.directories:
        with suppress(OSError):  # a process at work has put something there by now
            directory.rmdir()


def _look_into(folder: Path, found: Leftovers, oldest_s: float) -> bool:
    """Adds what lies in a folder, and the folder when nothing in it stays; returns whether it does."""
    stays = False
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            stays |= _look_into(path, found, oldest_s)
        else:
            stays |= _look_at(path, found, oldest_s)
    if not stays:
        found.directories.append(folder)
    return stays


def _look_at(path: Path, found: Leftovers, oldest_s: float) -> bool:
    """Adds a file if it is temporary; returns whether it stays."""
    if path.suffix not in (TEMPORARY_SUFFIX, CLAIM_SUFFIX):
        return True
    try:
        writer = ClaimRecord.read(path).process if path.suffix == CLAIM_SUFFIX else writer_of(path)
        facts = path.stat(follow_symlinks=False)
    except FileNotFoundError:  # its process has just finished it
        return True
    is_stale, reason = _verdict(writer, is_old=facts.st_mtime < oldest_s)
    found.files.append(Leftover(path, facts.st_size if facts.st_nlink == 1 else 0, is_stale, reason))
    return not is_stale


def _verdict(writer: ProcessId | None, *, is_old: bool) -> tuple[bool, str]:
    """Says whether a file of this writer is stale, and why."""
    if writer is None:
        return is_old, "it does not say who wrote it" + (", but it is old" if is_old else "")
    if writer.is_on_this_host:
        return not writer.is_running, f"process {writer.pid} is {'running' if writer.is_running else 'gone'}"
    return (
        is_old,
        f"of process {writer.pid} on {writer.host}, {'long silent' if is_old else 'perhaps at work'}",
    )
