"""What `plan` says of workers, memory and time is what `segment` then does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from mkhspc.budget.demand import Demand
from mkhspc.budget.forecast import Machine, _option, _workers
from mkhspc.budget.survey_memory import survey_bytes
from mkhspc.budget.workers import plan_workers
from mkhspc.config import RunConfig, load_config
from mkhspc.errors import UsageError
from mkhspc.process.limits import SAFE_SHARE, MemoryLimit
from mkhspc.run.job import plan_job
from mkhspc.run.plan import plan_run
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import chosen_tiles
from mkhspc.units import GB
from runs import committed

TILE_PX, TILES = 256, 9


def is_accepted(asked: int, demand: Demand, limit: MemoryLimit) -> bool:
    try:
        return plan_workers(asked, demand, 1, limit).workers == min(asked, demand.tiles)
    except UsageError:
        return False


demands = st.builds(
    Demand,
    tiles=st.integers(1, 60),
    window_px=st.integers(10**4, 4 * 10**7),
    held_bytes=st.integers(0, 10**9),
    block_bytes=st.integers(10**5, 10**8),
    server_bytes=st.integers(0, 10**9),
)


@given(demands, st.integers(10**8, 10**11))
def test_workers_that_a_plan_says_fit_are_those_that_segment_begins_with(
    demand: Demand, limit_bytes: int
) -> None:
    limit = MemoryLimit(limit_bytes, "the test")
    said = [_option(demand, n, limit).fits for n in range(1, 25)]
    assert said == [is_accepted(n, demand, limit) for n in range(1, 25)]


@given(demands, st.integers(10**9, 10**11), st.integers(1, 32), st.sampled_from(["auto", 1, 3, 9]))
def test_a_plan_is_refused_where_segment_is(
    demand: Demand, limit_bytes: int, cores: int, asked: int | Literal["auto"]
) -> None:
    limit = MemoryLimit(limit_bytes, "the test")
    base = RunConfig()
    config = replace(base, compute=replace(base.compute, num_workers=asked))
    try:
        begun_with = plan_workers(asked, demand, cores, limit).workers
    except UsageError:
        with pytest.raises(UsageError):
            _workers(config, demand, demand, Machine(cores, limit))
        return
    small = demand.measured(demand.worker_bytes // 4, demand.server_bytes)
    large = demand.measured(4 * demand.worker_bytes, demand.server_bytes)
    fewer, more = (_workers(config, demand, found, Machine(cores, limit)) for found in (large, small))
    if asked == "auto":
        assert 1 <= fewer <= begun_with <= more <= cores
    else:
        assert fewer == begun_with == more


@pytest.fixture
def study(tiny_slide: Path, tmp_path: Path) -> RunConfig:
    options = {
        "run.output_dir": str(tmp_path / "run"), "run.slides": (str(tiny_slide),),
        "run.tile_size": TILE_PX, "compute.num_workers": 2,
    }  # fmt: skip
    return load_config(None, options)


def test_the_options_of_a_forecast_are_accepted_or_refused_by_the_run(study: RunConfig) -> None:
    layout, manifest, (slide_id,) = committed(study)
    tiles = {slide_id: chosen_tiles(manifest, slide_id, prepare_tile_plan(layout, manifest, slide_id))}
    assert len(tiles[slide_id]) == TILES
    ample = MemoryLimit(100 * GB, "the test")
    eight, nine = (
        plan_job(manifest, tiles, replace(study.compute, num_workers=n), ample).budget.peak_bytes
        for n in (8, 9)
    )
    limit = MemoryLimit(int((eight + nine) / 2 / SAFE_SHARE), "the test")
    found = plan_run(study, Machine(2, limit))
    assert [option.fits for option in found.options] == [True, False, False]
    for option in found.options:
        compute = replace(study.compute, num_workers=option.workers)
        if option.fits:
            assert plan_job(manifest, tiles, compute, limit).budget.peak_bytes == option.peak_bytes
        else:
            with pytest.raises(UsageError, match=f"{TILES} workers would need"):
                plan_job(manifest, tiles, compute, limit)


def test_the_time_of_reading_is_measured_on_the_first_tile(study: RunConfig) -> None:
    first = plan_run(study, Machine(2, MemoryLimit(4 * GB, "the test"))).first_tile
    assert 0 < first.read_s < 60
    assert first.read_bytes == 3 * 636 * 591, "both sub-blocks of the slide meet its window"


def test_a_survey_that_does_not_fit_is_refused_before_it_is_made(
    study: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the slide was surveyed")

    monkeypatch.setattr("mkhspc.slide.survey.tissue_by_scene", never)
    _, manifest, _ = committed(study)
    needed = survey_bytes(manifest.slides[0], manifest.config.run.calibration_samples)
    with pytest.raises(UsageError, match="the run needs at least"):
        plan_run(study, Machine(2, MemoryLimit(needed // 2, "the test")))
