"""Which cells a tile owns, and which MK it knows that hold its HSPC: with detectors that find drawn cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mkhspc.config import CELL_TYPES, CellRange, CellType, RunConfig
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk, outline
from mkhspc.detect.classical.masks import tight
from mkhspc.detect.contract import Detection, Detector, NeededCells, Window
from mkhspc.geometry import BoolMask, Box, mask_centroid, normalise_mask
from mkhspc.measure.analysis import MOSTLY_INSIDE, TileAnalysis
from mkhspc.run.tile_cells import TileSearch, detect, measure
from mkhspc.slide.tiles import Tile
from mkhspc.slide.tissue import TissueMask
from stained import CALIBRATION

UM_PER_PX = 0.5
SIDE_PX = 1200
SCENE = Box(0, 0, SIDE_PX, SIDE_PX)
STORED = {t: RunConfig().stored(t) for t in CELL_TYPES}
ROWS, COLUMNS = np.mgrid[:SIDE_PX, :SIDE_PX]


@dataclass(frozen=True)
class Drawn:
    """Knows one cell, and finds it in windows that reach far enough about its centre; else it is cut.

    Attributes:
        like: whose word for the halo it takes.
        centre_px: x, y that the answer depends on.
        needs_px: on so much around it.
    """

    like: Detector
    mask: NDArray[np.bool_]
    centre_px: tuple[int, int]
    needs_px: int
    name: str = "drawn"
    revision: str = "1"

    @property
    def cell_type(self) -> CellType:
        return self.like.cell_type

    @property
    def longest_um(self) -> float:
        return self.like.longest_um

    def halo_um(self, needed: NeededCells) -> float:
        return self.like.halo_um(needed)

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return self.like.seen_box(core, needed, um_per_px)

    def detect(self, window: Window, area: CellRange) -> Sequence[Detection]:
        x, y = self.centre_px
        seen = Box(x, y, x + 1, y + 1).grown(self.needs_px)
        if seen.clipped(window.box) != seen:
            return ()
        return (Detection(*tight(normalise_mask(self.mask), 0, 0), 0.9),)


def disc(x_px: float, y_px: float, radius_um: float) -> BoolMask:
    inside: BoolMask = np.hypot(COLUMNS - x_px, ROWS - y_px) * UM_PER_PX <= radius_um
    return inside


def analysis_of(mk: Drawn, hspc: Drawn) -> TileAnalysis:
    detectors: Mapping[CellType, Detector] = {"mk": mk, "hspc": hspc}
    return TileAnalysis(detectors, STORED)


def cells_of(core: Box, analysis: TileAnalysis, seen: Box | None = None) -> list[dict[str, Any]]:
    """What a tile of a white scene, tissue all over, owns; `seen` instead of what the analysis asks for."""
    everywhere = np.ones((SIDE_PX // 4, SIDE_PX // 4), np.bool_)
    tissue = TissueMask(everywhere, everywhere, 4, UM_PER_PX, SIDE_PX, SIDE_PX)
    white = np.full((SIDE_PX, SIDE_PX, 3), 235, np.uint8)
    box = seen or analysis.read_box(core, UM_PER_PX)
    window = Window(white, SCENE, UM_PER_PX, CALIBRATION).apart(box)
    search = TileSearch("S", window, tissue, Tile("tile", 0, core, 1.0, 1.0, 0), analysis)
    rows: list[dict[str, Any]] = measure(detect(search), search).to_pylist()
    return rows


@pytest.mark.parametrize("side", [-1, 1])
def test_an_mk_is_known_as_far_outside_a_core_as_it_can_hold_an_hspc(side: int) -> None:
    """A dumbbell of an HSPC: its larger half lies in an MK that reaches as far from its centre as any can."""
    middle = SIDE_PX // 2
    radius_um = outline.RAY_UM - 0.5
    held_px, free_px = middle + side * 18, middle - side * 18  # the halves' centres, 18 µm apart
    left, right = sorted((held_px, free_px))
    bar = (middle == ROWS) & (left < COLUMNS) & (right > COLUMNS)
    hspc = disc(held_px, middle, 4.6) | disc(free_px, middle, 4.0) | bar
    centre_px = held_px + side * int((radius_um - 4.6) / UM_PER_PX)
    mk = disc(centre_px, middle, radius_um)
    assert (hspc & mk).sum() > MOSTLY_INSIDE * hspc.sum()
    x_px = int(mask_centroid(hspc)[0])
    core = Box(x_px, middle - 60, x_px + 60, middle + 60)  # which ends beside the HSPC's centroid
    edge_px = core.x0
    if side > 0:
        core = core.shifted(-59, 0)
        edge_px = core.x1
    outside_um = abs(centre_px - edge_px) * UM_PER_PX
    assert outside_um > outline.RAY_UM + 1.0  # farther than the centre of an MK of the core's own

    from_centre_um = ClassicalMk().halo_um(NeededCells(0.0))
    analysis = analysis_of(
        Drawn(ClassicalMk(), mk, (centre_px, middle), int(from_centre_um / UM_PER_PX)),
        Drawn(ClassicalHspc(), hspc, (x_px, middle), 1),
    )
    box = analysis.read_box(core, UM_PER_PX)
    assert box.clipped(SCENE) == box
    cells = cells_of(core, analysis)
    assert [cell["cell_type"] for cell in cells] == ["hspc"]
    assert cells[0]["inside_mk_id"] is not None

    # The halo of the core's own cells alone is not enough.
    near_um = ClassicalMk().halo_um(NeededCells(analysis.longest_um("mk")))
    (cut,) = cells_of(core, analysis, core.grown(int(near_um / UM_PER_PX)))
    assert cut["inside_mk_id"] is None


def rectangle(box: Box) -> BoolMask:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return mask


@pytest.mark.parametrize(("shared_px", "is_inside"), [(200, False), (201, True)])
def test_an_hspc_is_inside_an_mk_that_holds_more_than_half_of_its_pixels(
    shared_px: int, is_inside: bool
) -> None:
    hspc = rectangle(Box(600, 600, 620, 620))
    mk = rectangle(Box(560, 560, 610, 640))
    mk[600, 610 : 610 + shared_px - 200] = True
    assert (int((hspc & mk).sum()), int(hspc.sum())) == (shared_px, 400)
    analysis = analysis_of(
        Drawn(ClassicalMk(), mk, (600, 600), 1), Drawn(ClassicalHspc(), hspc, (600, 600), 1)
    )
    small, large = sorted(cells_of(Box(500, 500, 700, 700), analysis), key=lambda cell: cell["area_px"])
    assert small["inside_mk_id"] == (large["cell_id"] if is_inside else None)
    assert small["inside_mk_ids"] == ([large["cell_id"]] if is_inside else None)


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_a_centroid_on_the_edge_of_a_core_belongs_to_the_core_that_begins_there(cell_type: CellType) -> None:
    """Cores are half-open: of four that meet in the centroid, that to its right and below owns the cell."""
    x, y = 600, 620
    drawn = Drawn(ClassicalMk(), rectangle(Box(x - 12, y - 8, x + 12, y + 8)), (x, y), 1)
    empty = Drawn(ClassicalHspc(), drawn.mask, (0, 0), SIDE_PX)
    pair = (drawn, empty) if cell_type == "mk" else (empty, drawn)
    owners = {
        (left, top): len(cells_of(Box(left, top, left + 100, top + 100), analysis_of(*pair)))
        for left in (x - 100, x)
        for top in (y - 100, y)
    }
    assert owners == {(x - 100, y - 100): 0, (x, y - 100): 0, (x - 100, y): 0, (x, y): 1}


@dataclass(frozen=True)
class Several(Drawn):
    """Finds several masks, each with a score of its own."""

    others: tuple[tuple[BoolMask, float], ...] = ()

    def detect(self, window: Window, area: CellRange) -> Sequence[Detection]:
        first = super().detect(window, area)
        return (*first, *(Detection(*tight(normalise_mask(m), 0, 0), score) for m, score in self.others))


def test_the_best_scored_of_the_mk_that_hold_an_hspc_is_named_and_all_are_listed() -> None:
    """Though the worse one holds more of it."""
    hspc = rectangle(Box(600, 600, 620, 620))
    better, worse = rectangle(Box(560, 560, 612, 640)), rectangle(Box(590, 560, 660, 650))
    analysis = analysis_of(
        Several(ClassicalMk(), better, (600, 600), 1, others=((worse, 0.2),)),
        Drawn(ClassicalHspc(), hspc, (600, 600), 1),
    )
    found = cells_of(Box(500, 500, 700, 700), analysis)
    ids = {round(cell["detector_score"], 2): cell["cell_id"] for cell in found if cell["cell_type"] == "mk"}
    (small,) = [cell for cell in found if cell["cell_type"] == "hspc"]
    assert small["inside_mk_id"] == ids[0.9]
    assert small["inside_mk_ids"] == [ids[0.9], ids[0.2]]


def test_a_run_that_stores_no_weak_mk_has_no_column_for_all_of_them() -> None:
    hspc = rectangle(Box(600, 600, 620, 620))
    drawn = Drawn(ClassicalHspc(), hspc, (600, 600), 1)
    mk = Drawn(ClassicalMk(), rectangle(Box(560, 560, 640, 640)), (600, 600), 1)
    stored = {**STORED, "mk": replace(STORED["mk"], min_score=0.5)}
    found = cells_of(Box(500, 500, 700, 700), TileAnalysis({"mk": mk, "hspc": drawn}, stored))
    assert all("inside_mk_ids" not in cell for cell in found)
    assert sum(cell["inside_mk_id"] is not None for cell in found) == 1
