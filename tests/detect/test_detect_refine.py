"""SAM2's outlines for another detector's cells: taken only where both mean the same cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from localmodels import LocalModels
from mkhspc.config import CellRange, CellType
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.detect.refine import SQUARE_MARGIN_UM, SQUARE_UM, RefinedBySam2
from mkhspc.errors import MkhspcError
from mkhspc.geometry import Box, mask_centroid, um_to_px
from mkhspc.models.service import Message
from stained import CALIBRATION

AREA = CellRange(5.0, 300.0)
UM_PER_PX = 0.25
SIDE_PX = 20
"""Of the square cells that are refined; 25 µm²."""
LOGITS_SIDE = 256
SCENE = Box(0, 0, 2000, 2000)


@dataclass
class Outliner:
    """Answers a refinement as SAM2 does, with each box shifted and grown; `silent` boxes get no mask."""

    shift_px: float = 0.0
    grow_px: float = 0.0
    silent: frozenset[int] = frozenset()
    asked: list[Message] = field(default_factory=list)

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Message) -> Message:
        height, width = request["rgb"].shape[:2]
        assert height == width
        scale = LOGITS_SIDE / width
        boxes = request["boxes"] + self.shift_px + np.array([-1, -1, 1, 1]) * self.grow_px
        prompts = [place for place in range(len(boxes)) if place not in self.silent]
        corners, shapes, logits = [], [], []
        for x0, y0, x1, y1 in boxes[prompts] * scale:
            left, top = max(0, int(x0) - 2), max(0, int(y0) - 2)
            columns = np.arange(left, min(LOGITS_SIDE, int(x1) + 3)) + 0.5
            rows = np.arange(top, min(LOGITS_SIDE, int(y1) + 3)) + 0.5
            inward = [
                np.minimum(at - start, end - at) for at, start, end in ((rows, y0, y1), (columns, x0, x1))
            ]
            logits.append(np.minimum.outer(*inward).astype(np.float32))
            corners.append((left, top))
            shapes.append(logits[-1].shape)
        return {
            "corners": np.array(corners, np.int32).reshape(-1, 2),
            "shapes": np.array(shapes, np.int32).reshape(-1, 2),
            "logits": np.concatenate([each.ravel() for each in logits])
            if logits
            else np.empty(0, np.float32),
            "side": LOGITS_SIDE,
            "prompt": np.array(prompts, np.int32),
        }


@dataclass(frozen=True)
class Given:
    """Finds given cells, those that lie whole in the window."""

    cells: tuple[Box, ...]
    name: str = "cellpose"
    revision: str = "1 abc"
    cell_type: CellType = "hspc"
    longest_um: float = math.inf

    def halo_um(self, needed: NeededCells) -> float:
        return needed.longest_um + 20.0

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, area: CellRange) -> list[Detection]:
        inside = (box for box in self.cells if box.clipped(window.box) == box)
        return [Detection(box, np.ones((box.height, box.width), np.bool_), 0.8) for box in inside]


def lattice(step_px: int = 97) -> tuple[Box, ...]:
    at = range(40, SCENE.width - 60, step_px)
    return tuple(Box(x, y, x + SIDE_PX, y + SIDE_PX) for y in at for x in at)


def window_of(box: Box = SCENE) -> Window:
    rng = np.random.default_rng(0)
    rgb: NDArray[np.uint8] = rng.integers(0, 256, (SCENE.height, SCENE.width, 3), dtype=np.uint8)
    return Window(rgb[box.slices_in(SCENE)], box, UM_PER_PX, CALIBRATION)


def refined(
    model: Outliner, cells: Sequence[Box], window: Window | None = None
) -> tuple[list[Detection], RefinedBySam2]:
    detector = RefinedBySam2(Given(tuple(cells)), LocalModels({"sam2": model}), "def")
    return detector.detect(window or window_of(), AREA), detector


def middle() -> list[Box]:
    """Some cells far from the scene's border."""
    return [box for box in lattice() if 700 <= box.x0 < 1100 and 700 <= box.y0 < 1100]


def test_an_outline_that_agrees_is_taken_and_the_score_stays() -> None:
    cells = middle()
    found, detector = refined(Outliner(grow_px=1.0), cells)
    assert len(found) == len(cells)
    assert detector.outcomes == Counter(refined=len(cells))
    by_place = {(cell.box.x0 + cell.box.x1, cell.box.y0 + cell.box.y1): cell for cell in found}
    for box in cells:
        near = [
            place
            for place in by_place
            if np.hypot(place[0] - box.x0 - box.x1, place[1] - box.y0 - box.y1) <= 3
        ]
        assert len(near) == 1
        cell = by_place[near[0]]
        assert cell.mask.sum() == pytest.approx((SIDE_PX + 2) ** 2, rel=0.12)
        assert cell.score == 0.8


@pytest.mark.parametrize(
    ("model", "outcome"),
    [
        (Outliner(shift_px=8.0), "unlike"),
        (Outliner(grow_px=6.0), "unlike"),
        (Outliner(grow_px=-4.0), "unlike"),
        (Outliner(grow_px=40.0), "unfit"),
        (Outliner(grow_px=-8.5), "unfit"),
        (Outliner(silent=frozenset(range(99))), "no_mask"),
    ],
)
def test_an_outline_that_does_not_agree_leaves_the_cell_as_it_was(model: Outliner, outcome: str) -> None:
    cells = middle()
    found, detector = refined(model, cells)
    assert {cell.box for cell in found} == set(cells)
    assert all(cell.mask.all() for cell in found)
    assert detector.outcomes == Counter({outcome: len(cells)})


def test_prompts_are_the_cells_boxes_in_squares_of_one_size() -> None:
    cells = middle()
    model = Outliner()
    refined(model, cells)
    side = round((SQUARE_UM + 2 * SQUARE_MARGIN_UM) / UM_PER_PX)
    assert {request["rgb"].shape for request in model.asked} == {(side, side, 3)}
    assert {request["kind"] for request in model.asked} == {"refine"}
    scene = window_of().rgb
    for request in model.asked:
        assert request["boxes"].dtype == np.float32
        x0, y0, x1, y1 = request["boxes"][0].astype(int)
        seen = request["rgb"][y0:y1, x0:x1]
        assert any(np.array_equal(seen, scene[box.y0 : box.y1, box.x0 : box.x1]) for box in cells)


def test_windows_that_share_a_cell_refine_it_alike() -> None:
    cells = lattice()
    whole, detector = refined(Outliner(grow_px=1.0), cells)
    reach_px = int(np.ceil(detector.halo_um(NeededCells(0.0)) / UM_PER_PX))
    assert detector.halo_um(NeededCells(0.0)) >= SQUARE_UM + SQUARE_MARGIN_UM
    for box in (Box(0, 0, 1300, 1200), Box(411, 305, 1950, 1900)):
        part, _ = refined(Outliner(grow_px=1.0), cells, window_of(box))
        seen = box.grown(-reach_px)
        inside = [
            {(c.box, c.mask.tobytes()) for c in some if c.box.clipped(seen) == c.box}
            for some in (whole, part)
        ]
        assert len(inside[0]) > 5
        assert inside[0] == inside[1]


def test_no_cell_is_given_twice_and_all_that_a_tile_may_own_are_given() -> None:
    cells = lattice(61)
    found, detector = refined(Outliner(grow_px=1.0), cells)
    seen = SCENE.grown(-int(np.ceil(detector.halo_um(NeededCells(0.0)) / UM_PER_PX)))
    owned = [box for box in cells if box.clipped(seen) == box]
    centres = np.array([(c.box.x0 + x, c.box.y0 + y) for c in found for x, y in [mask_centroid(c.mask)]])
    for box in owned:
        distance = np.hypot(*(centres - (box.x0 + SIDE_PX / 2, box.y0 + SIDE_PX / 2)).T)
        assert (distance < 5).sum() == 1


def test_name_and_revision_tell_both_models() -> None:
    detector = RefinedBySam2(Given(()), LocalModels({}), "def")
    assert detector.name == "cellpose+sam2"
    assert detector.cell_type == "hspc"
    assert detector.revision != replace(detector, weights="deg").revision
    assert detector.revision != replace(detector, found_by=Given((), revision="2 abc")).revision
