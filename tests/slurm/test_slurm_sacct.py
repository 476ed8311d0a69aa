"""What is read from `sacct`: its real output (Slurm 22.05), from runs whose tasks died in different ways."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc.cluster import sacct
from mkhspc.cluster.sacct import JobRecord, dead_tasks, parse_sacct, reason
from mkhspc.cluster.status import TaskEnd
from mkhspc.store.layout import RunLayout

OUTPUT = """\
JobID|JobIDRaw|JobName|State|ExitCode|Reason|MaxRSS|ReqMem|Elapsed|NodeList
14|14|mkhspc-merge|FAILED|4:0|Dependency||954M|00:00:01|node1
14.batch|14.batch|batch|FAILED|4:0||123952K||00:00:01|node1
15|15|mkhspc-gallery|CANCELLED|0:0|Dependency||954M|00:00:00|None assigned
13_0|16|mkhspc-segment|CANCELLED by 0|0:0|None||954M|00:00:05|node1
13_0.batch|16.batch|batch|FAILED|2:0||404092K||00:00:06|node1
13_1|17|mkhspc-segment|COMPLETED|0:0|None||954M|00:00:11|node1
13_1.batch|17.batch|batch|COMPLETED|0:0||407292K||00:00:11|node1
13_2|18|mkhspc-segment|FAILED|3:0|None||954M|00:00:02|node1
13_2.batch|18.batch|batch|FAILED|3:0||74468K||00:00:02|node1
13_3|13|mkhspc-segment|FAILED|9:0|None||954M|00:00:05|node1
13_3.batch|13.batch|batch|FAILED|9:0||395772K||00:00:05|node1
13_[4-5]|13|mkhspc-segment|PENDING|0:0|Resources||954M|00:00:00|None assigned
"""

NOTE = {
    "at_s": 1.0,
    "segment": "13",
    "merge": "14",
    "gallery": "15",
    "jobs_dir": "/study/jobs",
    "tasks": [f"{slide} {shard}" for slide in ("FGC1", "FHU1", "MGC1") for shard in ("0/2", "1/2")],
}

RECORD = JobRecord("13_3", "FAILED", 0, 0, "16G", "15.2G", "01:00:00", "node7")


def test_a_step_gives_its_job_its_peak_memory_and_nothing_else() -> None:
    records = {record.job_id: record for record in parse_sacct(OUTPUT)}
    assert list(records) == ["14", "15", "13_0", "13_1", "13_2", "13_3", "13_[4-5]"]
    assert records["13_0"] == JobRecord("13_0", "CANCELLED", 0, 0, "954M", "404092K", "00:00:05", "node1")


def test_no_output_is_no_job() -> None:
    assert parse_sacct("") == ()
    assert parse_sacct(OUTPUT.splitlines()[0]) == ()


def test_the_dead_are_named_by_slide_and_shard_and_cause() -> None:
    dead = {end.job: end for end in dead_tasks(parse_sacct(OUTPUT), NOTE)}
    assert list(dead) == ["13_0", "13_2", "13_3", "14", "15"]
    assert dead == {
        "14": TaskEnd("14", "FAILED", "4:0", "merge: exit code 4: tiles failed or are missing"),
        "15": TaskEnd(
            "15", "CANCELLED", "0:0", "gallery: cancelled, by a person or because the job before it failed"
        ),
        "13_0": TaskEnd(
            "13_0",
            "CANCELLED",
            "0:0",
            "segment FGC1 0/2: cancelled, by a person or because the job before it failed",
        ),
        "13_2": TaskEnd(
            "13_2", "FAILED", "3:0", "segment FHU1 0/2: exit code 3: bad input: a slide or a setting"
        ),
        "13_3": TaskEnd(
            "13_3",
            "FAILED",
            "9:0",
            "segment FHU1 1/2: killed by SIGKILL, perhaps over its memory:"
            " it had 954M and was seen at 395772K",
        ),
    }


def test_a_log_that_is_there_is_pointed_to(tmp_path: Path) -> None:
    for name in ("segment-13_2.out", "merge-14.out"):
        (tmp_path / name).touch()
    dead = {
        end.job: end.reason for end in dead_tasks(parse_sacct(OUTPUT), {**NOTE, "jobs_dir": str(tmp_path)})
    }
    assert dead["13_2"].endswith(f"; see {tmp_path}/segment-13_2.out")
    assert dead["14"].endswith(f"; see {tmp_path}/merge-14.out")
    assert "see" not in dead["15"].replace("was seen", "")


def test_tasks_cancelled_while_they_waited_are_one_line() -> None:
    (end,) = dead_tasks([replace(RECORD, job_id="13_[2-5]", state="CANCELLED")], NOTE)
    assert end.reason.startswith("segment: cancelled")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "OUT_OF_MEMORY"}, "out of memory: it had 16G and was seen at 15.2G"),
        ({"state": "OUT_OF_MEMORY", "peak_memory": ""}, "out of memory: it had 16G"),
        ({"state": "TIMEOUT"}, "no tile border was reached before the time limit, after 01:00:00"),
        ({"state": "NODE_FAIL"}, "the node node7 failed"),
        ({"state": "PREEMPTED"}, "ended by Slurm after 01:00:00 on node7"),
        ({"signal": 9}, "killed by SIGKILL, perhaps over its memory: it had 16G and was seen at 15.2G"),
        ({"signal": 11}, "killed by SIGSEGV"),
        ({"exit_code": 3}, "exit code 3: bad input: a slide or a setting"),
        (
            {"exit_code": 2},
            "exit code 2: stopped by a signal at a tile border,"
            " or refused: too little memory, or another wrong option",
        ),
        ({"exit_code": 127}, "exit code 127: see the log"),
    ],
)
def test_every_death_has_its_reason(changes: dict[str, object], why: str) -> None:
    assert reason(replace(RECORD, **changes)) == why


@pytest.mark.parametrize("state", ["COMPLETED", "RUNNING", "PENDING", "REQUEUED", "SUSPENDED", "COMPLETING"])
def test_who_lives_or_ended_well_is_not_reported(state: str) -> None:
    assert dead_tasks([replace(RECORD, state=state)], NOTE) == ()


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run with the notes of two submissions, and a stand-in for sacct."""
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "slurm-13.jsonl").write_text(json.dumps(NOTE) + "\n")
    (logs / "slurm-9.jsonl").write_text(json.dumps({**NOTE, "at_s": 0.5, "segment": "9"}) + "\n")

    def install(*lines: str) -> RunLayout:
        tool = tmp_path / "bin" / "sacct"
        tool.parent.mkdir()
        tool.write_text("\n".join(["#!/bin/bash", f'echo "$@" >{tmp_path}/heard', *lines]) + "\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tool.parent))
        return RunLayout(tmp_path / "run")

    return install


def test_the_last_submission_is_asked_about(noted, tmp_path: Path) -> None:
    report = sacct.slurm_report(noted(f"echo '{OUTPUT}'"))
    assert [end.job for end in report.dead] == ["13_0", "13_2", "13_3", "14", "15"]
    assert "--jobs=13,14,15" in (tmp_path / "heard").read_text()


def test_a_sacct_that_cannot_answer_is_reported(noted) -> None:
    report = sacct.slurm_report(noted('echo "Slurm accounting storage is disabled" >&2; exit 1'))
    assert report == sacct.SlurmReport(problem="Slurm accounting storage is disabled")


def test_a_cluster_that_does_not_answer_is_not_waited_for(noted, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = noted("/bin/sleep 60")
    monkeypatch.setattr(sacct, "ANSWER_S", 0.3)
    begun_s = time.monotonic()
    assert sacct.slurm_report(layout) == sacct.SlurmReport(problem="sacct did not answer within 0.3 s")
    assert time.monotonic() - begun_s < 20.0


def test_a_run_that_was_never_submitted_asks_nothing(noted, tmp_path: Path) -> None:
    noted("exit 1")
    assert sacct.slurm_report(RunLayout(tmp_path / "other")) == sacct.SlurmReport()


def test_without_sacct_there_is_no_news(noted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = noted("exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sacct.slurm_report(layout) == sacct.SlurmReport()
