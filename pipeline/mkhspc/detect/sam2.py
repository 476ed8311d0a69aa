"""Megakaryocytes by SAM2: the worker's side. The model itself runs elsewhere, and torch with it.

Points where an MK may be (`classical.proposals`) are put to the model in windows of one physical size, which
lie on a grid of the scene: a cell's window, and so its outline, does not depend on the tile. The model gives
back small logits of the cells that passed; each is enlarged here, within its own box.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange, CellType
from mkhspc.detect.classical import ClassicalMk
from mkhspc.detect.classical.masks import fits, tight
from mkhspc.detect.classical.proposals import PROPOSAL_REACH_UM, proposals
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.detect.mask_logits import masks_of
from mkhspc.detect.window_grid import WindowGrid, window_um
from mkhspc.geometry import Box, mask_centroid, normalise_mask, shared_px, um_to_px
from mkhspc.models.sam2_masks import Floats
from mkhspc.models.service import Message, ModelService, array_of

NEAR_UM = 20.0
"""The largest distance between a mask's centroid and its prompt, in µm. A mask farther away is of something
else: larger cells have prompts nearer their middle."""
SAME_UM = 20.0
"""Two masks are of one cell if their centroids are at most so many µm apart ..."""
SHARED = 0.5
"""... and they share at least this part of the smaller one."""
MAX_RATIO = 4.0
"""The largest ratio between the areas of a mask and of its proposal, either way. With a larger one the mask
is of something else."""

REASONS = ("empty", "piece_astray", "seen_twice", "unfit")
"""Why a mask that the model let pass gives no cell: it holds no pixel's centre; its largest piece lies away
from its prompt; another window shows the same cell better; its area or length is not stored."""


@dataclass(frozen=True)
class EmbeddedDetection(Detection):
    """A cell with what SAM2's image encoder says of it: (256,) float32, pooled under it."""

    features: Floats


@dataclass(frozen=True)
class Sam2Mk:
    """Finds megakaryocytes by SAM2; see the module.

    Attributes:
        service: answers for the model 'sam2'.
        weights: names the weights, so that a run keeps to one set of them: a digest of the file.
        longest_um: cells may be this long, `CellRange.max_length_um` of what is stored.
        min_score, min_stability: of a mask, by the model itself. Milder than the 0.8 and 0.95 of SAM2's
            automatic generator, which asks everywhere; here the points are chosen, and a classifier follows.
        outcomes: prompts that gave no cell so far, by reason: `mkhspc.models.sam2_masks.REASONS` and
            `REASONS`.
    """

    service: ModelService
    weights: str
    longest_um: float
    min_score: float = 0.7
    min_stability: float = 0.85
    outcomes: Counter[str] = field(default_factory=Counter, compare=False)
    name: str = "sam2"
    cell_type: CellType = "mk"

    @property
    def revision(self) -> str:
        """With the classical detector's, of whose layers and outlines the proposals are made."""
        return f"2 by classical {ClassicalMk().revision} {self.weights}"

    def halo_um(self, needed: NeededCells) -> float:
        # The answer for an MK depends on the squares of its own prompt, which is NEAR_UM from its centroid
        # at most, and of its rivals', whose centroids are SAME_UM from its own. Each of these squares begins
        # a square's width beyond its prompt at most, and is known once its surroundings are seen. The mask
        # itself lies in its square's window, so its length counts for nothing more. 2 µm are for rounding to
        # pixels.
        square_um = window_um(self.longest_um) - self.longest_um
        return needed.centroid_um + SAME_UM + NEAR_UM + square_um + self._surroundings_um + 2.0

    @property
    def _surroundings_um(self) -> float:
        """What must be seen around a square: its window, and all that its prompts depend on."""
        return max(self.longest_um / 2, PROPOSAL_REACH_UM) + 2.0

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        """Whole squares with their surroundings.

        It ends where the squares do, seldom as far away as `halo_um`, which holds wherever they end.
        """
        asked = self._asked_for(needed.centroids(core, um_per_px), um_per_px)
        squares = WindowGrid.of(self.longest_um, um_per_px).spanned(asked)
        return squares.grown(self._surroundings_px(um_per_px))

    def detect(self, window: Window, stored: CellRange) -> list[Detection]:
        """Megakaryocytes of the window; see `Detector.detect`."""
        found: list[_Found] = []
        for square, request in self.requests(window, stored):
            answer = self.service.ask("sam2", request)
            self.outcomes.update(counts_of(answer))
            box = square.grown(self._grid(window).margin_px)
            found += self._found(request, answer, box, square, window.um_per_px)
        best = [one.cell for one in found if not any(other.beats(one) for other in found)]
        cells: list[Detection] = [cell for cell in best if fits(cell.mask, stored, window.um_per_px)]
        lost = Counter(seen_twice=len(found) - len(best), unfit=len(best) - len(cells))
        self.outcomes.update(+lost)  # without reasons that befell none
        return cells

    def requests(self, window: Window, stored: CellRange) -> Iterator[tuple[Box, Message]]:
        """The square and the request of each window of the grid that has prompts and can be seen whole.

        Squares that no wanted cell depends on are left out.
        """
        grid, seen, asked = self._grid(window), self._seen(window), self._asked(window)
        squares = [one for one in grid.squares_that_meet(asked) if one.clipped(seen) == one]
        if not squares:
            return
        searched = squares[0].joined(squares[-1]).grown(self._surroundings_px(window.um_per_px))
        points_px, prior_area_px = prompts(window.apart(searched), stored)
        order = np.lexsort((points_px[:, 0], points_px[:, 1]))
        points_px, prior_area_px = points_px[order], prior_area_px[order]
        square_of = grid.squares_of(points_px)
        matters = ((points_px >= (asked.x0, asked.y0)) & (points_px <= (asked.x1, asked.y1))).all(axis=1)
        for square in squares:
            inside = (square_of == (square.x0 // grid.cell_px, square.y0 // grid.cell_px)).all(axis=1)
            if (inside & matters).any():
                yield square, self._request(window, stored, square, points_px[inside], prior_area_px[inside])

    def _request(
        self,
        window: Window,
        stored: CellRange,
        square: Box,
        points_px: NDArray[np.float64],
        prior_area_px: NDArray[np.float64],
    ) -> Message:
        """What the model is asked about a square: its window, the points in it, and what a mask must be."""
        box = square.grown(self._grid(window).margin_px)
        rgb = np.ascontiguousarray(window.rgb[box.slices_in(window.box)])
        return {
            "kind": "segment",
            "key": hashlib.blake2b(rgb.data, digest_size=16).hexdigest(),
            "rgb": rgb,
            "points": (points_px - (box.x0, box.y0)).astype(np.float32),
            "prior_area_px": prior_area_px.astype(np.float32),
            **self._gate(stored, window.um_per_px),
        }

    def _seen(self, window: Window) -> Box:
        """Where squares lie that are seen with their surroundings."""
        return window.box.grown(-self._surroundings_px(window.um_per_px))

    def _asked(self, window: Window) -> Box:
        """Where the prompts lie that a wanted cell may be of, or a rival of a wanted cell."""
        if window.wanted is None:
            return self._seen(window)
        return self._asked_for(window.wanted, window.um_per_px)

    def _asked_for(self, wanted: Box, um_per_px: float) -> Box:
        return wanted.grown(um_to_px(NEAR_UM + SAME_UM, um_per_px))

    def _surroundings_px(self, um_per_px: float) -> int:
        return um_to_px(self._surroundings_um, um_per_px)

    def _found(
        self, request: Message, answer: Message, box: Box, square: Box, um_per_px: float
    ) -> Iterator[_Found]:
        """The cells of the answer for the window `box`."""
        points = array_of(request, "points")[array_of(answer, "prompt")].tolist()
        scores, features = array_of(answer, "score").tolist(), array_of(answer, "features")
        masks = masks_of(answer, (box.height, box.width))
        for (part, mask), point, score, vector in zip(masks, points, scores, features, strict=True):
            if not mask.any():
                self.outcomes["empty"] += 1
                continue
            inside, cell = tight(normalise_mask(mask), part.x0, part.y0)
            x, y = mask_centroid(cell)
            centre = (inside.x0 + x, inside.y0 + y)
            # The model took the whole mask; here it is its largest piece, whose middle may be elsewhere.
            if math.dist(centre, point) > NEAR_UM / um_per_px:
                self.outcomes["piece_astray"] += 1
                continue
            found = EmbeddedDetection(inside.shifted(box.x0, box.y0), cell, score, vector)
            yield _Found(found, square, (box.x0 + centre[0], box.y0 + centre[1]), SAME_UM / um_per_px)

    def _grid(self, window: Window) -> WindowGrid:
        return WindowGrid.of(self.longest_um, window.um_per_px)

    def _gate(self, stored: CellRange, um_per_px: float) -> Mapping[str, float]:
        """What a mask must be, in the words of `mkhspc.models.sam2_masks.Gate`."""
        return {
            "min_score": self.min_score,
            "min_stability": self.min_stability,
            "min_area_px": stored.min_um2 / um_per_px**2,
            "max_area_px": stored.max_um2 / um_per_px**2,
            "near_px": NEAR_UM / um_per_px,
            "max_ratio": MAX_RATIO,
            "shared": SHARED,
            "same_px": SAME_UM / um_per_px,
        }


def prompts(window: Window, stored: CellRange) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points to ask at, (n, 2) x, y in level-0 pixels, and the area of each one's proposal, 0 without one."""
    found = proposals(window)
    step_px = max(1, math.floor(stored.min_diameter_um / window.um_per_px))
    grid_px = found.grid_points(step_px)
    areas_px = np.concatenate([found.areas_px, np.zeros(len(grid_px))])
    return np.concatenate([found.points_px, grid_px]), areas_px


def counts_of(answer: Message) -> dict[str, int]:
    """How many prompts gave no cell, by reason."""
    return {
        name.removeprefix("rejected_"): value
        for name, value in answer.items()
        if name.startswith("rejected_") and isinstance(value, int) and value
    }


@dataclass(frozen=True)
class _Found:
    """A cell, and the square whose window it was found in."""

    cell: EmbeddedDetection
    square: Box
    centre_px: tuple[float, float]
    same_px: float

    def beats(self, other: _Found) -> bool:
        """Whether this is the same cell, seen better from another window: the model compared those of one."""
        if self.square == other.square:
            return False
        if (other.cell.score, other.square) > (self.cell.score, self.square):
            return False
        return math.dist(self.centre_px, other.centre_px) <= self.same_px and (
            _overlap(self.cell, other.cell) >= SHARED
        )


def _overlap(cell: Detection, other: Detection) -> float:
    """The part of the smaller mask that two cells have in common."""
    shared = shared_px(cell.box, cell.mask, other.box, other.mask)
    return shared / min(int(cell.mask.sum()), int(other.mask.sum()))
