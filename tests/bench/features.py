"""Measuring cells against `skimage.measure.regionprops_table`, on a simulated tile of 3,000 cells."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from blobs import UM_PER_PX, blob, detection, stained_noise, window_of
from mkhspc.detect.contract import Detection, Window
from mkhspc.measure.colour import colour_features
from mkhspc.measure.features import measure
from mkhspc.measure.regions import PackedMasks
from mkhspc.measure.shape import perimeters_px, shape_features
from mkhspc.measure.strips import over_strips, strips

Columns = dict[str, NDArray[np.float64]]
Row = dict[str, object]

TILE_PX = 4096
NUCLEI = 2960
MEGAKARYOCYTES = 40
REPEATS = 3
TARGET_RATIO = 10.0
TARGET_DIFFERENCE = 1e-6


def rows(shared: Path | None, full: bool) -> list[Row]:
    """Time of the baseline over ours, in the same run, and how far the numbers are apart."""
    rgb, cells = simulated_tile()
    labels, intensities = label_image(cells), intensity_image(rgb)
    runs: dict[str, Callable[[], Columns]] = {
        "baseline": lambda: by_regionprops(labels, intensities),
        "shape and colour": lambda: shape_and_colour(window_of(rgb), cells),
        "all with texture": lambda: measure(window_of(rgb), cells),
    }
    times_s: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Columns] = {}
    for _ in range(REPEATS):
        for name, run in runs.items():
            begun_s = time.perf_counter()
            results[name] = run()
            times_s[name].append(time.perf_counter() - begun_s)
    median_s = {name: statistics.median(values) for name, values in times_s.items()}
    difference = largest_difference(results["baseline"], results["shape and colour"])
    return [
        _speed("shape and colour", median_s, TARGET_RATIO),
        _speed("all with texture", median_s, None),
        {
            "part": "engine",
            "name": f"features: largest relative difference in {len(results['baseline'])} columns",
            "value": difference,
            "unit": "",
            "baseline": "regionprops_table",
            "target": f"<= {TARGET_DIFFERENCE:g}",
            "ok": difference <= TARGET_DIFFERENCE,
        },
    ]


def _speed(name: str, median_s: dict[str, float], target: float | None) -> Row:
    ratio = median_s["baseline"] / median_s[name]
    return {
        "part": "engine",
        "name": f"features: {name}, speed against shape and colour by regionprops_table",
        "value": ratio,
        "unit": "x",
        "baseline": f"{median_s['baseline']:.2f} s",
        "target": None if target is None else f">= {target:g}",
        "ok": None if target is None else ratio >= target,
    }


def simulated_tile(seed: int = 0) -> tuple[NDArray[np.uint8], list[Detection]]:
    """A tile and its cells, none overlapping: nuclei of 6 to 9 µm and megakaryocytes of 25 to 50 µm."""
    rng = np.random.default_rng(seed)
    large = [(x, y, 320, 25.0, 50.0) for y in range(0, 1280, 320) for x in range(0, 3840, 320)]
    small = [(x, y, 60, 6.0, 9.0) for y in range(1280, TILE_PX - 60, 60) for x in range(0, TILE_PX - 60, 60)]
    cells = []
    for x, y, slot_px, low_um, high_um in large[:MEGAKARYOCYTES] + small[:NUCLEI]:
        mask = blob(rng, rng.uniform(low_um, high_um) / UM_PER_PX)
        free_y, free_x = slot_px - mask.shape[0], slot_px - mask.shape[1]
        cells.append(detection(mask, x + int(rng.integers(free_x)), y + int(rng.integers(free_y))))
    return stained_noise(seed, TILE_PX, TILE_PX), cells


def shape_and_colour(window: Window, cells: list[Detection]) -> Columns:
    """What `measure` does for these two families, from the masks and the pixels on."""
    columns = over_strips(
        lambda strip: {"perimeter_px": perimeters_px(strip), **colour_features(window, strip)},
        strips(window.box, cells, margin_px=1),
    )
    masks = PackedMasks.from_detections(cells, window.box)
    return columns | shape_features(masks, columns["perimeter_px"], window.um_per_px)


def label_image(cells: list[Detection]) -> NDArray[np.int32]:
    labels = np.zeros((TILE_PX, TILE_PX), np.int32)
    for number, cell in enumerate(cells, start=1):
        labels[cell.box.y0 : cell.box.y1, cell.box.x0 : cell.box.x1][cell.mask] = number
    return labels


def intensity_image(rgb: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Red, green, blue, their sum (three times gray) and the largest (HSV's value), made beforehand."""
    wide = rgb.astype(np.uint16)
    return np.dstack([wide, wide.sum(axis=2, dtype=np.uint16), wide.max(axis=2)])


def by_regionprops(labels: NDArray[np.int32], intensities: NDArray[np.uint16]) -> Columns:
    """The features that scikit-image has too, under our names and in our units."""
    table = regionprops_table(
        labels,
        intensities,
        properties=(
            "area", "perimeter", "solidity", "extent", "eccentricity", "equivalent_diameter_area",
            "axis_major_length", "axis_minor_length", "intensity_mean", "intensity_std",
        ),
    )  # fmt: skip
    columns = {
        "shape_area_um2": table["area"] * UM_PER_PX**2,
        "shape_perimeter_um": table["perimeter"] * UM_PER_PX,
        "shape_circularity": 4.0 * np.pi * table["area"] / table["perimeter"] ** 2,
        "shape_solidity": table["solidity"],
        "shape_extent": table["extent"],
        "shape_eccentricity": table["eccentricity"],
        "shape_equivalent_diameter_um": table["equivalent_diameter_area"] * UM_PER_PX,
        "shape_major_axis_um": table["axis_major_length"] * UM_PER_PX,
        "shape_minor_axis_um": table["axis_minor_length"] * UM_PER_PX,
        "shape_aspect_ratio": table["axis_major_length"] / table["axis_minor_length"],
        "colour_value_mean": table["intensity_mean-4"] / 255.0,
        "colour_intensity_variance": (table["intensity_std-3"] / 3.0) ** 2,
    }
    for channel, (name, unit) in enumerate((("red", 1), ("green", 1), ("blue", 1), ("gray", 3))):
        columns[f"colour_{name}_mean"] = table[f"intensity_mean-{channel}"] / unit
        columns[f"colour_{name}_std"] = table[f"intensity_std-{channel}"] / unit
    return columns


def largest_difference(theirs: Columns, ours: Columns) -> float:
    return max(float(np.max(np.abs(ours[name] / values - 1.0))) for name, values in theirs.items())
