"""Reads labels: the gallery's export and every older shape of the same lab.

    mkhspc-annotations  what the gallery exports today
    A   {"mk": {"positive": [...], "negative": [...], "unsure": [...]}, "hspc": {...}}
    B   {"cell_type": "mk", "positive": [...], "negative": [...], "unsure": [...]}
    C   as B, with "exported_at"
    D   {"annotations": {id: "yes" | "no" | "unsure" | 1 | 0 | 2}}
    E   {id: 1 | 0 | 2}, or by page {"mk_labels_page1": {id: 1}, ...}

Keys that a shape does not know are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.learn.labels.events import Events, plain_name, read_events
from mkhspc.learn.labels.label import (
    EXPORT_AGAIN,
    AnnotationFile,
    Label,
    Presentation,
    Repeat,
    checked_id,
    is_cell_id,
    make_label,
    parse_time,
)
from mkhspc.store.annotations import ANONYMOUS, FORMAT, VALUES, VERSION, Value
from mkhspc.store.untrusted_json import LABELS, read_json

Entry = tuple[object, CellType | None, Value]
"""An id as the file writes it, the type that the file states (None: the id tells), the answer."""

_ANSWERS: Mapping[tuple[type, object], Value] = {
    (str, "yes"): "positive", (str, "no"): "negative", (str, "unsure"): "unsure",
    (int, 1): "positive", (int, 0): "negative", (int, 2): "unsure",
}  # fmt: skip
_PAGE = re.compile(r"(mk|hspc)_labels_page\d+")


def read_annotations(path: Path) -> AnnotationFile:
    """Reads one file of labels.

    Raises:
        InputError: the file is not JSON or has an unknown shape; or it holds only negatives, integer
            ids, no label at all, or a value that is not a label.
    """
    data = read_json(path, LABELS)
    shape = _shape(data, path)
    entries = list(_READERS[shape](data, path))
    is_ours = shape == FORMAT
    events = read_events(data, path) if is_ours else Events()
    labels = tuple(_label(entry, events, path) for entry in entries)
    if not labels and not events.answers:
        raise InputError("holds no label", where=path, fix="leave the file out")
    listed = {label.cell_id: label.value for label in labels}
    name = plain_name(_text(data, "annotator", path)) if is_ours else ""
    return AnnotationFile(
        path=path,
        shape=shape,
        annotator=name if name not in ("", ANONYMOUS) else _nameless(labels, path, is_ours),
        labels=labels,
        is_named=name not in ("", ANONYMOUS),
        repeats=_repeats(entries, events),
        withdrawn=events.withdrawn(listed),
        answers=events.answers,
        superseded=events.superseded(listed),
        dataset=_text(data, "dataset", path) if is_ours else None,
        config_hash=_text(data, "config_hash", path) if is_ours else None,
        exported_at=parse_time(data.get("exported_at"), path) if shape in (FORMAT, "C") else None,
    )


def _shape(data: Any, path: Path) -> str:
    if isinstance(data, list):
        for text in data[:1]:
            checked_id(text, path)
        raise _only_negatives(path) if data else _unknown(path)
    if not isinstance(data, dict) or not data:
        raise _unknown(path)
    if "format" in data:
        return _own_format(data, path)
    if isinstance(data.get("annotations"), dict):
        return "D"
    if "cell_type" in data:
        return "C" if "exported_at" in data else "B"
    if any(cell_type in data for cell_type in CELL_TYPES):
        return "A"
    if {"negative", "negatives"} & set(data) and "positive" not in data:
        raise _only_negatives(path)
    return "E"


def _own_format(data: dict[str, Any], path: Path) -> str:
    if data["format"] != FORMAT:
        raise InputError(
            f"is of the format {str(data['format'])[:40]!r}; labels are {FORMAT!r}",
            where=path,
            fix="name a file that the gallery exported",
        )
    if isinstance(data.get("version"), bool) or data.get("version") != VERSION:
        raise InputError(
            f"is of version {str(data.get('version'))[:20]} of {FORMAT}; this program reads {VERSION}",
            where=path,
            fix="convert it with the mkhspc that its gallery was made with",
        )
    return FORMAT


def _by_type(data: dict[str, Any], path: Path) -> Iterator[Entry]:
    for cell_type in CELL_TYPES:
        if cell_type in data:
            yield from _lists(data[cell_type], cell_type, path)


def _one_type(data: dict[str, Any], path: Path) -> Iterator[Entry]:
    cell_type = data["cell_type"]
    if cell_type not in CELL_TYPES:
        raise InputError(
            f"has cell_type {str(cell_type)[:20]!r}; it must be 'mk' or 'hspc'", where=path, fix=EXPORT_AGAIN
        )
    yield from _lists(data, cell_type, path)


def _lists(section: Any, cell_type: CellType, path: Path) -> Iterator[Entry]:
    if isinstance(section, list):
        raise _only_negatives(path)
    if not isinstance(section, dict):
        raise _unknown(path)
    if section.get("negative") and "positive" not in section:
        raise _only_negatives(path)
    for value in VALUES:
        ids = section.get(value, [])
        if not isinstance(ids, list):
            raise InputError(
                f"'{value}' of {cell_type} is not a list of cell ids", where=path, fix=EXPORT_AGAIN
            )
        yield from ((text, cell_type, value) for text in ids)


def _answers(data: dict[str, Any], path: Path) -> Iterator[Entry]:
    yield from ((text, None, _value(text, answer, path)) for text, answer in data["annotations"].items())


def _flat_or_paged(data: dict[str, Any], path: Path) -> Iterator[Entry]:
    pages = {key: page for key, page in data.items() if _PAGE.fullmatch(key)}
    # beside pages, a number under a key that is not a cell is a setting, such as the page last seen
    flat = {
        text: answer
        for text, answer in data.items()
        if is_cell_id(text) or (isinstance(answer, int) and not pages)
    }
    if not pages and not flat:
        raise _unknown(path)
    for key, page in pages.items():
        if not isinstance(page, dict):
            raise InputError(f"'{key}' does not hold labels by cell id", where=path, fix=EXPORT_AGAIN)
        cell_type: CellType = "mk" if key.startswith("mk") else "hspc"
        yield from ((text, cell_type, _value(text, answer, path)) for text, answer in page.items())
    yield from ((text, None, _value(text, answer, path)) for text, answer in flat.items())


_READERS: Mapping[str, Callable[[dict[str, Any], Path], Iterator[Entry]]] = {
    FORMAT: _by_type,
    "A": _by_type,
    "B": _one_type,
    "C": _one_type,
    "D": _answers,
    "E": _flat_or_paged,
}


def _value(text: str, answer: object, path: Path) -> Value:
    # the type is part of the key because Python holds True, 1 and 1.0 for equal
    value = _ANSWERS.get((type(answer), answer)) if isinstance(answer, (str, int)) else None
    if value is None:
        raise InputError(
            f"gives '{text[:80]}' the label {str(answer)[:20]!r}",
            where=path,
            fix="a label is yes, no or unsure, or 1, 0 or 2",
        )
    return value


def _label(entry: Entry, events: Events, path: Path) -> Label:
    text, cell_type, value = entry
    event = events.standing(text.strip(), value) if isinstance(text, str) else None
    return make_label(text, cell_type, value, Presentation() if event is None else event.shown, path)


def _repeats(entries: list[Entry], events: Events) -> tuple[Repeat, ...]:
    repeats = []
    for text, cell_type, first in entries if events.repeats else ():
        again = events.repeats.get(str(text).strip())
        if again is not None and cell_type is not None:
            repeats.append(Repeat(cell_type, first, again))
    return tuple(repeats)


def _nameless(labels: tuple[Label, ...], path: Path, is_ours: bool) -> str:
    """Who answered, where no name was given: nameless answers whose times are known are one person's."""
    is_timed = is_ours and all(label.presentation.at is not None for label in labels)
    return ANONYMOUS if is_timed else path.stem


def _text(data: dict[str, Any], key: str, path: Path) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"'{key}' is not a text", where=path, fix=EXPORT_AGAIN)
    return value


def _only_negatives(path: Path) -> InputError:
    return InputError(
        "holds only negative labels: without positive ones a classifier cannot learn",
        where=path,
        fix="export the positive labels with them",
    )


def _unknown(path: Path) -> InputError:
    return InputError(
        "does not have the shape of any labels that mkhspc reads",
        where=path,
        fix="use the gallery's export, or one of the older shapes in `mkhspc convert --help`",
    )
