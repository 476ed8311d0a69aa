"""What Slurm's accounting says of a run's jobs: which of them died, and why."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mkhspc.cluster.jobs import GALLERY, MERGE, SEGMENT
from mkhspc.cluster.status import TaskEnd
from mkhspc.cluster.submit import run_command
from mkhspc.store.layout import RunLayout
from mkhspc.store.untrusted_json import SMALL, read_json

FIELDS = ("JobID", "State", "ExitCode", "ReqMem", "MaxRSS", "Elapsed", "NodeList")
"""Columns that `sacct` is asked for."""
ANSWER_S = 10.0
"""Seconds that `sacct` has to answer: whoever asks for a run's status is waiting."""
_REMOVE = "remove it: it only says which jobs a submission had"
DEAD_STATES = {
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""States of a job that will do nothing more without having ended well; see sacct(1)."""
EXIT_CODES = {
    1: "a check failed",
    # sacct shows 130 as 130 - 128
    2: "stopped by a signal at a tile border, or refused: too little memory, or another wrong option",
    3: "bad input: a slide or a setting",
    4: "tiles failed or are missing",
}
"""What the exit codes of `mkhspc` mean."""


@dataclass(frozen=True)
class JobRecord:
    """One job, or one task of an array, as `sacct` has it; memory and time as it writes them.

    Attributes:
        job_id: `12`, or `12_3` for a task of an array.
        state: the first word alone, so `CANCELLED` whoever did it.
        exit_code, signal: of the batch script; of a code above 128 `sacct` keeps what is above.
    """

    job_id: str
    state: str
    exit_code: int
    signal: int
    asked_memory: str
    peak_memory: str
    elapsed: str
    node: str


@dataclass(frozen=True)
class SlurmReport:
    """The jobs of a run's last submission that died, or why Slurm cannot say."""

    dead: tuple[TaskEnd, ...] = ()
    problem: str = ""


def parse_sacct(text: str) -> tuple[JobRecord, ...]:
    """Jobs in the output of `sacct --parsable2`, whatever the order of its columns.

    Steps count towards their job with their peak memory alone; tasks that still wait together
    (`12_[3-5]`) are one record.
    """
    jobs: dict[str, JobRecord] = {}
    for row in csv.DictReader(text.splitlines(), delimiter="|", quoting=csv.QUOTE_NONE):
        job_id, _, step = row["JobID"].partition(".")
        if not step:
            jobs[job_id] = _record(row)
        elif job_id in jobs and row["MaxRSS"]:
            jobs[job_id] = replace(jobs[job_id], peak_memory=row["MaxRSS"])
    return tuple(jobs.values())


def _record(row: Mapping[str, str]) -> JobRecord:
    exit_code, _, number = row["ExitCode"].partition(":")
    return JobRecord(
        job_id=row["JobID"],
        state=row["State"].split()[0],
        exit_code=int(exit_code or 0),
        signal=int(number or 0),
        asked_memory=row["ReqMem"],
        peak_memory=row["MaxRSS"],
        elapsed=row["Elapsed"],
        node=row["NodeList"],
    )


def reason(record: JobRecord) -> str:
    """Says in a clause why a job died."""
    memory = f"it had {record.asked_memory}" + (
        f" and was seen at {record.peak_memory}" if record.peak_memory else ""
    )
    if record.state == "OUT_OF_MEMORY":
        return f"out of memory: {memory}"
    if record.state == "TIMEOUT":
        return f"no tile border was reached before the time limit, after {record.elapsed}"
    if record.state == "NODE_FAIL":
        return f"the node {record.node} failed"
    if record.state == "CANCELLED":
        return "cancelled, by a person or because the job before it failed"
    if record.state != "FAILED":
        return f"ended by Slurm after {record.elapsed} on {record.node}"
    killed = record.signal or record.exit_code
    if record.signal or killed == signal.SIGKILL:
        over = f", perhaps over its memory: {memory}" if killed == signal.SIGKILL else ""
        return f"killed by {_signal_name(killed)}{over}"
    return f"exit code {record.exit_code}: {EXIT_CODES.get(record.exit_code, 'see the log')}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def dead_tasks(records: Iterable[JobRecord], note: Mapping[str, Any]) -> tuple[TaskEnd, ...]:
    """Those of a submission's jobs that died, in the order of the chain.

    The reason names a job's work, the cause of its death and its log.

    Args:
        note: what `slurm.submit` left in the run's logs.
    """
    chain = [note[job] for job in (SEGMENT, MERGE, GALLERY)]
    dead = [record for record in records if record.state in DEAD_STATES]
    dead.sort(key=lambda record: chain.index(record.job_id.partition("_")[0]))
    return tuple(_task_end(record, note) for record in dead)


def _task_end(record: JobRecord, note: Mapping[str, Any]) -> TaskEnd:
    array_id, _, index = record.job_id.partition("_")
    if array_id == note[SEGMENT]:
        # those that are cancelled while they wait share a record, and have no log
        job, work = SEGMENT, note["tasks"][int(index)] if index.isdecimal() else ""
    else:
        job, work = (MERGE if array_id == note[MERGE] else GALLERY), ""
    log = Path(note["jobs_dir"]) / f"{job}-{record.job_id}.out"
    cause = f"{' '.join((job, work)).strip()}: {reason(record)}"
    return TaskEnd(
        job=record.job_id,
        state=record.state,
        exit_code=f"{record.exit_code}:{record.signal}",
        reason=f"{cause}; see {log}" if log.exists() else cause,
    )


def slurm_report(layout: RunLayout) -> SlurmReport:
    """Asks `sacct` about the run's last submission; the report is empty without one, or without `sacct`."""
    note = _last_note(layout)
    if note is None or shutil.which("sacct") is None:
        return SlurmReport()
    ids = ",".join(note[job] for job in (SEGMENT, MERGE, GALLERY))
    try:
        done = run_command(
            "sacct", "--parsable2", f"--jobs={ids}", f"--format={','.join(FIELDS)}", timeout_s=ANSWER_S
        )
    except subprocess.TimeoutExpired:
        return SlurmReport(problem=f"sacct did not answer within {ANSWER_S:g} s")
    if done.returncode:
        return SlurmReport(problem=" ".join(done.stderr.split()))
    return SlurmReport(dead_tasks(parse_sacct(done.stdout), note))


def _last_note(layout: RunLayout) -> dict[str, Any] | None:
    notes = [read_json(path, SMALL, _REMOVE) for path in layout.logs.glob("slurm-*.jsonl")]
    return max(notes, key=lambda note: float(note["at_s"]), default=None)
