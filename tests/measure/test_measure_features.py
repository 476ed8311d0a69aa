from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from blobs import blob, detection, row_of, stained_noise, window_of
from mkhspc.detect.contract import Detection
from mkhspc.geometry import um_to_px
from mkhspc.measure.features import FEATURE_NAMES, measure, reach_um
from mkhspc.store.schema import FEATURE_PREFIXES

NOTES = (
    "area",
    "perimeter",
    "circularity",
    "solidity",
    "aspect_ratio",
    "extent",
    "equivalent_diameter",
    "red_mean",
    "red_std",
    "green_mean",
    "green_std",
    "blue_mean",
    "blue_std",
    "gray_mean",
    "gray_std",
    "hue_mean",
    "saturation_mean",
    "value_mean",
    "relative_brightness",
    "intensity_variance",
    "dark_region_fraction",
    "nuclear_complexity",
)


def scattered(seed: int, side_px: int = 500) -> tuple[NDArray[np.uint8], list[Detection]]:
    """Cells of all sizes, one pixel included, some overlapping."""
    rng = np.random.default_rng(seed)
    masks = [np.ones((1, 1), bool), np.ones((1, 5), bool)]
    masks += [blob(rng, diameter) for diameter in rng.uniform(3.0, 45.0, 25)] + [blob(rng, 130.0)]
    corners = [rng.integers(0, side_px - np.array(mask.shape)) for mask in masks]
    cells = [detection(mask, int(x), int(y)) for mask, (y, x) in zip(masks, corners, strict=True)]
    return stained_noise(seed, side_px, side_px), cells


def test_all_features_of_the_notes_exist() -> None:
    assert len(NOTES) == 22
    for name in NOTES:
        matching = [
            f for f in FEATURE_NAMES if f.split("_", 1)[1].removesuffix("_um2").removesuffix("_um") == name
        ]
        assert len(matching) == 1, name


def test_names_are_distinct_and_of_a_known_family() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert all(name.startswith(FEATURE_PREFIXES) for name in FEATURE_NAMES)


@pytest.mark.parametrize("um_per_px", [0.07, 0.22, 1.1, 20.0])
def test_every_feature_of_every_cell_is_finite(um_per_px: float) -> None:
    rgb, cells = scattered(1)
    columns = measure(window_of(rgb, um_per_px=um_per_px), cells)
    assert tuple(columns) == FEATURE_NAMES
    for name, values in columns.items():
        assert values.shape == (len(cells),), name
        assert values.dtype == np.float64, name
        assert np.isfinite(values.astype(np.float32)).all(), name


def test_no_cells_give_columns_without_rows() -> None:
    columns = measure(window_of(stained_noise(0, 9, 9)), [])
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(FEATURE_NAMES, 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_cell_measures_the_same_bits_in_any_window_and_company(seed: int) -> None:
    rgb, cells = scattered(seed)
    margin_px = um_to_px(reach_um(0.22), 0.22)
    together = measure(window_of(rgb), cells)
    for i, cell in enumerate(cells):
        window = window_of(rgb)
        seen = cell.box.grown(margin_px + i).clipped(window.box)
        alone = measure(window_of(rgb[seen.slices_in(window.box)], seen.x0, seen.y0), [cell])
        assert {n: v[0] for n, v in alone.items()} == {n: v[i] for n, v in together.items()}


def test_cells_measure_the_same_in_many_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, cells = scattered(5)
    at_once = measure(window_of(rgb), cells)
    monkeypatch.setattr("mkhspc.measure.strips.MAX_STRIP_PX", 5_000)
    monkeypatch.setattr("mkhspc.measure.hull.PAIRS_AT_ONCE", 1_000)
    in_batches = measure(window_of(rgb), cells)
    assert all(np.array_equal(at_once[name], in_batches[name]) for name in FEATURE_NAMES)


def test_order_of_cells_is_kept() -> None:
    rgb, cells = scattered(2)
    forwards, backwards = measure(window_of(rgb), cells), measure(window_of(rgb), cells[::-1])
    assert all(np.array_equal(forwards[name], backwards[name][::-1]) for name in FEATURE_NAMES)


def test_place_of_the_scene_does_not_matter() -> None:
    rgb, cells = scattered(3)
    far = [Detection(cell.box.shifted(70_001, 33_333), cell.mask, 1.0) for cell in cells]
    here, there = measure(window_of(rgb), cells), measure(window_of(rgb, 70_001, 33_333), far)
    assert all(np.array_equal(here[name], there[name]) for name in FEATURE_NAMES)


def test_shape_and_colour_are_those_of_a_label_image_in_skimage() -> None:
    rng = np.random.default_rng(9)
    window, cells = row_of([blob(rng, rng.uniform(25.0, 45.0)) for _ in range(40)])
    labels = np.zeros(window.rgb.shape[:2], np.int32)
    for number, cell in enumerate(cells, start=1):
        labels[cell.box.slices_in(window.box)][cell.mask] = number
    ours, scale = measure(window, cells), window.um_per_px
    theirs = regionprops_table(
        labels, window.rgb, properties=("area", "perimeter", "solidity", "intensity_mean", "intensity_std")
    )
    circularity = 4 * np.pi * theirs["area"] / theirs["perimeter"] ** 2
    np.testing.assert_allclose(ours["shape_area_um2"], theirs["area"] * scale**2, rtol=1e-6)
    np.testing.assert_allclose(ours["shape_perimeter_um"], theirs["perimeter"] * scale, rtol=1e-6)
    np.testing.assert_allclose(ours["shape_solidity"], theirs["solidity"], rtol=1e-6)
    np.testing.assert_allclose(ours["shape_circularity"], circularity, rtol=1e-6)
    for channel, name in enumerate(("red", "green", "blue")):
        np.testing.assert_allclose(
            ours[f"colour_{name}_mean"], theirs[f"intensity_mean-{channel}"], rtol=1e-6
        )
        np.testing.assert_allclose(ours[f"colour_{name}_std"], theirs[f"intensity_std-{channel}"], rtol=1e-6)
