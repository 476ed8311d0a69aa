"""What a refusal advises can help, and a command that is refused changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mkhspc.budget.demand import Demand
from mkhspc.budget.workers import plan_workers
from mkhspc.config import RunConfig, load_config
from mkhspc.errors import InputError, MkhspcError, UsageError
from mkhspc.process.limits import MemoryLimit
from mkhspc.run.segment import commit_for_jobs, segment
from mkhspc.units import GB
from runs import committed, files_of

DEMAND = Demand(tiles=100, window_px=5850**2, held_bytes=200_000_000, block_bytes=12_000_000)


@pytest.mark.parametrize(
    ("asked", "gb", "helps"), [("auto", 0.5, False), (1, 0.5, False), (9, 0.5, False), (9, 3, True)]
)
def test_fewer_workers_are_advised_only_where_some_would_fit(asked: int, gb: float, helps: bool) -> None:
    with pytest.raises(UsageError) as refused:
        plan_workers(asked, DEMAND, 8, MemoryLimit(int(gb * GB), "the test"))
    assert ("fewer --num-workers" in refused.value.fix) == helps
    assert "more memory" in refused.value.fix


@pytest.mark.parametrize("command", [segment, commit_for_jobs])
@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"run.seed": 7}, InputError, "--seed is 1 there and 7 here"),
        ({"run.tile_size": 512}, InputError, "--tile-size is 4096 there and 512 here"),
        ({"mk.classifier": "gone.skops"}, InputError, "gone.skops"),
        ({"run.slides": ("gone.czi",)}, InputError, "gone.czi: this slide does not exist"),
    ],
)
def test_a_command_that_is_refused_leaves_a_run_as_it_was(
    tiny_slide: Path,
    tmp_path: Path,
    command: Callable[[RunConfig], object],
    asked: dict[str, Any],
    error: type[MkhspcError],
    words: str,
) -> None:
    layout, _, _ = committed(load_config(None, options(tiny_slide, tmp_path)))
    before = files_of(layout.root)
    with pytest.raises(error) as refused:
        command(load_config(None, options(tiny_slide, tmp_path) | {"run.sample_fraction": 0.9} | asked))
    assert words in str(refused.value)
    assert files_of(layout.root) == before


def test_segment_without_enough_memory_leaves_a_run_as_it_was(tiny_slide: Path, tmp_path: Path) -> None:
    layout, _, _ = committed(load_config(None, options(tiny_slide, tmp_path)))
    before = files_of(layout.root)
    with pytest.raises(UsageError, match="memory"):
        segment(load_config(None, options(tiny_slide, tmp_path) | {"compute.memory_gb": 0.01}))
    assert files_of(layout.root) == before


def options(slide: Path, folder: Path) -> dict[str, Any]:
    return {
        "run.slides": (str(slide),),
        "run.output_dir": str(folder / "run"),
        "run.seed": 1,
        "run.sample_fraction": 0.5,
    }
