"""Paints placed cells onto a canvas: bodies first, then nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mkhspc.simulate.cells.cell import Body, Cell, Nucleus
from mkhspc.simulate.cells.shapes import FloatPlane
from mkhspc.simulate.paint import Canvas, Textures, soft_edge


@dataclass(frozen=True)
class Placed:
    """A cell and its centre, in µm from the scene's top-left corner."""

    cell: Cell
    centre_um: tuple[float, float]


@dataclass(frozen=True)
class Brush:
    """What painting takes: the canvas, textures for it, and chance."""

    canvas: Canvas
    textures: Textures
    rng: np.random.Generator

    def paint(self, cells: Sequence[Placed]) -> list[int]:
        """Paints all cells; cell k owns its outline as number k + 1.

        Returns:
            How many pixels each outline was drawn with, before others covered some.
        """
        drawn_px = [0] * len(cells)
        for k, placed in enumerate(cells):
            if placed.cell.body is not None:
                number = k + 1 if placed.cell.outline == "body" else 0
                drawn_px[k] += self._body(placed.centre_um, placed.cell.body, number)
        for k, placed in enumerate(cells):
            number = k + 1 if placed.cell.outline != "body" else 0
            for nucleus in placed.cell.nuclei:
                drawn_px[k] += self._nucleus(placed.centre_um, nucleus, number)
            if placed.cell.outline == "hull":
                drawn_px[k] = self._own_hull(placed, number)
        return drawn_px

    def _body(self, centre_um: tuple[float, float], body: Body, number: int) -> int:
        patch = self.canvas.patch(centre_um, body.shape.extent_um + body.halo_um)
        depth = body.shape.depth(patch.x_um, patch.y_um)
        if body.halo_um > 0.0:
            halo = soft_edge(depth + np.float32(body.halo_um), 0.8) * np.float32(0.75)
            self.canvas.cover(patch, halo, 0.01, 0.03)
        amount = self._granules(body, patch.shape) + 0.12 * np.exp(-np.square((depth - 0.3) / 0.5))
        alpha = soft_edge(depth, 0.6)
        self.canvas.cover(patch, alpha, body.stain.haem * amount, body.stain.eosin * amount)
        if number == 0:
            return 0
        self.canvas.own(patch, depth > 0.0, number)
        return int((depth > 0.0).sum())

    def _granules(self, body: Body, shape: tuple[int, int]) -> FloatPlane:
        strength, grain_um = body.grain
        granules = 1.0 + np.float32(strength) * self.textures.piece(grain_um, shape, self.rng)
        if body.foam > 0.0:
            bubbles = np.clip(self.textures.piece(1.6, shape, self.rng), 0.0, 1.0)
            granules *= 1.0 - np.float32(body.foam) * bubbles
        return granules

    def _nucleus(self, centre_um: tuple[float, float], nucleus: Nucleus, number: int) -> int:
        centre_um = (centre_um[0] + nucleus.offset_um[0], centre_um[1] + nucleus.offset_um[1])
        patch = self.canvas.patch(centre_um, nucleus.shape.extent_um + nucleus.softness_um)
        depth = nucleus.shape.depth(patch.x_um, patch.y_um)
        alpha = soft_edge(depth, nucleus.softness_um)
        amount = 1.0 + np.float32(nucleus.contrast) * self.textures.piece(
            nucleus.grain_um, patch.shape, self.rng
        )
        amount += np.float32(nucleus.envelope) * np.exp(-np.square((depth - 0.35) / 0.35))
        for x, y, radius_um, darkness in nucleus.nucleoli:
            away2 = np.square(patch.x_um - np.float32(x)) + np.square(patch.y_um - np.float32(y))
            amount += np.float32(darkness) * np.exp(-away2 / np.float32(radius_um * radius_um))
        np.clip(amount, 0.3, 1.9, out=amount)
        self.canvas.cover(patch, alpha, nucleus.stain.haem * amount, nucleus.stain.eosin)
        if nucleus.pigment > 0.0:
            self.canvas.pigment[patch.rows, patch.columns] += alpha * np.float32(nucleus.pigment)
        if number == 0:
            return 0
        self.canvas.own(patch, depth > 0.0, number)
        return int((depth > 0.0).sum())

    def _own_hull(self, placed: Placed, number: int) -> int:
        """Gives an object of several pieces the convex hull around them."""
        patch = self.canvas.patch(placed.centre_um, placed.cell.extent_um)
        owner = self.canvas.owner[patch.rows, patch.columns]
        points = cv2.findNonZero((owner == number).astype(np.uint8))
        if points is None:
            return 0
        hull = np.zeros(owner.shape, np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(points), (1,))
        mask = (hull > 0) & ((owner == 0) | (owner == number))
        owner[mask] = number
        return int(mask.sum())
