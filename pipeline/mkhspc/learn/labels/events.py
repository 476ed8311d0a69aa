"""The events of the gallery's export: how each cell was presented, labels taken back, blind repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError
from mkhspc.learn.labels.label import EXPORT_AGAIN, Presentation, checked_id, parse_time
from mkhspc.store.annotations import BLIND_REPEAT, UNLABELLED, VALUES, Value

ALL_SHOWN = 1.0
"""The inclusion probability of an event that names none: the gallery held every cell in the filter."""
_MAX_POLICY_LENGTH = 40
"""Characters of a policy's name, at most."""


@dataclass(frozen=True)
class Events:
    """What the events of one file say, by cell id as the file writes it.

    Attributes:
        presentations: how the cell was presented when it got its latest answer.
        withdrawn: when the cell's label was taken back, if no answer came after that.
        repeats: the latest answer to the cell's blind repeat; never a label.
    """

    presentations: dict[str, Presentation] = field(default_factory=dict)
    withdrawn: dict[str, datetime] = field(default_factory=dict)
    repeats: dict[str, Value] = field(default_factory=dict)


def read_events(data: dict[str, Any], path: Path) -> Events:
    """The events of a file of today's format, in the order in which they happened.

    Raises:
        InputError: an event is malformed.
    """
    rows = data.get("events", [])
    if not isinstance(rows, list):
        raise InputError("'events' is not a list", where=path, fix=EXPORT_AGAIN)
    events = Events()
    for row in rows:
        if not isinstance(row, dict):
            raise InputError(
                f"holds {str(row)[:40]!r} among the events, where an object belongs",
                where=path,
                fix=EXPORT_AGAIN,
            )
        cell_id, presentation = checked_id(row.get("cell_id"), path), _presentation(row, path)
        if presentation.policy != BLIND_REPEAT:
            events.presentations[cell_id] = presentation
            events.withdrawn.pop(cell_id, None)
            if row.get("label") == UNLABELLED and presentation.at is not None:
                events.withdrawn[cell_id] = presentation.at
        elif row.get("label") in VALUES:
            events.repeats[cell_id] = row["label"]
        else:
            events.repeats.pop(cell_id, None)  # the answer was taken back
    return events


def _presentation(row: dict[str, Any], path: Path) -> Presentation:
    at = parse_time(row.get("at"), path)
    if "policy" not in row:
        return Presentation(at=at)
    policy, probability = row["policy"], row.get("inclusion_prob", ALL_SHOWN)
    if not isinstance(policy, str) or not 0 < len(policy) <= _MAX_POLICY_LENGTH:
        raise InputError(
            f"holds an event whose policy is {str(policy)[:40]!r}; it must be a text of at most"
            f" {_MAX_POLICY_LENGTH} characters",
            where=path,
            fix=EXPORT_AGAIN,
        )
    if probability is None:
        return Presentation(policy, None, at)
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 < probability <= 1:
        raise InputError(
            f"holds an event whose inclusion_prob is {str(probability)[:40]!r}; it must be above 0 and "
            "at most 1",
            where=path,
            fix=EXPORT_AGAIN,
        )
    return Presentation(policy, float(probability), at)
