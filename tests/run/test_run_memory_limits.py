from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memorylimits import CHANNELS, Channel, Trial, drawn_trials
from mkhspc.budget.demand import WORKER_BYTES, Demand
from mkhspc.budget.sufficient import refuse_shortage
from mkhspc.budget.survey_memory import mask_px, survey_bytes
from mkhspc.budget.workers import PARENT_BYTES
from mkhspc.config import RunConfig
from mkhspc.errors import UsageError
from mkhspc.process.limits import MemoryLimit
from mkhspc.run.opening.pending import PendingRun, pending_run
from mkhspc.store.manifest import SceneEntry, SlideEntry
from mkhspc.units import GB, MIB

RUNS = 10

SURVEY = """
import sys
from dataclasses import replace
import mkhspc.cli
from mkhspc.config import RunConfig
from mkhspc.budget.survey_memory import survey_bytes
from mkhspc.process.memory import peak_bytes
from mkhspc.run.opening.pending import pending_run
import mkhspc.run.segment
base = RunConfig()
config = replace(base, run=replace(base.run, slides=(sys.argv[1],), output_dir=sys.argv[2]))
with pending_run(config) as pending:
    (slide,) = pending.unplanned()
    pending.tile_plan(slide.slide_id)
    print(peak_bytes(), survey_bytes(slide, config.run.calibration_samples))
"""


def slide_of(*scenes_px: tuple[int, int], um_per_px: float = 0.22) -> SlideEntry:
    scenes = tuple(SceneEntry(n, width, height) for n, (width, height) in enumerate(scenes_px))
    return SlideEntry("S", "s.czi", 1, "", um_per_px, scenes, "S01")


def limit(limit_bytes: float) -> MemoryLimit:
    return MemoryLimit(int(limit_bytes), "the test")


@pytest.mark.slow
def test_runs_stay_below_random_limits_or_are_refused_up_front(
    small_slides: dict[str, Path], tiny_slide: Path, tmp_path: Path
) -> None:
    slides = [tiny_slide, *small_slides.values()]
    verdicts = [
        trial.run(tmp_path / str(nth)) for nth, trial in enumerate(drawn_trials(slides, RUNS, seed=0))
    ]
    for verdict in verdicts:
        assert verdict.is_refused or (verdict.exit_code == 0 and verdict.parts), str(verdict)
        assert not verdict.is_above, str(verdict)
    assert {v.exit_code for v in verdicts} == {0, 2}, "the limits must fit some runs and not others"


@pytest.mark.parametrize("channel", CHANNELS)
def test_too_little_for_the_survey_is_refused_before_anything_is_written(
    tiny_slide: Path, tmp_path: Path, channel: Channel
) -> None:
    verdict = Trial(tiny_slide, channel, 200 * MIB, "auto").run(tmp_path)
    assert verdict.exit_code == 2
    assert "needs at least 0.4 GB of memory and the limit is 0.21 GB" in verdict.measured.process.stderr
    assert not verdict.root.exists()


@pytest.mark.slow
def test_the_number_that_a_refusal_names_is_enough(tiny_slide: Path, tmp_path: Path) -> None:
    too_little = Trial(tiny_slide, "--memory-gb", 360 * MIB, 1).run(tmp_path / "little")
    assert too_little.is_refused, str(too_little)
    enough = Trial(tiny_slide, "--memory-gb", round(too_little.needed_gb * GB), 1).run(tmp_path / "enough")
    assert enough.exit_code == 0, str(enough)
    assert not enough.is_above, str(enough)


@pytest.mark.slow
def test_a_refusal_before_the_survey_names_a_memory_that_does(tiny_slide: Path, tmp_path: Path) -> None:
    refused = Trial(tiny_slide, "--memory-gb", 100 * MIB, 1).run(tmp_path / "little")
    said = re.search(r"give it more memory: ([0-9.]+) GB will do", refused.measured.process.stderr)
    assert said, str(refused)
    enough = Trial(tiny_slide, "--memory-gb", round(float(said.group(1)) * GB), 1).run(tmp_path / "enough")
    assert enough.exit_code == 0, str(enough)
    assert not enough.is_above, str(enough)


@pytest.mark.parametrize("name", ["tiny_slide", pytest.param("wide_slide", marks=pytest.mark.slow)])
def test_a_survey_takes_no_more_than_was_thought(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    slide = request.getfixturevalue(name)
    words = [sys.executable, "-c", SURVEY, str(slide), str(tmp_path / "run")]
    peak, thought = map(int, subprocess.run(words, capture_output=True, check=True).stdout.split())
    assert peak <= thought <= 2 * peak


def test_a_survey_takes_more_for_more_tissue_to_look_at() -> None:
    small, large = slide_of((600, 600)), slide_of((120_000, 180_000))
    assert survey_bytes(small, 100) < 0.25 * GB < 1 * GB < survey_bytes(large, 100)
    assert survey_bytes(slide_of((30_000, 30_000), (30_000, 30_000)), 100) > survey_bytes(
        slide_of((30_000, 30_000)), 100
    )


@pytest.fixture
def unplanned(tiny_slide: Path, tmp_path: Path) -> Iterator[PendingRun]:
    """The run of the tiny slide, opened and not surveyed."""
    base = RunConfig()
    run = replace(base.run, slides=(str(tiny_slide),), output_dir=str(tmp_path / "run"))
    with pending_run(replace(base, run=run)) as pending:
        yield pending


def test_what_a_worker_needs_at_least_is_asked_for_at_once(unplanned: PendingRun) -> None:
    least_bytes = (PARENT_BYTES + WORKER_BYTES) / 0.95
    refuse_shortage(unplanned.unplanned(), unplanned.manifest, limit(least_bytes + 1), 0)
    with pytest.raises(UsageError, match=r"needs at least 0\.4 GB of memory .* set by the test"):
        refuse_shortage(unplanned.unplanned(), unplanned.manifest, limit(least_bytes - 2), 0)


def test_the_masks_of_a_large_slide_count_for_each_worker() -> None:
    slide = slide_of((100_000, 200_000), (1000, 1000), um_per_px=0.1725)  # 24 pixels to a mask pixel
    assert mask_px(slide) == 4167 * 8334 + 42 * 42
    bare, masked = Demand(1, 10**6, 0, 0), Demand(1, 10**6, 0, 0, mask_px=mask_px(slide))
    assert masked.worker_bytes - bare.worker_bytes == 3 * mask_px(slide)


def test_slides_that_are_planned_need_no_survey(unplanned: PendingRun) -> None:
    refuse_shortage([], unplanned.manifest, limit(1), 0)
