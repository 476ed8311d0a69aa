"""Masked crops of cells, and what may not pass for an embedding of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from blobs import CALIBRATION, blob
from localmodels import LocalModels
from mkhspc.detect.contract import Detection, Window
from mkhspc.errors import IncompleteError, MkhspcError
from mkhspc.geometry import Box
from mkhspc.measure.crops import CROP_SIZE_UM
from mkhspc.measure.embed import MAX_ASKED, column_names, embed, masked_crops
from mkhspc.models.embedders import ARCHITECTURES, INPUT_SIDE_PX
from mkhspc.models.service import Message

EMBEDDER = "efficientnet-lite0"
SIZE = ARCHITECTURES[EMBEDDER].size
BACKGROUND = ARCHITECTURES[EMBEDDER].background
UM_PER_PX = 0.1725


@dataclass
class Means:
    """Answers with each crop's mean colour, repeated; `change` makes of it what is to be refused."""

    change: tuple[str, int] = ("nothing", 0)
    asked: int = 0

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        return [{"vectors": self._vectors(request["crops"])} for request in requests]

    def _vectors(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.asked += 1
        means = crops.reshape(len(crops), -1, 3).mean(axis=1).astype(np.float32)
        vectors = np.tile(means, (1, SIZE // 3 + 1))[:, :SIZE]
        kind, row = self.change
        if kind == "short":
            return vectors[:-1]
        if kind != "nothing":
            vectors[row] = {"zeros": 0.0, "nan": np.nan, "inf": np.inf}[kind]
        if kind == "nan":
            vectors[row, 1:] = 1.0
        return vectors


def scene(count: int = 6, seed: int = 3) -> tuple[Window, list[Detection]]:
    rng = np.random.default_rng(seed)
    box = Box(1000, 2000, 1400, 2300)
    window = Window(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), box, UM_PER_PX, CALIBRATION)
    detections = []
    for _ in range(count):
        mask = blob(rng, rng.uniform(30, 60))
        x0, y0 = 1000 + int(rng.integers(0, 300)), 2000 + int(rng.integers(0, 200))
        detections.append(Detection(Box(x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]), mask, 0.5))
    return window, detections


def run(model: Means, window: Window, detections: list[Detection]) -> dict[str, NDArray[np.float32]]:
    return embed(window, detections, "hspc", EMBEDDER, LocalModels({EMBEDDER: model}), "a_s0_x0_y0")


def test_there_is_a_float32_column_for_each_feature() -> None:
    window, detections = scene()
    columns = run(Means(), window, detections)
    assert list(columns) == column_names(EMBEDDER)
    assert column_names(EMBEDDER)[0] == "deep_efficientnet-lite0_0000"
    assert column_names("resnet50")[-1] == "deep_resnet50_2047"
    assert {(column.dtype, column.shape) for column in columns.values()} == {(np.dtype(np.float32), (6,))}


def test_no_cells_give_empty_columns_and_ask_nobody() -> None:
    model = Means()
    columns = run(model, scene()[0], [])
    assert {column.shape for column in columns.values()} == {(0,)}
    assert model.asked == 0


def test_a_crop_shows_the_cell_at_its_place_and_nothing_else() -> None:
    um_per_px = CROP_SIZE_UM["hspc"] / INPUT_SIDE_PX  # so that nothing is resampled
    rng = np.random.default_rng(0)
    window = Window(
        rng.integers(0, 256, (300, 300, 3), dtype=np.uint8), Box(0, 0, 300, 300), um_per_px, CALIBRATION
    )
    cell = Detection(Box(100, 120, 140, 150), np.ones((30, 40), np.bool_), 0.5)
    (crop,) = masked_crops(window, [cell], "hspc", BACKGROUND)
    half = INPUT_SIDE_PX // 2  # the centroid is at (120, 135)
    expected = np.full_like(crop, 127)
    expected[half - 15 : half + 15, half - 20 : half + 20] = window.rgb[120:150, 100:140]
    assert np.array_equal(crop, expected)


def test_a_crop_depends_on_no_pixel_outside_the_cell_and_not_on_the_window() -> None:
    window, detections = scene()
    first = list(masked_crops(window, detections, "hspc", BACKGROUND))
    covered = np.zeros(window.rgb.shape[:2], np.bool_)
    for cell in detections:
        covered[cell.box.slices_in(window.box)] |= cell.mask
    changed = np.where(covered[..., None], window.rgb, 255 - window.rgb)
    assert np.array_equal(
        first, list(masked_crops(replace(window, rgb=changed), detections, "hspc", BACKGROUND))
    )
    for crop, cell in zip(first, detections, strict=True):
        (alone,) = masked_crops(window.part(cell.box), [cell], "hspc", BACKGROUND)
        assert np.array_equal(alone, crop)


def test_a_cell_longer_than_the_crop_is_cut_to_it() -> None:
    window = Window(np.zeros((60, 400, 3), np.uint8), Box(0, 0, 400, 60), UM_PER_PX, CALIBRATION)
    long_cell = Detection(Box(0, 0, 400, 60), np.ones((60, 400), np.bool_), 0.5)
    (crop,) = masked_crops(window, [long_cell], "hspc", BACKGROUND)
    assert (crop[INPUT_SIDE_PX // 2] == 0).all()
    assert (crop[0] == 127).all()


def test_many_cells_are_asked_for_in_pieces() -> None:
    window, detections = scene(3)
    model = Means()
    columns = run(model, window, detections * MAX_ASKED)
    assert model.asked == 3
    first = columns["deep_efficientnet-lite0_0000"].reshape(-1, 3)
    assert (first == first[0]).all()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("zeros", "is all zeros for 1 of 6 cells"),
        ("nan", r"is not finite \(NaN or infinite\) for 1 of 6 cells"),
        ("inf", r"is not finite \(NaN or infinite\) for 1 of 6 cells"),
        ("short", "is not 6 vectors of 1280 numbers"),
    ],
)
def test_what_is_no_embedding_is_an_error_that_names_stage_and_tile(kind: str, says: str) -> None:
    window, detections = scene()
    place = "hspc of tile a_s0_x0_y0, stage embed"
    with pytest.raises(IncompleteError, match=f"{place}: the {EMBEDDER} embedding {says}"):
        run(Means((kind, 4)), window, detections)
