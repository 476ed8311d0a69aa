"""How a run went, on one page made from the journals of its processes alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mkhspc.cluster.summary import series
from mkhspc.cluster.summary.facts import Fact, key_facts, state_of_run
from mkhspc.cluster.summary.record import RunRecord, SlideRow, StateOf, moment_text
from mkhspc.cluster.summary.rows import (
    SHOWN_FAILURES,
    FailureRow,
    ProcessRow,
    failure_rows,
    process_row,
    setting_rows,
    slowest_tiles,
    version_rows,
)
from mkhspc.progress import Journal
from mkhspc.resources import render
from mkhspc.store import atomic
from mkhspc.store.layout import is_simulated

PAGE = "run-summary.html"
"""Name of the page, in the folder of the run's journals."""


def write_run_summary(
    logs: Path,
    journals: Sequence[Journal],
    now_s: float,
    state_of: StateOf = Journal.state,
    *,
    left_out: Sequence[str] = (),
) -> Path | None:
    """Writes `run-summary.html` into a run's folder of journals.

    Args:
        now_s: decides, for `state_of`, which processes are still at work.
        state_of: judges by journals alone, unless somebody can look for the processes too.
        left_out: what has left the study, a line each.

    Returns:
        The page's path, or None when there is no journal, so nothing to show.
    """
    if not journals:
        return None
    page = RunPage(journals, now_s, state_of)
    html = render("run_summary.html", page=page, charts=_pictures(page), left_out=left_out)
    atomic.write_text(logs / PAGE, html, within=logs)
    return logs / PAGE


def _pictures(page: RunPage) -> Mapping[str, str]:
    """The charts by theme, as sources of images; nothing where there is nothing to draw."""
    if not (page.throughput or page.memory or page.workers):
        return {}
    # Where a node lets it keep no files, matplotlib says so at length, amid what a run has to say.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from mkhspc.charts import THEMES, data_uri  # matplotlib is large: a run loads it when its work is done
    from mkhspc.cluster.summary.plots import run_png

    shown = page.timeline, page.throughput, page.memory, page.workers
    pictures = {name: run_png(*shown, theme) for name, theme in THEMES.items()}
    return {name: data_uri(png) for name, png in pictures.items() if png is not None}


class RunPage:
    """What the page shows: the template's names are its attributes.

    Args:
        journals: of all processes, by their begin; at least one, and none without an event.
    """

    def __init__(self, journals: Sequence[Journal], now_s: float, state_of: StateOf = Journal.state) -> None:
        self._run = run = RunRecord(journals, now_s, state_of)
        self.dataset = str(run.latest.get("dataset", "?"))
        self.config_hash = str(run.latest.get("config_hash", "?"))
        self.made_at = moment_text(now_s)
        self.timeline = run.timeline

    @property
    def is_simulated(self) -> bool:
        return any(is_simulated(row.slide_id) for row in self.slides)

    @property
    def slides(self) -> tuple[SlideRow, ...]:
        return self._run.slides

    @property
    def unheard_tiles(self) -> int:
        """Tiles that are done although no line says so; their cells are not in the sums."""
        return sum(row.done for row in self.slides) - len(self._run.done)

    @property
    def state(self) -> Fact:
        return state_of_run(self._run)

    @property
    def facts(self) -> tuple[Fact, ...]:
        return key_facts(self._run)

    @cached_property
    def throughput(self) -> series.Throughput | None:
        return series.throughput(self.timeline, self._run.journals)

    @cached_property
    def memory(self) -> series.Memory | None:
        return series.memory(self.timeline, self._run.journals)

    @cached_property
    def workers(self) -> series.Points:
        return series.workers(self.timeline, self._run.ends_s, self._run.journals)

    @property
    def slowest(self) -> list[Mapping[str, Any]]:
        return slowest_tiles(self._run)

    @property
    def failures(self) -> list[FailureRow]:
        return failure_rows(self._run)

    @property
    def hidden_failures(self) -> int:
        return max(0, len(self._run.failures) - SHOWN_FAILURES)

    @property
    def processes(self) -> list[ProcessRow]:
        """A row for each process, by its begin."""
        return [process_row(self._run, journal) for journal in self._run.journals]

    @property
    def settings(self) -> list[tuple[str, str]]:
        return setting_rows(self._run)

    @property
    def versions(self) -> list[tuple[str, str]]:
        return version_rows(self._run)
