"""The journey of a slide, from its pixels to a table of measured cells: read this first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mkhspc.budget.demand import refuse_survey
from mkhspc.budget.least_memory import memory_gb
from mkhspc.cluster.clean import tidy
from mkhspc.cluster.journal import read_journals
from mkhspc.cluster.shard import Shard
from mkhspc.cluster.status import state_of
from mkhspc.cluster.summary.page import write_run_summary
from mkhspc.config import CELL_TYPES, CellType, RunConfig
from mkhspc.errors import some_of
from mkhspc.learn.score import apply_classifiers, check_classifiers, load_classifiers
from mkhspc.measure.analysis import feature_names
from mkhspc.models.choice import RunModels, devices_for
from mkhspc.pool.tasks import Outcome
from mkhspc.process.limits import memory_limit
from mkhspc.process.memory import give_back_what_is_freed
from mkhspc.progress import Progress, silent
from mkhspc.run.merge import merge_slide, missing_tiles, refuse_missing
from mkhspc.run.open import Tell, ignore, open_run, proposed
from mkhspc.run.resumable import resumable
from mkhspc.run.schedule import Job, Share, do_tiles, plan_share, refuse_failures, with_models
from mkhspc.run.settings import with_precisions
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import chosen_tiles, load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import now_of
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.summary import RunSummary, ShardSummary, refuse_empty, summarise


def segment(
    config: RunConfig, *, only: Sequence[str] = (), progress: Progress = silent, tell: Tell = ignore
) -> RunSummary:
    """Finds, measures and stores the cells of the slides that `config` names.

    Run again, it goes on where it stopped; with a higher fraction it only adds tiles.

    Args:
        only: ids of the slides to work on now; the run stays that of all slides. None are all.
        tell: takes lines about what the run does beyond this command's wish.

    Raises:
        IncompleteError: tiles failed, or the run's disk did; all others are kept, complete slides are merged.
        InterruptedRunError: a signal stopped the run at a tile border.
        CheckFailedError: not one cell was found.
    """
    with _planned(config, only, None, progress, tell) as work:
        failed = _do_tiles(work, progress, tell)
    _tell_of_others(work, only, tell)
    with_failures = {outcome.task.slide_id for outcome in failed}
    whole = [s for s in work.share.asked if s not in with_failures]
    with resumable(work.layout):
        summary = _merged(work.layout, whole, progress)
    refuse_failures(failed)
    refuse_empty(summary)
    return summary


def _tell_of_others(work: _Work, only: Sequence[str], tell: Tell) -> None:
    """A slide that is no longer named must not look as if its cells were gone."""
    others = [s.slide_id for s in work.manifest.slides if s.slide_id not in work.share.asked]
    if others and not only:
        names = some_of(others)
        tell(
            f"the run also holds slides that were not named now, which stay and are not counted here: {names}"
        )


def segment_shard(
    config: RunConfig,
    shard: Shard,
    *,
    only: Sequence[str] = (),
    progress: Progress = silent,
    tell: Tell = ignore,
) -> ShardSummary:
    """Like `segment`, for one part of the tiles and up to the finished tiles."""
    with _planned(config, only, shard, progress, tell) as work:
        refuse_failures(_do_tiles(work, progress, tell))
    return ShardSummary(work.layout.root, str(shard), work.share.tiles)


def merge(
    layout: RunLayout, slide_ids: Sequence[str] | None = None, *, progress: Progress = silent
) -> RunSummary:
    """Makes the tables of slides whose tiles are all there, and the scores of the run's classifiers.

    Raises:
        IncompleteError: tiles that the run asks for are missing, and nothing is written then; or the run's
            disk takes no tables.
    """
    with resumable(layout):
        summary = _merged(layout, slide_ids, progress)
    _draw(layout, progress)  # a cluster's tasks end side by side, or are killed before they draw
    return summary


def _merged(layout: RunLayout, slide_ids: Sequence[str] | None, progress: Progress) -> RunSummary:
    tidy(layout)
    manifest = manifests.update(layout, lambda found: with_precisions(found, read_journals(layout)))
    slide_ids = [s.slide_id for s in manifest.slides] if slide_ids is None else slide_ids
    planned = [s for s in slide_ids if layout.plan(s).exists()]
    missing, tiles = {}, {}
    for slide_id in planned:
        plan = load_tile_plan(layout, slide_id, manifest.config_hash)  # its masks are large: one at a time
        missing[slide_id] = missing_tiles(layout, slide_id, chosen_tiles(manifest, plan))
        tiles[slide_id] = plan.tiles
    refuse_missing(missing, unplanned=[s for s in slide_ids if s not in tiles])
    for done, slide_id in enumerate(slide_ids, start=1):
        merge_slide(layout, manifest, slide_id, tiles[slide_id])
        progress("merge", done, len(slide_ids), slide=slide_id)
    if classifiers := _classifiers(manifest.config):
        apply_classifiers(layout, manifest, slide_ids, classifiers, progress)
    return summarise(layout, manifest, slide_ids)


def opened(
    config: RunConfig, only: Sequence[str] = (), tell: Tell = ignore
) -> tuple[RunLayout, Manifest, tuple[str, ...]]:
    """The run of a cluster's jobs, created or opened, with the ids of its slides wanted.

    Its classifiers fit it. Detectors are chosen for the GPUs that the jobs get, not for those here.
    """
    return open_run(config, only, accept=_accept_classifiers, tell=tell, jobs_gpus=config.slurm.gpus)


def _accept_classifiers(manifest: Manifest) -> None:
    """A night's work must not end at a file that was wrong."""
    classifiers = _classifiers(manifest.config)
    names = feature_names(manifest.config.compute.embedders)
    check_classifiers(load_classifiers(classifiers), manifest, names, classifiers)


@dataclass(frozen=True)
class _Work:
    """What a command has to do; no job if all its tiles are done."""

    layout: RunLayout
    manifest: Manifest
    share: Share
    job: Job | None


@contextmanager
def _planned(
    config: RunConfig, only: Sequence[str], shard: Shard | None, progress: Progress, tell: Tell
) -> Iterator[_Work]:
    """The run, created or grown, and the tiles to do; of a command that is refused it keeps no trace.

    The models are loaded before anything is written, and stay until the context ends. A fault of the run's
    disk in all that time leaves it incomplete.
    """
    give_back_what_is_freed()
    limit = memory_limit(config.compute.memory_gb)
    there = RunLayout(Path(config.run.output_dir))

    def accept(manifest: Manifest) -> None:
        wanted = [s for s in manifest.slides if not only or s.slide_id in only]
        unplanned = [s for s in wanted if not there.plan(s.slide_id).exists()]
        samples = manifest.config.run.calibration_samples
        refuse_survey(unplanned, samples, limit, lambda: _enough_gb(config, manifest))
        _accept_classifiers(manifest)

    with resumable(there), ExitStack() as models:
        with proposed(config, only, accept=accept, tell=tell) as proposal:
            layout, wanted = proposal.layout, proposal.wanted
            tiles = {}
            for done, slide_id in enumerate(wanted, start=1):
                tiles[slide_id] = chosen_tiles(proposal.manifest, proposal.plan(slide_id))
                progress("survey", done, len(wanted), slide=slide_id)
            share = Share(tiles, shard)
            job = models.enter_context(
                with_models(plan_share(layout, proposal.manifest, share, config.compute))
            )
            manifest = proposal.take()
            tidy(layout)
        if manifest != proposal.manifest:  # another process asked for more meanwhile
            models.close()
            share = Share(
                {s: chosen_tiles(manifest, prepare_tile_plan(layout, manifest, s)) for s in wanted}, shard
            )
            job = models.enter_context(with_models(plan_share(layout, manifest, share, config.compute)))
        yield _Work(layout, manifest, share, job)


def _enough_gb(config: RunConfig, manifest: Manifest) -> int:
    """In which one worker can do any tile of a run."""
    devices = devices_for(RunModels.of(manifest.config), config.compute.device)
    return memory_gb(config, manifest, 1, owners=len(devices))


def _do_tiles(work: _Work, progress: Progress, tell: Tell) -> list[Outcome]:
    """Does the tiles, and however that ends draws how it went."""
    layout = work.layout
    try:
        return do_tiles(layout, work.manifest, work.share, work.job, progress, tell)
    finally:
        _draw(layout, progress)


def _draw(layout: RunLayout, progress: Progress) -> None:
    """Writes the run's summary; a fault of that is told and must not hide how the run itself ended."""
    try:
        if journals := read_journals(layout):
            write_run_summary(layout.logs, journals, now_of(layout.logs), state_of)
    except Exception as fault:  # whatever it is: the run's own error is under way, or its tiles are done
        words = str(fault) if isinstance(fault, OSError) else f"{type(fault).__name__}: {fault}"
        progress("summary", 0, 1, error=words)


def _classifiers(config: RunConfig) -> dict[CellType, Path]:
    """The classifier files that a config names; without one, all cells of its type are accepted."""
    named = {t: config.cells(t).classifier for t in CELL_TYPES}
    return {t: Path(name) for t, name in named.items() if name is not None}
