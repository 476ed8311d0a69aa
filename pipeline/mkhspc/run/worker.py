"""What a worker process does with tiles: pixels come in shared memory, cells go to the parts of the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellRange, CellType, RunConfig
from mkhspc.detect.contract import CountsOutcomes
from mkhspc.measure.analysis import TileAnalysis
from mkhspc.models.choice import RunModels
from mkhspc.models.server.client import ModelsAddress
from mkhspc.pool.feed import TileTask
from mkhspc.pool.slots import SlotsHandle
from mkhspc.process.memory import give_back_gaps, peak_bytes
from mkhspc.run.journey import TileInRun, tile_journey
from mkhspc.slide.tiles import Tile, TilePlan, load_tile_plan
from mkhspc.store.layout import RunLayout


@dataclass
class TileWorker:
    """The work of a worker process; see `pool.tasks.Work`.

    Attributes:
        um_per_px: by slide.
        config: the run's; with `stored` and `models` it says what is looked for.
        models_address: of the model servers, opened in the worker; None where no model is used.
        slots: where the windows are; opened in the worker.
    """

    root: Path
    config_hash: str
    um_per_px: Mapping[str, float]
    config: RunConfig
    stored: Mapping[CellType, CellRange]
    models: RunModels
    models_address: ModelsAddress | None
    slots: SlotsHandle

    def prepare(self) -> None:
        cv2.setNumThreads(1)  # one core a worker: the pool is the parallelism
        pa.set_cpu_count(1)
        pa.set_memory_pool(pa.system_memory_pool())  # the default one keeps what was freed
        self._client = self.models_address.open() if self.models_address else None
        self._analysis = self.analysis()
        self._slots = self.slots.open()
        self._planned_id = ""
        self._ended_s = time.monotonic()

    def analysis(self) -> TileAnalysis:
        """What finds and measures the cells of a tile."""
        return TileAnalysis.of(self.config, self.stored, self.models, self._client)

    def run(self, task: TileTask) -> dict[str, Any]:
        begun_s = time.monotonic()
        waited_s = begun_s - self._ended_s
        plan, tile = self._plan(task)
        asked_before_s = self._asked_s
        for counts in self._counts.values():
            counts.clear()  # of a tile that failed
        place = TileInRun(
            slide_id=task.slide_id,
            um_per_px=self.um_per_px[task.slide_id],
            plan=plan,
            tile=tile,
            box=task.window,
            part=RunLayout(self.root).part(task.slide_id, task.tile_id),
            config_hash=self.config_hash,
        )
        pixels = self._slots.pixels(task.slot, task.window.height, task.window.width)
        cells = tile_journey(place, pixels, self._analysis)
        del pixels
        self._slots.unmap()
        give_back_gaps()
        self._ended_s = time.monotonic()
        return {
            "cells": len(cells),
            **{t: pc.sum(pc.equal(cells["cell_type"], t)).as_py() or 0 for t in CELL_TYPES},
            "seconds": round(self._ended_s - begun_s, 3),
            "waited_s": round(waited_s, 3),
            **self._model_facts(asked_before_s),
            "peak_bytes": peak_bytes(),
        }

    @property
    def _asked_s(self) -> float:
        return self._client.asked_s if self._client else 0.0

    def _model_facts(self, asked_before_s: float) -> dict[str, Any]:
        if self._client is None:
            return {}
        judged = {f"{cell_type}_by_sam2": dict(counts) for cell_type, counts in self._counts.items()}
        return {"models_s": round(self._asked_s - asked_before_s, 3), **judged}

    @property
    def _counts(self) -> dict[CellType, Counter[str]]:
        """What became of SAM2's masks, by cell type."""
        detectors = self._analysis.detectors
        return {t: found.outcomes for t, found in detectors.items() if isinstance(found, CountsOutcomes)}

    def _plan(self, task: TileTask) -> tuple[TilePlan, Tile]:
        if task.slide_id != self._planned_id:
            self._plan_now = load_tile_plan(RunLayout(self.root), task.slide_id, self.config_hash)
            self._tiles_now = {tile.tile_id: tile for tile in self._plan_now.tiles}
            self._planned_id = task.slide_id
        return self._plan_now, self._tiles_now[task.tile_id]
