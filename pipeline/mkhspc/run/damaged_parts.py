"""Parts whose bytes have changed since they were written: set aside, so that their tiles are done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mkhspc.errors import IncompleteError, some_of
from mkhspc.store import tables
from mkhspc.store.damage import DAMAGED_SUFFIX, DamagedTableError
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

NAMED_PARTS = 8
"""Damaged parts that an error names."""


def set_aside_damaged(layout: RunLayout, manifest: Manifest, slide_id: str) -> list[str]:
    """Renames the damaged parts of a slide, which are missing then; returns their ids, slide and tile.

    Each part is read to its end once more, but those of excluded tiles. Only one whose bytes prove the damage
    is set aside.

    Raises:
        InputError: the disk did not let a part be read; no part is set aside for that.
    """
    damaged = []
    for tile_id in sorted(manifest.kept_tiles(layout, slide_id)):
        if _is_damaged(layout.part(slide_id, tile_id), manifest.config_hash):
            part = layout.part(slide_id, tile_id)
            part.rename(part.with_name(part.name + DAMAGED_SUFFIX))
            damaged.append(f"{slide_id}/{tile_id}")
    return damaged


def _is_damaged(part: Path, config_hash: str) -> bool:
    try:
        tables.verify(part, config_hash)
    except DamagedTableError:
        return True
    return False


def refuse_damaged(layout: RunLayout, damaged: Sequence[str]) -> None:
    """Raises `IncompleteError` that names the tiles whose parts were set aside, unless there are none."""
    if not damaged:
        return
    tiles = "1 tile" if len(damaged) == 1 else f"{len(damaged)} tiles"
    raise IncompleteError(
        f"the parts of {tiles} were damaged and set aside under names that end in {DAMAGED_SUFFIX}:"
        f" {some_of(damaged, NAMED_PARTS)}",
        where=layout.root,
        fix="run the same `mkhspc segment` again: it makes these tiles again, and all others are kept",
    )
