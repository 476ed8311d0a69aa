"""Progress on stderr: a live picture on a terminal, one JSON line a step elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mkhspc.cli.progress_view import View
from mkhspc.errors import printable
from mkhspc.progress import Progress

REFRESHES_PER_S = 4.0
SHOWN_ERRORS = 5
"""Failed tiles that are shown as they fail; the run names the others at its end."""


@contextmanager
def shown() -> Iterator[Progress]:
    """Yields a `Progress` that shows itself on stderr until the block ends."""
    if not sys.stderr.isatty():
        yield JsonLines()
        return
    with live(Console(stderr=True)) as progress:
        yield progress


@contextmanager
def live(console: Console) -> Iterator[Progress]:
    """Yields a `Progress` that draws itself on a terminal; the last picture stays."""
    view = View()
    errors = 0
    with Live(console=console, get_renderable=lambda: view, refresh_per_second=REFRESHES_PER_S) as screen:

        def show(stage: str, done: int, total: int, **facts: str | int | float) -> None:
            nonlocal errors
            view.update(stage, done, total, **facts)
            if "error" in facts:
                errors += 1
                if errors <= SHOWN_ERRORS:
                    screen.console.print(_error_line(facts))

        yield show


def _error_line(facts: dict[str, str | int | float]) -> Text:
    where = "/".join(str(facts[name]) for name in ("slide", "tile") if name in facts)
    return Text(printable(f"{where}: {facts['error']}" if where else str(facts["error"])), style="red")


class JsonLines:
    """A `Progress` that prints a line for each step; changes between two steps wait for the next."""

    def __init__(self) -> None:
        self._last: tuple[str, int, int] | None = None

    def __call__(self, stage: str, done: int, total: int, **facts: str | int | float) -> None:
        step = (stage, done, total)
        if step == self._last and not {"slide", "error"} & set(facts):
            return
        self._last = step
        line = {"stage": stage, "done": done, "total": total, **facts, "at_s": round(time.time(), 3)}
        print(json.dumps(line), file=sys.stderr, flush=True)
