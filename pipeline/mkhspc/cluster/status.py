"""How far a run is, from its files alone, with all the processes and hosts that work on it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mkhspc.cluster.journal import read_journals
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.process.identity import ProcessId, process_start_ticks
from mkhspc.progress import Event, Journal, ProcessState, steps_per_s
from mkhspc.slide.tiles import chosen_tiles, load_tile_plan
from mkhspc.store import manifest as manifests, tables
from mkhspc.store.atomic import file_system_time
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SlideEntry

Cells = Mapping[CellType, int]


@dataclass(frozen=True)
class SlideStatus:
    """Tiles of one slide: of those the run asks for, how many are done, failed and left.

    Attributes:
        tiles: None while the slide is not planned.
        estimated_tiles: of one that is not, by its size and the tiles of those that are; None without any.
        missing_tiles: ids of the tiles that have no part yet, in the order of the plan.
        failed_tiles: why, by id, of those of them whose last try failed.
        cells: in the tiles that are done, by type.
        merged: whether the slide has its tables.
        merged_cells: in these tables, which may be older than some of the tiles.
    """

    slide_id: str
    tiles: int | None
    done: int
    cells: Cells
    merged: bool
    merged_cells: int | None
    missing_tiles: Sequence[str] = ()
    failed_tiles: Mapping[str, str] = field(default_factory=dict)
    estimated_tiles: int | None = None

    @property
    def failed(self) -> int:
        """Tiles whose last try failed; they count among `left` too."""
        return len(self.failed_tiles)

    @property
    def left(self) -> int | None:
        return None if self.tiles is None else self.tiles - self.done

    @property
    def is_stale(self) -> bool:
        """Whether the tables lack cells of finished tiles."""
        return self.merged_cells is not None and self.merged_cells < sum(self.cells.values())


@dataclass(frozen=True)
class TaskEnd:
    """How a job of the cluster ended, or a task of an array, as its own books say.

    Attributes:
        job: as in a journal's first line: '123', or '123_4' for a task of an array.
        state: such as 'OUT_OF_MEMORY' or 'TIMEOUT'.
        exit_code: as the books write it, such as '0:125'.
        reason: what it was to do and why it ended, in words.
    """

    job: str
    state: str
    exit_code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ProcessStatus:
    """One process that works or worked on the run.

    Attributes:
        state: 'lost' is a process that neither ended nor was stopped and gives no sign of life.
        silent_s: since its last sign of life.
        tiles_per_s: while it works: how fast its tiles come now.
        memory_bytes, workers: by its last word about them.
        task_end: what the cluster says of its end, where that is known.
    """

    name: str
    host: str
    pid: int | None
    job: str | None
    shard: str | None
    state: ProcessState
    begun_s: float
    silent_s: float
    done: int
    failed: int
    tiles_per_s: float | None
    workers: int | None
    memory_bytes: int | None
    peak_bytes: int | None
    limit_bytes: int | None
    task_end: TaskEnd | None = None


@dataclass(frozen=True)
class RunStatus:
    """All slides and processes of a run.

    Attributes:
        unheard_tasks: ends of tasks that left no journal, such as those that died before their first tile.
        cluster_problem: why the cluster's books could not be read, or nothing.
    """

    slides: tuple[SlideStatus, ...]
    processes: tuple[ProcessStatus, ...]
    unheard_tasks: tuple[TaskEnd, ...] = ()
    cluster_problem: str = ""

    @property
    def tiles(self) -> int:
        """Tiles that the run asks for; an estimate while `is_estimate`."""
        return sum(
            slide.estimated_tiles or 0 if slide.tiles is None else slide.tiles for slide in self.slides
        )

    @property
    def left(self) -> int:
        """Tiles without a part; an estimate while `is_estimate`."""
        return sum(slide.estimated_tiles or 0 if slide.left is None else slide.left for slide in self.slides)

    @property
    def is_estimate(self) -> bool:
        """Whether the numbers of all tiles, of those left and the time are partly told by sizes of slides."""
        return bool(self.unplanned)

    @property
    def failed(self) -> int:
        return sum(slide.failed for slide in self.slides)

    @property
    def unplanned(self) -> int:
        """Slides whose number of tiles is not known yet."""
        return sum(slide.tiles is None for slide in self.slides)

    @property
    def cells(self) -> Cells:
        """Cells in the tiles that are done, by type."""
        return {t: sum(slide.cells[t] for slide in self.slides) for t in CELL_TYPES}

    @property
    def working(self) -> tuple[ProcessStatus, ...]:
        return tuple(process for process in self.processes if process.state == "working")

    @property
    def tiles_per_s(self) -> float | None:
        """Of all processes at work together; None while no tile has come."""
        return sum(process.tiles_per_s or 0.0 for process in self.working) or None

    @property
    def eta_s(self) -> float | None:
        """Until the last tile that can still come in this try; None where that cannot be told."""
        is_open = any(slide.tiles is None and slide.estimated_tiles is None for slide in self.slides)
        if not self.tiles_per_s or is_open:
            return None
        return (self.left - self.failed) / self.tiles_per_s

    @property
    def memory_bytes(self) -> int | None:
        """Of all processes at work together."""
        return sum(process.memory_bytes or 0 for process in self.working) or None

    @property
    def is_finished(self) -> bool:
        """Whether every slide has every tile."""
        return not self.left and not self.unplanned


def run_status(layout: RunLayout, *, now_s: float | None = None) -> RunStatus:
    """Reads a run's manifest, plans, names of parts, and journals.

    Args:
        now_s: the time by the clock of the run's files. By itself this asks that clock, by a file that it
            makes in the logs and removes, where a process may be at work; this host's clock is believed
            only by who may not write there.

    Raises:
        InputError: the directory is no run, or one of its files is damaged.
    """
    manifest = manifests.read(layout)
    journals = read_journals(layout)
    ends = _last_ends(journals)
    now_s = _now(layout, journals) if now_s is None else now_s
    slides = [_slide_status(layout, manifest, s.slide_id, ends) for s in manifest.slides]
    return RunStatus(
        slides=_with_estimates(slides, {s.slide_id: _asked_px(manifest, s) for s in manifest.slides}),
        processes=tuple(_process_status(journal, now_s) for journal in journals),
    )


def _now(layout: RunLayout, journals: Sequence[Journal]) -> float:
    """The time by the clock of the run's files, if anything hangs on it."""
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
    """The slides, those without a plan with as many tiles for their size as those with one have.

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
    """The status, with what the cluster says of the tasks behind its processes.

    A task that ran more than once, after a requeue, is its last process: `ends` holds its last end alone.

    Args:
        problem: why the cluster's books could not be read, or nothing.
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
    if not layout.plan(slide_id).exists():
        return SlideStatus(slide_id, None, len(finished), dict.fromkeys(CELL_TYPES, 0), merged, merged_cells)
    plan = load_tile_plan(layout, slide_id, manifest.config_hash)
    wanted = [tile.tile_id for tile in chosen_tiles(manifest, plan)]
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
        failed_tiles={
            tile_id: str(end.facts.get("error", ""))
            for tile_id, end in last.items()
            if end is not None and end.name == "failed"
        },
    )


def _merged_cells(table: Path) -> int | None:
    """Rows of a table of cells, told by its footer; None when there is no table."""
    try:
        return int(pq.read_metadata(table).num_rows)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"is damaged ({error})", where=table) from error


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
    """What became of a process, or that it still works; where it can be looked for no clock is asked."""
    state, origin = journal.state(now_s), journal.origin
    pid = origin.get("pid")
    owner = ProcessId(str(origin.get("place", "")), pid) if isinstance(pid, int) else None
    if state in ("ended", "interrupted") or owner is None or not owner.is_on_this_host:
        return state
    is_same = process_start_ticks(owner.pid) == origin.get("started")  # else its number was given to another
    return "working" if owner.is_running and is_same else "lost"
