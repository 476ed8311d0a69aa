"""Every path of a run, in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import InputError

_RENAME = "give another, or rename it"


@dataclass(frozen=True)
class RunLayout:
    """Paths inside a run directory. Making one touches no file.

    Raises:
        InputError: the directory's name is not UTF-8, and so no table can be written into it.
    """

    root: Path

    def __post_init__(self) -> None:
        try:
            str(self.root).encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                "the name of a run's directory must be UTF-8",
                where=self.root,
                fix=_RENAME,
            ) from error

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    def manifest_revision(self, revision: int) -> Path:
        """What the manifest became; the first is the manifest itself, which later shows the newest."""
        return self.root / f"manifest.{revision}.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def plan(self, slide_id: str) -> Path:
        """The frozen tile plan of a slide, with its tissue masks and calibration."""
        return self.root / "tiles" / f"{slide_id}.parquet"

    def part(self, slide_id: str, tile_id: str) -> Path:
        """The cells of one finished tile. Present = done."""
        return self.root / "parts" / slide_id / f"{tile_id}.parquet"

    def claim(self, slide_id: str, tile_id: str) -> Path:
        """Says which process works on a tile, while it does."""
        return self.root / "parts" / slide_id / f"{tile_id}.claim"

    def finished_tiles(self, slide_id: str) -> set[str]:
        """Ids of the tiles of a slide whose part is there."""
        return {path.stem for path in (self.root / "parts" / slide_id).glob("*.parquet")}

    def cells(self, slide_id: str) -> Path:
        return self.root / "cells" / f"{slide_id}.parquet"

    def crops(self, slide_id: str) -> Path:
        return self.root / "crops" / f"{slide_id}.parquet"

    def scores(self, slide_id: str) -> Path:
        return self.root / "scores" / f"{slide_id}.parquet"

    def classifier_summary(self, classifier_id: str) -> Path:
        """The summary of a classifier that scored the run; see `store.classifier_summary`."""
        return self.root / "scores" / f"{classifier_id}.json"


@dataclass(frozen=True)
class TablePlace:
    """What a table of a run is, by its path.

    Attributes:
        kind: the folder of its kind: 'tiles', 'parts', 'cells', 'crops' or 'scores'.
        tile_id: of a part.
    """

    run: Path
    kind: str
    slide_id: str
    tile_id: str | None = None


def place_of(table: Path) -> TablePlace:
    """Where in its run a table lies; touches no file."""
    folder = table.parent
    if folder.parent.name == "parts":
        return TablePlace(folder.parent.parent, "parts", folder.name, table.stem)
    return TablePlace(folder.parent, folder.name, table.stem)


MAX_SLIDE_ID_LENGTH = 150
"""Longest slide id, in characters: file names of 255 bytes at most are made of it."""
SIMULATED_PREFIX = "DEMO_"
"""The ids of slides that `mkhspc demo` has drawn begin so."""


def slide_id_of(path: Path) -> str:
    """A slide's id: its file stem, each run of characters outside `A-Za-z0-9.-` made `_`, none at its ends.

    The result is safe as a file name, in HTML, in a shell and in a cell id.

    Raises:
        InputError: if nothing of the name is left, or too much.
    """
    safe = _safe(path.stem)
    if not safe:
        raise InputError(
            "the file name has no letter or digit to make a slide id of", where=path, fix="rename the slide"
        )
    if len(safe) > MAX_SLIDE_ID_LENGTH:
        raise InputError(
            f"the file name is too long for a slide id: {len(safe)} characters",
            where=path,
            fix=f"rename the slide: at most {MAX_SLIDE_ID_LENGTH} characters are allowed",
        )
    return safe


def is_slide_id(text: str) -> bool:
    """Whether a text could be the id of a slide, and so is safe in a path."""
    return 0 < len(text) <= MAX_SLIDE_ID_LENGTH and text == _safe(text)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._-")


def is_simulated(slide_id: str) -> bool:
    """Whether a slide was drawn by `mkhspc demo`, which names its slides so that nobody can mistake them."""
    return slide_id.startswith(SIMULATED_PREFIX)


def distinct_slide_ids(paths: list[Path]) -> dict[str, Path]:
    """Slide ids and their files, in the order given; a file given twice counts once.

    Raises:
        InputError: two different files share one id, or one file has two.
    """
    slides: dict[str, Path] = {}
    ids: dict[Path, str] = {}
    for path in paths:
        slide_id = slide_id_of(path)
        other = slides.setdefault(slide_id, path)
        if other.resolve() != path.resolve():
            raise InputError(
                f"two slides have the name '{slide_id}': {other} and {path}",
                fix="rename one of them: cells are known by their slide's name",
            )
        other_id = ids.setdefault(path.resolve(), slide_id)
        if other_id != slide_id:
            raise InputError(
                f"is one slide under two names: {slides[other_id]} and {path}",
                where=path.resolve(),
                fix="give it once: its cells would count twice",
            )
    return slides
