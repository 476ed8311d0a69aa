"""Segmenting slides: a run opened, its tiles planned and done, its tables made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mkhspc.budget.sufficient import refuse_shortage
from mkhspc.cluster.clean import tidy
from mkhspc.cluster.shard import Shard
from mkhspc.config import RunConfig
from mkhspc.errors import some_of
from mkhspc.pool.tasks import Outcome
from mkhspc.process.limits import MemoryLimit, memory_limit
from mkhspc.process.memory import give_back_what_is_freed
from mkhspc.progress import Notify, Progress, silent, unnoticed
from mkhspc.run.classifiers import refuse_unfit_classifiers
from mkhspc.run.do_tiles import do_tiles, refuse_failures, with_models
from mkhspc.run.job import Job, TileShare, plan_share
from mkhspc.run.merge import draw_summary, merge_slides
from mkhspc.run.opening.pending import PendingRun, pending_run
from mkhspc.run.resumable import resumable
from mkhspc.slide.tiles import Tile, chosen_tiles
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.summary import RunSummary, ShardSummary, refuse_empty


def segment(
    config: RunConfig,
    *,
    only: Sequence[str] = (),
    progress: Progress = silent,
    notify: Notify = unnoticed,
) -> RunSummary:
    """Finds, measures and stores the cells of the slides that `config` names.

    Run again, it goes on where it stopped; with a higher fraction it only adds tiles.

    Args:
        only: ids of the slides to work on now; the run stays that of all slides. None are all.
        notify: takes lines on where the run does not follow the command to the letter.

    Raises:
        InputError: a slide cannot be used, or the run was made with other settings.
        UsageError: a setting is out of range, or the memory is not enough.
        IncompleteError: tiles or the run's disk failed; all other tiles are kept, complete slides are merged.
        InterruptedRunError: a signal stopped the run at a tile border.
        CheckFailedError: not one cell was found.
    """
    with _prepared(config, only, None, progress, notify) as work:
        failed = _do_tiles(work, progress, notify)
    _name_other_slides(work, only, notify)
    with_failures = {outcome.task.slide_id for outcome in failed}
    whole = [s for s in work.share.asked if s not in with_failures]
    with resumable(work.layout):
        summary = merge_slides(work.layout, whole, progress)
    refuse_failures(failed, work.layout.root)
    if whole:  # else all that the command names is excluded
        refuse_empty(summary)
    return summary


def segment_shard(
    config: RunConfig,
    shard: Shard,
    *,
    only: Sequence[str] = (),
    progress: Progress = silent,
    notify: Notify = unnoticed,
) -> ShardSummary:
    """Like `segment`, for one part of the tiles and up to the finished tiles."""
    with _prepared(config, only, shard, progress, notify) as work:
        refuse_failures(_do_tiles(work, progress, notify), work.layout.root)
    return ShardSummary(work.layout.root, str(shard), work.share.tiles)


def commit_for_jobs(config: RunConfig, notify: Notify = unnoticed) -> tuple[Manifest, tuple[str, ...]]:
    """Creates or opens the run of a cluster's jobs; returns its manifest and the ids of the slides wanted.

    Detectors are chosen for the GPUs that the jobs get, not for those here. Errors as for `segment`.
    """
    with pending_run(config, jobs_gpus=config.slurm.gpus) as pending:
        refuse_unfit_classifiers(pending.manifest)
        manifest = pending.commit()
        for line in pending.notices() + pending.choices():
            notify(line)
        return manifest, pending.wanted


@dataclass(frozen=True)
class _Work:
    """What a command has to do; without a job all its tiles are done."""

    layout: RunLayout
    manifest: Manifest
    share: TileShare
    job: Job | None


@contextmanager
def _prepared(
    config: RunConfig, only: Sequence[str], shard: Shard | None, progress: Progress, notify: Notify
) -> Iterator[_Work]:
    """The run committed and its tiles planned; a command that is refused leaves no trace in it.

    The models are loaded before anything is written, and stay until the context ends. A fault of the run's
    disk in all that time leaves the run incomplete.
    """
    give_back_what_is_freed()
    with resumable(RunLayout(Path(config.run.output_dir))), ExitStack() as models:
        with pending_run(config, only) as pending:
            refuse_shortage_of_memory(pending, memory_limit(pending.compute.memory_gb))
            refuse_unfit_classifiers(pending.manifest)
            for line in pending.notices():
                notify(line)
            share, job = _planned(pending, pending.manifest, shard, progress)
            job = models.enter_context(with_models(job))
            manifest = pending.commit()
            for line in pending.choices():
                notify(line)
            tidy(pending.layout)
            if manifest != pending.manifest:  # another process has asked for more meanwhile
                models.close()
                share, job = _planned(pending, manifest, shard, silent)
                job = models.enter_context(with_models(job))
        with resumable(pending.layout):  # which is there by now, and may be moved from here on
            yield _Work(pending.layout, manifest, share, job)


def _planned(
    pending: PendingRun, manifest: Manifest, shard: Shard | None, progress: Progress
) -> tuple[TileShare, Job | None]:
    """The share of the tiles that is for this process, and the job of those that have no part yet."""
    share = TileShare(tiles_asked(pending, manifest, progress), shard)
    return share, plan_share(pending.layout, manifest, share, pending.compute)


def refuse_shortage_of_memory(pending: PendingRun, limit: MemoryLimit) -> None:
    """Raises `UsageError` where the memory is not enough to survey a slide and do any of its tiles."""
    if unplanned := pending.unplanned():
        refuse_shortage(unplanned, pending.manifest, limit, len(pending.settings.devices))


def tiles_asked(pending: PendingRun, manifest: Manifest, progress: Progress) -> dict[str, list[Tile]]:
    """The tiles that a run asks for, by the ids of the slides wanted; slides without a plan are surveyed."""
    tiles = {}
    for done, slide_id in enumerate(pending.wanted, start=1):
        tiles[slide_id] = chosen_tiles(manifest, slide_id, pending.tile_plan(slide_id))
        progress("survey", done, len(pending.wanted), slide=slide_id)
    return tiles


def _do_tiles(work: _Work, progress: Progress, notify: Notify) -> list[Outcome]:
    """Does the tiles, and draws the run's summary however that ends."""
    try:
        return do_tiles(work.layout, work.manifest, work.share, work.job, progress, notify)
    finally:
        draw_summary(work.layout, progress)


def _name_other_slides(work: _Work, only: Sequence[str], notify: Notify) -> None:
    """A slide that is no longer named must not look as if its cells were gone."""
    others = [s.slide_id for s in work.manifest.slides if s.slide_id not in work.share.asked]
    if others and not only:
        names = some_of(others)
        notify(
            f"the run also holds slides that were not named now, which stay and are not counted here: {names}"
        )
