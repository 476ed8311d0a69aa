"""Processes that run this package's own code, whatever program asked for them.

A spawned process begins, as Python has it, by importing the script that its parent runs: a script without
`if __name__ == "__main__":` would be run once more by every worker. What is done here needs nothing of it.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from multiprocessing.context import SpawnProcess
from typing import Any

from mkhspc.errors import UsageError
from mkhspc.process.children import FRUGAL, environment

_starting = threading.local()
_one_at_a_time = threading.Lock()
"""Variables and the recipe of a process are the program's, not a thread's, and two threads may start runs."""


class OwnProcess(SpawnProcess):
    """A process started by 'spawn', so that no lock or handle is inherited, without its parent's script.

    Its target and arguments must come from modules, not from the script.
    """

    def start(self) -> None:
        """Starts the process, with variables that have it give memory back.

        Raises:
            UsageError: the parent is a process that may start none.
        """
        if multiprocessing.current_process().daemon:
            raise UsageError(
                "no worker can be started inside a worker of multiprocessing.Pool: it may have no processes",
                fix="call mkhspc from a thread, or from concurrent.futures.ProcessPoolExecutor",
            )
        with _one_at_a_time, environment(FRUGAL), _without_script():
            super().start()


@contextmanager
def _without_script() -> Iterator[None]:
    """Has this thread's processes not import the parent's script; those of other threads still do."""
    original = spawn.get_preparation_data

    def preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if not getattr(_starting, "is_own", False):
            return data
        return {key: value for key, value in data.items() if not key.startswith("init_main_from_")}

    spawn.get_preparation_data, _starting.is_own = preparation_data, True
    try:
        yield
    finally:
        spawn.get_preparation_data, _starting.is_own = original, False
