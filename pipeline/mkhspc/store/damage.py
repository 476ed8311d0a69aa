"""What is said of a table that cannot be read, and what makes it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from mkhspc.errors import InputError
from mkhspc.store.layout import TablePlace, place_of

DAMAGED_SUFFIX = ".damaged"
"""Added to the name of a part that is set aside."""


class DamagedTableError(InputError):
    """The bytes of a table are not those that were written; the disk gave them without an error."""


def unreadable(path: Path, error: Exception) -> InputError:
    """The error of a table that a library or the disk could not read, named by file, slide and tile."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(
            f"cannot be read ({error.strerror or error})",
            where=path,
            fix="see to the disk and the file's permissions, then run the same command again",
        )
    place = place_of(path)
    reason = " ".join(str(error).split())
    return DamagedTableError(f"is damaged ({reason}): {_named(place)}", where=path, fix=_remedy(place))


def _named(place: TablePlace) -> str:
    of_what = {
        "parts": f"the part of tile {place.tile_id} of slide {place.slide_id}",
        "cells": f"the cells of slide {place.slide_id}",
        "crops": f"the crops of slide {place.slide_id}",
        "scores": f"the scores of slide {place.slide_id}",
        "tiles": f"the tile plan of slide {place.slide_id}",
    }
    return of_what.get(place.kind, "a table")


def _remedy(place: TablePlace) -> str:
    run = shlex.quote(str(place.run))
    commands = {
        "parts": f"run `mkhspc merge {run}`, which sets it aside, then the same `mkhspc segment` again,"
        " which makes the tile again",
        "cells": f"make it again from the finished tiles with `mkhspc merge {run}`",
        "crops": f"make it again from the finished tiles with `mkhspc merge {run}`",
        "scores": f"make it again with `mkhspc score --run {run} --mk-classifier FILE"
        " --hspc-classifier FILE`, with the classifiers that scored it",
    }
    return commands.get(place.kind, "restore it, or segment into a new directory")
