"""Features of cells from SAM2's embedding of their surroundings, by a double that pools plain colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from blobs import CALIBRATION, blob
from localmodels import LocalModels
from mkhspc.detect.contract import Detection, Window
from mkhspc.detect.sam2 import EmbeddedDetection
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.errors import IncompleteError
from mkhspc.geometry import Box, um_to_px
from mkhspc.measure import deep
from mkhspc.measure.embed_sam2 import SIZE, column_names, embed, reach_um
from mkhspc.models.service import Message

UM_PER_PX = 0.5
LONGEST_UM = 40.0
WHERE = "hspc of tile s0_0_0"
SCENE_PX = 1400


@dataclass
class Pooling:
    """Answers with what the request shows: the mean of the window, its side, and the cell's own mean.

    Attributes:
        spoilt: makes of the first vector what is to be refused.
        seen: the requests.
    """

    spoilt: str = ""
    seen: list[Message] = field(default_factory=list)

    def run(self, requests: Sequence[Message]) -> Sequence[Message]:
        return [{"features": self._features(request)} for request in requests]

    def _features(self, request: Message) -> NDArray[np.float32]:
        self.seen.append(request)
        rgb, vectors, start = request["rgb"], [], 0
        for x0, y0, x1, y1 in request["boxes"].tolist():
            end = start + (x1 - x0) * (y1 - y0)
            mask = request["masks"][start:end].reshape(y1 - y0, x1 - x0)
            facts = [rgb.mean(), len(rgb), x0, y0, rgb[y0:y1, x0:x1][mask].mean(), mask.sum()]
            vectors.append(np.resize(np.array(facts, np.float32), SIZE))
            start = end
        features = np.array(vectors, np.float32)
        if self.spoilt:
            features[0] = {"zeros": 0.0, "nan": np.nan}[self.spoilt]
        return features


@pytest.fixture(scope="module")
def scene() -> Window:
    rgb = np.random.default_rng(1).integers(0, 256, (SCENE_PX, SCENE_PX, 3), dtype=np.uint8)
    return Window(rgb, Box(0, 0, SCENE_PX, SCENE_PX), UM_PER_PX, CALIBRATION)


@pytest.fixture(scope="module")
def found() -> list[Detection]:
    """Cells about the middle of the scene, in several squares of the grid."""
    rng = np.random.default_rng(2)
    cells = []
    for _ in range(12):
        mask = blob(rng, rng.uniform(20, 60))
        x0, y0 = (int(v) for v in rng.integers(500, 850, 2))
        cells.append(Detection(Box(x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]), mask, 0.5))
    return cells


def embedded(cell: Detection, value: float) -> EmbeddedDetection:
    return EmbeddedDetection(cell.box, cell.mask, cell.score, np.full(SIZE, value, np.float32))


def vectors(window: Window, cells: Sequence[Detection], model: Pooling) -> NDArray[np.float32]:
    columns = embed(window, cells, LONGEST_UM, LocalModels({"sam2": model}), WHERE)
    assert list(columns) == column_names()
    return np.column_stack(list(columns.values()))


def test_columns_are_named_in_order() -> None:
    names = column_names()
    assert (names[0], names[-1], len(names)) == ("deep_sam2_0000", "deep_sam2_0255", 256)
    assert deep.column_names(["sam2"]) == names


def test_a_cell_has_the_same_vector_whatever_window_it_is_seen_in(
    scene: Window, found: list[Detection]
) -> None:
    expected = vectors(scene, found, Pooling())
    reach_px = um_to_px(reach_um(LONGEST_UM), UM_PER_PX)
    for place, cell in enumerate(found):
        x, y = cell.box.x0 + cell.box.width // 2, cell.box.y0 + cell.box.height // 2
        spare = 7 * place + cell.box.width  # so that no two windows begin alike
        around = Box(x, y, x + 1, y + 1).grown(reach_px + spare).clipped(scene.box)
        assert np.array_equal(vectors(scene.part(around), [cell], Pooling())[0], expected[place])


def test_windows_lie_on_the_grid_of_the_scene_and_each_is_asked_for_once(
    scene: Window, found: list[Detection]
) -> None:
    model = Pooling()
    vectors(scene, found, model)
    grid = WindowGrid.of(LONGEST_UM, UM_PER_PX)
    side = grid.cell_px + 2 * grid.margin_px
    assert {request["rgb"].shape for request in model.seen} == {(side, side, 3)}
    assert len({request["key"] for request in model.seen}) == len(model.seen) > 1
    assert sum(len(request["boxes"]) for request in model.seen) == len(found)
    columns = scene.rgb.reshape(SCENE_PX, SCENE_PX * 3)
    for request in model.seen:
        (corner,) = np.argwhere((columns[:, :-2:3] == request["rgb"][0, 0, 0]) & _starts(scene, request))
        assert ((corner + grid.margin_px) % grid.cell_px == 0).all()


@pytest.mark.parametrize("um_per_px", [0.1, 0.22, 0.5])
def test_what_is_read_for_a_core_holds_the_windows_of_all_its_cells(um_per_px: float) -> None:
    grid = WindowGrid.of(LONGEST_UM, um_per_px)
    rng = np.random.default_rng(3)
    for x, y in rng.integers(-9000, 90000, (50, 2)).tolist():
        core = Box(x, y, x + 1024, y + 700)
        read = deep.seen_box(["sam2"], core, LONGEST_UM, um_per_px)
        most = core.grown(um_to_px(reach_um(LONGEST_UM), um_per_px))
        assert read.clipped(most) == read
        corners = np.array([(core.x0, core.y0), (core.x1 - 1e-6, core.y1 - 1e-6)])
        inside = rng.uniform((core.x0, core.y0), (core.x1, core.y1), (9, 2))
        for column, row in grid.squares_of(np.concatenate([corners, inside])).tolist():
            seen = grid.square(column, row).grown(grid.margin_px)
            assert seen.clipped(read) == seen
        assert deep.seen_box([], core, LONGEST_UM, um_per_px) == core


def _starts(scene: Window, request: Message) -> NDArray[np.bool_]:
    """(h, w) where the scene's pixels go on as the first four of a request's window."""
    first = request["rgb"][0, :4]
    same = np.ones(scene.rgb.shape[:2], np.bool_)
    for step, pixel in enumerate(first):
        same &= (np.roll(scene.rgb, -step, axis=1) == pixel).all(axis=2)
    return same


def test_cells_that_sam2_found_bring_their_own_and_nobody_is_asked(
    scene: Window, found: list[Detection]
) -> None:
    model = Pooling()
    given = vectors(scene, [embedded(cell, 1.0 + i) for i, cell in enumerate(found)], model)
    assert given[:, 0].tolist() == [1.0 + i for i in range(len(found))]
    assert model.seen == []


def test_of_a_mixed_list_every_cell_gets_its_own(scene: Window, found: list[Detection]) -> None:
    expected = vectors(scene, found, Pooling())
    mixed = [embedded(cell, -1.0 - i) if i % 3 == 1 else cell for i, cell in enumerate(found)]
    given = vectors(scene, mixed, Pooling())
    for place, row in enumerate(given):
        if place % 3 == 1:
            assert (row == -1.0 - place).all()
        else:
            assert np.array_equal(row, expected[place])


def test_no_cells_give_empty_columns_and_ask_nobody(scene: Window) -> None:
    model = Pooling()
    assert vectors(scene, [], model).shape == (0, SIZE)
    assert model.seen == []


@pytest.mark.parametrize(
    ("spoilt", "says"), [("zeros", "is all zeros for 1 of"), ("nan", r"is not finite \(NaN or infinite\)")]
)
def test_what_is_no_embedding_is_an_error_that_names_stage_and_tile(
    scene: Window, found: list[Detection], spoilt: str, says: str
) -> None:
    with pytest.raises(IncompleteError, match=f"{WHERE}, stage embed: the sam2 embedding {says}"):
        vectors(scene, found, Pooling(spoilt))


def test_features_that_a_cell_brings_along_are_checked_too(scene: Window, found: list[Detection]) -> None:
    with pytest.raises(IncompleteError, match=f"{WHERE}, stage embed: .* is all zeros for 1 of 1 cells"):
        vectors(scene, [embedded(found[0], 0.0)], Pooling())


def test_a_window_too_small_for_its_cells_is_a_fault_of_the_caller(
    scene: Window, found: list[Detection]
) -> None:
    with pytest.raises(ValueError, match="the window does not hold"):
        vectors(scene.part(found[0].box.grown(5)), found[:1], Pooling())
