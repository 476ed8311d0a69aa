from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from blobs import blob, detection, tight
from mkhspc.detect.contract import Detection
from mkhspc.geometry import BoolMask, Box, mask_centroid
from mkhspc.measure.regions import PackedMasks

EVERYWHERE = Box(-10_000, -10_000, 100_000, 100_000)

masks = (
    arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
    .filter(lambda mask: mask.any())
    .map(tight)
)


@given(st.lists(st.tuples(masks, st.integers(-500, 90_000), st.integers(-500, 90_000)), max_size=6))
def test_areas_and_centroids_are_those_of_each_mask_alone(cells: list[tuple[BoolMask, int, int]]) -> None:
    packed = PackedMasks.from_detections([detection(*cell) for cell in cells], EVERYWHERE)
    assert packed.areas_px.tolist() == [mask.sum() for mask, _, _ in cells]
    expected = [(x + mask_centroid(mask)[0], y + mask_centroid(mask)[1]) for mask, x, y in cells]
    assert [tuple(centroid) for centroid in packed.centroids_px.tolist()] == expected


@given(masks, st.integers(0, 3), st.integers(0, 3), st.integers(-9, 9))
def test_moments_are_sums_over_pixels(mask: BoolMask, p: int, q: int, origin: int) -> None:
    ys, xs = np.nonzero(mask)
    packed = PackedMasks.from_detections([detection(mask, 7, 8)], EVERYWHERE)
    moments = packed.moments(3, np.array([[origin, -origin]]))
    if p + q <= 3:
        assert moments[p, q].tolist() == [np.sum((xs - origin) ** p * (ys + origin) ** q)]


def test_rows_span_from_the_first_to_the_last_pixel_across_gaps() -> None:
    mask = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    cell, first, past = PackedMasks.from_detections([detection(mask, 0, 0)] * 2, EVERYWHERE).rows
    assert cell.tolist() == [0, 0, 0, 1, 1, 1]
    assert first.tolist() == [0, 0, 2] * 2
    assert past.tolist() == [4, 4, 3] * 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Detection(Box(0, 0, 3, 2), np.ones((3, 3), bool), 1.0), "shape of its box"),
        (Detection(Box(5, 5, 5, 5), np.ones((0, 0), bool), 1.0), "is empty"),
        (Detection(Box(0, 0, 2, 3), np.array([[1, 1], [0, 0], [1, 1]], bool), 1.0), "empty row"),
        (Detection(Box(18, 0, 21, 3), np.ones((3, 3), bool), 1.0), "reaches out"),
    ],
)
def test_a_detection_that_breaks_the_contract_is_refused(wrong: Detection, reason: str) -> None:
    fine = detection(blob(np.random.default_rng(0), 9.0), 3, 3)
    with pytest.raises(ValueError, match=reason):
        PackedMasks.from_detections([fine, wrong], Box(0, 0, 20, 20))
