"""What a model server is busy with, as its parent sees it, and when it counts as stuck."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import reduction
from typing import Any

from mkhspc.process.shared_memory import anonymous_file

SEEN_S = 5.0
"""The most seconds between two looks of the parent that count as time its server has had. Beyond that both
may have been suspended, by `scontrol suspend` or Ctrl-Z, while the clock ran on."""
_RECORD = struct.Struct("=dd?")
"""When the present activity began, in seconds of `time.monotonic`, which is the same for all processes; the
seconds it may take; and whether any request has been answered. The first is 0 while the server waits."""


class Activity:
    """A record that a server writes and its parent reads, in memory that both see.

    It takes no messages: the parent may look away for a while, and the server never waits for it. A copy that
    is pickled to a server's process shares the memory.

    Args:
        clock: in seconds, the same for both processes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.has_answered = False
        self._descriptor = anonymous_file("mkhspc-activity")

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._descriptor)

    def __setstate__(self, duplicate: Any) -> None:
        self.clock = time.monotonic
        self.has_answered = False
        self._descriptor = duplicate.detach()

    def begin(self, allowed_s: float) -> None:
        """From now on the server is busy, for at most so many seconds."""
        self._write(self.clock(), allowed_s)

    def end(self) -> None:
        """From now on the server waits, for as long as it takes."""
        self._write(0.0, 0.0)

    @contextmanager
    def lasting(self, allowed_s: float) -> Iterator[None]:
        """The server is busy inside the context, for at most so many seconds."""
        self.begin(allowed_s)
        try:
            yield
        finally:
            self.end()

    def read(self) -> tuple[float, float, bool]:
        """When the activity began, 0 while there is none; the seconds allowed; is any request answered."""
        written = os.pread(self._descriptor, _RECORD.size, 0)
        return _RECORD.unpack(written) if written else (0.0, 0.0, False)

    def _write(self, begun_s: float, allowed_s: float) -> None:
        os.pwrite(self._descriptor, _RECORD.pack(begun_s, allowed_s, self.has_answered), 0)

    def close(self) -> None:
        os.close(self._descriptor)


class StuckClock:
    """Counts the seconds that a server has been seen busy with one activity; for its parent."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._looked_s = activity.clock()
        self._begun_s = 0.0
        self._busy_s = 0.0

    def exceeded_s(self) -> float:
        """The seconds that were allowed, if they are over; else 0. To be asked often, see `SEEN_S`."""
        last_s, self._looked_s = self._looked_s, self._activity.clock()
        begun_s, allowed_s, _ = self._activity.read()
        if begun_s != self._begun_s:
            self._begun_s, self._busy_s = begun_s, 0.0
        self._busy_s += min(self._looked_s - max(last_s, begun_s), SEEN_S)
        return allowed_s if begun_s and self._busy_s > allowed_s else 0.0
