"""Studies on a real Slurm of one node: real sbatch, real jobs, real deaths."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import skip_or_fail
from mkhspc.cluster.sacct import FIELDS, parse_sacct
from mkhspc.cluster.shard import Shard
from mkhspc.slide.tiles import TilePlan, load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc
from slurmcluster import NotInstalledError, put_right, running_slurm, slurm, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

HERE = Path(__file__).parent
STUDY = """
[run]
output_dir = "the run"
slides = ["slides/*.czi"]
tile_size = 512
[compute]
num_workers = 1
[gallery]
title = {title}
[slurm]
cpus = 1
{slurm}
"""
HOSTILE_JOBS = """it's $(touch pwned) "all" `touch pwned` #1 %j%%A"""
HOSTILE = rf"{HOSTILE_JOBS} a\b\\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A running Slurm; its folder holds its logs. The environment points Slurm's commands at it."""
    try:
        with running_slurm() as folder:
            yield folder
    except NotInstalledError as error:
        skip_or_fail("REQUIRE_SLURM", str(error))


@pytest.fixture(autouse=True)
def order(cluster: Path) -> Iterator[None]:
    """Whatever a test does, the next one finds no job and an idle node."""
    yield
    put_right()


def make_study(folder: Path, slides: dict[str, Path], slurm: str) -> Path:
    """Copies slides into a folder with a nasty name, beside a config that names them."""
    (folder / "slides").mkdir(parents=True)
    for path in slides.values():
        shutil.copy(path, folder / "slides")
    config = folder / "study.toml"
    config.write_text(STUDY.format(title=json.dumps(HOSTILE), slurm=slurm), encoding="utf-8")
    return config


class Chain:
    """A study that was submitted as a user submits it."""

    def __init__(self, config: Path, jobs_dir: Path | None = None) -> None:
        self.config = config
        self.jobs_dir = jobs_dir or config.parent / "jobs"
        self.layout = RunLayout(config.parent / "the run")
        done = mkhspc("slurm", "--config", config, "--out", self.jobs_dir, "--submit")
        assert done.returncode == 0, done.stderr
        ids = dict(pair.split("=") for pair in done.stdout.split())
        self.segment, self.merge, self.gallery = ids["segment"], ids["merge"], ids["gallery"]

    def until(self, look: Callable[[], Any]) -> Any:
        """Waits as long as anything of the study moves; see `wait_until`."""
        return wait_until(look, self.jobs_dir, self.layout.root)

    def stopped_process(self, index: int) -> psutil.Process:
        """The mkhspc process of a task, suspended in its work: a tile is done and others are left."""
        slide_id, shard = self.task(index)
        words = ["--config", str(self.config), "--only", slide_id, "--shard", shard]

        def found() -> psutil.Process | None:
            for process in psutil.process_iter(["cmdline"]):
                line = process.info["cmdline"] or []
                if "mkhspc" in line and line[-6:] == words:
                    return process
            return None

        process = self.until(found)
        self.until(self.layout.plan(slide_id).exists)
        tiles = {tile.tile_id for tile in Shard.parse(shard).of(plan_of(self.layout, slide_id).tiles)}
        self.until(lambda: tiles & self.layout.finished_tiles(slide_id))
        process.suspend()
        assert tiles - self.layout.finished_tiles(slide_id), "it was too late: every tile is done"
        return process

    def task(self, index: int) -> list[str]:
        note = json.loads((self.layout.logs / f"slurm-{self.segment}.jsonl").read_text())
        return str(note["tasks"][index]).split()

    def log(self, name: str) -> str:
        path = self.jobs_dir / f"{name}.out"
        return path.read_text() if path.exists() else ""

    def wait(self, tasks: int) -> dict[str, tuple[str, int]]:
        """Waits until no job of the chain is left; returns state and exit code, by job id."""
        expected = {*(f"{self.segment}_{i}" for i in range(tasks)), self.merge, self.gallery}
        ids = ",".join((self.segment, self.merge, self.gallery))
        self.until(lambda: not slurm("squeue", "--noheader", "--jobs", ids))

        def ended() -> dict[str, tuple[str, int]] | None:  # accounts come a little later
            records = parse_sacct(
                slurm("sacct", "--parsable2", "--jobs", ids, f"--format={','.join(FIELDS)}")
            )
            found = {r.job_id: (r.state, r.exit_code) for r in records}
            going_on = any(state in ("PENDING", "RUNNING", "REQUEUED") for state, _ in found.values())
            return found if found.keys() == expected and not going_on else None

        return self.until(ended)


def has_pending_stop(process: psutil.Process) -> bool:
    """Whether SIGUSR1 waits for a suspended process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) & 1 << (signal.SIGUSR1 - 1))


def tables_digest(layout: RunLayout) -> dict[str, str]:
    files = [path for folder in ("cells", "crops") for path in (layout.root / folder).iterdir()]
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def reported_dead(layout: RunLayout) -> dict[str, str]:
    """What `mkhspc status` says of jobs that died: the reason, by job id."""
    done = mkhspc("status", layout.root, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    ends = [*facts["unheard_tasks"], *(process["task_end"] for process in facts["processes"])]
    return {end["job"]: end["reason"] for end in ends if end is not None}


def plan_of(layout: RunLayout, slide_id: str) -> TilePlan:
    return load_tile_plan(layout, slide_id, manifests.read(layout).config_hash)


def parts(layout: RunLayout) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in layout.root.glob("parts/*/*.parquet")}


@pytest.fixture(scope="module")
def whole(small_slides: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the tables of a run on this machine, without Slurm."""
    root = tmp_path_factory.mktemp("whole") / "run"
    named = [word for path in small_slides.values() for word in ("--czi-path", path)]
    done = mkhspc("segment", *named, "--output-dir", root, "--tile-size", 512)
    assert done.returncode == 0, done.stderr
    return tables_digest(RunLayout(root))


def test_time_limits_and_preemption_cost_nothing(
    cluster: Path, small_slides: dict[str, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    extra = json.dumps([f"--comment={HOSTILE}"])
    config = make_study(tmp_path / HOSTILE, small_slides, f"time_min = 10\ngpus = 1\nextra = {extra}")
    refused = mkhspc("slurm", "--config", config, "--out", config.parent / "jobs", "--submit")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "has a backslash in its name" in refused.stderr
    chain = Chain(config, tmp_path / HOSTILE_JOBS / "jobs")
    preempted, limited = f"{chain.segment}_0", f"{chain.segment}_1"

    slow = chain.stopped_process(1)  # in the midst of a slow tile, as it were
    chain.stopped_process(0)  # does not get to the next tile border
    finished = parts(chain.layout)
    slurm("scontrol", "requeue", preempted)
    # Slurm warns 150 s before the end of 10 minutes. Then the task gets time back, for a busy machine.
    slurm("scontrol", "update", f"JobId={limited}", "EndTime=now+120")
    chain.until(lambda: has_pending_stop(slow))
    slurm("scontrol", "update", f"JobId={limited}", "TimeLimit=60")
    chain.until(lambda: "JobState=COMPLETED" in slurm("scontrol", "show", "job", preempted))
    slow.resume()
    chain.until(lambda: "stopped by SIGUSR1 with" in chain.log(f"segment-{limited}"))

    assert set(chain.wait(2).values()) == {("COMPLETED", 0)}
    for job_id in (preempted, limited):
        job = slurm("scontrol", "show", "job", job_id)
        assert " Restarts=1 " in job, "a task was requeued with the array"
        assert "gres:gpu:1" in job
        assert f"Comment={HOSTILE.replace(chr(34), '`')} " in job.replace('"', "`")  # the database's quotes
    assert finished.items() <= parts(chain.layout).items(), "a finished tile was done again"
    assert shlex.split(chain.log(f"segment-{limited}").splitlines()[-1])[-2:] == [
        "merge",
        str(chain.layout.root),
    ]
    assert tables_digest(chain.layout) == whole
    site = config.parent / "the run-site"
    assert (site / "site.json").exists()
    assert "touch pwned" in (site / "index.html").read_text()
    assert [p for p in tmp_path.rglob("*") if p.name == "pwned"] == []
    assert reported_dead(chain.layout) == {}


def test_a_job_that_is_preempted_and_whose_node_fails_goes_on_after_its_last_tile(
    cluster: Path, small_slides: dict[str, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    chain = Chain(make_study(tmp_path, small_slides, ""))
    node = slurm("sinfo", "--noheader", "--format=%n").split()[0]
    job_id = f"{chain.segment}_0"

    def preempt() -> None:
        slurm("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap", "sleep 3")

    def fail() -> None:
        slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        chain.until(lambda: "Restarts=2 " in slurm("scontrol", "show", "job", job_id))
        chain.until(is_back)

    def is_back() -> bool:
        """It returns by itself when its daemon answers again, or when it is asked to."""
        if "State=DOWN" not in slurm("scontrol", "show", "node", node):
            return True
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        return False

    for happens in (preempt, fail):
        process = chain.stopped_process(0)  # does not get to the next tile border
        finished = parts(chain.layout)
        happens()
        chain.until(lambda gone=process: not gone.is_running())
        assert finished.items() <= parts(chain.layout).items()

    assert set(chain.wait(2).values()) == {("COMPLETED", 0)}
    assert finished.items() <= parts(chain.layout).items(), "a finished tile was done again"
    assert " Restarts=2 " in slurm("scontrol", "show", "job", job_id)
    assert tables_digest(chain.layout) == whole


def test_what_dies_is_named_and_a_second_submission_completes_it(
    cluster: Path, small_slides: dict[str, Path], whole: dict[str, str], tmp_path: Path
) -> None:
    config = make_study(tmp_path, small_slides, 'extra = ["--begin=now+5"]')
    chain = Chain(config)
    cut = config.parent / "slides" / "DEMO_B.czi"
    with cut.open("r+b") as file:
        file.truncate(100_000)
    chain.stopped_process(0).kill()  # as the kernel kills what takes too much memory

    a, b = f"{chain.segment}_0", f"{chain.segment}_1"
    ended = chain.wait(2)
    assert ended == {
        a: ("FAILED", 9),
        b: ("FAILED", 3),
        chain.merge: ("FAILED", 4),
        chain.gallery: ("CANCELLED", 0),
    }
    said = chain.log(f"merge-{chain.merge}")
    assert "no tile of DEMO_B was begun" in said
    planned = {tile.tile_id for tile in plan_of(chain.layout, "DEMO_A").tiles}
    missing = planned - chain.layout.finished_tiles("DEMO_A")
    assert f"{len(missing)} tiles are missing" in said
    assert sum(f"DEMO_A/{tile_id}" in said for tile_id in missing) == min(8, len(missing)) > 0
    assert not (chain.layout.root / "cells").exists()
    assert not (config.parent / "the run-site").exists()
    dead = reported_dead(chain.layout)
    assert dead.keys() == ended.keys()
    assert dead[a].startswith("segment DEMO_A 0/1: killed by SIGKILL, perhaps over its memory")
    assert dead[b].startswith("segment DEMO_B 0/1: exit code 3: bad input")
    assert "DEMO_B.czi" in Path(dead[b].rpartition("; see ")[2]).read_text()

    finished = parts(chain.layout)
    shutil.copy(small_slides["DEMO_B"], cut)
    config.write_text(config.read_text() + "shards_per_slide = 2\n")
    again = Chain(config)
    assert set(again.wait(4).values()) == {("COMPLETED", 0)}
    assert finished.items() <= parts(again.layout).items()
    assert tables_digest(again.layout) == whole
    assert reported_dead(again.layout) == {}


def test_a_partition_that_is_not_there_queues_nothing(
    cluster: Path, small_slides: dict[str, Path], tmp_path: Path
) -> None:
    config = make_study(tmp_path, small_slides, 'partition = "nope"')
    done = mkhspc("slurm", "--config", config, "--out", tmp_path / "jobs", "--submit")
    assert (done.returncode, done.stdout) == (3, "")
    assert "invalid partition specified: nope" in done.stderr
    assert "nothing was submitted" in done.stderr
    assert slurm("squeue", "--noheader") == ""


@pytest.mark.parametrize("memory", ["60M", "250M"])
def test_a_job_with_too_little_memory_is_refused_before_it_can_die(
    cluster: Path, small_slides: dict[str, Path], tmp_path: Path, memory: str
) -> None:
    """Before the libraries are loaded, and when it is known what the slide takes."""
    config = make_study(tmp_path, {"DEMO_A": small_slides["DEMO_A"]}, f'extra = ["--mem={memory}"]')
    chain = Chain(config)
    ended = chain.wait(1)
    assert ended[f"{chain.segment}_0"][0] == "FAILED"
    assert ended[chain.gallery][0] == "CANCELLED"
    assert "exit code 2" in reported_dead(chain.layout)[f"{chain.segment}_0"]
    assert "set by Slurm (SLURM_MEM_PER_NODE)" in chain.log(f"segment-{chain.segment}_0")
