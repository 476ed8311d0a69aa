"""Work on tiles in a worker process: pixels from shared memory in, parts of the run out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, AreaRange, CellType, RunConfig
from mkhspc.detect.contract import CountsOutcomes, Window
from mkhspc.measure.analysis import TileAnalysis
from mkhspc.models.choice import RunModels
from mkhspc.models.server.client import OwnerClient
from mkhspc.models.server.owners import Owners
from mkhspc.pool.feed import TileTask
from mkhspc.pool.slots import SlotsHandle
from mkhspc.process.memory import give_back_gaps, peak_bytes
from mkhspc.run.tile import PIECE_ROWS, find_cells, with_pictures
from mkhspc.slide.tiles import Tile, TilePlan, load_tile_plan
from mkhspc.store import tables
from mkhspc.store.layout import RunLayout
from mkhspc.store.schema import feature_columns, part_schema


@dataclass
class TileWork:
    """A worker's work: see `engine.workers.Work`.

    Attributes:
        um_per_px: by slide.
        config: the run's; with `stored` and `models` it says what is looked for.
        service: reaches the models, None without any: `engine.owners.Owners`, which is one of their clients
            once it has arrived in the worker.
        slots: where the windows are; opened in the worker.
    """

    root: Path
    config_hash: str
    um_per_px: Mapping[str, float]
    config: RunConfig
    stored: Mapping[CellType, AreaRange]
    models: RunModels
    service: Owners | OwnerClient | None
    slots: SlotsHandle

    def analysis(self) -> TileAnalysis:
        service = self.service if isinstance(self.service, OwnerClient) else None
        return TileAnalysis.of(self.config, self.stored, self.models, service)

    def prepare(self) -> None:
        cv2.setNumThreads(1)  # one core a worker: the pool is the parallelism
        pa.set_cpu_count(1)
        pa.set_memory_pool(pa.system_memory_pool())  # the default one keeps what was freed
        self._analysis = self.analysis()
        self._slots = self.slots.open()
        self._planned_id = ""
        self._ended_s = time.monotonic()

    def run(self, task: TileTask) -> dict[str, Any]:
        begun_s = time.monotonic()
        waited_s = begun_s - self._ended_s
        plan, tile = self._plan(task)
        asked_before_s = self._asked_s
        for counts in self._counts.values():
            counts.clear()  # of a tile that failed
        window = Window(
            rgb=self._slots.pixels(task.slot, task.window.height, task.window.width),
            box=task.window,
            um_per_px=self.um_per_px[task.slide_id],
            calibration=plan.calibration[tile.scene],
        )
        tissue = plan.tissue[tile.scene].part(task.window)
        cells = find_cells(task.slide_id, window, tissue, tile, self._analysis)
        with suppress(FileExistsError):  # another process of the same run was first: same bytes
            tables.create_stream(
                RunLayout(self.root).part(task.slide_id, task.tile_id),
                part_schema(feature_columns(cells.column_names)),
                with_pictures(cells, window),
                self.config_hash,
                group_rows=PIECE_ROWS,
            )
        del window
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
        return self.service.asked_s if isinstance(self.service, OwnerClient) else 0.0

    def _model_facts(self, asked_before_s: float) -> dict[str, Any]:
        if self.service is None:
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
