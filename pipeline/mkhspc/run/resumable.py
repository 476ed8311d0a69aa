"""Faults of the disk that holds a run: they make it incomplete, and it can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mkhspc.errors import IncompleteError
from mkhspc.process.disk import FAULTS
from mkhspc.store.layout import RunLayout


@contextmanager
def resumable(layout: RunLayout) -> Iterator[None]:
    """Calls a fault of the disk under a run what it is, wherever it shows: the run is not complete.

    Raises:
        IncompleteError: in the place of an `OSError`, once there is a run to go on with.
    """
    try:
        yield
    except OSError as fault:
        if not layout.manifest.exists() or not _is_of_the_disk(fault, layout):
            raise
        raise IncompleteError(
            fault.strerror or str(fault),
            where=fault.filename or layout.root,
            fix="correct that, then run the same command again: finished tiles are kept",
        ) from fault


def _is_of_the_disk(fault: OSError, layout: RunLayout) -> bool:
    """Not a slide's, nor that of a pipe which nobody reads any more."""
    is_inside = fault.filename is not None and str(fault.filename).startswith(str(layout.root))
    return is_inside or fault.errno in FAULTS
