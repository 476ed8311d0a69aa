"""What a run holds, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import CheckFailedError
from mkhspc.store import cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest


@dataclass(frozen=True)
class RunSummary:
    """What is on disk of some slides.

    Attributes:
        tiles: how many are done.
        stored, in_filter: cells by type, all and those in the filter.
    """

    root: Path
    tiles: int
    stored: Mapping[CellType, int]
    in_filter: Mapping[CellType, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "root": str(self.root)}


@dataclass(frozen=True)
class ShardSummary:
    """A finished shard, such as '0/4', and its number of tiles; `merge` makes the tables of all shards."""

    root: Path
    shard: str
    tiles: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "root": str(self.root)}


def summarise(layout: RunLayout, manifest: Manifest, slide_ids: Sequence[str]) -> RunSummary:
    """Counts the tiles and cells of slides that are merged."""
    stored, in_filter = dict.fromkeys(CELL_TYPES, 0), dict.fromkeys(CELL_TYPES, 0)
    for slide_id in slide_ids:
        for rows in cells.cell_batches(layout, manifest, slide_id, ["cell_type", "in_filter"]):
            for cell_type in CELL_TYPES:
                of_type = pc.equal(rows["cell_type"], cell_type)
                stored[cell_type] += pc.sum(of_type).as_py() or 0
                in_filter[cell_type] += pc.sum(pc.and_(of_type, rows["in_filter"])).as_py() or 0
    tiles = sum(len(manifest.kept_tiles(layout, slide_id)) for slide_id in slide_ids)
    return RunSummary(layout.root, tiles, stored, in_filter)


def refuse_empty(summary: RunSummary) -> None:
    """Raises `CheckFailedError` when a whole run found nothing at all."""
    if not any(summary.stored.values()):
        raise CheckFailedError(
            "no cell was found in the whole run",
            where=summary.root,
            fix="check the slides with `mkhspc inspect --preview`, and the areas that were asked for",
        )
