"""The charts of a run, drawn below each other over one axis of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mkhspc.charts import BLUE, VERMILION, Theme, new_figure, png_of, style_axes
from mkhspc.cluster.summary.series import Memory, Points, Throughput
from mkhspc.cluster.summary.timeline import Timeline
from mkhspc.units import GB, MB, memory_text

WIDTH_INCHES, HIGH_INCHES, LOW_INCHES = 10.0, 2.2, 1.0
"""Size of the picture, and the heights of its panels."""
LEFT_INCHES, RIGHT_INCHES, TOP_INCHES, BOTTOM_INCHES, BETWEEN_INCHES = 0.6, 0.15, 0.3, 0.55, 0.45
"""Margins of the picture, and the room between panels for their titles."""
TIME_UNITS = ((172_800.0, 86_400.0, "days"), (7_200.0, 3_600.0, "hours"), (120.0, 60.0, "minutes"))
"""Least seconds of time at work from which on a unit is used, the seconds of that unit, and its name."""

Draw = Callable[[Axes], None]


def run_png(
    timeline: Timeline,
    tiles: Throughput | None,
    memory: Memory | None,
    workers: Points,
    theme: Theme,
) -> bytes | None:
    """Draws what there is as a PNG file; None if there is nothing."""
    panels = [
        *([(partial(_draw_tiles, tiles), HIGH_INCHES)] if tiles else []),
        *([(partial(_draw_memory, memory), HIGH_INCHES)] if memory else []),
        *([(partial(_draw_workers, workers, timeline.total_s), LOW_INCHES)] if workers else []),
    ]
    return _stacked(panels, timeline, theme) if panels and timeline.total_s else None


def _stacked(panels: Sequence[tuple[Draw, float]], timeline: Timeline, theme: Theme) -> bytes:
    heights = [height for _, height in panels]
    inches = TOP_INCHES + sum(heights) + BETWEEN_INCHES * (len(panels) - 1) + BOTTOM_INCHES
    figure = new_figure((WIDTH_INCHES, inches), theme)
    figure.subplots_adjust(
        left=LEFT_INCHES / WIDTH_INCHES,
        right=1 - RIGHT_INCHES / WIDTH_INCHES,
        top=1 - TOP_INCHES / inches,
        bottom=BOTTOM_INCHES / inches,
        hspace=BETWEEN_INCHES * len(panels) / sum(heights),
    )
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _label_time(grid[-1], timeline.total_s)
    for axes, (draw, _) in zip(grid, panels, strict=True):
        for before_s, _ in timeline.pauses():
            axes.axvline(before_s, color=theme.ink, linewidth=1.2, linestyle=":")
        draw(axes)
        axes.set_ylim(bottom=0.0)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=6, frameon=False, fontsize=9,
                labelcolor=theme.ink,
            )  # fmt: skip
        style_axes(axes, theme, grid="y")
    return png_of(figure)


def _label_time(axes: Axes, total_s: float) -> None:
    size_s, unit = next(
        ((size, unit) for least, size, unit in TIME_UNITS if total_s >= least), (1.0, "seconds")
    )
    axes.set_xlim(0.0, total_s)
    ticks = [tick for tick in MaxNLocator(8).tick_values(0.0, total_s / size_s) if tick * size_s <= total_s]
    axes.set_xticks([tick * size_s for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(f"time at work ({unit})", fontsize=9)


def _draw_tiles(tiles: Throughput, axes: Axes) -> None:
    lefts = [nth * tiles.bin_s for nth in range(len(tiles.done))]
    width = 0.88 * tiles.bin_s
    axes.bar(lefts, tiles.done, width, align="edge", color=BLUE, label="done")
    if any(tiles.failed):
        axes.bar(lefts, tiles.failed, width, tiles.done, align="edge", color=VERMILION, label="failed")
    axes.set_ylim(top=1.05 * max(map(sum, zip(tiles.done, tiles.failed, strict=True))))
    axes.set_title(f"Tiles a {tiles.unit}", loc="left")


def _draw_memory(memory: Memory, axes: Axes) -> None:
    top = max(
        [1.1 * max(value for line in memory.lines for _, value in line), *(1.05 * n for n in memory.limits)]
    )
    size, unit = (GB, "GB") if top >= GB else (MB, "MB")
    label = "each process with its workers" if len(memory.lines) > 1 else "all processes"
    for nth, line in enumerate(memory.lines):
        at_s, values = zip(*line, strict=True)
        marker = "o" if len(line) == 1 else None
        axes.plot(
            at_s, [value / size for value in values], color=BLUE, linewidth=1.6, marker=marker,
            label=None if nth else label,
        )  # fmt: skip
    for limit in memory.limits:
        axes.axhline(limit / size, color=VERMILION, linestyle="--", label=f"limit {memory_text(limit)}")
    axes.set_ylim(top=top / size)
    axes.set_title(f"Memory ({unit})", loc="left")


def _draw_workers(workers: Points, total_s: float, axes: Axes) -> None:
    at_s, counts = zip(*workers, (total_s, workers[-1][1]), strict=True)
    axes.fill_between(at_s, counts, step="post", color=BLUE, alpha=0.4, linewidth=0)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.set_ylim(top=1.05 * max(counts))
    axes.set_title("Workers", loc="left")
