"""Finds a place for every cell of a scene: large ones first, small nuclei in the gaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import BoolMask
from mkhspc.simulate.brush import Placed
from mkhspc.simulate.cells.cell import Cell
from mkhspc.simulate.cells.kinds import KINDS, TEXTBOOK, Mixture
from mkhspc.simulate.cells.shapes import turned
from mkhspc.simulate.terrain import GROUND_UM_PER_PX, Terrain

TOUCHING_SHARE = 0.14
"""The share of tries in which a small nucleus is laid against an earlier one."""
RECENT = 400
"""A nucleus that touches another touches one of this many placed just before it: they are about its size,
because sizes fall."""
GAP_AROUND_LARGE_UM = 0.8
"""The gap in µm that is left around a large cell."""
GAP_AROUND_SMALL_UM = 0.35
"""The gap in µm that is left around a small nucleus."""
AT_FAT = 0.72
"""How far from a fat cell the centre of an MK at its edge lies, as a share of the MK's radius."""
CUT = (0.15, 0.6)
"""How far from the scene's border the centre of an MK that it cuts lies, as shares of the MK's radius."""
CROWDED = 0.62
"""The share of its room that a crowded MK keeps free of small cells."""
MOSTLY = 0.7
"""The share of a cell's disc that must be free where fat or the scene's border cuts into it."""
POINTS_PER_SEARCH = 2000
"""How many random points are drawn before it is looked again where there is room."""


@dataclass(frozen=True)
class Densities:
    """Objects per mm² of marrow (tissue without fat and gaps).

    Attributes:
        small: small nuclei and their like, all kinds together.
        mk: true megakaryocytes.
        mk_like: large objects that are mistaken for MK.
        clumps: tight clumps of small nuclei, which are mistaken for MK too.
        mixture: of which kinds they are.
    """

    small: float
    mk: float
    mk_like: float
    clumps: float
    mixture: Mixture = TEXTBOOK


def place_cells(terrain: Terrain, densities: Densities, rng: np.random.Generator) -> list[Placed]:
    """Draws every cell and finds a place for it; a cell that finds none is left out."""
    area_mm2 = terrain.marrow_um2 / 1e6
    free = _FreeArea(terrain)
    mixture = densities.mixture
    large = _draw(rng, mixture.mk_like, round(densities.mk_like * area_mm2))
    large += _draw(rng, mixture.mk, round(densities.mk * area_mm2))
    small = _draw(rng, mixture.small, round(densities.small * area_mm2))
    clumped = _place_clumps(free, round(densities.clumps * area_mm2), rng)
    return _place_large(free, large, rng) + clumped + _place_small(free, small, rng)


def _draw(rng: np.random.Generator, shares: Mapping[str, float], count: int) -> list[Cell]:
    names = list(shares) * count
    if len(shares) > 1:  # with one kind there is nothing to choose
        chances = np.array(list(shares.values()))
        names = rng.choice(list(shares), size=count, p=chances / chances.sum()).tolist()
    return [KINDS[name].draw(rng) for name in names]


def _widest_first(cells: list[Cell]) -> list[Cell]:
    """Sorts cells so that the widest are placed while there is still room for them."""
    return sorted(cells, key=lambda cell: -cell.extent_um)


class _FreeArea:
    """Where there is still room, at the terrain's pixel size."""

    def __init__(self, terrain: Terrain) -> None:
        self._free = terrain.marrow.astype(np.uint8)
        self._fat = terrain.fat

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height of the scene."""
        rows, columns = self._free.shape
        return columns * GROUND_UM_PER_PX, rows * GROUND_UM_PER_PX

    def is_mostly_free(self, centre_um: tuple[float, float], radius_um: float) -> bool:
        """Whether a centre is free, and most of a disc around it that lies in the scene."""
        part, disc = self._disc(centre_um, radius_um)
        return part.size > 0 and self.is_free(centre_um, 1.0) and float(part[disc].mean()) >= MOSTLY

    def is_free(self, centre_um: tuple[float, float], radius_um: float) -> bool:
        part, disc = self._disc(centre_um, radius_um)
        return part.size > 0 and bool(part[disc].all())

    def occupy(self, centre_um: tuple[float, float], radius_um: float) -> None:
        part, disc = self._disc(centre_um, radius_um)
        part[disc] = 0

    def points(self, margin_um: float, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Random points x, y in µm, `margin_um` from all that was occupied before the last search."""
        while True:
            depth_um = cv2.distanceTransform(self._free, cv2.DIST_L2, 3) * GROUND_UM_PER_PX
            spots = np.flatnonzero(depth_um > margin_um)
            if spots.size == 0:
                return
            rows, columns = np.divmod(rng.choice(spots, POINTS_PER_SEARCH), self._free.shape[1])
            places = (np.stack([columns, rows], axis=1) + rng.random((rows.size, 2))) * GROUND_UM_PER_PX
            yield from ((float(x), float(y)) for x, y in places)

    def fat_edges(self, away_um: float, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Random free points x, y in µm at about this distance from a fat cell."""
        depth_um = cv2.distanceTransform((~self._fat).astype(np.uint8), cv2.DIST_L2, 3) * GROUND_UM_PER_PX
        spots = np.flatnonzero((np.abs(depth_um - away_um) < GROUND_UM_PER_PX) & (self._free > 0))
        for spot in rng.permutation(spots).tolist():
            row, column = divmod(spot, self._free.shape[1])
            yield (column + 0.5) * GROUND_UM_PER_PX, (row + 0.5) * GROUND_UM_PER_PX

    def _disc(self, centre_um: tuple[float, float], radius_um: float) -> tuple[NDArray[np.uint8], BoolMask]:
        """The part of the area around a disc, and the disc in it."""
        x, y, r = (value / GROUND_UM_PER_PX for value in (*centre_um, radius_um))
        rows = slice(max(0, int(y - r)), max(0, int(y + r) + 2))
        columns = slice(max(0, int(x - r)), max(0, int(x + r) + 2))
        part = self._free[rows, columns]
        v = np.arange(rows.start, rows.start + part.shape[0])[:, None] + 0.5 - y
        u = np.arange(columns.start, columns.start + part.shape[1])[None, :] + 0.5 - x
        return part, u * u + v * v <= r * r


def _place_large(free: _FreeArea, cells: list[Cell], rng: np.random.Generator) -> list[Placed]:
    """Places large cells: those with a place of their own first, then the others anywhere that is free."""
    placed = []
    special = [cell for cell in cells if KINDS[cell.kind].place in ("fat", "border")]
    for cell in _widest_first(special):
        at_fat = KINDS[cell.kind].place == "fat"
        points = free.fat_edges(AT_FAT * cell.radius_um, rng) if at_fat else _across_border(free, cell, rng)
        for centre_um in itertools.islice(points, 400):
            if free.is_mostly_free(centre_um, cell.radius_um):
                free.occupy(centre_um, cell.extent_um + GAP_AROUND_LARGE_UM)
                placed.append(Placed(cell, centre_um))
                break
    points = free.points(8.0, rng)
    for cell in _widest_first([cell for cell in cells if cell not in special]):
        room_um = cell.extent_um + GAP_AROUND_LARGE_UM
        for centre_um in itertools.islice(points, 400):
            if free.is_free(centre_um, room_um):
                share = CROWDED if KINDS[cell.kind].place == "crowd" else 1.0
                free.occupy(centre_um, share * room_um)
                placed.append(Placed(cell, centre_um))
                break
    return placed


def _across_border(free: _FreeArea, cell: Cell, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Centres whose distance from a border of the scene is a part of the cell's radius."""
    width_um, height_um = free.size_um
    while True:
        away_um = cell.radius_um * float(rng.uniform(*CUT))
        x_um, y_um = float(rng.uniform(0.0, width_um)), float(rng.uniform(0.0, height_um))
        yield from (
            (away_um, y_um),
            (width_um - away_um, y_um),
            (x_um, away_um),
            (x_um, height_um - away_um),
        )


def _place_clumps(free: _FreeArea, count: int, rng: np.random.Generator) -> list[Placed]:
    """Small dense nuclei packed side by side: as large and dark as a lobed nucleus."""
    placed = []
    points = free.points(8.0, rng)
    for _ in range(count):
        middle, *ring = [KINDS["lymphocyte"].draw(rng) for _ in range(int(rng.integers(5, 8)))]
        room_um = 3.0 * max(cell.extent_um for cell in (middle, *ring))
        centre_um = next((c for c in itertools.islice(points, 400) if free.is_free(c, room_um)), None)
        if centre_um is None:
            continue
        free.occupy(centre_um, room_um)
        placed.append(Placed(middle, centre_um))
        turns = rng.uniform(0.0, 2.0 * np.pi) + np.arange(len(ring)) * 2.0 * np.pi / 6.0
        for cell, turn in zip(ring, turns, strict=True):
            x, y = turned(middle.radius_um + cell.radius_um, float(turn))
            placed.append(Placed(cell, (centre_um[0] + x, centre_um[1] + y)))
    return placed


def _place_small(free: _FreeArea, cells: list[Cell], rng: np.random.Generator) -> list[Placed]:
    """Places small cells: most where there is room, some against an earlier one."""
    placed: list[Placed] = []
    points = free.points(1.5, rng)
    for cell in _widest_first(cells):
        room_um = cell.extent_um + GAP_AROUND_SMALL_UM
        for centre_um in itertools.islice(points, 12):
            touches = bool(placed) and cell.outline == "nucleus" and rng.random() < TOUCHING_SHARE
            if touches:
                neighbour = placed[int(rng.integers(max(0, len(placed) - RECENT), len(placed)))]
                centre_um = _beside(neighbour, cell, rng)
            if free.is_free(centre_um, max(0.5, room_um - 0.75) if touches else room_um):
                free.occupy(centre_um, room_um)
                placed.append(Placed(cell, centre_um))
                break
    return placed


def _beside(other: Placed, cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    away_um = other.cell.radius_um + cell.radius_um + rng.uniform(-0.1, 0.3)
    x, y = turned(away_um, rng.uniform(0.0, 2.0 * np.pi))
    return other.centre_um[0] + x, other.centre_um[1] + y
