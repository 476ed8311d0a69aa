"""The live picture of work: a line a stage, and for tiles their slides, memory and cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mkhspc.config import CELL_TYPES
from mkhspc.progress import RATE_MIN_STEPS, RATE_WINDOW_S, steps_per_s
from mkhspc.units import duration_text, memory_text, rate_text

Fact = str | int | float

BAR_WIDTH = 32
NAME_WIDTH = 24
ROWS_FOR_REST = 5
"""Lines of a terminal that slides leave to memory, cells and what was there before."""
MIN_SLIDE_ROWS = 3
NEAR_LIMIT = 0.85
"""Share of the memory's limit from which its bar warns."""
WITH_A_PLACE = {
    "slide_done", "slide_total", "slide_failed", "tile", "error", "failed", "workers",
    "memory_bytes", "limit_bytes", "cells", *CELL_TYPES,
}  # fmt: skip
"""Facts that are shown in a place of their own, not behind the stage."""


@dataclass(frozen=True)
class Bar:
    """A bar of what is done, what of that failed (red), and what is left."""

    done: float
    total: float
    failed: int = 0
    style: str = "cyan"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, BAR_WIDTH)
        full, half, rest = ("#", "-", ".") if options.ascii_only else ("━", "╸", "━")
        halves = int(2 * width * min(1.0, self.done / self.total)) if self.total else 0
        red = min(halves // 2, -(-width * self.failed // int(self.total))) if self.failed else 0
        bar = Text(full * (halves // 2 - red), style=self.style)
        bar.append(full * red, style="red")
        bar.append(half * (halves % 2), style=self.style)
        yield bar.append(rest * (width - halves // 2 - halves % 2), style="bright_black")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(8, options.max_width), min(options.max_width, BAR_WIDTH))


@dataclass
class Stage:
    """One stage of the work: how far it is, and when its last steps ended."""

    begun_s: float
    done: int = 0
    total: int = 0
    ended_s: float | None = None
    ends_s: list[float] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)

    def update(self, done: int, total: int, facts: Mapping[str, Fact], now_s: float) -> None:
        self.ends_s += [now_s] * (done - self.done)
        while len(self.ends_s) > RATE_MIN_STEPS + 1 and self.ends_s[0] < now_s - RATE_WINDOW_S:
            del self.ends_s[0]
        if done < total:
            self.ended_s = None
        elif self.ended_s is None:
            self.ended_s = now_s
        self.done, self.total = done, total
        self.facts |= facts

    def pace(self, now_s: float) -> str:
        """How fast and how long still, or how long it took."""
        if self.ended_s is not None:
            return duration_text(self.ended_s - self.begun_s)
        per_s = steps_per_s(self.ends_s, self.begun_s, now_s)
        if per_s is None:
            return ""
        return f"{rate_text(per_s)}, {duration_text((self.total - self.done) / per_s)} left"

    def number(self, fact: str) -> int:
        return int(self.facts.get(fact, 0))


@dataclass(frozen=True)
class SlideSteps:
    """Steps of one slide."""

    done: int
    total: int
    failed: int


class View:
    """Everything that is shown; drawn again at each refresh of the terminal.

    The working thread updates it, another one draws it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._updated_s = clock()
        self._stages: dict[str, Stage] = {}
        self._slides: dict[str, SlideSteps] = {}

    def update(self, stage: str, done: int, total: int, **facts: Fact) -> None:
        """A `Progress` that keeps what is to be shown."""
        with self._lock:
            if stage not in self._stages or done < self._stages[stage].done:
                # The first call may report the first step; steps of an earlier attempt do not count.
                steps = 1 if done == 1 and "slide_total" not in facts else 0
                self._stages[stage] = Stage(begun_s=self._updated_s, done=done - steps)
            self._updated_s = self._clock()
            self._stages[stage].update(done, total, facts, self._updated_s)
            if "slide_total" in facts:
                steps_of = (int(facts[f"slide_{name}"]) for name in ("done", "total", "failed"))
                self._slides[str(facts["slide"])] = SlideSteps(*steps_of)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            slide_rows = max(MIN_SLIDE_ROWS, console.size.height - ROWS_FOR_REST - len(self._stages))
            yield self._picture(slide_rows, min(NAME_WIDTH, options.max_width // 4))

    def _picture(self, slide_rows: int, name_width: int) -> Table:
        now_s = self._clock()
        grid = Table.grid(padding=(0, 1), pad_edge=False)
        grid.add_column(max_width=name_width, no_wrap=True, overflow="ellipsis")
        grid.add_column(min_width=8)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True, style="cyan")
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for name, stage in self._stages.items():
            with_slides = name == "tiles" and len(self._slides) > 1
            grid.add_row(name, *_bar_and_count(stage), stage.pace(now_s), _rest(stage, with_slides))
            if with_slides:
                _add_slides(grid, self._slides, slide_rows)
            _add_resources(grid, stage)
        return grid


def _bar_and_count(stage: Stage) -> tuple[RenderableType, str]:
    style = "cyan" if stage.ended_s is None else "green"
    return Bar(stage.done, stage.total, stage.number("failed"), style), f"{stage.done:,}/{stage.total:,}"


def _rest(stage: Stage, with_slides: bool) -> Text:
    """Failures, and facts that have no place of their own; the slide only where it has changed."""
    failed = stage.number("failed")
    text = Text(f"{failed:,} failed  " if failed else "", style="red")
    shown = WITH_A_PLACE | ({"slide"} if with_slides or stage.ended_s is not None else set())
    others = (f"{name} {value}" for name, value in stage.facts.items() if name not in shown)
    return text.append("  ".join(others), style="bright_black")


def _add_slides(grid: Table, slides: Mapping[str, SlideSteps], rows: int) -> None:
    """A line for each slide; where there are too many, for those in work and those that come next."""
    order = sorted(slides, key=lambda name: (slides[name].done == slides[name].total, not slides[name].done))
    chosen = set(order if len(order) <= rows else order[: rows - 1])
    for name, slide in slides.items():
        if name in chosen:
            failed = Text(f"{slide.failed:,} failed" if slide.failed else "", style="red")
            style = "green" if slide.done == slide.total else "blue"
            bar = Bar(slide.done, slide.total, slide.failed, style)
            grid.add_row(Text(f"  {name}", style="dim"), bar, f"{slide.done:,}/{slide.total:,}", "", failed)
    hidden = [slide for name, slide in slides.items() if name not in chosen]
    if hidden:
        done = sum(slide.done == slide.total for slide in hidden)
        grid.add_row(Text(f"  {len(hidden)} more", style="dim"), "", Text(f"{done} done", style="dim"))


def _add_resources(grid: Table, stage: Stage) -> None:
    used, limit, workers = (stage.number(name) for name in ("memory_bytes", "limit_bytes", "workers"))
    if used and limit:
        style = "green" if used < NEAR_LIMIT * limit else "yellow" if used < limit else "red"
        amount = f"{memory_text(used)} of {memory_text(limit)}"
        at_work = f"{workers} worker{'' if workers == 1 else 's'}" if workers else ""
        grid.add_row("memory", Bar(used, limit, style=style), amount, at_work)
    if all(name in stage.facts for name in CELL_TYPES):
        grid.add_row("found", "", *(f"{stage.number(name):,} {name.upper()}" for name in CELL_TYPES))
