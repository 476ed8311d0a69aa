"""One part of the tiles of every slide, for one process of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mkhspc.errors import UsageError
from mkhspc.slide.tiles import Tile


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of every slide's tiles, counted from 0.

    A part holds neighbours in reading order: two parts read a sub-block twice only where they meet.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"shard {self.index}/{self.count} does not exist",
                fix="shards are counted from 0: of three they are --shard 0/3, 1/3 and 2/3",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard written as `I/N`."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UsageError(f"'{text}' is not a shard", where="--shard", fix="write it as I/N, such as 0/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, tiles: Sequence[Tile]) -> list[Tile]:
        """Returns its part of a slide's tiles, in any order; of few tiles the first parts get one each."""
        in_order = sorted(tiles, key=lambda tile: (tile.scene, tile.core.y0, tile.core.x0))
        first, end = (math.ceil(len(in_order) * nth / self.count) for nth in (self.index, self.index + 1))
        return in_order[first:end]
