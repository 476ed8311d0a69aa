from __future__ import annotations

import numpy as np
import pytest

from mkhspc.detect.classical.outline import ANGLES, centroid_shift, filled, trace
from stained import Field

UM_PER_BLOCK = 0.44


def picture(
    *bodies: tuple[float, float, float, int], gap: tuple[float, float, float] | None = None
) -> np.ndarray:
    """(h, w) uint8: discs (x, y, radius in µm, level) on a background of 30."""
    field = Field(90.0, 90.0, UM_PER_BLOCK)
    image = np.full(field.eosin_od.shape, 30, np.uint8)
    for x, y, radius, level in bodies:
        image[field.within(x, y, radius)] = level
    if gap is not None:
        image[field.within(*gap)] = 0
    return image


@pytest.mark.parametrize("radius_um", [6.0, 12.0, 24.0])
def test_a_disc_is_traced_to_its_edge(radius_um):
    centre = np.array([[round(45.0 / UM_PER_BLOCK)] * 2])
    radii = trace(picture((45.0, 45.0, radius_um, 80)), centre, UM_PER_BLOCK)
    assert radii.shape == (1, ANGLES)
    assert np.abs(radii * UM_PER_BLOCK - radius_um).max() < 1.0


def test_an_outline_is_closed():
    image = picture((45.0, 45.0, 9.0, 80), (52.0, 49.0, 9.0, 80))
    radii = trace(image, np.array([[104, 104]]), UM_PER_BLOCK)[0]
    assert np.abs(np.diff(np.append(radii, radii[0]))).max() <= 1


def test_an_outline_does_not_cross_a_gap_to_a_stronger_edge():
    """A cell in a hole of bright matrix: the far edge of the matrix falls off more steeply."""
    image = picture((45.0, 45.0, 28.0, 140), gap=(45.0, 45.0, 14.0))
    field = Field(90.0, 90.0, UM_PER_BLOCK)
    image[field.within(45.0, 45.0, 8.0)] = 80
    radii = trace(image, np.array([[102, 102]]), UM_PER_BLOCK)
    assert np.abs(radii * UM_PER_BLOCK - 8.0).max() < 1.2


def test_tracing_many_cells_at_once_gives_what_each_alone_does():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (150, 170), dtype=np.uint8)
    centres = rng.integers(0, 150, (300, 2))
    together = trace(image, centres, UM_PER_BLOCK)
    for index in (0, 255, 256, 299):
        assert np.array_equal(trace(image, centres[index : index + 1], UM_PER_BLOCK)[0], together[index])


def test_the_centre_of_mass_of_an_outline_is_found():
    turn = 2 * np.pi * np.arange(ANGLES) / ANGLES
    shift = np.array([8.0, -5.0])
    # Radii of a disc of radius 40 seen from a point beside its centre.
    along = shift[0] * np.cos(turn) + shift[1] * np.sin(turn)
    radii = np.rint(along + np.sqrt(40.0**2 - (shift**2).sum() + along**2)).astype(np.int64)
    assert centroid_shift(radii[None]).tolist() == [[8, -5]]


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_a_filled_outline_has_the_area_of_its_disc_at_every_scale(scale):
    left, top, mask = filled(np.full(ANGLES, 30), scale)
    assert mask.sum() == pytest.approx(np.pi * (30 * scale) ** 2, rel=0.06)
    assert left + mask.shape[1] / 2 == pytest.approx(scale / 2, abs=1.5)
    assert top + mask.shape[0] / 2 == pytest.approx(scale / 2, abs=1.5)


def test_no_centres_give_no_outlines():
    assert trace(picture(), np.zeros((0, 2), np.int64), UM_PER_BLOCK).shape == (0, ANGLES)
