"""The survey of a slide: its tissue, its tiles and the colours of its scenes, before any tile is searched."""

from __future__ import annotations

from pathlib import Path

from mkhspc.config import RunSection
from mkhspc.config.identity import DRAW_BY_TISSUE
from mkhspc.slide.calibration import calibrate_scenes
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.tiles import TilePlan, load_tile_plan, plan_tiles, save_tile_plan
from mkhspc.slide.tissue import tissue_by_scene
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest


def prepare_tile_plan(layout: RunLayout, manifest: Manifest, slide_id: str) -> TilePlan:
    """The frozen tile plan of a slide: loaded when it is there, else made by a survey and saved.

    Raises:
        InputError: as for `load_tile_plan` and `survey_slide`.
    """
    if layout.plan(slide_id).exists():
        return load_tile_plan(layout, slide_id, manifest.config_hash)
    entry = manifest.slide(slide_id)
    run = manifest.config.run
    with CziSlide.open(Path(entry.path), entry.um_per_px, run.channel) as slide:
        plan = survey_slide(slide, run, manifest.calibration_draw)
    return save_tile_plan(layout, slide_id, plan, manifest.config_hash)


def survey_slide(slide: CziSlide, run: RunSection, draw: int = DRAW_BY_TISSUE) -> TilePlan:
    """Finds the tissue of a slide, cuts it into tiles and calibrates its scenes.

    Tissue and calibration depend on what the slide shows and the seed, never on the tile size.

    Args:
        run: tile size, seed, calibration windows, and the scenes that the run asks for.
        draw: the rule by which calibration windows are drawn; see `config.identity`.

    Raises:
        InputError: the slide is damaged, or a scene that the run asks for cannot be calibrated.
    """
    tissue = tissue_by_scene(slide)
    return TilePlan(
        tiles=plan_tiles(slide.info.slide_id, slide.info.read_scenes, tissue, run.tile_size, run.seed),
        tissue=tissue,
        calibration=calibrate_scenes(slide, tissue, run, draw),
    )
