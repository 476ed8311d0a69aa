"""What the charts of a run show: its tiles, memory and workers over its time at work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mkhspc.cluster.summary.timeline import Timeline
from mkhspc.progress import Journal
from mkhspc.units import memory_text

MIN_BINS, MAX_BINS, TILES_PER_BIN = 12, 96, 3
"""The time at work is divided so that a bin holds some tiles, within these numbers of bins."""
LIMIT_IN_SIGHT = 4.0
"""A limit of more than so many times the peak is written, not drawn: it would flatten the curve."""

Points = tuple[tuple[float, float], ...]
"""Pairs of time at work, in seconds, and a value."""


@dataclass(frozen=True)
class Throughput:
    """Tiles that ended in each bin of the time at work, done and failed, a `unit` of time.

    Attributes:
        bin_s: how much time at work a bin holds.
    """

    unit: str
    bin_s: float
    done: tuple[float, ...]
    failed: tuple[float, ...]


@dataclass(frozen=True)
class Memory:
    """Memory over the time at work, in bytes.

    Attributes:
        lines: peaks of each process with its workers.
        limits: those that are near enough to be drawn.
        note: what the chart cannot show.
    """

    lines: tuple[Points, ...]
    limits: tuple[int, ...]
    note: str


def throughput(timeline: Timeline, journals: Sequence[Journal]) -> Throughput | None:
    """Counts tiles over time; None before the first tile."""
    ends = {name: [event.at_s for j in journals for event in j.named(name)] for name in ("done", "failed")}
    tiles = sum(map(len, ends.values()))
    if not tiles or not timeline.total_s:
        return None
    bins = min(MAX_BINS, max(MIN_BINS, tiles // TILES_PER_BIN))
    bin_s = timeline.total_s / bins
    unit_s, unit = _unit(tiles / timeline.total_s)
    done, failed = (
        tuple(
            count * unit_s / bin_s
            for count in histogram(map(timeline.at_work_s, at_s), timeline.total_s, bins)
        )
        for at_s in ends.values()
    )
    return Throughput(unit, bin_s, done, failed)


def _unit(per_s: float) -> tuple[float, str]:
    """The shortest unit of time in which at least one step ends, with its seconds."""
    units = ((1.0, "second"), (60.0, "minute"), (3600.0, "hour"))
    return next((unit for unit in units if per_s * unit[0] >= 1.0), units[-1])


def histogram(moments: Iterable[float], total: float, bins: int) -> list[int]:
    """Counts how many moments between 0 and `total` fall into each of equal bins."""
    counts = [0] * bins
    for moment in moments:
        counts[min(bins - 1, int(bins * moment / total))] += 1
    return counts


def memory(timeline: Timeline, journals: Sequence[Journal]) -> Memory | None:
    """Collects the memory of each process; None where nobody measured it."""
    measured = [events for journal in journals if (events := list(journal.named("memory")))]
    if not measured:
        return None
    facts = [event.facts for events in measured for event in events]
    peak = max(fact["peak_bytes"] for fact in facts)
    limits = sorted({fact["limit_bytes"] for fact in facts})
    near = [limit for limit in limits if limit <= LIMIT_IN_SIGHT * peak]
    far = [memory_text(limit) for limit in limits if limit not in near]
    return Memory(
        lines=tuple(
            tuple((timeline.at_work_s(event.at_s), float(event.facts["peak_bytes"])) for event in events)
            for events in measured
        ),
        limits=tuple(near),
        note=f"The limit of {', '.join(far)} lies far above." if far else "",
    )


def workers(timeline: Timeline, ends_s: Mapping[str, float], journals: Sequence[Journal]) -> Points:
    """Counts the worker processes of all processes together; nothing where nobody counted them.

    Args:
        ends_s: when each process ended, by the name of its journal.

    Returns:
        Each number of workers with the time at work from which on it holds.
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
    total, points = 0, dict[float, float]()
    for at_s, change in sorted(changes):
        total += change
        points[timeline.at_work_s(at_s)] = total
    return tuple(points.items()) if any(points.values()) else ()
