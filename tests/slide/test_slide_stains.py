from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from skimage.filters import threshold_otsu

from marrow import PATIENTS
from mkhspc.errors import InputError
from mkhspc.slide.stains import OD_UNIT, STAINS, SceneCalibration, Stains, calibrate, otsu, separate, smooth
from stained import CALIBRATION, CYTOPLASM_OD, EOSIN, EOSIN_OD, HAEMATOXYLIN, NUCLEUS_OD, Field, mixed, unit

UM_PER_PX = 0.22


def tissue(seed: int = 0, haematoxylin: float = 1.0, eosin: float = 1.0) -> np.ndarray:
    """Nuclei, cytoplasm, red cells and clear gaps with a little noise; each stain's strength a factor."""
    rng = np.random.default_rng(seed)
    field = Field(110.0, 110.0)
    for x, y in rng.uniform(4.0, 106.0, (120, 2)):
        field.nucleus(x, y, rng.uniform(2.0, 4.0))
    for number, (x, y) in enumerate(rng.uniform(0.0, 110.0, (10, 2))):
        gap_or_red_cell = field.within(x, y, 5.0)
        field.haematoxylin_od[gap_or_red_cell] = 0.0
        field.eosin_od[gap_or_red_cell] = 1.5 * EOSIN_OD * (number % 2)
    noise = np.clip(rng.normal(1.0, 0.12, (2, *field.eosin_od.shape)), 0.5, 1.5)
    return mixed(haematoxylin * field.haematoxylin_od * noise[0], eosin * field.eosin_od * noise[1])


def both(rgb: np.ndarray) -> Stains:
    return Stains(*(separate(rgb, CALIBRATION, stain) for stain in STAINS))


def test_amounts_of_a_known_mixture_are_recovered():
    haematoxylin, eosin = np.meshgrid(np.linspace(0.0, 0.7, 30), np.linspace(0.0, 0.5, 30))
    found = both(mixed(haematoxylin, eosin))
    # One grey level of a dark pixel is up to 0.02 OD.
    assert np.abs(found.haematoxylin / OD_UNIT - haematoxylin).max() < 0.03
    assert np.abs(found.eosin / OD_UNIT - eosin).max() < 0.03


def test_clear_pixels_hold_no_stain():
    found = both(np.full((3, 5, 3), 255, np.uint8))
    assert not found.haematoxylin.any()
    assert not found.eosin.any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 60), st.integers(0, 60), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1)
)
def test_a_pixel_is_separated_alike_wherever_it_lies(x, y, width, height, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (131, 131, 3), dtype=np.uint8)
    whole, part = both(rgb), both(rgb[y : y + height, x : x + width])
    assert np.array_equal(whole.haematoxylin[y : y + height, x : x + width], part.haematoxylin)
    assert np.array_equal(whole.eosin[y : y + height, x : x + width], part.eosin)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.5, 6.0), st.integers(0, 2**32 - 1))
def test_smoothing_does_not_depend_on_where_the_window_begins(dx, dy, sigma, seed):
    image = np.random.default_rng(seed).integers(0, 256, (160, 173), dtype=np.uint8)
    margin = int(np.ceil(3 * sigma))
    whole, part = smooth(image, sigma), smooth(np.ascontiguousarray(image[dy:, dx:]), sigma)
    inside = np.s_[margin:-margin, margin:-margin]
    assert np.array_equal(whole[dy:, dx:][inside], part[inside])


def test_a_calibration_survives_json():
    calibration = calibrate([tissue()], UM_PER_PX)
    assert SceneCalibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_the_same_windows_give_the_same_calibration():
    windows = [tissue(seed) for seed in range(3)]
    assert calibrate(windows, UM_PER_PX) == calibrate(windows, UM_PER_PX)


def test_stain_vectors_are_found():
    calibration = calibrate([tissue(seed) for seed in range(3)], UM_PER_PX)
    assert calibration.vector_source == "estimated"
    for found, true in ((calibration.haematoxylin, HAEMATOXYLIN), (calibration.eosin, EOSIN)):
        assert np.degrees(np.arccos(np.dot(found, unit(true)))) < 6.0


def test_levels_are_those_of_cytoplasm_and_nuclei():
    levels = calibrate([tissue(seed) for seed in range(3)], UM_PER_PX).levels
    assert levels.cytoplasm_haematoxylin / OD_UNIT == pytest.approx(CYTOPLASM_OD, abs=0.05)
    assert levels.nucleus_haematoxylin / OD_UNIT == pytest.approx(NUCLEUS_OD, abs=0.12)
    assert levels.cytoplasm_eosin / OD_UNIT == pytest.approx(0.8 * EOSIN_OD, abs=0.06)


@pytest.mark.parametrize("strength", [0.5, 1.6])
def test_levels_follow_the_strength_of_the_stain(strength):
    usual = calibrate([tissue(seed) for seed in range(2)], UM_PER_PX).levels
    other = calibrate([tissue(seed, strength, strength) for seed in range(2)], UM_PER_PX).levels
    assert other.nuclear_contrast / usual.nuclear_contrast == pytest.approx(strength, rel=0.12)
    assert other.cytoplasm_eosin / usual.cytoplasm_eosin == pytest.approx(strength, rel=0.2)


def test_colours_that_are_no_h_and_e_fall_back_to_the_published_vectors():
    greenish = tissue()[..., [1, 0, 2]]  # red and green swapped: nothing absorbs green most
    calibration = calibrate([greenish], UM_PER_PX)
    assert calibration.vector_source == "published"
    assert np.linalg.norm(calibration.eosin) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "windows", [[], [np.full((300, 300, 3), 250, np.uint8)], [np.full((4, 4, 3), 90, np.uint8)]]
)
def test_windows_without_stained_tissue_are_refused(windows):
    with pytest.raises(InputError, match="tissue"):
        calibrate(windows, UM_PER_PX)


@pytest.mark.parametrize("corner", [slice(0, 150), slice(0, 40), np.s_[::60]])
def test_black_where_nothing_was_scanned_takes_no_part(corner):
    """The corners of a turned image are black: no nucleus is as dark."""
    whole = [tissue(seed) for seed in range(2)]
    cut = [window.copy() for window in whole]
    for window in cut:
        window[corner] = 0
    usual, found = calibrate(whole, UM_PER_PX), calibrate(cut, UM_PER_PX)
    assert found.levels.nucleus_haematoxylin == pytest.approx(usual.levels.nucleus_haematoxylin, rel=0.05)
    assert found.levels.cytoplasm_haematoxylin == pytest.approx(usual.levels.cytoplasm_haematoxylin, rel=0.1)
    assert found.haematoxylin == pytest.approx(usual.haematoxylin, abs=0.03)
    assert min(found.intensity_range[0]) > 0


def test_windows_of_black_alone_are_refused():
    with pytest.raises(InputError, match="hold no stained tissue"):
        calibrate([np.zeros((300, 300, 3), np.uint8)], UM_PER_PX)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=20, max_size=400).filter(lambda v: len(set(v)) > 1))
def test_otsu_splits_as_well_as_the_reference(values):
    image = np.array(values, np.uint8)
    # skimage names the last level of the lower class, or the middle of a run without pixels.
    ours, theirs = image < otsu(np.bincount(image, minlength=256)), image <= threshold_otsu(image)

    def variance(lower: np.ndarray) -> float:
        return lower.mean() * (~lower).mean() * (image[lower].mean() - image[~lower].mean()) ** 2

    assert variance(ours) >= variance(theirs) - 1e-6


@pytest.mark.shared
def test_few_windows_tell_nearly_what_many_do(shared):
    """Two windows of the patient's second image against its whole first image."""
    folder = shared / "data" / "marrow"
    for patient in PATIENTS:
        first, second = (
            cv2.imread(str(folder / f"BM_GRAZ_HE_{patient}_0{i}.png"))[..., ::-1].copy() for i in (1, 2)
        )
        many = calibrate([first, second], UM_PER_PX)
        few = calibrate([second[300:700, 300:700], second[700:1100, 100:500]], UM_PER_PX)
        assert few.vector_source == many.vector_source == "estimated"
        assert few.levels.nuclear_contrast == pytest.approx(many.levels.nuclear_contrast, rel=0.2)
        assert np.degrees(np.arccos(np.dot(few.haematoxylin, many.haematoxylin))) < 5.0
