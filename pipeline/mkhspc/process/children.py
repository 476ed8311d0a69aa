"""Processes that this one starts: their environment, and what they died of."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

FRUGAL = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "2000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000",
    "PYTHONSAFEPATH": "1",
}
"""Variables of worker processes. The first three have glibc give large arrays back to the system at once, so
that a worker needs no more memory for its hundredth task than for its first. The last keeps a user's
`socket.py` in the working directory from being imported in the place of Python's while a worker starts."""


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes started meanwhile; what the user has set is left alone."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def cause_of_death(exit_code: int | None) -> str:
    """Says what a process died of."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exit_code}"
