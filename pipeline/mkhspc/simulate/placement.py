"""Finds a place for every cell of a scene: large ones first, small nuclei in the gaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import BoolMask
from mkhspc.simulate.brush import Placed
from mkhspc.simulate.cells.cell import Cell
from mkhspc.simulate.cells.kinds import KINDS, Kind
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
POINTS_PER_SEARCH = 2000
"""How many random points are drawn before it is looked again where there is room."""


@dataclass(frozen=True)
class Densities:
    """Objects per mm² of marrow (tissue without fat and gaps).

    Attributes:
        small: small nuclei and their like, all kinds together.
        mk: true megakaryocytes.
        mk_like: large cells that are no MK.
        clumps: tight clumps of small nuclei, which are no MK either.
    """

    small: float
    mk: float
    mk_like: float
    clumps: float


def place_cells(terrain: Terrain, densities: Densities, rng: np.random.Generator) -> list[Placed]:
    """Draws every cell and finds a place for it; a cell that finds none is left out."""
    area_mm2 = terrain.marrow_um2 / 1e6
    free = _FreeArea(terrain)
    large = _draw(rng, _kinds_with_target_mk(True), round(densities.mk_like * area_mm2))
    large += [KINDS["mk"].draw(rng) for _ in range(round(densities.mk * area_mm2))]
    small = _draw(rng, _kinds_with_target_mk(False), round(densities.small * area_mm2))
    clumped = _place_clumps(free, round(densities.clumps * area_mm2), rng)
    return _place_large(free, large, rng) + clumped + _place_small(free, small, rng)


def _kinds_with_target_mk(wanted: bool) -> dict[str, Kind]:
    return {name: kind for name, kind in KINDS.items() if (kind.target == "mk") == wanted}


def _draw(rng: np.random.Generator, kinds: dict[str, Kind], count: int) -> list[Cell]:
    shares = np.array([kind.share for kind in kinds.values()])
    names = rng.choice(list(kinds), size=count, p=shares / shares.sum())
    return [kinds[name].draw(rng) for name in names.tolist()]


def _widest_first(cells: list[Cell]) -> list[Cell]:
    """Sorts cells so that the widest are placed while there is still room for them."""
    return sorted(cells, key=lambda cell: -cell.extent_um)


class _FreeArea:
    """Where there is still room, at the terrain's pixel size."""

    def __init__(self, terrain: Terrain) -> None:
        self._free = terrain.marrow.astype(np.uint8)

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
    """Places large cells anywhere that is free."""
    placed = []
    points = free.points(8.0, rng)
    for cell in _widest_first(cells):
        room_um = cell.extent_um + GAP_AROUND_LARGE_UM
        for centre_um in itertools.islice(points, 400):
            if free.is_free(centre_um, room_um):
                free.occupy(centre_um, room_um)
                placed.append(Placed(cell, centre_um))
                break
    return placed


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
