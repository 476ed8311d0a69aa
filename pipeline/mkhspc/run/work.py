"""The tiles of a process handed to its workers, as many at a time as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mkhspc.budget.layout import Budget
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.cluster.journal import RunLog
from mkhspc.cluster.recorder import SlideTiles, TileRecorder
from mkhspc.config import CELL_TYPES
from mkhspc.errors import IncompleteError, InterruptedRunError
from mkhspc.models.server.servers import ModelServers
from mkhspc.pool.feed import TileTask, WindowFeed
from mkhspc.pool.guard import MemoryGuard
from mkhspc.pool.pool import Pool
from mkhspc.pool.slots import Slots
from mkhspc.pool.tasks import Outcome
from mkhspc.process.memory import give_back_gaps
from mkhspc.process.signals import StopFlag
from mkhspc.progress import Notify, Progress, unnoticed
from mkhspc.run.job import Job, TileShare
from mkhspc.run.worker import TileWorker
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

NAMED_FAILURES = 5
"""Failed tiles that an error names; `mkhspc status` lists all of them."""


def do_tiles(
    layout: RunLayout,
    manifest: Manifest,
    share: TileShare,
    job: Job | None,
    progress: Progress,
    notify: Notify = unnoticed,
) -> list[Outcome]:
    """Does the tiles of a share; returns the outcomes of those that failed.

    Args:
        job: from `plan_share`, `with_models`; tiles that another process has done since are left out.
        notify: takes a line as soon as a signal came.

    Raises:
        InterruptedRunError: a signal came; the tiles under way were finished first.
    """
    left = {slide.slide_id: len(slide.tiles) for slide in job.slides} if job else {}
    counts = {
        s: SlideTiles(len(asked), len(share.of(s)), len(share.of(s)) - left.get(s, 0))
        for s, asked in share.asked.items()
    }
    watch = TileRecorder(RunLog(layout), progress, counts)
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
    stop = StopFlag(notify)
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


@contextmanager
def with_models(job: Job | None) -> Iterator[Job | None]:
    """The job with its models loaded, in processes of their own that end with the context.

    Raises:
        MkhspcError: a model's own, when it does not load.
    """
    if job is None or not job.models.weights:
        yield job
        return
    with ModelServers(job.models.loaders, job.devices) as servers:
        yield replace(job, servers=servers)


def _on_tiles(
    layout: RunLayout, manifest: Manifest, job: Job, watch: TileRecorder, stop: StopFlag
) -> list[Outcome]:
    servers = job.servers
    for loaded in servers.loaded if servers else ():
        watch.models(loaded)
    give_back_gaps()
    slots = Slots(job.most_slots, job.demand.slot_bytes)
    work = TileWorker(
        root=layout.root,
        config_hash=manifest.config_hash,
        um_per_px={slide.slide_id: slide.um_per_px for slide in job.slides},
        config=manifest.config,
        stored={t: manifest.stored(t) for t in CELL_TYPES},
        models=job.models,
        models_address=servers.address if servers else None,
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
        on_postponed=lambda task: watch.postponed(task.slide_id, task.tile_id),
    )

    def look_around() -> None:
        guard.check()
        for line in servers.watch() if servers else ():
            watch.device(line)

    pool.on_tick = look_around
    failed: list[Outcome] = []
    scaler = WorkerScaler(job, pool, guard)
    try:
        for outcome in pool.outcomes(feed):
            _record(watch, outcome)
            if outcome.is_fatal:
                raise IncompleteError(
                    f"no tile can be done any more: {outcome.error}",
                    fix="correct that, then run the same command again: finished tiles are kept",
                )
            if outcome.error is not None and not outcome.will_retry:
                failed.append(outcome)
            if worker_bytes := (outcome.facts or {}).get("peak_bytes"):
                feed.use(scaler.fit(outcome.task, worker_bytes).slots)
    finally:
        feed.close()
        slots.close()
    return failed


def _record(watch: TileRecorder, outcome: Outcome) -> None:
    task = outcome.task
    if outcome.facts is None:
        record = watch.retried if outcome.will_retry else watch.failed
        record(task.slide_id, task.tile_id, str(outcome.error))
    elif "elsewhere" in outcome.facts:
        watch.done_elsewhere(task.slide_id)
    else:
        watch.done(task.slide_id, task.tile_id, outcome.facts)


@dataclass
class WorkerScaler:
    """Sizes the pool: as planned at first, then by the memory that tiles have taken."""

    job: Job
    pool: Pool
    guard: MemoryGuard
    _most_bytes: int = 0
    _is_representative: bool = False

    def fit(self, task: TileTask, worker_bytes: int) -> Budget:
        """Fits the pool to the most that any worker has needed so far; returns the budget for that.

        Args:
            worker_bytes: the most that the worker of a tile just done has needed.
        """
        self._most_bytes = max(self._most_bytes, worker_bytes)
        self._is_representative = self._is_representative or self.job.is_representative(task)
        budget = self.job.measured(self._most_bytes, is_representative=self._is_representative)
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
