from __future__ import annotations

import numpy as np
import pytest

from mkhspc.detect.classical import split
from mkhspc.detect.classical.split import Seeds, find_seeds, power_labels, summits
from stained import Field

UM_PER_PX = 0.22


def mask_of(*discs: tuple[float, float, float]) -> np.ndarray:
    """(h, w) uint8 union of discs (x, y, radius) in µm."""
    field = Field(40.0, 30.0)
    return np.logical_or.reduce([field.within(*one) for one in discs]).astype(np.uint8)


def test_a_disc_has_one_seed_at_its_centre_with_its_radius():
    seeds = find_seeds(mask_of((15.0, 12.0, 3.3)), UM_PER_PX)
    assert len(seeds.x) == 1
    assert (seeds.x[0] * UM_PER_PX, seeds.y[0] * UM_PER_PX) == pytest.approx((15.0, 12.0), abs=0.5)
    assert seeds.radius_px[0] * UM_PER_PX == pytest.approx(3.3, abs=0.5)


def test_an_oval_nucleus_stays_whole():
    oval = Field(40.0, 30.0).within(15.0, 12.0, 5.5, 3.0).astype(np.uint8)
    assert len(find_seeds(oval, UM_PER_PX).x) == 1


def test_touching_nuclei_are_parted_at_the_neck():
    mask = mask_of((12.0, 12.0, 3.0), (17.0, 12.0, 3.0))
    labels = power_labels(mask, find_seeds(mask, UM_PER_PX), UM_PER_PX)
    assert set(np.unique(labels)) == {0, 1, 2}
    neck = round(14.5 / UM_PER_PX)
    row = labels[round(12.0 / UM_PER_PX)]
    assert set(row[neck - 12 : neck - 1]) | set(row[neck + 2 : neck + 12]) == {1, 2}
    assert len(set(row[neck - 12 : neck - 1])) == len(set(row[neck + 2 : neck + 12])) == 1


def test_the_border_is_the_chord_of_discs_of_different_size():
    """The power diagram parts two discs along the chord through their intersections."""
    seeds = Seeds(np.array([40, 70]), np.array([50, 50]), np.array([20.0, 14.0]))
    labels = power_labels(np.ones((101, 121), np.uint8), seeds, UM_PER_PX)
    chord = (70**2 - 40**2 + 20.0**2 - 14.0**2) / (2 * (70 - 40))
    last = np.flatnonzero(labels[50] == 1).max()
    assert last == int(np.floor(chord))


def test_pixels_beyond_every_arm_belong_to_no_seed():
    seeds = Seeds(np.array([100]), np.array([100]), np.array([5.0]))
    labels = power_labels(np.ones((201, 201), np.uint8), seeds, UM_PER_PX)
    assert labels[100, 100] == 1
    assert labels[0, 0] == 0


def test_an_empty_mask_has_no_seeds():
    seeds = find_seeds(np.zeros((50, 60), np.uint8), UM_PER_PX)
    assert len(seeds.x) == 0
    assert not power_labels(np.ones((50, 60), np.uint8), seeds, UM_PER_PX).any()


def test_a_flat_summit_counts_once_and_a_higher_one_beats_it():
    height = np.zeros((40, 60), np.uint8)
    height[10:14, 10:14] = 5
    height[10, 30], height[10, 34] = 7, 8
    x, y = summits(height, (height > 0).view(np.uint8), 6)
    assert list(zip(x.tolist(), y.tolist(), strict=True)) == [(10, 10), (34, 10)]


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_summits_are_the_same_in_bands_of_any_height(rows, monkeypatch):
    rng = np.random.default_rng(rows)
    depth = rng.integers(0, 12, (120, 50)).astype(np.uint8)
    depth[30:40, 20] = (0, 0, 0, 9, 0, 5, 0, 5, 0, 0)  # of three in a column the second is none for the first
    depth[30:40, 17:20] = depth[30:40, 21:24] = 0
    mask = (rng.random(depth.shape) < 0.8).astype(np.uint8)
    mask[30:40, 20] = 1
    whole = summits(depth, mask, 2)
    assert (20, 37) in zip(*whole, strict=True)
    monkeypatch.setattr(split, "BAND_ROWS", rows)
    assert np.array_equal(summits(depth, mask, 2), whole)


@pytest.mark.parametrize("um_per_px", [0.1, 0.106, 0.107, 0.22])
def test_every_pixel_goes_to_the_seed_of_the_nearest_disc(um_per_px):
    """Whether squared distances fit into 16 bits, as they do up to 127 px, or not."""
    seeds = Seeds(np.array([30, 200, 215]), np.array([20, 150, 40]), np.array([9.0, 25.0, 4.0]))
    labels = power_labels(np.ones((190, 260), np.uint8), seeds, um_per_px)
    y, x = np.mgrid[:190, :260]
    reach = int(np.ceil(split.ARM_UM / um_per_px - 1e-9))
    away = np.stack([np.maximum(abs(x - sx), abs(y - sy)) for sx, sy in zip(seeds.x, seeds.y, strict=True)])
    discs = zip(seeds.x, seeds.y, np.rint(seeds.radius_px**2), strict=True)
    power = np.stack([(x - sx) ** 2 + (y - sy) ** 2 - square for sx, sy, square in discs])
    power[away > reach] = np.inf
    assert (2 * reach**2 < 2**15) == (um_per_px > 0.1063)
    expected = np.where(np.isinf(power.min(axis=0)), 0, 1 + power.argmin(axis=0))
    assert np.array_equal(labels, expected)


def test_bumps_are_recognised_however_many_pairs_are_looked_at_at_a_time(monkeypatch):
    rng = np.random.default_rng(4)
    mask = mask_of(
        *((x, y, r) for x, y, r in zip(*rng.uniform((2, 2, 1), (38, 28, 4), (60, 3)).T, strict=True))
    )
    whole = find_seeds(mask, UM_PER_PX)
    assert len(whole.x) > 5
    monkeypatch.setattr(split, "_PAIRS_AT_ONCE", 2)
    few = find_seeds(mask, UM_PER_PX)
    assert np.array_equal(few.x, whole.x)
    assert np.array_equal(few.y, whole.y)
