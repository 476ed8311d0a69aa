"""Labels of cells that have left the study with their slide or their tile."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import PLAN, CellName

_COLUMNS = PLAN.names[:6]


def left_out(
    layout: RunLayout, manifest: Manifest, slide_id: str, names: Sequence[CellName]
) -> set[CellName]:
    """The names, all of one slide, that lie in what is excluded of it.

    A tile owns the cells whose centroid lies in its core, so the point of a name tells its tile, whether
    or not the cell is in a table.
    """
    if manifest.is_excluded(slide_id):
        return set(names)
    tiles = [one.tile_id for one in manifest.exclusions if one.slide_id == slide_id]
    if not tiles:
        return set()
    plan = tables.read_table(layout.plan(slide_id), manifest.config_hash, columns=_COLUMNS)
    cores = plan.filter(pc.is_in(plan["tile_id"], value_set=pa.array(tiles, pa.string()))).to_pylist()
    return {name for name in names if any(_holds(core, name) for core in cores)}


def _holds(core: dict[str, int], name: CellName) -> bool:
    return (
        core["scene"] == name.scene
        and core["x0_px"] <= name.x < core["x1_px"]
        and core["y0_px"] <= name.y < core["y1_px"]
    )
