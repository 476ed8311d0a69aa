"""The ground that cells lie on: glass, tissue, fat, gaps, and the mesh of red cells and stroma."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.geometry import BoolMask
from mkhspc.simulate.cells.cell import clipped_normal
from mkhspc.simulate.cells.shapes import FloatPlane
from mkhspc.simulate.paint import Canvas, Textures, smooth_field

GROUND_UM_PER_PX = 0.45
"""The pixel size in µm at which the ground is drawn, to be enlarged: its finest lines are half a µm wide."""

BLOCK_PX = 512
"""The side, in pixels of the canvas, of the blocks in which grain is laid over the ground."""
FARTHEST_UM = 55.0
"""Distances in µm from fat cells are worked out up to this one: no fat cell is kept farther from the next."""


@dataclass(frozen=True)
class TerrainStyle:
    """How the marrow of a slide is built.

    Attributes:
        fat_share: of the tissue's area.
        fat_radius_um: mean radius of a fat cell.
        open_side: tissue runs out of the scene at its left border.
    """

    fat_share: float = 0.25
    fat_radius_um: float = 22.0
    open_side: bool = False


@dataclass(frozen=True)
class Terrain:
    """The ground at GROUND_UM_PER_PX; all planes (rows, columns) of one shape.

    Attributes:
        haem, eosin: stain of the ground.
        tissue: everything inside the outline, fat included.
        marrow: where cells may lie: tissue without fat and gaps.
        fat: inside fat cells.
    """

    haem: FloatPlane
    eosin: FloatPlane
    tissue: BoolMask
    marrow: BoolMask
    fat: BoolMask

    @property
    def tissue_um2(self) -> float:
        return float(self.tissue.sum()) * GROUND_UM_PER_PX**2

    @property
    def marrow_um2(self) -> float:
        return float(self.marrow.sum()) * GROUND_UM_PER_PX**2

    def paint_on(self, canvas: Canvas, textures: Textures, rng: np.random.Generator) -> None:
        """Paints the ground over the whole canvas."""
        height, width = canvas.haem.shape
        for plane, ground in ((canvas.haem, self.haem), (canvas.eosin, self.eosin)):
            cv2.resize(ground, (width, height), dst=plane, interpolation=cv2.INTER_CUBIC)
            _roughen(plane, textures, rng)

    def lay_fat_over(self, canvas: Canvas) -> None:
        """Cuts off what was painted into fat cells; they look as after `paint_on` again but for its grain."""
        height, width = canvas.haem.shape
        fat = cv2.resize(self.fat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        for plane, ground in ((canvas.haem, self.haem), (canvas.eosin, self.eosin)):
            plane += fat * (cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR) - plane)
        canvas.owner[fat > 0.5] = 0


def _roughen(plane: FloatPlane, textures: Textures, rng: np.random.Generator) -> None:
    """Fine grain over a plane, block by block: no seam shows in grains of a few pixels."""
    for top in range(0, plane.shape[0], BLOCK_PX):
        for left in range(0, plane.shape[1], BLOCK_PX):
            block = plane[top : top + BLOCK_PX, left : left + BLOCK_PX]
            block *= 1.0 + 0.12 * textures.piece(0.7, (block.shape[0], block.shape[1]), rng)
    np.maximum(plane, 0.0, out=plane)


def make_terrain(size_um: tuple[float, float], style: TerrainStyle, rng: np.random.Generator) -> Terrain:
    """A terrain of (width, height) µm."""
    shape = (round(size_um[1] / GROUND_UM_PER_PX), round(size_um[0] / GROUND_UM_PER_PX))
    outline = _outline_depth(shape, style, rng)
    fat = _fat_depth(outline > 0.0, style, rng)
    gaps = _gap_depth(shape, rng)
    haem, eosin = _mesh(shape, rng)
    solid = _ramp(outline, 1.2) * _ramp(gaps, 0.8)
    eosin = (eosin + 0.12 * _line(gaps, 0.6, 0.5)) * solid
    haem = haem * solid
    in_fat = _ramp(fat, 0.7) * (outline > 2.0)
    membrane = _line(fat, -0.3, 0.55) * (outline > 1.0)
    haze = np.clip(0.018 + 0.006 * smooth_field(rng, shape, _px(9.0)), 0.0, 0.05)
    eosin = eosin * (1.0 - in_fat) + 0.2 * membrane + 0.012 * in_fat
    haem = haem * (1.0 - in_fat) + 0.07 * membrane + haze * in_fat
    marrow = (outline > 2.5) & (gaps > 0.4) & (fat < -0.6)
    return Terrain(haem.astype(np.float32), eosin.astype(np.float32), outline > 0.0, marrow, in_fat > 0.5)


def _px(length_um: float) -> float:
    return length_um / GROUND_UM_PER_PX


def _ramp(depth_um: FloatPlane, width_um: float) -> FloatPlane:
    """Rises from 0 to 1 over `width_um` around depth 0."""
    ramp: FloatPlane = np.clip(depth_um / np.float32(width_um) + np.float32(0.5), 0.0, 1.0)
    return ramp


def _line(depth_um: FloatPlane, at_um: float, width_um: float) -> FloatPlane:
    """A bell of height 1 around one depth."""
    line: FloatPlane = np.exp(-np.square((depth_um - np.float32(at_um)) / np.float32(width_um)))
    return line


def _signed_distance(mask: BoolMask) -> FloatPlane:
    """Distance to the mask's outline in µm, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(cv2.GaussianBlur(inside - outside, (0, 0), 1.0) * GROUND_UM_PER_PX, np.float32)


def _outline_depth(shape: tuple[int, int], style: TerrainStyle, rng: np.random.Generator) -> FloatPlane:
    """How deep inside the tissue each point lies, in µm: a rounded block with a ragged border."""
    v = np.linspace(-1.0, 1.0, shape[0], dtype=np.float32)[:, None]
    u = np.linspace(-1.0, 1.0, shape[1], dtype=np.float32)[None, :]
    if style.open_side:
        u = np.maximum(u, -0.3)
    inside = 0.74 - np.abs(u) ** 3.5 - np.abs(v) ** 3.5
    inside = (
        inside + 0.09 * smooth_field(rng, shape, _px(110.0)) + 0.012 * smooth_field(rng, shape, _px(14.0))
    )
    _, labels, stats, _ = cv2.connectedComponentsWithStats((inside > 0).astype(np.uint8), connectivity=4)
    return _signed_distance(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _fat_depth(tissue: BoolMask, style: TerrainStyle, rng: np.random.Generator) -> FloatPlane:
    """How deep inside a fat cell each point lies, in µm, negative outside."""
    shape = (tissue.shape[0], tissue.shape[1])
    depth = np.full(shape, -FARTHEST_UM, np.float32)
    # Bending the coordinates bends every outline a little differently.
    bend = np.stack([2.2 * smooth_field(rng, shape, _px(22.0)) for _ in range(2)])
    missing_um2 = style.fat_share * float(tissue.sum()) * GROUND_UM_PER_PX**2
    for _ in range(4000):
        if missing_um2 <= 0.0:
            break
        radius_um = clipped_normal(rng, style.fat_radius_um, 0.28 * style.fat_radius_um, 9.0, 40.0)
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        if tissue[row, column] and depth[row, column] < -(radius_um + rng.uniform(0.5, 10.0)):
            _add_fat_cell(depth, bend, (row, column), radius_um)
            missing_um2 -= np.pi * radius_um**2
    return depth


def _add_fat_cell(depth: FloatPlane, bend: FloatPlane, centre: tuple[int, int], radius_um: float) -> None:
    reach = int(_px(radius_um + FARTHEST_UM))
    rows = slice(max(0, centre[0] - reach), centre[0] + reach)
    columns = slice(max(0, centre[1] - reach), centre[1] + reach)
    part = depth[rows, columns]
    y_um = (np.arange(rows.start, rows.start + part.shape[0])[:, None] - centre[0]) * GROUND_UM_PER_PX
    x_um = (np.arange(columns.start, columns.start + part.shape[1])[None, :] - centre[1]) * GROUND_UM_PER_PX
    away = np.hypot(x_um + bend[0][rows, columns], y_um + bend[1][rows, columns])
    np.maximum(part, np.float32(radius_um) - away.astype(np.float32), out=part)


def _gap_depth(shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
    """Distance from the nearest sinusoid or shrinkage gap in µm, negative inside one."""
    field = smooth_field(rng, shape, _px(9.0)) + 0.7 * smooth_field(rng, shape, _px(40.0))
    return -_signed_distance(field > np.quantile(field, 0.965))


def _mesh(shape: tuple[int, int], rng: np.random.Generator) -> tuple[FloatPlane, FloatPlane]:
    """Haematoxylin and eosin of packed red cells and stroma."""
    discs = _red_cells(shape, rng)
    redness = smooth_field(rng, shape, _px(60.0))
    stroma = _ramp(-redness - 0.1, 1.2)
    fibres = np.abs(smooth_field(rng, shape, _px(2.4)))
    specks = _ramp(smooth_field(rng, shape, _px(2.2)) - 1.35, 0.6)
    plasma = (0.13 + 0.06 * fibres) * (1.0 - 0.85 * specks)
    eosin = (discs + stroma * (plasma - 0.8 * discs)) * (1.0 + 0.1 * redness.clip(-1.5, 1.5))
    blue = _ramp(smooth_field(rng, shape, _px(45.0)), 2.5)
    haem = (0.02 + 0.05 * blue * (0.5 + 0.5 * fibres)) * _ramp(eosin - 0.06, 0.1)
    return haem.astype(np.float32), _warped(eosin.astype(np.float32), rng)


def _red_cells(shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
    """Eosin of discs 5 to 7 µm wide, full or hollow, that flatten one another where they meet."""
    labels, edge_um, away_um = _honeycomb(shape, 5.6, rng)
    count = int(labels.max()) + 1
    gap_um = rng.uniform(0.0, 0.55, count).astype(np.float32)
    radius_um = rng.normal(3.15, 0.3, count).astype(np.float32)
    amount = rng.normal(0.22, 0.05, count).clip(0.1, 0.4).astype(np.float32)
    hollow = np.where(rng.random(count) < 0.55, rng.uniform(0.15, 0.7, count), 0.95).astype(np.float32)
    depth_um = np.minimum(edge_um - gap_um[labels], radius_um[labels] - away_um)
    profile = hollow[labels] + (1.2 - hollow[labels]) * _line(depth_um, 0.55, 0.5)
    between = np.float32(0.11) * _ramp(away_um - radius_um[labels] - 0.2, 0.8)
    discs: FloatPlane = np.maximum(_ramp(depth_um, 0.5) * amount[labels] * profile, between)
    return discs


def _honeycomb(
    shape: tuple[int, int], pitch_um: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], FloatPlane, FloatPlane]:
    """Voronoi cells of jittered points: labels, and µm to the cell's border and to its point."""
    step = _px(pitch_um)
    rows, columns = np.meshgrid(np.arange(0.0, shape[0], step), np.arange(0.0, shape[1], step), indexing="ij")
    points = np.stack([rows, columns]).reshape(2, -1) + rng.uniform(-0.42, 0.42, (2, rows.size)) * step
    seeds = np.ones(shape, np.uint8)
    rows_px, columns_px = np.rint(points).astype(int)
    seeds[rows_px.clip(0, shape[0] - 1), columns_px.clip(0, shape[1] - 1)] = 0
    away, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = np.ones(shape, np.uint8)
    border[:, 1:][labels[:, 1:] != labels[:, :-1]] = 0
    border[1:][labels[1:] != labels[:-1]] = 0
    edge = cv2.GaussianBlur(cv2.distanceTransform(border, cv2.DIST_L2, 5), (0, 0), 0.7)
    scale = np.float32(GROUND_UM_PER_PX)
    return np.asarray(labels, np.int32), np.asarray(edge * scale), np.asarray(away * scale)


def _warped(plane: FloatPlane, rng: np.random.Generator) -> FloatPlane:
    """The plane pulled about by up to a micrometre or two, so that no grid shows."""
    rows, columns = plane.shape
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    x += _px(0.8) * smooth_field(rng, (rows, columns), _px(9.0))
    y += _px(0.8) * smooth_field(rng, (rows, columns), _px(9.0))
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)
