"""Records how the tiles of one process go: in its journal, and for whoever watches it work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mkhspc.cluster.journal import RunLog
from mkhspc.config import CELL_TYPES
from mkhspc.models.server.reports import Loaded
from mkhspc.progress import Progress
from mkhspc.store.manifest import Manifest

MEMORY_EVERY_S = 30.0
"""Seconds between two lines about memory, which also show other hosts that the process lives ..."""
MEMORY_SHARE = 0.02
"""... and at first this share of the time so far, so that a short run has a curve as well."""


@dataclass
class SlideTiles:
    """Tiles of one slide, counted.

    Attributes:
        asked: what the whole run asks for.
        share: what this process has to see to.
        done: of that share, those that have their part.
        failed: of that share, those given up by this process.
    """

    asked: int
    share: int
    done: int
    failed: int = 0


class TileRecorder:
    """Writes into the journal, and reports to `progress`, how the tiles of one process go.

    Args:
        slides: its share, by slide id.
        memory_every_s: time between two lines of the journal about memory; the first come faster.
    """

    def __init__(
        self,
        log: RunLog,
        progress: Progress,
        slides: Mapping[str, SlideTiles],
        *,
        memory_every_s: float = MEMORY_EVERY_S,
    ) -> None:
        self._log = log
        self._progress = progress
        self._slides = slides
        self._memory_every_s = memory_every_s
        self._found: dict[str, int] = dict.fromkeys(("cells", *CELL_TYPES), 0)
        self._begun_s = time.monotonic()
        self._now: dict[str, int] = {}
        self._peak_bytes = 0
        self._written: tuple[float, int] | None = None  # when, and with how many workers

    @property
    def total(self) -> int:
        return sum(slide.share for slide in self._slides.values())

    @property
    def failed_tiles(self) -> int:
        return sum(slide.failed for slide in self._slides.values())

    @property
    def left(self) -> int:
        """Tiles neither done nor given up."""
        return self.total - sum(slide.done + slide.failed for slide in self._slides.values())

    @property
    def cells(self) -> int:
        """Cells found by this process."""
        return self._found["cells"]

    def begin(
        self, manifest: Manifest, *, workers: int, limit_bytes: int, shard: str | None = None, **facts: Any
    ) -> None:
        """The work begins with so many worker processes; `facts` go into the journal as they are.

        Raises:
            OSError: the journal cannot be written, so no part could be either.
        """
        self._begun_s = time.monotonic()
        self._now = {"workers": workers, "limit_bytes": limit_bytes}
        self._log.write(
            "begin",
            shard=shard,
            **self._now,
            slides={name: vars(slide) for name, slide in self._slides.items()},
            dataset=manifest.dataset,
            config_hash=manifest.config_hash,
            identity=dict(manifest.identity),
            versions=dict(manifest.versions),
            **facts,
        )
        for slide_id in self._slides:
            self._report(slide_id)

    def models(self, loaded: Loaded) -> None:
        """A device has its models."""
        self._log.write(
            "models",
            device=loaded.device,
            load_s=round(loaded.load_s, 3),
            memory_bytes=loaded.rss_bytes,
            precision=dict(loaded.precision),
        )

    def device(self, text: str) -> None:
        """The process that holds the models of a device died, or was started again."""
        self._log.write("device", text=text)

    def done(self, slide_id: str, tile_id: str, facts: Mapping[str, Any]) -> None:
        """A tile has its part.

        Args:
            facts: of the worker: `seconds`, `cells`, and the cells by type as `mk` and `hspc`.
        """
        self._slides[slide_id].done += 1
        for name in self._found:
            self._found[name] += int(facts.get(name, 0))
        self._log.write("done", slide_id=slide_id, tile_id=tile_id, **facts)
        self._report(slide_id)

    def done_elsewhere(self, slide_id: str) -> None:
        """Another process of the run has done a tile of this one's share."""
        self._slides[slide_id].done += 1
        self._report(slide_id)

    def failed(self, slide_id: str, tile_id: str, error: str) -> None:
        """A tile is given up."""
        self._slides[slide_id].failed += 1
        self._log.write("failed", slide_id=slide_id, tile_id=tile_id, error=error)
        self._report(slide_id, tile=tile_id, error=error)

    def retried(self, slide_id: str, tile_id: str, error: str) -> None:
        """A worker died over a tile, which is tried once more."""
        self._log.write("retry", slide_id=slide_id, tile_id=tile_id, error=error)

    def postponed(self, slide_id: str, tile_id: str) -> None:
        """Memory was short, and the tile begun last will be done later; nothing is wrong with the tile."""
        self._log.write("put-off", slide_id=slide_id, tile_id=tile_id)

    def memory(self, memory_bytes: int, workers: int) -> None:
        """The processes' memory now; to be called every second or so, whether tiles end or not."""
        self._now |= {"memory_bytes": memory_bytes, "workers": workers}
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        if self._written is None or self._is_due(*self._written):
            self._write_memory()
        self._report()

    def _is_due(self, written_s: float, workers: int) -> bool:
        now_s = time.monotonic()
        every_s = min(self._memory_every_s, MEMORY_SHARE * (now_s - self._begun_s))
        return now_s - written_s >= every_s or workers != self._now["workers"]

    def _write_memory(self) -> None:
        self._log.write("memory", **self._now, peak_bytes=self._peak_bytes)
        self._written, self._peak_bytes = (time.monotonic(), self._now["workers"]), 0

    def interrupted(self, signal_name: str) -> None:
        """A signal stops the process at a tile border."""
        self._write_last_memory()
        self._log.write("interrupted", signal=signal_name, left=self.left)

    def end(self) -> None:
        """Every tile of the share is done or given up."""
        self._write_last_memory()
        self._log.write("end", failed=self.failed_tiles, **self._found)

    def _write_last_memory(self) -> None:
        """A peak since the last line must not be lost."""
        if self._peak_bytes:
            self._write_memory()

    def _report(self, slide_id: str | None = None, **facts: str | int | float) -> None:
        if slide_id is not None:
            slide = self._slides[slide_id]
            facts |= {
                "slide": slide_id,
                "slide_done": slide.done + slide.failed,
                "slide_total": slide.share,
                "slide_failed": slide.failed,
            }
        facts = {**facts, **self._found, "failed": self.failed_tiles, **self._now}
        self._progress("tiles", self.total - self.left, self.total, **facts)
