"""How a run went, on one page made from the journals of its processes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mkhspc.cluster.summary import charts as run_charts
from mkhspc.cluster.summary.record import (
    Found,
    RunRecord,
    SlideRow,
    StateOf,
    TileKey,
    host_of,
    shares_of,
    tile_of,
)
from mkhspc.config import CELL_TYPES
from mkhspc.errors import printable
from mkhspc.progress import Journal, duration_text, memory_text, rate_text
from mkhspc.resources import render
from mkhspc.store import atomic
from mkhspc.store.layout import is_simulated

PAGE = "run-summary.html"
SLOWEST_TILES = 10
SHOWN_FAILURES = 200
CLOCK_SKEW_S = 5.0
"""Clocks of hosts that differ by less are not worth a word."""


@dataclass(frozen=True)
class Figure:
    """A number that stands out: its name, itself, and what else is to be said of it."""

    name: str
    value: str
    note: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class FailureRow:
    """A tile that failed at least once, or killed a worker."""

    tile: str
    error: str
    tries: int
    host: str
    at: str
    fate: str


@dataclass(frozen=True)
class ProcessRow:
    """One process of the run."""

    began: str
    where: str
    share: str
    fate: str
    is_bad: bool
    tiles: int
    worked: str
    workers: str
    peak: str
    note: str


def write_run_summary(
    logs: Path, journals: Sequence[Journal], now_s: float, state_of: StateOf = Journal.state
) -> Path | None:
    """Writes `run-summary.html` into a run's folder of journals.

    Args:
        now_s: decides, for `state_of`, which processes are still at work.
        state_of: by journals alone, unless somebody can look for the processes too.

    Returns:
        The page's path, or None when there is no journal, so nothing to tell.
    """
    if not journals:
        return None
    atomic.write_text(logs / PAGE, render("run_summary.html", page=RunPage(journals, now_s, state_of)))
    return logs / PAGE


class RunPage:
    """What the page says: whatever the template shows is an attribute.

    Args:
        journals: of all processes, by their begin; at least one, and none without an event.
    """

    def __init__(self, journals: Sequence[Journal], now_s: float, state_of: StateOf = Journal.state) -> None:
        self._run = RunRecord(journals, now_s, state_of)

    @property
    def dataset(self) -> str:
        return str(self._run.latest.get("dataset", "?"))

    @property
    def config_hash(self) -> str:
        return str(self._run.latest.get("config_hash", "?"))

    @property
    def made_at(self) -> str:
        return _moment(self._run.now_s)

    @property
    def is_simulated(self) -> bool:
        return any(is_simulated(row.slide_id) for row in self.slides)

    @property
    def slides(self) -> tuple[SlideRow, ...]:
        return self._run.slides

    @property
    def unheard_tiles(self) -> int:
        """Tiles that are done although no line says so; their cells are not in the sums."""
        return sum(row.done for row in self.slides) - len(self._run.done)

    @property
    def state(self) -> Figure:
        """How the run stands, in a word."""
        left = sum(row.left or 0 for row in self.slides)
        words = f"{left:,} {'tile' if left == 1 else 'tiles'} left" if left else ""
        if "working" in self._run.states.values():
            return Figure("state", "at work", words)
        return Figure("state", "incomplete" if left else "complete", words, is_bad=left > 0)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The numbers that stand on top."""
        asked, done = sum(row.asked or 0 for row in self.slides), sum(row.done for row in self.slides)
        cells = {t: sum(row.cells[t] for row in self.slides) for t in CELL_TYPES}
        total_s = self._run.timeline.total_s
        rate = rate_text(len(self._run.done) / total_s) if self._run.done and total_s else "–"
        mended = len(self._run.failures) - len(self._run.given_up)
        return (
            Figure("tiles", f"{done:,}", f"of {asked:,} asked for"),
            Figure(
                "cells", f"{sum(cells.values()):,}", ", ".join(f"{n:,} {t.upper()}" for t, n in cells.items())
            ),
            Figure(
                "time at work",
                duration_text(total_s),
                f"since {_moment(self._run.journals[0].events[0].at_s)}",
            ),
            Figure("throughput", rate, "tiles while at work"),
            *self._waiting(),
            self._peak(),
            Figure(
                "failed tiles",
                f"{len(self._run.given_up):,}",
                f"{mended:,} more at a first try" if mended else "",
                bool(self._run.given_up),
            ),
            self._process_count(),
        )

    def _waiting(self) -> Iterator[Figure]:
        """How much of their time workers waited for the pixels of their next tile, where they told."""
        facts = [event.facts for _, event in self._run.done.values() if "waited_s" in event.facts]
        spent_s = sum(fact["waited_s"] + fact["seconds"] for fact in facts)
        if spent_s:
            share = sum(fact["waited_s"] for fact in facts) / spent_s
            yield Figure("waiting", f"{100 * share:.1f} %", "of the workers' time, for pixels")

    def _peak(self) -> Figure:
        """The memory of the process that came nearest to its limit."""
        peaks = [
            (event.facts["peak_bytes"], event.facts["limit_bytes"]) for _, event in self._run.named("memory")
        ]
        if not peaks:
            return Figure("peak memory", "–")
        peak, limit = max(peaks, key=lambda pair: pair[0] / max(1, pair[1]))
        note = f"{100 * peak / max(1, limit):.0f} % of the {memory_text(limit)} allowed"
        return Figure("peak memory", memory_text(peak), note, is_bad=peak > limit)

    def _process_count(self) -> Figure:
        """All processes; restarts are those that took up a share of the run that another had begun."""
        shares = {(j.origin.get("shard"), tuple(shares_of(j))) for j in self._run.journals}
        restarts = len(self._run.journals) - len(shares)
        lost = sum(state == "lost" for state in self._run.states.values())
        counts = ((restarts, "restart" if restarts == 1 else "restarts"), (lost, "killed"))
        note = ", ".join(f"{number:,} {words}" for number, words in counts if number)
        return Figure("processes", f"{len(self._run.journals):,}", note, is_bad=lost > 0)

    @cached_property
    def throughput(self) -> run_charts.Throughput | None:
        return run_charts.throughput(self._run.timeline, self._run.journals)

    @cached_property
    def memory(self) -> run_charts.Memory | None:
        return run_charts.memory(self._run.timeline, self._run.journals)

    @cached_property
    def workers(self) -> run_charts.Workers | None:
        return run_charts.workers(self._run.timeline, self._run.ends_s, self._run.journals)

    @property
    def slowest(self) -> list[Mapping[str, Any]]:
        """The tiles that took longest."""
        slowest = sorted(self._run.done.values(), key=lambda found: -found[1].facts["seconds"])
        return [
            {
                "tile": "/".join(tile_of(event)),
                "took": f"{event.facts['seconds']:,.1f} s",
                "cells": sum(event.facts.get(t, 0) for t in CELL_TYPES),
                "host": host_of(journal),
            }
            for journal, event in slowest[:SLOWEST_TILES]
        ]

    @property
    def failures(self) -> list[FailureRow]:
        """Tiles that failed, those never done since first; at most `SHOWN_FAILURES`."""
        rows = [self._failure(key, found) for key, found in self._run.failures.items()]
        return sorted(rows, key=lambda row: row.fate != "failed")[:SHOWN_FAILURES]

    @property
    def hidden_failures(self) -> int:
        return max(0, len(self._run.failures) - SHOWN_FAILURES)

    def _failure(self, key: TileKey, found: Sequence[Found]) -> FailureRow:
        journal, last = found[-1]
        fate = (
            "done since"
            if key in self._run.done
            else "failed"
            if key in self._run.given_up
            else "tried again"
        )
        return FailureRow(
            tile="/".join(key),
            error=printable(last.facts["error"]),
            tries=len(found),
            host=host_of(journal),
            at=_moment(last.at_s),
            fate=fate,
        )

    @property
    def processes(self) -> list[ProcessRow]:
        """A row a process, by its begin."""
        return [self._process(journal) for journal in self._run.journals]

    def _process(self, journal: Journal) -> ProcessRow:
        origin, state, begun_s = journal.origin, self._run.states[journal.name], journal.events[0].at_s
        peaks = [event.facts["peak_bytes"] for event in journal.named("memory")]
        planned = origin.get("planned_peak_bytes")
        stopped = next((event.facts.get("signal", "?") for event in journal.named("interrupted")), "")
        fates = {
            "ended": "did its share",
            "interrupted": f"stopped by {stopped}",
            "lost": "killed: it wrote no end",
            "working": "at work",
        }
        return ProcessRow(
            began=_moment(begun_s),
            where=f"{host_of(journal)} {origin.get('pid', '')}",
            share=str(origin.get("shard") or "all"),
            fate=fates[state],
            is_bad=state == "lost",
            tiles=sum(1 for _ in journal.named("done")),
            worked=duration_text(self._run.ends_s[journal.name] - begun_s),
            workers=_range([e.facts.get("workers", 0) for e in journal.named("begin", "memory")]),
            peak=(memory_text(max(peaks)) if peaks else "–")
            + (f", {memory_text(planned)} planned" if planned else ""),
            note=_process_note(journal),
        )

    @property
    def settings(self) -> list[tuple[str, str]]:
        """What decides which cells the run has, and the pixel sizes used."""
        rows = []
        for name, value in self._run.latest.get("identity", {}).items():
            if isinstance(value, Mapping):
                rows += [(f"{name}.{part}", _plain(inner)) for part, inner in value.items()]
            else:
                rows.append((name, _plain(value)))
        return [*rows, *self._pixel_sizes()]

    def _pixel_sizes(self) -> Iterator[tuple[str, str]]:
        """A row for each size, with the slides that have it."""
        slides: dict[float, dict[str, None]] = {}
        for journal in self._run.journals:
            for slide_id, um_per_px in journal.origin.get("um_per_px", {}).items():
                slides.setdefault(um_per_px, {})[slide_id] = None
        for um_per_px, names in sorted(slides.items()):
            yield f"pixel size of {', '.join(names)}", f"{um_per_px:g} µm"

    @property
    def versions(self) -> list[tuple[str, str]]:
        """Of each library, every version that a process used."""
        used: dict[str, dict[str, None]] = {}
        for journal in self._run.journals:
            for name, version in journal.origin.get("versions", {}).items():
                used.setdefault(name, {})[str(version)] = None
        return [(name, ", then ".join(found)) for name, found in used.items()]


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return "–" if not high else str(low) if low == high else f"{low} to {high}"


def _process_note(journal: Journal) -> str:
    """What is odd about a process, or nothing."""
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


def _plain(value: Any) -> str:
    """A setting's value to read."""
    if value is None or value == {}:
        return "–"
    if isinstance(value, list):
        return " to ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
