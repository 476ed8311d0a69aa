"""The events of the gallery's export: how each labelled cell was shown, labels cleared, and repeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError
from mkhspc.learn.labels.label import VALUES, Shown, Value, checked_id, parse_time

BLIND_REPEAT = "blind-repeat"
UNLABELLED = "unlabelled"
"""What an event gives a cell whose label is taken away."""
ALL_SHOWN = 1.0
"""Inclusion probability where an event names none: the gallery held every cell in the filter."""
_MAX_POLICY_LENGTH = 40


@dataclass(frozen=True)
class Events:
    """What the events of one file say, by cell id as the file writes it.

    Attributes:
        shown: how the cell was shown when it got its latest answer.
        cleared: when the cell's label was taken away, if no answer came after it.
        repeats: the latest answer to the cell's blind repeat; never a label.
    """

    shown: dict[str, Shown] = field(default_factory=dict)
    cleared: dict[str, datetime] = field(default_factory=dict)
    repeats: dict[str, Value] = field(default_factory=dict)


def read_events(data: dict[str, Any], path: Path) -> Events:
    """The events of a file of today's format, in the order in which they happened.

    Raises:
        InputError: an event is malformed.
    """
    rows = data.get("events", [])
    if not isinstance(rows, list):
        raise InputError("has no list under 'events'", where=path)
    events = Events()
    for row in rows:
        if not isinstance(row, dict):
            raise InputError("has an event that is no object", where=path)
        cell_id, shown = checked_id(row.get("cell_id"), path), _shown(row, path)
        if shown.policy != BLIND_REPEAT:
            events.shown[cell_id] = shown
            events.cleared.pop(cell_id, None)
            if row.get("label") == UNLABELLED and shown.at is not None:
                events.cleared[cell_id] = shown.at
        elif row.get("label") in VALUES:
            events.repeats[cell_id] = row["label"]
        else:
            events.repeats.pop(cell_id, None)  # the answer was taken back
    return events


def _shown(row: dict[str, Any], path: Path) -> Shown:
    at = parse_time(row.get("at"), path)
    if "policy" not in row:
        return Shown(at=at)
    policy, probability = row["policy"], row.get("inclusion_prob", ALL_SHOWN)
    if not isinstance(policy, str) or not 0 < len(policy) <= _MAX_POLICY_LENGTH:
        raise InputError(f"has an event with policy {str(policy)[:40]!r}", where=path)
    if probability is None:
        return Shown(policy, None, at)
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 < probability <= 1:
        raise InputError(
            f"has an event with inclusion_prob {str(probability)[:40]!r}, not in (0, 1]", where=path
        )
    return Shown(policy, float(probability), at)
