"""What a plan says of models: their memory, their batches, and a machine with other GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from mkhspc.budget.forecast import FirstTile, _tiles_s, machine_for
from mkhspc.budget.sufficient import sufficient_memory_gb
from mkhspc.budget.workers import Budget
from mkhspc.config import load_config
from mkhspc.process.limits import MemoryLimit
from mkhspc.run import plan as planning
from mkhspc.run.plan import plan_run
from processes import mkhspc
from runs import committed

PACKAGED = "efficientnet-lite0"
SERVER_BYTES = 650_000_000
"""What the catalogue's estimate says of it."""


def planned(slide: Path, *more: object) -> dict[str, Any]:
    done = mkhspc("plan", "--czi-path", slide, "--tile-size", 512, "--memory-gb", 20, "--json", *more)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.models
@pytest.mark.slow
def test_a_plan_counts_the_model_servers_and_says_what_they_do_at_once(tiny_slide: Path) -> None:
    need("torch")
    without = planned(tiny_slide)
    assert (without["devices"], without["batch"], without["owner_bytes"]) == (0, {}, 0)
    here = planned(tiny_slide, "--embedder", PACKAGED, "--device", "cpu")
    assert (here["devices"], here["batch"], here["too_large"]) == (1, {PACKAGED: 8}, [])
    assert SERVER_BYTES <= here["owner_bytes"] < 2 * SERVER_BYTES
    assert 0 < here["first_tile"]["models_s"] <= here["first_tile"]["seconds"]
    there = planned(tiny_slide, "--embedder", PACKAGED, "--gpus", 2, "--gpu-memory-gb", 1)
    assert (there["devices"], there["batch"], there["too_large"]) == (2, {PACKAGED: 64}, [PACKAGED])
    assert there["owner_bytes"] >= 2 * SERVER_BYTES
    for plan in (without, here, there):
        assert plan["peak_bytes"] > plan["owner_bytes"]
        assert [option["workers"] for option in plan["options"]] == [8, 12, 16]
    for a, b in zip(without["options"], there["options"], strict=True):
        assert b["peak_bytes"] - a["peak_bytes"] >= 2 * SERVER_BYTES - 50_000_000


@pytest.mark.slow
def test_a_plan_says_that_gpus_would_stand_idle(tiny_slide: Path) -> None:
    detectors = ("--mk-detector", "classical", "--hspc-detector", "classical")
    words = ("plan", "--czi-path", tiny_slide, "--tile-size", 512, *detectors)
    assert "GPUs        2 would stand idle" in mkhspc(*words, "--gpus", 2, "--gpu-memory-gb", 40).stdout
    assert "idle" not in mkhspc(*words).stdout


@pytest.mark.models
def test_a_plan_for_another_machine_may_name_its_devices(tiny_slide: Path) -> None:
    need("torch")
    found = planned(tiny_slide, "--embedder", PACKAGED, "--gpus", 1, "--device", "cuda:0")
    assert (found["devices"], found["first_tile"]["device"]) == (1, "cpu")
    assert found["batch"] == {PACKAGED: 256}, "of that machine's GPU nothing is known"


@pytest.mark.parametrize("gpus", [None, 0, 2])
def test_detectors_are_chosen_for_the_gpus_of_the_machine_meant(
    tiny_slide: Path, monkeypatch: pytest.MonkeyPatch, gpus: int | None
) -> None:
    class SeenError(Exception):
        pass

    def seen(*_: object, jobs_gpus: int | None, **__: object) -> None:
        assert jobs_gpus == gpus
        raise SeenError

    monkeypatch.setattr(planning, "pending_run", seen)
    with pytest.raises(SeenError):
        plan_run(load_config(None, {"run.slides": (str(tiny_slide),)}), machine_for(20, gpus=gpus))


def first_tile(seconds: float, models_s: float) -> FirstTile:
    return FirstTile("a/s0_0_0", 1.0, seconds, models_s, 1.0, 1, 1, 1, "cpu", 1, {}, {})


@pytest.mark.parametrize(
    ("seconds", "models_s", "read_s", "workers", "cores", "devices", "expected"),
    [
        (8.0, 0.0, 0.0, 4, 4, 0, 2.0),
        (8.0, 0.0, 0.0, 8, 4, 0, 2.0),  # no more than the cores
        (8.0, 6.0, 0.0, 8, 8, 1, 6.0),  # the device is slowest
        (8.0, 6.0, 0.0, 8, 8, 2, 3.0),
        (8.0, 6.0, 0.0, 1, 8, 2, 8.0),  # one worker waits for every answer
        (8.0, 0.0, 3.0, 4, 16, 0, 3.0),  # reading is slowest: one thread for four workers
        (8.0, 0.0, 3.0, 8, 16, 0, 1.5),  # and two for eight
        (8.0, 0.0, 2.0, 2, 2, 0, 5.0),  # the thread that reads takes its time from the workers
    ],
)
def test_tiles_come_as_fast_as_the_slowest_of_workers_readers_cores_and_devices(
    seconds: float, models_s: float, read_s: float, workers: int, cores: int, devices: int, expected: float
) -> None:
    budget = Budget(workers, workers, -(-workers // 4), 1, MemoryLimit(1, "the test"))
    found = _tiles_s(first_tile(seconds, models_s), 10, 10 * read_s, budget, cores, devices)
    assert found == pytest.approx(10 * expected)


@pytest.mark.usefixtures("torch")
def test_a_job_asks_for_the_memory_of_its_model_servers_too(tiny_slide: Path, tmp_path: Path) -> None:
    def needed_gb(gpus: int, embedder: str) -> int:
        options = {
            "run.output_dir": str(tmp_path / f"{gpus}-{embedder}"), "run.slides": (str(tiny_slide),),
            "run.tile_size": 512, "compute.embedder": embedder, "slurm.gpus": gpus,
        }  # fmt: skip
        config = load_config(None, options)
        _, manifest, _ = committed(config, jobs_gpus=gpus)
        return sufficient_memory_gb(manifest, 2, servers=max(1, gpus))

    assert needed_gb(0, "none") < needed_gb(0, PACKAGED) < needed_gb(4, PACKAGED)
