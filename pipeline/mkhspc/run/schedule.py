"""Which tiles are done next and by how many processes; what failed is kept and told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from mkhspc.budget.demand import (
    MEASURED_MARGIN,
    Budget,
    Demand,
    layout_of,
    mask_px,
    plan_workers,
    room_bytes,
)
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.cluster.journal import RunLog, SlideTiles, TileWatch
from mkhspc.cluster.shard import Shard
from mkhspc.config import CELL_TYPES, ComputeSection
from mkhspc.detect.classical.mk import block_count
from mkhspc.errors import IncompleteError, InterruptedRunError, UsageError
from mkhspc.measure.analysis import analysis_of
from mkhspc.measure.deep import column_names
from mkhspc.models.choice import RunModels, devices_for
from mkhspc.models.server.owners import Owners
from mkhspc.pool.feed import TileTask, WindowFeed
from mkhspc.pool.guard import MemoryGuard
from mkhspc.pool.pool import Pool
from mkhspc.pool.slots import Slots
from mkhspc.pool.tasks import Outcome
from mkhspc.process.limits import MemoryLimit, memory_limit, usable_cores
from mkhspc.process.memory import give_back_gaps
from mkhspc.process.signals import StopFlag
from mkhspc.progress import Progress
from mkhspc.run.open import Tell, ignore
from mkhspc.run.work import TileWork
from mkhspc.slide.czi.slide_reads import SlideReads, plan_slide
from mkhspc.slide.tiles import Tile
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

NAMED_FAILURES = 5
AS_LARGE, AS_DENSE = 0.9, 0.5
"""A tile shows what the others need if its window has this share of the largest window's pixels, and its
core this share of the most fat-free tissue that one has: empty tiles end first, and need least."""


@dataclass(frozen=True)
class Share:
    """What a process has to see to.

    Attributes:
        asked: the tiles that the run asks for, by slide id.
        shard: the part of them that is this process's share; None is all.
    """

    asked: Mapping[str, Sequence[Tile]]
    shard: Shard | None = None

    def of(self, slide_id: str) -> Sequence[Tile]:
        """Tiles of a slide in this share."""
        return self.shard.of(self.asked[slide_id]) if self.shard else self.asked[slide_id]

    @property
    def tiles(self) -> int:
        return sum(len(self.of(slide_id)) for slide_id in self.asked)

    def left(self, layout: RunLayout) -> dict[str, list[Tile]]:
        """Its tiles that have no part yet, by the id of a slide that has any."""
        left = {}
        for slide_id in self.asked:
            finished = layout.finished_tiles(slide_id)
            left[slide_id] = [tile for tile in self.of(slide_id) if tile.tile_id not in finished]
        return {slide_id: tiles for slide_id, tiles in left.items() if tiles}


def plan_share(layout: RunLayout, manifest: Manifest, share: Share, compute: ComputeSection) -> Job | None:
    """The work on those tiles of a share that have no part yet; None if all have.

    Raises:
        UsageError: not even one worker fits the memory; with what would be needed.
    """
    left = share.left(layout)
    return plan_job(manifest, left, compute) if left else None


def do_tiles(
    layout: RunLayout,
    manifest: Manifest,
    share: Share,
    job: Job | None,
    progress: Progress,
    tell: Tell = ignore,
) -> list[Outcome]:
    """Does the tiles of a share; returns the outcomes of those that failed.

    Args:
        job: from `plan_share`, `with_models`; tiles that another process has done since are left out.
        tell: takes a line as soon as a signal came.

    Raises:
        InterruptedRunError: a signal came; the tiles under way were finished first.
    """
    left = {slide.slide_id: len(slide.tiles) for slide in job.slides} if job else {}
    counts = {
        s: SlideTiles(len(asked), len(share.of(s)), len(share.of(s)) - left.get(s, 0))
        for s, asked in share.asked.items()
    }
    watch = TileWatch(RunLog(layout), progress, counts)
    if job is None:
        progress("tiles", watch.total, watch.total)
        return []
    watch.begin(
        manifest,
        workers=job.budget.workers,
        limit_bytes=job.budget.limit.limit_bytes,
        shard=str(share.shard) if share.shard else None,
        planned_peak_bytes=job.budget.peak_bytes,
        um_per_px={slide.slide_id: slide.um_per_px for slide in job.slides},
    )
    stop = StopFlag(tell)
    restore = stop.install()
    try:
        failed = _on_tiles(layout, manifest, job, watch, stop)
    finally:
        restore()
    if stop.is_set:
        watch.interrupted(stop.signal_name)
        raise InterruptedRunError(
            f"stopped by {stop.signal_name} with {watch.left or 'none'} of {watch.total} tiles left",
            where=layout.root,
            fix="nothing is lost: run the same command again to go on",
        )
    watch.end()
    return failed


@dataclass(frozen=True)
class Job:
    """Tiles to do, in the order of reading, and how they fit into memory.

    Attributes:
        owners: of the models; None without any, and until `with_models` has loaded them.
    """

    slides: Sequence[SlideReads]
    demand: Demand
    budget: Budget
    asked: int | Literal["auto"]
    models: RunModels
    devices: Sequence[str]
    owners: Owners | None = None

    @property
    def most_slots(self) -> int:
        """With as many workers as there are cores, whatever memory allows at first."""
        return max(self.budget.slots, layout_of(self.demand, self._most_workers, self.budget.limit).slots)

    @property
    def _most_workers(self) -> int:
        return max(1, min(usable_cores(), self.demand.tiles))

    def measured(self, worker_bytes: int, *, is_telling: bool) -> Budget:
        """The budget with the most that a worker was seen to need; never without a worker.

        Owners count as thought where they needed less: the tiles so far may not have asked every model.

        Args:
            is_telling: a tile that `tells` is among those seen; before, no worker is added.
        """
        if self.asked != "auto":
            return self.budget
        owner_bytes = max(self.demand.owner_bytes, self.owners.peak_bytes if self.owners else 0)
        read_threads = self.budget.read_threads
        demand = self.demand.measured(int(MEASURED_MARGIN * worker_bytes), owner_bytes, read_threads)
        most = usable_cores() if is_telling else self.budget.workers
        return best_budget(demand, most, self.budget.limit)

    def tells(self, task: TileTask) -> bool:
        """Whether a tile is about as large and as dense as any: see `AS_LARGE`."""
        is_large = task.window.area_px >= AS_LARGE * self.demand.window_px
        return is_large and self._fat_free_um2[task.slide_id, task.tile_id] >= AS_DENSE * self._densest_um2

    @cached_property
    def _fat_free_um2(self) -> dict[tuple[str, str], float]:
        return {(s.slide_id, tile.tile_id): tile.fat_free_area_um2 for s in self.slides for tile in s.tiles}

    @cached_property
    def _densest_um2(self) -> float:
        return max(self._fat_free_um2.values())


def best_budget(measured: Demand, most_workers: int, limit: MemoryLimit) -> Budget:
    """As many workers as fit, of whom it is known what they need."""
    try:
        return plan_workers("auto", measured, most_workers, limit)
    except UsageError:  # it is more than was thought: one worker, and the guard watches
        return layout_of(measured, 1, limit)


def plan_job(
    manifest: Manifest,
    tiles: Mapping[str, Sequence[Tile]],
    compute: ComputeSection,
    limit: MemoryLimit | None = None,
) -> Job:
    """Lays tiles out over time and memory, without reading a pixel.

    Args:
        tiles: by slide id; at least one.
        limit: of memory, instead of this process's.

    Raises:
        UsageError: not even one worker fits the memory.
    """
    limit = limit or memory_limit(compute.memory_gb)
    room = room_bytes(limit.limit_bytes)
    models = RunModels.of(manifest.config)
    devices = devices_for(models, compute.device)
    analysis = analysis_of(manifest, models)
    slides, near_px, blocks = [], 0, 0
    for slide_id, wanted in tiles.items():
        entry = manifest.slide(slide_id)
        near_halo_px = analysis.near_halo_px(entry.um_per_px)
        near_px = max(near_px, *(tile.core.grown(near_halo_px).area_px for tile in wanted))
        window_of = partial(analysis.read_box, um_per_px=entry.um_per_px)
        reads = plan_slide(slide_id, Path(entry.path), entry.um_per_px, wanted, window_of, room)
        largest_px = max(visit.box.area_px for visit in reads.visits)
        blocks = max(blocks, block_count(largest_px, entry.um_per_px))
        slides.append(replace(reads, fingerprint=entry.fingerprint))  # of the slide that the run began with
    demand = Demand(
        tiles=sum(len(slide.tiles) for slide in slides),
        window_px=max(visit.box.area_px for slide in slides for visit in slide.visits),
        held_bytes=max(slide.plan.held_bytes for slide in slides),
        block_bytes=max(slide.plan.block_bytes for slide in slides),
        mask_px=max(mask_px(manifest.slide(slide_id)) for slide_id in tiles),
        owner_bytes=len(devices) * models.resident_bytes,
        message_bytes=max(analysis.message_bytes(manifest.slide(slide_id).um_per_px) for slide_id in tiles),
        deep_columns=len(column_names(manifest.config.compute.embedders)),
        near_px=near_px,
        blocks=blocks,
    )
    budget = plan_workers(compute.num_workers, demand, usable_cores(), limit)
    return Job(slides, demand, budget, compute.num_workers, models, devices)


@contextmanager
def with_models(job: Job | None) -> Iterator[Job | None]:
    """The job with its models loaded, in processes of their own that end with the context.

    Raises:
        MkhspcError: a model's own, when it does not load.
    """
    if job is None or not job.models.weights:
        yield job
        return
    with Owners(job.models.loaders, job.devices) as owners:
        yield replace(job, owners=owners)


def _on_tiles(
    layout: RunLayout, manifest: Manifest, job: Job, watch: TileWatch, stop: StopFlag
) -> list[Outcome]:
    owners = job.owners
    for loaded in owners.loaded if owners else ():
        watch.models(loaded)
    give_back_gaps()
    slots = Slots(job.most_slots, job.demand.slot_bytes)
    work = TileWork(
        root=layout.root,
        config_hash=manifest.config_hash,
        um_per_px={slide.slide_id: slide.um_per_px for slide in job.slides},
        config=manifest.config,
        stored={t: manifest.stored(t) for t in CELL_TYPES},
        models=job.models,
        service=owners,
        slots=slots.handle(),
    )
    feed = WindowFeed(
        job.slides,
        slots,
        ClaimFiles(layout),
        use_slots=job.budget.slots,
        threads=job.budget.read_threads,
    )
    pool = Pool(work, job.budget.workers, stop)
    guard = MemoryGuard(
        pool,
        job.budget.limit,
        on_memory=watch.memory,
        on_postponed=lambda task: watch.put_off(task.slide_id, task.tile_id),
    )

    def look_around() -> None:
        guard.check()
        for line in owners.watch() if owners else ():
            watch.device(line)

    pool.on_tick = look_around
    failed: list[Outcome] = []
    crew = Crew(job, pool, guard)
    try:
        for outcome in pool.outcomes(feed):
            _record(watch, outcome)
            if outcome.is_fatal:
                raise IncompleteError(
                    f"no tile can be done any more: {outcome.error}",
                    fix="mend that, then run the same command again: finished tiles are kept",
                )
            if outcome.error is not None and not outcome.will_retry:
                failed.append(outcome)
            if worker_bytes := (outcome.facts or {}).get("peak_bytes"):
                feed.use(crew.learn(outcome.task, worker_bytes).slots)
    finally:
        feed.close()
        slots.close()
    return failed


def _record(watch: TileWatch, outcome: Outcome) -> None:
    task = outcome.task
    if outcome.facts is None:
        tell = watch.retried if outcome.will_retry else watch.failed
        tell(task.slide_id, task.tile_id, str(outcome.error))
    elif "elsewhere" in outcome.facts:
        watch.done_elsewhere(task.slide_id)
    else:
        watch.done(task.slide_id, task.tile_id, outcome.facts)


@dataclass
class Crew:
    """How many workers there are: as planned, then as the tiles that are done show."""

    job: Job
    pool: Pool
    guard: MemoryGuard
    _most_bytes: int = 0
    _is_telling: bool = False

    def learn(self, task: TileTask, worker_bytes: int) -> Budget:
        """Sizes the pool by the most that any worker has needed so far; returns the budget for that.

        Args:
            worker_bytes: the most that the worker of a tile just done has needed.
        """
        self._most_bytes = max(self._most_bytes, worker_bytes)
        self._is_telling = self._is_telling or self.job.tells(task)
        budget = self.job.measured(self._most_bytes, is_telling=self._is_telling)
        self.pool.size = min(budget.workers, self.guard.most_workers)
        return budget


def refuse_failures(failed: Sequence[Outcome]) -> None:
    """Raises `IncompleteError` that names the first failed tiles and why, unless there are none."""
    if not failed:
        return
    named = "; ".join(f"{o.task.slide_id}/{o.task.tile_id}: {o.error}" for o in failed[:NAMED_FAILURES])
    more = f"; and {len(failed) - NAMED_FAILURES} more" if len(failed) > NAMED_FAILURES else ""
    raise IncompleteError(
        f"{len(failed)} tile{'s' if len(failed) > 1 else ''} failed: {named}{more}",
        fix="all other tiles are kept; run the same command again to try these once more;"
        " `mkhspc status RUN --json` lists all of them",
    )
