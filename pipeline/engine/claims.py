"""Which tiles are being worked on, told to other processes of the same run by a small file each.

A claim is advice, never a lock: whoever links a tile's part first has done it, with or without
one. Claims only keep two processes from doing the same tile side by side. A claim counts while its
process lives: on this host the process is looked for, and on any host the claim must have been
renewed within `STALE_S`, by the clock of the file server that holds both.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path

from pipeline.store.atomic import Owner
from pipeline.store.layout import RunLayout

RENEW_S = 20.0
STALE_S = 120.0


class Claim(Enum):
    """Whose a tile is."""

    OURS = "this process may do it"
    DONE = "its part is there"
    THEIRS = "another living process is at it"


class Claims:
    """The claims of this process; any thread may use them."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._holder = f"{socket.gethostname()} {os.getpid()}"
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def take(self, slide_id: str, tile_id: str) -> Claim:
        """Claims a tile unless it is done or another's; a claim of a dead process is taken over."""
        path = self._layout.claim(slide_id, tile_id)
        part = self._layout.part(slide_id, tile_id)
        if part.exists():
            return Claim.DONE
        with self._lock:
            if path not in self._held and not self._create(path) and not self._take_over(path):
                return Claim.THEIRS
            self._held.add(path)
        if part.exists():  # finished between the look and the claim
            self.drop(slide_id, tile_id)
            return Claim.DONE
        return Claim.OURS

    def drop(self, slide_id: str, tile_id: str) -> None:
        """Ends the claim of this process on a tile, if it has one."""
        self._drop(self._layout.claim(slide_id, tile_id))

    def drop_all(self) -> None:
        """Ends every claim of this process."""
        for path in self._paths():
            self._drop(path)

    def renew(self) -> None:
        """Tells other hosts that this process lives; to be called every `RENEW_S`."""
        for path in self._paths():
            with suppress(FileNotFoundError):  # taken over: this process must have slept for long
                os.utime(path)

    def _paths(self) -> list[Path]:
        with self._lock:
            return list(self._held)

    def _drop(self, path: Path) -> None:
        with self._lock:
            if path not in self._held:
                return
            self._held.remove(path)
            path.unlink(missing_ok=True)
            self._tidy(path)

    def _create(self, path: Path) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(self._holder)
        except FileExistsError:
            return False
        except FileNotFoundError:  # another process gave its last tile back and took the directory along
            return self._create(path)
        except OSError:  # no room, perhaps for the name alone
            path.unlink(missing_ok=True)
            self._tidy(path)
            raise
        return True

    def _tidy(self, path: Path) -> None:
        """Removes the directories of a claim that is gone, as far as nothing else is in them."""
        with suppress(OSError):
            path.parent.rmdir()
            path.parent.parent.rmdir()

    def _take_over(self, path: Path) -> bool:
        if is_living(path):
            return False
        path.unlink(missing_ok=True)
        return self._create(path)


def is_living(claim: Path) -> bool:
    """Whether the process that wrote a claim is still at work, as far as can be told."""
    try:
        host, _, pid = claim.read_text(encoding="utf-8").partition(" ")
        age_s = _now_of(claim.parent) - claim.stat().st_mtime
    except FileNotFoundError:
        return False
    owner = Owner(host, int(pid)) if pid.isdecimal() else None
    if owner is not None and owner.is_here and (owner.pid == os.getpid() or not owner.is_running):
        return False
    return age_s < STALE_S  # on this host too: the number of a process that is gone is given to others


def _now_of(directory: Path) -> float:
    """The time by the clock that stamps the files of a directory."""
    probe = directory / f".now.{os.getpid()}@{socket.gethostname()}.partial"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
