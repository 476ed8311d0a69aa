"""What is odd about files of labels although they can be used: named, so that somebody looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from mkhspc.errors import some_of
from mkhspc.learn.labels.label import AnnotationFile

CLOCK_SLACK = timedelta(days=1)
"""How far a time may lie ahead before it is named: a computer may be in the wrong time zone."""


def concerns_of(files: Sequence[AnnotationFile], now: datetime) -> tuple[str, ...]:
    """A sentence about each thing: times in the future, nameless files that count as one, equal files."""
    return (*_in_future(files, now + CLOCK_SLACK), *_taken_for_one(files), *_equal(files))


def _in_future(files: Sequence[AnnotationFile], latest_possible: datetime) -> Iterator[str]:
    for file in files:
        answers = [answer.at for answer in file.answers if answer.at and answer.at > latest_possible]
        export = [file.exported_at] if file.exported_at and file.exported_at > latest_possible else []
        if answers or export:
            what = f"{len(answers)} answer{'s'[: len(answers) != 1]}" if answers else "the export"
            latest = max(answers + export).isoformat()
            yield (
                f"{file.path.name}: {what} of {file.annotator} dated in the future ({latest}), so a clock was"
                " wrong: within one browser the order of the answers counts, between browsers their time"
            )


def _taken_for_one(files: Sequence[AnnotationFile]) -> Iterator[str]:
    nameless: dict[str, list[AnnotationFile]] = defaultdict(list)
    for file in files:
        if not file.is_named:
            nameless[file.annotator].append(file)
    for same in nameless.values():
        if len({file.path for file in same}) > 1:
            names = ", ".join(file.path.name for file in same)
            yield f"{names} give no annotator's name and count as one: the newest answer counts"


def _equal(files: Sequence[AnnotationFile]) -> Iterator[str]:
    alike: dict[object, list[AnnotationFile]] = defaultdict(list)
    for file in files:
        alike[file.labels].append(file)
    for labels, same in alike.items():
        annotators = {file.annotator for file in same}
        if labels and len(annotators) > 1:
            names = some_of([file.path.name for file in same])
            yield f"{names} hold the same labels and count as {len(annotators)} annotators: is one a copy?"
