"""Labels as a file states them: one answer to one cell, before it is matched to a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mkhspc.config import CellType
from mkhspc.errors import InputError
from mkhspc.store.annotations import Value
from mkhspc.store.schema import CellName, parse_cell_id

UNKNOWN_POLICY = "unknown"
"""The policy of a label whose file does not say how its cell was presented."""

EXPORT_AGAIN = "export the labels again, or leave the file out"
"""What to do about a file of labels that is damaged or was edited by hand."""
_MAX_ID_LENGTH = 256
"""Characters of a cell id; no slide's name is nearly as long."""
_BARE_ID = re.compile(r"(?P<slide>.+?)(?:_s(?P<scene>\d+))?_(?P<x>\d+)_(?P<y>\d+)")


EventKey = tuple[str, str | None, datetime | None, str, str | None, int | None]
"""What tells one event from all others: cell, label, time, policy, browser, number in that browser's log.

An event that was brought in from another file keeps all of it."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a cell was presented to the annotator, and which event of the log the answer was.

    Attributes:
        policy: the order or strategy of the gallery, such as 'random' or 'uncertainty'.
        inclusion_prob: the probability with which a cell in the filter was put into the gallery;
            None when the file does not say.
        at: when the answer was given.
        annotator: who gave the answer; None where only the file's annotator is known.
        event: the event; None without one, or where it has neither a time nor a number.
    """

    policy: str = UNKNOWN_POLICY
    inclusion_prob: float | None = None
    at: datetime | None = None
    annotator: str | None = None
    event: EventKey | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """One answer to one cell.

    Attributes:
        cell_id: the id in today's form (with its scene), or the text given if that is not an id.
        name: the parts of the id, or None if the text is not an id.
        cell_type: from the file or the id; None when neither says it.
    """

    cell_id: str
    name: CellName | None
    cell_type: CellType | None
    value: Value
    presentation: Presentation


@dataclass(frozen=True, slots=True)
class Repeat:
    """One annotator's two answers to one cell, the second given without knowing the first."""

    cell_type: CellType
    first: Value
    again: Value


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A label that was taken back and not given again, by the id that the file writes."""

    cell_id: str
    presentation: Presentation


@dataclass(frozen=True)
class AnnotationFile:
    """What one file of labels says.

    Attributes:
        shape: 'mkhspc-annotations', or the letter of an older shape, 'A' to 'E'.
        annotator: a name; without one 'anonymous' if every label has its time, else the file's stem.
        is_named: whether the annotator gave that name.
        withdrawn: the labels taken back, of cells that have none any more.
        answers: every event of the file, blind repeats too.
        superseded: those of them that a later answer to the same cell has replaced.
        dataset, config_hash: the run that the labels were made on; None in older shapes.
        exported_at: when the file was made, if it says so.
    """

    path: Path
    shape: str
    annotator: str
    labels: tuple[Label, ...]
    is_named: bool = False
    repeats: tuple[Repeat, ...] = ()
    withdrawn: tuple[Withdrawal, ...] = ()
    answers: tuple[Presentation, ...] = ()
    superseded: frozenset[EventKey] = frozenset()
    dataset: str | None = None
    config_hash: str | None = None
    exported_at: datetime | None = None


def make_label(
    text: object,
    cell_type: CellType | None,
    value: Value,
    presentation: Presentation,
    path: Path,
) -> Label:
    """Makes the label that a file states for the id `text`.

    Args:
        cell_type: what the file says of the type; None when only the id tells.
        presentation: how the cell was presented when it got this answer.

    Raises:
        InputError: the id is an integer or not a text, or its type is not the file's.
    """
    raw = checked_id(text, path)
    name = _named(raw, cell_type)
    if name is not None and cell_type not in (None, name.cell_type):
        raise InputError(
            f"lists '{raw}' among the {cell_type} cells, but its id says {name.cell_type}",
            where=path,
            fix=EXPORT_AGAIN,
        )
    found_type = cell_type if name is None else name.cell_type
    return Label(raw if name is None else str(name), name, found_type, value, presentation)


def checked_id(text: object, path: Path) -> str:
    """Returns `text` if it can be an id, without the spaces that spreadsheet programs put around it.

    Raises:
        InputError: it is an integer (also one in quotes), not a text, empty, or absurdly long.
    """
    text = text.strip() if isinstance(text, str) else text
    if (isinstance(text, int) and not isinstance(text, bool)) or (isinstance(text, str) and text.isdecimal()):
        raise InputError(
            f"holds integer ids ({str(text)[:20]}): a number in a list does not say which cell it meant",
            where=path,
            fix="export the labels again by cell id, such as <slide>_s0_mk_1234_5678",
        )
    if not isinstance(text, str) or not text or len(text) > _MAX_ID_LENGTH:
        raise InputError(
            f"holds {str(text)[:40]!r} where a cell id belongs, such as <slide>_s0_mk_1234_5678",
            where=path,
            fix=EXPORT_AGAIN,
        )
    return text


def is_cell_id(text: str) -> bool:
    """Whether a text is a cell id: of today, or with its type but without its scene."""
    return _named(text, None) is not None


def _named(raw: str, cell_type: CellType | None) -> CellName | None:
    try:
        return parse_cell_id(raw)
    except InputError:
        bare = _BARE_ID.fullmatch(raw)
        if bare is None or cell_type is None:
            return None
        return CellName(bare["slide"], int(bare["scene"] or 0), cell_type, int(bare["x"]), int(bare["y"]))


def parse_time(value: object, path: Path) -> datetime | None:
    """Parses an ISO 8601 time, which is UTC where it names no zone; None stays None.

    Raises:
        InputError: it is not such a time.
    """
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None:
        raise InputError(
            f"holds {str(value)[:40]!r} where a time belongs, such as 2026-01-31T12:00:00Z",
            where=path,
            fix=EXPORT_AGAIN,
        )
    return time if time.tzinfo else time.replace(tzinfo=UTC)
