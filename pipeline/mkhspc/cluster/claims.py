"""Which tiles are being worked on, told to other processes of the same run by a small file each.

A claim is advice, never a lock: whoever links a tile's part first has done it, with or without
one. Claims only keep two processes from doing the same tile side by side. A claim counts while its
process lives: where that can be done the process is looked for, and elsewhere the claim must have been
renewed within `STALE_S`, by the clock of the file server that holds both.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mkhspc.pool.contract import RENEW_EVERY_S, ClaimResult
from mkhspc.store.atomic import Owner, give_name, here, now_of, start_of, temporary_name
from mkhspc.store.layout import RunLayout

log = logging.getLogger(__name__)

STALE_S = 6 * RENEW_EVERY_S
"""Seconds without a renewal after which a claim of another host counts as abandoned."""


@dataclass(frozen=True)
class ClaimRecord:
    """A claim as it was found: one that was renewed or made anew since is another.

    Attributes:
        text: `<place> <process id> <its start> <8 random digits>`, the place as `atomic.here` and the start
            as `atomic.start_of` tell it; empty while it is being written.
    """

    text: str
    written_ns: int

    @classmethod
    def of(cls, path: Path) -> ClaimRecord:
        """Raises `FileNotFoundError` when there is no claim any more."""
        return cls(path.read_text(encoding="utf-8"), path.stat().st_mtime_ns)

    @property
    def owner(self) -> Owner | None:
        place, pid, _ = self._words
        return Owner(place, int(pid)) if pid.isdecimal() else None

    @property
    def start(self) -> str:
        """When its process began; empty if that was not known."""
        return self._words[2]

    @property
    def _words(self) -> tuple[str, str, str]:
        place, pid, start = [*self.text.split(" "), "", "", ""][:3]
        return place, pid, start


class ClaimFiles:
    """The claims of this process, a file each; any thread may use them."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._holder = f"{here()} {os.getpid()} {start_of(os.getpid())} {secrets.token_hex(4)}"
        self._has_complained = False
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def claim(self, slide_id: str, tile_id: str) -> ClaimResult:
        """Claims a tile unless it is done or another's; a claim of a dead process is taken over."""
        path = self._layout.claim(slide_id, tile_id)
        part = self._layout.part(slide_id, tile_id)
        if part.exists():
            return ClaimResult.DONE
        with self._lock:
            if path not in self._held and not self._create(path) and not self._take_over(path):
                return ClaimResult.THEIRS
            self._held.add(path)
        if part.exists():  # finished between the look and the claim
            self.release(slide_id, tile_id)
            return ClaimResult.DONE
        return ClaimResult.OURS

    def release(self, slide_id: str, tile_id: str) -> None:
        """Ends the claim of this process on a tile, if it has one."""
        self._release(self._layout.claim(slide_id, tile_id))

    def release_all(self) -> None:
        """Ends every claim of this process."""
        for path in self._paths():
            self._release(path)

    def renew(self) -> None:
        """Tells other hosts that this process lives; to be called every `RENEW_EVERY_S`.

        A claim that the file server does not let it renew is told in the log, once, and tried again the next
        time: it costs at most that another process does the tile as well.
        """
        for path in self._paths():
            try:
                os.utime(path)
            except FileNotFoundError:  # taken over: this process must have slept for long
                continue
            except OSError as error:
                self._complain(path, error)

    def _complain(self, path: Path, error: OSError) -> None:
        if not self._has_complained:
            log.warning("%s: cannot be renewed (%s): others may do its tile too", path, error.strerror)
        self._has_complained = True

    def _paths(self) -> list[Path]:
        with self._lock:
            return list(self._held)

    def _release(self, path: Path) -> None:
        with self._lock:
            if path not in self._held:
                return
            self._held.remove(path)
            with suppress(FileNotFoundError):
                if ClaimRecord.of(path).text == self._holder:  # else it was taken over, and is another's now
                    path.unlink()
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
        """Whether a dead process's claim is this one's now; of several that try the first wins."""
        try:
            found = ClaimRecord.of(path)
            if is_living(path, found):
                return False
            aside = temporary_name(path)
            path.rename(aside)
        except FileNotFoundError:  # given back, or another process is taking it over
            return self._create(path)
        try:
            if ClaimRecord.of(aside) == found:
                return self._create(path)
            with suppress(FileExistsError):  # a living process's, made in this moment: it gets it back
                give_name(aside, path)
            return False
        finally:
            aside.unlink(missing_ok=True)


def is_living(claim: Path, found: ClaimRecord) -> bool:
    """Whether the process that wrote a claim is still at work, as far as can be told."""
    owner = found.owner
    if owner is not None and owner.is_here:
        if owner.pid == os.getpid() or not owner.is_running:
            return False
        if (
            found.start
        ):  # however old the claim is: a computer that slept, or a clock that was set, kills nobody
            return start_of(owner.pid) == found.start
    # Where it is not known which process began it, its number may be another's by now.
    return now_of(claim.parent) - found.written_ns / 1e9 < STALE_S
