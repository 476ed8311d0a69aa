"""Reads how far a run is, from its files alone: its manifest, plans, parts and journals."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from mkhspc.cluster.journal import read_journals
from mkhspc.cluster.status import Cells, ProcessStatus, RunStatus, SlideStatus, TaskEnd
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.process.identity import ProcessId, process_start_ticks
from mkhspc.progress import Event, Journal, ProcessState, steps_per_s
from mkhspc.slide.tiles import chosen_tiles, load_tile_plan
from mkhspc.store import manifest as manifests, tables
from mkhspc.store.atomic import file_system_time
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SlideEntry


def run_status(layout: RunLayout, *, now_s: float | None = None) -> RunStatus:
    """Reads a run's manifest, plans, names of parts, and journals.

    Args:
        now_s: the time by the clock of the run's files. Without it this asks that clock, where a process may
            be at work, by a file that it makes in the logs and removes; the clock of this host counts only
            where this user may not write there.

    Raises:
        InputError: the directory is not a run, or one of its files is damaged.
    """
    manifest = manifests.read(layout)
    journals = read_journals(layout)
    ends = _last_ends(journals)
    now_s = _now(layout, journals) if now_s is None else now_s
    slides = [_slide_status(layout, manifest, s.slide_id, ends) for s in manifest.slides]
    return RunStatus(
        exclusions=manifest.exclusions,
        exclude_failed=exclude_failed(layout.root),
        slides=_with_estimates(slides, {s.slide_id: _asked_px(manifest, s) for s in manifest.slides}),
        processes=tuple(_process_status(journal, now_s) for journal in journals),
    )


def _now(layout: RunLayout, journals: Sequence[Journal]) -> float:
    """The time by the clock of the run's files, where anything depends on it."""
    latest_s = max((journal.seen_s for journal in journals), default=0.0)
    if all(journal.state(latest_s) in ("ended", "interrupted") for journal in journals):
        return latest_s
    try:
        return file_system_time(layout.logs)
    except OSError:
        return max(time.time(), latest_s)


def _asked_px(manifest: Manifest, slide: SlideEntry) -> int:
    """Pixels of the scenes of a slide that the run asks for."""
    asked = manifest.config.run.scenes
    return sum(s.width_px * s.height_px for s in slide.scenes if not asked or s.scene in asked)


def _with_estimates(slides: Sequence[SlideStatus], sizes_px: Mapping[str, int]) -> tuple[SlideStatus, ...]:
    """Gives slides without a plan as many tiles for their size as those with a plan have.

    The planned ones count with the tiles asked for, so the run's fraction is in the estimate as well.
    """
    planned = [slide for slide in slides if slide.tiles is not None]
    planned_px = sum(sizes_px[slide.slide_id] for slide in planned)
    if not planned_px:
        return tuple(slides)
    tiles_per_px = sum(slide.tiles or 0 for slide in planned) / planned_px

    def estimated(slide: SlideStatus) -> SlideStatus:
        tiles = math.ceil(tiles_per_px * sizes_px[slide.slide_id])
        return replace(slide, estimated_tiles=max(tiles, slide.done))

    return tuple(slide if slide.tiles is not None else estimated(slide) for slide in slides)


def with_task_ends(status: RunStatus, ends: Sequence[TaskEnd], problem: str = "") -> RunStatus:
    """Adds what Slurm's accounting says of the tasks behind the processes.

    A task that ran more than once, after a requeue, is its last process: `ends` holds its last end alone.

    Args:
        problem: why the accounting could not be read; empty if it was.
    """
    by_job = {end.job: end for end in ends}
    last = {process.job: process.name for process in status.processes if process.job}
    processes = tuple(
        _with_end(process, by_job[process.job])
        if process.job in by_job and last[process.job] == process.name
        else process
        for process in status.processes
    )
    unheard = tuple(end for end in ends if end.job not in last and end.state != "COMPLETED")
    return replace(status, processes=processes, unheard_tasks=unheard, cluster_problem=problem)


def _with_end(process: ProcessStatus, end: TaskEnd) -> ProcessStatus:
    state: ProcessState = "lost" if process.state == "working" else process.state
    return replace(process, state=state, task_end=end)


def failed_tiles(layout: RunLayout) -> dict[tuple[str, str], str]:
    """Why, by slide and tile id, of tiles without a part whose last try failed."""
    manifest = manifests.read(layout)
    ends = _last_ends(read_journals(layout))
    finished = {s.slide_id: layout.finished_tiles(s.slide_id) for s in manifest.slides}
    return {
        (slide_id, tile_id): str(end.facts.get("error", ""))
        for (slide_id, tile_id), end in sorted(ends.items())
        if end.name == "failed"
        and slide_id in finished
        and tile_id not in finished[slide_id]
        and not manifest.is_excluded(slide_id, tile_id)
    }


def exclude_failed(root: Path) -> str:
    """The command that leaves out every tile that failed, to copy."""
    return shlex.join(["mkhspc", "exclude", str(root), "--failed"])


TileEnds = Mapping[tuple[str, str], Event]


def _last_ends(journals: Sequence[Journal]) -> TileEnds:
    """How each tile ended last, by slide and tile."""
    events = [event for journal in journals for event in journal.named("done", "failed")]
    events.sort(key=lambda event: event.at_s)
    return {(event.facts["slide_id"], event.facts["tile_id"]): event for event in events}


def _slide_status(layout: RunLayout, manifest: Manifest, slide_id: str, ends: TileEnds) -> SlideStatus:
    finished = layout.finished_tiles(slide_id)
    merged_cells = _merged_cells(layout.cells(slide_id))
    merged = merged_cells is not None
    none = dict.fromkeys(CELL_TYPES, 0)
    if manifest.is_excluded(slide_id):
        return SlideStatus(slide_id, 0, 0, none, merged, merged_cells, is_excluded=True)
    if not layout.plan(slide_id).exists():
        return SlideStatus(slide_id, None, len(finished), none, merged, merged_cells)
    plan = load_tile_plan(layout, slide_id, manifest.config_hash)
    wanted = [tile.tile_id for tile in chosen_tiles(manifest, slide_id, plan)]
    done = [tile_id for tile_id in wanted if tile_id in finished]
    missing = [tile_id for tile_id in wanted if tile_id not in finished]
    last = {tile_id: ends.get((slide_id, tile_id)) for tile_id in missing}
    return SlideStatus(
        slide_id=slide_id,
        tiles=len(wanted),
        done=len(done),
        cells=_cells(layout, manifest, slide_id, done, ends),
        merged=merged,
        merged_cells=merged_cells,
        missing_tiles=missing,
        excluded=sum(one.slide_id == slide_id for one in manifest.exclusions),
        failed_tiles={
            tile_id: str(end.facts.get("error", ""))
            for tile_id, end in last.items()
            if end is not None and end.name == "failed"
        },
    )


def _merged_cells(table: Path) -> int | None:
    """Rows of a table of cells, from its footer; None when there is no table."""
    return tables.count_rows(table) if table.exists() else None


def _cells(
    layout: RunLayout, manifest: Manifest, slide_id: str, tile_ids: Sequence[str], ends: TileEnds
) -> Cells:
    found: dict[CellType, int] = dict.fromkeys(CELL_TYPES, 0)
    for tile_id in tile_ids:
        end = ends.get((slide_id, tile_id))
        if end is None or not all(isinstance(end.facts.get(t), int) for t in CELL_TYPES):
            # Its process was killed between the part and the line about it.
            counts = _counted(layout.part(slide_id, tile_id), manifest.config_hash)
        else:
            counts = {t: end.facts[t] for t in CELL_TYPES}
        for cell_type in CELL_TYPES:
            found[cell_type] += counts.get(cell_type, 0)
    return found


def _counted(part: Path, config_hash: str) -> Cells:
    column: pa.ChunkedArray = tables.read_table(part, config_hash, columns=["cell_type"])["cell_type"]
    return {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}


def _process_status(journal: Journal, now_s: float) -> ProcessStatus:
    first, last = journal.events[0], journal.events[-1]
    origin = journal.origin
    memory = list(journal.named("memory"))
    state = state_of(journal, now_s)
    ends_s = [event.at_s for event in journal.named("done", "failed")]
    latest = {**origin, **(memory[-1].facts if memory else {})}
    return ProcessStatus(
        name=journal.name,
        host=str(origin.get("host", "?")),
        pid=origin.get("pid"),
        job=origin.get("job"),
        shard=origin.get("shard"),
        state=state,
        begun_s=first.at_s,
        silent_s=max(0.0, now_s - journal.seen_s),
        done=sum(1 for _ in journal.named("done")),
        failed=sum(1 for _ in journal.named("failed")),
        tiles_per_s=steps_per_s(ends_s, first.at_s, last.at_s) if state == "working" else None,
        workers=latest.get("workers"),
        memory_bytes=latest.get("memory_bytes"),
        peak_bytes=max((event.facts["peak_bytes"] for event in memory), default=None),
        limit_bytes=latest.get("limit_bytes"),
    )


def state_of(journal: Journal, now_s: float) -> ProcessState:
    """Says whether a process works or how it ended; on this host the process itself is looked for."""
    state, origin = journal.state(now_s), journal.origin
    pid = origin.get("pid")
    owner = ProcessId(str(origin.get("place", "")), pid) if isinstance(pid, int) else None
    if state in ("ended", "interrupted") or owner is None or not owner.is_on_this_host:
        return state
    is_same = process_start_ticks(owner.pid) == origin.get("started")  # else its number was given to another
    return "working" if owner.is_running and is_same else "lost"
