"""The status of a run as JSON, and as a picture for a terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mkhspc.cli.progress_view import Bar
from mkhspc.errors import printable
from mkhspc.store.manifest.exclusions import summary_lines
from mkhspc.units import duration_text, memory_text, rate_text

if TYPE_CHECKING:
    from mkhspc.cluster.status import ProcessStatus, RunStatus, SlideStatus, TaskEnd

UNKNOWN = "?"
SHOWN_PROCESSES = 12
"""Processes that ended well are counted beyond these; those that work or were lost are all shown."""
STYLES = {"working": "green", "ended": "", "interrupted": "yellow", "lost": "red"}


def to_json(status: RunStatus) -> dict[str, Any]:
    """The status as plain values."""
    return {
        "slides": [{**asdict(slide), "failed": slide.failed, "left": slide.left} for slide in status.slides],
        "tiles": status.tiles,
        "left": status.left,
        "is_estimate": status.is_estimate,
        "failed": status.failed,
        "unplanned_slides": status.unplanned,
        "exclusions": [asdict(one) for one in status.exclusions],
        "cells": sum(status.cells.values()),
        "cells_by_type": dict(status.cells),
        "tiles_per_s": status.tiles_per_s,
        "eta_s": status.eta_s,
        "memory_bytes": status.memory_bytes,
        "processes": [asdict(process) for process in status.processes],
        "unheard_tasks": [asdict(end) for end in status.unheard_tasks],
        "cluster_problem": status.cluster_problem,
    }


def picture(status: RunStatus) -> RenderableType:
    """Slides, processes, and a last line that says it all."""
    parts: list[RenderableType] = [_slides(status)]
    if status.processes:
        parts.append(_processes(status))
    ends = [process.task_end for process in status.processes if process.task_end is not None]
    parts += [_task_end(end) for end in (*ends, *status.unheard_tasks)]
    if status.cluster_problem:
        parts.append(Text(f"sacct cannot be asked: {printable(status.cluster_problem)}", style="yellow"))
    lines = (f"left out: {line}" for line in summary_lines(status.exclusions))
    parts += [Text(printable(line), style="yellow") for line in lines]
    return Group(*parts, _summary(status))


def _slides(status: RunStatus) -> Table:
    table = Table("slide", "", "tiles", "done", "failed", "left", "MK", "HSPC", "tables", box=None)
    table.columns[0].no_wrap = True
    for column in table.columns[2:8]:
        column.justify = "right"
    for slide in status.slides:
        table.add_row(*_slide(slide))
    return table


def _slide(slide: SlideStatus) -> list[RenderableType]:
    is_done = slide.left == 0
    return [
        slide.slide_id,
        Bar(slide.done + slide.failed, slide.tiles or 0, slide.failed, "green" if is_done else "cyan"),
        _count(slide.tiles, slide.estimated_tiles),
        f"{slide.done:,}",
        Text(f"{slide.failed:,}", style="red" if slide.failed else ""),
        _count(slide.left, slide.estimated_tiles),
        *(f"{cells:,}" for cells in slide.cells.values()),
        _tables(slide),
    ]


def _count(counted: int | None, estimated: int | None) -> str:
    if counted is not None:
        return f"{counted:,}"
    return UNKNOWN if estimated is None else f"~{estimated:,}"


def _tables(slide: SlideStatus) -> Text:
    if slide.is_stale:
        return Text(f"stale: {slide.merged_cells:,} of {sum(slide.cells.values()):,} cells", style="yellow")
    return Text("made" if slide.merged else "-")


def _processes(status: RunStatus) -> Table:
    table = Table("process", "share", "state", "tiles", "rate", "workers", "memory", "peak", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    ended = [process for process in status.processes if process.state == "ended" and not process.task_end]
    hidden = ended[: max(0, len(status.processes) - SHOWN_PROCESSES)]
    for process in status.processes:
        if process not in hidden:
            table.add_row(*_process(process))
    if hidden:
        table.add_row(Text(f"and {len(hidden)} that ended well", style="dim"))
    return table


def _process(process: ProcessStatus) -> list[RenderableType]:
    memory = process.memory_bytes if process.state == "working" else None
    of_limit = f" of {memory_text(process.limit_bytes)}" if process.limit_bytes else ""
    return [
        Text(f"{process.host} {process.pid or ''}" + (f" ({process.job})" if process.job else "")),
        process.shard or "-",
        _state(process),
        f"{process.done:,}",
        "-" if process.tiles_per_s is None else rate_text(process.tiles_per_s),
        "-" if process.workers is None else str(process.workers),
        "-" if memory is None else memory_text(memory) + of_limit,
        "-" if process.peak_bytes is None else memory_text(process.peak_bytes),
    ]


def _state(process: ProcessStatus) -> Text:
    words: str = process.state
    if process.state == "lost":
        words = f"lost, silent for {duration_text(process.silent_s)}"
    return Text(words, style=STYLES[process.state])


def _task_end(end: TaskEnd) -> Text:
    words = [f"job {end.job}: {end.state}", end.reason]
    return Text(printable(", ".join(word for word in words if word)), style="red")


def _summary(status: RunStatus) -> Text:
    about = "about " if status.is_estimate else ""
    parts = [f"{sum(slide.done for slide in status.slides):,} of {about}{status.tiles:,} tiles"]
    if status.unplanned:
        parts.append(f"{status.unplanned} slide{'s' if status.unplanned > 1 else ''} not planned yet")
    cells = ", ".join(f"{cells:,} {name.upper()}" for name, cells in status.cells.items())
    parts.append(f"{cells} stored")
    if status.tiles_per_s:
        parts.append(rate_text(status.tiles_per_s))
    if status.eta_s is not None:
        by_size = " by the sizes of slides" if status.is_estimate else ""
        parts.append(f"about {duration_text(status.eta_s)} left{by_size}")
    if status.memory_bytes:
        parts.append(f"memory {memory_text(status.memory_bytes)}")
    if not status.is_finished and not status.working:
        parts.append("nobody works on it: run `mkhspc segment` again to go on")
        if status.failed:
            parts.append(f"tiles that fail for good are left out by `{printable(status.exclude_failed)}`")
    elif any(slide.is_stale for slide in status.slides) and not status.working:
        parts.append("tables lack finished tiles: run `mkhspc merge`")
    return Text("; ".join(parts))
