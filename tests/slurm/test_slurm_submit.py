"""`mkhspc slurm` on small slides; stand-ins for sbatch and scancel write down what they are told."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mkhspc.budget import sufficient
from mkhspc.budget.demand import room_bytes
from mkhspc.budget.survey_memory import ImageSizes
from mkhspc.cli import run_command
from mkhspc.cluster import jobs
from mkhspc.config import load_config
from mkhspc.slide.czi.directory import read_directory
from mkhspc.store import atomic, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.units import GB
from processes import mkhspc
from runs import committed

pytestmark = pytest.mark.slow

STUDY = """
[run]
output_dir = "run"
slides = {slides}
tile_size = 512
[compute]
num_workers = 1
[slurm]
shards_per_slide = 2
{slurm}
"""


def write_study(tmp_path: Path, slides: dict[str, Path], slurm: str = "") -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(slides=json.dumps([str(p) for p in slides.values()]), slurm=slurm))
    return path


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an sbatch that refuses one job, and a scancel, in the place of PATH; returns what they heard."""

    def install(refused: str = "", cancel_code: int = 0) -> Path:
        heard, folder = tmp_path / "heard", tmp_path / "bin"
        folder.mkdir()
        heard.touch()
        tools = {
            "sbatch": (
                f'echo "sbatch $*" >>{heard}',
                f'[[ "$*" != *{refused or "nothing"}.sbatch ]] || {{',
                '  echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1; }',
                f"mapfile -t jobs <{heard}",
                'echo "$((99 + ${#jobs[@]}));one"',
            ),
            "scancel": (f'echo "scancel $*" >>{heard}', f"exit {cancel_code}"),
        }
        for name, lines in tools.items():
            (folder / name).write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return heard

    return install


def submitted(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`mkhspc slurm --submit` in this process: many tests, and each start takes a second."""
    out, err = io.StringIO(), io.StringIO()
    words = ["slurm", "--config", str(config), "--out", str(config.parent / "jobs"), "--submit", *more]
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("gpus", [0, 2])
def test_gpus_that_no_model_would_use_are_reported(
    small_slides: dict[str, Path], tmp_path: Path, fake_slurm, gpus: int
) -> None:
    fake_slurm()
    done = submitted(write_study(tmp_path, small_slides, f"gpus = {gpus}"))
    assert done.returncode == 0, done.stderr
    assert ("2 GPUs of each task would stand idle" in done.stderr) == bool(gpus)


def test_it_writes_the_files_and_freezes_the_run(small_slides: dict[str, Path], tmp_path: Path) -> None:
    config = write_study(tmp_path, small_slides)
    done = mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs")
    assert done.returncode == 0, done.stderr
    files = [str(tmp_path / "jobs" / f"{job}.sbatch") for job in ("segment", "merge", "gallery")]
    assert done.stdout.splitlines()[:3] == files
    assert "4 tasks" in done.stdout
    assert sorted(map(str, (tmp_path / "jobs").iterdir())) == sorted(files)
    manifest = manifests.read(RunLayout(tmp_path / "run"))
    assert [slide.slide_id for slide in manifest.slides] == list(small_slides)
    text = Path(files[0]).read_text()
    assert "  'DEMO_A 0/2'\n  'DEMO_A 1/2'\n  'DEMO_B 0/2'\n  'DEMO_B 1/2'\n" in text


def test_each_job_is_submitted_after_the_one_it_needs(
    small_slides: dict[str, Path], tmp_path: Path, fake_slurm
) -> None:
    heard = fake_slurm()
    done = submitted(write_study(tmp_path, small_slides))
    assert (done.returncode, done.stdout) == (0, "segment=100 merge=101 gallery=102\n"), done.stderr
    jobs = tmp_path / "jobs"
    assert heard.read_text().splitlines() == [
        f"sbatch --parsable {jobs}/segment.sbatch",
        f"sbatch --parsable --dependency=afterany:100 {jobs}/merge.sbatch",
        f"sbatch --parsable --dependency=afterok:101 {jobs}/gallery.sbatch",
    ]
    note = json.loads((tmp_path / "run" / "logs" / "slurm-100.jsonl").read_text())
    assert note["tasks"] == ["DEMO_A 0/2", "DEMO_A 1/2", "DEMO_B 0/2", "DEMO_B 1/2"]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_jobs_that_are_queued_are_reported_before_a_full_disk_refuses_their_note(
    small_slides: dict[str, Path], tmp_path: Path, fake_slurm, monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    write_text = atomic.write_text

    def full(path: Path, text: str) -> None:
        if path.suffix == ".jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_text(path, text)

    monkeypatch.setattr(atomic, "write_text", full)
    fake_slurm()
    done = submitted(write_study(tmp_path, small_slides), *more)
    assert done.returncode == 3
    assert all(job in done.stdout for job in ("segment", "100", "merge", "101", "gallery", "102"))
    assert "No space left on device" in done.stderr
    assert "scancel 100 101 102" in done.stderr


def test_memory_follows_the_largest_image_of_the_slides(
    small_slides: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_study(tmp_path, small_slides))
    _, manifest, _ = committed(config, jobs_gpus=0)
    blocks = [b for path in small_slides.values() for b in read_directory(path).level_0]
    largest = max(3 * b.box.width * b.box.height for b in blocks)
    assert max(found.unpacked_bytes for found in sufficient.images_of(manifest)) == largest < 13_000_000
    before = sufficient.sufficient_memory_gb(manifest, 2, servers=1)
    monkeypatch.setattr(sufficient, "image_sizes", lambda slide: ImageSizes(588_000_000, 1))
    assert sufficient.sufficient_memory_gb(manifest, 2, servers=1) >= before + 2, (
        "several of 588 MB are decoded ahead"
    )


def test_a_wide_slide_gets_the_memory_to_be_decoded_once(
    small_slides: dict[str, Path], tmp_path: Path
) -> None:
    config = load_config(write_study(tmp_path, small_slides))
    _, manifest, _ = committed(config, jobs_gpus=0)
    (first, *others) = manifest.slides
    scene = replace(first.scenes[0], width_px=50_000, height_px=50_000)
    wide = replace(manifest, slides=(replace(first, scenes=(scene,)), *others))
    given = jobs._task_memory_gb(config, wide)
    assert room_bytes(int(given * GB)) >= jobs.ROOM_OF_WIDE_BYTES
    assert jobs._task_memory_gb(config, manifest) < given
    less = replace(config, slurm=replace(config.slurm, memory_gb=given - 1))
    assert jobs._task_memory_gb(less, wide) == given - 1, "whoever names less may: it fits"


def test_a_task_gets_as_many_cpus_as_have_work_in_its_memory(
    small_slides: dict[str, Path], tmp_path: Path
) -> None:
    config = load_config(write_study(tmp_path, small_slides))
    _, manifest, _ = committed(config, jobs_gpus=0)

    def cpus(workers: int | Literal["auto"] = "auto", **asked: Any) -> int:
        changed = replace(config, slurm=replace(config.slurm, **{"cpus": "auto", **asked}))
        return jobs.task_cpus(
            replace(changed, compute=replace(config.compute, num_workers=workers)), manifest
        )

    assert cpus() == jobs.USUAL_CPUS
    assert cpus(cpus=3) == 3
    assert cpus(12) == 12
    manifest = replace(
        manifest, config=replace(manifest.config, run=replace(manifest.config.run, tile_size=4096))
    )
    needed_gb = {
        workers: sufficient.sufficient_memory_gb(manifest, workers, servers=1) for workers in range(1, 8)
    }
    most_in_3_gb = max(workers for workers, gb in needed_gb.items() if gb <= 3)
    assert 1 < most_in_3_gb < 7
    assert [cpus(memory_gb=float(gb)) for gb in (1, 3, 1000)] == [1, most_in_3_gb, jobs.USUAL_CPUS]


def test_a_slide_that_is_gone_and_not_asked_for_is_not_looked_at(
    small_slides: dict[str, Path], tiny_slide: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "GONE.czi"
    gone.write_bytes(tiny_slide.read_bytes())
    config = write_study(tmp_path, {**small_slides, "GONE": gone})
    assert mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs").returncode == 0
    gone.unlink()
    done = mkhspc("slurm", "--config", write_study(tmp_path, small_slides), "--out", tmp_path / "jobs")
    assert done.returncode == 0, done.stderr


def test_json_holds_the_ids(small_slides: dict[str, Path], tmp_path: Path, fake_slurm) -> None:
    fake_slurm()
    facts = json.loads(submitted(write_study(tmp_path, small_slides), "--json").stdout)
    assert (facts["tasks"], facts["segment"], facts["merge"], facts["gallery"]) == (4, "100", "101", "102")


@pytest.mark.parametrize(
    ("refused", "cancel_code", "undone"),
    [
        ("segment", 0, "nothing was submitted"),
        ("merge", 0, "cancelled 100"),
        ("gallery", 0, "cancelled 100, 101"),
        ("gallery", 1, "now type: scancel 100 101"),
    ],
)
def test_a_chain_that_is_refused_leaves_nothing_queued(
    small_slides: dict[str, Path], tmp_path: Path, fake_slurm, refused: str, cancel_code: int, undone: str
) -> None:
    heard = fake_slurm(refused, cancel_code)
    done = submitted(write_study(tmp_path, small_slides))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{refused}.sbatch" in done.stderr
    assert "invalid partition specified: gpuu" in done.stderr
    assert undone in done.stderr
    queued = {"segment": [], "merge": ["100"], "gallery": ["100", "101"]}[refused]
    told = [line for line in heard.read_text().splitlines() if line.startswith("scancel")]
    assert told == ([f"scancel {' '.join(queued)}"] if queued else [])
    assert not (tmp_path / "run" / "logs").exists()


def test_without_sbatch_nothing_is_begun_and_it_says_what_to_do(
    small_slides: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_study(tmp_path, small_slides)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = submitted(config)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no sbatch" in done.stderr
    assert "login node" in done.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    ("slurm", "complaint"),
    [
        ("cpus = 0", "slurm.cpus is 0; it must be 'auto' or at least 1"),
        ("extra = ['qos=long']", "slurm.extra: 'qos=long' cannot be given here"),
        ('memory_gb = "lots"', "slurm.memory_gb is 'lots'; it must be 'auto' or a number above 0 GB"),
        ("patrition = 'gpu'", "unknown key in [slurm] 'patrition'"),
        ("[mk]\nclassifier = 'mk.skops'", "mk.skops"),
    ],
)
def test_a_wrong_setting_is_refused_before_there_is_a_run(
    small_slides: dict[str, Path], tmp_path: Path, slurm: str, complaint: str
) -> None:
    config = write_study(tmp_path, small_slides, slurm)
    done = mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs")
    assert done.returncode == 3
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "jobs").exists()


def test_too_little_memory_is_refused_with_what_is_needed(
    small_slides: dict[str, Path], tmp_path: Path
) -> None:
    config = write_study(tmp_path, small_slides, "memory_gb = 0.2")
    done = mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs")
    assert done.returncode == 3
    assert "this study needs 1 GB" in done.stderr or "this study needs 2 GB" in done.stderr
    assert not (tmp_path / "jobs").exists()


def test_a_damaged_slide_is_reported_before_anything_is_queued(
    small_slides: dict[str, Path], tmp_path: Path, fake_slurm
) -> None:
    heard = fake_slurm()
    cut = tmp_path / "CUT.czi"
    cut.write_bytes(small_slides["DEMO_A"].read_bytes()[:100_000])
    done = submitted(write_study(tmp_path, {**small_slides, "CUT": cut}))
    assert done.returncode == 3
    assert "CUT.czi" in done.stderr
    assert heard.read_text() == ""


# --- `segment --only`: what a task of the array does


def segment_only(config: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return mkhspc("segment", "--config", config, *more)


@pytest.fixture
def planned(small_slides: dict[str, Path], tmp_path: Path) -> Path:
    """A study with its run created, as it is when the first task begins; its slides can be damaged."""
    copies = {s: tmp_path / path.name for s, path in small_slides.items()}
    for slide_id, path in copies.items():
        path.write_bytes(small_slides[slide_id].read_bytes())
    config = write_study(tmp_path, copies)
    done = mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs")
    assert done.returncode == 0, done.stderr
    return config


def test_work_on_one_slide_leaves_the_manifest_as_it_is(planned: Path) -> None:
    layout = RunLayout(planned.parent / "run")
    before = layout.manifest.read_bytes()
    done = segment_only(planned, "--only", "DEMO_B", "--shard", "0/20")
    assert done.returncode == 0, done.stderr
    assert layout.manifest.read_bytes() == before
    assert not layout.plan("DEMO_A").exists()
    assert len(layout.finished_tiles("DEMO_B")) == 1


def test_an_empty_shard_is_no_fault(planned: Path) -> None:
    done = segment_only(planned, "--only", "DEMO_A", "--shard", "999/1000")
    assert done.returncode == 0, done.stderr
    assert RunLayout(planned.parent / "run").finished_tiles("DEMO_A") == set()


def test_one_bad_slide_does_not_stop_the_others_and_the_merge_names_it(planned: Path) -> None:
    with (planned.parent / "DEMO_B.czi").open("r+b") as file:
        file.truncate(100_000)
    assert segment_only(planned, "--only", "DEMO_B", "--shard", "0/1").returncode == 3
    done = segment_only(planned, "--only", "DEMO_A", "--shard", "0/3")
    assert done.returncode == 0, done.stderr
    merged = mkhspc("merge", planned.parent / "run")
    assert merged.returncode == 4
    assert "no tile of DEMO_B was begun" in merged.stderr
    assert "4 tiles are missing: DEMO_A/s0_" in merged.stderr
    assert not (planned.parent / "run" / "cells").exists()


def test_a_slide_that_the_study_does_not_have_is_wrong_usage(planned: Path) -> None:
    done = segment_only(planned, "--only", "DEMO_X")
    assert done.returncode == 2
    assert "there is no slide 'DEMO_X'" in done.stderr
    assert "there are: DEMO_A, DEMO_B" in done.stderr
