"""How work reports its progress: while it goes on, and afterwards in the journals of its processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RATE_WINDOW_S = 120.0
"""Seconds over which a rate is taken ..."""
RATE_MIN_STEPS = 8
"""... or the last steps over which it is taken, where these took longer."""
SILENT_S = 120.0
"""Seconds of silence after which a process counts as dead: it writes its memory every few seconds, and NFS
may show that up to a minute late."""

ProcessState = Literal["working", "ended", "interrupted", "lost"]


class Progress(Protocol):
    """Called after every step; must be cheap, and is called from one thread.

    A call with the `done` and `total` of the call before is not a step but reports facts of the stage. Facts
    are shown by their names; these few have a meaning of their own:

    - `slide`, `slide_done`, `slide_total`, `slide_failed`: the slide that the call is about, and its steps
    - `mk`, `hspc`, `cells`: cells found so far, by type and in all
    - `failed`: steps that failed so far; they count among `done`
    - `tile`, `error`: the tile that has just failed, and why
    - `memory_bytes`, `limit_bytes`: memory of all processes now, and what they may use
    - `workers`: worker processes now
    """

    def __call__(self, stage: str, done: int, total: int, **facts: str | int | float) -> None: ...


Notify = Callable[[str], object]
"""Takes a line for whoever runs a command: nothing is wrong, but the run is not quite what they may think."""


def unnoticed(line: str) -> None:
    """A `Notify` that drops its lines."""


def silent(stage: str, done: int, total: int, **facts: str | int | float) -> None:
    """A `Progress` that says nothing."""


@dataclass(frozen=True)
class Event:
    """A line of a journal.

    Attributes:
        at_s: seconds since 1970 by the clock of the file system, the same for every host of a run.
    """

    at_s: float
    name: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Journal:
    """What one process of a run wrote while it worked, in the order written.

    Attributes:
        name: of its file.
        seen_s: when the file was last written, by the clock of the file system.
        broken_lines: lines that are not events, such as one cut by a kill.
    """

    name: str
    events: tuple[Event, ...]
    seen_s: float
    broken_lines: int = 0

    @property
    def origin(self) -> Mapping[str, Any]:
        """What its first line, `begin`, says of the process; nothing if that line was lost."""
        return next((event.facts for event in self.named("begin")), {})

    def state(self, now_s: float) -> ProcessState:
        """What became of the process; 'lost' is one that neither ended nor was stopped, nor gives a sign."""
        names = {event.name for event in self.events}
        if "end" in names:
            return "ended"
        if "interrupted" in names:
            return "interrupted"
        return "lost" if now_s - self.seen_s > SILENT_S else "working"

    def named(self, *names: str) -> Iterator[Event]:
        """Its events of these names."""
        return (event for event in self.events if event.name in names)


def steps_per_s(ends_s: Sequence[float], begun_s: float, now_s: float) -> float | None:
    """How fast steps come now; None before the first.

    Only the last `RATE_WINDOW_S` count, or as much more as holds `RATE_MIN_STEPS` steps; what was done
    before `begun_s`, by an earlier try of the same work, never does.

    Args:
        ends_s: when each step ended, ascending.
        begun_s: when the work began, on the same clock.
    """
    few = ends_s[-RATE_MIN_STEPS - 1] if len(ends_s) > RATE_MIN_STEPS else begun_s
    since_s = max(begun_s, min(now_s - RATE_WINDOW_S, few))
    recent = bisect_right(ends_s, now_s) - bisect_right(ends_s, since_s)
    return recent / (now_s - since_s) if recent and now_s > since_s else None
