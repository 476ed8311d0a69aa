"""What each process of a run did and when: JSON lines in `RUN/logs/`, one file a process.

A line holds `at_s`, `event` and the facts of the event:

    begin        its share of the run, its limits, what the run is; the first line names the process by host,
                 pid, place and started (see `process.identity`), and by its job on a cluster
    done         a tile has its part: slide_id, tile_id, seconds, cells by type; with models, models_s of
                 these seconds were spent waiting for their answers, and mk_by_sam2, hspc_by_sam2 count
                 prompts that gave no cell, and what became of outlines, by reason
    failed       a tile was given up: slide_id, tile_id, error
    retry        a worker died and its tile is tried again: slide_id, tile_id, error
    put-off      memory was short: a worker was ended, and its tile is done later: slide_id, tile_id
    models       a device has its models: device, load_s, memory_bytes, precision by model
    device       the process that holds a device's models died or was started again: text
    memory       memory_bytes now, peak_bytes since the line before, limit_bytes, workers
    interrupted  a signal stopped the process at a tile border
    end          it did all of its share

A process that was killed writes neither of the last two, and its last line may be cut. `at_s` is time
by the clock that stamps the run's files, read once, and carried on by a clock that never jumps: lines of
hosts whose own clocks differ stand in their true order.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from mkhspc.process.identity import host_token, process_start_ticks
from mkhspc.progress import Event, Journal
from mkhspc.store.layout import RunLayout
from mkhspc.store.untrusted_json import JsonError, parse_json

TEXT, NUMBER = (str,), (int, float)
REQUIRED: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "done": {"slide_id": TEXT, "tile_id": TEXT, "seconds": NUMBER},
    "failed": {"slide_id": TEXT, "tile_id": TEXT, "error": TEXT},
    "retry": {"slide_id": TEXT, "tile_id": TEXT, "error": TEXT},
    "models": {"device": TEXT, "precision": (dict,)},
    "memory": {"memory_bytes": NUMBER, "peak_bytes": NUMBER, "limit_bytes": NUMBER, "workers": NUMBER},
}
"""Facts without which a line of these events says nothing."""


class RunLog:
    """The journal of this process, made at its first line."""

    def __init__(self, layout: RunLayout) -> None:
        self._folder = layout.logs
        self._path: Path | None = None
        self._clock_ahead_s = 0.0
        self._is_cut = False
        self.lost_lines = 0

    def write(self, event: str, **facts: Any) -> None:
        """Adds a line.

        After the first, a line that the disk refuses is counted and left out: the parts are the truth
        about a run, and a log that cannot be written must not end it.

        Raises:
            OSError: the first line cannot be written.
        """
        if self._path is None:
            self._path = self._begun(event, facts)
            return
        lost = {"lost_lines": self.lost_lines} if self.lost_lines else {}
        try:
            self._append(self._path, event, {**facts, **lost})
        except OSError:
            self.lost_lines += 1
        else:
            self.lost_lines = 0

    def _begun(self, event: str, facts: Mapping[str, Any]) -> Path:
        """The journal with its first line, which says whose it is; none is left if it cannot be written."""
        path = self._create()
        process = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "place": host_token(),
            "started": process_start_ticks(os.getpid()),
            "job": slurm_job(os.environ),
        }
        try:
            self._append(path, event, {**process, "host_s": round(time.time(), 3), **facts})
        except OSError:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # the journals of others are in it
                self._folder.rmdir()
            raise
        return path

    def _create(self) -> Path:
        """Makes the file, and reads the time of the file system from it."""
        stem = f"segment-{socket.gethostname()}-{os.getpid()}"
        for number in count(1):  # a number of a process comes again, and hosts may share a name
            path = self._folder / f"{stem}-{number}.jsonl"
            with suppress(FileExistsError):
                self._touch(path)
                self._clock_ahead_s = path.stat().st_mtime - time.monotonic()
                return path
        raise AssertionError("unreachable")

    def _touch(self, path: Path) -> None:
        self._folder.mkdir(exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileNotFoundError:  # another process took the directory away, for it was empty
            self._touch(path)

    def _append(self, path: Path, event: str, facts: Mapping[str, Any]) -> None:
        at_s = round(time.monotonic() + self._clock_ahead_s, 3)
        line = json.dumps({"at_s": at_s, "event": event, **facts}, ensure_ascii=False)
        data = f"{line}\n".encode("utf-8", "backslashreplace")  # a file's name need not be text
        if self._is_cut:
            data = b"\n" + data
        self._is_cut = True
        # Opened anew for each line: over NFS others see what was written when the file is closed.
        with path.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(f"{path}: the line was cut")
        self._is_cut = False


def read_journals(layout: RunLayout) -> tuple[Journal, ...]:
    """The journals of all processes that worked on the tiles of a run, by the time of their first line."""
    journals = []
    for path in sorted(layout.logs.glob("segment-*.jsonl")):
        with suppress(FileNotFoundError):  # its first line could not be written
            journals.append(_read_journal(path))
    return tuple(sorted((j for j in journals if j.events), key=lambda j: j.events[0].at_s))


def _read_journal(path: Path) -> Journal:
    seen_s = path.stat().st_mtime
    lines = [line.strip(b"\0\r ") for line in path.read_bytes().split(b"\n")]  # a crash may leave zeros
    events = [_event(line) for line in lines if line]
    kept = tuple(event for event in events if event is not None)
    lost = sum(int(event.facts.get("lost_lines", 0)) for event in kept)
    return Journal(path.stem, kept, seen_s, len(events) - len(kept) + lost)


def _event(line: bytes) -> Event | None:
    """The event in a line, or None if the line is damaged."""
    try:
        facts = parse_json(line)
    except JsonError:
        return None
    if not isinstance(facts, dict):
        return None
    at_s, name = facts.pop("at_s", None), facts.pop("event", None)
    if not (isinstance(at_s, NUMBER) and math.isfinite(at_s) and isinstance(name, str)):
        return None
    required = {**REQUIRED.get(name, {}), **({"lost_lines": NUMBER} if "lost_lines" in facts else {})}
    if not all(isinstance(facts.get(fact), kinds) for fact, kinds in required.items()):
        return None
    return Event(float(at_s), name, facts)


def slurm_job(environment: Mapping[str, str]) -> str | None:
    """The job, or task of an array, that this process runs in, as `sacct` names it."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")
