"""Work on tiles in a worker process: open the slide once, then tile after tile into parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from pipeline.config import AreaRange, CellType
from pipeline.detect.resolve import build_detector
from pipeline.engine.tile import Recipe, find_cells
from pipeline.slide.czi import CziSlide
from pipeline.slide.tiles import Tile, TilePlan, read_plan
from pipeline.store import tables
from pipeline.store.layout import RunLayout


@dataclass(frozen=True)
class TileTask:
    """One tile of one slide, small enough to travel by pipe."""

    slide_id: str
    tile_id: str


@dataclass(frozen=True)
class SlideSource:
    """Where a slide's pixels are and which pixel size counts."""

    path: Path
    um_per_px: float


@dataclass
class TileWork:
    """A worker's work: see `engine.workers.Work`. Holds one slide open at a time."""

    root: Path
    config_hash: str
    slides: Mapping[str, SlideSource]
    detectors: Mapping[CellType, str]
    stored: Mapping[CellType, AreaRange]

    def prepare(self) -> None:
        cv2.setNumThreads(1)  # one core a worker: the pool is the parallelism
        self._recipe = Recipe({t: build_detector(t, name) for t, name in self.detectors.items()}, self.stored)
        self._open_id = ""

    def run(self, task: TileTask) -> dict[str, Any]:
        begun_s = time.monotonic()
        slide, plan, tiles = self._slide(task.slide_id)
        cells = find_cells(slide, plan, tiles[task.tile_id], self._recipe)
        with suppress(FileExistsError):  # another process of the same run was first: same bytes
            tables.create_table(
                RunLayout(self.root).part(task.slide_id, task.tile_id), cells, self.config_hash
            )
        return {"cells": len(cells), "seconds": round(time.monotonic() - begun_s, 3)}

    def _slide(self, slide_id: str) -> tuple[CziSlide, TilePlan, dict[str, Tile]]:
        if slide_id != self._open_id:
            source = self.slides[slide_id]
            self._slide_now = CziSlide.open(source.path, um_per_px=source.um_per_px)
            self._plan_now = read_plan(RunLayout(self.root), slide_id, self.config_hash)
            self._tiles_now = {tile.tile_id: tile for tile in self._plan_now.tiles}
            self._open_id = slide_id
        return self._slide_now, self._plan_now, self._tiles_now
