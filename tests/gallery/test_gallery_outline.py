from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from mkhspc.gallery.outline import UNITS_PER_PX, outline_path
from mkhspc.geometry import mask_to_contour, normalise_mask
from polygons import polygon_area_px


def drawn(path: str) -> NDArray[np.float64]:
    """Corner points of a path, in display px."""
    written = re.fullmatch(r"M(-?\d+ -?\d+)l([-\d ]+)z", path)
    assert written
    head, steps = written.groups()
    numbers = [int(n) for n in re.findall(r"-?\d+", steps)]
    points = np.cumsum([[int(n) for n in head.split()], *np.reshape(numbers, (-1, 2))], axis=0)
    return points / UNITS_PER_PX


def blob(seed: int, radius_px: float) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-60:60, -60:60] + 0.5
    angle = np.arctan2(y, x)
    waves = sum(rng.uniform(-0.08, 0.08) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 6))
    return mask_to_contour(normalise_mask(np.hypot(x, y) < radius_px * (1 + waves)), 1000, 2000)


def farthest(points: NDArray[np.float64], contour: NDArray[np.float64]) -> float:
    """Largest distance of a point from a polygon's sides."""
    start, end = contour, np.roll(contour, -1, axis=0)
    side = end - start
    share = np.einsum("pce,ce->pc", points[:, None] - start, side) / np.einsum("ce,ce->c", side, side)
    nearest = start + np.clip(share, 0, 1)[..., None] * side
    return float(np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1).max())


@pytest.mark.parametrize("scale", [0.55, 0.77, 1.0])
@pytest.mark.parametrize("radius_px", [12, 25, 50])
def test_an_outline_stays_within_a_pixel_of_the_contour_and_keeps_its_area(
    radius_px: int, scale: float
) -> None:
    for seed in range(5):
        contour = blob(seed, radius_px)
        points = drawn(outline_path(contour, (900, 1900), scale, (256, 128)))
        in_slide = (points - (256, 128)) / scale + (900, 1900)
        assert farthest(in_slide, contour.astype(float)) < 0.6
        assert polygon_area_px(in_slide) == pytest.approx(polygon_area_px(contour), rel=0.04)


def test_an_outline_takes_few_bytes() -> None:
    sizes = [len(outline_path(blob(seed, 22), (900, 1900), 0.77, (1024, 1024))) for seed in range(20)]
    assert np.mean(sizes) < 160


def test_a_single_pixel_has_an_outline() -> None:
    contour = mask_to_contour(np.ones((1, 1), bool), 5, 5)
    assert drawn(outline_path(contour, (0, 0), 1.0, (0, 0))).shape[1] == 2
