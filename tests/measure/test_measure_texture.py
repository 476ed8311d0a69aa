from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.feature import graycomatrix, graycoprops

from blobs import CALIBRATION, UM_PER_PX, blob, detection, row_of, stained_noise, window_of
from mkhspc.detect.contract import Detection, Window
from mkhspc.measure.features import measure
from mkhspc.measure.texture import LEVELS_PER_BIN, ROUNDING_VARIANCE, SCALES_NM
from mkhspc.slide.stains import OD_UNIT


def window_with(levels: NDArray[np.uint8], um_per_px: float = UM_PER_PX) -> Window:
    """A window whose haematoxylin, and eosin, are these levels."""
    window = window_of(np.zeros((*levels.shape, 3), np.uint8), um_per_px=um_per_px)
    window.__dict__.update(haematoxylin=levels, eosin=levels)
    return window


def texture(window: Window, cell: Detection, stain: str = "haematoxylin") -> dict[str, float]:
    columns = measure(window, [cell])
    return {name.removeprefix(f"texture_{stain}_"): float(values[0]) for name, values in columns.items()}


def whole(levels: NDArray[np.uint8], margin_px: int = 20) -> tuple[Window, Detection]:
    """A rectangular cell with these levels, in a window of zeros."""
    cell = detection(np.ones(levels.shape, bool), margin_px, margin_px)
    return window_with(np.pad(levels, margin_px)), cell


def clumps(height: int = 40, width: int = 55) -> NDArray[np.uint8]:
    return np.ascontiguousarray(stained_noise(7, height, width)[..., 0])


@pytest.mark.parametrize("stain", ["haematoxylin", "eosin"])
def test_levels_of_a_cell_are_described_as_numpy_and_scipy_do(stain: str) -> None:
    rng = np.random.default_rng(6)
    window, cells = row_of([blob(rng, diameter) for diameter in (7, 30, 44)])
    for cell in cells:
        levels = window.amounts(stain)[cell.box.slices_in(window.box)][cell.mask].astype(float)
        found = texture(window, cell, stain)
        assert found["mean"] == pytest.approx(levels.mean() / OD_UNIT)
        assert found["std"] == pytest.approx(levels.std() / OD_UNIT)
        for name, percent in (("p10", 10), ("median", 50), ("p90", 90)):
            assert found[name] == np.percentile(levels, percent, method="inverted_cdf") / OD_UNIT
        skew = stats.skew(levels) * (levels.var() / (levels.var() + ROUNDING_VARIANCE)) ** 1.5
        assert found["skewness"] == pytest.approx(skew)
        _, counts = np.unique(levels // LEVELS_PER_BIN, return_counts=True)
        assert found["entropy"] == pytest.approx(stats.entropy(counts, base=2))


@pytest.mark.parametrize(("scale_nm", "distance_px"), [(500, 2), (1000, 5)])
def test_co_occurrence_is_haralicks(scale_nm: int, distance_px: int) -> None:
    levels = clumps()
    found = texture(*whole(levels))
    matrix = graycomatrix(levels, [distance_px], np.arange(4) * np.pi / 4, 256, symmetric=True)
    together = matrix.sum(axis=3, keepdims=True) / matrix.sum()
    contrast = graycoprops(together, "contrast").item()
    variance = graycoprops(together, "variance").item()
    assert found[f"contrast_{scale_nm}nm"] == pytest.approx(contrast / OD_UNIT**2)
    assert found[f"correlation_{scale_nm}nm"] == pytest.approx(1 - contrast / (2 * (variance + 1 / 12)))
    i, j = np.indices((256, 256))
    homogeneity = np.sum(together[..., 0, 0] / (1 + ((i - j) / LEVELS_PER_BIN) ** 2))
    assert found[f"homogeneity_{scale_nm}nm"] == pytest.approx(homogeneity, abs=1e-4)


def test_pairs_lie_inside_the_cell() -> None:
    window, cells = row_of([blob(np.random.default_rng(8), 40.0)])
    cell = cells[0]
    other = window.haematoxylin.copy()
    other[cell.box.slices_in(window.box)][~cell.mask] = 255
    changed = texture(window_with(other), cell)
    for name, value in texture(window_with(window.haematoxylin), cell).items():
        if name.startswith(("contrast", "homogeneity", "correlation")):
            assert changed[name] == value, name


@pytest.mark.parametrize("um_per_px", [0.11, 0.22, 0.5])
@pytest.mark.parametrize("scale_nm", SCALES_NM)
def test_the_edge_of_a_ramp_is_its_slope_a_micrometre(um_per_px: float, scale_nm: int) -> None:
    ramp = np.tile(np.arange(0, 240, 3, dtype=np.uint8), (60, 1))
    cell = detection(np.ones((20, 40), bool), 20, 20)
    found = texture(window_with(ramp, um_per_px), cell)[f"edge_{scale_nm}nm"]
    assert found == pytest.approx(3 / OD_UNIT / um_per_px)


def test_a_uniform_cell_has_no_texture() -> None:
    window = window_with(np.full((60, 60), 90, np.uint8))
    found = texture(window, detection(np.ones((20, 20), bool), 20, 20))
    for scale in SCALES_NM:
        assert found[f"edge_{scale}nm"] == 0.0
        assert found[f"contrast_{scale}nm"] == 0.0
        assert found[f"homogeneity_{scale}nm"] == 1.0
        assert found[f"correlation_{scale}nm"] == 1.0
    assert found["skewness"] == found["entropy"] == found["std"] == 0.0


def test_nuclear_share_counts_from_half_way_between_cytoplasm_and_nucleus() -> None:
    levels = np.full((40, 40), math.ceil(CALIBRATION.levels.haematoxylin_at(0.5)), np.uint8)
    levels[:, 20:] -= 1
    found = texture(window_with(levels), detection(np.ones((20, 20), bool), 10, 10))
    assert found["texture_nuclear_share"] == 0.5


def disc(radius_px: float, at: tuple[float, float]) -> NDArray[np.bool_]:
    y, x = np.indices((120, 120))
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius_px**2


def test_nuclear_complexity_is_the_length_of_the_nuclear_border() -> None:
    cell_mask = disc(50, (60, 60))
    cell = detection(cell_mask[10:111, 10:111], 10, 10)

    def complexity(nucleus: NDArray[np.bool_]) -> float:
        levels = np.where(nucleus, 120, 10).astype(np.uint8)
        return texture(window_with(levels), cell)["texture_nuclear_complexity"]

    one = complexity(disc(25, (60, 60)))
    lobes = complexity(disc(12, (40, 60)) | disc(12, (75, 42)) | disc(12, (75, 78)))
    assert one == pytest.approx(0.5, rel=0.05)
    assert lobes == pytest.approx(3 * 12 / 50, rel=0.08)
    assert complexity(np.zeros((120, 120), bool)) == complexity(np.ones((120, 120), bool)) == 0.0
