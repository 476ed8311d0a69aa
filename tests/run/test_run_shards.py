"""Shards: parts of a slide's tiles, and what it costs to read them apart."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from czifiles import mosaic_blocks, noise, write_czi
from mkhspc.cluster.shard import Shard
from mkhspc.geometry import Box
from mkhspc.slide.tile_windows import order_tiles
from mkhspc.slide.tiles import Tile

CORE_PX, HALO_PX, BLOCK_PX = 64, 16, 100
READ_TWICE = 1.35
"""Bytes that four shards decode over those that one process does: neighbours share a row of blocks."""


def tiles(columns: int, rows: int, scenes: int = 1, seed: int = 0) -> list[Tile]:
    """Tiles in an order that says nothing of their place, as that of sampling."""
    cores = [
        (scene, Box(x, y, x + CORE_PX, y + CORE_PX))
        for scene in range(scenes)
        for y in range(0, rows * CORE_PX, CORE_PX)
        for x in range(0, columns * CORE_PX, CORE_PX)
    ]
    random.Random(seed).shuffle(cores)
    return [Tile(f"s{s}_{c.x0}_{c.y0}", s, c, 1.0, 1.0, rank) for rank, (s, c) in enumerate(cores)]


@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 2), st.integers(1, 120), st.integers(0, 99))
def test_shards_cover_every_tile_once_and_evenly(
    columns: int, rows: int, scenes: int, count: int, seed: int
) -> None:
    plan = tiles(columns, rows, scenes, seed)
    parts = [Shard(i, count).of(plan) for i in range(count)]
    assert Counter(tile.tile_id for part in parts for tile in part) == Counter(t.tile_id for t in plan)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    in_order = [(t.scene, t.core.y0, t.core.x0) for part in parts for t in part]
    assert in_order == sorted(in_order), "a part is a run of neighbours, and parts follow one another"


def test_of_few_tiles_the_last_shard_is_empty() -> None:
    plan = tiles(3, 1)
    assert Shard(99, 100).of(plan) == []
    assert len(Shard(0, 100).of(plan)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_four_shards_decode_little_more_than_one_process(tmp_path: Path, seed: int) -> None:
    side = 24
    path = write_czi(
        tmp_path / "a.czi", mosaic_blocks(noise(side * CORE_PX, side * CORE_PX), (0, 0), BLOCK_PX)
    )
    plan = tiles(side, side, seed=seed)

    def decoded_bytes(part: list[Tile]) -> int:
        return order_tiles("a", path, 0.25, part, lambda core: core.grown(HALO_PX), 10**8).cost.decoded_bytes

    apart = sum(decoded_bytes(Shard(i, 4).of(plan)) for i in range(4))
    assert apart <= READ_TWICE * decoded_bytes(plan)
