"""The ground that cells lie on: glass, tissue, fat, gaps, and the mesh of red cells and stroma."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.slide.demo.paint import Canvas, Textures, smooth_field
from pipeline.slide.demo.shapes import FloatPlane

GROUND_UM_PER_PX = 0.45
"""The ground is drawn at this pixel size and enlarged: its finest lines are 0.5 µm wide."""


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
        haem, eosin: stain of the ground, float32.
        marrow: bool, where cells may lie: tissue without fat and gaps.
        tissue: bool, everything inside the outline, fat included.
    """

    haem: FloatPlane
    eosin: FloatPlane
    marrow: NDArray[np.bool_]
    tissue: NDArray[np.bool_]

    def lay(self, canvas: Canvas, textures: Textures, rng: np.random.Generator) -> None:
        """Paints the ground over the whole canvas."""
        height, width = canvas.haem.shape
        for plane, ground in ((canvas.haem, self.haem), (canvas.eosin, self.eosin)):
            cv2.resize(ground, (width, height), dst=plane, interpolation=cv2.INTER_CUBIC)
            plane *= 1.0 + 0.12 * textures.piece(0.7, plane.shape, rng)
            np.maximum(plane, 0.0, out=plane)


def make_terrain(size_um: tuple[float, float], style: TerrainStyle, rng: np.random.Generator) -> Terrain:
    """A terrain of (width, height) µm."""
    shape = (round(size_um[1] / GROUND_UM_PER_PX), round(size_um[0] / GROUND_UM_PER_PX))
    outline = _tissue_depth(shape, style, rng)
    tissue = outline > 0.0
    fat, haem_tint = _fat_depth(shape, tissue, style, rng)
    gaps = _gap_depth(shape, rng)
    haem, eosin = _mesh(shape, rng)
    solid = _ramp(outline, 1.2) * _ramp(gaps, 0.8)
    edge = np.exp(-np.square((gaps - 0.6) / 0.5)) * 0.12
    eosin = (eosin + edge) * solid
    haem = haem * solid
    open_fat = _ramp(fat, 0.7) * (outline > 2.0)
    membrane = np.exp(-np.square((fat + 0.3) / 0.55)) * (outline > 1.0)
    eosin = eosin * (1.0 - open_fat) + 0.2 * membrane + 0.012 * open_fat
    haem = haem * (1.0 - open_fat) + 0.07 * membrane + haem_tint * open_fat
    marrow = (outline > 2.5) & (gaps > 0.4) & (fat < -0.6)
    return Terrain(haem.astype(np.float32), eosin.astype(np.float32), marrow, tissue)


def _ramp(depth_um: FloatPlane, width_um: float) -> FloatPlane:
    ramp: FloatPlane = np.clip(depth_um / np.float32(width_um) + np.float32(0.5), 0.0, 1.0)
    return ramp


def _tissue_depth(shape: tuple[int, int], style: TerrainStyle, rng: np.random.Generator) -> FloatPlane:
    """How deep inside the tissue each point lies, in µm."""
    rows, columns = shape
    v = np.linspace(-1.0, 1.0, rows, dtype=np.float32)[:, None]
    u = np.linspace(-1.0, 1.0, columns, dtype=np.float32)[None, :]
    if style.open_side:
        u = np.maximum(u, -0.3)
    inside = 0.74 - (np.abs(u) ** 3.5 + np.abs(v) ** 3.5) + 0.09 * smooth_field(rng, shape, 110.0 / GROUND_UM_PER_PX)
    inside += 0.012 * smooth_field(rng, shape, 14.0 / GROUND_UM_PER_PX)
    body = _largest_piece(inside > 0.0)
    return _signed_distance(body)


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    piece: NDArray[np.bool_] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return piece


def _signed_distance(mask: NDArray[np.bool_]) -> FloatPlane:
    """Distance to the mask's outline in µm, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    signed: FloatPlane = cv2.GaussianBlur(inside - outside, (0, 0), 1.0) * np.float32(GROUND_UM_PER_PX)
    return signed


def _fat_depth(
    shape: tuple[int, int], tissue: NDArray[np.bool_], style: TerrainStyle, rng: np.random.Generator
) -> tuple[FloatPlane, FloatPlane]:
    """How deep inside a fat cell each point lies (µm, negative outside), and the haze in them."""
    pitch = GROUND_UM_PER_PX
    depth = np.full(shape, -100.0, np.float32)
    # Bending the coordinates bends every outline a little differently.
    bend = [2.2 * smooth_field(rng, shape, 22.0 / pitch) for _ in range(2)]
    wanted, covered = style.fat_share * float(tissue.sum()), 0
    for _ in range(4000):
        if covered >= wanted:
            break
        radius = float(np.clip(rng.normal(style.fat_radius_um, 0.28 * style.fat_radius_um), 9.0, 40.0))
        row, column = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        if not tissue[row, column] or depth[row, column] > -(radius + rng.uniform(0.5, 10.0)):
            continue
        depth = _add_fat_cell(depth, bend, (row, column), radius)
        covered = int((depth > 0.0).sum()) if rng.random() < 0.2 else covered + int(np.pi * (radius / pitch) ** 2)
    haze = np.clip(0.018 + 0.006 * smooth_field(rng, shape, 9.0 / pitch), 0.0, 0.05)
    return depth, haze


def _add_fat_cell(
    depth: FloatPlane, bend: list[FloatPlane], centre: tuple[int, int], radius_um: float
) -> FloatPlane:
    reach = int(2 * radius_um / GROUND_UM_PER_PX) + 110
    rows = slice(max(0, centre[0] - reach), centre[0] + reach)
    columns = slice(max(0, centre[1] - reach), centre[1] + reach)
    part = depth[rows, columns]
    y = (np.arange(part.shape[0], dtype=np.float32) + rows.start - centre[0])[:, None] * GROUND_UM_PER_PX
    x = (np.arange(part.shape[1], dtype=np.float32) + columns.start - centre[1])[None, :] * GROUND_UM_PER_PX
    cell = np.float32(radius_um) - np.hypot(x + bend[0][rows, columns], y + bend[1][rows, columns])
    np.maximum(part, cell, out=part)
    return depth


def _gap_depth(shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
    """Distance from the nearest sinusoid or shrinkage gap in µm, negative inside one."""
    field = smooth_field(rng, shape, 9.0 / GROUND_UM_PER_PX) + 0.7 * smooth_field(rng, shape, 40.0 / GROUND_UM_PER_PX)
    return -_signed_distance(field > np.quantile(field, 0.965))


def _mesh(shape: tuple[int, int], rng: np.random.Generator) -> tuple[FloatPlane, FloatPlane]:
    """Haematoxylin and eosin of packed red cells, their ghosts, gaps and stroma."""
    discs = _red_cells(shape, rng)
    redness = smooth_field(rng, shape, 60.0 / GROUND_UM_PER_PX)
    stroma = _ramp(-redness - 0.1, 1.2)
    fibres = np.abs(smooth_field(rng, shape, 2.4 / GROUND_UM_PER_PX))
    specks = _ramp(smooth_field(rng, shape, 2.2 / GROUND_UM_PER_PX) - 1.35, 0.6)
    plasma = (0.13 + 0.06 * fibres) * (1.0 - 0.85 * specks)
    eosin = discs + stroma * (plasma - 0.8 * discs)
    eosin *= 1.0 + 0.1 * redness.clip(-1.5, 1.5)
    blue = _ramp(smooth_field(rng, shape, 45.0 / GROUND_UM_PER_PX), 2.5)
    haem = (0.02 + 0.05 * blue * (0.5 + 0.5 * fibres)) * _ramp(eosin - 0.06, 0.1)
    return haem.astype(np.float32), _warped(eosin.astype(np.float32), rng)


def _red_cells(shape: tuple[int, int], rng: np.random.Generator) -> FloatPlane:
    """Eosin of discs 5 to 7 µm wide, full or hollow, that flatten one another where they meet."""
    labels, edge, away = _honeycomb(shape, 5.6, rng)
    count = int(labels.max()) + 1
    kind = rng.random(count, dtype=np.float32)
    gap = rng.uniform(0.0, 0.55, count).astype(np.float32)
    radius = rng.normal(3.15, 0.3, count).astype(np.float32)
    amount = rng.normal(0.22, 0.05, count).clip(0.1, 0.4).astype(np.float32)
    hollow = np.where(kind < 0.55, rng.uniform(0.15, 0.7, count), 0.95).astype(np.float32)
    depth = np.minimum(edge - gap[labels], radius[labels] - away)
    wall = np.exp(-np.square((depth - 0.55) / 0.5))
    body = hollow[labels] + (1.2 - hollow[labels]) * wall
    between = np.float32(0.11) * _ramp(away - radius[labels] - 0.2, 0.8)
    discs: FloatPlane = np.maximum(_ramp(depth, 0.5) * amount[labels] * body, between)
    return discs


def _warped(plane: FloatPlane, rng: np.random.Generator) -> FloatPlane:
    """The plane pulled about by up to a micrometre or two, so that no grid shows."""
    rows, columns = plane.shape
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    pull = 0.8 / GROUND_UM_PER_PX
    x += pull * smooth_field(rng, plane.shape, 9.0 / GROUND_UM_PER_PX)
    y += pull * smooth_field(rng, plane.shape, 9.0 / GROUND_UM_PER_PX)
    warped: FloatPlane = cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return warped


def _honeycomb(
    shape: tuple[int, int], pitch_um: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], FloatPlane, FloatPlane]:
    """Voronoi cells of jittered points: labels, and µm to the cell's border and to its point."""
    step = pitch_um / GROUND_UM_PER_PX
    rows, columns = np.meshgrid(np.arange(0.0, shape[0], step), np.arange(0.0, shape[1], step), indexing="ij")
    points = np.stack([rows, columns]).reshape(2, -1) + rng.uniform(-0.42, 0.42, (2, rows.size)) * step
    seeds = np.ones(shape, np.uint8)
    rows_px, columns_px = np.rint(points).astype(int)
    seeds[rows_px.clip(0, shape[0] - 1), columns_px.clip(0, shape[1] - 1)] = 0
    away, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = np.ones(shape, np.uint8)
    border[:, 1:][labels[:, 1:] != labels[:, :-1]] = 0
    border[1:][labels[1:] != labels[:-1]] = 0
    edge = cv2.distanceTransform(border, cv2.DIST_L2, 5) * np.float32(GROUND_UM_PER_PX)
    return labels, cv2.GaussianBlur(edge, (0, 0), 0.7), away * np.float32(GROUND_UM_PER_PX)
