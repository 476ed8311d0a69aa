"""The tables on the page of a run: failures, slowest tiles, processes, settings and versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mkhspc.cluster.summary.record import Found, RunRecord, TileKey, host_of, moment_text, tile_of
from mkhspc.config import CELL_TYPES
from mkhspc.errors import printable
from mkhspc.progress import Journal
from mkhspc.units import duration_text, memory_text

SLOWEST_TILES = 10
"""How many of the slowest tiles the page shows."""
SHOWN_FAILURES = 200
"""How many of the tiles that failed the page shows."""
CLOCK_SKEW_S = 5.0
"""Seconds: clocks of hosts that differ by less are not mentioned."""


@dataclass(frozen=True)
class FailureRow:
    """A tile that failed at least once, or killed a worker; `state` is what became of it since."""

    tile: str
    error: str
    tries: int
    host: str
    at: str
    state: str


@dataclass(frozen=True)
class ProcessRow:
    """One process of the run; `ending` is how it ended."""

    began: str
    where: str
    share: str
    ending: str
    is_bad: bool
    tiles: int
    worked: str
    workers: str
    peak: str
    note: str


def failure_rows(run: RunRecord) -> list[FailureRow]:
    """Tiles that failed, those never done since first; at most `SHOWN_FAILURES`."""
    rows = [_failure(run, key, found) for key, found in run.failures.items()]
    return sorted(rows, key=lambda row: row.state != "failed")[:SHOWN_FAILURES]


def _failure(run: RunRecord, key: TileKey, found: Sequence[Found]) -> FailureRow:
    journal, last = found[-1]
    state = "done since" if key in run.done else "failed" if key in run.given_up else "tried again"
    return FailureRow(
        tile="/".join(key),
        error=printable(last.facts["error"]),
        tries=len(found),
        host=host_of(journal),
        at=moment_text(last.at_s),
        state=state,
    )


def slowest_tiles(run: RunRecord) -> list[Mapping[str, Any]]:
    """The tiles that took longest."""
    slowest = sorted(run.done.values(), key=lambda found: -found[1].facts["seconds"])
    return [
        {
            "tile": "/".join(tile_of(event)),
            "took": f"{event.facts['seconds']:,.1f} s",
            "cells": sum(event.facts.get(t, 0) for t in CELL_TYPES),
            "host": host_of(journal),
        }
        for journal, event in slowest[:SLOWEST_TILES]
    ]


def process_row(run: RunRecord, journal: Journal) -> ProcessRow:
    """What a process did, from its journal."""
    origin, state, begun_s = journal.origin, run.states[journal.name], journal.events[0].at_s
    signal = next((event.facts.get("signal", "?") for event in journal.named("interrupted")), "")
    endings = {
        "ended": "did its share",
        "interrupted": f"stopped by {signal}",
        "lost": "killed: it wrote no end",
        "working": "at work",
    }
    return ProcessRow(
        began=moment_text(begun_s),
        where=f"{host_of(journal)} {origin.get('pid', '')}",
        share=str(origin.get("shard") or "all"),
        ending=endings[state],
        is_bad=state == "lost",
        tiles=sum(1 for _ in journal.named("done")),
        worked=duration_text(run.ends_s[journal.name] - begun_s),
        workers=_range([e.facts.get("workers", 0) for e in journal.named("begin", "memory")]),
        peak=_peak_text(journal),
        note=_note(journal),
    )


def _peak_text(journal: Journal) -> str:
    peaks = [event.facts["peak_bytes"] for event in journal.named("memory")]
    planned = journal.origin.get("planned_peak_bytes")
    measured = memory_text(max(peaks)) if peaks else "–"
    return f"{measured}, {memory_text(planned)} planned" if planned else measured


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return "–" if not high else str(low) if low == high else f"{low} to {high}"


def _note(journal: Journal) -> str:
    """Says what is odd about a process, if anything is."""
    notes = []
    if journal.origin.get("job"):
        notes.append(f"job {journal.origin['job']}")
    ahead_s = float(journal.origin.get("host_s", journal.events[0].at_s)) - journal.events[0].at_s
    if abs(ahead_s) > CLOCK_SKEW_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        notes.append(f"its clock is {duration_text(abs(ahead_s))} {way} the file system's")
    if journal.broken_lines:
        lines = "1 line" if journal.broken_lines == 1 else f"{journal.broken_lines} lines"
        notes.append(f"{lines} of its journal lost")
    return "; ".join(notes)


def setting_rows(run: RunRecord) -> list[tuple[str, str]]:
    """The settings that decide which cells the run has, and the pixel sizes used."""
    rows = []
    for name, value in run.latest.get("identity", {}).items():
        if isinstance(value, Mapping):
            rows += [(f"{name}.{part}", _plain(inner)) for part, inner in value.items()]
        else:
            rows.append((name, _plain(value)))
    return [*rows, *_pixel_sizes(run)]


def _pixel_sizes(run: RunRecord) -> Iterator[tuple[str, str]]:
    """A row for each size, with the slides that have it."""
    slides: dict[float, dict[str, None]] = {}
    for journal in run.journals:
        for slide_id, um_per_px in journal.origin.get("um_per_px", {}).items():
            slides.setdefault(um_per_px, {})[slide_id] = None
    for um_per_px, names in sorted(slides.items()):
        yield f"pixel size of {', '.join(names)}", f"{um_per_px:g} µm"


def version_rows(run: RunRecord) -> list[tuple[str, str]]:
    """Of each library, every version that a process used."""
    used: dict[str, dict[str, None]] = {}
    for journal in run.journals:
        for name, version in journal.origin.get("versions", {}).items():
            used.setdefault(name, {})[str(version)] = None
    return [(name, ", then ".join(found)) for name, found in used.items()]


def _plain(value: Any) -> str:
    """Writes a setting's value for a reader."""
    if value is None or value == {}:
        return "–"
    if isinstance(value, list):
        return " to ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
