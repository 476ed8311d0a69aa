"""Who gave which answer, over all files: one person's log must not count as that of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mkhspc.errors import InputError
from mkhspc.learn.labels.label import AnnotationFile, EventKey
from mkhspc.store.annotations import BLIND_REPEAT

Owners = dict[EventKey, tuple[str, AnnotationFile]]
"""Who gave an answer, and the first file that holds it."""


def with_authors(files: Sequence[AnnotationFile]) -> list[AnnotationFile]:
    """The files with the name of each nameless one that shares answers with others.

    Events that are alike in two files are one answer. It counts for the annotator whom the event names, else
    for that of the files; a nameless file that shares events with another was exported by the same person.

    Raises:
        InputError: two files hold the same events under two names.
    """
    owners: Owners = {}
    settled = dict(enumerate(files))
    for number in sorted(settled, key=lambda number: not files[number].is_named):
        file = settled[number] = _named(files[number], owners)
        _claim(file, owners)
    return [settled[number] for number in range(len(files))]


def overtaken(files: Sequence[AnnotationFile]) -> frozenset[EventKey]:
    """Answers after which another was given to the same cell in the same browser, by number, in any file."""
    newest: dict[tuple[str, ...], int] = {}
    numbered = [
        (_place(author, key), key) for file in files for author, key in _answers(file) if key[5] is not None
    ]
    for place, key in numbered:
        newest[place] = max(newest.get(place, 0), key[5] or 0)
    return frozenset(key for place, key in numbered if (key[5] or 0) < newest[place])


def _place(author: str, key: EventKey) -> tuple[str, ...]:
    cell_id, _, _, policy, browser, _ = key
    return author, cell_id, str(policy == BLIND_REPEAT), browser or ""


def _answers(file: AnnotationFile) -> Iterator[tuple[str, EventKey]]:
    for answer in file.answers:
        if answer.event is not None:
            yield answer.annotator or file.annotator, answer.event


def _named(file: AnnotationFile, owners: Owners) -> AnnotationFile:
    if file.is_named:
        return file
    own = [a.event for a in file.answers if a.annotator is None and a.event is not None]
    names = {owners[key][0] for key in own if key in owners}
    return replace(file, annotator=names.pop()) if len(names) == 1 else file


def _claim(file: AnnotationFile, owners: Owners) -> None:
    shared = [key for author, key in _answers(file) if owners.setdefault(key, (author, file))[0] != author]
    if shared:
        name, other = owners[shared[0]]
        answers = "1 answer" if len(shared) == 1 else f"{len(shared)} answers"
        raise InputError(
            f"holds {answers} that {other.path} has too, under another name ('{file.annotator}' here,"
            f" '{name}' there): one person would count as two",
            where=file.path,
            fix="leave one of the two files out, or export both again under the name of who gave the answers",
        )
