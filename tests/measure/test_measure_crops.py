from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from blobs import stained_noise, window_of
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.geometry import Box
from mkhspc.measure.crops import CROP_SIZE_UM, crop_box, cut_crop, encoded_crops, reach_um
from mkhspc.store.picture import encode_picture


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@given(x=st.floats(-50, 1e6), y=st.floats(-50, 1e6), um_per_px=st.floats(0.1, 1.0))
def test_a_crop_has_one_physical_size_and_is_centred(
    cell_type: CellType, x: float, y: float, um_per_px: float
) -> None:
    box = crop_box(x, y, cell_type, um_per_px)
    assert box.width == box.height
    assert box.width * um_per_px == pytest.approx(CROP_SIZE_UM[cell_type], abs=0.51 * um_per_px)
    assert abs((box.x0 + box.x1) / 2 - x) <= 0.5 + 1e-6
    assert abs((box.y0 + box.y1) / 2 - y) <= 0.5 + 1e-6


@given(x_px=st.floats(0, 1e5), y_px=st.floats(0, 1e5), um_per_px=st.floats(0.05, 2.0))
def test_no_crop_reaches_farther_than_is_said(x_px: float, y_px: float, um_per_px: float) -> None:
    for cell_type in CELL_TYPES:
        box = crop_box(x_px, y_px, cell_type, um_per_px)
        farthest_px = max(x_px - box.x0, box.x1 - x_px, y_px - box.y0, box.y1 - y_px)
        assert farthest_px * um_per_px <= reach_um(um_per_px)


def test_a_crop_shows_the_scene_pixel_by_pixel_and_white_beyond_it() -> None:
    rgb = stained_noise(0, 60, 50)
    crop = cut_crop(window_of(rgb, 100, 200), Box(90, 220, 130, 270))
    assert crop.shape == (50, 40, 3)
    assert np.array_equal(crop[:40, 10:], rgb[20:60, :30])
    assert (crop[:, :10] == 255).all()
    assert (crop[40:] == 255).all()


@pytest.mark.parametrize("chunk_bytes", [1, 3_000, 1 << 26])
def test_a_column_of_crops_holds_them_in_order_whatever_its_pieces(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("mkhspc.measure.crops.CHUNK_BYTES", chunk_bytes)
    window = window_of(stained_noise(0, 60, 50), 100, 200)
    boxes = [Box(95 + 3 * i, 190, 120 + 3 * i, 220) for i in range(9)]
    column = encoded_crops(window, boxes)
    column.validate(full=True)
    assert column.to_pylist() == [encode_picture(cut_crop(window, box)) for box in boxes]


def test_no_crops_are_a_column_without_rows() -> None:
    assert encoded_crops(window_of(stained_noise(0, 9, 9)), []).to_pylist() == []
