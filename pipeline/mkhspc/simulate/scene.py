"""Simulates one scene: terrain, cells, picture, and the truth as far as it is visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mkhspc.geometry import Box, IntArray, mask_centroid, mask_to_contour, normalise_mask
from mkhspc.simulate.brush import Brush, Placed
from mkhspc.simulate.cells.kinds import KINDS
from mkhspc.simulate.paint import Canvas, Optics, Textures
from mkhspc.simulate.placement import Densities, place_cells
from mkhspc.simulate.terrain import TerrainStyle, make_terrain

MIN_VISIBLE = 0.75
"""An object of which a smaller share is visible is not clear: neither answer about it is wrong."""


@dataclass(frozen=True)
class SceneStyle:
    """What a scene is like: its ground, how many cells lie on it, stain and optics."""

    terrain: TerrainStyle
    densities: Densities
    optics: Optics


@dataclass(frozen=True)
class TrueObject:
    """What lies in a scene: kind, and the visible outline in level-0 pixels.

    Attributes:
        clear: False if neither finding it nor missing it is wrong: see `truth`.
    """

    kind: str
    x_px: float
    y_px: float
    area_px: int
    contour_px: IntArray
    clear: bool


@dataclass(frozen=True)
class SimulatedScene:
    """A scene and all that is known of it.

    Attributes:
        rgb: (height, width, 3) uint8, channels red, green, blue.
        tissue_um2: area inside the tissue's outline.
        marrow_um2: the same without fat and gaps: what densities were drawn for.
    """

    rgb: NDArray[np.uint8]
    objects: tuple[TrueObject, ...]
    tissue_um2: float
    marrow_um2: float


def simulate_scene(
    size_um: tuple[float, float], um_per_px: float, style: SceneStyle, rng: np.random.Generator
) -> SimulatedScene:
    """Simulates one scene of (width, height) µm."""
    ground_rng, place_rng, paint_rng, camera_rng = rng.spawn(4)
    terrain = make_terrain(size_um, style.terrain, ground_rng)
    cells = place_cells(terrain, style.densities, place_rng)
    canvas = Canvas.blank(size_um, um_per_px)
    textures = Textures(um_per_px, paint_rng)
    terrain.paint_on(canvas, textures, paint_rng)
    drawn_px = Brush(canvas, textures, paint_rng).paint(cells)
    if any(KINDS[placed.cell.kind].place == "fat" for placed in cells):
        terrain.lay_fat_over(canvas)
    return SimulatedScene(
        rgb=style.optics.photograph(canvas, camera_rng),
        objects=tuple(_visible_objects(canvas, cells, drawn_px)),
        tissue_um2=terrain.tissue_um2,
        marrow_um2=terrain.marrow_um2,
    )


def _visible_objects(canvas: Canvas, cells: list[Placed], drawn_px: list[int]) -> list[TrueObject]:
    """Reads the outline of every object from the pixels that it owns."""
    objects = []
    places = ndimage.find_objects(canvas.owner, max_label=len(cells))
    for number, (placed, place) in enumerate(zip(cells, places, strict=True), start=1):
        if place is None:
            continue
        mask = normalise_mask(canvas.owner[place] == number)
        box = Box(place[1].start, place[0].start, place[1].stop, place[0].stop)
        area_px = int(mask.sum())
        x, y = mask_centroid(mask)
        kind = KINDS[placed.cell.kind]
        whole = area_px >= MIN_VISIBLE * drawn_px[number - 1] and (
            kind.place == "border" or box == box.clipped(canvas.box.grown(-1))
        )
        objects.append(
            TrueObject(
                kind=placed.cell.kind,
                x_px=box.x0 + x,
                y_px=box.y0 + y,
                area_px=area_px,
                contour_px=mask_to_contour(mask, box.x0, box.y0),
                clear=kind.clear and whole,
            )
        )
    return objects
