"""Small runs on disk for tests of the later stages: written by the store, no detector involved."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from mkhspc.config import CellType, RunConfig, config_hash, identity
from mkhspc.config.identity import DRAW_BY_NAME, dataset_name
from mkhspc.geometry import Box, mask_to_contour
from mkhspc.run.opening.pending import pending_run
from mkhspc.store import atomic, manifest, tables
from mkhspc.store.cells import with_in_filter
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SceneEntry, SlideEntry
from mkhspc.store.schema import CROPS, PLAN, cell_names, cells_schema, feature_columns

FEATURES = ["shape_area_um2", "shape_circularity", "colour_red_mean", "texture_entropy", "texture_noise"]


@dataclass(frozen=True)
class FakeRun:
    """A run on disk, and for every cell id what an expert would say (True = positive)."""

    layout: RunLayout
    manifest: Manifest
    truth: dict[str, bool] = field(default_factory=dict)


def put_manifest(layout: RunLayout, wanted: Manifest) -> None:
    """Makes a manifest that of a run, whatever the run has."""
    newest = next(n for n in count(1) if not layout.manifest_revision(n + 1).exists())
    atomic.write_text(layout.manifest, manifest.dumps(replace(wanted, revision=newest)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_run(
    root: Path,
    *,
    slide_ids: tuple[str, ...] = ("FGC1", "FHU1", "MGC1"),
    scenes: int = 1,
    cells_per_type: int = 40,
    um_per_px: float = 0.22,
    separation: float = 2.0,
    seed: int = 0,
) -> FakeRun:
    """Writes a complete run: manifest, plan, cells, crops, and one part per tile.

    Args:
        cells_per_type: cells of each type per scene, about one in eight outside the filter.
        separation: distance between the classes' feature means, in standard deviations.
    """
    layout = RunLayout(root)
    run_manifest = _manifest(root, slide_ids, scenes, um_per_px, seed)
    put_manifest(layout, run_manifest)
    truth: dict[str, bool] = {}
    for number, slide_id in enumerate(slide_ids):
        rng = np.random.default_rng([seed, number])
        rows: list[dict[str, object]] = []
        for scene in range(scenes):
            for cell_type in ("mk", "hspc"):
                rows += _cells(rng, slide_id, scene, cell_type, cells_per_type, um_per_px, separation, truth)
        _write_slide(layout, run_manifest, slide_id, scenes, rows)
    return FakeRun(layout, run_manifest, truth)


def _manifest(root: Path, slide_ids: tuple[str, ...], scenes: int, um_per_px: float, seed: int) -> Manifest:
    base = RunConfig()
    config = replace(
        base,
        run=replace(base.run, output_dir=str(root), seed=seed),
        mk=replace(base.mk, detector="classical"),
        hspc=replace(base.hspc, detector="classical"),
    )
    settings = identity(config, {})
    codes = manifest.blind_codes(seed, list(slide_ids))
    return Manifest(
        config=config,
        identity=settings,
        dataset=dataset_name(config_hash(settings), list(slide_ids)),
        slides=tuple(
            SlideEntry(
                s,
                f"/slides/{s}.czi",
                1000,
                f"{s:0>16}",
                um_per_px,
                tuple(SceneEntry(k, 8192, 8192) for k in range(scenes)),
                codes[s],
            )
            for s in slide_ids
        ),
        filter={"mk": config.mk.filter, "hspc": config.hspc.filter},
        detectors={"mk": "classical", "hspc": "classical"},
        versions={"mkhspc": "test"},
        model_hashes={},
    )


def _cells(
    rng: np.random.Generator,
    slide_id: str,
    scene: int,
    cell_type: CellType,
    count: int,
    um_per_px: float,
    separation: float,
    truth: dict[str, bool],
) -> list[dict[str, object]]:
    low, high = (50.0, 4200.0) if cell_type == "mk" else (5.0, 300.0)
    inner = (110.0, 2000.0) if cell_type == "mk" else (11.0, 140.0)
    areas = np.where(
        rng.random(count) < 0.125,
        np.where(rng.random(count) < 0.5, low * 1.2, high * 0.9),
        np.exp(rng.uniform(*np.log(inner), count)),
    )
    radii_px = np.sqrt(areas / np.pi) / um_per_px
    spots = rng.choice(32 * 32, size=count, replace=False)
    masks = [_disc(r) for r in radii_px]
    centres = [(128 + 256 * (s % 32), 128 + 256 * (s // 32)) for s in spots.tolist()]
    boxes = [
        Box(
            x - m.shape[1] // 2,
            y - m.shape[0] // 2,
            x - m.shape[1] // 2 + m.shape[1],
            y - m.shape[0] // 2 + m.shape[0],
        )
        for (x, y), m in zip(centres, masks, strict=True)
    ]
    centroids = [(b.x0 + b.width / 2, b.y0 + b.height / 2) for b in boxes]
    names = cell_names(slide_id, scene, cell_type, centroids, [int(m.sum()) for m in masks])
    rows = []
    for name, box, mask, (x, y) in zip(names, boxes, masks, centroids, strict=True):
        positive = bool(rng.random() < 0.45)
        truth[str(name)] = positive
        shift = separation * positive
        area_px = int(mask.sum())
        features = rng.normal(size=len(FEATURES)) + shift * np.array([0, 1, 1, 0.5, 0])
        features[0] = area_px * um_per_px**2
        side = round((80 if cell_type == "mk" else 25) / um_per_px)
        origin = (int(x) - side // 2, int(y) - side // 2)
        rows.append(
            {
                "cell_id": str(name),
                "slide_id": slide_id,
                "scene": scene,
                "cell_type": cell_type,
                "tile_id": f"s{scene}_x{int(x) // 4096 * 4096:06d}_y{int(y) // 4096 * 4096:06d}",
                "x_px": x,
                "y_px": y,
                "x_um": x * um_per_px,
                "y_um": y * um_per_px,
                "area_px": area_px,
                "area_um2": area_px * um_per_px**2,
                "contour_px": mask_to_contour(mask, box.x0, box.y0).ravel().tolist(),
                "in_filter": False,
                "inside_mk_id": None,
                "inside_mk_ids": None,
                "touches_tissue_edge": False,
                "detector": "classical",
                "detector_score": float(rng.random()),
                "image": _picture(rng, side, box.shifted(-origin[0], -origin[1]), positive),
                "x0_px": origin[0],
                "y0_px": origin[1],
                "um_per_px": um_per_px,
                **dict(zip(FEATURES, features.tolist(), strict=True)),
            }
        )
    return rows


def _disc(radius_px: float) -> np.ndarray:
    r = int(np.ceil(radius_px))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    mask = x**2 + (y * 1.15) ** 2 <= radius_px**2
    return mask[mask.any(1)][:, mask.any(0)]


def _picture(rng: np.random.Generator, side: int, box: Box, positive: bool) -> bytes:
    noise = rng.integers(-8, 9, (side, side, 3))
    image = Image.new("RGB", (side, side), (236, 200, 222))
    draw = ImageDraw.Draw(image)
    draw.ellipse((box.x0, box.y0, box.x1, box.y1), fill=(90, 60, 140) if positive else (150, 110, 170))
    pixels = np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=True, method=0)
    return out.getvalue()


def write_cells(layout: RunLayout, run_manifest: Manifest, slide_id: str, table: pa.Table) -> None:
    """Writes one slide's cells, checked against the schema, with `in_filter` set."""
    cells = with_in_filter(table, run_manifest.filter)
    schema = cells_schema(feature_columns(cells.column_names))
    tables.write_table(
        layout.cells(slide_id), cells.select(schema.names).cast(schema), run_manifest.config_hash
    )


def _write_slide(
    layout: RunLayout, run_manifest: Manifest, slide_id: str, scenes: int, rows: list[dict[str, object]]
) -> None:
    table = pa.Table.from_pylist(rows)
    write_cells(layout, run_manifest, slide_id, table)
    crops = table.select(CROPS.names).cast(CROPS)
    tables.write_table(layout.crops(slide_id), crops, run_manifest.config_hash)
    tiles = [
        {
            "tile_id": f"s{k}_x{x:06d}_y{y:06d}",
            "scene": k,
            "x0_px": x,
            "y0_px": y,
            "x1_px": x + 4096,
            "y1_px": y + 4096,
            "tissue_area_um2": 5e5,
            "fat_free_area_um2": 4e5,
            "rank": 4 * k + n,
        }
        for k in range(scenes)
        for n, (x, y) in enumerate([(0, 0), (4096, 0), (0, 4096), (4096, 4096)])
    ]
    plan = pa.Table.from_pylist(tiles, schema=PLAN)
    tables.write_table(layout.plan(slide_id), plan, run_manifest.config_hash)
    for tile in tiles:
        part = table.filter(pa.compute.equal(table["tile_id"], tile["tile_id"]))
        tables.write_table(layout.part(slide_id, tile["tile_id"]), part, run_manifest.config_hash)


def begun_by_name(config: RunConfig) -> RunLayout:
    """A run as it was begun when a slide's name took part in the draw of calibration windows."""
    layout, begun, _ = committed(config)
    settings = identity(begun.config, begun.model_hashes, draw=DRAW_BY_NAME)
    put_manifest(layout, replace(begun, identity=settings))
    for plan in layout.root.glob("tiles/*"):
        plan.unlink()
    return layout


def committed(config: RunConfig, jobs_gpus: int | None = None) -> tuple[RunLayout, Manifest, tuple[str, ...]]:
    """The run of a config opened and committed: its layout, its manifest, the ids of the slides wanted."""
    with pending_run(config, jobs_gpus=jobs_gpus) as pending:
        return pending.layout, pending.commit(), pending.wanted
