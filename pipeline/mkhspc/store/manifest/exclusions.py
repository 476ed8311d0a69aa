"""Slides and tiles that have left a study, by name and reason.

What is excluded stays on disk, so that it can come back; it is in no table, no count and no area. Nothing is
drawn in its place: the run's fraction stays what it was, less what is excluded of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exclusion:
    """A slide, or one tile of it, that has left the study.

    Attributes:
        reason: why, in the words of whoever excluded it.
        tile_id: of the tile; None for the whole slide.
    """

    slide_id: str
    reason: str
    tile_id: str | None = None

    @property
    def name(self) -> str:
        """'SLIDE', or 'SLIDE/TILE', as commands take it."""
        return self.slide_id if self.tile_id is None else f"{self.slide_id}/{self.tile_id}"


def with_added(there: Sequence[Exclusion], added: Sequence[Exclusion]) -> tuple[Exclusion, ...]:
    """Exclusions by name, each with its last reason."""
    by_name = {one.name: one for one in (*there, *added)}
    return tuple(by_name[name] for name in sorted(by_name))


def without(there: Sequence[Exclusion], names: Sequence[str]) -> tuple[Exclusion, ...]:
    """Exclusions but those of these names."""
    return tuple(one for one in there if one.name not in names)


def summary_lines(exclusions: Sequence[Exclusion]) -> list[str]:
    """What is excluded and why, a line for each reason of a slide: 'A: 15 tiles (an image is broken)'."""
    tiles: dict[tuple[str, str], int] = {}
    lines = []
    for one in exclusions:
        if one.tile_id is None:
            lines.append(f"{one.slide_id}: the whole slide ({one.reason})")
        else:
            tiles[one.slide_id, one.reason] = tiles.get((one.slide_id, one.reason), 0) + 1
    lines += [
        f"{slide_id}: {count} tile{'' if count == 1 else 's'} ({reason})"
        for (slide_id, reason), count in tiles.items()
    ]
    return sorted(lines)
