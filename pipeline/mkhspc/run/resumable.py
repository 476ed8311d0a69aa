"""Faults of the disk that holds a run: they make it incomplete, and it can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mkhspc.errors import IncompleteError, MkhspcError
from mkhspc.process.disk import FAULTS
from mkhspc.store.layout import RunLayout


@contextmanager
def resumable(layout: RunLayout) -> Iterator[None]:
    """Calls a fault of the disk under a run what it is, wherever it shows: the run is not complete.

    Raises:
        IncompleteError: in the place of an `OSError`, once there is a run to go on with; and of any error
            once the run that was there is no longer where it was.
    """
    was_there = layout.manifest.exists()
    try:
        yield
    except (OSError, MkhspcError) as fault:
        if was_there and not layout.root.exists():
            raise _moved(layout) from fault
        if not isinstance(fault, OSError):
            raise
        if not layout.manifest.exists() or not _is_of_the_disk(fault, layout):
            raise
        raise IncompleteError(
            fault.strerror or str(fault),
            where=fault.filename or layout.root,
            fix="correct that, then run the same command again: finished tiles are kept",
        ) from fault


def _moved(layout: RunLayout) -> IncompleteError:
    return IncompleteError(
        "the run is no longer here: it was moved, renamed or removed while this command worked on it",
        where=layout.root,
        fix="every finished tile went along: run the same command again with the run's new place",
    )


def _is_of_the_disk(fault: OSError, layout: RunLayout) -> bool:
    """Not a slide's, nor that of a pipe which nobody reads any more."""
    is_inside = fault.filename is not None and str(fault.filename).startswith(str(layout.root))
    return is_inside or fault.errno in FAULTS
