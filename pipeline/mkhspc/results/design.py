"""Which slide is of which animal, batch and group: the design of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mkhspc.config.user_table import read_user_table
from mkhspc.errors import InputError, some_of
from mkhspc.store.manifest import Manifest

ORIGIN_COLUMNS = ("animal", "batch")
"""Columns of the groups file that say where a slide comes from; every other column is a factor to compare."""
ALL_SLIDES = "all slides"
"""The name of the one group where no factors are given."""


@dataclass(frozen=True)
class SlideOrigin:
    """Where a slide comes from.

    Attributes:
        animal: the unit of every statistic; the slide's own id when nothing is known.
        factors: level by factor, such as {"sex": "F", "treatment": "GC"}.
    """

    slide_id: str
    animal: str
    batch: str
    factors: Mapping[str, str]

    @property
    def group(self) -> str:
        """All levels together, such as 'F GC'."""
        return " ".join(self.factors.values()) or ALL_SLIDES


@dataclass(frozen=True)
class Design:
    """The slides of a run in the run's order, and the factors that all of them have a level of.

    Attributes:
        unit: what is counted as one observation: 'animal', or 'slide' where no animal is named.
        others: slides that were named and are not in the run.
    """

    factors: tuple[str, ...]
    slides: Mapping[str, SlideOrigin]
    unit: str = "slide"
    others: tuple[str, ...] = ()


def read_design(manifest: Manifest, groups_csv: Path | None = None) -> Design:
    """The design from a CSV file, or from the `[groups]` that the run was made with.

    Args:
        groups_csv: a CSV file with a header: `slide_id`, if known `animal` and `batch`, and any
            factors. Slides that are not in the run are ignored.

    Raises:
        InputError: the file cannot be read, names a slide twice, leaves a value empty, or lacks a
            slide of the run; or an animal's slides differ in a factor.
    """
    slide_ids = [s.slide_id for s in manifest.slides if not manifest.is_excluded(s.slide_id)]
    if groups_csv is None:
        rows, where = manifest.config.groups, "[groups]"
    else:
        rows, where = _read_csv(groups_csv), str(groups_csv)
    if not rows:
        return Design((), {s: SlideOrigin(s, s, "", {}) for s in slide_ids})
    missing = [slide_id for slide_id in slide_ids if slide_id not in rows]
    others = tuple(name for name in rows if name not in slide_ids)
    if missing:
        named = f"; it names {some_of(others)}, which the run does not have" if others else ""
        raise InputError(
            f"does not name {some_of(missing)} of this run{named}",
            where=where,
            fix="add a line for every slide of the run",
        )
    return replace(_design({slide_id: rows[slide_id] for slide_id in slide_ids}, where), others=others)


def _read_csv(path: Path) -> dict[str, dict[str, str]]:
    table = read_user_table(path, ("slide_id", *ORIGIN_COLUMNS), [("slide_id",)], "--groups")
    rows: dict[str, dict[str, str]] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        empty = [name for name, value in row.items() if not value]
        if empty:
            raise InputError(
                f"has no value for {', '.join(empty)}",
                where=f"{path}, line {line}",
                fix="give every column one value",
            )
        levels = dict(row)
        slide_id = levels.pop("slide_id")
        if slide_id in rows:
            raise InputError(f"names {slide_id} twice", where=path, fix="keep one line a slide")
        rows[slide_id] = levels
    if not rows:
        raise InputError("names no slide", where=path, fix="add a line for every slide of the run")
    return rows


def _design(rows: Mapping[str, Mapping[str, str]], where: str) -> Design:
    columns = dict.fromkeys(name for levels in rows.values() for name in levels)
    names = [name for name in columns if name not in ORIGIN_COLUMNS]
    for slide_id, levels in rows.items():
        lacking = [name for name in names if name not in levels]
        if lacking:
            raise InputError(
                f"gives {slide_id} no {', '.join(lacking)}",
                where=where,
                fix="give every slide a level of every factor",
            )
    slides = {
        slide_id: SlideOrigin(
            slide_id=slide_id,
            animal=levels.get("animal", slide_id),
            batch=levels.get("batch", ""),
            factors={name: levels[name] for name in names},
        )
        for slide_id, levels in rows.items()
    }
    _refuse_split_animals(list(slides.values()), where)
    are_animals_named = any("animal" in levels for levels in rows.values())
    return Design(tuple(names), slides, "animal" if are_animals_named else "slide")


def _refuse_split_animals(slides: Sequence[SlideOrigin], where: str) -> None:
    first: dict[str, SlideOrigin] = {}
    for slide in slides:
        other = first.setdefault(slide.animal, slide)
        if other.factors != slide.factors:
            raise InputError(
                f"puts animal {slide.animal} into two groups: {other.slide_id} and {slide.slide_id}",
                where=where,
                fix="give all slides of an animal the same levels",
            )
