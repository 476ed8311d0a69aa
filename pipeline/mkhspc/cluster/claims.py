"""Which tiles are being worked on: other processes of the same run see a small file for each.

A claim is advice, never a lock: the process that links a tile's part first has done it, with or without a
claim. Claims only keep two processes from doing the same tile side by side. A claim counts while its
process lives: on this host the process is looked for; a claim of another host must have been renewed within
`STALE_S`, by the clock of the file server that both hosts use.
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
from mkhspc.process.identity import ProcessId, host_token, process_start_ticks
from mkhspc.store.atomic import file_system_time, give_name, make_directories, temporary_name
from mkhspc.store.layout import RunLayout

log = logging.getLogger(__name__)

STALE_S = 6 * RENEW_EVERY_S
"""Seconds without a renewal after which a claim of another host counts as abandoned."""


@dataclass(frozen=True)
class ClaimRecord:
    """The contents and age of a claim's file; once the claim is renewed or made anew, they differ.

    Attributes:
        text: `<host token> <process id> <start ticks> <8 random digits>`; empty while it is being written.
        written_ns: when the file was last written, in ns since 1970 by the file server's clock.
    """

    text: str
    written_ns: int

    @classmethod
    def read(cls, path: Path) -> ClaimRecord:
        """Raises `FileNotFoundError` when there is no claim any more."""
        return cls(path.read_text(encoding="utf-8"), path.stat().st_mtime_ns)

    @property
    def process(self) -> ProcessId | None:
        """The process that made the claim; None where the file does not say."""
        token, pid, _ = self._words
        return ProcessId(token, int(pid)) if pid.isdecimal() else None

    @property
    def start_ticks(self) -> str:
        """When its process began; empty if that was not known."""
        return self._words[2]

    @property
    def _words(self) -> tuple[str, str, str]:
        token, pid, ticks = [*self.text.split(" "), "", "", ""][:3]
        return token, pid, ticks


class ClaimFiles:
    """The claims of this process, a file each; any thread may use them."""

    def __init__(self, layout: RunLayout) -> None:
        pid = os.getpid()
        self._layout = layout
        self._text = f"{host_token()} {pid} {process_start_ticks(pid)} {secrets.token_hex(4)}"
        self._has_complained = False
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def claim(self, slide_id: str, tile_id: str) -> ClaimResult:
        """Claims a tile unless it is done or another's; the claim of a dead process is taken over.

        Raises:
            OSError: the run's disk is full or at fault.
        """
        path = self._layout.claim(slide_id, tile_id)
        part = self._layout.part(slide_id, tile_id)
        if part.exists():
            return ClaimResult.DONE
        with self._lock:
            if path not in self._held and not self._create(path) and not self._take_over(path):
                return ClaimResult.THEIRS
            self._held.add(path)
        if part.exists():  # finished between the two lines
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
        """Shows other hosts that this process lives; call it every `RENEW_EVERY_S`.

        A claim that the file server does not let it renew is logged, once, and tried again the next time:
        it costs at most that another process does the tile as well.
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
                if ClaimRecord.read(path).text == self._text:  # else it was taken over, and is another's now
                    path.unlink()
            self._tidy(path)

    def _create(self, path: Path) -> bool:
        try:
            make_directories(path.parent, [], within=self._layout.root)
            with path.open("x", encoding="utf-8") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        except FileNotFoundError:  # another process gave its last tile back and took the directory along
            if not self._layout.root.exists():  # the run was moved
                raise
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
            found = ClaimRecord.read(path)
            if is_alive(path, found):
                return False
            aside = temporary_name(path)
            path.rename(aside)
        except FileNotFoundError:  # given back, or another process is taking it over
            return self._create(path)
        try:
            if ClaimRecord.read(aside) == found:
                return self._create(path)
            with suppress(FileExistsError):  # a living process's, made in this moment: it gets it back
                give_name(aside, path)
            return False
        finally:
            aside.unlink(missing_ok=True)


def is_alive(claim: Path, found: ClaimRecord) -> bool:
    """Whether the process that made a claim still works, as far as this process can see."""
    process = found.process
    if process is not None and process.is_on_this_host:
        if process.pid == os.getpid() or not process.is_running:
            return False
        if found.start_ticks:
            # However old the claim is: a computer that slept, or a clock that was set, ends no process.
            return process_start_ticks(process.pid) == found.start_ticks
    # Without the start, or on another host, the number may be another process's by now.
    return file_system_time(claim.parent) - found.written_ns / 1e9 < STALE_S
