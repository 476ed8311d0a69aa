"""What the journals of a run's processes say together: which tiles are done, which failed, and when."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from mkhspc.cluster.summary.timeline import Timeline
from mkhspc.config import CELL_TYPES
from mkhspc.progress import Event, Journal, ProcessState

TileKey = tuple[str, str]
"""Ids of a slide and a tile."""
Found = tuple[Journal, Event]
"""An event with the journal that it stands in."""
StateOf = Callable[[Journal, float], ProcessState]
"""Says of a process, by its journal and the time, whether it works or how it ended."""


@dataclass(frozen=True)
class SlideRow:
    """Tiles and cells of one slide; `asked` is None when no journal says it."""

    slide_id: str
    asked: int | None
    done: int
    failed: int
    cells: Mapping[str, int]
    median_s: float | None

    @property
    def left(self) -> int | None:
        """Tiles not done; those that failed are among them."""
        return None if self.asked is None else self.asked - self.done

    def percent(self, tiles: int) -> float:
        """Tiles as a share of those asked for."""
        return 100.0 * tiles / max(1, self.asked or self.done + self.failed)


class RunRecord:
    """The journals of all processes of a run, read as one.

    Args:
        journals: by their begin; at least one, and none without an event.
        now_s: decides, for `state_of`, which processes are still at work.

    Attributes:
        states: of the processes, by the name of their journal.
        ends_s: when each was last at work.
        timeline: when any was.
        done: the tiles that are, with who did each.
        failures: tiles that failed or killed a worker, with every time that they did.
        given_up: those of them that failed for good and were not done since.
    """

    def __init__(self, journals: Sequence[Journal], now_s: float, state_of: StateOf = Journal.state) -> None:
        self.journals = journals
        self.now_s = now_s
        self.states = {journal.name: state_of(journal, now_s) for journal in journals}
        self.ends_s = {journal.name: self._end_s(journal) for journal in journals}
        self.timeline = Timeline((j.events[0].at_s, self.ends_s[j.name]) for j in journals)
        self.done = {tile_of(event): (journal, event) for journal, event in self.named("done")}
        self.failures: dict[TileKey, list[Found]] = {}
        for journal, event in self.named("failed", "retry"):
            self.failures.setdefault(tile_of(event), []).append((journal, event))
        self.given_up = [
            key
            for key, found in self.failures.items()
            if key not in self.done and any(event.name == "failed" for _, event in found)
        ]

    def _end_s(self, journal: Journal) -> float:
        last_s = journal.events[-1].at_s
        return max(last_s, self.now_s) if self.states[journal.name] == "working" else last_s

    def named(self, *names: str) -> list[Found]:
        """Returns the events of all processes in the order of time."""
        found = [(journal, event) for journal in self.journals for event in journal.named(*names)]
        return sorted(found, key=lambda pair: pair[1].at_s)

    @property
    def begin_s(self) -> float:
        """When the first process began."""
        return self.journals[0].events[0].at_s

    @property
    def latest(self) -> Mapping[str, Any]:
        """What the last process says the run is."""
        return next((j.origin for j in reversed(self.journals) if j.origin), {})

    @cached_property
    def slides(self) -> tuple[SlideRow, ...]:
        """A row for each slide in the order of the run, then for those that only a tile mentions."""
        planned = [slide_id for journal in self.journals for slide_id in shares_of(journal)]
        mentioned = [slide_id for slide_id, _ in (*self.done, *self.failures)]
        return tuple(self._slide(slide_id) for slide_id in dict.fromkeys([*planned, *mentioned]))

    def _slide(self, slide_id: str) -> SlideRow:
        events = [event for (slide, _), (_, event) in self.done.items() if slide == slide_id]
        shares = [shares_of(journal).get(slide_id) for journal in self.journals]
        asked = max((share["asked"] for share in shares if share), default=None)
        done = max([len(events), *self._done_before_and_since(slide_id, events)])
        return SlideRow(
            slide_id=slide_id,
            asked=asked,
            done=done if asked is None else min(done, asked),
            failed=sum(slide == slide_id for slide, _ in self.given_up),
            cells={t: sum(event.facts.get(t, 0) for event in events) for t in CELL_TYPES},
            median_s=statistics.median(e.facts["seconds"] for e in events) if events else None,
        )

    def _done_before_and_since(self, slide_id: str, events: Sequence[Event]) -> Iterator[int]:
        """Tiles by what each process found done of its share at its begin, and all lines since: at least.

        That is more than the lines alone when a process was killed between a part and its line.
        """
        for journal in self.journals:
            share = shares_of(journal).get(slide_id)
            if share is not None:
                yield share["done"] + sum(event.at_s >= journal.events[0].at_s for event in events)


def tile_of(event: Event) -> TileKey:
    """The tile that a line is about."""
    return event.facts["slide_id"], event.facts["tile_id"]


def shares_of(journal: Journal) -> Mapping[str, Mapping[str, int]]:
    """A process's share of the run: tiles asked for, and done at its begin, by slide."""
    shares: Mapping[str, Mapping[str, int]] = journal.origin.get("slides", {})
    return shares


def host_of(journal: Journal) -> str:
    """The machine that a process ran on."""
    return str(journal.origin.get("host", "?"))


def moment_text(at_s: float) -> str:
    """A moment as the page writes it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
