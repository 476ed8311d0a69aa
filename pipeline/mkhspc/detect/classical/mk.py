"""Megakaryocytes: large cells, outlined whole, with a large or lobed nucleus in their own cytoplasm.

An MK's cytoplasm is a wide, even, eosinophilic plateau, wherever its nucleus lies. So nuclei are
filled in with the eosin around them; every plateau that a disc fits into is a candidate; its outline
is traced where eosin falls off; and measurements of the traced cell tell MK from crowds of small
cells, matrix and red cells. All of it on blocks of about 0.44 µm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange, CellType
from mkhspc.detect.classical import outline
from mkhspc.detect.classical.blocks import BlockGrid, side_px
from mkhspc.detect.classical.evidence import SUREST, SURROUNDINGS_UM, Patch, gather
from mkhspc.detect.classical.masks import ByteImage, dilate, erode, fits, tight
from mkhspc.detect.classical.nuclei import THRESHOLD_REACH_UM, nuclear_pixels
from mkhspc.detect.classical.split import summits
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.geometry import Box, normalise_mask, um_to_px
from mkhspc.slide.stains import smooth

BLOCK_UM = 0.44
"""The side in µm that blocks have about: two pixels of a scan of 0.22 µm a pixel."""
SMOOTHING_UM = 0.44
"""The sigma in µm by which stains in blocks are smoothed."""
NUCLEAR_EDGE_UM = 0.44
"""The width in µm around nuclei where eosin is hidden too: haematoxylin blurs over their edge."""
LARGEST_LOBE_UM = 17.0
"""The diameter in µm of the disc by whose closing nuclei are filled in: no lobe of an MK is thicker."""
PLATEAU_UM = 8.0
"""A candidate is a plateau of eosin into which a disc of this diameter in µm fits ..."""
PLATEAU_LEVEL = 1.05
"""... at no less than this multiple of the scene's typical cytoplasm ..."""
PLATEAU_SMOOTHING_UM = 1.5
"""... smoothed by this sigma in µm ..."""
SUMMIT_RADIUS_UM = 4.0
"""... and the highest within this distance in µm."""
RECENTRINGS = 2
"""How often an outline is traced again around its own centre of mass ..."""
RECENTRE_UM = 5.0
"""... which moves by no more than this in µm, in x and in y, each time."""
SAME_CELL_UM = 20.0
"""Two outlines are of one cell if the centre of either lies in the other, and the centres are no farther
apart than this in µm. The more convincing one stays."""
STARTS = 8
"""A cell is judged by the outlines traced from its centre and from this many starts around it: an MK looks
the same from all of them, while what merely has the colours of one falls into other parts."""
START_RING_UM = 4.0
"""The radius in µm of the ring on which these starts lie."""
HOPELESS = -4.0
"""A cell whose log-odds from its centre are not above this is judged by these alone: it is not traced again
from the ring, and its score is at most 0.018."""

LAYER_REACH_UM = 2 * LARGEST_LOBE_UM / 2 + THRESHOLD_REACH_UM + 2 * NUCLEAR_EDGE_UM + 6 * SMOOTHING_UM
"""How far around it a block of `Layers.body` depends on the stains, in µm."""
_RIVAL_REACH_UM = SAME_CELL_UM + max(RECENTRINGS * RECENTRE_UM, START_RING_UM) + outline.RAY_UM
"""How far from its centre a cell may have to be compared with others, and these be traced, in µm."""


@dataclass(frozen=True)
class Layers:
    """What an MK is sought in; (rows, columns) of blocks.

    Attributes:
        eosin: uint8 in 1/128 OD.
        nuclei: whether haematoxylin makes a block nuclear.
        body: eosin, with nuclei filled in from around.
    """

    grid: BlockGrid
    eosin: ByteImage
    nuclei: NDArray[np.bool_]
    body: ByteImage


@dataclass(frozen=True)
class Candidate:
    """An outlined cell: its centre in blocks, its radii in blocks, its score."""

    centre: tuple[int, int]
    radii: outline.Points
    score: float


@dataclass(frozen=True)
class ClassicalMk:
    """Finds megakaryocytes; see the module."""

    name: str = "classical"
    cell_type: CellType = "mk"
    revision: str = "1"

    @property
    def longest_um(self) -> float:
        return 2 * outline.RAY_UM + 2.0  # rounding to pixels

    def halo_um(self, needed: NeededCells) -> float:
        """To the centre that a cell is traced from, and from there to all that matters."""
        to_centre_um = min(needed.longest_um, outline.RAY_UM + 1.0)  # a centre lies in its own outline
        return to_centre_um + _RIVAL_REACH_UM + LAYER_REACH_UM + 2.0 + needed.point_um

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, stored: CellRange) -> list[Detection]:
        """Megakaryocytes of the window; see `Detector.detect`."""
        grid = BlockGrid.over(window.box, window.um_per_px, BLOCK_UM)
        if min(grid.shape) == 0:
            return []
        layers = make_layers(grid, window)
        level = PLATEAU_LEVEL * window.calibration.levels.cytoplasm_eosin
        centres = find_summits(layers, plateaus(layers), level)
        centres, radii = trace_all(layers, centres)
        judged = _judged(layers, centres, radii, window.calibration.levels.cytoplasm_eosin)
        found = [candidate for candidate in judged if candidate.score >= stored.min_score]
        cells = [_detection(layers.grid, candidate) for candidate in _best_of_each_cell(layers.grid, found)]
        inside = [cell for cell in cells if cell.box.clipped(window.box) == cell.box]  # none is owned here
        return [cell for cell in inside if fits(cell.mask, stored, window.um_per_px)]


def block_count(window_px: int, um_per_px: float) -> int:
    """The number of blocks in which MK are sought, for a window of so many pixels."""
    return window_px // side_px(BLOCK_UM, um_per_px) ** 2


def make_layers(grid: BlockGrid, window: Window) -> Layers:
    """Eosin, nuclei and body of a window, in blocks; an image goes as soon as the next one is made of it."""
    sigma = SMOOTHING_UM / grid.um_per_block
    stains = grid.means(window)
    eosin, haematoxylin = smooth(stains.eosin, sigma), smooth(stains.haematoxylin, sigma)
    del stains
    nuclei = nuclear_pixels(haematoxylin, window.calibration.levels, grid.um_per_block)
    del haematoxylin
    hidden = dilate(nuclei, max(1, round(NUCLEAR_EDGE_UM / grid.um_per_block))).view(np.bool_)
    lobe = round(LARGEST_LOBE_UM / 2 / grid.um_per_block)
    body = eosin.copy()
    body[hidden] = 0
    body = dilate(body, lobe)
    body = erode(body, lobe)
    np.copyto(body, eosin, where=~hidden)
    del hidden
    return Layers(grid, eosin, nuclei.view(np.bool_), smooth(body, sigma))


def plateaus(layers: Layers, width_um: float = PLATEAU_UM) -> ByteImage:
    """The body with everything levelled that a disc of this width does not fit into; 1/128 OD."""
    radius = round(width_um / 2 / layers.grid.um_per_block)
    return dilate(erode(layers.body, radius), radius)


def find_summits(layers: Layers, height: ByteImage, level: float) -> outline.Points:
    """(n, 2) x, y of blocks at the summits of `plateaus` of at least this level (1/128 OD)."""
    per_um = 1.0 / layers.grid.um_per_block
    height = smooth(height, PLATEAU_SMOOTHING_UM * per_um)
    x, y = summits(height, (height >= level).view(np.uint8), round(SUMMIT_RADIUS_UM * per_um))
    return np.stack([x, y], axis=1)


def trace_all(layers: Layers, centres: outline.Points) -> tuple[outline.Points, outline.Points]:
    """Outlines around centres, each traced again around its own centre of mass.

    Returns:
        (n, 2) centres and (n, ANGLES) radii, in blocks; outlines that have met are one.
    """
    um = layers.grid.um_per_block
    limit = round(RECENTRE_UM / um)
    rows, columns = layers.body.shape
    for _ in range(RECENTRINGS):
        shift = outline.centroid_shift(outline.trace(layers.body, centres, um))
        centres = np.clip(centres + np.clip(shift, -limit, limit), 0, (columns - 1, rows - 1))
        centres = np.unique(centres, axis=0)
    return centres, outline.trace(layers.body, centres, um)


def log_odds_of(
    layers: Layers, centres: outline.Points, radii: outline.Points, typical_eosin: float
) -> NDArray[np.float64]:
    """(n,) log-odds of each outline's being an MK's."""
    window = Box(0, 0, layers.body.shape[1], layers.body.shape[0])
    margin = round(SURROUNDINGS_UM / layers.grid.um_per_block) + 1
    log_odds = np.full(len(centres), -SUREST)
    for index, ((x, y), own) in enumerate(zip(centres.tolist(), radii, strict=True)):
        left, top, mask = outline.filled(own)
        mask = np.pad(mask, margin)
        box = Box(0, 0, mask.shape[1], mask.shape[0]).shifted(x + left - margin, y + top - margin)
        seen = box.clipped(window)
        part, rows_columns = mask[seen.slices_in(box)], seen.slices_in(window)
        patch = Patch(part, layers.nuclei[rows_columns], layers.eosin[rows_columns], layers.grid.um_per_block)
        evidence = gather(patch, typical_eosin)
        if evidence is not None:
            log_odds[index] = evidence.log_odds
    return log_odds


def _judged(
    layers: Layers, centres: outline.Points, radii: outline.Points, typical_eosin: float
) -> list[Candidate]:
    """The outlines with their scores: over all starts, or by the first alone where it is hopeless."""
    log_odds = log_odds_of(layers, centres, radii, typical_eosin)
    hopeful = log_odds > HOPELESS
    starts = _starts_around(layers, centres[hopeful]).reshape(-1, 2)
    traced = outline.trace(layers.body, starts, layers.grid.um_per_block)
    again = log_odds_of(layers, starts, traced, typical_eosin).reshape(-1, STARTS)
    log_odds[hopeful] = (log_odds[hopeful] + again.sum(axis=1)) / (1 + STARTS)
    score = 1.0 / (1.0 + np.exp(-log_odds))
    return [
        Candidate((x, y), own, one)
        for (x, y), own, one in zip(centres.tolist(), radii, score.tolist(), strict=True)
    ]


def _starts_around(layers: Layers, centres: outline.Points) -> outline.Points:
    """(n, STARTS, 2) x, y of blocks on a ring about each centre."""
    turn = 2.0 * np.pi * np.arange(STARTS) / STARTS
    ring = START_RING_UM / layers.grid.um_per_block * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rows, columns = layers.body.shape
    starts: outline.Points = np.clip(
        centres[:, None] + np.rint(ring).astype(np.int64), 0, (columns - 1, rows - 1)
    )
    return starts


def _best_of_each_cell(grid: BlockGrid, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of which no better one shows the same cell; the first in raster order of equals."""
    if not candidates:
        return []
    centres = np.array([candidate.centre for candidate in candidates])
    scores = np.array([candidate.score for candidate in candidates])
    rank = np.lexsort((centres[:, 0], centres[:, 1], -scores)).argsort()
    offset = centres[None, :] - centres[:, None]
    apart = np.hypot(offset[..., 0], offset[..., 1])
    holds = apart <= _radius_towards(np.stack([candidate.radii for candidate in candidates]), offset)
    same = (holds | holds.T) & (apart * grid.um_per_block <= SAME_CELL_UM)
    beaten = (same & (rank[None, :] < rank[:, None])).any(axis=1)
    return [candidate for candidate, lost in zip(candidates, beaten.tolist(), strict=True) if not lost]


def _radius_towards(radii: outline.Points, offset: outline.Points) -> outline.Points:
    """(n, m) radius of each outline in the direction of (n, m, 2) offsets x, y from its centre."""
    turn = np.arctan2(offset[..., 1], offset[..., 0]) / (2.0 * np.pi)
    angle = np.rint(turn * outline.ANGLES).astype(np.int64) % outline.ANGLES
    return np.take_along_axis(radii, angle, axis=1)


def _detection(grid: BlockGrid, candidate: Candidate) -> Detection:
    """A candidate's outline drawn in level-0 pixels."""
    left, top, mask = outline.filled(candidate.radii, grid.size)
    x, y = (origin + c * grid.size for origin, c in zip(grid.origin, candidate.centre, strict=True))
    box, cell = tight(normalise_mask(mask), x + left, y + top)
    return Detection(box, cell, candidate.score)
