"""What a signal that asks to stop does: to work in pieces, and to work that is all or nothing.

Imports nothing large: a command installs its handlers before it loads what it works with.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
        old = {number: signal.signal(number, self._caught) for number in STOP_SIGNALS}

        def restore() -> None:
            for number, handler in old.items():
                signal.signal(number, handler)

        return restore

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

    old = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
