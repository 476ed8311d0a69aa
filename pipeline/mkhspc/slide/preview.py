"""A small picture of a slide with its tissue, its fat and its tiles drawn in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.geometry import BoolMask, Box
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.inspect import SlideReport
from mkhspc.slide.model import SceneInfo
from mkhspc.slide.tiles import Tile
from mkhspc.slide.tissue import TissueMask, seen_around_damage
from mkhspc.store import atomic

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

LONGEST_SIDE_PX = 1600
"""The longer side of the largest scene in the picture, in pixels at most."""
MOST_PX = 64_000_000
"""Pixels of all scenes in the picture at most: 25 of the largest."""
TISSUE_COLOUR: Colour = (0, 130, 60)
FAT_COLOUR: Colour = (220, 120, 0)
TILE_COLOUR: Colour = (40, 40, 40)
DAMAGE_COLOUR: Colour = (200, 0, 120)
"""Of the crossed boxes where images cannot be decoded."""
PAPER: Colour = (250, 250, 250)
"""The colour around the scenes."""
MARGIN_PX = 24
"""The space above a scene for its caption, in pixels; the other sides have a third of it."""


def draw_preview(slide: CziSlide, report: SlideReport) -> tuple[Picture, bool]:
    """All scenes of a slide that can be read, one below the other.

    Green outlines tissue, orange fat, dark lines the cores of the planned tiles; a crossed box is an image
    that cannot be decoded. Without a pixel size there is only the picture.

    Returns:
        (h, w, 3) uint8 RGB, and whether it shows damage.

    Raises:
        InputError: the slide is not RGB, or a disk or a server does not answer.
    """
    slide.require_rgb()
    factor = preview_factor(slide.info.read_scenes)
    panels, is_damaged = [], False
    for scene in slide.info.read_scenes:
        picture, unseen = seen_around_damage(slide, scene.index, factor)
        if scene.index in report.tissue:
            tiles = [tile for tile in report.tiles or () if tile.scene == scene.index]
            _draw(picture, factor, report.tissue[scene.index], tiles)
        for box in (*unseen, *report.damaged.get(scene.index, ())):
            _cross_out(picture, box, factor)
            is_damaged = True
        panels.append(_with_caption(picture, scene))
    return _stacked(panels), is_damaged


def preview_factor(scenes: Sequence[SceneInfo]) -> int:
    """Level-0 pixels for each of the picture, so that no scene is too long and all together not too large."""
    longest_px = max(max(scene.width_px, scene.height_px) for scene in scenes)
    whole_px = sum(scene.box.area_px for scene in scenes)
    return max(1, -(-longest_px // LONGEST_SIDE_PX), math.ceil(math.sqrt(whole_px / MOST_PX)))


def write_png(path: Path, picture: Picture) -> None:
    """Writes an RGB picture, whole or not at all.

    Raises:
        InputError: the file cannot be written there.
    """
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    try:
        atomic.write_bytes(path, encoded.tobytes())
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", where=path, fix="give another file with --preview"
        ) from error


def _draw(picture: Picture, factor: int, tissue: TissueMask, tiles: Sequence[Tile]) -> None:
    for mask, colour in ((tissue.tissue & ~tissue.fat_free, FAT_COLOUR), (tissue.tissue, TISSUE_COLOUR)):
        _outline(picture, _resampled(mask, tissue.factor, factor, picture.shape[:2]), colour)
    for tile in tiles:
        x0, y0, x1, y1 = (c // factor for c in (tile.core.x0, tile.core.y0, tile.core.x1, tile.core.y1))
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), TILE_COLOUR, 1)


def _cross_out(picture: Picture, box: Box, factor: int) -> None:
    x0, y0, x1, y1 = box.x0 // factor, box.y0 // factor, (box.x1 - 1) // factor, (box.y1 - 1) // factor
    cv2.rectangle(picture, (x0, y0), (x1, y1), DAMAGE_COLOUR, 2)
    for start, end in (((x0, y0), (x1, y1)), ((x0, y1), (x1, y0))):
        cv2.line(picture, start, end, DAMAGE_COLOUR, 1)


def _resampled(mask: BoolMask, mask_factor: int, factor: int, shape: tuple[int, int]) -> BoolMask:
    """The mask at the picture's scale: the mask pixel under the centre of each picture pixel."""
    rows, columns = (
        np.minimum((np.arange(n) * factor + factor // 2) // mask_factor, limit - 1)
        for n, limit in zip(shape, mask.shape, strict=True)
    )
    resampled: BoolMask = mask[np.ix_(rows, columns)]
    return resampled


def _outline(picture: Picture, mask: BoolMask, colour: Colour) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 2)


def _with_caption(picture: Picture, scene: SceneInfo) -> Picture:
    framed = cv2.copyMakeBorder(
        picture, MARGIN_PX, MARGIN_PX // 3, MARGIN_PX // 3, MARGIN_PX // 3, cv2.BORDER_CONSTANT, value=PAPER
    )
    text = f"scene {scene.index}"
    cv2.putText(
        framed, text, (MARGIN_PX // 3, MARGIN_PX * 2 // 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TILE_COLOUR
    )
    return np.asarray(framed, np.uint8)


def _stacked(panels: Sequence[Picture]) -> Picture:
    width = max(panel.shape[1] for panel in panels)
    height = sum(panel.shape[0] for panel in panels)
    sheet = np.empty((height, width, 3), np.uint8)
    sheet[:] = PAPER
    top = 0
    for panel in panels:
        sheet[top : top + panel.shape[0], : panel.shape[1]] = panel
        top += panel.shape[0]
    return sheet
