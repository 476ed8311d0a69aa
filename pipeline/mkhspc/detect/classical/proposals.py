"""Where megakaryocytes may be: points to ask a model at, many more than the classical detector's cells.

Outlines that are not hopeless, and a map of where else an MK is thinkable at all: a wide body of eosin
with much nucleus about, or a nucleus too large for a small cell. In few places of marrow is it on.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.classical import outline
from mkhspc.detect.classical.blocks import BlockGrid
from mkhspc.detect.classical.masks import dilate, erode, odd_size
from mkhspc.detect.classical.mk import (
    BLOCK_UM,
    LAYER_REACH_UM,
    RECENTRE_UM,
    RECENTRINGS,
    Layers,
    find_summits,
    log_odds_of,
    make_layers,
    plateaus,
    trace_all,
)
from mkhspc.detect.contract import Window
from mkhspc.geometry import BoolMask

Points = NDArray[np.float64]

PLATEAU_UM = 6.0
"""A proposal is an outline about the summit of a plateau into which a disc of this diameter in µm fits ..."""
PLATEAU_LEVEL = 0.9
"""... at no less than this multiple of the scene's typical cytoplasm ..."""
LEAST_LOG_ODDS = -5.0
"""... and with log-odds above this; the classical detector takes those above 0."""
BODY_LEVEL = 1.3
"""An MK is also thinkable where the plateau reaches this multiple of the typical cytoplasm ..."""
NUCLEI_UM = 12.0
"""... and, in the square of this side in µm around, ..."""
NUCLEI_SHARE = 0.4
"""... nuclei fill this share; ..."""
LARGE_NUCLEUS_UM = 10.0
"""... or where a disc of this diameter in µm fits into the nuclei. All of 446 simulated MK have a point
inside."""
COVERED_UM = 10.0
"""A proposal stands for the map's points within its radius, up to this distance in µm."""

PROPOSAL_REACH_UM = LAYER_REACH_UM + RECENTRINGS * RECENTRE_UM + outline.RAY_UM + COVERED_UM + 2.0
"""How far around them proposals and the map depend on the scene, in µm."""


@dataclass(frozen=True)
class Proposals:
    """Points in level-0 pixels of the scene.

    Attributes:
        points_px: (n, 2) x, y of outlined candidates' centres.
        areas_px: (n,) what the outlines enclose.
        grid: blocks of the window.
        thinkable: (rows, columns) of blocks in which an MK is thinkable and no proposal is near.
    """

    points_px: Points
    areas_px: NDArray[np.float64]
    grid: BlockGrid
    thinkable: BoolMask

    def grid_points(self, step_px: int) -> Points:
        """(n, 2) points where an MK is thinkable, on a square grid that belongs to the scene."""
        size, (left, top) = self.grid.size, self.grid.origin
        rows, columns = self.grid.shape
        x = np.arange(-(-left // step_px), -(-(left + columns * size) // step_px)) * step_px
        y = np.arange(-(-top // step_px), -(-(top + rows * size) // step_px)) * step_px
        row, column = np.nonzero(self.thinkable[np.ix_((y - top) // size, (x - left) // size)])
        return np.stack([x[column] + 0.5, y[row] + 0.5], axis=1)


def proposals(window: Window) -> Proposals:
    """Where in a window MK may be; the same for any window that holds a point with `PROPOSAL_REACH_UM`."""
    grid = BlockGrid.over(window.box, window.um_per_px, BLOCK_UM)
    if min(grid.shape) == 0:
        return Proposals(np.zeros((0, 2)), np.zeros(0), grid, np.zeros(grid.shape, np.bool_))
    layers = make_layers(grid, window)
    typical_eosin = window.calibration.levels.cytoplasm_eosin
    height = plateaus(layers, PLATEAU_UM)
    centres, radii = trace_all(layers, find_summits(layers, height, PLATEAU_LEVEL * typical_eosin))
    hopeful = log_odds_of(layers, centres, radii, typical_eosin) > LEAST_LOG_ODDS
    centres, radii = centres[hopeful], radii[hopeful]
    areas = outline.areas(radii)
    body = height >= BODY_LEVEL * typical_eosin
    thinkable = (body & _amid_nuclei(layers)) | _large_nuclei(layers)
    _leave_out(thinkable, centres, np.sqrt(areas / np.pi), COVERED_UM / grid.um_per_block)
    return Proposals(
        points_px=(centres + 0.5) * grid.size + np.array(grid.origin),
        areas_px=areas * grid.size**2,
        grid=grid,
        thinkable=thinkable,
    )


def _leave_out(
    blocks: BoolMask, centres: outline.Points, radii: NDArray[np.float64], largest_radius: float
) -> None:
    """Clears discs, in blocks."""
    pixels = blocks.view(np.uint8)
    for centre, radius in zip(centres.tolist(), np.minimum(radii, largest_radius).tolist(), strict=True):
        cv2.circle(pixels, centre, round(radius), (0,), cv2.FILLED)


def _amid_nuclei(layers: Layers) -> BoolMask:
    side = odd_size(NUCLEI_UM / layers.grid.um_per_block)
    count = cv2.boxFilter(layers.nuclei.view(np.uint8), cv2.CV_32S, (side, side), normalize=False)
    return np.asarray(count >= NUCLEI_SHARE * side * side, np.bool_)


def _large_nuclei(layers: Layers) -> BoolMask:
    radius = round(LARGE_NUCLEUS_UM / 2 / layers.grid.um_per_block)
    nuclei = layers.nuclei.view(np.uint8)
    return dilate(erode(nuclei, radius), radius).view(np.bool_)
