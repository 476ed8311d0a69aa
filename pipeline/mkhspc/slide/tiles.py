"""The frozen plan of a slide: its tiles, their order of sampling, its tissue and its calibration.

Tiles lie on a grid from the top-left corner of each scene. Every tile whose core touches tissue is
planned, and ranked by a hash of seed, slide and tile: a fraction of the slide is its first tiles by
rank, so that a larger fraction holds every smaller one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pyarrow as pa

from mkhspc.config import RunSection
from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.stains import SceneCalibration
from mkhspc.slide.tissue import TissueMask
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import PLAN
from mkhspc.store.tables import create_table, metadata_of, read_table
from mkhspc.store.untrusted_json import JsonLimits, parse_json
from mkhspc.units import MIB

_METADATA = JsonLimits(max_bytes=1024 * MIB, max_values=100_000, max_containers=1000)
"""The masks of 10,000 scenes, packed; their pixels are checked where they are unpacked."""
TISSUE_KEY = "mkhspc:tissue"
"""The key of the tissue masks in the metadata of the plan's file."""
CALIBRATION_KEY = "mkhspc:calibration"
"""The key of the calibrations in the metadata of the plan's file."""


@dataclass(frozen=True)
class Tile:
    """A piece of a scene that is searched as one.

    Attributes:
        core: level-0 pixels of the scene; the tile owns the cells whose centroids lie inside.
        tissue_area_um2, fat_free_area_um2: tissue in the core, and the part of it without fat.
        rank: place in the sampling order of the slide, from 0.
    """

    tile_id: str
    scene: int
    core: Box
    tissue_area_um2: float
    fat_free_area_um2: float
    rank: int


@dataclass(frozen=True)
class TilePlan:
    """Everything that is decided about a slide before its first tile is searched.

    Attributes:
        tiles: in sampling order.
        tissue: by scene; also of scenes without tissue.
        calibration: by scene; of scenes with tissue.
    """

    tiles: tuple[Tile, ...]
    tissue: Mapping[int, TissueMask]
    calibration: Mapping[int, SceneCalibration]


def plan_tiles(
    slide_id: str,
    scenes: Sequence[SceneInfo],
    tissue: Mapping[int, TissueMask],
    tile_size: int,
    seed: int,
) -> tuple[Tile, ...]:
    """The tiles of a slide that touch tissue, in sampling order.

    Args:
        tissue: by scene; scenes that are missing are not planned.
        tile_size: side of a core in pixels; cores at the far borders are cut by the scene.
        seed: decides the order, not which tiles there are.
    """
    tiles = [
        tile
        for scene in scenes
        if scene.index in tissue
        for tile in _tiles_of_scene(scene, tissue[scene.index], tile_size)
    ]
    tiles.sort(key=lambda tile: seeded_hash(seed, slide_id, tile.tile_id))
    return tuple(replace(tile, rank=rank) for rank, tile in enumerate(tiles))


def _tiles_of_scene(scene: SceneInfo, tissue: TissueMask, tile_size: int) -> list[Tile]:
    tiles = []
    for y0 in range(0, scene.height_px, tile_size):
        for x0 in range(0, scene.width_px, tile_size):
            core = Box(x0, y0, x0 + tile_size, y0 + tile_size).clipped(scene.box)
            tissue_um2, fat_free_um2 = tissue.area_um2(core)
            if tissue_um2 > 0:
                tile_id = f"s{scene.index}_{x0}_{y0}"
                tiles.append(Tile(tile_id, scene.index, core, tissue_um2, fat_free_um2, rank=0))
    return tiles


def seeded_hash(*parts: int | str) -> bytes:
    """32 bytes that look random and depend on the parts alone."""
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def sampled(tiles: Sequence[Tile], fraction: float) -> tuple[Tile, ...]:
    """The first max(1, ceil(fraction * n)) tiles by rank; none of none.

    The fraction counts as the decimal number it prints as: 0.1 of 30 tiles is 3, not 4.
    """
    count = max(1, math.ceil(Fraction(str(fraction)) * len(tiles)))
    return tuple(sorted(tiles, key=lambda tile: tile.rank)[:count])


def save_tile_plan(layout: RunLayout, slide_id: str, plan: TilePlan, config_hash: str) -> TilePlan:
    """Freezes a plan; returns the plan of the process that was first, which may be another's."""
    rows = {
        "tile_id": [tile.tile_id for tile in plan.tiles],
        "scene": [tile.scene for tile in plan.tiles],
        "x0_px": [tile.core.x0 for tile in plan.tiles],
        "y0_px": [tile.core.y0 for tile in plan.tiles],
        "x1_px": [tile.core.x1 for tile in plan.tiles],
        "y1_px": [tile.core.y1 for tile in plan.tiles],
        "tissue_area_um2": [tile.tissue_area_um2 for tile in plan.tiles],
        "fat_free_area_um2": [tile.fat_free_area_um2 for tile in plan.tiles],
        "rank": [tile.rank for tile in plan.tiles],
    }
    masks = {s: base64.b64encode(mask.to_bytes()).decode() for s, mask in sorted(plan.tissue.items())}
    calibration = {s: entry.to_dict() for s, entry in sorted(plan.calibration.items())}
    metadata = {TISSUE_KEY: json.dumps(masks), CALIBRATION_KEY: json.dumps(calibration)}
    try:
        create_table(layout.plan(slide_id), pa.table(rows, PLAN), config_hash, metadata=metadata)
    except FileExistsError:
        return load_tile_plan(layout, slide_id, config_hash)
    return plan


def load_tile_plan(layout: RunLayout, slide_id: str, config_hash: str) -> TilePlan:
    """Reads the frozen plan of a slide.

    Raises:
        InputError: it is missing, damaged, or belongs to a run with other settings.
    """
    path = layout.plan(slide_id)
    table = read_table(path, config_hash)
    try:
        metadata = metadata_of(table)
        masks = parse_json(metadata[TISSUE_KEY], _METADATA)
        calibration = parse_json(metadata[CALIBRATION_KEY])
        return TilePlan(
            tiles=tuple(_tile(row) for row in table.cast(PLAN).to_pylist()),
            tissue={int(s): TissueMask.from_bytes(base64.b64decode(text)) for s, text in masks.items()},
            calibration={int(s): SceneCalibration.from_dict(entry) for s, entry in calibration.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, pa.ArrowInvalid) as error:
        raise InputError(
            f"is damaged ({error!r})", where=path, fix="restore it, or segment into a new directory"
        ) from error


def _tile(row: Mapping[str, str | int | float]) -> Tile:
    x0, y0, x1, y1 = (int(row[name]) for name in ("x0_px", "y0_px", "x1_px", "y1_px"))
    return Tile(
        tile_id=str(row["tile_id"]),
        scene=int(row["scene"]),
        core=Box(x0, y0, x1, y1),
        tissue_area_um2=float(row["tissue_area_um2"]),
        fat_free_area_um2=float(row["fat_free_area_um2"]),
        rank=int(row["rank"]),
    )


def is_wanted_scene(run: RunSection, scene: int) -> bool:
    """Whether a run asks for a scene: it names scenes with --scene, or wants all."""
    return not run.scenes or scene in run.scenes


def chosen_tiles(manifest: Manifest, slide_id: str, plan: TilePlan) -> list[Tile]:
    """The tiles of a slide that the run's scenes and fraction ask for, in sampling order.

    Those that are excluded are left out, and none is drawn in their place.

    Raises:
        InputError: they lie in a scene that could not be calibrated.
    """
    tiles = [tile for tile in plan.tiles if is_wanted_scene(manifest.config.run, tile.scene)]
    without = sorted({tile.scene for tile in tiles} - set(plan.calibration))
    if without:
        raise InputError(
            f"scene {without[0]} could not be calibrated when the slide was surveyed",
            fix="leave it out with --scene",
        )
    chosen = sampled(tiles, manifest.config.run.sample_fraction)
    return [tile for tile in chosen if not manifest.is_excluded(slide_id, tile.tile_id)]
