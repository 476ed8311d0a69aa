"""How far a run is, from its files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.engine.prepare import chosen_tiles
from pipeline.slide.tiles import read_plan
from pipeline.store import manifest as manifests
from pipeline.store.layout import RunLayout
from pipeline.store.manifest import Manifest


@dataclass(frozen=True)
class SlideStatus:
    """Tiles of one slide: of those the run asks for, how many are done, failed and left.

    `failed` are tiles whose last try failed; they count among `left` too. Before a slide is
    planned its number of tiles is unknown and `tiles` is None.
    """

    slide_id: str
    tiles: int | None
    done: int
    failed: int
    merged: bool

    @property
    def left(self) -> int | None:
        return None if self.tiles is None else self.tiles - self.done


@dataclass(frozen=True)
class RunStatus:
    """All slides of a run, and how fast the tiles of its last 10 minutes of work came."""

    slides: tuple[SlideStatus, ...]
    cells: int
    tiles_per_s: float | None

    @property
    def left(self) -> int:
        return sum(slide.left or 0 for slide in self.slides)

    @property
    def eta_s(self) -> float | None:
        return self.left / self.tiles_per_s if self.tiles_per_s else None


RATE_WINDOW_S = 600.0


def run_status(layout: RunLayout) -> RunStatus:
    """Reads a run's manifest, plans, parts and logs.

    Raises:
        InputError: the directory is no run.
    """
    manifest = manifests.read(layout)
    events = list(_events(layout))
    last = {(e["slide_id"], e["tile_id"]): e for e in events if e["event"] in ("done", "failed")}
    slides = tuple(_slide_status(layout, manifest, s.slide_id, last) for s in manifest.slides)
    cells = sum(event["cells"] for event in last.values() if event["event"] == "done")
    return RunStatus(slides, cells, _rate(events))


def _events(layout: RunLayout) -> Iterator[dict[str, Any]]:
    found = []
    for path in layout.logs.glob("segment-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.endswith("}"):  # a line cut by a kill is no event
                found.append(json.loads(line))
    yield from sorted(found, key=lambda event: float(event["at_s"]))


def _slide_status(
    layout: RunLayout, manifest: Manifest, slide_id: str, last: dict[tuple[str, str], dict[str, Any]]
) -> SlideStatus:
    finished = layout.finished_tiles(slide_id)
    merged = layout.cells(slide_id).exists()
    if not layout.plan(slide_id).exists():
        return SlideStatus(slide_id, None, len(finished), 0, merged)
    wanted = chosen_tiles(manifest, read_plan(layout, slide_id, manifest.config_hash))
    ids = [tile.tile_id for tile in wanted]
    failed = sum(
        tile_id not in finished and last.get((slide_id, tile_id), {}).get("event") == "failed"
        for tile_id in ids
    )
    done = sum(tile_id in finished for tile_id in ids)
    return SlideStatus(slide_id, len(ids), done, failed, merged)


def _rate(events: list[dict[str, Any]]) -> float | None:
    times = [event["at_s"] for event in events if event["event"] in ("begin", "done")]
    recent = [at for at in times if at >= times[-1] - RATE_WINDOW_S] if times else []
    span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
    return (len(recent) - 1) / span_s if span_s > 0 else None
