"""What charts of a run are drawn on: its time at work, round values, and shapes for inline SVG.

A chart's own coordinates run from 0 to `WIDTH` and from 0 (top) to `HEIGHT`; the page stretches them to
the width there is and writes the labels beside them as text, which is never stretched.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mkhspc.progress import GB, duration_text

WIDTH, HEIGHT = 1000.0, 200.0
MIN_PAUSE_S = 60.0
"""A shorter time in which no process ran is no pause, only the way from one to the next."""
TIME_STEPS_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800,
)  # fmt: skip
MAX_X_LABELS, MAX_Y_LABELS = 6, 4


@dataclass(frozen=True)
class Label:
    """A text at a place along an axis: its share of the chart's width from the left, or height from below."""

    share: float
    text: str


@dataclass(frozen=True)
class Rect:
    """A bar, in the chart's coordinates, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Axes:
    """What a chart is drawn on: labels of both axes, and the pauses, each at its place and all in words."""

    top: float
    y_labels: tuple[Label, ...]
    x_labels: tuple[Label, ...]
    pauses: tuple[Label, ...]
    pauses_text: str

    def y(self, value: float) -> float:
        """The y of a value; those above the top end there."""
        return round(HEIGHT * (1.0 - min(1.0, value / self.top)), 2)


class Timeline:
    """Time at work: the moments in which at least one process ran, without the pauses between.

    Args:
        spans: begin and end of each process.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin_s, end_s in sorted(spans):
            if self._ends and begin_s - self._ends[-1] <= MIN_PAUSE_S:
                self._ends[-1] = max(self._ends[-1], end_s)
            else:
                self._begins.append(begin_s)
                self._ends.append(end_s)
        self._before = [0.0]
        for begin_s, end_s in zip(self._begins, self._ends, strict=True):
            self._before.append(self._before[-1] + end_s - begin_s)

    @property
    def total_s(self) -> float:
        return self._before[-1]

    def at_work_s(self, at_s: float) -> float:
        """How much time at work had passed at a moment."""
        i = bisect_right(self._begins, at_s) - 1
        return self._before[i] + min(at_s, self._ends[i]) - self._begins[i] if i >= 0 else 0.0

    def pauses(self) -> list[tuple[float, float]]:
        """Each pause: the time at work before it, and how long it lasted."""
        gaps = zip(self._before[1:-1], self._ends, self._begins[1:], strict=False)
        return [(before_s, begin_s - end_s) for before_s, end_s, begin_s in gaps]

    def x(self, at_s: float) -> float:
        """The x of a moment."""
        return round(WIDTH * self.at_work_s(at_s) / self.total_s, 2) if self.total_s else 0.0

    def labels(self) -> tuple[Label, ...]:
        """Round times along the axis."""
        steps = [step for step in TIME_STEPS_S if self.total_s / step <= MAX_X_LABELS]
        step = (
            steps[0]
            if steps
            else TIME_STEPS_S[-1] * math.ceil(self.total_s / TIME_STEPS_S[-1] / MAX_X_LABELS)
        )
        size, unit = next((s, u) for s, u in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")) if step >= s)
        count = int(self.total_s / step)
        return tuple(
            Label(i * step / self.total_s, f"{i * step / size:g} {unit}") for i in range(1, count + 1)
        )

    def pause_labels(self) -> tuple[Label, ...]:
        return tuple(
            Label(before_s / self.total_s, f"stopped for {duration_text(length_s)}")
            for before_s, length_s in self.pauses()
        )

    def pauses_text(self) -> str:
        lengths_s = [length_s for _, length_s in self.pauses()]
        if len(lengths_s) == 1:
            return f"stopped for {duration_text(lengths_s[0])}"
        return f"stopped {len(lengths_s)} times, {duration_text(sum(lengths_s))} in all" if lengths_s else ""


def axes_to(
    timeline: Timeline, highest: float, *, unit: str = "", size: float = 1.0, steps: int = MAX_Y_LABELS
) -> Axes:
    """Axes that hold 0 to `highest` in a few round steps, written as multiples of `size`."""
    step = round_step(highest / size / steps) * size
    count = max(1, math.ceil(highest / step - 1e-9))
    values = [i * step for i in range(count + 1)]
    labels = tuple(Label(v / values[-1], f"{v / size:g}{unit}") for v in values)
    return Axes(values[-1], labels, timeline.labels(), timeline.pause_labels(), timeline.pauses_text())


def memory_axes(timeline: Timeline, highest_bytes: float) -> Axes:
    """Axes for bytes, in GB or MB."""
    big = highest_bytes >= GB
    return axes_to(timeline, highest_bytes, unit=" GB" if big else " MB", size=GB if big else 1e6)


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... and of 0.5, 0.2 ... that is not below `least`."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def histogram(places: Iterable[float], total: float, bins: int) -> list[int]:
    """How many places between 0 and `total` fall into each of equal bins."""
    counts = [0] * bins
    for place in places:
        counts[min(bins - 1, int(bins * place / total))] += 1
    return counts


def highest_by_bin(points: Sequence[tuple[float, float]], bins: int) -> list[tuple[float, float]]:
    """Points with x in 0 to `WIDTH`, thinned to the highest of each bin, so that no peak is lost."""
    best: dict[int, tuple[float, float]] = {}
    for x, value in points:
        place = int(bins * x / WIDTH)
        if place not in best or value > best[place][1]:
            best[place] = (x, value)
    return [best[place] for place in sorted(best)]


def line_path(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a line through points, in the chart's coordinates."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def step_path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of an area under steps: each value holds until the next point."""
    if not points:
        return ""
    corners = [(points[0][0], HEIGHT)]
    for i, (x, y) in enumerate(points):
        corners.append((x, y))
        corners.append((points[i + 1][0] if i + 1 < len(points) else WIDTH, y))
    return line_path([*corners, (WIDTH, HEIGHT)]) + "Z"
