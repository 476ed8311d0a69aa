from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2hsv

from blobs import blob, detection, row_of, window_of
from mkhspc.measure.features import measure


def uniform(colours: list[tuple[int, int, int]]) -> dict[str, list[float]]:
    """Colour columns of squares, each of one colour, on white."""
    rgb = np.full((60, 60 * len(colours), 3), 255, np.uint8)
    cells = []
    for i, colour in enumerate(colours):
        rgb[25:35, 60 * i + 25 : 60 * i + 35] = colour
        cells.append(detection(np.ones((10, 10), bool), 60 * i + 25, 25))
    columns = measure(window_of(rgb), cells)
    return {name.removeprefix("colour_"): values.tolist() for name, values in columns.items()}


def two_coloured(one: tuple[int, int, int], other: tuple[int, int, int]) -> dict[str, float]:
    rgb = np.full((40, 40, 3), 255, np.uint8)
    rgb[10:20, 10:20], rgb[10:20, 20:30] = one, other
    columns = measure(window_of(rgb), [detection(np.ones((10, 20), bool), 10, 10)])
    return {name.removeprefix("colour_"): float(values[0]) for name, values in columns.items()}


def pixels_of_cells() -> tuple[dict[str, NDArray[np.float64]], list[NDArray[np.uint8]]]:
    rng = np.random.default_rng(2)
    window, cells = row_of([blob(rng, diameter) for diameter in (9, 30, 41, 150)])
    return measure(window, cells), [window.rgb[cell.box.slices_in(window.box)][cell.mask] for cell in cells]


def test_means_and_deviations_are_those_of_the_cells_pixels() -> None:
    columns, pixels = pixels_of_cells()
    for i, of_cell in enumerate(pixels):
        wide = of_cell.astype(np.float64)
        channels = {**dict(zip(("red", "green", "blue"), wide.T, strict=True)), "gray": wide.mean(axis=1)}
        for name, values in channels.items():
            assert columns[f"colour_{name}_mean"][i] == pytest.approx(values.mean(), rel=1e-9)
            assert columns[f"colour_{name}_std"][i] == pytest.approx(values.std(), rel=1e-9)
        assert columns["colour_intensity_variance"][i] == pytest.approx(channels["gray"].var(), rel=1e-9)
        is_dark = channels["gray"] < 100
        assert columns["texture_dark_region_fraction"][i] == pytest.approx(is_dark.mean(), rel=1e-9)


def test_saturation_and_value_are_those_of_hsv() -> None:
    columns, pixels = pixels_of_cells()
    for i, of_cell in enumerate(pixels):
        _, saturation, value = rgb2hsv(of_cell).mean(axis=0)
        assert columns["colour_saturation_mean"][i] == pytest.approx(saturation, rel=1e-6)
        assert columns["colour_value_mean"][i] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("colour", "hue"),
    [((200, 0, 0), 0.0), ((0, 90, 0), 120.0), ((10, 10, 60), -120.0), ((200, 100, 200), -60.0)],
)
def test_hue_is_the_angle_of_hsv(colour: tuple[int, int, int], hue: float) -> None:
    assert uniform([colour])["hue_mean"] == [pytest.approx(hue)]


def test_hue_is_averaged_around_the_circle() -> None:
    mean = two_coloured((200, 20, 50), (200, 50, 20))["hue_mean"]  # 350 and 10 degrees
    assert mean == pytest.approx(0.0, abs=1e-9)


def test_a_grey_pixel_has_no_say_in_the_hue() -> None:
    coloured = uniform([(120, 60, 150)])["hue_mean"][0]
    assert two_coloured((120, 60, 150), (90, 90, 90))["hue_mean"] == pytest.approx(coloured)


def test_dark_is_a_gray_below_100() -> None:
    assert uniform([(99, 99, 99), (100, 100, 100), (0, 120, 177)])["texture_dark_region_fraction"] == [
        1.0,
        0.0,
        1.0,
    ]


def test_grey_black_and_white_cells_have_finite_colours() -> None:
    found = uniform([(0, 0, 0), (77, 77, 77), (255, 255, 255)])
    assert found["hue_mean"] == [0.0, 0.0, 0.0]
    assert found["saturation_mean"] == [0.0, 0.0, 0.0]
    assert found["gray_std"] == [0.0, 0.0, 0.0]
    assert found["gray_mean"] == pytest.approx([0.0, 77.0, 255.0])
