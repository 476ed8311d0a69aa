"""Which tiles are done next and by how many processes; what failed is kept and told."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CELL_TYPES, ComputeSection
from pipeline.detect.resolve import build_detector
from pipeline.engine.budget import Budget, plan_workers
from pipeline.engine.tasks import SlideSource, TileTask, TileWork
from pipeline.engine.tile import Recipe
from pipeline.engine.workers import Outcome, Pool, StopFlag
from pipeline.errors import IncompleteError, InterruptedRunError, UsageError
from pipeline.progress import Progress
from pipeline.slide.tiles import Tile
from pipeline.store.layout import RunLayout
from pipeline.store.manifest import Manifest

NAMED_FAILURES = 5


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of every slide's tiles, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"shard {self.index}/{self.count} does not exist",
                fix="shards are counted from 0: --shard 0/4, 1/4, 2/4, 3/4",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard written as `I/N`."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UsageError(f"'{text}' is no shard", where="--shard", fix="write it as I/N, such as 0/4")
        return cls(int(index), int(count))

    def of(self, tiles: Sequence[Tile]) -> list[Tile]:
        return list(tiles[self.index :: self.count])


class RunLog:
    """One JSON-lines file of this process under `RUN/logs/`, made at the first line."""

    def __init__(self, layout: RunLayout) -> None:
        self._path = layout.logs / f"segment-{socket.gethostname()}-{os.getpid()}.jsonl"

    def write(self, event: str, **facts: Any) -> None:
        line = json.dumps({"at_s": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False)
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def do_tiles(
    layout: RunLayout,
    manifest: Manifest,
    tiles: Mapping[str, Sequence[Tile]],
    compute: ComputeSection,
    progress: Progress,
) -> list[Outcome]:
    """Does every tile that has no part yet; returns the outcomes of those that failed.

    Args:
        tiles: the tiles wanted, by slide id.

    Raises:
        UsageError: not even one worker fits the memory.
        InterruptedRunError: a signal came; the tiles under way were finished first.
    """
    tasks = _left(layout, tiles)
    done = sum(map(len, tiles.values())) - len(tasks)
    total = done + len(tasks)
    progress("tiles", done, total)
    if not tasks:
        return []
    work = _work(layout, manifest)
    budget = _budget(work, tiles, len(tasks), compute)
    log = RunLog(layout)
    log.write("begin", tiles=len(tasks), workers=budget.workers, worker_bytes=budget.worker_bytes)
    stop = StopFlag()
    restore = stop.install()
    try:
        failed: list[Outcome] = []
        found = 0
        for outcome in Pool(work, budget.workers, stop).outcomes(tasks):
            done += 1
            found += _record(log, outcome, failed)
            progress("tiles", done, total, cells=found, failed=len(failed))
    finally:
        restore()
    if stop.is_set and done < total:
        log.write("interrupted", signal=stop.signal_name, left=total - done)
        raise InterruptedRunError(
            f"stopped by {stop.signal_name} with {total - done} of {total} tiles left",
            where=layout.root,
            fix="nothing is lost: run the same command again to go on",
        )
    log.write("end", failed=len(failed), cells=found)
    return failed


def refuse_failures(failed: Sequence[Outcome]) -> None:
    """Raises `IncompleteError` that names the first failed tiles and why, unless there are none."""
    if not failed:
        return
    named = "; ".join(f"{o.task.slide_id}/{o.task.tile_id}: {o.error}" for o in failed[:NAMED_FAILURES])
    more = f"; and {len(failed) - NAMED_FAILURES} more" if len(failed) > NAMED_FAILURES else ""
    raise IncompleteError(
        f"{len(failed)} tiles failed: {named}{more}",
        fix="all other tiles are kept; run the same command again to try these once more",
    )


def _left(layout: RunLayout, tiles: Mapping[str, Sequence[Tile]]) -> list[TileTask]:
    """Tasks without a part, slide by slide, in reading order so that neighbours follow each other."""
    tasks = []
    for slide_id, wanted in tiles.items():
        finished = layout.finished_tiles(slide_id)
        ordered = sorted(wanted, key=lambda t: (t.scene, t.core.y0, t.core.x0))
        tasks += [TileTask(slide_id, t.tile_id) for t in ordered if t.tile_id not in finished]
    return tasks


def _work(layout: RunLayout, manifest: Manifest) -> TileWork:
    return TileWork(
        root=layout.root,
        config_hash=manifest.config_hash,
        slides={s.slide_id: SlideSource(Path(s.path), s.um_per_px) for s in manifest.slides},
        detectors={t: manifest.config.cells(t).detector for t in CELL_TYPES},
        stored={t: manifest.stored(t) for t in CELL_TYPES},
    )


def _budget(
    work: TileWork, tiles: Mapping[str, Sequence[Tile]], left: int, compute: ComputeSection
) -> Budget:
    recipe = Recipe({t: build_detector(t, name) for t, name in work.detectors.items()}, work.stored)
    window_px = max(
        tile.read_box(recipe.halo_px(work.slides[slide_id].um_per_px)).area_px
        for slide_id, wanted in tiles.items()
        for tile in wanted
    )
    return plan_workers(compute.num_workers, window_px, left, compute.memory_gb)


def _record(log: RunLog, outcome: Outcome, failed: list[Outcome]) -> int:
    where = {"slide_id": outcome.task.slide_id, "tile_id": outcome.task.tile_id}
    if outcome.facts is None:
        failed.append(outcome)
        log.write("failed", **where, error=outcome.error)
        return 0
    log.write("done", **where, **outcome.facts)
    return int(outcome.facts["cells"])
