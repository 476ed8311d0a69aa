from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.spatial import KDTree
from shapely.geometry import Polygon

from mkhspc import geometry
from mkhspc.geometry import Box
from polygons import polygon_area_px

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)).filter(np.any)
offsets = st.integers(-(10**6), 10**6)


@given(masks)
def test_a_normalised_mask_is_one_piece_without_holes(mask: np.ndarray) -> None:
    cell = geometry.normalise_mask(mask)
    assert ndimage.label(cell)[1] == 1
    assert np.array_equal(cell, ndimage.binary_fill_holes(cell))
    pieces = ndimage.label(mask)[0]
    largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()  # of equals the first
    assert np.array_equal(cell, ndimage.binary_fill_holes(largest))


@pytest.mark.parametrize("shape", [(3, 4), (0, 5), (5, 0), (0, 0)])
def test_of_nothing_nothing_is_left(shape: tuple[int, int]) -> None:
    mask = geometry.normalise_mask(np.zeros(shape, bool))
    assert mask.shape == shape
    assert not mask.any()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=60), st.floats(0.5, 30.0))
def test_close_pairs_are_those_of_a_tree(points: list[tuple[int, int]], radius: float) -> None:
    x, y = np.array(points, float).reshape(-1, 2).T
    with patch.object(geometry, "_POINTS_AT_ONCE", 7):
        pairs = geometry.close_pairs(x, y, radius).tolist()
    found = {frozenset(pair) for pair in pairs}
    assert len(found) == len(pairs)
    expected = KDTree(np.stack([x, y], axis=1)).query_pairs(radius) if points else set()
    assert found == {frozenset(pair) for pair in expected}


@given(masks, offsets, offsets)
def test_a_contour_is_a_simple_polygon_of_the_masks_area(mask: np.ndarray, x0: int, y0: int) -> None:
    cell = geometry.normalise_mask(mask)
    contour = geometry.mask_to_contour(cell, x0, y0)
    assert contour.dtype == np.int32
    assert Polygon(contour).is_valid
    assert Polygon(contour - (x0, y0)).area == cell.sum()
    assert polygon_area_px(contour - (x0, y0)) == cell.sum()


@given(masks, offsets, offsets)
def test_a_contour_gives_its_mask_back(mask: np.ndarray, x0: int, y0: int) -> None:
    cell = geometry.normalise_mask(mask)
    box = Box(x0 - 1, y0 - 2, x0 + cell.shape[1] + 3, y0 + cell.shape[0] + 1)
    back = geometry.contour_to_mask(geometry.mask_to_contour(cell, x0, y0), box)
    assert np.array_equal(back[2:-1, 1:-3], cell)
    assert back.sum() == cell.sum()


@given(masks)
def test_a_contour_clipped_by_a_box_fills_only_the_part_inside(mask: np.ndarray) -> None:
    cell = geometry.normalise_mask(mask)
    part = Box(1, 1, max(1, cell.shape[1] - 1), max(1, cell.shape[0] - 1))
    back = geometry.contour_to_mask(geometry.mask_to_contour(cell), part)
    assert np.array_equal(back, cell[1 : part.y1, 1 : part.x1])


def test_the_empty_mask_has_no_contour() -> None:
    with pytest.raises(ValueError, match="empty"):
        geometry.mask_to_contour(np.zeros((3, 3), bool))


@given(masks)
@settings(max_examples=50)
def test_the_length_is_the_longest_distance_between_pixel_corners(mask: np.ndarray) -> None:
    cell = geometry.normalise_mask(mask)
    ys, xs = np.nonzero(cell)
    corners = np.concatenate([np.stack([xs + i, ys + j], 1) for i in (0, 1) for j in (0, 1)]).astype(float)
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    assert geometry.mask_length_px(cell) == pytest.approx(apart.max())


def test_boxes_are_half_open() -> None:
    box = Box(0, 0, 10, 20)
    assert (box.width, box.height, box.area_px) == (10, 20, 200)


def test_a_box_clipped_to_one_beside_it_is_empty_and_not_inverted() -> None:
    clipped = Box(0, 0, 10, 10).clipped(Box(20, 20, 30, 30))
    assert clipped.area_px == 0
    assert clipped.width == 0


def test_lengths_in_um_are_rounded_up_to_whole_pixels() -> None:
    assert geometry.um_to_px(1.0, 0.25) == 4
    assert geometry.um_to_px(1.01, 0.25) == 5


def test_areas_of_the_notes_agree() -> None:
    assert geometry.area_um2(4000, 0.1725) == pytest.approx(119.0, abs=0.05)
