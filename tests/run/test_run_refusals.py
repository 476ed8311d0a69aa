"""What a refusal advises can help."""

from __future__ import annotations

import pytest

from mkhspc.budget.demand import Demand
from mkhspc.budget.workers import plan_workers
from mkhspc.errors import UsageError
from mkhspc.process.limits import MemoryLimit
from mkhspc.units import GB

DEMAND = Demand(tiles=100, window_px=5850**2, held_bytes=200_000_000, block_bytes=12_000_000)


@pytest.mark.parametrize(
    ("asked", "gb", "helps"), [("auto", 0.5, False), (1, 0.5, False), (9, 0.5, False), (9, 3, True)]
)
def test_fewer_workers_are_advised_only_where_some_would_fit(asked: int, gb: float, helps: bool) -> None:
    with pytest.raises(UsageError) as refused:
        plan_workers(asked, DEMAND, 8, MemoryLimit(int(gb * GB), "the test"))
    assert ("fewer --num-workers" in refused.value.fix) == helps
    assert "more memory" in refused.value.fix
