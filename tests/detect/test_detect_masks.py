from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mkhspc.config import CellRange
from mkhspc.detect.classical import blocks, masks
from mkhspc.detect.classical.blocks import BlockGrid
from mkhspc.detect.classical.masks import HoleLimit, disc, fill_holes, fits, label_boxes, odd_size, tight
from mkhspc.geometry import Box

small_masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@given(
    labels=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 14)), elements=st.integers(0, 6)
    ),
    rows=st.integers(1, 40),
)
def test_boxes_of_labels_are_those_of_scipy_however_they_are_cut(dtype, labels, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "BAND_ROWS", rows)
        found = label_boxes(labels.astype(dtype), 6).tolist()
    for (x0, y0, x1, y1), piece in zip(found, ndimage.find_objects(labels, max_label=6), strict=True):
        if piece is None:
            assert x1 == 0
        else:
            assert (slice(y0, y1), slice(x0, x1)) == piece


@given(small_masks.filter(np.any), st.integers(-50, 50), st.integers(-50, 50))
def test_a_tight_mask_holds_every_pixel_where_it_was(mask, x0, y0):
    box, cut = tight(mask, x0, y0)
    assert cut.shape == (box.height, box.width)
    assert cut[0].any()
    assert cut[-1].any()
    assert cut[:, 0].any()
    assert cut[:, -1].any()
    again = np.zeros_like(mask)
    again[box.slices_in(Box(x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]))] = cut
    assert np.array_equal(again, mask)


def test_only_small_holes_away_from_the_border_are_filled():
    mask = np.ones((30, 40), np.uint8)
    mask[5:8, 5:8] = 0  # small
    mask[12:26, 10:24] = 0  # large
    mask[0:2, 30:32] = 0  # open to the border
    mask[15, 28:38] = 0  # small in area, but long
    filled = fill_holes(mask, HoleLimit(area_px=20, side_px=8))
    assert filled[5:8, 5:8].all()
    assert not filled[12:26, 10:24].any()
    assert not filled[0:2, 30:32].any()
    assert not filled[15, 28:38].any()


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 12)), elements=st.integers(0, 1)),
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(1, 20),
)
def test_holes_are_the_same_however_the_mask_is_cut_into_bands(mask, area_px, side_px, rows):
    limit = HoleLimit(area_px, side_px)
    whole = fill_holes(mask, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "BAND_ROWS", rows)
        assert np.array_equal(fill_holes(mask, limit), whole)


def test_a_disc_holds_the_offsets_within_its_radius():
    assert disc(2).tolist() == [
        [0, 0, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0],
    ]


@given(st.floats(1.0, 500.0))
def test_an_odd_size_is_odd_and_near(length):
    assert odd_size(length) % 2 == 1
    assert abs(odd_size(length) - length) <= 1.0


def test_a_cell_must_fit_in_area_and_in_length():
    area = CellRange(20.0, 100.0)
    assert fits(np.ones((10, 10), np.bool_), area, 0.5)
    assert not fits(np.ones((8, 8), np.bool_), area, 0.5)
    assert not fits(np.ones((30, 30), np.bool_), area, 0.5)
    assert not fits(np.ones((2, 100), np.bool_), area, 0.5)  # 50 µm² but 50 µm long


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-40, 40),
    st.integers(-40, 40),
    st.integers(20, 60),
    st.integers(20, 60),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_blocks_lie_where_they_do_in_the_scene(x0, y0, width, height, size, seed):
    """A block's mean is that of the scene's pixels in it, whatever window it is seen through."""
    scene_box = Box(-48, -48, 120, 120)
    scene = np.random.default_rng(seed).integers(0, 256, (168, 168), dtype=np.uint8)
    box = Box(x0, y0, x0 + width, y0 + height)
    grid = BlockGrid.over(box, 0.1, size * 0.1)
    assert grid.size == size
    assert grid.origin[0] % size == grid.origin[1] % size == 0
    means = grid.mean(np.ascontiguousarray(scene[box.slices_in(scene_box)]), box)
    assert means.shape == grid.shape
    for (row, column), mean in np.ndenumerate(means):
        x, y = grid.origin[0] + column * size, grid.origin[1] + row * size
        block = Box(x, y, x + size, y + size)
        assert block == block.clipped(box)
        assert mean == int(scene[block.slices_in(scene_box)].mean() + 0.5)


def test_blocks_are_the_same_however_the_window_is_cut_into_bands(monkeypatch):
    box = Box(3, 5, 90, 120)
    pixels = np.random.default_rng(0).integers(0, 256, (box.height, box.width), dtype=np.uint8)
    grid = BlockGrid.over(box, 0.1, 0.3)
    whole = grid.mean(pixels, box)
    monkeypatch.setattr(blocks, "_BAND_ROWS", 7)
    assert np.array_equal(grid.mean(pixels, box), whole)


def test_every_whole_block_of_the_window_is_there():
    grid = BlockGrid.over(Box(-5, 3, 10, 20), 0.1, 0.4)
    assert grid.origin == (-4, 4)
    assert grid.shape == (4, 3)
