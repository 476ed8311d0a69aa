"""The engine: what it adds to the bare detectors, how it scales, what it holds in memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from detection import plainly
from numpy.typing import NDArray

from large import UM_PER_PX, mirrored_marrow
from mkhspc.cluster.claims import ClaimFiles
from mkhspc.cluster.journal import read_journals
from mkhspc.config import CELL_TYPES, CellRange, CellType, RunConfig
from mkhspc.detect.contract import Detection, NeededCells, Window
from mkhspc.geometry import Box, um_to_px
from mkhspc.measure.analysis import TileAnalysis, analysis_of
from mkhspc.models.choice import RunModels
from mkhspc.pool.feed import WindowFeed
from mkhspc.pool.pool import Pool
from mkhspc.pool.slots import Slots
from mkhspc.process.signals import StopFlag
from mkhspc.run.job import plan_job
from mkhspc.run.worker import TileWorker
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import SceneCalibration
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import Tile, chosen_tiles
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import measured
from runs import committed

Row = dict[str, object]

SMALL_PX = 8192
LARGE_PX = 32768
ROUNDS = 2
SMALL_RUNS = 3
"""Of four tiles each: how often do two workers need their most at the same moment? In one run hardly ever,
in the 64 tiles of the large slide for certain."""
NAP_S = 1.5
"""Of the detector that does nothing but sleep, about a third of a real tile's time."""


def rows(shared: Path | None, full: bool) -> list[Row]:
    if shared is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        small = mirrored_marrow(shared, scratch / "small.czi", SMALL_PX, SMALL_PX)
        found = [
            *_over_bare_loop(small, scratch, full),
            *_two_workers(small, scratch),
            _sleeping(small, scratch),
        ]
        found += _memory(shared, small, scratch, full)
    return found


def _segment(slide: Path, root: Path, *options: object, cores: str = "0,1") -> float:
    """Seconds of the work on tiles, as the journal has it: from its first line to its last."""
    command = [
        sys.executable,
        "-m",
        "mkhspc",
        "segment",
        "--czi-path",
        slide,
        "--output-dir",
        root,
        *options,
    ]
    subprocess.run(["taskset", "-c", cores, *map(str, command)], check=True, capture_output=True)
    events = [event for journal in read_journals(RunLayout(root)) for event in journal.events]
    first = min(e.at_s - e.facts["seconds"] for e in events if e.name == "done")
    return max(e.at_s for e in events if e.name == "done") - first


def _over_bare_loop(slide: Path, scratch: Path, full: bool) -> list[Row]:
    """The whole command against the detectors alone, on windows in memory, all on one core, in turn.

    The best of each side counts. The plain detectors take two minutes for a window: in the long measurement
    they do one, and the others count by their area.
    """
    whole_s, bare_s = [], []
    for nth in range(ROUNDS):
        root = scratch / f"whole-{nth}"
        begun_s = time.perf_counter()
        _segment(slide, root, "--num-workers", 1, cores="0")
        whole_s.append(time.perf_counter() - begun_s)
        windows = _windows(slide, root)
        bare_s.append(_on_core_0(windows.detect_all))
    loop = f"best of {ROUNDS} in turn: both detectors on windows in memory {min(bare_s):.1f} s"
    found = [_row_of_whole("the bare detectors", min(whole_s), min(bare_s), 2.5, loop)]
    if full:
        one_plain_s = _on_core_0(lambda: plainly(windows.window(0)))
        plain_s = one_plain_s * sum(box.area_px for box in windows.boxes) / windows.boxes[0].area_px
        loop = f"the plain detectors on windows in memory: {plain_s:.0f} s, by area from one window"
        found.append(_row_of_whole("plain scikit-image detectors", min(whole_s), plain_s, 0.6, loop))
    return found


def _row_of_whole(name: str, whole_s: float, loop_s: float, most: float, baseline: str) -> Row:
    return {
        "name": f"whole `segment` of 4 tiles over {name}, one core",
        "value": whole_s / loop_s,
        "unit": "x",
        "baseline": f"{baseline} (segment {whole_s:.1f} s)",
        "target": f"<= {most:g}",
        "ok": whole_s / loop_s <= most,
    }


@dataclass(frozen=True)
class _Windows:
    """The windows of a run's tiles, read."""

    pixels: Sequence[NDArray[np.uint8]]
    tiles: Sequence[Tile]
    calibration: SceneCalibration
    analysis: TileAnalysis

    @property
    def boxes(self) -> list[Box]:
        return [self.analysis.read_box(tile.core, UM_PER_PX) for tile in self.tiles]

    def window(self, nth: int) -> Window:
        """A window anew: it keeps the stains that it has separated."""
        return Window(self.pixels[nth], self.boxes[nth], UM_PER_PX, self.calibration)

    def detect_all(self) -> None:
        """Each detector on as much of the window as it needs, which a run does not exceed either."""
        for nth, tile in enumerate(self.tiles):
            window = self.window(nth)
            for cell_type, detector in self.analysis.detectors.items():
                box = self.analysis.detector_box(cell_type, tile.core, UM_PER_PX)
                part = window.part(box, self.analysis.wanted(cell_type, tile.core, UM_PER_PX))
                detector.detect(part, self.analysis.stored[cell_type])


def _windows(slide: Path, root: Path) -> _Windows:
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    analysis = analysis_of(manifest, RunModels({}))
    plan = prepare_tile_plan(layout, manifest, slide.stem)
    boxes = [analysis.read_box(tile.core, UM_PER_PX) for tile in plan.tiles]
    with CziSlide.open(slide) as opened:
        pixels = [opened.read(0, box) for box in boxes]
    return _Windows(pixels, plan.tiles, plan.calibration[0], analysis)


def _on_core_0(work: Callable[[], object]) -> float:
    before, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, {0})
    cv2.setNumThreads(1)
    try:
        begun_s = time.perf_counter()
        work()
        return time.perf_counter() - begun_s
    finally:
        os.sched_setaffinity(0, before)
        cv2.setNumThreads(threads)


def _two_workers(slide: Path, scratch: Path) -> list[Row]:
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for nth in range(ROUNDS):
        for workers, cores in ((1, "0"), (2, "0,1")):
            options = ("--num-workers", workers, "--tile-size", 2048)
            seconds[workers].append(_segment(slide, scratch / f"{workers}-{nth}", *options, cores=cores))
    one_s, two_s = min(seconds[1]), min(seconds[2])
    events = [e for journal in read_journals(RunLayout(scratch / "2-0")) for e in journal.events]
    done = [event.facts for event in events if event.name == "done"]
    waited_s = sum(facts["waited_s"] for facts in done)
    worked_s = sum(facts["seconds"] for facts in done)
    return [
        {
            "name": "tiles a second of two workers over one worker on one core",
            "value": one_s / two_s,
            "unit": "x",
            "baseline": f"best of {ROUNDS} in turn: one worker and its reader pinned to one core"
            f" {one_s:.1f} s for {len(done)} tiles",
            "target": ">= 1.8",
            "ok": one_s / two_s >= 1.8,
        },
        {
            "name": "share of the workers' time spent waiting for windows",
            "value": waited_s / (waited_s + worked_s),
            "unit": "",
            "baseline": f"{worked_s:.1f} s of work on {len(done)} tiles",
            "target": "<= 0.05",
            "ok": waited_s / (waited_s + worked_s) <= 0.05,
        },
    ]


@dataclass(frozen=True)
class Sleeper:
    """A detector that takes its time and finds nothing."""

    cell_type: CellType
    nap_s: float
    name: str = "sleeper"
    longest_um: float = math.inf

    def halo_um(self, needed: NeededCells) -> float:
        return needed.longest_um + 20.0

    def seen_box(self, core: Box, needed: NeededCells, um_per_px: float) -> Box:
        return core.grown(um_to_px(self.halo_um(needed), um_per_px))

    def detect(self, window: Window, area: CellRange) -> Sequence[Detection]:
        time.sleep(self.nap_s)
        return ()


@dataclass
class SleepingWork(TileWorker):
    """A worker's work with sleepers in the place of detectors."""

    def analysis(self) -> TileAnalysis:
        return TileAnalysis({t: Sleeper(t, NAP_S / 2) for t in CELL_TYPES}, self.stored)


def _sleeping(slide: Path, scratch: Path) -> Row:
    """From when the first worker asks for its first tile until the last tile is done."""
    base = RunConfig()
    run = replace(base.run, output_dir=str(scratch / "sleep"), slides=(str(slide),), tile_size=2048)
    config = replace(base, run=run, compute=replace(base.compute, num_workers=2))
    layout, manifest, (slide_id,) = committed(config)
    tiles = {slide_id: chosen_tiles(manifest, slide_id, prepare_tile_plan(layout, manifest, slide_id))}
    job = plan_job(manifest, tiles, config.compute)
    slots = Slots(job.budget.slots, job.demand.slot_bytes)
    work = SleepingWork(
        root=layout.root,
        config_hash=manifest.config_hash,
        um_per_px={slide_id: UM_PER_PX},
        config=manifest.config,
        stored={t: manifest.stored(t) for t in CELL_TYPES},
        models=job.models,
        models_address=None,
        slots=slots.handle(),
    )
    feed = WindowFeed(
        job.slides,
        slots,
        ClaimFiles(layout),
        use_slots=slots.count,
        threads=job.budget.read_threads,
    )
    try:
        ended = [(time.monotonic(), o.facts) for o in Pool(work, 2, StopFlag()).outcomes(feed) if o.facts]
    finally:
        feed.close()
        slots.close()
    if any(facts["seconds"] < NAP_S for _, facts in ended):
        raise RuntimeError("a tile took less than its sleep: the sleeping detectors were not used")
    if cells := sum(facts["cells"] for _, facts in ended):
        raise RuntimeError(f"the sleeping detectors find nothing, and yet {cells} cells were found")
    begun_s = min(end_s - facts["seconds"] - facts["waited_s"] for end_s, facts in ended)
    spent_s = 2 * (max(end_s for end_s, _ in ended) - begun_s)
    slept_s = NAP_S * len(ended)
    return {
        "name": f"the engine with a detector that sleeps, {len(ended)} tiles: wall time of its two workers",
        "value": spent_s / slept_s,
        "unit": "x",
        "baseline": f"the sum of the sleeps: {slept_s:.1f} s",
        "target": "<= 1.10",
        "ok": spent_s / slept_s <= 1.10,
    }


def _memory(shared: Path, small: Path, scratch: Path, full: bool) -> list[Row]:
    """Peaks of the whole process tree, and the planner's word for them."""
    large = mirrored_marrow(shared, scratch / "large.czi", LARGE_PX, LARGE_PX)
    fraction = 1.0 if full else 0.1
    workers = ("--num-workers", 2)
    small_runs = [
        measured("segment", "--czi-path", small, "--output-dir", scratch / f"mem-small{nth}", *workers)
        for nth in range(SMALL_RUNS)
    ]
    options = (*workers, "--sample-fraction", fraction)
    large_run = measured("segment", "--czi-path", large, "--output-dir", scratch / "mem-large", *options)
    for run in (*small_runs, large_run):
        if run.process.returncode:
            raise RuntimeError(run.process.stderr)
    planned = measured("plan", "--czi-path", large, *options, "--json")
    predicted_bytes = json.loads(planned.process.stdout)["peak_bytes"]
    small_bytes = max(run.peak_bytes for run in small_runs)
    ratio = large_run.peak_bytes / small_bytes
    return [
        {
            "name": f"peak memory on 1.07 Gpx over that on 67 Mpx, two workers, fraction {fraction:g}",
            "value": ratio,
            "unit": "x",
            "baseline": f"{small_bytes / 1e9:.2f} GB, the most of {SMALL_RUNS} runs"
            f" (large {large_run.peak_bytes / 1e9:.2f} GB)",
            "target": "<= 1.2",
            "ok": ratio <= 1.2,
        },
        {
            "name": f"planner's peak memory over the measured peak on 1.07 Gpx, fraction {fraction:g}",
            "value": predicted_bytes / large_run.peak_rss_bytes,
            "unit": "x",
            "baseline": f"{large_run.peak_rss_bytes / 1e9:.2f} GB measured, sum of RSS",
            "target": "0.90 to 1.10",
            "ok": 0.9 <= predicted_bytes / large_run.peak_rss_bytes <= 1.1,
        },
    ]
