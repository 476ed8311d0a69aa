"""The tiles of a process handed to its workers, as many at a time as memory allows."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mkhspc.budget.workers import Budget
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.cluster.journal import RunLog
from mkhspc.cluster.read_status import exclude_failed
from mkhspc.cluster.recorder import SlideTiles, TileRecorder
from mkhspc.config import CELL_TYPES
from mkhspc.errors import IncompleteError, InterruptedRunError
from mkhspc.models.server.supervisor import ModelServers
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
    recorder = TileRecorder(RunLog(layout), progress, counts)
    if job is None:
        progress("tiles", recorder.total, recorder.total)
        return []
    recorder.begin(
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
        failed = _on_tiles(layout, manifest, job, recorder, stop)
    finally:
        restore()
    if stop.is_set:
        recorder.interrupted(stop.signal_name)
        raise InterruptedRunError(
            f"stopped by {stop.signal_name} with {recorder.left or 'none'} of {recorder.total} tiles left",
            where=layout.root,
            fix="nothing is lost: run the same command again to go on",
        )
    recorder.end()
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
    layout: RunLayout, manifest: Manifest, job: Job, recorder: TileRecorder, stop: StopFlag
) -> list[Outcome]:
    for loaded in job.servers.loaded if job.servers else ():
        recorder.models(loaded)
    give_back_gaps()
    slots = Slots(job.most_slots, job.demand.slot_bytes)
    pool = Pool(_worker(layout, manifest, job, slots), job.budget.workers, stop)
    guard = MemoryGuard(
        pool,
        job.budget.limit,
        on_memory=recorder.memory,
        on_postponed=lambda task: recorder.postponed(task.slide_id, task.tile_id),
    )
    pool.on_tick = partial(_check, layout, guard, job.servers, recorder)
    budget = job.budget
    feed = WindowFeed(
        job.slides, slots, ClaimFiles(layout), use_slots=budget.slots, threads=budget.read_threads
    )
    try:
        # Workers end before their windows go: one at work on pixels that are gone would store other cells.
        with closing(pool.outcomes(feed)) as outcomes:
            return _collect(outcomes, feed, WorkerScaler(job, pool, guard), recorder)
    finally:
        feed.close()
        slots.close()


def _worker(layout: RunLayout, manifest: Manifest, job: Job, slots: Slots) -> TileWorker:
    """What every worker process of a job is given."""
    return TileWorker(
        root=layout.root,
        config_hash=manifest.config_hash,
        um_per_px={slide.slide_id: slide.um_per_px for slide in job.slides},
        config=manifest.config,
        stored={t: manifest.stored(t) for t in CELL_TYPES},
        models=job.models,
        models_address=job.servers.address if job.servers else None,
        slots=slots.handle(),
    )


def _check(
    layout: RunLayout, guard: MemoryGuard, servers: ModelServers | None, recorder: TileRecorder
) -> None:
    """Looks after the run, memory and model servers; the pool calls this twice a second or more often.

    Raises:
        FileNotFoundError: the run was moved, so no tile could be stored.
    """
    if not layout.root.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(layout.root))
    guard.check()
    for line in servers.watch() if servers else ():
        recorder.device(line)


def _collect(
    outcomes: Iterable[Outcome], feed: WindowFeed, scaler: WorkerScaler, recorder: TileRecorder
) -> list[Outcome]:
    """Records the outcomes as they come, and fits the pool to them; returns those of tiles that failed.

    Raises:
        IncompleteError: no tile can be done any more.
    """
    failed: list[Outcome] = []
    for outcome in outcomes:
        _record(recorder, outcome)
        if outcome.is_fatal:
            raise IncompleteError(
                f"no tile can be done any more: {outcome.error}",
                fix="correct that, then run the same command again: finished tiles are kept",
            )
        if outcome.error is not None and not outcome.will_retry:
            failed.append(outcome)
        if worker_bytes := (outcome.facts or {}).get("peak_bytes"):
            feed.use(scaler.fit(outcome.task, worker_bytes).slots)
    return failed


def _record(recorder: TileRecorder, outcome: Outcome) -> None:
    task = outcome.task
    if outcome.facts is None:
        record = recorder.retried if outcome.will_retry else recorder.failed
        record(task.slide_id, task.tile_id, str(outcome.error))
    elif "elsewhere" in outcome.facts:
        recorder.done_elsewhere(task.slide_id)
    else:
        recorder.done(task.slide_id, task.tile_id, outcome.facts)


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


def refuse_failures(failed: Sequence[Outcome], root: Path) -> None:
    """Raises `IncompleteError` that names the first failed tiles and why, unless there are none.

    Args:
        root: of the run, for the command that leaves them out.
    """
    if not failed:
        return
    named = "; ".join(f"{o.task.slide_id}/{o.task.tile_id}: {o.error}" for o in failed[:NAMED_FAILURES])
    more = f"; and {len(failed) - NAMED_FAILURES} more" if len(failed) > NAMED_FAILURES else ""
    raise IncompleteError(
        f"{len(failed)} tile{'s' if len(failed) > 1 else ''} failed: {named}{more}",
        fix="all other tiles are kept; run the same command again to try these once more;"
        f" `mkhspc status RUN --json` lists all of them, and `{exclude_failed(root)}` leaves them out",
    )
