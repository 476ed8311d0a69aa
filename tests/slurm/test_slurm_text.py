"""The batch files as text, and as bash runs them; Slurm itself is not needed here."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc.cluster import jobs, sbatch
from mkhspc.cluster.jobs import ArrayTask, JobPlan
from mkhspc.cluster.shard import Shard
from mkhspc.config import CELL_TYPES, CellSection, RunConfig, SlurmSection
from mkhspc.errors import InputError

HOSTILE = """it's a "study" $(touch pwned) `touch pwned` ; # * \\ %A ü"""


def job_plan(root: Path = Path("/data/marrow study"), **settings: object) -> JobPlan:
    base = RunConfig()
    config = replace(
        base,
        run=replace(base.run, output_dir=str(root / "run")),
        slurm=replace(SlurmSection(shards_per_slide=2, memory_gb=16.0), **settings),
    )
    tasks = [ArrayTask(s, Shard(i, 2)) for s in ("FGC1", "MHU2") for i in range(2)]
    program = ("/opt/venv/bin/python", "-P", "-m", "mkhspc")
    cpus = 8 if config.slurm.cpus == "auto" else config.slurm.cpus
    return JobPlan(config, root / "study.toml", root / "jobs", tuple(tasks), cpus, 16.0, program)


def options(plan: JobPlan, job: str) -> list[str]:
    lines = sbatch.sbatch_texts(plan)[job].splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


def with_program(plan: JobPlan, tmp_path: Path, *lines: str) -> JobPlan:
    """The plan with a bash script of these lines in the place of mkhspc."""
    stub = tmp_path / "stub in bash"
    stub.write_text("\n".join(lines))
    return replace(plan, program=("bash", str(stub)))


# --- what Slurm is asked for


def test_the_array_asks_for_what_the_config_says() -> None:
    plan = job_plan(time_min=300, cpus=12, gpus=2, partition="gpu", account="marrow", extra=("--qos=long",))
    assert options(plan, "segment") == [
        "--job-name=mkhspc-segment",
        "'--chdir=/data/marrow study/jobs'",
        "'--output=/data/marrow study/jobs/segment-%A_%a.out'",
        "--open-mode=append",
        "--time=300",
        "--cpus-per-task=12",
        "--mem=15259M",
        "--requeue",
        "--kill-on-invalid-dep=yes",
        "--array=0-3",
        "--signal=B:USR1@600",
        "--gres=gpu:2",
        "--partition=gpu",
        "--account=marrow",
        "--qos=long",
    ]


def test_a_backslash_is_doubled_for_slurm_and_not_for_bash() -> None:
    plan = job_plan(Path("/data/a\\b #1 %j"))
    assert "'--chdir=/data/a\\\\b #1 %j/jobs'" in options(plan, "segment")
    assert "run='/data/a\\b #1 %j/run'" in sbatch.sbatch_texts(plan)["segment"]
    with pytest.raises(InputError, match="backslash"):
        jobs.check_jobs_dir(plan.jobs_dir)


def test_what_slurm_would_fill_into_the_path_of_a_log_is_told_not_to_be() -> None:
    plan = job_plan(Path("/data/5%j"))
    assert "--chdir=/data/5%j/jobs" in options(plan, "merge")
    assert "--output=/data/5%%j/jobs/merge-%j.out" in options(plan, "merge")
    assert "--output=/data/5%%j/jobs/segment-%A_%a.out" in options(plan, "segment")
    jobs.check_jobs_dir(plan.jobs_dir)


def test_the_later_jobs_ask_for_less() -> None:
    plan = job_plan(cpus=12, gpus=2)
    for job, cpus in (("merge", 1), ("gallery", 12)):
        asked = options(plan, job)
        assert f"--cpus-per-task={cpus}" in asked
        assert "--mem=7630M" in asked
        assert not any("gres" in option or "array" in option for option in asked)
    small = replace(plan, memory_gb=2)
    assert "--mem=1908M" in options(small, "merge")


def test_without_a_partition_account_or_gpu_none_is_asked_for() -> None:
    asked = " ".join(options(job_plan(), "segment"))
    assert not any(word in asked for word in ("partition", "account", "gres", "None"))


@pytest.mark.parametrize(("time_min", "before_s"), [(1, 15), (20, 300), (40, 600), (2880, 600)])
def test_a_task_is_told_to_stop_before_its_limit(time_min: int, before_s: int) -> None:
    assert f"--signal=B:USR1@{before_s}" in options(job_plan(time_min=time_min), "segment")


def test_no_option_stands_below_the_first_command() -> None:
    for text in sbatch.sbatch_texts(job_plan(extra=("--qos=long",))).values():
        body = [line for line in text.splitlines()[1:] if not line.startswith("# ")]
        first = next(i for i, line in enumerate(body) if not line.startswith("#SBATCH"))
        assert not any("SBATCH" in line for line in body[first:])


@pytest.mark.parametrize(
    "extra",
    [
        ("--qos=a", "qos=long"),
        ("-q", "long"),
        ("--array=0-3%2",),
        ("--dependency=singleton",),
        ("--arr=0-3",),
    ],
)
def test_an_extra_option_that_no_job_could_have_is_refused(extra: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"slurm\.extra"):
        jobs.check_extra(job_plan(extra=extra).config)


def test_the_site_lies_beside_the_run_unless_it_is_named() -> None:
    plan = job_plan()
    assert plan.site_dir == Path("/data/marrow study/run-site")
    named = replace(plan.config, gallery=replace(plan.config.gallery, out="/www/site"))
    assert replace(plan, config=named).site_dir == Path("/www/site")


# --- what bash makes of them


@pytest.fixture
def run_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a job's text in bash, as Slurm would, in an empty directory."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    (tmp_path / "cwd").mkdir()

    def run(plan: JobPlan, job: str, index: int = 0) -> subprocess.CompletedProcess[str]:
        script = tmp_path / f"{job}.sbatch"
        script.write_text(sbatch.sbatch_texts(plan)[job], encoding="utf-8")
        return subprocess.run(
            ["bash", str(script)],
            capture_output=True,
            text=True,
            cwd=tmp_path / "cwd",
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(index)},
            check=False,
        )

    return run


def test_a_task_picks_its_slide_and_shard_by_its_index(run_job, tmp_path: Path) -> None:
    plan = with_program(job_plan(), tmp_path, 'printf "%s|" "$@"')
    seen = [run_job(plan, "segment", index).stdout.split("|")[3:7] for index in range(4)]
    assert seen == [
        ["--only", slide, "--shard", shard] for slide in ("FGC1", "MHU2") for shard in ("0/2", "1/2")
    ]


def test_hostile_values_reach_mkhspc_as_they_are(run_job, tmp_path: Path) -> None:
    root = tmp_path / HOSTILE
    plan = with_program(job_plan(root, partition=HOSTILE, extra=(f"--comment={HOSTILE}",)), tmp_path, *ECHO)
    cells = {t: replace(plan.config.cells(t), classifier=f"/models/{HOSTILE}.skops") for t in CELL_TYPES}
    gallery = replace(plan.config.gallery, title=HOSTILE)
    plan = replace(plan, config=replace(plan.config, gallery=gallery, mk=cells["mk"], hspc=cells["hspc"]))

    segment = run_job(plan, "segment").stdout.splitlines()
    assert segment == ["segment", "--config", str(root / "study.toml"), "--only", "FGC1", "--shard", "0/2"]
    merge = run_job(plan, "merge").stdout.splitlines()
    assert merge == ["merge", str(root / "run")]
    site = run_job(plan, "gallery").stdout.splitlines()
    assert site[:5] == ["gallery", "--run", str(root / "run"), "--out", str(root / "run-site")]
    assert site[-1] == f"--title={HOSTILE}"
    assert list((tmp_path / "cwd").iterdir()) == []


ECHO = ('printf "%s\\n" "$@"',)


@pytest.mark.parametrize("classifier", [None, "/mk.skops"])
def test_the_merge_job_leaves_scoring_to_merge_which_does_it(
    run_job, tmp_path: Path, classifier: str | None
) -> None:
    plan = with_program(job_plan(), tmp_path, *ECHO)
    config = replace(plan.config, mk=CellSection(classifier=classifier))
    done = run_job(replace(plan, config=config), "merge")
    assert done.stdout.splitlines() == ["merge", "/data/marrow study/run"]


@pytest.mark.parametrize("job", ["segment", "merge", "gallery"])
@pytest.mark.parametrize("code", [0, 3, 4, 130])
def test_a_job_ends_with_the_exit_code_of_mkhspc(run_job, tmp_path: Path, job: str, code: int) -> None:
    plan = with_program(job_plan(), tmp_path, f"exit {code}")
    assert run_job(plan, job).returncode == code


@pytest.mark.parametrize("bad", ["a\nb", "a\tb", "a\x1b[31mb", "a\udcffb"])
def test_what_no_batch_line_can_carry_is_refused(bad: str) -> None:
    with pytest.raises(InputError, match="batch file"):
        sbatch.sbatch_texts(job_plan(Path("/data") / bad))


def test_bash_can_parse_every_file_and_shellcheck_agrees(tmp_path: Path) -> None:
    for job, text in sbatch.sbatch_texts(job_plan(tmp_path / HOSTILE)).items():
        script = tmp_path / f"{job}.sbatch"
        script.write_text(text, encoding="utf-8")
        subprocess.run(["bash", "-n", str(script)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "--severity=warning", str(script)], check=True)


# --- signals: the batch script as Slurm would signal it


@pytest.fixture
def signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a task whose mkhspc ends with a code when it is signalled; returns (code, requeued).

    `made` are files of the run that it makes before; `there` were made by earlier tries.
    """
    asked = tmp_path / "requeued"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # so it is for one task of an array

    def run(
        code: int, *numbers: signal.Signals, made: Sequence[str] = (), there: Sequence[str] = ()
    ) -> tuple[int, str]:
        ready, root = tmp_path / "ready", tmp_path / "it's a run"
        for name in there:
            (root / "run" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "run" / name).touch()
        files = [shlex.quote(str(root / "run" / name)) for name in made]
        stub = (
            *(f'mkdir -p "$(dirname {name})"; touch {name}' for name in files),
            f"trap 'sleep 0.3; exit {code}' {' '.join(n.name.removeprefix('SIG') for n in numbers)}",
            f"touch {ready}",
            "while :; do sleep 0.05; done",
        )
        script = tmp_path / "segment.sbatch"
        script.write_text(sbatch.sbatch_texts(with_program(job_plan(root), tmp_path, *stub))["segment"])
        process = subprocess.Popen(["bash", str(script)], stderr=(tmp_path / "said").open("w"))
        while not ready.exists():
            time.sleep(0.01)
        time.sleep(0.1)  # bash sets its traps just after it has started mkhspc
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        return process.wait(timeout=20), asked.read_text() if asked.exists() else ""

    return run


PLAN, PART = "tiles/MHU2.parquet", "parts/MHU2/s0_0_0.parquet"
"""Of the slide of task 2."""


@pytest.mark.parametrize(
    ("there", "made"), [((), (PLAN,)), ((), (PLAN, PART)), ((PLAN, PART), ("parts/MHU2/s0_1_0.parquet",))]
)
def test_before_the_time_limit_a_task_that_came_on_stops_and_is_requeued_alone(
    signalled, there: Sequence[str], made: Sequence[str]
) -> None:
    assert signalled(130, signal.SIGUSR1, there=there, made=made) == (130, "requeue 7_2\n")


@pytest.mark.parametrize(
    ("there", "made"),
    [
        ((), ()),
        ((PLAN, PART), ()),
        ((PLAN,), ("tiles/FGC1.parquet", "parts/FGC1/s0_0_0.parquet")),  # another slide's
        ((PLAN,), ("parts/MHU2/s0_0_0.claim", "parts/MHU2/s0_0_0.parquet.01234567.8@node1.partial")),
    ],
)
def test_a_task_that_did_not_come_on_would_never_end_and_is_not_requeued(
    signalled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Sequence[str], made: Sequence[str]
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert signalled(130, signal.SIGUSR1, there=there, made=made) == (4, "")
    said = (tmp_path / "said").read_text()
    assert "not requeued again: neither the survey nor a tile of MHU2 was finished" in said
    assert "time_min" in said


@pytest.mark.parametrize("restarts", [None, "1"])
def test_a_task_that_did_not_come_on_gets_two_more_tries(
    signalled, monkeypatch: pytest.MonkeyPatch, restarts: str | None
) -> None:
    if restarts is not None:  # Slurm tells it from the first restart on
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert signalled(130, signal.SIGUSR1) == (130, "requeue 7_2\n")


def test_a_second_signal_does_not_hide_the_exit_code(signalled) -> None:
    assert signalled(130, signal.SIGUSR1, signal.SIGUSR1, made=(PART,)) == (130, "requeue 7_2\n")


def test_a_task_that_is_cancelled_or_preempted_requeues_nothing_itself(signalled) -> None:
    assert signalled(130, signal.SIGTERM, made=(PART,)) == (130, "")


@pytest.mark.parametrize("code", [0, 3, 4])
def test_a_task_that_ended_in_time_is_not_requeued(signalled, code: int) -> None:
    assert signalled(code, signal.SIGUSR1) == (code, "")


# --- the wheel and the source tree


def test_every_template_is_filled_strictly() -> None:
    with pytest.raises(Exception, match="undefined"):
        sbatch._templates().get_template("merge.sbatch.j2").render(options=[], program=["x"])


def test_the_program_is_the_python_that_runs_this_and_ignores_the_working_directory() -> None:
    done = subprocess.run(
        [*jobs.PROGRAM, "--version"], capture_output=True, text=True, check=True, cwd=Path(sys.prefix)
    )
    assert done.stdout.startswith("mkhspc")
