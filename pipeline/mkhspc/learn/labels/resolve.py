"""Several answers to one cell become one decision, or a conflict that stays open."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mkhspc.config import CellType
from mkhspc.learn.labels.label import AnnotationFile, EventKey, Presentation
from mkhspc.store.annotations import Value

OnConflict = Literal["majority", "latest", "exclude"]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
"""Stands for the time of an answer that carries none: such answers count as the oldest."""
REPRESENTATIVE = "random"
"""The gallery's policy whose labels describe the population: cells drawn at random."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One annotator's answer to a cell of the run.

    Attributes:
        label_id: the id that the annotator's file gave; two of them may mean one cell.
        at: when the answer was given, or else when its file was made.
        file: the file's place on the command line, from 0.
    """

    cell_id: str
    cell_type: CellType
    value: Value
    annotator: str
    label_id: str
    presentation: Presentation
    at: datetime | None
    file: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What all answers to a cell amount to.

    Attributes:
        value: None when they conflict and the rule does not settle it.
        annotators: who gave that value, or all who answered when there is none.
        votes: every annotator's answers, where they conflict.
    """

    cell_id: str
    cell_type: CellType
    value: Value | None
    annotators: tuple[str, ...]
    presentation: Presentation
    votes: Mapping[str, tuple[Value, ...]] | None = None


def latest_answers(
    votes: Sequence[Vote],
    exported_at: Sequence[datetime | None],
    withdrawn: Mapping[tuple[str, str], datetime],
    superseded: Set[EventKey] = frozenset(),
) -> list[Vote]:
    """Keeps each annotator's latest answer for an id, unless the annotator took it back later.

    An answer that another one has replaced in the log of its browser does not count, whatever the clock
    said. Of the others the newest counts, by its own time, or else that of its file; answers without a time
    count as older. Among equals the one in the file exported later is the newer, then the one in
    the later file on the command line. An id that a later file merely lacks keeps its answer: it
    may have been given in another browser.

    Args:
        exported_at: of each file, in the order of the command line.
        withdrawn: when an answer was last taken back, by annotator and id.
        superseded: events that a file knows to be followed by another.
    """

    def age(vote: Vote) -> tuple[datetime, datetime, int]:
        return vote.at or _LONG_AGO, exported_at[vote.file] or _LONG_AGO, vote.file

    newest: dict[tuple[str, str], tuple[datetime, datetime, int]] = {}
    votes = _standing(votes, withdrawn, superseded)
    for vote in votes:
        key = vote.annotator, vote.label_id
        newest[key] = max(newest.get(key, age(vote)), age(vote))
    return [
        vote
        for vote in votes
        if age(vote) == newest[vote.annotator, vote.label_id]
        and (vote.at or _LONG_AGO) >= withdrawn.get((vote.annotator, vote.label_id), _LONG_AGO)
    ]


def _standing(
    votes: Sequence[Vote], withdrawn: Mapping[tuple[str, str], datetime], superseded: Set[EventKey]
) -> Sequence[Vote]:
    """Votes that none replaces; all of a cell's where two browsers each say that the other's is replaced."""
    standing = [vote for vote in votes if vote.presentation.event not in superseded]
    settled = {(vote.annotator, vote.label_id) for vote in standing} | withdrawn.keys()
    return [
        vote
        for vote in votes
        if vote.presentation.event not in superseded or (vote.annotator, vote.label_id) not in settled
    ]


def last_withdrawn(
    files: Iterable[AnnotationFile], superseded: Set[EventKey] = frozenset()
) -> dict[tuple[str, str], datetime]:
    """When each annotator last took back an answer and gave no other, by annotator and id."""
    times: dict[tuple[str, str], datetime] = {}
    for file in files:
        for withdrawal in file.withdrawn:
            shown = withdrawal.presentation
            key, at = (shown.annotator or file.annotator, withdrawal.cell_id), shown.at or _LONG_AGO
            if shown.event not in superseded:
                times[key] = max(times.get(key, at), at)
    return times


def resolve(votes: Iterable[Vote], rule: OnConflict) -> list[Decision]:
    """One decision per cell, in the order of the cells' ids.

    Different answers to one cell are a conflict. `majority`: the answer with most votes, no
    decision on a tie. `latest`: the newest answer (then that of the later file on the command
    line), no decision if one file gives both. `exclude`: no decision.
    """
    by_cell: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_cell[vote.cell_id].append(vote)
    return [_decide(by_cell[cell_id], rule) for cell_id in sorted(by_cell)]


def _decide(votes: list[Vote], rule: OnConflict) -> Decision:
    answers = {vote.value for vote in votes}
    value = next(iter(answers)) if len(answers) == 1 else _settle(votes, rule)
    by_annotator: dict[str, list[Value]] = defaultdict(list)
    for vote in votes:
        by_annotator[vote.annotator].append(vote.value)
    return Decision(
        cell_id=votes[0].cell_id,
        cell_type=votes[0].cell_type,
        value=value,
        annotators=tuple(
            sorted(name for name, gave in by_annotator.items() if value is None or value in gave)
        ),
        presentation=_presentation(votes),
        votes={name: tuple(gave) for name, gave in sorted(by_annotator.items())}
        if len(answers) > 1
        else None,
    )


def _settle(votes: list[Vote], rule: OnConflict) -> Value | None:
    if rule == "majority":
        given = {(vote.annotator, vote.value) for vote in votes}  # a cell that a file lists twice counts once
        (first, most), (_, next_most) = Counter(value for _, value in sorted(given)).most_common(2)
        return first if most > next_most else None
    if rule == "latest":
        age = max((vote.at or _LONG_AGO, vote.file) for vote in votes)
        newest = {vote.value for vote in votes if (vote.at or _LONG_AGO, vote.file) == age}
        return newest.pop() if len(newest) == 1 else None
    return None


def _presentation(votes: list[Vote]) -> Presentation:
    """How the cell was presented: at random if it was to anyone, since then its draw was random."""
    return min(votes, key=lambda vote: (vote.presentation.policy != REPRESENTATIVE, vote.file)).presentation
