"""Outlines by SAM2 for cells that another detector has found, where both agree on what the cell is."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mkhspc.config import CellRange, CellType
from mkhspc.detect.classical.masks import fits, tight
from mkhspc.detect.contract import Detection, Detector, NeededCells, Window
from mkhspc.detect.mask_logits import masks_of
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.geometry import BoolMask, Box, iou, mask_centroid, normalise_mask, um_to_px
from mkhspc.models.service import ModelService, array_of

SQUARE_UM, SQUARE_MARGIN_UM = 96.0, 16.0
"""SAM2 sees squares of this side with this margin, in µm: 128 µm at 1024 px, so that it draws at 0.5 µm. The
margin is more than half the longest HSPC. Larger squares would take fewer passes of its encoder, and a larger
halo around a tile than Cellpose needs."""
MIN_IOU = 0.6
"""The least intersection over union of a mask of SAM2 with the outline found first ..."""
MAX_AREA_RATIO = 1.5
"""... and the largest ratio of their areas, either way. Beyond them the mask is of something else, and the
outline found first stays."""


@dataclass(frozen=True)
class RefinedBySam2:
    """Cells of another detector, with the outline that SAM2 gives for their boxes where it passes the gate.

    Attributes:
        found_by: finds the cells; their scores stay.
        service: answers for the model 'sam2'.
        weights: names SAM2's weights.
        outcomes: cells by what became of them so far: refined, no_mask, unlike, unfit (cut, or of an area
            or length that is not stored).
    """

    found_by: Detector
    service: ModelService
    weights: str
    outcomes: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def name(self) -> str:
        return f"{self.found_by.name}+sam2"

    @property
    def cell_type(self) -> CellType:
        return self.found_by.cell_type

    @property
    def revision(self) -> str:
        return f"1 {self.weights} of {self.found_by.name} {self.found_by.revision}"

    @property
    def longest_um(self) -> float:
        return math.inf

    def halo_um(self, needed: NeededCells) -> float:
        square_um = needed.longest_um + SQUARE_UM + SQUARE_MARGIN_UM + 2.0 + needed.point_um
        return max(self.found_by.halo_um(needed), square_um)

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, stored: CellRange) -> list[Detection]:
        """Cells of the window; see `Detector.detect`."""
        um_per_px = window.um_per_px
        grid = WindowGrid(um_to_px(SQUARE_UM, um_per_px), um_to_px(SQUARE_MARGIN_UM, um_per_px))
        own = NeededCells(stored.max_length_um)
        spare_um = self.halo_um(own) - self.found_by.halo_um(own)
        spare_px = math.floor(spare_um / um_per_px)
        cells = self.found_by.detect(window.part(window.box.grown(-spare_px)), stored)
        refined: list[Detection] = []
        for box, some in _by_square(cells, grid):
            if box.clipped(window.box) == box:  # else the cells are another tile's
                refined += self._refined(window, box, some, stored)
        return refined

    def _refined(
        self, window: Window, box: Box, cells: Sequence[Detection], stored: CellRange
    ) -> Iterator[Detection]:
        """The cells of one square; `box` is what SAM2 sees of the scene."""
        rgb = np.ascontiguousarray(window.rgb[box.slices_in(window.box)])
        corners = [(c.box.x0, c.box.y0, c.box.x1, c.box.y1) for c in cells]
        answer = self.service.ask(
            "sam2",
            {
                "kind": "refine",
                "key": hashlib.blake2b(rgb.tobytes(), digest_size=16).hexdigest(),
                "rgb": rgb,
                "boxes": np.array(corners, np.float32) - np.array([box.x0, box.y0] * 2, np.float32),
            },
        )
        masks = dict(zip(array_of(answer, "prompt").tolist(), masks_of(answer, rgb.shape[:2]), strict=True))
        for place, cell in enumerate(cells):
            outcome, chosen = _judged(cell, masks.get(place), box, stored, window.um_per_px)
            self.outcomes[outcome] += 1
            yield chosen


def _by_square(cells: Sequence[Detection], grid: WindowGrid) -> Iterator[tuple[Box, list[Detection]]]:
    """The cells whose centroids lie in one square, and that square with its margin."""
    squares: dict[tuple[int, int], list[Detection]] = {}
    for cell in cells:
        x, y = mask_centroid(cell.mask)
        ((column, row),) = grid.squares_of(np.array([(cell.box.x0 + x, cell.box.y0 + y)])).tolist()
        squares.setdefault((column, row), []).append(cell)
    for (column, row), some in sorted(squares.items()):
        yield grid.square(column, row).grown(grid.margin_px), some


def _judged(
    cell: Detection, refined: tuple[Box, BoolMask] | None, seen: Box, stored: CellRange, um_per_px: float
) -> tuple[str, Detection]:
    """What became of a cell, and the one of its two outlines that stays."""
    if refined is None or not refined[1].any():
        return "no_mask", cell
    part, mask = refined
    box, mask = tight(normalise_mask(mask), seen.x0 + part.x0, seen.y0 + part.y0)
    if box.clipped(seen.grown(-1)) != box or not fits(mask, stored, um_per_px):
        return "unfit", cell
    ratio = int(mask.sum()) / int(cell.mask.sum())
    if iou(cell.box, cell.mask, box, mask) < MIN_IOU or not 1 / MAX_AREA_RATIO <= ratio <= MAX_AREA_RATIO:
        return "unlike", cell
    return "refined", replace(cell, box=box, mask=mask)
