"""Which cells belong together: a model is judged on groups that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mkhspc.config.user_table import read_user_table
from mkhspc.errors import InputError, some_of
from mkhspc.learn.samples import Samples

Groups = NDArray[np.str_]
KEYS = (("cell_id",), ("slide_id", "scene"), ("slide_id",))
"""Columns that can name the cells of a group, the narrowest first."""
OPTION = "--group-by, which takes slide, scene or a CSV file"


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
    needed = [(*keys, "group") for keys in KEYS]
    table = read_user_table(path, {name for names in needed for name in names}, needed, OPTION)
    columns = next(keys for keys in KEYS if {*keys, "group"} <= set(table.columns))
    groups: dict[str, str] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        *key, group = (row[name] for name in (*columns, "group"))
        if not all((*key, group)):
            raise InputError(
                f"lacks a value in line {line}",
                where=path,
                fix=f"fill in {' and '.join((*columns, 'group'))}",
            )
        name = "_s".join(key)
        if groups.setdefault(name, group) != group:
            raise InputError(
                f"puts {name} into two groups: {groups[name]} and {group}", where=path, fix="give it one"
            )
    return columns, groups
