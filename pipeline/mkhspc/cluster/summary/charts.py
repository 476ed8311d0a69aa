"""The charts of a run: its tiles, memory and workers over its time at work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mkhspc.cluster.summary.axes import (
    WIDTH,
    Axes,
    Rect,
    Timeline,
    axes_to,
    highest_by_bin,
    histogram,
    line_path,
    memory_axes,
    step_path,
)
from mkhspc.progress import Event, Journal, memory_text

MIN_BINS, MAX_BINS, TILES_PER_BIN = 12, 96, 3
LINE_BINS = 240
LIMIT_IN_SIGHT = 4.0
"""A limit beyond so many times the peak is told, not drawn: it would press the line to the ground."""


@dataclass(frozen=True)
class Throughput:
    """Tiles that ended in each stretch of the time at work: `done`, and on top of it `failed`."""

    axes: Axes
    unit: str
    done: tuple[Rect, ...]
    failed: tuple[Rect, ...]


@dataclass(frozen=True)
class Memory:
    """Memory over time.

    Attributes:
        lines: the path of each process.
        limits: y of each limit that is in sight, and its words.
        note: what the chart cannot show.
    """

    axes: Axes
    lines: tuple[str, ...]
    limits: tuple[tuple[float, str], ...]
    note: str


@dataclass(frozen=True)
class Workers:
    """Worker processes over time, of all processes together."""

    axes: Axes
    area: str


def throughput(timeline: Timeline, journals: Sequence[Journal]) -> Throughput | None:
    """Tiles over time; None before the first tile."""
    ends = {name: [event.at_s for j in journals for event in j.named(name)] for name in ("done", "failed")}
    tiles = sum(map(len, ends.values()))
    if not tiles or not timeline.total_s:
        return None
    bins = min(MAX_BINS, max(MIN_BINS, tiles // TILES_PER_BIN))
    counts = {
        name: histogram(map(timeline.at_work_s, at_s), timeline.total_s, bins) for name, at_s in ends.items()
    }
    size_s, unit = _unit(tiles / timeline.total_s)
    per_tile = bins / timeline.total_s * size_s
    axes = axes_to(timeline, per_tile * max(map(sum, zip(*counts.values(), strict=True))))
    done, failed = ([n * per_tile for n in counts[name]] for name in ("done", "failed"))
    return Throughput(
        axes=axes,
        unit=unit,
        done=_bars(axes, [0.0] * bins, done, f"tiles a {unit}"),
        failed=_bars(axes, done, failed, f"failed tiles a {unit}"),
    )


def _unit(per_s: float) -> tuple[float, str]:
    """The shortest unit of time in which at least one step ends."""
    units = ((1.0, "second"), (60.0, "minute"), (3600.0, "hour"))
    return next((unit for unit in units if per_s * unit[0] >= 1.0), units[-1])


def _bars(axes: Axes, below: Sequence[float], values: Sequence[float], words: str) -> tuple[Rect, ...]:
    """A bar for each value that is not 0, standing on what is below it."""
    width = WIDTH / len(values)
    bars = []
    for i, (base, value) in enumerate(zip(below, values, strict=True)):
        if value:
            y = axes.y(base + value)
            x, height = round((i + 0.06) * width, 2), round(axes.y(base) - y, 2)
            bars.append(Rect(x, y, round(0.88 * width, 2), height, f"{value:.3g} {words}"))
    return tuple(bars)


def memory(timeline: Timeline, journals: Sequence[Journal]) -> Memory | None:
    """Memory over time, a line a process; None where nobody measured it."""
    measured = [events for journal in journals if (events := list(journal.named("memory")))]
    if not measured:
        return None
    facts = [event.facts for events in measured for event in events]
    peak = max(fact["peak_bytes"] for fact in facts)
    limits = sorted({fact["limit_bytes"] for fact in facts})
    near = [limit for limit in limits if limit <= LIMIT_IN_SIGHT * peak]
    far = [memory_text(limit) for limit in limits if limit not in near]
    axes = memory_axes(timeline, max([1.1 * peak, *(1.05 * limit for limit in near)]))
    return Memory(
        axes=axes,
        lines=tuple(_memory_line(timeline, axes, events) for events in measured),
        limits=tuple((axes.y(limit), f"limit {memory_text(limit)}") for limit in near),
        note=f"The limit of {', '.join(far)} lies far above." if far else "",
    )


def _memory_line(timeline: Timeline, axes: Axes, events: Iterable[Event]) -> str:
    points = [(timeline.x(event.at_s), float(event.facts["peak_bytes"])) for event in events]
    return line_path((x, axes.y(value)) for x, value in highest_by_bin(points, LINE_BINS))


def workers(timeline: Timeline, ends_s: Mapping[str, float], journals: Sequence[Journal]) -> Workers | None:
    """Worker processes over time; None where nobody counted them.

    Args:
        ends_s: when each process ended, by the name of its journal.
    """
    changes: list[tuple[float, int]] = []
    for journal in journals:
        before = 0
        for event in journal.named("begin", "memory"):
            now = int(event.facts.get("workers", before))
            if now != before:
                changes.append((event.at_s, now - before))
            before = now
        changes.append((ends_s[journal.name], -before))
    total, points = 0, dict[float, int]()
    for at_s, change in sorted(changes):
        total += change
        points[timeline.x(at_s)] = total
    if not any(points.values()):
        return None
    axes = axes_to(timeline, max(2, *points.values()), steps=2)
    return Workers(axes, step_path([(x, axes.y(count)) for x, count in points.items()]))
