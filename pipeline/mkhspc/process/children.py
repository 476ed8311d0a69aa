"""Processes that this one starts: their environment, and what they died of."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "2000000", "MALLOC_TRIM_THRESHOLD_": "16000000"}
"""For glibc in a worker: give large arrays back to the system at once, so that a worker needs no more
for its hundredth task than for its first."""


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables for processes started meanwhile; what the user has set is left alone."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def cause_of_death(exit_code: int | None) -> str:
    """What a process died of, in words."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exit_code}"
