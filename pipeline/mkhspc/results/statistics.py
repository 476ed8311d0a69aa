"""Group means and differences, with the animal as the unit.

Slides of one animal are pooled (cells summed, areas summed) before anything else: cells and slides
of one animal are not independent observations. Differences carry Welch's t-interval, and only with
at least MIN_UNITS units on each side; percentile bootstrap intervals are too narrow for so few.
A p value is given for the primary endpoint alone, by permuting whole animals within the strata of
all other factors, and only where a p below 0.05 can be reached at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.results.counts import SlideResult, counted_as
from mkhspc.results.design import Design

PRIMARY: CellType = "mk"
"""The primary endpoint, named before looking: MK per mm² of tissue."""
MIN_UNITS = 3
"""The fewest units on each side of a comparison that has an interval."""
CONFIDENCE = 0.95
"""The confidence level of intervals; 1 less it is the level below which a p value counts."""
MAX_ARRANGEMENTS = 2_000_000
"""The most arrangements of units that a permutation test goes through: a few seconds and 50 MB."""
TOO_FEW = "too few slides"
"""The note of a comparison with fewer than `MIN_UNITS` units on a side."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """One animal's density of one cell type."""

    animal: str
    group: str
    factors: Mapping[str, str]
    cell_type: CellType
    counted_as: str
    cells: int
    per_mm2: float
    per_mm2_fat_free: float


@dataclass(frozen=True)
class GroupSummary:
    """Mean and standard deviation over the units of a group; `sd` is None for a single unit."""

    cell_type: CellType
    counted_as: str
    group: str
    units: int
    cells: int
    mean_per_mm2: float
    sd_per_mm2: float | None
    mean_per_mm2_fat_free: float
    sd_per_mm2_fat_free: float | None


@dataclass(frozen=True)
class Comparison:
    """Difference (second level minus first) in cells per mm² of tissue between levels of a factor.

    Attributes:
        low, high: its 95 % interval, None when there are too few units.
        p: permutation p of the primary endpoint, None elsewhere or when none below 0.05 exists.
        note: why an interval or a p is missing; empty when nothing is.
    """

    cell_type: CellType
    counted_as: str
    factor: str
    first: str
    second: str
    units_first: int
    units_second: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    note: str


def units(results: Sequence[SlideResult], design: Design) -> list[Unit]:
    """One unit per animal and cell type; animals without searched tissue are left out."""
    found = []
    for cell_type in CELL_TYPES:
        of_type = [r for r in results if r.cell_type == cell_type]
        is_scored = any(r.positives is not None for r in of_type)
        animals = dict.fromkeys(design.slides[r.slide_id].animal for r in of_type)
        for animal in animals:
            slides = [r for r in of_type if design.slides[r.slide_id].animal == animal]
            tissue_mm2 = sum(r.searched.tissue_mm2 for r in slides)
            fat_free_mm2 = sum(r.searched.fat_free_mm2 for r in slides)
            if fat_free_mm2 <= 0.0:  # it is part of the tissue
                continue
            origin = design.slides[slides[0].slide_id]
            cells = sum(r.counted.cells for r in slides)
            densities = cells / tissue_mm2, cells / fat_free_mm2
            found.append(
                Unit(
                    animal, origin.group, origin.factors, cell_type, counted_as(is_scored), cells, *densities
                )
            )
    return found


def group_summaries(found: Sequence[Unit]) -> list[GroupSummary]:
    """Every group of every cell type, in the order of the units."""
    groups: dict[tuple[CellType, str], list[Unit]] = {}
    for unit in found:
        groups.setdefault((unit.cell_type, unit.group), []).append(unit)
    return [_summary(members) for members in groups.values()]


def _summary(members: Sequence[Unit]) -> GroupSummary:
    tissue = np.array([unit.per_mm2 for unit in members])
    fat_free = np.array([unit.per_mm2_fat_free for unit in members])
    return GroupSummary(
        cell_type=members[0].cell_type,
        counted_as=members[0].counted_as,
        group=members[0].group,
        units=len(members),
        cells=sum(unit.cells for unit in members),
        mean_per_mm2=float(tissue.mean()),
        sd_per_mm2=_sd(tissue),
        mean_per_mm2_fat_free=float(fat_free.mean()),
        sd_per_mm2_fat_free=_sd(fat_free),
    )


def _sd(values: Floats) -> float | None:
    return float(values.std(ddof=1)) if values.size > 1 else None


def comparisons(found: Sequence[Unit], design: Design) -> list[Comparison]:
    """Every pair of levels of every factor, for each cell type."""
    compared = []
    for cell_type in CELL_TYPES:
        of_type = [unit for unit in found if unit.cell_type == cell_type]
        for factor in design.factors:
            levels = sorted({unit.factors[factor] for unit in of_type})
            for first, second in itertools.combinations(levels, 2):
                pair = [unit for unit in of_type if unit.factors[factor] in (first, second)]
                compared.append(_compare(pair, factor, first, second))
    return compared


def _compare(pair: Sequence[Unit], factor: str, first: str, second: str) -> Comparison:
    values = np.array([unit.per_mm2 for unit in pair])
    is_second = np.array([unit.factors[factor] == second for unit in pair])
    interval = welch_interval(values[~is_second], values[is_second])
    notes = [] if interval else [TOO_FEW]
    p = None
    if interval and pair[0].cell_type == PRIMARY:
        strata = [tuple(v for k, v in unit.factors.items() if k != factor) for unit in pair]
        p, note = permutation_p(values, is_second, strata)
        notes += [note] if note else []
    low, high = interval or (None, None)
    return Comparison(
        cell_type=pair[0].cell_type,
        counted_as=pair[0].counted_as,
        factor=factor,
        first=first,
        second=second,
        units_first=int((~is_second).sum()),
        units_second=int(is_second.sum()),
        difference=float(values[is_second].mean() - values[~is_second].mean()),
        low=low,
        high=high,
        p=p,
        note="; ".join(notes),
    )


def welch_interval(first: Floats, second: Floats) -> tuple[float, float] | None:
    """Welch's 95 % interval of mean(second) - mean(first); None below MIN_UNITS on a side.

    Degrees of freedom after Welch (1947) and Satterthwaite (1946).
    """
    if min(first.size, second.size) < MIN_UNITS:
        return None
    parts = np.array([side.var(ddof=1) / side.size for side in (first, second)])
    difference = float(second.mean() - first.mean())
    if parts.sum() == 0.0:
        return difference, difference
    freedom = parts.sum() ** 2 / (parts[0] ** 2 / (first.size - 1) + parts[1] ** 2 / (second.size - 1))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, freedom) * math.sqrt(parts.sum()))
    return difference - reach, difference + reach


def permutation_p(
    values: Floats, is_second: NDArray[np.bool_], strata: Sequence[tuple[str, ...]]
) -> tuple[float | None, str]:
    """Exact two-sided p of the difference in means, whole units permuted within strata.

    Args:
        values: (n,) one value a unit.
        is_second: (n,) which units are of the second level.
        strata: (n) levels of all other factors; units change places within equal ones only.

    Returns:
        p and an empty note, or None and why there is none.
    """
    members = [np.flatnonzero([s == stratum for s in strata]) for stratum in sorted(set(strata))]
    sizes = [(len(m), int(is_second[m].sum())) for m in members]
    arrangements = math.prod(math.comb(n, k) for n, k in sizes)
    if arrangements > MAX_ARRANGEMENTS:
        return None, f"{arrangements:,} arrangements are too many to permute"
    sums = np.zeros(1)
    for m, (_, k) in zip(members, sizes, strict=True):
        chosen = np.array([values[list(picked)].sum() for picked in itertools.combinations(m.tolist(), k)])
        sums = (sums[:, None] + chosen[None, :]).ravel()
    count = int(is_second.sum())
    differences = np.abs(sums / count - (values.sum() - sums) / (values.size - count))
    # Rounding must not make the observed arrangement less extreme than itself.
    slack = 1e-9 * max(1.0, float(differences.max()))
    observed = abs(values[is_second].mean() - values[~is_second].mean())
    smallest = float((differences >= differences.max() - slack).mean())
    if smallest > 1.0 - CONFIDENCE:
        return None, f"no p below 0.05 can be reached with these slides (smallest {smallest:.2g})"
    return float((differences >= observed - slack).mean()), ""
