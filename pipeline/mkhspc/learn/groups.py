"""Which cells belong together: a model is judged on groups that it has not seen."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError, some_of
from mkhspc.learn.samples import Samples

Groups = NDArray[np.str_]


def groups_of(samples: Samples, group_by: str) -> Groups:
    """The group of each cell.

    Args:
        group_by: 'slide', 'scene' (of a slide), or the path of a CSV file with a header: a column
            `group`, and either `cell_id`, or `slide_id` and if need be `scene`.

    Returns:
        (n,) texts.

    Raises:
        InputError: the CSV file cannot be read, has other columns, names a key twice, or leaves a
            labelled cell without a group.
    """
    scenes = np.char.add(np.char.add(samples.slide_ids, "_s"), samples.scenes.astype(np.str_))
    if group_by == "slide":
        return samples.slide_ids
    if group_by == "scene":
        return scenes
    path = Path(group_by)
    columns, groups = _read(path)
    keys = {
        ("cell_id",): samples.cell_ids,
        ("slide_id",): samples.slide_ids,
        ("slide_id", "scene"): scenes,
    }[columns]
    missing = sorted(set(keys.tolist()) - set(groups))
    if missing:
        raise InputError(
            f"gives no group for {some_of(missing, 3)}",
            where=path,
            fix=f"every labelled {' and '.join(columns)} needs one",
        )
    return np.array([groups[key] for key in keys.tolist()], np.str_)


def _read(path: Path) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The key columns of a CSV file of groups, and the group of every key."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _key_columns(reader.fieldnames or (), path)
            groups: dict[str, str] = {}
            for key, group in _rows(reader, columns, path):
                if groups.setdefault(key, group) != group:
                    raise InputError(
                        f"puts {key} into two groups: {groups[key]} and {group}",
                        where=path,
                        fix="give it one",
                    )
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})",
            where=path,
            fix="--group-by takes slide, scene or a CSV file",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"is not a CSV file in UTF-8 ({error})", where=path, fix="save it as CSV in UTF-8"
        ) from error
    return columns, groups


def _key_columns(names: object, path: Path) -> tuple[str, ...]:
    found = set(names) if isinstance(names, (list, tuple)) else set()
    if "group" in found:
        for columns in (("cell_id",), ("slide_id", "scene"), ("slide_id",)):
            if found.issuperset(columns):
                return columns
    raise InputError(
        "lacks a column",
        where=path,
        fix="it needs `group`, and either `cell_id` or `slide_id` (with `scene` if need be)",
    )


def _rows(reader: csv.DictReader[str], columns: tuple[str, ...], path: Path) -> Iterator[tuple[str, str]]:
    for row in reader:
        values = [row[name] for name in (*columns, "group")]
        if not all(values):
            raise InputError(
                f"lacks a value in line {reader.line_num}",
                where=path,
                fix=f"fill in {' and '.join((*columns, 'group'))}",
            )
        *key, group = values
        yield "_s".join(key), group
