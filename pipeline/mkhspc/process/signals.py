"""What a signal that asks to stop does: to work in pieces, and to work that is all or nothing.

Imports nothing large: a command installs its handlers before it loads what it works with.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mkhspc.errors import InterruptedRunError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, what Slurm and systemd send at the end, and what our jobs ask Slurm for before a time limit."""


def _nothing(*_: object) -> None:
    pass


@dataclass
class StopFlag:
    """Set by a signal: no further task is begun, those under way are finished.

    Attributes:
        notify: is called with a line that says so.
    """

    notify: Callable[[str], object] = _nothing
    signal_name: str = ""
    _is_unreported: bool = False

    @property
    def is_set(self) -> bool:
        return bool(self.signal_name)

    def install(self) -> Callable[[], None]:
        """Catches SIGINT, SIGTERM and SIGUSR1; returns what puts the old handlers back."""
        return _handle(self._caught)

    def _caught(self, number: int, _frame: object) -> None:
        self.signal_name = signal.Signals(number).name
        self._is_unreported = True

    def report(self) -> None:
        """Notifies of a signal that came since the last call; its handler may run in the middle of a line."""
        if self._is_unreported:
            self._is_unreported = False
            self.notify(f"stopping ({self.signal_name}): finishing the tiles under way")


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes a stop signal an `InterruptedRunError` there and then, for work that is all or nothing.

    Inside, a `StopFlag` may take over for a while.
    """

    def stop(number: int, _frame: object) -> None:
        raise InterruptedRunError(
            f"stopped by {signal.Signals(number).name}",
            fix="nothing is lost: run the same command again to go on",
        )

    restore = _handle(stop)
    try:
        yield
    finally:
        restore()


def _handle(handler: Callable[[int, FrameType | None], None]) -> Callable[[], None]:
    """Has a handler called for each stop signal; returns what puts the old handlers back.

    Does nothing outside the main thread: only that one may set handlers, and the program that started the
    thread has its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    old = {number: signal.signal(number, handler) for number in STOP_SIGNALS}

    def restore() -> None:
        for number, before in old.items():
            signal.signal(number, before)

    return restore
