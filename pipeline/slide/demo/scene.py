"""Places cells on a terrain, paints them, and reads the truth back from what is visible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.geometry import Box, IntArray, mask_centroid, mask_to_contour, normalise_mask
from pipeline.slide.demo.cells import KINDS, Body, Cell, Kind, Nucleus
from pipeline.slide.demo.paint import Canvas, Optics, Textures, soft_edge
from pipeline.slide.demo.shapes import FloatPlane
from pipeline.slide.demo.terrain import GROUND_UM_PER_PX, Terrain, TerrainStyle, make_terrain

TOUCHING_SHARE = 0.14
"""Share of small nuclei that are laid against an earlier one."""
GAP_AROUND_LARGE_UM = 0.8
GAP_AROUND_SMALL_UM = 0.35
RECENT = 400
"""Cells touch one of this many placed before them: of about their own size, since sizes fall."""
POINTS_PER_SEARCH = 2000
MIN_VISIBLE = 0.75
"""An object of which less is visible is not clear: neither answer about it is wrong."""


@dataclass(frozen=True)
class SceneStyle:
    """What decides how many cells lie in a scene, and on what ground.

    Attributes:
        nuclei_per_mm2: small nuclei and their like per mm² of marrow (tissue without fat and gaps).
        mk_per_mm2: true MK per mm² of marrow; look-alikes come on top by their shares.
        mk_scale: factor on the diameter of MK bodies.
    """

    terrain: TerrainStyle
    optics: Optics
    nuclei_per_mm2: float
    mk_per_mm2: float
    mk_scale: float = 1.0


@dataclass(frozen=True)
class Placed:
    """A cell and its centre, in µm from the scene's top-left corner."""

    cell: Cell
    centre_um: tuple[float, float]


@dataclass(frozen=True)
class TrueObject:
    """What lies in a scene: kind, and the visible outline in level-0 pixels."""

    kind: str
    x_px: float
    y_px: float
    area_px: int
    contour_px: IntArray
    clear: bool


@dataclass(frozen=True)
class SimulatedScene:
    """Pixels (height, width, 3) uint8 RGB, the truth, and the area that densities divide by."""

    rgb: NDArray[np.uint8]
    objects: tuple[TrueObject, ...]
    tissue_um2: float
    marrow_um2: float


def simulate_scene(
    size_um: tuple[float, float], um_per_px: float, style: SceneStyle, rng: np.random.Generator
) -> SimulatedScene:
    """Simulates one scene of (width, height) µm."""
    ground, layout, brush, camera = rng.spawn(4)
    terrain = make_terrain(size_um, style.terrain, ground)
    cells = place_cells(terrain, style, layout)
    shape = (round(size_um[1] / um_per_px), round(size_um[0] / um_per_px))
    canvas = Canvas(um_per_px, *(np.zeros(shape, np.float32) for _ in range(3)), np.zeros(shape, np.int32))
    textures = Textures(um_per_px, brush)
    terrain.lay(canvas, textures, brush)
    drawn = paint_cells(canvas, cells, textures, brush)
    pixel_um2 = GROUND_UM_PER_PX**2
    return SimulatedScene(
        style.optics.photograph(canvas, camera),
        tuple(_visible(canvas, cells, drawn)),
        float(terrain.tissue.sum()) * pixel_um2,
        float(terrain.marrow.sum()) * pixel_um2,
    )


class _Floor:
    """Where there is still room, at the terrain's pixel size."""

    def __init__(self, terrain: Terrain) -> None:
        self._free = terrain.marrow.astype(np.uint8)

    def _disc(self, centre_um: tuple[float, float], radius_um: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        x, y, r = centre_um[0] / GROUND_UM_PER_PX, centre_um[1] / GROUND_UM_PER_PX, radius_um / GROUND_UM_PER_PX
        rows = slice(max(0, int(y - r)), max(0, int(y + r) + 2))
        columns = slice(max(0, int(x - r)), max(0, int(x + r) + 2))
        part = self._free[rows, columns]
        v = np.arange(rows.start, rows.start + part.shape[0])[:, None] + 0.5 - y
        u = np.arange(columns.start, columns.start + part.shape[1])[None, :] + 0.5 - x
        return part, u * u + v * v <= r * r

    def is_free(self, centre_um: tuple[float, float], radius_um: float) -> bool:
        part, disc = self._disc(centre_um, radius_um)
        return part.size > 0 and bool(part[disc].all())

    def take(self, centre_um: tuple[float, float], radius_um: float) -> None:
        part, disc = self._disc(centre_um, radius_um)
        part[disc] = 0

    def points(self, margin_um: float, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Endless random points x, y in µm, at least `margin_um` from what was taken a while ago."""
        while True:
            depth = cv2.distanceTransform(self._free, cv2.DIST_L2, 3) * GROUND_UM_PER_PX
            spots = np.flatnonzero(depth > margin_um)
            if spots.size == 0:
                return
            rows, columns = np.divmod(rng.choice(spots, POINTS_PER_SEARCH), depth.shape[1])
            places = (np.stack([columns, rows], axis=1) + rng.random((rows.size, 2))) * GROUND_UM_PER_PX
            yield from map(tuple, places.tolist())


def place_cells(terrain: Terrain, style: SceneStyle, rng: np.random.Generator) -> list[Placed]:
    """Draws every cell and finds a place for it: large ones first, small nuclei in the gaps."""
    floor = _Floor(terrain)
    area_mm2 = float(terrain.marrow.sum()) * GROUND_UM_PER_PX**2 / 1e6
    large = _draw_large(style, area_mm2, rng)
    placed = _scatter(floor, large, rng)
    small = _draw_small(round(style.nuclei_per_mm2 * area_mm2), rng)
    return placed + _settle(floor, small, rng)


def _draw_large(style: SceneStyle, area_mm2: float, rng: np.random.Generator) -> list[Cell]:
    """True MK at their density, and look-alikes in a fixed proportion to the average density."""
    counts = {"mk": round(style.mk_per_mm2 * area_mm2)}
    for name, kind in KINDS.items():
        if kind.target == "mk" and name != "mk":
            counts[name] = round(_LOOK_ALIKES_PER_MM2 * kind.share * area_mm2)
    return [KINDS[name].draw(rng) for name, count in counts.items() for _ in range(count)]


_LOOK_ALIKES_PER_MM2 = 180.0


def _draw_small(count: int, rng: np.random.Generator) -> list[Cell]:
    small: dict[str, Kind] = {name: kind for name, kind in KINDS.items() if kind.target != "mk"}
    shares = np.array([kind.share for kind in small.values()])
    names = rng.choice(list(small), size=count, p=shares / shares.sum())
    # Large things first, while there is still room for them.
    return sorted((small[name].draw(rng) for name in names), key=lambda cell: -cell.extent_um)


def _scatter(floor: _Floor, cells: list[Cell], rng: np.random.Generator) -> list[Placed]:
    """Places each large cell anywhere that is free; one that finds no room is left out."""
    placed = []
    points = floor.points(8.0, rng)
    for cell in sorted(cells, key=lambda cell: -cell.extent_um):
        room = cell.extent_um + GAP_AROUND_LARGE_UM
        for centre in itertools.islice(points, 400):
            if floor.is_free(centre, room):
                floor.take(centre, room)
                placed.append(Placed(cell, centre))
                break
    return placed


def _settle(floor: _Floor, cells: list[Cell], rng: np.random.Generator) -> list[Placed]:
    """Places small cells: most where there is room, some against an earlier one."""
    placed: list[Placed] = []
    points = floor.points(1.5, rng)
    for cell in cells:
        reach = cell.extent_um + GAP_AROUND_SMALL_UM
        may_touch = cell.outline == "nucleus"
        for centre in itertools.islice(points, 12):
            touches = may_touch and bool(placed) and rng.random() < TOUCHING_SHARE
            if touches:
                neighbour = placed[int(rng.integers(max(0, len(placed) - RECENT), len(placed)))]
                centre = _beside(neighbour, cell, rng)
            if floor.is_free(centre, max(0.5, reach - 0.75) if touches else reach):
                floor.take(centre, reach)
                placed.append(Placed(cell, centre))
                break
    return placed


def _beside(other: Placed, cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    distance = other.cell.radius_um + cell.radius_um + rng.uniform(-0.1, 0.3)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    return (other.centre_um[0] + distance * np.cos(turn), other.centre_um[1] + distance * np.sin(turn))


def paint_cells(canvas: Canvas, cells: list[Placed], textures: Textures, rng: np.random.Generator) -> list[int]:
    """Paints all bodies, then all nuclei; cell k owns its outline as number k + 1.

    Returns:
        How many pixels of each cell's outline were drawn, before others covered some.
    """
    drawn = [0] * len(cells)
    for number, placed in enumerate(cells, start=1):
        if placed.cell.body is not None:
            mask_px = _paint_body(canvas, placed, number, textures, rng)
            drawn[number - 1] += mask_px if placed.cell.outline == "body" else 0
    for number, placed in enumerate(cells, start=1):
        for nucleus in placed.cell.nuclei:
            owns = number if placed.cell.outline != "body" else 0
            drawn_px = _paint_nucleus(canvas, placed, nucleus, owns, textures, rng)
            drawn[number - 1] += drawn_px if owns else 0
        if placed.cell.outline == "hull":
            drawn[number - 1] = _own_hull(canvas, placed, number)
    return drawn


def _paint_body(canvas: Canvas, placed: Placed, number: int, textures: Textures, rng: np.random.Generator) -> int:
    body, cell = placed.cell.body, placed.cell
    assert body is not None
    patch = canvas.patch(placed.centre_um, body.shape.extent_um + body.halo_um)
    depth = body.shape.depth(patch.x_um, patch.y_um)
    if body.halo_um > 0.0:
        halo = soft_edge(depth + body.halo_um, 0.8) * np.float32(0.75)
        canvas.cover(patch, halo, 0.01, 0.03)
    alpha = soft_edge(depth, 0.6) * np.float32(body.opacity)
    texture = textures.piece(body.grain[1], patch.shape, rng)
    strength = 1.0 + np.float32(body.grain[0]) * texture + 0.12 * np.exp(-np.square((depth - 0.3) / 0.5))
    strength = strength * _foam(body, patch.shape, textures, rng)
    canvas.cover(patch, alpha, body.stain.haem * strength, body.stain.eosin * strength)
    inside = depth > 0.0
    if cell.outline == "body":
        canvas.own(patch, inside, number)
    return int(inside.sum())


def _foam(body: Body, shape: tuple[int, int], textures: Textures, rng: np.random.Generator) -> FloatPlane | float:
    if body.foam == 0.0:
        return 1.0
    bubbles = np.clip(textures.piece(1.6, shape, rng), 0.0, 1.0)
    return 1.0 - np.float32(body.foam) * bubbles


def _paint_nucleus(
    canvas: Canvas, placed: Placed, nucleus: Nucleus, number: int, textures: Textures, rng: np.random.Generator
) -> int:
    centre = (placed.centre_um[0] + nucleus.offset_um[0], placed.centre_um[1] + nucleus.offset_um[1])
    patch = canvas.patch(centre, nucleus.shape.extent_um + nucleus.softness_um)
    depth = nucleus.shape.depth(patch.x_um, patch.y_um)
    alpha = soft_edge(depth, nucleus.softness_um)
    relative = 1.0 + np.float32(nucleus.contrast) * textures.piece(nucleus.grain_um, patch.shape, rng)
    relative += np.float32(nucleus.envelope) * np.exp(-np.square((depth - 0.35) / 0.35))
    for x, y, radius, darkness in nucleus.nucleoli:
        away = np.square(patch.x_um - np.float32(x)) + np.square(patch.y_um - np.float32(y))
        relative += np.float32(darkness) * np.exp(-away / np.float32(radius * radius))
    np.clip(relative, 0.3, 1.9, out=relative)
    canvas.cover(patch, alpha, nucleus.stain.haem * relative, nucleus.stain.eosin)
    if nucleus.pigment > 0.0:
        canvas.pigment[patch.rows, patch.columns] += alpha * np.float32(nucleus.pigment)
    inside = depth > 0.0
    if number:
        canvas.own(patch, inside, number)
    return int(inside.sum())


def _own_hull(canvas: Canvas, placed: Placed, number: int) -> int:
    """Gives an object of several pieces the convex hull around them."""
    patch = canvas.patch(placed.centre_um, placed.cell.extent_um)
    owner = canvas.owner[patch.rows, patch.columns]
    points = cv2.findNonZero((owner == number).astype(np.uint8))
    if points is None:
        return 0
    hull = np.zeros(owner.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    mask = (hull > 0) & ((owner == 0) | (owner == number))
    owner[mask] = number
    return int(mask.sum())


def _visible(canvas: Canvas, cells: list[Placed], drawn: list[int]) -> list[TrueObject]:
    """Reads the outline of every object from the pixels that it owns."""
    objects = []
    places = ndimage.find_objects(canvas.owner, max_label=len(cells))
    for number, (placed, place) in enumerate(zip(cells, places, strict=True), start=1):
        if place is None:
            continue
        mask = normalise_mask(canvas.owner[place] == number)
        y0, x0 = place[0].start, place[1].start
        x, y = mask_centroid(mask)
        box = Box(x0, y0, place[1].stop, place[0].stop)
        cut = box.x0 == 0 or box.y0 == 0 or box.x1 == canvas.box.x1 or box.y1 == canvas.box.y1
        whole = int(mask.sum()) >= MIN_VISIBLE * drawn[number - 1]
        contour = mask_to_contour(mask, x0, y0)
        clear = KINDS[placed.cell.kind].clear and whole and not cut
        objects.append(TrueObject(placed.cell.kind, x + x0, y + y0, int(mask.sum()), contour, clear))
    return objects
