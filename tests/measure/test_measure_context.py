from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from blobs import UM_PER_PX, blob, detection, stained_noise, window_of
from mkhspc.detect.contract import Detection
from mkhspc.measure.context import CONTEXT_NAMES, RING_UM
from mkhspc.measure.features import measure

SIDE = 140


def a_cell() -> tuple[Detection, NDArray[np.float64]]:
    """A cell, and the distance in µm of every pixel of its window from it."""
    cell = detection(blob(np.random.default_rng(4), 36.0), 50, 45)
    outside = np.ones((SIDE, SIDE), bool)
    outside[cell.box.y0 : cell.box.y1, cell.box.x0 : cell.box.x1] = ~cell.mask
    return cell, ndimage.distance_transform_edt(outside) * UM_PER_PX


def context(rgb: NDArray[np.uint8], cell: Detection) -> dict[str, float]:
    columns = measure(window_of(rgb), [cell])
    return {name: float(columns[name][0]) for name in CONTEXT_NAMES}


def test_the_ring_is_what_lies_within_its_width_of_the_cell() -> None:
    cell, distance_um = a_cell()
    rgb = stained_noise(1, SIDE, SIDE)
    beyond, within = rgb.copy(), rgb.copy()
    beyond[distance_um > 1.03 * RING_UM] = (10, 200, 30)
    within[(distance_um > 0.9 * RING_UM) & (distance_um < 0.97 * RING_UM)] = (10, 200, 30)
    assert context(beyond, cell) == context(rgb, cell)
    assert all(context(within, cell)[name] != value for name, value in context(rgb, cell).items())


def test_contrasts_are_the_cell_minus_its_ring() -> None:
    cell, distance_um = a_cell()
    rgb = np.full((SIDE, SIDE, 3), (200, 150, 190), np.uint8)
    rgb[distance_um == 0.0] = (110, 80, 150)
    window = window_of(rgb)
    inside, around = (50 + cell.mask.shape[1] // 2, 45 + cell.mask.shape[0] // 2), (2, 2)
    for name, image in (("haematoxylin", window.haematoxylin), ("eosin", window.eosin)):
        ring, contrast = (context(rgb, cell)[f"colour_ring_{name}_{what}"] for what in ("mean", "contrast"))
        assert ring == pytest.approx(image[around] / 128)
        assert contrast == pytest.approx((float(image[inside[::-1]]) - float(image[around])) / 128)
    assert context(rgb, cell)["colour_relative_brightness"] == pytest.approx(340 / 3 - 540 / 3)


def test_beyond_the_window_lies_clear_glass() -> None:
    cell = detection(np.ones((12, 12), bool), 0, 0)
    rgb = np.full((12, 12, 3), (110, 80, 150), np.uint8)
    found = context(rgb, cell)
    assert found["colour_ring_haematoxylin_mean"] == 0.0
    assert found["colour_relative_brightness"] == pytest.approx(340 / 3 - 255)


def test_a_cell_of_coarse_pixels_still_has_a_ring() -> None:
    columns = measure(
        window_of(stained_noise(0, 9, 9), um_per_px=8.0), [detection(np.ones((1, 1), bool), 4, 4)]
    )
    assert np.isfinite([columns[name][0] for name in CONTEXT_NAMES]).all()
