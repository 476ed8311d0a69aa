"""What a process has to do: its share of the tiles, in the order of reading, and how they fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from mkhspc.budget.demand import MEASURED_MARGIN, Demand, room_bytes
from mkhspc.budget.survey_memory import mask_px
from mkhspc.budget.workers import Budget, best_budget, layout_of, plan_workers
from mkhspc.cluster.shard import Shard
from mkhspc.config import ComputeSection
from mkhspc.detect.classical.mk import block_count
from mkhspc.measure.analysis import TileAnalysis, analysis_of
from mkhspc.measure.deep import column_names
from mkhspc.models.choice import RunModels, devices_for
from mkhspc.models.server.supervisor import ModelServers
from mkhspc.pool.feed import TileTask
from mkhspc.process.limits import MemoryLimit, memory_limit, usable_cores
from mkhspc.slide.tile_windows import TileWindows, order_tiles
from mkhspc.slide.tiles import Tile
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SlideEntry

LARGE_WINDOW = 0.9
"""A tile is representative only if its window has this share of the pixels of the largest window ..."""
DENSE_CORE = 0.5
"""... and its core this share of the most fat-free tissue in any: empty tiles end first, and need least."""


@dataclass(frozen=True)
class TileShare:
    """The tiles that a process is responsible for.

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


def plan_share(
    layout: RunLayout, manifest: Manifest, share: TileShare, compute: ComputeSection
) -> Job | None:
    """The work on those tiles of a share that have no part yet; None if all have.

    Raises:
        UsageError: not even one worker fits the memory; with what would be needed.
    """
    left = share.left(layout)
    return plan_job(manifest, left, compute) if left else None


@dataclass(frozen=True)
class Job:
    """Tiles to do, in the order of reading, and how they fit into memory.

    Attributes:
        servers: of the models; None without any, and until `with_models` has loaded them.
    """

    slides: Sequence[TileWindows]
    demand: Demand
    budget: Budget
    asked: int | Literal["auto"]
    models: RunModels
    devices: Sequence[str]
    servers: ModelServers | None = None

    @property
    def most_slots(self) -> int:
        """With as many workers as there are cores, whatever memory allows at first."""
        return max(self.budget.slots, layout_of(self.demand, self._most_workers, self.budget.limit).slots)

    @property
    def _most_workers(self) -> int:
        return max(1, min(usable_cores(), self.demand.tiles))

    def measured(self, worker_bytes: int, *, is_representative: bool) -> Budget:
        """The budget with the most that a worker was seen to need; never without a worker.

        Servers count as expected where they took less: the tiles so far may not have asked every model.

        Args:
            is_representative: a representative tile is among those done; before, no worker is added.
        """
        if self.asked != "auto":
            return self.budget
        server_bytes = max(self.demand.server_bytes, self.servers.peak_bytes if self.servers else 0)
        read_threads = self.budget.read_threads
        demand = self.demand.measured(int(MEASURED_MARGIN * worker_bytes), server_bytes, read_threads)
        most = usable_cores() if is_representative else self.budget.workers
        return best_budget(demand, most, self.budget.limit)

    def is_representative(self, task: TileTask) -> bool:
        """Whether a tile is about as large and as dense as any, so that it shows what the others need."""
        is_large = task.window.area_px >= LARGE_WINDOW * self.demand.window_px
        return is_large and self._fat_free_um2[task.slide_id, task.tile_id] >= DENSE_CORE * self._densest_um2

    @cached_property
    def _fat_free_um2(self) -> dict[tuple[str, str], float]:
        return {(s.slide_id, tile.tile_id): tile.fat_free_area_um2 for s in self.slides for tile in s.tiles}

    @cached_property
    def _densest_um2(self) -> float:
        return max(self._fat_free_um2.values())


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
    models = RunModels.of(manifest.config)
    devices = devices_for(models, compute.device)
    analysis = analysis_of(manifest, models)
    room = room_bytes(limit.limit_bytes)
    channel = manifest.config.run.channel
    slides = [
        _windows(analysis, manifest.slide(slide_id), wanted, room, channel)
        for slide_id, wanted in tiles.items()
    ]
    demand = _demand(manifest, analysis, slides, len(devices) * models.resident_bytes)
    budget = plan_workers(compute.num_workers, demand, usable_cores(), limit)
    return Job(slides, demand, budget, compute.num_workers, models, devices)


def _windows(
    analysis: TileAnalysis, slide: SlideEntry, tiles: Sequence[Tile], room_bytes: int, channel: int | None
) -> TileWindows:
    """The windows of a slide's tiles in the order of reading, of the file that the run began with."""
    window_of = partial(analysis.read_box, um_per_px=slide.um_per_px)
    path, size = Path(slide.path), slide.um_per_px
    reads = order_tiles(slide.slide_id, path, size, tiles, window_of, room_bytes, channel=channel)
    return replace(reads, fingerprint=slide.fingerprint)


def _demand(
    manifest: Manifest, analysis: TileAnalysis, slides: Sequence[TileWindows], server_bytes: int
) -> Demand:
    """What the largest window, image and mask of any slide ask of memory, beside what the models take."""
    windows = [(box, slide.um_per_px) for slide in slides for box in slide.windows]
    halos_px = [(slide.tiles, analysis.near_halo_px(slide.um_per_px)) for slide in slides]
    return Demand(
        tiles=sum(len(slide.tiles) for slide in slides),
        window_px=max(box.area_px for box, _ in windows),
        held_bytes=max(slide.cost.held_bytes for slide in slides),
        block_bytes=max(slide.cost.block_bytes for slide in slides),
        mask_px=max(mask_px(manifest.slide(slide.slide_id)) for slide in slides),
        server_bytes=server_bytes,
        message_bytes=max(analysis.message_bytes(slide.um_per_px) for slide in slides),
        deep_columns=len(column_names(manifest.config.compute.embedders)),
        near_px=max(tile.core.grown(halo_px).area_px for tiles, halo_px in halos_px for tile in tiles),
        blocks=max(block_count(box.area_px, um_per_px) for box, um_per_px in windows),
    )
