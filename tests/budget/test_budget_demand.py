from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mkhspc.budget.demand import RGB_BYTES_PER_PX, WORKER_BYTES, Demand
from mkhspc.budget.workers import layout_of, plan_workers
from mkhspc.config import CELL_TYPES, RunConfig
from mkhspc.detect.cellpose import CANVAS_BLOCKS, MARGIN_PX, STEP_PX
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.detect.classical.mk import block_count
from mkhspc.detect.sam2 import Sam2Mk
from mkhspc.errors import UsageError
from mkhspc.measure.analysis import TileAnalysis
from mkhspc.measure.embed import MAX_ASKED
from mkhspc.models.cellpose import BLOCK_PX
from mkhspc.models.embedders import INPUT_SIDE_PX
from mkhspc.models.service import MESSAGE_BYTES, NoModels
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit
from mkhspc.units import GB

DEMAND = Demand(tiles=100, window_px=5850**2, held_bytes=200_000_000, block_bytes=12_000_000)


def limit(gb: float) -> MemoryLimit:
    return MemoryLimit(int(gb * GB), "the test")


def test_auto_takes_the_cores_where_memory_allows() -> None:
    assert plan_workers("auto", DEMAND, 8, limit(1000)).workers == 8


def test_auto_takes_fewer_where_it_does_not() -> None:
    budget = plan_workers("auto", DEMAND, 64, limit(16))
    assert 1 < budget.workers < 64
    assert budget.peak_bytes <= 16 * GB * SAFE_SHARE
    assert layout_of(DEMAND, budget.workers + 1, limit(16)).peak_bytes > 16 * GB * SAFE_SHARE


def test_more_workers_than_tiles_are_no_use() -> None:
    few = Demand(tiles=3, window_px=1000, held_bytes=0, block_bytes=1000)
    assert plan_workers("auto", few, 8, limit(64)).workers == 3
    assert plan_workers(16, few, 8, limit(64)).workers == 3


@pytest.mark.parametrize("asked", ["auto", 1, 12])
def test_what_does_not_fit_is_refused_with_a_number_that_would(asked: int | Literal["auto"]) -> None:
    with pytest.raises(UsageError, match=r"the limit is 0\.5 GB, set by the test") as caught:
        plan_workers(asked, DEMAND, 8, limit(0.5))
    needed = re.search(r"need ([0-9.]+) GB", str(caught.value))
    assert needed
    budget = plan_workers(asked, DEMAND, 8, limit(float(needed.group(1))))
    assert budget.workers == (1 if asked == "auto" else asked)


@given(st.integers(1, 200), st.floats(0.1, 500), st.integers(1, 128))
def test_a_plan_is_never_above_the_limit(tiles: int, gb: float, cores: int) -> None:
    demand = Demand(tiles, 5850**2, 300_000_000, 15_000_000)
    try:
        budget = plan_workers("auto", demand, cores, limit(gb))
    except UsageError:
        assert layout_of(demand, 1, limit(gb)).peak_bytes > SAFE_SHARE * gb * GB - 1
    else:
        assert budget.peak_bytes <= SAFE_SHARE * gb * GB
        assert 1 <= budget.workers <= min(cores, tiles)
        assert budget.workers <= budget.slots <= max(tiles, budget.workers)


@pytest.mark.parametrize(
    ("um_per_px", "window_px", "near_px", "needed_bytes"),
    [
        (0.22, 5520**2, 4806**2, 116e6),
        (0.30, 5142**2, 4616**2, 225e6),
        (0.30, 3094**2, 2568**2, 88e6),
        (0.50, 2162**2, 1848**2, 53e6),
        (0.30, 3330**2, 1546**2, 85e6),
    ],
)
def test_what_finding_cells_takes_is_planned_with(
    um_per_px: float, window_px: int, near_px: int, needed_bytes: float
) -> None:
    """As measured on dense marrow beyond the window's own pixels; the last row with MK by SAM2."""
    blocks = block_count(window_px, um_per_px)
    demand = Demand(9, window_px, 0, 0, near_px=near_px, blocks=blocks)
    assert demand.worker_bytes - WORKER_BYTES - RGB_BYTES_PER_PX * window_px >= 0.95 * needed_bytes


def test_messages_to_a_model_server_are_planned_with() -> None:
    alone, owned = DEMAND, replace(DEMAND, server_bytes=1)
    more = layout_of(owned, 3, limit(64)).peak_bytes - layout_of(alone, 3, limit(64)).peak_bytes
    assert more == 3 * MESSAGE_BYTES + 1


def test_the_crops_that_an_embedder_is_asked_about_fit_into_what_is_planned_for_a_message() -> None:
    assert MAX_ASKED * 3 * INPUT_SIDE_PX**2 <= MESSAGE_BYTES


@pytest.mark.parametrize(("um_per_px", "is_more"), [(0.22, False), (0.08, True)])
def test_a_window_of_sam2_is_planned_with_where_it_is_the_largest_message(
    um_per_px: float, is_more: bool
) -> None:
    stored = {t: RunConfig().stored(t) for t in CELL_TYPES}
    classical = {"mk": ClassicalMk(), "hspc": ClassicalHspc()}
    mk_by_sam2 = Sam2Mk(NoModels(), "w", stored["mk"].max_length_um)
    asking = TileAnalysis({**classical, "mk": mk_by_sam2}, stored), TileAnalysis(classical, stored, ("sam2",))
    assert TileAnalysis(classical, stored).message_bytes(um_per_px) == MESSAGE_BYTES
    for analysis in asking:
        assert (analysis.message_bytes(um_per_px) > MESSAGE_BYTES) == is_more


def test_the_largest_canvas_of_cellpose_fits_into_what_is_planned_for_a_message() -> None:
    most_fields = (math.isqrt(CANVAS_BLOCKS) - 1) ** 2  # a square canvas has most of them
    labels_bytes = most_fields * (STEP_PX + 2 * MARGIN_PX) ** 2 * np.dtype(np.int32).itemsize
    assert max(labels_bytes, CANVAS_BLOCKS * 3 * BLOCK_PX**2) <= MESSAGE_BYTES
