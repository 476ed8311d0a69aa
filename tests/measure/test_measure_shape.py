from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops

from blobs import UM_PER_PX, blob, detection, row_of, stained_noise, tight, window_of
from mkhspc.geometry import BoolMask, mask_length_px, mask_to_contour
from mkhspc.measure.features import measure
from mkhspc.measure.hull import Hulls, hull_areas_px
from mkhspc.measure.regions import PackedMasks

small_masks = (
    arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)), fill=st.booleans())
    .filter(lambda mask: mask.any())
    .map(tight)
)


def shapes(masks: list[BoolMask]) -> dict[str, list[float]]:
    """Shape columns with lengths in pixels: measured at 1 µm a pixel."""
    window, cells = row_of(masks)
    columns = measure(window_of(window.rgb, um_per_px=1.0), cells)
    return {name.removeprefix("shape_"): values.tolist() for name, values in columns.items()}


def assert_as_skimage(masks: list[BoolMask]) -> None:
    ours = shapes(masks)
    for i, mask in enumerate(masks):
        theirs = regionprops(mask.astype(np.uint8))[0]
        expected = {
            "area_um2": theirs.area,
            "perimeter_um": theirs.perimeter,
            "solidity": theirs.solidity,
            "extent": theirs.extent,
            "equivalent_diameter_um": theirs.equivalent_diameter_area,
            "major_axis_um": theirs.axis_major_length,
            "minor_axis_um": theirs.axis_minor_length,
            **{f"hu_{k + 1}": theirs.moments_hu[k] for k in range(4)},
        }
        found = {name: ours[name][i] for name in expected}
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)
        # Its square, since the root of a rounding error at 0 is large.
        assert ours["eccentricity"][i] ** 2 == pytest.approx(theirs.eccentricity**2, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(small_masks, min_size=1, max_size=5))
def test_small_masks_measure_as_in_skimage(masks: list[BoolMask]) -> None:
    assert_as_skimage(masks)


def test_realistic_outlines_measure_as_in_skimage() -> None:
    rng = np.random.default_rng(3)
    assert_as_skimage([blob(rng, diameter) for diameter in (8, 20, 33, 41, 60, 110, 200)])


@pytest.mark.slow
def test_the_hull_counts_the_pixels_that_skimage_counts_for_thousands_of_masks() -> None:
    rng = np.random.default_rng(1)
    masks = [blob(rng, rng.uniform(3.0, 50.0)) for _ in range(1000)]
    for _ in range(2000):
        pixels = rng.random(rng.integers(1, 9, 2)) < rng.uniform(0.3, 1.0)
        masks.append(tight(pixels | ~pixels.any()))
    _, cells = row_of(masks)
    window = cells[0].box.grown(10**7)
    ours = hull_areas_px(PackedMasks.from_detections(cells, window))
    assert ours.tolist() == [regionprops(mask.astype(np.uint8))[0].area_convex for mask in masks]


@settings(deadline=None)
@given(small_masks)
def test_feret_diameters_are_the_extremes_of_the_width_over_directions(mask: BoolMask) -> None:
    hulls = Hulls.from_masks(
        PackedMasks.from_detections([detection(mask, 0, 0)], window_of(np.zeros((20, 20, 3), np.uint8)).box)
    )
    (longest,), (shortest,) = hulls.ferets_px
    assert longest == pytest.approx(mask_length_px(mask))
    corners = mask_to_contour(mask).astype(float)
    steps = (corners[:, None] - corners[None]).reshape(-1, 2)
    normals = steps[np.any(steps != 0, axis=1)][:, ::-1] * (1, -1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert shortest == pytest.approx(np.ptp(corners @ normals.T, axis=0).min())


@pytest.mark.parametrize(
    ("shape", "aspect_ratio"), [((1, 1), 1.0), ((1, 2), math.sqrt(3)), ((7, 1), math.sqrt(48)), ((2, 2), 1.0)]
)
def test_degenerate_masks_have_finite_shapes(shape: tuple[int, int], aspect_ratio: float) -> None:
    found = {name: values[0] for name, values in shapes([np.ones(shape, bool)]).items()}
    assert all(math.isfinite(value) for value in found.values())
    assert found["solidity"] == 1.0
    assert found["aspect_ratio"] == pytest.approx(aspect_ratio)


def test_a_rectangle_is_convex_and_lobes_are_not() -> None:
    plus = np.zeros((30, 30), bool)
    plus[10:20, :] = plus[:, 10:20] = True
    found = shapes([np.ones((12, 30), bool), plus])
    assert found["convexity"][0] == pytest.approx(1.0)
    assert found["convexity"][1] < 0.9
    assert found["feret_length_um"][0] == pytest.approx(math.hypot(12, 30))
    assert found["feret_width_um"][0] == pytest.approx(12.0)


def test_lengths_and_areas_scale_with_the_pixel_size_and_the_rest_does_not() -> None:
    mask = blob(np.random.default_rng(5), 40.0)
    rgb, cells = stained_noise(0, 120, 120), [detection(mask, 30, 30)]
    fine, coarse = (measure(window_of(rgb, um_per_px=scale), cells) for scale in (UM_PER_PX, 2 * UM_PER_PX))
    for name in (name for name in fine if name.startswith("shape_")):
        factor = {"um2": 4.0, "um": 2.0}.get(name.rsplit("_", 1)[1], 1.0)
        assert coarse[name][0] == pytest.approx(factor * fine[name][0]), name
