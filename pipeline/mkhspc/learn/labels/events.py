"""The events of the gallery's export: the log of every answer, in the order in which it was given.

A clock can be wrong, so events of one browser are ordered by their number in its log (`seq`), or where they
have none by their place in the file; only those of different browsers by time.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mkhspc.errors import InputError
from mkhspc.learn.labels.label import EXPORT_AGAIN, EventKey, Presentation, Withdrawal, checked_id, parse_time
from mkhspc.store.annotations import ANONYMOUS, BLIND_REPEAT, UNLABELLED, VALUES, Value

ALL_SHOWN = 1.0
"""The inclusion probability of an event that names none: the gallery held every cell in the filter."""
_MAX_POLICY_LENGTH = 40
"""Characters of a policy's name, at most."""
_MAX_NAME_LENGTH = 256
"""Characters of the name of an annotator or a browser in an event, at most."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """An answer to a cell, or its label taken back.

    Attributes:
        label: a value, or 'unlabelled'; None where it is neither.
        place: in the file, from 0.
        browser: in whose log it has the number `seq`; None where it has no number.
    """

    cell_id: str
    label: str | None
    place: int
    shown: Presentation
    browser: str | None = None
    seq: int | None = None


@dataclass(frozen=True)
class Events:
    """What the events of one file say, by cell id as the file writes it.

    Attributes:
        by_cell: the answers to a cell, without those to its blind repeat, oldest first.
        repeats: the latest answer to the cell's blind repeat; never a label.
        answers: all events.
    """

    by_cell: Mapping[str, Sequence[Event]] = field(default_factory=dict)
    repeats: Mapping[str, Value] = field(default_factory=dict)
    answers: tuple[Presentation, ...] = ()

    def standing(self, cell_id: str, value: Value) -> Event | None:
        """The event that gave a cell the label that the file lists.

        That is the latest with this label, or else the latest of all: an import can bring in older ones.
        """
        events = self.by_cell.get(cell_id, ())
        return next((e for e in reversed(events) if e.label == value), events[-1] if events else None)

    def withdrawn(self, listed: Mapping[str, Value]) -> tuple[Withdrawal, ...]:
        """Labels whose latest event takes them back, without cells that are listed with one nevertheless."""
        return tuple(
            Withdrawal(cell_id, events[-1].shown)
            for cell_id, events in self.by_cell.items()
            if cell_id not in listed and events[-1].label == UNLABELLED
        )

    def superseded(self, listed: Mapping[str, Value]) -> frozenset[EventKey]:
        """Answers after which their annotator gave another one: what else the file knows of the cell."""
        found: set[EventKey] = set()
        for cell_id, events in self.by_cell.items():
            stands = self.standing(cell_id, listed[cell_id]) if cell_id in listed else events[-1]
            for author in {event.shown.annotator for event in events}:
                own = [event for event in events if event.shown.annotator == author]
                last = stands if stands in own else own[-1]
                found |= {e.shown.event for e in own if e is not last and e.shown.event is not None}
        return frozenset(found)


def read_events(data: dict[str, Any], path: Path) -> Events:
    """The events of a file of today's format, put into the order in which they happened.

    Raises:
        InputError: an event is malformed.
    """
    rows = data.get("events", [])
    if not isinstance(rows, list):
        raise InputError("'events' is not a list", where=path, fix=EXPORT_AGAIN)
    labels: dict[str, list[Event]] = defaultdict(list)
    repeats: dict[str, list[Event]] = defaultdict(list)
    answers = []
    for place, row in enumerate(rows):
        event = _event(row, place, path)
        (repeats if event.shown.policy == BLIND_REPEAT else labels)[event.cell_id].append(event)
        answers.append(event.shown)
    again = {cell_id: in_order(events)[-1].label for cell_id, events in repeats.items()}
    return Events(
        {cell_id: in_order(events) for cell_id, events in labels.items()},
        {cell_id: value for cell_id, label in again.items() for value in VALUES if value == label},
        tuple(answers),
    )


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events of one cell, oldest first: within a browser by number, browsers by the time of their latest."""
    by_browser: dict[str | None, list[Event]] = defaultdict(list)
    for event in events:
        by_browser[event.browser].append(event)
    for logged in by_browser.values():
        logged.sort(key=lambda event: (event.place if event.seq is None else event.seq, event.place))
    latest = sorted(
        by_browser.values(), key=lambda logged: (logged[-1].shown.at or _LONG_AGO, logged[-1].place)
    )
    return [event for logged in latest for event in logged]


def _event(row: Any, place: int, path: Path) -> Event:
    if not isinstance(row, dict):
        raise InputError(
            f"holds {str(row)[:40]!r} among the events, where an object belongs", where=path, fix=EXPORT_AGAIN
        )
    cell_id = checked_id(row.get("cell_id"), path)
    policy, probability = _shown(row, path)
    at, label = parse_time(row.get("at"), path), row.get("label")
    label = label if label in (*VALUES, UNLABELLED) else None
    browser, seq = _number(row, path)
    annotator = _name(row, "annotator", path)
    is_known = at is not None or seq is not None
    key = (cell_id, label, at, policy or "", browser, seq) if is_known else None
    shown = Presentation(at=at, annotator=None if annotator == ANONYMOUS else annotator, event=key)
    if policy is not None:
        shown = Presentation(policy, probability, at, shown.annotator, key)
    return Event(cell_id, label, place, shown, browser, seq)


def _number(row: dict[str, Any], path: Path) -> tuple[str | None, int | None]:
    """Browser and number, or neither: one says nothing without the other."""
    browser, seq = _name(row, "browser", path), row.get("seq")
    if seq is None or browser is None:
        return None, None
    if isinstance(seq, bool) or not isinstance(seq, (int, float)) or seq < 0 or seq != int(seq):
        raise _wrong(row, "seq", "a whole number from 0", path)
    return browser, int(seq)


def _name(row: dict[str, Any], key: str, path: Path) -> str | None:
    name = row.get(key)
    if name is not None and (not isinstance(name, str) or len(name) > _MAX_NAME_LENGTH):
        raise _wrong(row, key, f"a text of at most {_MAX_NAME_LENGTH} characters", path)
    return plain_name(name) or None


def plain_name(name: str | None) -> str:
    """A name as people compare it: no matter how its accents are written, or what surrounds it."""
    return unicodedata.normalize("NFC", name or "").strip()


def _shown(row: dict[str, Any], path: Path) -> tuple[str | None, float | None]:
    """Policy and inclusion probability; no policy where the event names none."""
    if "policy" not in row:
        return None, None
    policy, probability = row["policy"], row.get("inclusion_prob", ALL_SHOWN)
    if not isinstance(policy, str) or not 0 < len(policy) <= _MAX_POLICY_LENGTH:
        raise _wrong(row, "policy", f"a text of at most {_MAX_POLICY_LENGTH} characters", path)
    if probability is None:
        return policy, None
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 < probability <= 1:
        raise _wrong(row, "inclusion_prob", "above 0 and at most 1", path)
    return policy, float(probability)


def _wrong(row: dict[str, Any], key: str, allowed: str, path: Path) -> InputError:
    return InputError(
        f"holds an event whose {key} is {str(row[key])[:40]!r}; it must be {allowed}",
        where=path,
        fix=EXPORT_AGAIN,
    )
