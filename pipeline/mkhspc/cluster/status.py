"""How far a run is, with all the processes and hosts that work on it; `read_status` finds it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.progress import ProcessState
from mkhspc.store.manifest.exclusions import Exclusion

Cells = Mapping[CellType, int]


@dataclass(frozen=True)
class SlideStatus:
    """Tiles of one slide: of those the run asks for, how many are done, failed and left.

    Attributes:
        tiles: how many the run asks for; None while the slide is not planned.
        estimated_tiles: of one that is not, by its size and the tiles of those that are; None without any.
        missing_tiles: ids of the tiles that have no part yet, in the order of the plan.
        failed_tiles: why, by id, of those of them whose last try failed.
        cells: in the tiles that are done, by type.
        merged: whether the slide has its tables.
        merged_cells: in these tables, which may be older than some of the tiles.
        excluded: tiles that have left the study; they count nowhere else.
        is_excluded: whether the whole slide has.
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
    excluded: int = 0
    is_excluded: bool = False

    @property
    def failed(self) -> int:
        """Tiles whose last try failed; they count among `left` too."""
        return len(self.failed_tiles)

    @property
    def left(self) -> int | None:
        return None if self.tiles is None else self.tiles - self.done

    @property
    def is_stale(self) -> bool:
        """Whether the tables lack cells of finished tiles, or hold some of excluded ones."""
        if self.merged_cells is None:
            return False
        cells = sum(self.cells.values())
        may_hold_excluded = self.is_excluded or self.excluded > 0
        return self.merged_cells < cells or (may_hold_excluded and self.merged_cells > cells)


@dataclass(frozen=True)
class TaskEnd:
    """How a job of the cluster ended, or a task of an array, by Slurm's accounting.

    Attributes:
        job: as in a journal's first line: '123', or '123_4' for a task of an array.
        state: such as 'OUT_OF_MEMORY' or 'TIMEOUT'.
        exit_code: as the accounting writes it, such as '0:125'.
        reason: its work and why it ended, for a reader.
    """

    job: str
    state: str
    exit_code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ProcessStatus:
    """One process that works or worked on the run.

    Attributes:
        state: 'lost' if it neither ended nor was stopped, and shows no sign of life.
        silent_s: since its last sign of life.
        tiles_per_s: while it works: how fast its tiles come now.
        memory_bytes, workers: by the last line of its journal about them.
        task_end: how its job ended, where Slurm's accounting knows it.
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
        cluster_problem: why Slurm's accounting could not be read; empty if it was, or without Slurm.
        exclusions: slides and tiles that have left the study, and why.
        exclude_failed: the command that leaves out what failed.
    """

    slides: tuple[SlideStatus, ...]
    processes: tuple[ProcessStatus, ...]
    unheard_tasks: tuple[TaskEnd, ...] = ()
    cluster_problem: str = ""
    exclusions: tuple[Exclusion, ...] = ()
    exclude_failed: str = ""

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
        """Whether the numbers of tiles and the time left are partly estimated from the sizes of slides."""
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
        """Seconds until the last tile that can still come in this try; None where that is unknown."""
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
