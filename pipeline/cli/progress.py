"""Progress on stderr: a bar with rate and ETA on a terminal, one JSON line a step elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.progress import Progress


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step when they are slow."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


@contextmanager
def shown() -> Iterator[Progress]:
    """Yields a `Progress` that shows itself on stderr until the block ends."""
    if not sys.stderr.isatty():
        yield _json_lines
        return
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}", style="dim"),
        console=Console(stderr=True),
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, **facts: str | int | float) -> None:
            text = "  ".join(f"{name} {value}" for name, value in facts.items())
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, facts=text)
            bars.update(tasks[stage], completed=done, total=total, facts=text)

        yield show


def _json_lines(stage: str, done: int, total: int, **facts: str | int | float) -> None:
    line = {"stage": stage, "done": done, "total": total, **facts, "at_s": round(time.time(), 3)}
    print(json.dumps(line), file=sys.stderr, flush=True)
