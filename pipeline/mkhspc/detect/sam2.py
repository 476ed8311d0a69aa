"""Megakaryocytes by SAM2: the worker's side. The model itself runs elsewhere, and torch with it.

Points where an MK may be (`classical.proposals`) are put to the model in windows of one physical size, which
lie on a grid of the scene: a cell's window, and so its outline, does not depend on the tile. The model gives
back small logits of the cells that passed; each is enlarged here, within its own box.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import AreaRange, CellType
from mkhspc.detect.classical import ClassicalMk
from mkhspc.detect.classical.masks import fits, tight
from mkhspc.detect.classical.proposals import PROPOSAL_REACH_UM, proposals
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.geometry import BoolMask, Box, mask_centroid, normalise_mask, shared_px, um_to_px
from mkhspc.models.service import Message, ModelService, array_of

Floats = NDArray[np.float32]

WINDOW_PER_LENGTH = 2.5
"""A window is this many times as wide as the longest cell: 256 µm by default, so that the model, which sees
1024 x 1024, gets about the scanner's own pixels ..."""
MIN_WINDOW_UM = 180.0
"""... and no narrower than this."""
NEAR_UM = 20.0
"""A mask whose centroid is farther from its prompt than this is of something else: larger cells have
prompts nearer their middle."""
SAME_UM = 20.0
SHARED = 0.5
"""Masks are of one cell if they share this much of the smaller one and their centroids are this near."""
COLUMNS_AT_A_TIME = 4
"""Of squares in which prompts are sought: a tile of 4096 px has some eight, which would take nearly twice the
memory. Strips overlap by their surroundings: an eighth more is looked at, little beside the model's work."""
MAX_RATIO = 4.0
"""A mask whose area is off its proposal's by more than this, either way, is of something else."""


REASONS = ("empty", "piece_astray", "seen_twice", "unfit")
"""Why a mask that the model let pass gives no cell: no pixel's centre lies in it; its largest piece is away
from its prompt; another window shows the same cell better; its area or length is not stored."""


@dataclass(frozen=True)
class EmbeddedDetection(Detection):
    """A cell with what SAM2's image encoder says of it: (256,) float32, pooled under it."""

    features: Floats


@dataclass(frozen=True)
class WindowGrid:
    """Windows of a scene: a square of `cell_px` with `margin_px` on every side each.

    Squares lie side by side from the scene's corner on; a prompt belongs to the window whose square holds it.
    A cell no longer than twice the margin lies whole in the window of a prompt at its centre.
    """

    cell_px: int
    margin_px: int

    @classmethod
    def of(cls, longest_um: float, um_per_px: float) -> WindowGrid:
        """The grid for cells up to a length."""
        margin_px = um_to_px(longest_um / 2, um_per_px)
        return cls(um_to_px(_window_um(longest_um), um_per_px) - 2 * margin_px, margin_px)

    @property
    def window_bytes(self) -> int:
        """Of a window's pixels."""
        return 3 * (self.cell_px + 2 * self.margin_px) ** 2

    def square(self, column: int, row: int) -> Box:
        """The window without its margin, in level-0 pixels of the scene."""
        x, y = column * self.cell_px, row * self.cell_px
        return Box(x, y, x + self.cell_px, y + self.cell_px)

    def squares_that_meet(self, box: Box) -> list[Box]:
        """The squares that share a pixel with a box; column after column."""
        columns = range(box.x0 // self.cell_px, -(-box.x1 // self.cell_px))
        rows = range(box.y0 // self.cell_px, -(-box.y1 // self.cell_px))
        return [self.square(column, row) for column in columns for row in rows]

    def spanned(self, box: Box) -> Box:
        """The squares that share a pixel with a box."""
        squares = self.squares_that_meet(box)
        return squares[0].joined(squares[-1])

    def squares_of(self, points_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n, 2) column and row of the squares that hold (n, 2) points."""
        return np.floor(points_px / self.cell_px).astype(np.int64)


@dataclass(frozen=True)
class Sam2Mk:
    """Finds megakaryocytes by SAM2; see the module.

    Attributes:
        service: answers for the model 'sam2'.
        weights: names the weights, so that a run keeps to one set of them: a digest of the file.
        longest_um: cells may be this long, `AreaRange.max_length_um` of what is stored.
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
        square_um = _window_um(self.longest_um) - self.longest_um
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

    def detect(self, window: Window, area: AreaRange) -> list[Detection]:
        """Megakaryocytes of the window; see `Detector.detect`."""
        found: list[_Found] = []
        for square, request in self.requests(window, area):
            answer = self.service.ask("sam2", request)
            self.outcomes.update(counts_of(answer))
            box = square.grown(self._grid(window).margin_px)
            found += self._found(request, answer, box, square, window.um_per_px)
        best = [one.cell for one in found if not any(other.beats(one) for other in found)]
        cells: list[Detection] = [cell for cell in best if fits(cell.mask, area, window.um_per_px)]
        lost = Counter(seen_twice=len(found) - len(best), unfit=len(best) - len(cells))
        self.outcomes.update(+lost)  # without reasons that befell none
        return cells

    def requests(self, window: Window, area: AreaRange) -> Iterator[tuple[Box, Message]]:
        """The square and the request of each window of the grid that has prompts and can be seen whole.

        Squares that no wanted cell depends on are left out.
        """
        grid, seen = self._grid(window), self._seen(window)
        squares = [one for one in grid.squares_that_meet(self._asked(window)) if one.clipped(seen) == one]
        columns = [list(column) for _, column in itertools.groupby(squares, lambda square: square.x0)]
        for start in range(0, len(columns), COLUMNS_AT_A_TIME):
            strip = columns[start : start + COLUMNS_AT_A_TIME]
            yield from self._requests_of(window, area, list(itertools.chain.from_iterable(strip)))

    def _requests_of(
        self, window: Window, area: AreaRange, squares: Sequence[Box]
    ) -> Iterator[tuple[Box, Message]]:
        """Of neighbouring columns of squares: all of them, with their surroundings, fill a box."""
        grid, asked = self._grid(window), self._asked(window)
        searched = squares[0].joined(squares[-1]).grown(self._surroundings_px(window.um_per_px))
        points_px, prior_area_px = prompts(window.apart(searched), area)
        order = np.lexsort((points_px[:, 0], points_px[:, 1]))
        points_px, prior_area_px = points_px[order], prior_area_px[order]
        held_by = grid.squares_of(points_px)
        low, high = (asked.x0, asked.y0), (asked.x1, asked.y1)
        matters = ((points_px >= low) & (points_px <= high)).all(axis=1)
        for square in squares:
            here = (held_by == (square.x0 // grid.cell_px, square.y0 // grid.cell_px)).all(axis=1)
            if not (here & matters).any():
                continue
            box = square.grown(grid.margin_px)
            rgb = np.ascontiguousarray(window.rgb[box.slices_in(window.box)])
            yield (
                square,
                {
                    "kind": "segment",
                    "key": hashlib.blake2b(rgb.data, digest_size=16).hexdigest(),
                    "rgb": rgb,
                    "points": (points_px[here] - (box.x0, box.y0)).astype(np.float32),
                    "prior_area_px": prior_area_px[here].astype(np.float32),
                    **self._gate(area, window.um_per_px),
                },
            )

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

    def _gate(self, area: AreaRange, um_per_px: float) -> Mapping[str, float]:
        """What a mask must be, in the words of `mkhspc.models.sam2_masks.Gate`."""
        return {
            "min_score": self.min_score,
            "min_stability": self.min_stability,
            "min_area_px": area.min_um2 / um_per_px**2,
            "max_area_px": area.max_um2 / um_per_px**2,
            "near_px": NEAR_UM / um_per_px,
            "max_ratio": MAX_RATIO,
            "shared": SHARED,
            "same_px": SAME_UM / um_per_px,
        }


def prompts(window: Window, area: AreaRange) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points to ask at, (n, 2) x, y in level-0 pixels, and the area of each one's proposal, 0 without one."""
    found = proposals(window)
    step_px = max(1, math.floor(area.min_diameter_um / window.um_per_px))
    grid_px = found.grid_points(step_px)
    areas_px = np.concatenate([found.areas_px, np.zeros(len(grid_px))])
    return np.concatenate([found.points_px, grid_px]), areas_px


def enlarged(
    logits: Floats, corner: tuple[int, int], side: int, shape: tuple[int, int]
) -> tuple[Box, BoolMask]:
    """The pixels of a window that a mask holds: bilinear interpolation of its logits is above 0.

    As SAM2's own `postprocess_masks` (pixel centres at halves, no aligned corners), but in a box only.

    Args:
        logits: (h, w) in a box whose outermost rows and columns are not above 0, but at the image's border.
        corner: x, y of the box in the (side, side) image of logits.
        shape: height and width of the window.

    Returns:
        A box in pixels of the window that holds the mask, and the mask in it; an empty one where no
        pixel's centre lies between the logits, as may be of a thin mask where pixels are large.
    """
    x0, x1, across = _weights(corner[0], logits.shape[1], side, shape[1])
    y0, y1, down = _weights(corner[1], logits.shape[0], side, shape[0])
    rows = logits[down.low] * (1.0 - down.share)[:, None] + logits[down.high] * down.share[:, None]
    values = rows[:, across.low] * (1.0 - across.share) + rows[:, across.high] * across.share
    return Box(x0, y0, x1, y1), values > 0


@dataclass(frozen=True)
class _Weights:
    """Of pixels along one axis: the two logits that each lies between, and the share of the second."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: Floats


def _weights(start: int, count: int, side: int, length: int) -> tuple[int, int, _Weights]:
    """The first pixel, the one past the last, and the weights of those whose logits all lie in the box.

    Where there is none the first is also the one past the last.
    """
    scale = np.float32(side / length)
    at = np.maximum((np.arange(length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    held = (low >= start) & (high < start + count)  # in one run, for `low` never falls
    first = int(np.argmax(held))
    last = first + int(np.count_nonzero(held))
    low, high, at = low[first:last], high[first:last], at[first:last]
    return first, last, _Weights(low - start, high - start, (at - low).astype(np.float32))


def masks_of(answer: Message, shape: tuple[int, int]) -> Iterator[tuple[Box, BoolMask]]:
    """The masks of an answer, each in a box of the window of this height and width; not normalised."""
    logits, side = array_of(answer, "logits"), answer["side"]
    if not isinstance(side, int):
        raise ValueError("the side of the logits must be a whole number")
    start = 0
    for (x, y), (height, width) in zip(
        array_of(answer, "corners").tolist(), array_of(answer, "shapes").tolist(), strict=True
    ):
        end = start + height * width
        yield enlarged(logits[start:end].reshape(height, width), (x, y), side, shape)
        start = end


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


def _window_um(longest_um: float) -> float:
    return max(MIN_WINDOW_UM, WINDOW_PER_LENGTH * longest_um)
