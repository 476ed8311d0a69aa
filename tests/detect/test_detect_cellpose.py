"""Cellpose's cells do not depend on the tile; each is found once, at its place and in its shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import need
from localmodels import LocalModels
from mkhspc.config import CellRange
from mkhspc.detect import cellpose
from mkhspc.detect.cellpose import CORE_START_PX, FIELD_PX, STEP_PX, UM_PER_NATIVE_PX, CellposeHspc
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.errors import MkhspcError, UsageError
from mkhspc.geometry import Box
from mkhspc.models.cellpose import CellposeLoader
from mkhspc.models.service import Message, Model
from mkhspc.models.weights.cache import WeightFile
from stained import CALIBRATION

need("cellpose")
pytestmark = pytest.mark.models

from conecells import RADIUS_PX, cones, one_thread, save_cone_finder, small_backbone  # noqa: E402

AREA = CellRange(5.0, 300.0)
UM_PER_PX = 0.3
RADIUS_UM = RADIUS_PX * UM_PER_NATIVE_PX
FOUND_SHARE = 0.9
"""The cell probability of the cone finder is above one half to this share of the radius."""
SCENE = Box(0, 0, 1400, 1400)


@dataclass
class Recorded:
    """A model, and what it was asked."""

    model: Model
    asked: list[Message] = field(default_factory=list)

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        self.asked += requests
        return self.model.run(requests)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cellpose") / "cones"
    save_cone_finder(path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def model(weights: Path) -> Iterator[Recorded]:
    with small_backbone():
        yield Recorded(CellposeLoader(WeightFile("cones", weights, "0" * 64)).load("cpu"))


def centres_px(um_per_px: float) -> NDArray[np.float64]:
    """Of cells five to a core, about 14 µm apart: at the edge of every core some lie, on either side."""
    native = np.arange(CORE_START_PX % (STEP_PX / 5), SCENE.width, STEP_PX / 5)
    at = native * UM_PER_NATIVE_PX / um_per_px
    at = at[at < SCENE.width]
    offsets = np.random.default_rng(0).uniform(-1.2, 1.2, (len(at) ** 2, 2)) / um_per_px
    return np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2) + offsets


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """Dark cones all over it."""
    return cones((SCENE.height, SCENE.width), centres_px(UM_PER_PX), RADIUS_UM / UM_PER_PX, 232.0, 110.8)


def window_of(scene: NDArray[np.uint8], box: Box) -> Window:
    return Window(scene[box.slices_in(SCENE)], box, UM_PER_PX, CALIBRATION)


def detector(model: Model) -> CellposeHspc:
    return CellposeHspc(LocalModels({"cellpose": model}), "abc")


def inner(box: Box, margin_um: float) -> Box:
    return box.grown(-int(np.ceil(margin_um / UM_PER_PX)))


def inside(cell: Detection, box: Box) -> bool:
    return cell.box.clipped(box) == cell.box


def as_set(cells: Sequence[Detection], box: Box) -> set[tuple[Box, bytes]]:
    return {(cell.box, cell.mask.tobytes()) for cell in cells if inside(cell, box)}


def test_every_cell_is_found_once_in_its_place_and_shape(model: Recorded, scene: NDArray[np.uint8]) -> None:
    found = detector(model).detect(window_of(scene, SCENE), AREA)
    places = np.array([(c.box.x0 + c.box.x1, c.box.y0 + c.box.y1) for c in found]) / 2
    seen = inner(SCENE, detector(model).halo_um(NeededCells(0.0)))
    owned = [c for c in centres_px(UM_PER_PX) if (seen.x0 < c).all() and (c < seen.x1).all()]
    assert len(owned) > 150
    for centre in owned:
        near = np.flatnonzero(np.hypot(*(places - centre).T) < 0.5 * RADIUS_UM / UM_PER_PX)
        assert len(near) == 1, centre
        cell = found[near[0]]
        assert np.hypot(*(places[near[0]] - centre)) <= 1.5
        expected_px = np.pi * (FOUND_SHARE * RADIUS_UM / UM_PER_PX) ** 2
        assert cell.mask.sum() == pytest.approx(expected_px, rel=0.08)
        assert 0.5 < cell.score < 1.0


@pytest.mark.parametrize("box", [Box(0, 0, 1150, 1100), Box(137, 61, 1400, 1290), Box(250, 301, 1399, 1400)])
def test_cells_do_not_depend_on_the_window(
    box: Box, model: Recorded, weights: Path, scene: NDArray[np.uint8]
) -> None:
    """To the last pixel; with a fresh model, so that nothing is remembered."""
    whole = detector(model).detect(window_of(scene, SCENE), AREA)
    with small_backbone():
        fresh = CellposeLoader(WeightFile("cones", weights, "0" * 64)).load("cpu")
    part = detector(fresh).detect(window_of(scene, box), AREA)
    seen = inner(box, detector(model).halo_um(NeededCells(0.0)))
    assert len(as_set(part, seen)) > 40
    assert as_set(part, seen) == as_set(whole, seen)


def test_colours_are_scaled_as_the_scene_says_and_not_as_the_window(
    model: Recorded, scene: NDArray[np.uint8]
) -> None:
    detector(model).detect(window_of(scene, Box(0, 0, 800, 800)), AREA)
    low, high = CALIBRATION.intensity_range
    assert np.array_equal(model.asked[0]["lowhigh"], np.stack([low, high], axis=1))


def test_neighbouring_windows_ask_for_the_same_blocks(model: Recorded, scene: NDArray[np.uint8]) -> None:
    for box in (Box(0, 0, 1100, 1100), Box(311, 173, 1400, 1200)):
        detector(model).detect(window_of(scene, box), AREA)
    first, second = ({block.tobytes() for block in each["blocks"]} for each in model.asked)
    assert len(first & second) >= 4


def test_glass_needs_no_network(model: Recorded) -> None:
    glass = np.full((SCENE.height, SCENE.width, 3), 236, np.uint8)
    assert detector(model).detect(window_of(glass, SCENE), AREA) == []
    assert model.asked == []


def test_only_fields_that_may_hold_cells_are_asked_for(model: Recorded, scene: NDArray[np.uint8]) -> None:
    """And the cells of the others are found as ever."""
    half = scene.copy()
    half[:, 700:] = 232
    everywhere = detector(model).detect(window_of(scene, SCENE), AREA)
    found = detector(model).detect(window_of(half, SCENE), AREA)
    whole, less = (len(each["fields"]) for each in model.asked)
    assert less < whole
    field_um = FIELD_PX * UM_PER_NATIVE_PX
    untouched = Box(0, 0, 700 - int(field_um / UM_PER_PX), SCENE.height)
    assert as_set(found, untouched) == as_set(everywhere, untouched)


@pytest.mark.parametrize("limit", [4, 12])
def test_a_large_window_is_asked_for_in_parts_and_has_the_same_cells(
    limit: int, model: Recorded, scene: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where cells are so far apart that few blocks would span a large canvas."""
    sparse = scene.copy()
    sparse[400:900, 300:1000] = 232
    window = window_of(sparse, SCENE)
    whole = detector(model).detect(window, AREA)
    (at_once,) = model.asked
    monkeypatch.setattr(cellpose, "CANVAS_BLOCKS", limit)
    in_parts = detector(model).detect(window, AREA)
    asked = model.asked[1:]
    assert sum(len(each["fields"]) for each in asked) == len(at_once["fields"])
    assert max(np.prod(each["places"].max(axis=0) // STEP_PX + 1) for each in asked) <= limit
    assert len(whole) > 100
    assert as_set(in_parts, SCENE) == as_set(whole, SCENE)
    assert len(in_parts) == len(whole)


def test_a_window_without_a_whole_field_asks_for_nothing(model: Recorded, scene: NDArray[np.uint8]) -> None:
    assert detector(model).detect(window_of(scene, Box(0, 0, 300, 300)), AREA) == []
    assert model.asked == []


@pytest.mark.parametrize("um_per_px", [0.1725, 0.22, 0.5])
def test_cells_have_their_size_at_any_pixel_size(um_per_px: float, model: Recorded) -> None:
    side = int(240.0 / um_per_px)
    at = np.arange(10.0, 230.0, 20.0) / um_per_px
    centres = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    rgb = cones((side, side), centres, RADIUS_UM / um_per_px, 232.0, 110.8)
    found = detector(model).detect(Window(rgb, Box(0, 0, side, side), um_per_px, CALIBRATION), AREA)
    sizes_um2 = np.array([cell.mask.sum() * um_per_px**2 for cell in found])
    assert len(sizes_um2) >= 9
    assert np.allclose(sizes_um2, np.pi * (FOUND_SHARE * RADIUS_UM) ** 2, rtol=0.12)


@pytest.mark.parametrize("um_per_px", [0.8, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (40, 1), (1, 40)])
def test_a_mask_that_no_pixels_centre_meets_is_no_cell(shape: tuple[int, int], um_per_px: float) -> None:
    """Where pixels are larger than a thin mask it lies between their centres at some places."""
    grid, mask = cellpose._Grid(UM_PER_NATIVE_PX / um_per_px), np.ones(shape, np.bool_)
    found = []
    for x in range(300, 340):
        box = Box(x, x, x + shape[1], x + shape[0])
        cell = cellpose._NativeCell(box, mask, 0.9, (x + 0.5, x + 0.5), (1, 1), is_cut=False)
        found.append(cellpose._at_level_0(cell, grid))
    assert any(cell is None for cell in found)
    assert all(cell.mask.any() for cell in found if cell)


def test_areas_out_of_range_are_not_given(model: Recorded, scene: NDArray[np.uint8]) -> None:
    window = window_of(scene, Box(0, 0, 800, 800))
    assert detector(model).detect(window, AREA)
    assert detector(model).detect(window, replace(AREA, min_um2=90.0)) == []
    assert detector(model).detect(window, replace(AREA, max_um2=30.0)) == []


def test_cells_too_long_for_a_field_are_refused(model: Recorded, scene: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match=r"cells of 900 µm² may be 47 µm long, and Cellpose .* up to 43 µm"):
        detector(model).detect(window_of(scene, SCENE), CellRange(5.0, 900.0))


@pytest.mark.parametrize(("first_x", "second_x"), [(334.0, 338.0), (338.0, 334.0)])
def test_a_cell_that_two_fields_see_differently_is_kept_once(first_x: float, second_x: float) -> None:
    """With its centroid in both cores, whose common edge is at 336, or in neither."""
    cells = []
    for column, x in enumerate((first_x, second_x)):
        box = Box(int(x) - 15, 385, int(x) + 15, 415)
        mask = np.ones((30, 30), np.bool_)
        cells.append(cellpose._NativeCell(box, mask, 0.9, (x, 400.0), (column, 1), is_cut=False))
    for order in (cells, cells[::-1]):
        assert cellpose._without_doubles(order) == [cells[0]]


def test_cells_that_merely_touch_are_both_kept() -> None:
    mask = np.ones((30, 30), np.bool_)
    cells = [
        cellpose._NativeCell(
            Box(x, 385, x + 30, 415), mask, 0.9, (x + 15.0, 400.0), (column, 1), is_cut=False
        )
        for column, x in enumerate((305, 333))
    ]
    assert cellpose._without_doubles(cells) == cells


def test_the_revision_names_the_weights(model: Recorded) -> None:
    assert detector(model).revision != replace(detector(model), weights="abd").revision
