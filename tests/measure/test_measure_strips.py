from __future__ import annotations

import numpy as np

from blobs import blob, detection
from mkhspc.geometry import Box
from mkhspc.measure.strips import over_strips, strips


def test_frames_hold_the_cells_and_what_surrounds_them() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (300, 400), np.uint8)
    window = Box(-50, 1000, 350, 1300)
    cells = [detection(blob(rng, size), x, 1100) for x, size in ((-30, 12.0), (40, 13.0), (150, 80.0))]
    seen = set()
    for strip in strips(window, cells, margin_px=7):
        frames = strip.cut(image, outside=255)
        for row, i in zip(strip.starts, strip.cells, strict=True):
            wanted = cells[i].box.grown(7)
            there = (slice(row, row + wanted.height), slice(0, wanted.width))
            assert np.array_equal(frames[there], image[wanted.slices_in(window)])
            inside = strip.mask[there][7:-7, 7:-7] == 255
            assert np.array_equal(inside, cells[i].mask)
            seen.add(int(i))
        assert np.count_nonzero(strip.mask) == sum(cells[i].mask.sum() for i in strip.cells)
    assert seen == {0, 1, 2}


def test_pixels_of_a_frame_beyond_the_window_have_the_value_asked_for() -> None:
    image = np.zeros((20, 30), np.uint8)
    (strip,) = strips(Box(0, 0, 30, 20), [detection(np.ones((20, 30), bool), 0, 0)], margin_px=4)
    frame = strip.cut(image, outside=9)[:28, :38]
    assert (frame[4:24, 4:34] == 0).all()
    assert np.count_nonzero(frame == 9) == 28 * 38 - 20 * 30


def test_sums_are_exact_for_the_largest_cells() -> None:
    side = 4200  # its bytes sum to more than 32 bits hold
    (strip,) = strips(Box(0, 0, side, side), [detection(np.ones((side, side), bool), 0, 0)], margin_px=0)
    assert strip.frame_sums(strip.mask).tolist() == [255 * side**2]
    assert strip.frame_sums(np.full(strip.mask.shape, 255, np.int32))[0] >= 255 * side**2
    assert strip.sums(np.full(side**2, 255, np.uint8)).tolist() == [255 * side**2]


def test_columns_come_back_in_the_order_of_the_cells() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.uniform(3.0, 60.0, 40)
    cells = [detection(blob(rng, size), 100 * i, 0) for i, size in enumerate(sizes)]
    pieces = strips(Box(0, 0, 5000, 200), cells, margin_px=2)
    areas = over_strips(lambda strip: {"area": strip.counts.astype(np.float64)}, pieces)["area"]
    assert areas.tolist() == [cell.mask.sum() for cell in cells]
