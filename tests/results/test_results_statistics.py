"""Statistics of the report: the animal is the unit, and few units say little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from mkhspc.results.counts import Count, Searched, SlideResult
from mkhspc.results.design import Design, SlideOrigin
from mkhspc.results.statistics import (
    TOO_FEW,
    comparisons,
    group_summaries,
    permutation_p,
    units,
    welch_interval,
)

values = st.integers(0, 1000)


def result(slide_id: str, cells: int, tissue_mm2: float = 1.0, cell_type: str = "mk") -> SlideResult:
    searched = Searched(1, 1, tissue_mm2, 0.5 * tissue_mm2, 1.0)
    return SlideResult(slide_id, cell_type, 0.22, searched, Count(cells, 0), None, None, None)


def study(*groups: str, animals: dict[str, str] | None = None) -> Design:
    """Slides s0, s1, ...; each word of `groups` holds one letter of each factor, 'sex' and 'treatment'."""
    origins = {}
    for i, (sex, treatment) in enumerate(groups):
        slide_id = f"s{i}"
        factors = {"sex": sex, "treatment": treatment}
        origins[slide_id] = SlideOrigin(slide_id, (animals or {}).get(slide_id, slide_id), "", factors)
    return Design(("sex", "treatment"), origins)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=3, max_size=9), st.lists(values, min_size=3, max_size=9))
def test_the_interval_is_that_of_welch(first: list[int], second: list[int]) -> None:
    one, two = np.array(first, float), np.array(second, float)
    if one.std() + two.std() == 0.0:
        return
    low, high = welch_interval(one, two)
    expected = stats.ttest_ind(two, one, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 1.0, (2000, 2, 4))
    covered = [low <= 0.0 <= high for low, high in (welch_interval(a, b) for a, b in draws)]
    assert 0.93 < np.mean(covered) < 0.98


def test_two_animals_a_side_have_no_interval() -> None:
    assert welch_interval(np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])) is None


@settings(max_examples=15, deadline=None)
@given(st.lists(values, min_size=8, max_size=9, unique=True), st.randoms())
def test_p_is_that_of_the_exact_permutation_test(numbers: list[int], random: object) -> None:
    is_second = np.array([True] * 4 + [False] * (len(numbers) - 4))
    p, note = permutation_p(np.array(numbers), is_second, [()] * len(numbers))
    first, second = np.array(numbers)[~is_second], np.array(numbers)[is_second]
    expected = stats.permutation_test(
        (first, second), lambda a, b: abs(np.mean(a) - np.mean(b)), alternative="greater", n_resamples=np.inf
    ).pvalue
    assert note == ""
    assert p == pytest.approx(expected, abs=1e-9)


def test_the_smallest_p_of_four_against_four() -> None:
    p, _ = permutation_p(np.arange(8.0), np.arange(8) >= 4, [()] * 8)
    assert p == pytest.approx(2 / 70)


def test_units_change_places_within_strata_only() -> None:
    strata = [("F",)] * 8 + [("M",)] * 8
    is_second = np.tile([False] * 4 + [True] * 4, 2)
    p, _ = permutation_p(np.tile(np.arange(8.0), 2), is_second, strata)
    assert p == pytest.approx(2 / 70**2)


def test_no_p_where_none_below_five_percent_exists() -> None:
    p, note = permutation_p(np.arange(6.0), np.arange(6) >= 3, [()] * 6)
    assert p is None
    assert "smallest 0.1" in note


def test_a_factor_that_is_another_one_in_disguise_has_no_p() -> None:
    is_second = np.arange(8) >= 4
    strata = [("GC",)] * 4 + [("HU",)] * 4
    p, note = permutation_p(np.arange(8.0), is_second, strata)
    assert p is None
    assert "smallest 1" in note


def test_slides_of_one_animal_are_one_unit() -> None:
    design = study("FG", "FG", animals={"s0": "A", "s1": "A"})
    (unit,) = [
        u for u in units([result("s0", 30, 1.0), result("s1", 30, 2.0)], design) if u.cell_type == "mk"
    ]
    assert (unit.animal, unit.cells, unit.per_mm2, unit.per_mm2_fat_free) == ("A", 60, 20.0, 40.0)


def test_a_slide_without_searched_tissue_is_left_out() -> None:
    assert units([result("s0", 0, 0.0)], study("FG")) == []


def test_summaries_are_means_over_animals() -> None:
    found = units([result("s0", 10), result("s1", 20), result("s2", 7)], study("FG", "FG", "MG"))
    first, second = group_summaries(found)
    assert (first.group, first.units, first.cells, first.mean_per_mm2) == ("F G", 2, 30, 15.0)
    assert first.sd_per_mm2 == pytest.approx(np.std([10, 20], ddof=1))
    assert (second.units, second.sd_per_mm2) == (1, None)


def test_every_pair_of_levels_of_every_factor_is_compared() -> None:
    groups = ["FG", "FH", "MG", "MH"] * 3
    results = [result(f"s{i}", 100 + 50 * (g[1] == "H") + i) for i, g in enumerate(groups)]
    found = comparisons(units(results, study(*groups)), study(*groups))
    assert [(c.factor, c.first, c.second) for c in found] == [("sex", "F", "M"), ("treatment", "G", "H")]
    treatment = found[1]
    assert treatment.difference == pytest.approx(51.0)
    assert treatment.low < 51.0 < treatment.high
    assert treatment.p == pytest.approx(2 / 20**2)
    assert treatment.note == ""


def test_only_the_primary_endpoint_has_a_p() -> None:
    groups = ["FG", "FH", "MG", "MH"] * 3
    results = [result(f"s{i}", 100 + i, cell_type="hspc") for i in range(12)]
    assert all(c.p is None for c in comparisons(units(results, study(*groups)), study(*groups)))


def test_few_slides_are_said_to_be_few() -> None:
    groups = ["FG", "FH", "MG", "MH"]
    found = comparisons(units([result(f"s{i}", i) for i in range(4)], study(*groups)), study(*groups))
    assert {(c.low, c.high, c.p, c.note) for c in found} == {(None, None, None, TOO_FEW)}


def test_arrangements_are_counted_before_they_are_made() -> None:
    n = 40
    p, note = permutation_p(np.arange(float(n)), np.arange(n) >= n // 2, [()] * n)
    assert p is None
    assert "too many" in note
